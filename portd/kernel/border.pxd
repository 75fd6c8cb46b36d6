# cython: language_level=3
"""Slots that are, or may be, of other links as well; the methods are in ``border.pyx``."""

from libc.stdint cimport int64_t


cdef class Border:
    cdef dict shared  # slots of this link and of others: offset up to which their commands pass
    cdef Py_ssize_t count  # of them
    cdef dict since  # slots that came to this link: offset up to which their commands are none of its
    cdef dict awaited  # slots that are to come to this link: offset up to which their commands are left out
    cdef readonly int64_t until  # up to there, commands of slots that never were this link's are left out
    cdef readonly int64_t emptied  # offset of the last command that emptied slots, and did not wait; -1: there was none
    cdef readonly int64_t at  # offset of the first byte of the command that is looked at
    cdef readonly bint waits
    cdef readonly int64_t slot
    cdef readonly bint brings  # the command is one that only a slot on its way here has
    cdef readonly bint begins  # it says that slots begin to come here in one step
    cdef readonly bint ends  # it says that the node has no key of slots any more
    cdef readonly frozenset named  # which
    cdef readonly dict began  # slots that came here so, or begin to: offset of the word that said so
    cdef readonly dict over  # slots of which the node has no key any more: offset of the word that said so
    cdef int64_t heard  # offset up to which such words do not stop the splitter any more

    cdef int look(self, int64_t offset, bint brings) noexcept
    cdef bint meet(self, int64_t slot, bint own) except -1
    cdef bint meet_all(self) noexcept
    cdef bint meet_flush(self, int64_t slot, bint own) except -1
    cdef bint begin(self, list slots) except -1
    cdef list end(self, list slots)
    cdef bint _stops_at(self, list slots) except -1
