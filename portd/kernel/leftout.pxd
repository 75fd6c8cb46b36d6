# cython: language_level=3
"""What is said of a piece beside its bytes; see ``leftout.pyx``."""

from libc.stdint cimport int64_t

from portd.kernel.mapping cimport Mapping


cdef class Refusal:
    cdef readonly int64_t offset
    cdef readonly int64_t db
    cdef readonly str command
    cdef readonly bytes key
    cdef readonly int64_t source_db
    cdef readonly bytes source_key
    cdef readonly str code
    cdef readonly str reason


cdef class LeftOut:
    cdef list refusals
    cdef Py_ssize_t marked  # refusals before the transaction that was opened last
    cdef set names
    cdef set databases

    cdef int refuse(self, int64_t offset, int64_t db, bytes command, bytes key, str code, str reason, Mapping mapping) except -1
    cdef int filter(self, bytes command) except -1
    cdef int select(self, int64_t db) except -1
    cdef void mark(self) noexcept
    cdef int back(self) except -1
    cdef tuple take_refusals(self)
    cdef frozenset take_names(self)
    cdef frozenset take_databases(self)


cdef class Exclusions:
    cdef int64_t* offsets  # ascending
    cdef Py_ssize_t count
    cdef Py_ssize_t capacity

    cdef int add(self, int64_t offset) except -1
    cdef bint has(self, int64_t offset) noexcept
    cdef void forget(self, int64_t offset) noexcept
    cdef Py_ssize_t owned(self) noexcept
