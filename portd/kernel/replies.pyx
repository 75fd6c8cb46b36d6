# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Counts the replies of a target without building them: RESP2 bytes in, numbers and the few replies that matter out.

Nearly all that a target answers is ``+OK``, ``+QUEUED`` or an integer, in long runs: ``_run`` counts those where they
lie. Everything else goes line by line through ``_line``. Bulk strings are skipped, arrays are counted; nothing is held
but the beginning of a line that was cut, and a value that was asked for.

Format: RESP2 as networking.c:addReply* write it.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

from collections import deque, namedtuple

from portd.errors import TargetError


cdef enum:
    DEPTH = 32  # nesting of arrays
    LINE = 64 * 1024  # bytes of a line, or of a value that was asked for
    TEXT = 512  # bytes of an error that are kept
    ELEMENTS = 16384  # errors noted inside of one array: a group of the stream has fewer commands
    DIGITS = 18  # of a length; more do not fit

MAX_DEPTH = DEPTH
MAX_LINE = LINE
MAX_TEXT = TEXT
MAX_ELEMENT_NOTES = ELEMENTS

Note = namedtuple("Note", ("reply", "element", "text"))

cdef uint32_t OK_LINE  # "OK\r\n"
cdef uint64_t QUEUED_LINE  # "QUEUED\r\n"
memcpy(&OK_LINE, <const char*> b"OK\r\n", 4)
memcpy(&QUEUED_LINE, <const char*> b"QUEUED\r\n", 8)


