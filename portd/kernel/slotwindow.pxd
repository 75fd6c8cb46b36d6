# cython: language_level=3
"""What one node of a cluster gets in one go, and what it does not get; the methods are in ``slotwindow.pyx``."""

from libc.stdint cimport int32_t, int64_t, uint8_t


cdef enum:
    NONE = -1  # of positions; the slot of an entry that went to another window


cdef struct Entry:  # a command, or a part of one
    Py_ssize_t begin  # in the data
    Py_ssize_t size  # 0: it is left out, or there is nothing but its record
    int64_t offset  # of its first byte, as the source counts
    int64_t behind  # position behind it
    int32_t slot
    int32_t next  # of the same slot
    bint counts  # as a command of the source


cdef struct Transaction:
    int32_t slot
    int32_t first  # entry
    int32_t last
    int32_t count
    int64_t behind  # what the record says
    int64_t reply  # number of its first one


cdef class Window:
    cdef uint8_t* data
    cdef Py_ssize_t used
    cdef Py_ssize_t capacity
    cdef Entry* list
    cdef Py_ssize_t count
    cdef Py_ssize_t room
    cdef Transaction* groups
    cdef readonly Py_ssize_t transactions
    cdef readonly Py_ssize_t commands
    cdef readonly Py_ssize_t kept
    cdef readonly int64_t floor
    cdef readonly dict owed

    cdef uint8_t* _room_for(self, Py_ssize_t size) except NULL
    cdef int _add(self, Py_ssize_t size, int slot, int64_t offset, int64_t behind, bint counts, int64_t floor) noexcept
    cdef Transaction* _group(self, int slot) except NULL
    cdef Entry* _entry(self, int slot, int64_t number) except NULL


cdef class Gap:
    cdef readonly bint open
    cdef readonly Py_ssize_t entries
    cdef readonly int64_t floor

    cdef int _note(self, int64_t floor) noexcept
