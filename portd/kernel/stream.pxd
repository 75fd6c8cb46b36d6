# cython: language_level=3
"""The splitter's states and what it remembers; the methods are in ``stream.pyx``, the contract in ``stream.pyi``."""

from libc.stdint cimport int64_t

from portd.kernel.edit cimport Editor
from portd.kernel.keypositions cimport Ours
from portd.kernel.leftout cimport Exclusions, LeftOut
from portd.kernel.scan cimport CommandScanner
from portd.kernel.piecebuffer cimport Cut


cdef enum Reason:  # why a command is refused
    LACKS
    NAMES_OURS
    WAITS
    UNKNOWN


cdef struct Tally:  # what is known behind the last command consumed; copied to go back to an earlier one
    int64_t db
    bint in_transaction
    bint lacking  # the target does not have that database
    bint swaps
    bint getack
    bint moves
    bint overdue
    int64_t postponed
    int64_t commands  # of the source, without MULTI and EXEC
    int64_t filtered
    int64_t excluded
    int64_t refused
    int64_t own  # that named keys of ours
    int64_t transactions  # EXECs


cdef class Piece:
    cdef readonly bytes data
    cdef readonly Py_ssize_t replies
    cdef readonly bytes offsets
    cdef readonly int64_t end_offset
    cdef readonly int64_t db
    cdef readonly bint boundary
    cdef readonly bint part
    cdef readonly int64_t filtered
    cdef readonly int64_t own
    cdef readonly int64_t refused
    cdef readonly tuple refusals
    cdef readonly frozenset names
    cdef readonly frozenset databases
    cdef readonly bint swaps
    cdef readonly bint getack
    cdef readonly bint moves
    cdef readonly bint overdue
    cdef readonly int64_t postponed


cdef class StreamSplitter(CommandScanner):
    cdef Editor editor
    cdef Tally tally
    cdef Tally totals  # of the pieces handed out; its state fields mean nothing
    cdef bint postpones
    cdef bint entries_read  # the target knows it
    cdef bint unlink  # the target knows it, and lets us
    cdef LeftOut left_out
    cdef Exclusions excluded
    cdef int64_t databases  # of the target; 0: not known
    cdef frozenset lacking  # those it does not have beside
    cdef bint stops  # a piece ends before a refused command
    cdef Reason reason  # why the command at the head is refused
    # names that are ours alone: none begins in the stream between the head and offset ``ours_at``; there one does if found
    cdef bytes own
    cdef Ours ours
    cdef int64_t ours_at
    cdef bint ours_found
    cdef int64_t selected  # database that the SELECT or SWAPDB at the head names
    cdef int64_t swapped  # the other one of that SWAPDB
    cdef Py_ssize_t start  # window index where the piece begins
    # before the MULTI of a transaction that was opened in this piece, if one was
    cdef bint marked
    cdef Cut marked_cut
    cdef Tally marked_tally
    cdef Py_ssize_t after_multi  # window index behind that MULTI

    cdef Piece _end_piece(self)
    cdef int _gather(self, Py_ssize_t start, Py_ssize_t max_bytes, Py_ssize_t max_commands) except -1
    cdef int _take(self) except -1
    cdef int _unlink(self) except -1
    cdef int _take_whole(self, int kind) except -1
    cdef int _discard(self, Py_ssize_t end) except -1
    cdef int _spare(self) except -1
    cdef bint _stops_before(self) noexcept
    cdef int _take_large(self) except -1
    cdef int _edit(self, int kind) except -1
    cdef int _begin_edit(self, int kind, bint large) except -1
    cdef int _go_on(self, Py_ssize_t limit) except -1

    cdef int _note(self, int kind) except -1
    cdef int _count(self, int kind) noexcept
    cdef object _error(self)

    cdef int _kind_at_head(self, bint large) noexcept
    cdef int _refuse(self, Reason reason) noexcept
    cdef bint _lacks(self, int64_t db) noexcept
    cdef bint _may_name_ours(self, Py_ssize_t end) noexcept
    cdef int _decide_ours(self, int kind, int keys, bint large) noexcept
    cdef int _decide(self, int kind, bint large) noexcept
    cdef int _decide_swap(self, bint large) noexcept
    cdef int _decide_by_first(self, int kind, bint large) noexcept
    cdef bint _sets_expiry(self) noexcept
