# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The window in which stream bytes wait, and the piece that is cut from it.

Bytes go on as they came wherever that is possible: the piece is an open run of the window, and only where something is
left out or written instead are the bytes before it copied to the output. Both are bounded by the piece size and
allocated so that tracemalloc sees them. What is left out and what is written is decided in ``stream.pyx``.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.string cimport memcpy, memmove, strlen

from portd.kernel.resp cimport SLACK, print_number

from portd.errors import DecodeError, LimitExceeded


cdef enum:
    HEAD_ROOM = 4096  # window bytes beyond two pieces: the headers and small arguments that must be whole
    RECEIVED = 64  # times of receipt that are told apart while their bytes wait
    LEAST_OUTPUT = 4096
    LEAST_OFFSETS = 256


cdef str RESYNC = "the position resumed from was no command boundary, or bytes changed on the way: sync again"
cdef dict WHYS = {
    NOT_A_COMMAND: ("unexpected byte where a command should begin", RESYNC),
    NOT_AN_ARGUMENT: ("unexpected byte where an argument should begin", RESYNC),
    NOT_A_LENGTH: ("malformed length", RESYNC),
    NO_LINE_END: ("an argument does not end where it was announced to", RESYNC),
    TOO_MANY_ARGUMENTS: ("more arguments than any server takes", RESYNC),
    ARGUMENT_TOO_LARGE: (
        "argument larger than the limit",
        "raise proto-max-bulk-len at the target to what it is at the source, and start again: nothing is lost",
    ),
    NAME_TOO_LONG: ("command name longer than any known", RESYNC),
    LATE_DISCARD: (
        "DISCARD of a transaction whose beginning has gone on already",
        "no server sends it: look at what the source was fed, and start again: the transaction is left out then",
    ),
    NOT_A_DATABASE: ("malformed SELECT", RESYNC),
    NO_DATABASE: ("a command before any SELECT, and no database is known", "sync again"),
    SELECT_EXCLUDED: (
        "a SELECT was refused, what follows would land in another database",
        "give the target as many databases as the source has",
    ),
    NOT_A_TIME: ("an expiry is not a number", RESYNC),
    SWAP_RULED: (
        "a SWAPDB of databases that rules or a mapping treat differently: it cannot be followed",
        "start again with --full-sync: the snapshot is of behind it",
    ),
}
cdef frozenset LIMITS = frozenset((TOO_MANY_ARGUMENTS, ARGUMENT_TOO_LARGE, NAME_TOO_LONG))


