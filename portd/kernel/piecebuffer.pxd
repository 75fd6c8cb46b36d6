# cython: language_level=3
"""The window in which stream bytes wait, and the piece that is cut from it; the methods are in ``piecebuffer.pyx``."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from portd.kernel.resp cimport LINE_CUT, LINE_LONG, LINE_READ, read_length


cdef enum Status:
    MORE = 1  # bytes are missing
    EMPTY  # bytes that are no command, and that a replica passes over
    WHOLE  # a command, or what was asked for of it, was read
    LARGE  # the command is larger than a piece; its name is here
    FULL  # the piece is as large as it may be
    BAD  # the bytes are wrong; ``bad_why`` and ``bad_offset`` say why and where


cdef enum Why:  # what is wrong with them
    NOT_A_COMMAND
    NOT_AN_ARGUMENT
    NOT_A_LENGTH
    NO_LINE_END
    TOO_MANY_ARGUMENTS
    ARGUMENT_TOO_LARGE
    NAME_TOO_LONG
    LATE_DISCARD
    NOT_A_DATABASE
    NO_DATABASE
    SELECT_EXCLUDED
    NOT_A_TIME
    SWAP_RULED


cdef struct Cut:  # how far the piece has got; copied to go back to an earlier command
    Py_ssize_t head  # window index of the first byte not consumed
    Py_ssize_t run  # window index where bytes begin that go on but are not in the output yet; -1: there are none
    Py_ssize_t used  # bytes in the output
    Py_ssize_t replies  # commands that end in the piece, = offsets stored


cdef struct Received:  # bytes of the window up to index ``end`` came at unix time ``ms``
    Py_ssize_t end
    int64_t ms


cdef class PieceBuffer:
    cdef Py_ssize_t piece_bytes
    cdef uint64_t max_argument
    cdef int bad_why
    cdef int64_t bad_offset
    # bytes [cut.head, tail) of the window are waiting; window[tail] is 0 and ``SLACK`` bytes behind are readable
    cdef uint8_t* window
    cdef Py_ssize_t capacity
    cdef Py_ssize_t tail
    cdef int64_t base  # replication offset of the byte before window[0]
    cdef Received received[64]
    cdef int received_count
    # the piece: an open run of the window behind the output
    cdef Cut cut
    cdef uint8_t* output
    cdef Py_ssize_t output_capacity
    cdef uint64_t* offsets  # of the commands that end in the piece: their first byte's
    cdef Py_ssize_t offsets_capacity

    cdef int bad(self, int why, Py_ssize_t index) noexcept
    cdef object error(self, int64_t db)
    cdef bint line_ends(self, Py_ssize_t index) noexcept

    cdef Py_ssize_t fill(self, object data, int64_t now_ms) except -1
    cdef Py_ssize_t _make_room(self, Py_ssize_t wanted) noexcept
    cdef void _note_received(self, Py_ssize_t size, int64_t now_ms) noexcept
    cdef int64_t received_at(self, Py_ssize_t index) noexcept
    cdef void forget_received(self, bint waiting) noexcept

    cdef int skip(self, Py_ssize_t end) except -1
    cdef int append(self, const void* data, Py_ssize_t size) except -1
    cdef int write_head(self, int64_t argc, const char* name) except -1
    cdef int write_argument(self, const void* data, Py_ssize_t size) except -1
    cdef int write_word(self, const char* word) except -1
    cdef int write_number(self, int64_t number) except -1
    cdef int write_negative(self, int64_t number) except -1
    cdef int _append_header(self, char mark, int64_t number) except -1
    cdef int grow_offsets(self) except -1
    cdef void begin_piece(self) noexcept
    cdef bytes take_data(self)
    cdef Py_ssize_t owned(self) noexcept


cdef inline void keep(PieceBuffer buffer, Py_ssize_t end) noexcept:
    """Consumes bytes of the window up to *end*; they go on."""
    if buffer.cut.run < 0:
        buffer.cut.run = buffer.cut.head
    buffer.cut.head = end


cdef inline Py_ssize_t produced(PieceBuffer buffer) noexcept:
    """Bytes of the piece so far."""
    return buffer.cut.used + (buffer.cut.head - buffer.cut.run if buffer.cut.run >= 0 else 0)


cdef inline int count_reply(PieceBuffer buffer, int64_t offset) except -1:
    """Counts a command that ends in this piece and began at *offset*."""
    if buffer.cut.replies == buffer.offsets_capacity:
        buffer.grow_offsets()
    buffer.offsets[buffer.cut.replies] = <uint64_t> offset
    buffer.cut.replies += 1
    return 0


cdef inline int read_header(PieceBuffer buffer, uint8_t mark, const uint8_t** cursor, uint64_t* value) noexcept:
    """Reads ``<mark><digits>CRLF`` at *cursor* and moves it behind: WHOLE, MORE or BAD; *value* is within the limit."""
    cdef const uint8_t* end = buffer.window + buffer.tail
    cdef const uint8_t* p = cursor[0]
    cdef int line
    if p >= end:
        return MORE
    if p[0] != mark:
        return buffer.bad(NOT_A_COMMAND if mark == c"*" else NOT_AN_ARGUMENT, p - buffer.window)
    p += 1
    line = read_length(&p, end, value)
    if line == LINE_READ and (mark == c"*" or value[0] <= buffer.max_argument):
        cursor[0] = p
        return WHOLE
    if line == LINE_CUT:
        return MORE
    if line == LINE_READ or line == LINE_LONG:
        return buffer.bad(TOO_MANY_ARGUMENTS if mark == c"*" else ARGUMENT_TOO_LARGE, cursor[0] - buffer.window)
    return buffer.bad(NOT_A_LENGTH, cursor[0] - buffer.window)
