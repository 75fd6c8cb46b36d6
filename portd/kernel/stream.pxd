# cython: language_level=3
"""The splitter's states and what it remembers; the methods are in ``stream.pyx``, the contract in ``stream.pyi``."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from portd.kernel.piecebuffer cimport Cut, PieceBuffer


cdef enum Kind:  # what becomes of a command; those from SET on are edited argument by argument
    FORWARD = 0  # goes on as it came
    DROP  # left out and counted
    EXCLUDED  # left out because the caller said so
    REFUSE  # would change what our connection to the target is
    MULTI
    EXEC
    SELECT
    SWAPDB
    REPLCONF
    PUBLISH
    FUNCTION
    SET
    SETEX
    PSETEX
    GETEX
    EXPIRE
    PEXPIRE
    HEXPIRE
    HPEXPIRE
    RESTORE
    RESTORE_ASKING


cdef enum Status:
    MORE = 1  # bytes are missing
    WHOLE  # a command, or what was asked for of it, was read
    LARGE  # the command is larger than a piece; its name is here
    FULL  # the piece is as large as it may be
    BAD  # the bytes are wrong; ``bad_why`` and ``bad_offset`` say why and where


cdef struct Tally:  # what is known behind the last command consumed; copied to go back to an earlier one
    int64_t db
    bint in_transaction
    bint swaps
    bint getack
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


cdef struct Part:  # the command that is passed on argument by argument
    int kind  # -1: there is none
    int64_t argc
    int64_t index  # arguments done
    int64_t offset  # replication offset of its first byte
    int64_t left  # bytes of the argument at the head still to come, CRLF included; 0: a header is next
    int64_t now_ms  # when its first byte came
    int64_t unit  # ms per unit of the time to rewrite; 0: none was announced yet
    bint relative  # that time counts from ``now_ms``
    bint ignores_next  # the next argument belongs to an option
    bint late  # PEXPIREAT behind the command makes its expiry absolute
    int64_t expires_at  # unix ms to say behind the command; 0: nothing to say


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


cdef class StreamSplitter:
    cdef PieceBuffer buffer
    cdef uint64_t max_argument
    cdef bint pxat
    cdef Scan scan
    cdef Part part
    cdef Tally tally
    cdef Tally totals  # of the pieces handed out; its state fields mean nothing
    cdef int64_t relative_kept
    cdef int64_t selected  # database that the SELECT at the head names
    cdef int bad_why
    cdef int64_t bad_offset
    # before the MULTI of a transaction that was opened in this piece, if one was
    cdef bint marked
    cdef Cut marked_cut
    cdef Tally marked_tally
    cdef Py_ssize_t after_multi  # window index behind that MULTI
    # the key, for the PEXPIREAT of a ``late`` part
    cdef uint8_t* key
    cdef Py_ssize_t key_size  # -1: it was too large to keep
    cdef Py_ssize_t key_capacity
    # offsets of commands to leave out, ascending
    cdef int64_t* exclusions
    cdef Py_ssize_t exclusion_count
    cdef Py_ssize_t exclusion_capacity

    cdef Piece end_piece(self)
    cdef int gather(self, Py_ssize_t start, Py_ssize_t max_bytes, Py_ssize_t max_commands) except -1
    cdef int take(self) except -1
    cdef int take_whole(self, int kind) except -1
    cdef int take_large(self) except -1
    cdef int edit(self, int kind) except -1

    cdef int scan_command(self) noexcept
    cdef int note_name(self, Py_ssize_t index, uint64_t size) noexcept
    cdef int header(self, const uint8_t** cursor, uint8_t mark, uint64_t* value) noexcept
    cdef int bad(self, int why, Py_ssize_t index) noexcept
    cdef int bad_command(self, int why) noexcept
    cdef object error(self)

    cdef int kind_at_head(self, bint large) noexcept
    cdef int decide(self, int kind, bint large) noexcept
    cdef int decide_by_first(self, int kind, bint large) noexcept
    cdef bint first_argument(self, const uint8_t** start, Py_ssize_t* size) noexcept
    cdef bint sets_expiry(self) noexcept
    cdef bint restores_relative(self) noexcept
    cdef bint is_excluded(self, int64_t offset) noexcept
    cdef void forget_exclusions(self, int64_t offset) noexcept

    cdef int begin_part(self, int kind, bint large) except -1
    cdef int write_beginning(self, Py_ssize_t end) except -1
    cdef int advance(self, Py_ssize_t limit) except -1
    cdef int pass_bytes(self, Py_ssize_t limit) except -1
    cdef int consume(self, Py_ssize_t end) except -1
    cdef bint line_ends(self, Py_ssize_t index) noexcept
    cdef int next_argument(self) except -1
    cdef bint looks_at(self, uint64_t size) noexcept
    cdef int look(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1
    cdef int look_at_set_option(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1
    cdef int look_at_getex_option(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1
    cdef int look_at_time(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1
    cdef int keep_key(self, Py_ssize_t payload, Py_ssize_t size) except -1
    cdef int finish_part(self) except -1