@cython.final
cdef class PieceBuffer:
    def __cinit__(self, int64_t offset, Py_ssize_t piece_bytes, uint64_t max_argument):
        self.piece_bytes = piece_bytes
        self.max_argument = max_argument
        self.capacity = 2 * piece_bytes + HEAD_ROOM
        self.window = <uint8_t*> PyMem_Malloc(self.capacity + SLACK)
        if self.window == NULL:
            raise MemoryError
        self.window[0] = 0
        self.base = offset
        self.cut.run = -1

    def __dealloc__(self):
        PyMem_Free(self.window)
        PyMem_Free(self.output)
        PyMem_Free(self.offsets)

    cdef Py_ssize_t owned(self) noexcept:
        """Bytes allocated."""
        return self.capacity + SLACK + self.output_capacity + self.offsets_capacity * <Py_ssize_t> sizeof(uint64_t)

    # ------------------------------------------------------------------------------------------------------ the window

    cdef int bad(self, int why, Py_ssize_t index) noexcept:
        """Notes what is wrong with the byte at window *index*."""
        self.bad_why = why
        self.bad_offset = self.base + index + 1
        return BAD

    cdef object error(self, int64_t db):
        """What ``bad`` noted, as an error to raise."""
        message, hint = WHYS[self.bad_why]
        kind = LimitExceeded if self.bad_why in LIMITS else DecodeError
        return kind(message, offset=self.bad_offset, db=db, hint=hint)

    cdef bint line_ends(self, Py_ssize_t index) noexcept:
        """Whether CRLF stands at window *index*."""
        if self.window[index] == c"\r" and self.window[index + 1] == c"\n":
            return True
        self.bad(NO_LINE_END, index)
        return False

    cdef Py_ssize_t fill(self, object data, int64_t now_ms) except -1:
        """Copies as much of *data* as fits; how many bytes that was."""
        cdef Py_buffer view
        cdef Py_ssize_t size
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        size = min(view.len, self._make_room(view.len))
        memcpy(self.window + self.tail, view.buf, size)
        PyBuffer_Release(&view)
        self.tail += size
        self.window[self.tail] = 0  # ends a number that is cut here
        if size > 0:
            self._note_received(size, now_ms)
        return size

    cdef Py_ssize_t _make_room(self, Py_ssize_t wanted) noexcept:
        """Bytes free at the tail, after moving what waits to the front if that is worth it.

        Unless a quarter of the window was consumed it is not: what waits is then more than a piece needs, so the next
        piece can be cut without new bytes.
        """
        cdef Py_ssize_t shift = self.cut.head
        cdef int i
        if self.capacity - self.tail < wanted and shift > 0 and (shift == self.tail or shift >= self.capacity // 4):
            memmove(self.window, self.window + shift, self.tail - shift)
            self.tail -= shift
            self.base += shift
            self.cut.head = 0
            for i in range(self.received_count):
                self.received[i].end -= shift
        return self.capacity - self.tail

    cdef void _note_received(self, Py_ssize_t size, int64_t now_ms) noexcept:
        """Remembers when the last *size* bytes came; more times than fit take the one before them."""
        cdef int last = self.received_count - 1
        if last >= 0 and (self.received[last].ms == now_ms or last == RECEIVED - 1):
            self.received[last].end += size
        else:
            self.received[last + 1].end = self.tail
            self.received[last + 1].ms = now_ms
            self.received_count += 1

    cdef int64_t received_at(self, Py_ssize_t index) noexcept:
        """Unix time in ms at which the byte at *index* came."""
        cdef int i = 0
        while i < self.received_count - 1 and self.received[i].end <= index:
            i += 1
        return self.received[i].ms

    cdef void forget_received(self, bint waiting) noexcept:
        """Drops the times of bytes that were consumed.

        Args:
            waiting: all bytes in the window belong to the command at the head: only the time of its first one counts.
        """
        cdef int kept = 0
        cdef int i
        for i in range(self.received_count):
            if self.received[i].end > self.cut.head:
                self.received[kept] = self.received[i]
                kept += 1
                if waiting:
                    self.received[0].end = self.tail
                    break
        self.received_count = kept

    # ------------------------------------------------------------------------------------------------------- the piece

    cdef void begin_piece(self) noexcept:
        self.cut.run = -1
        self.cut.used = 0
        self.cut.replies = 0

    cdef bytes take_data(self):
        """The bytes of the piece; it is over then."""
        cdef bytes data
        if self.cut.used == 0 and self.cut.run >= 0:
            data = PyBytes_FromStringAndSize(<char*> self.window + self.cut.run, self.cut.head - self.cut.run)
        else:
            self.skip(self.cut.head)
            data = PyBytes_FromStringAndSize(<char*> self.output, self.cut.used)
        if self.output_capacity > 2 * self.piece_bytes:  # grown by one large edited command
            PyMem_Free(self.output)
            self.output = NULL
            self.output_capacity = 0
        self.cut.run = -1
        self.cut.used = 0
        return data

    cdef int skip(self, Py_ssize_t end) except -1:
        """Consumes bytes of the window up to *end*; they do not go on."""
        cdef Py_ssize_t run = self.cut.run
        if run >= 0:
            self.cut.run = -1
            self.append(self.window + run, self.cut.head - run)
        self.cut.head = end
        return 0

    cdef int append(self, const void* data, Py_ssize_t size) except -1:
        """Adds bytes to the output; no run is open."""
        cdef Py_ssize_t wanted = self.cut.used + size
        cdef uint8_t* grown
        if wanted > self.output_capacity:
            wanted = max(wanted, min(2 * self.output_capacity, self.piece_bytes), LEAST_OUTPUT)
            grown = <uint8_t*> PyMem_Realloc(self.output, wanted)
            if grown == NULL:
                raise MemoryError
            self.output = grown
            self.output_capacity = wanted
        if size > 0:  # of an empty argument there may be no pointer
            memcpy(self.output + self.cut.used, data, size)
            self.cut.used += size
        return 0

    cdef int write_head(self, int64_t argc, const char* name) except -1:
        """Writes the beginning of a command."""
        self.skip(self.cut.head)
        self._append_header(c"*", argc)
        return self.write_word(name)

    cdef int write_argument(self, const void* data, Py_ssize_t size) except -1:
        self.skip(self.cut.head)
        self._append_header(c"$", size)
        self.append(data, size)
        return self.append(<const char*> b"\r\n", 2)

    cdef int write_word(self, const char* word) except -1:
        return self.write_argument(word, <Py_ssize_t> strlen(word))

    cdef int write_number(self, int64_t number) except -1:
        cdef char text[20]
        cdef Py_ssize_t start = print_number(number, text, 20)
        return self.write_argument(text + start, 20 - start)

    cdef int write_negative(self, int64_t number) except -1:
        """Writes minus *number*, which is more than 0."""
        cdef char text[21]
        cdef Py_ssize_t start = print_number(number, text, 21) - 1
        text[start] = c"-"
        return self.write_argument(text + start, 21 - start)

    cdef int _append_header(self, char mark, int64_t number) except -1:
        cdef char text[24]
        cdef Py_ssize_t start = print_number(number, text, 22) - 1
        text[start] = mark
        text[22] = c"\r"
        text[23] = c"\n"
        return self.append(text + start, 24 - start)

    cdef int grow_offsets(self) except -1:
        cdef Py_ssize_t wanted = max(2 * self.offsets_capacity, LEAST_OFFSETS)
        cdef uint64_t* grown = <uint64_t*> PyMem_Realloc(self.offsets, wanted * sizeof(uint64_t))
        if grown == NULL:
            raise MemoryError
        self.offsets = grown
        self.offsets_capacity = wanted
        return 0
