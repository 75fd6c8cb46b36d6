# cython: language_level=3
"""Keys that are owed to the target; the methods are in ``owed.pyx``."""

from libc.stdint cimport int64_t, uint8_t


cdef class Owed:
    cdef dict keys  # by database and name, as the source has them: offset of the last command that was left out for it
    cdef dict told  # of them, those that were copied at the source: its offset then; ANY: at whatever offset
    cdef frozenset held  # of them, those for which nothing more may be left out
    cdef dict marked  # ``keys`` before the transaction that was opened last
    cdef list fresh  # of them, those that became so since that was asked for, in their order: offset of the command, and the key
    cdef Py_ssize_t marked_fresh  # of these, how many there were before that transaction
    cdef readonly Py_ssize_t count
    cdef Py_ssize_t size  # bytes of their names
    cdef Py_ssize_t most_keys
    cdef Py_ssize_t most_bytes  # of their names
    cdef int64_t least  # no copy from before this offset is good
    cdef int64_t due_at  # the lowest offset in ``told``
    cdef int64_t at  # offset of the first byte of the command that is looked at
    cdef bint met  # it names one of them
    cdef bint waits  # and one that is held
    cdef dict before  # of those that are held: their offsets before that command
    cdef str text  # None: to be made anew

    cdef int part(self) except -1
    cdef int read(self, str text, int64_t offset) except -1
    cdef str write(self)
    cdef int look(self, int64_t offset) noexcept
    cdef bint meet(self, int64_t db, const uint8_t* key, Py_ssize_t size) except -1
    cdef int undo(self) except -1
    cdef bint add(self, int64_t db, const uint8_t* key, Py_ssize_t size) except -1
    cdef int touch_all(self) except -1
    cdef int swap(self, int64_t one, int64_t other, int64_t at) except -1
    cdef int mark(self) except -1
    cdef int back(self) except -1
    cdef bint tell(self, tuple key, int64_t offset) except -1
    cdef int forget(self) except -1
    cdef tuple due(self, int64_t offset)
    cdef int settle(self, tuple key) except -1
    cdef tuple take_fresh(self)
    cdef int _changed(self) except -1
    cdef int _look_due(self) except -1