cdef inline const uint8_t* plain_end(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Behind the line, integer or bulk string at *p*; NULL when it is not whole, or needs a closer look."""
    cdef uint64_t size
    cdef const uint8_t* digits  # or text
    cdef uint8_t kind = p[0]
    p += 1
    if kind == c"+":
        digits = p
        while p < end and p[0] != c"\r" and p[0] != c"\n":
            p += 1
        if p - digits > LINE - 3:
            return NULL
    elif kind == c":":
        if p < end and p[0] == c"-":
            p += 1
        digits = p
        while p < end and c"0" <= p[0] <= c"9":
            p += 1
        if p == digits or p - digits > DIGITS:
            return NULL
    elif kind == c"$":
        digits = p
        size = 0
        while p < end and c"0" <= p[0] <= c"9":
            size = size * 10 + (p[0] - c"0")
            p += 1
            if p - digits > DIGITS:
                return NULL
        if p == digits or end - p < 2 or p[0] != c"\r" or p[1] != c"\n" or <uint64_t> (end - p - 2) < size:
            return NULL
        p += 2 + size
    else:
        return NULL
    return p + 2 if end - p >= 2 and p[0] == c"\r" and p[1] == c"\n" else NULL


@cython.final
cdef class ReplyCounter:
    cdef readonly int64_t replies
    cdef public int64_t unnoted  # the reader sets it back
    cdef readonly object notes
    cdef readonly dict values
    cdef object wanted  # reply numbers, ascending
    cdef int64_t next_wanted  # INT64_MAX when there is none
    cdef int64_t last_wanted
    # open arrays
    cdef int depth
    cdef int64_t remaining[32]
    cdef int64_t element  # elements done of the outermost one
    cdef int64_t noted  # errors noted inside of it
    # what was cut
    cdef int64_t skip  # bytes of a bulk string still to come, CRLF included
    cdef bytearray value  # of it, when it was asked for
    cdef uint8_t* line  # beginning of a line
    cdef Py_ssize_t line_size
    cdef Py_ssize_t line_capacity
    cdef str broken  # why it cannot go on

    def __cinit__(self):
        self.notes = deque()
        self.values = {}
        self.wanted = deque()
        self.next_wanted = INT64_MAX

    def __dealloc__(self):
        PyMem_Free(self.line)

    def want(self, int64_t reply):
        if reply < self.replies or (self.wanted and reply <= self.last_wanted):
            raise ValueError(f"reply {reply} has come, or is not behind those wanted already")
        self.wanted.append(reply)
        self.last_wanted = reply
        self.next_wanted = self.wanted[0]

    def feed(self, data):
        cdef int64_t before = self.replies
        cdef Py_buffer view
        if self.broken is None:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            try:
                self._feed(<const uint8_t*> view.buf, <const uint8_t*> view.buf + view.len)
            finally:
                PyBuffer_Release(&view)
        if self.broken is not None:
            raise TargetError(f"the target does not speak RESP: {self.broken}", hint="check host and port of the target")
        return self.replies - before

    def take_notes(self, int64_t first, int64_t end):
        cdef list taken = []
        cdef object notes = self.notes
        while notes:
            note = notes[0]
            if note[0] >= end:
                break
            notes.popleft()
            taken.append(note if first == 0 else tuple.__new__(Note, (note[0] - first, note[1], note[2])))
        return taken

    def statistics(self):
        return {
            "owned_bytes": self.line_capacity + (len(self.value) if self.value is not None else 0),
            "open_arrays": self.depth,
            "wanted": len(self.wanted),
            "notes": len(self.notes),
        }

    cdef int _feed(self, const uint8_t* p, const uint8_t* end) except -1:
        cdef const uint8_t* line_end
        if self.skip > 0:
            p = self._skip(p, end)
        elif self.line_size > 0 and p < end:
            p = self._join(p, end)
        while p < end and self.broken is None:
            p = self._run(p, end)
            if p == end:
                break
            line_end = <const uint8_t*> memchr(p, c"\n", end - p)
            if line_end == NULL:
                self._keep(p, end - p)
                break
            self._line(p, line_end + 1 - p)
            p = line_end + 1
            if self.skip > 0:
                p = self._skip(p, end)
        return 0

    cdef const uint8_t* _run(self, const uint8_t* p, const uint8_t* end) noexcept:
        """Counts plain replies up to one that is not whole, not plain or wanted; returns where that begins."""
        cdef int64_t room = self.remaining[self.depth - 1] if self.depth > 0 else self.next_wanted - self.replies
        cdef int64_t count = 0
        cdef const uint8_t* behind
        cdef uint32_t four = 0
        cdef uint64_t eight = 0
        while p < end and count < room:
            if p[0] == c"+" and end - p >= 9:
                memcpy(&four, p + 1, 4)
                if four == OK_LINE:
                    p += 5
                    count += 1
                    continue
                memcpy(&eight, p + 1, 8)
                if eight == QUEUED_LINE:
                    p += 9
                    count += 1
                    continue
            behind = plain_end(p, end)
            if behind == NULL:
                break
            p = behind
            count += 1
        if count > 0:
            self._complete(count)
        return p

    cdef void _complete(self, int64_t count) noexcept:
        """Counts replies that are complete at the current depth; not more than the array there has room for."""
        while self.depth > 0:
            if self.depth == 1:
                self.element += count
            self.remaining[self.depth - 1] -= count
            if self.remaining[self.depth - 1] > 0:
                return
            self.depth -= 1
            count = 1  # the array itself
        self.replies += count

    cdef int _line(self, const uint8_t* line, Py_ssize_t size) except -1:
        """Takes one whole line."""
        cdef uint8_t kind = line[0]
        cdef int64_t number = 0
        cdef bint is_wanted = self.depth == 0 and self.replies == self.next_wanted
        if size > LINE:
            return self._break("a line does not end")
        if size < 3 or line[size - 2] != c"\r":
            return self._break("a line does not end in CRLF")
        if kind == c"-":
            self._note(line + 1, size - 3, is_wanted)
        elif kind == c"+":
            if is_wanted:
                self._answer(PyBytes_FromStringAndSize(<char*> line + 1, size - 3))
        else:
            if kind != c":" and kind != c"$" and kind != c"*":
                return self._break("a reply begins with an unknown byte")
            if not self._read_number(line + 1, size - 3, &number) or (kind != c":" and number < -1):
                return self._break("a number is malformed")
            if kind != c":" and number >= 0:
                return self._open(number, is_wanted) if kind == c"*" else self._bulk(number, is_wanted)
            if kind != c":" and self.depth == 0:
                self.notes.append(Note(self.replies, -1, None))
            if is_wanted:
                self._answer(number if kind == c":" else None)
        self._complete(1)
        return 0

    cdef bint _read_number(self, const uint8_t* text, Py_ssize_t size, int64_t* number) noexcept:
        """A number of up to ``DIGITS`` digits, or 19 for the integers that have them."""
        cdef bint negative = size > 0 and text[0] == c"-"
        cdef Py_ssize_t i = 1 if negative else 0
        cdef uint64_t value = 0
        if i == size or size - i > 19:
            return False
        while i < size:
            if not c"0" <= text[i] <= c"9":
                return False
            value = value * 10 + (text[i] - c"0")
            i += 1
        if value > <uint64_t> INT64_MAX + (1 if negative else 0):
            return False
        number[0] = <int64_t> (0 - value if negative else value)  # -2**63 has no positive twin
        return True

    cdef int _open(self, int64_t count, bint is_wanted) except -1:
        """Begins an array."""
        if is_wanted:
            self._answer(count)
        if count == 0:
            self._complete(1)
            return 0
        if self.depth == DEPTH:
            return self._break("arrays are nested too deeply")
        if self.depth == 0:
            self.element = 0
            self.noted = 0
        self.remaining[self.depth] = count
        self.depth += 1
        return 0

    cdef int _bulk(self, int64_t size, bint is_wanted) except -1:
        """Begins a bulk string; ``_skip`` ends it."""
        if size > INT64_MAX // 2:
            return self._break("a number is malformed")
        if is_wanted:
            if size > LINE:
                return self._break("a value is longer than anything asked for")
            self.value = bytearray()
        self.skip = size + 2
        return 0

    cdef const uint8_t* _skip(self, const uint8_t* p, const uint8_t* end) except? NULL:
        """Takes bytes of a bulk string; returns where the next ones are."""
        cdef int64_t taken = min(self.skip, end - p)
        cdef int64_t body = self.skip - 2  # bytes before the line end; -1 when only the line feed is missing
        if (0 <= body < taken and p[body] != c"\r") or (body + 1 < taken and p[body + 1] != c"\n"):
            self._break("a bulk string does not end where it was announced to")
            return end
        if self.value is not None and body > 0:
            self.value += p[: min(body, taken)]
        self.skip -= taken
        if self.skip == 0:
            if self.value is not None:
                self._answer(bytes(self.value))
                self.value = None
            self._complete(1)
        return p + taken

    cdef int _note(self, const uint8_t* text, Py_ssize_t size, bint is_wanted) except -1:
        """Remembers an error; it is no answer to what was wanted."""
        if self.depth > 0:
            if self.noted == ELEMENTS:
                self.unnoted += 1
                return 0
            self.noted += 1
        elif is_wanted:
            self._forget_wanted()
        said = PyUnicode_DecodeUTF8(<char*> text, min(size, TEXT), "backslashreplace")
        self.notes.append(Note(self.replies, self.element if self.depth > 0 else -1, said))
        return 0

    cdef int _answer(self, object value) except -1:
        """Keeps the value that is wanted next."""
        self.values[self.next_wanted] = value
        return self._forget_wanted()

    cdef int _forget_wanted(self) except -1:
        self.wanted.popleft()
        self.next_wanted = self.wanted[0] if self.wanted else INT64_MAX
        return 0

    cdef int _keep(self, const uint8_t* p, Py_ssize_t size) except -1:
        """Adds to the line that was cut."""
        cdef Py_ssize_t wanted = self.line_size + size
        cdef uint8_t* grown
        if wanted > LINE:
            return self._break("a line does not end")
        if self.line_size == 0 and memchr(<const char*> b"+-:$*", p[0], 5) == NULL:
            return self._break("a reply begins with an unknown byte")
        if wanted > self.line_capacity:
            wanted = min(max(wanted, 2 * self.line_capacity, 64), LINE)
            grown = <uint8_t*> PyMem_Realloc(self.line, wanted)
            if grown == NULL:
                raise MemoryError
            self.line = grown
            self.line_capacity = wanted
        memcpy(self.line + self.line_size, p, size)
        self.line_size += size
        return 0

    cdef const uint8_t* _join(self, const uint8_t* p, const uint8_t* end) except? NULL:
        """Goes on with the line that was cut; returns where the next bytes are."""
        cdef const uint8_t* line_end = <const uint8_t*> memchr(p, c"\n", end - p)
        cdef Py_ssize_t size
        self._keep(p, (line_end + 1 if line_end != NULL else end) - p)
        if line_end == NULL or self.broken is not None:
            return end
        size = self.line_size
        self.line_size = 0
        self._line(self.line, size)
        p = line_end + 1
        return self._skip(p, end) if self.skip > 0 else p

    cdef int _break(self, str why) except -1:
        """Notes why what came is no reply."""
        self.broken = why
        return 0
