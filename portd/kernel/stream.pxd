# cython: language_level=3
"""The splitter's states and what it owns; the methods are in ``stream.pyx``, the contract in ``stream.pyi``."""

from libc.stdint cimport int64_t, uint8_t, uint64_t


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
    WHOLE  # a command, or the rest of it, was read
    LARGE  # the command is larger than a piece, its name and the argument behind it are here
    FULL  # the piece is as large as it may be
    BAD  # the bytes are wrong; ``bad_index`` and ``bad_why`` say where and why


cdef struct Gathered:  # what the piece being built holds; copied to go back to an earlier command
    Py_ssize_t head  # window index of the first byte not consumed
    Py_ssize_t run  # window index where kept bytes begin that are not in the output yet; -1: there are none
    Py_ssize_t used  # bytes in the output
    Py_ssize_t replies  # commands in the piece, = offsets stored
    int64_t commands  # commands of the source consumed, without MULTI and EXEC
    int64_t filtered
    int64_t excluded
    int64_t transactions  # EXECs
    int64_t db
    bint in_transaction
    bint swaps
    bint getack


cdef struct Received:  # bytes of the window up to index ``end`` came at unix time ``ms``
    Py_ssize_t end
    int64_t ms


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
    # settings
    cdef Py_ssize_t piece_bytes
    cdef uint64_t max_argument
    cdef bint pxat

    # the window: bytes [gathered.head, tail) are waiting, window[tail] is 0
    cdef uint8_t* window
    cdef Py_ssize_t capacity
    cdef Py_ssize_t tail
    cdef Py_ssize_t after_multi  # window index behind the MULTI at ``mark``
    cdef int64_t base  # replication offset of the byte before window[0]
    cdef Received received[64]
    cdef int received_count

    # the command at the head, as far as it was scanned
    cdef Py_ssize_t scan  # window index of the next header
    cdef int64_t argc  # 0: its header was not read
    cdef int64_t scanned  # arguments before ``scan``
    cdef Py_ssize_t name
    cdef Py_ssize_t name_size
    cdef int64_t selected  # database that the SELECT at the head names
    cdef Py_ssize_t bad_index
    cdef int bad_why

    # the command that is passed on argument by argument, when ``kind`` is not -1
    cdef int kind
    cdef int64_t part_argc
    cdef int64_t part_index  # arguments done
    cdef int64_t part_offset
    cdef int64_t left  # bytes of the argument at the head that are still to come, CRLF included; 0: a header is next
    cdef int64_t now_ms  # when the command's first byte came
    cdef int64_t unit  # ms per unit if the next argument is a time to rewrite, otherwise 0
    cdef bint relative  # that time counts from ``now_ms``
    cdef bint ignores_next  # the next argument belongs to an option
    cdef bint late  # PEXPIREAT behind the command makes its expiry absolute
    cdef int64_t expires_at  # what that PEXPIREAT says; 0: it is not needed
    cdef uint8_t* key
    cdef Py_ssize_t key_size  # -1: not kept
    cdef Py_ssize_t key_capacity

    # the piece being built
    cdef Gathered gathered
    cdef Gathered mark  # before the MULTI of the transaction that was opened in this piece
    cdef bint marked
    cdef uint8_t* output
    cdef Py_ssize_t output_capacity
    cdef uint64_t* offsets
    cdef Py_ssize_t offsets_capacity

    # commands to leave out, ascending
    cdef int64_t* exclusions
    cdef Py_ssize_t exclusion_count
    cdef Py_ssize_t exclusion_capacity

    # totals of the pieces handed out
    cdef int64_t commands
    cdef int64_t filtered
    cdef int64_t excluded
    cdef int64_t transactions
    cdef int64_t relative_kept

    cdef Py_ssize_t _make_room(self, Py_ssize_t wanted) noexcept
    cdef void _note_received(self, Py_ssize_t size, int64_t now_ms) noexcept
    cdef int64_t _received_at(self, Py_ssize_t index) noexcept
    cdef void _forget_received(self, bint waiting) noexcept
    cdef int _bad(self, int why, Py_ssize_t index) noexcept
    cdef object _error(self)
    cdef inline int _header(self, const uint8_t** cursor, uint8_t mark, int wrong, uint64_t* value) noexcept
    cdef int _scan(self) noexcept
    cdef int _note_name(self, Py_ssize_t index, uint64_t size) noexcept
    cdef void _forget_scan(self) noexcept
    cdef int _kind_at_head(self, bint large) noexcept
    cdef bint _is_excluded(self, int64_t offset) noexcept
    cdef int _decide(self, int kind, bint large) noexcept
    cdef int _decide_by_first(self, int kind, bint large) noexcept
    cdef bint _first_argument(self, const uint8_t** start, Py_ssize_t* size) noexcept
    cdef bint _sets_expiry(self) noexcept
    cdef bint _restores_relative(self) noexcept
    cdef void _begin_piece(self) noexcept
    cdef Piece _end_piece(self)
    cdef int _gather(self, Py_ssize_t start, Py_ssize_t max_bytes, Py_ssize_t max_commands) except -1
    cdef int _take(self) except -1
    cdef int _edit(self, int kind) except -1
    cdef int _take_large(self) except -1
    cdef inline void _keep(self, Py_ssize_t end) noexcept
    cdef int _skip(self, Py_ssize_t end) except -1
    cdef int _close_run(self) except -1
    cdef int _append(self, const void* data, Py_ssize_t size) except -1
    cdef inline Py_ssize_t _produced(self) noexcept
    cdef inline int _push_offset(self, int64_t offset) except -1
    cdef int _begin(self, int kind, bint large) except -1
    cdef int _advance(self, Py_ssize_t limit) except -1
    cdef int _pass_bytes(self, Py_ssize_t limit) except -1
    cdef inline int _consume(self, Py_ssize_t end) except -1
    cdef inline bint _line_ends(self, Py_ssize_t index) noexcept
    cdef int _next_argument(self) except -1
    cdef inline bint _looks_at(self, uint64_t size) noexcept
    cdef int _look(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1
    cdef int _keep_key(self, Py_ssize_t payload, Py_ssize_t size) except -1
    cdef int _look_at_set_option(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1
    cdef int _look_at_getex_option(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1
    cdef int _look_at_time(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1
    cdef int _finish(self) except -1
    cdef int _replace_head(self, Py_ssize_t end, int64_t argc, const char* name) except -1
    cdef int _replace_word(self, Py_ssize_t end, const char* word) except -1
    cdef int _replace_number(self, Py_ssize_t end, int64_t number) except -1
    cdef int _emit_head(self, int64_t argc, const char* name) except -1
    cdef int _emit_word(self, const char* word) except -1
    cdef int _emit_number(self, int64_t number) except -1
    cdef int _emit_text(self, const char* format, int64_t number) except -1
