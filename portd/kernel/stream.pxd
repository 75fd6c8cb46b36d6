# cython: language_level=3
"""The splitter's states and what it remembers; the methods are in ``stream.pyx``, the contract in ``stream.pyi``."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from portd.kernel.edit cimport Editor
from portd.kernel.piecebuffer cimport Cut, PieceBuffer
from portd.kernel.scripts cimport ScriptNotes


cdef struct Tally:  # what is known behind the last command consumed; copied to go back to an earlier one
    int64_t db
    bint in_transaction
    bint swaps
    bint getack
    bint moves
    bint overdue
    int64_t postponed
    int64_t commands  # of the source, without MULTI and EXEC
    int64_t filtered
    int64_t excluded
    int64_t transactions  # EXECs


cdef struct Scan:  # the command at the head as far as it was looked at; indexes count from the head
    Py_ssize_t next  # where the next header begins
    int64_t argc  # 0: its header was not read
    int64_t done  # arguments before ``next``
    Py_ssize_t name
    Py_ssize_t name_size


cdef class Piece:
    cdef readonly bytes data
    cdef readonly Py_ssize_t replies
    cdef readonly bytes offsets
    cdef readonly int64_t end_offset
    cdef readonly int64_t db
    cdef readonly bint boundary
    cdef readonly bint part
    cdef readonly int64_t filtered
    cdef readonly bint swaps
    cdef readonly bint getack
    cdef readonly bint moves
    cdef readonly bint overdue
    cdef readonly int64_t postponed
    cdef readonly tuple bodies
    cdef readonly tuple loaded
    cdef readonly tuple digests
    cdef readonly bint flushed


cdef class StreamSplitter:
    cdef PieceBuffer buffer
    cdef Editor editor
    cdef ScriptNotes scripts
    cdef Scan scan
    cdef Tally tally
    cdef Tally totals  # of the pieces handed out; its state fields mean nothing
    cdef bint postpones
    cdef bint entries_read  # the target knows it
    cdef bint unlink  # the target knows it, and lets us
    cdef int64_t selected  # database that the SELECT at the head names
    # before the MULTI of a transaction that was opened in this piece, if one was
    cdef bint marked
    cdef Cut marked_cut
    cdef Tally marked_tally
    cdef Py_ssize_t after_multi  # window index behind that MULTI
    # offsets of commands to leave out, ascending
    cdef int64_t* exclusions
    cdef Py_ssize_t exclusion_count
    cdef Py_ssize_t exclusion_capacity

    cdef Piece _end_piece(self)
    cdef int _gather(self, Py_ssize_t start, Py_ssize_t max_bytes, Py_ssize_t max_commands) except -1
    cdef int _take(self) except -1
    cdef int _unlink(self) except -1
    cdef int _take_whole(self, int kind) except -1
    cdef int _take_large(self) except -1
    cdef int _edit(self, int kind) except -1
    cdef int _begin_edit(self, int kind, bint large) except -1
    cdef int _go_on(self, Py_ssize_t limit) except -1

    cdef int _scan_command(self) noexcept
    cdef int _note_name(self, Py_ssize_t index, uint64_t size) noexcept
    cdef int _bad_command(self, int why) noexcept
    cdef object _error(self)

    cdef int _kind_at_head(self, bint large) noexcept
    cdef int _decide(self, int kind, bint large) noexcept
    cdef int _decide_by_first(self, int kind, bint large) noexcept
    cdef bint _sets_expiry(self) noexcept
    cdef const uint8_t* _arguments(self) noexcept
    cdef bint _first_argument(self, const uint8_t** start, Py_ssize_t* size) noexcept
    cdef bint _is_excluded(self, int64_t offset) noexcept
    cdef void _forget_exclusions(self, int64_t offset) noexcept
