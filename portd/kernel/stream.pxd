# cython: language_level=3
"""The splitter's states and what it remembers; the methods are in ``stream.pyx``, the contract in ``stream.pyi``."""

from libc.stdint cimport int64_t

from portd.kernel.decide cimport Tally
from portd.kernel.leftout cimport LeftOut
from portd.kernel.partly cimport PartTaker
from portd.kernel.piecebuffer cimport Cut
from portd.kernel.rename cimport Renamer
from portd.kernel.rewrite cimport Rewriter
from portd.kernel.scripts cimport ScriptNotes


cdef class Piece:
    cdef readonly bytes data
    cdef readonly Py_ssize_t replies
    cdef readonly bytes offsets
    cdef readonly int64_t end_offset
    cdef readonly int64_t db
    cdef readonly int64_t selected
    cdef readonly bint boundary
    cdef readonly bint part
    cdef readonly int64_t filtered
    cdef readonly int64_t own
    cdef readonly int64_t by_key
    cdef readonly int64_t by_database
    cdef readonly int64_t by_name
    cdef readonly int64_t by_copy
    cdef readonly str owed
    cdef readonly tuple owing
    cdef readonly tuple settled
    cdef readonly bint settles
    cdef readonly bint copied
    cdef readonly int64_t projected
    cdef readonly int64_t refused
    cdef readonly int64_t crossing
    cdef readonly object clears
    cdef readonly frozenset trims
    cdef readonly tuple refusals
    cdef readonly int64_t mixed
    cdef readonly frozenset names
    cdef readonly frozenset databases
    cdef readonly bint swaps
    cdef readonly bint getack
    cdef readonly bint moves
    cdef readonly bint overdue
    cdef readonly int64_t postponed
    cdef readonly int64_t lost
    cdef readonly int64_t unrecorded
    cdef readonly tuple bodies
    cdef readonly tuple loaded
    cdef readonly tuple digests
    cdef readonly bint flushed


cdef class StreamSplitter(PartTaker):
    cdef Rewriter rewriter
    cdef ScriptNotes scripts
    cdef Renamer renamer  # None: names and databases stay
    cdef Py_ssize_t most_bytes  # of a piece before it is renamed
    cdef Tally totals  # of the pieces handed out; its state fields mean nothing
    cdef LeftOut left_out
    cdef bint stops  # a piece ends before a refused command
    cdef int64_t gone  # what the caller must empty, as ``clears``; -2: nothing
    cdef Py_ssize_t start  # window index where the piece begins
    # before the MULTI of a transaction that was opened in this piece, if one was
    cdef Cut marked_cut
    cdef Tally marked_tally
    cdef Py_ssize_t after_multi  # window index behind that MULTI

    cdef Piece _end_piece(self)
    cdef int _gather(self, Py_ssize_t start, Py_ssize_t max_bytes, Py_ssize_t max_commands) except -1
    cdef int _take(self) except -1
    cdef int _unlink(self) except -1
    cdef int _take_as(self, int kind) except -1
    cdef int _rewrite(self, int kind) except -1
    cdef int _kind_without_form(self, int kind, bint large) noexcept
    cdef int _count_form(self) noexcept
    cdef int _take_whole(self, int kind) except -1
    cdef int _discard(self, Py_ssize_t end) except -1
    cdef int _clear(self) except -1
    cdef bint _stops_before(self) noexcept
    cdef int _take_large(self) except -1
    cdef int _begin_form(self, int kind) except -100
    cdef int _edit(self, int kind) except -1
    cdef int _begin_edit(self, int kind, bint large) except -1
    cdef int _go_on(self, Py_ssize_t limit) except -1

    cdef int _note(self, int kind, bint large) except -1
    cdef int _count(self, int kind) noexcept
    cdef int _count_scattered(self) noexcept
