# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""What a line of JSON or CSV is made of: texts, numbers, what each line of a key begins with, records; and what cannot be told.

A string that is UTF-8 stands as it is, any other is base64.
"""

from collections import deque

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, strlen

from portd.kernel.encodings cimport (
    C_ARRAY, C_HASH, C_LIST, C_MODULE, C_OTHER, C_SET, C_STREAM, C_STRING, C_ZSET, layout_of,
)
from portd.kernel.handler cimport Handler, Item, Key, P_ELEMENTS
from portd.kernel.writer cimport NUMBER_BYTES, RespWriter, portd_format_i64, portd_format_u64


cdef extern from "native/text.h" nogil:
    bint portd_json_plain(const unsigned char* p, size_t n)
    bint portd_json_number(const unsigned char* p, size_t n)
    bint portd_has_control(const unsigned char* p, size_t n)
    bint portd_utf8(const unsigned char* p, size_t n)
    size_t portd_json_escape(char* out, const unsigned char* p, size_t n)
    size_t portd_base64(char* out, const unsigned char* p, size_t n)


ctypedef const char* Text
cdef Text[9] NAMES
NAMES[<int>C_STRING] = b"string"
NAMES[<int>C_LIST] = b"list"
NAMES[<int>C_SET] = b"set"
NAMES[<int>C_ZSET] = b"zset"
NAMES[<int>C_HASH] = b"hash"
NAMES[<int>C_STREAM] = b"stream"
NAMES[<int>C_MODULE] = b"module"
NAMES[<int>C_ARRAY] = b"array"
NAMES[<int>C_OTHER] = b"other"

CSV_HEADER = b"db,type,key,field,value,index,member,score,expireat,fieldexpireat,id,record\n"


cdef class LineWriter(Handler):
    """Lines that are made piece by piece; what is told becomes which lines, is for the classes derived from it."""

    def __cinit__(
        self, *, bint csv=False, bint functions=True, bint aux=False, Py_ssize_t part_bytes=131072,
        uint64_t chunk_bytes=1 << 20
    ):
        cdef bytes header
        self.csv = csv
        self.functions = functions
        self.fields = aux
        self.part_bytes = part_bytes
        self.chunk_bytes = chunk_bytes
        self.out = RespWriter(part_bytes + 16384)
        self.head = RespWriter(512)
        self.cell = RespWriter(512)
        self.parts = deque()
        if csv:
            header = CSV_HEADER
            self.out.raw(<const char*>header, len(header))

    # -- output ----------------------------------------------------------------------------------------------------------

    cdef object pop(self):
        part = self.parts.popleft() if self.parts else None
        self.ready = bool(self.parts)
        return part

    cdef int _cut_if_full(self) except -1:
        if self.out.used >= self.part_bytes:
            self.parts.append(self.out.take())
            self.ready = True
        return 0

    cdef Py_ssize_t owned(self) noexcept:
        return self.out.capacity + self.head.capacity + self.cell.capacity

    cdef Py_ssize_t bound(self) noexcept:
        # Escapes make six bytes of one, and a line repeats its key.
        return 2 * self.part_bytes + 36 * <Py_ssize_t>self.chunk_bytes + (1 << 20)

    cdef int add_statistics(self, dict counters) except -1:
        counters["keys_told"] = self.keys_told
        counters["lines"] = self.lines
        return 0

    cdef int finish(self) except -1:
        if self.out.used:
            self.parts.append(self.out.take())
            self.ready = True
        return 0

    cdef int plan(self, Key* key) except -1:
        return P_ELEMENTS

    cdef int _tell(self, Key* key, int collection) except -1:
        """A key begins: what is told from here on is of it."""
        self.key = key
        self.collection = collection
        self.keys_told += 1
        return self._begin_key(key)

    cdef int abandon(self, Key* key, str reason) except -1:
        self.keys_failed += 1
        return self.refuse(key, layout_of(key.encoding).name.decode(), reason)

    cdef int refuse(self, Key* key, str type_name, str reason) except -1:
        """What cannot be told is at least named."""
        cdef bytes text = reason.encode()
        cdef bytes kind = type_name.encode()
        if key == NULL:
            return 0
        self.key = key
        self.collection = layout_of(key.encoding).collection
        self._begin_key(key)
        self._record_begin(b"refused")
        self._pair(self.cell, b"name")
        self._json_text(self.cell, kind, len(kind))
        self._pair(self.cell, b"reason")
        self._json_text(self.cell, text, len(text))
        return self._record_end()

    # -- pieces of a line --------------------------------------------------------------------------------------------------

    cdef int _put(self, RespWriter out, const char* text) except -1:
        return out.raw(text, strlen(text))

    cdef int _number(self, RespWriter out, int64_t value) except -1:
        out.reserve(NUMBER_BYTES)
        out.used += portd_format_i64(out.buffer + out.used, value)
        return 0

    cdef int _unsigned(self, RespWriter out, uint64_t value) except -1:
        out.reserve(NUMBER_BYTES)
        out.used += portd_format_u64(out.buffer + out.used, value)
        return 0

    cdef int _id(self, RespWriter out, uint64_t ms, uint64_t seq) except -1:
        self._unsigned(out, ms)
        self._put(out, b"-")
        return self._unsigned(out, seq)

    cdef int _base64(self, RespWriter out, const unsigned char* p, Py_ssize_t n) except -1:
        out.reserve((n + 2) // 3 * 4)
        out.used += portd_base64(out.buffer + out.used, p, n)
        return 0

    cdef int _text(self, RespWriter out, const unsigned char* p, Py_ssize_t n) except -1:
        return self._csv_text(out, p, n) if self.csv else self._json_text(out, p, n)

    cdef int _json_text(self, RespWriter out, const unsigned char* p, Py_ssize_t n) except -1:
        cdef Py_ssize_t size = n
        cdef bint plain = portd_json_plain(p, n)
        if not plain and not portd_utf8(p, n):
            out.raw(b'{"base64":"', 11)
            self._base64(out, p, n)
            return out.raw(b'"}', 2)
        if not plain:
            size = portd_json_escape(NULL, p, n)
        out.reserve(size + 2)
        out.buffer[out.used] = b'"'
        if plain:
            memcpy(out.buffer + out.used + 1, p, n)
        else:
            portd_json_escape(out.buffer + out.used + 1, p, n)
        out.used += size + 2
        out.buffer[out.used - 1] = b'"'
        return 0

    cdef int _csv_text(self, RespWriter out, const unsigned char* p, Py_ssize_t n) except -1:
        """A cell (RFC 4180): quoted where it must be, ``base64:`` and base64 where it is not UTF-8 or holds controls.

        What a spreadsheet would take for a formula begins with an apostrophe, and so does what begins with one.
        """
        cdef Py_ssize_t i
        cdef bint mark = n > 0 and p[0] in b"=+-@\t\r'" and not portd_json_number(p, n)
        cdef Py_ssize_t quotes = 0
        cdef bint special = False
        cdef char* to
        if not portd_utf8(p, n) or portd_has_control(p, n) or (n >= 7 and p[:7] == b"base64:"):
            out.raw(b"base64:", 7)
            return self._base64(out, p, n)
        for i in range(n):
            quotes += p[i] == b'"'
            special |= p[i] < 0x20 or p[i] == b"," or p[i] == b'"'
        if not special:
            if mark:
                out.raw(b"'", 1)
            return out.raw(p, n)
        out.reserve(n + quotes + 3)
        to = out.buffer + out.used
        to[0] = b'"'
        to += 1
        if mark:
            to[0] = b"'"
            to += 1
        for i in range(n):
            if p[i] == b'"':
                to[0] = b'"'
                to += 1
            to[0] = p[i]
            to += 1
        to[0] = b'"'
        out.used = to + 1 - out.buffer
        return 0

    cdef int _pair(self, RespWriter out, const char* name) except -1:
        """A JSON member's name: ``,"name":``."""
        self._put(out, b',"')
        self._put(out, name)
        return self._put(out, b'":')

    cdef int _score(self, const unsigned char* p, Py_ssize_t n) except -1:
        """A number; inf, -inf and nan, which JSON has no numbers for, as text."""
        if self.csv or portd_json_number(p, n):
            return self.out.raw(p, n)
        return self._json_text(self.out, p, n)

    cdef int _begin_key(self, Key* key) except -1:
        """What each line of this key begins with."""
        cdef RespWriter head = self.head
        head.used = 0
        if self.csv:
            self._number(head, key.db)
            self._put(head, b",")
            self._put(head, NAMES[self.collection])
            self._put(head, b",")
            self._csv_text(head, key.name, key.size)
            return 0
        self._put(head, b'{"db":')
        self._number(head, key.db)
        self._put(head, b',"type":"')
        self._put(head, NAMES[self.collection])
        self._put(head, b'","key":')
        self._json_text(head, key.name, key.size)
        if key.expire_ms >= 0:
            self._put(head, b',"expireat":')
            self._number(head, key.expire_ms)
        if key.idle >= 0:
            self._put(head, b',"idle":')
            self._number(head, key.idle)
        if key.freq >= 0:
            self._put(head, b',"freq":')
            self._number(head, key.freq)
        return 0

    cdef int _line(self) except -1:
        return self.out.raw(self.head.buffer, self.head.used)

    cdef int _end_line(self) except -1:
        self.lines += 1
        self.out.raw(b"}\n", 2)
        return self._cut_if_full()

    cdef int _end_row(self) except -1:
        self.lines += 1
        self.out.raw(b"\n", 1)
        return self._cut_if_full()

    cdef int _row_end(self, int done) except -1:
        """The rest of a CSV row of which *done* cells stand: the expiry of the key where its column is still to come."""
        while done <= CSV_RECORD:
            self._put(self.out, b",")
            if done == CSV_EXPIREAT and self.key.expire_ms >= 0:
                self._number(self.out, self.key.expire_ms)
            done += 1
        return self._end_row()

    cdef int _commas(self, int n) except -1:
        while n:
            self._put(self.out, b",")
            n -= 1
        return 0

    # -- what is no element: records ------------------------------------------------------------------------------------------

    cdef int _record_begin(self, const char* name) except -1:
        """A record is a JSON object of its own; `_record_end` makes a line or a cell of it."""
        self.cell.used = 0
        self._put(self.cell, b'"record":"')
        self._put(self.cell, name)
        return self._put(self.cell, b'"')

    cdef int _record_end(self) except -1:
        cdef bytes details
        self._line()
        if not self.csv:
            self._put(self.out, b",")
            self.out.raw(self.cell.buffer, self.cell.used)
            return self._end_line()
        details = b"{" + self.cell.buffer[:self.cell.used] + b"}"
        self._commas(CSV_EXPIREAT + 1)
        if self.key != NULL and self.key.expire_ms >= 0:
            self._number(self.out, self.key.expire_ms)
        self._commas(CSV_RECORD - CSV_EXPIREAT)
        self._csv_text(self.out, details, len(details))
        return self._end_row()

    cdef bytes _cell_text(self, Item* item):
        """JSON of a name that several records repeat."""
        self.cell.used = 0
        self._json_text(self.cell, item.p, item.n)
        return self.cell.buffer[:self.cell.used]
