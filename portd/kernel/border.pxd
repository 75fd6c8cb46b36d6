# cython: language_level=3
"""Slots that are, or may be, of other links as well; the methods are in ``border.pyx``."""

from libc.stdint cimport int64_t


cdef class Border:
    cdef dict shared  # slots of this link and of others: offset up to which their commands pass
    cdef Py_ssize_t count  # of them
    cdef dict since  # slots that came to this link: offset up to which their commands are none of its
    cdef dict awaited  # slots that are to come to this link: offset up to which their commands are left out
    cdef readonly int64_t until  # up to there, commands of slots that never were this link's are left out
    cdef readonly int64_t at  # offset of the first byte of the command that is looked at
    cdef readonly bint waits
    cdef readonly int64_t slot
    cdef readonly bint brings  # the command is one that only a slot on its way here has

    cdef int look(self, int64_t offset, bint brings) noexcept
    cdef bint meet(self, int64_t slot, bint own) except -1
    cdef bint meet_all(self) noexcept
