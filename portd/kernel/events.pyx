# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Values become lines: one JSON object, or one CSV row, for each element. The form is in docs/decode.md.

A string that is UTF-8 stands as it is. Any other, and one longer than ``chunk_bytes``, which passes through in parts
before its end is known, is base64.
"""

from collections import deque

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, strlen

from portd.kernel.containers cimport be64
from portd.kernel.encodings cimport (
    C_ARRAY, C_HASH, C_LIST, C_MODULE, C_OTHER, C_SET, C_STREAM, C_STRING, C_ZSET, layout_of,
    module_name,
)
from portd.kernel.handler cimport F_WHOLE, Handler, Item, Key, P_ELEMENTS, P_SKIP, P_SMALL, StreamMeta
from portd.kernel.selection import Selection
from portd.kernel.selection cimport Selection as SelectionType
from portd.kernel.writer cimport NUMBER_BYTES, RespWriter, portd_format_i64, portd_format_u64


cdef extern from "native/text.h" nogil:
    bint portd_json_plain(const unsigned char* p, size_t n)
    bint portd_json_number(const unsigned char* p, size_t n)
    bint portd_utf8(const unsigned char* p, size_t n)
    size_t portd_json_escape(char* out, const unsigned char* p, size_t n)
    size_t portd_base64(char* out, const unsigned char* p, size_t n)


cdef enum:
    CSV_FIELD = 0       # columns behind db, type and key
    CSV_VALUE
    CSV_INDEX
    CSV_MEMBER
    CSV_SCORE
    CSV_EXPIREAT
    CSV_FIELD_EXPIREAT
    CSV_ID
    CSV_RECORD
    CSV_COLUMNS

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


cdef class EventHandler(Handler):
    """Writes what it is told as lines; the stub tells how to use it."""

    def __cinit__(
        self, *, bint csv=False, SelectionType selection=None, Py_ssize_t part_bytes=131072, uint64_t chunk_bytes=1 << 20
    ):
        cdef bytes header
        self.csv = csv
        self.selection = Selection() if selection is None else selection
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
        """A cell (RFC 4180): quoted where it must be, ``base64:`` and base64 where it is not UTF-8."""
        cdef Py_ssize_t i
        cdef Py_ssize_t quotes = 0
        cdef bint special = False
        cdef char* to
        if not portd_utf8(p, n) or (n >= 7 and p[:7] == b"base64:"):
            out.raw(b"base64:", 7)
            return self._base64(out, p, n)
        for i in range(n):
            quotes += p[i] == b'"'
            special |= p[i] < 0x20 or p[i] == b"," or p[i] == b'"'
        if not special:
            return out.raw(p, n)
        out.reserve(n + quotes + 2)
        to = out.buffer + out.used
        to[0] = b'"'
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

    cdef int _row_end(self, int done) except -1:
        """The rest of a CSV row of which *done* cells stand: the expiry of the key where its column is still to come."""
        while done <= CSV_RECORD:
            self._put(self.out, b",")
            if done == CSV_EXPIREAT and self.key.expire_ms >= 0:
                self._number(self.out, self.key.expire_ms)
            done += 1
        self.lines += 1
        self._put(self.out, b"\n")
        return self._cut_if_full()

    cdef int _commas(self, int n) except -1:
        while n:
            self._put(self.out, b",")
            n -= 1
        return 0

    # -- keys --------------------------------------------------------------------------------------------------------------

    cdef int plan(self, Key* key) except -1:
        cdef int collection = layout_of(key.encoding).collection
        if not self.selection.takes(key, collection):
            self.keys_left_out += 1
            return P_SKIP
        if collection == C_STRING and key.bytes and not self.selection.fits(key):
            self.keys_left_out += 1
            return P_SKIP
        return P_SMALL if self.selection.sized else P_ELEMENTS

    cdef int string(self, Key* key, Item* value) except -1:
        if self.selection.sized and not self.selection.fits(key):
            self.keys_left_out += 1
            return 0
        self.key = key
        self.collection = C_STRING
        self.keys_told += 1
        self._begin_key(key)
        self._line()
        if self.csv:
            self._commas(2)
            self._csv_text(self.out, value.p, value.n)
            return self._row_end(CSV_INDEX)
        self.out.raw(b',"value":', 9)
        self._json_text(self.out, value.p, value.n)
        return self._end_line()

    cdef int begin(self, Key* key, int collection, bint small) except -1:
        if self.selection.sized and not self.selection.fits(key):
            self.keys_left_out += 1
            return 1
        self.key = key
        self.collection = collection
        self.index = 0
        self.keys_told += 1
        return self._begin_key(key)

    cdef int end(self, Key* key) except -1:
        if self.collection == C_MODULE or self.collection == C_OTHER:
            self._opaque(key)
        elif self.collection == C_STRING:           # its parts were told
            if self.carried:
                self._base64(self.out, self.carry, self.carried)
                self.carried = 0
            if self.csv:
                self._row_end(CSV_INDEX)
            else:
                self.out.raw(b'"}', 2)
                self._end_line()
        self.key = NULL
        return 0

    cdef int _opaque(self, Key* key) except -1:
        """A value that only its own kind can read: its name and size."""
        name = (module_name(key.module) if self.collection == C_MODULE else layout_of(key.encoding).name.decode()).encode()
        self._record_begin(b"value")
        self._pair(self.cell, b"name")
        self._json_text(self.cell, name, len(name))
        self._pair(self.cell, b"bytes")
        self._unsigned(self.cell, key.bytes)
        return self._record_end()

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
        self.lines += 1
        self._put(self.out, b"\n")
        return self._cut_if_full()

    cdef int _file_line(self, const char* kind, Item* name, Item* value) except -1:
        """Something of the file itself, without a database: a field of its head, a function library."""
        if self.csv:
            self._put(self.out, b",")
            self._put(self.out, kind)
            self._put(self.out, b",")
            if name != NULL:
                self._csv_text(self.out, name.p, name.n)
            self._commas(2)
            self._csv_text(self.out, value.p, value.n)
            self._commas(CSV_RECORD - CSV_VALUE)
            self.lines += 1
            self._put(self.out, b"\n")
            return self._cut_if_full()
        self._put(self.out, b'{"type":"')
        self._put(self.out, kind)
        self._put(self.out, b'"')
        if name != NULL:
            self._pair(self.out, b"key")
            self._json_text(self.out, name.p, name.n)
        self._pair(self.out, b"value")
        self._json_text(self.out, value.p, value.n)
        return self._end_line()

    cdef int aux(self, Item* name, Item* value) except -1:
        return self._file_line(b"aux", name, value) if self.selection.aux else 0

    cdef int function(self, Item* code) except -1:
        if not self.selection.functions or code.form != F_WHOLE:
            self.keys_failed += self.selection.functions
            return 0
        return self._file_line(b"function", NULL, code)

    # -- elements ----------------------------------------------------------------------------------------------------------

    cdef int element(self, Item* item) except -1:
        self._line()
        if self.csv:
            if self.collection == C_LIST:
                self._commas(2)
                self._csv_text(self.out, item.p, item.n)
                self._put(self.out, b",")
                self._unsigned(self.out, self.index)
                self.index += 1
                return self._row_end(CSV_MEMBER)
            self._commas(4)
            self._csv_text(self.out, item.p, item.n)
            return self._row_end(CSV_SCORE)
        if self.collection == C_LIST:
            self.out.raw(b',"index":', 9)
            self._unsigned(self.out, self.index)
            self.index += 1
            self.out.raw(b',"value":', 9)
        else:
            self.out.raw(b',"member":', 10)
        self._json_text(self.out, item.p, item.n)
        return self._end_line()

    cdef int scored(self, Item* member, Item* score) except -1:
        self._line()
        if self.csv:
            self._commas(4)
            self._csv_text(self.out, member.p, member.n)
            self._put(self.out, b",")
            self._score(score.p, score.n)
            return self._row_end(CSV_EXPIREAT)
        self.out.raw(b',"member":', 10)
        self._json_text(self.out, member.p, member.n)
        self.out.raw(b',"score":', 9)
        self._score(score.p, score.n)
        return self._end_line()

    cdef int field(self, Item* name, Item* value, int64_t expire_ms) except -1:
        self._line()
        if self.csv:
            self._put(self.out, b",")
            self._csv_text(self.out, name.p, name.n)
            self._put(self.out, b",")
            self._csv_text(self.out, value.p, value.n)
            return self._field_end(expire_ms)
        self.out.raw(b',"field":', 9)
        self._json_text(self.out, name.p, name.n)
        self.out.raw(b',"value":', 9)
        self._json_text(self.out, value.p, value.n)
        return self._field_end(expire_ms)

    cdef int _field_end(self, int64_t expire_ms) except -1:
        if not self.csv:
            if expire_ms >= 0:
                self._pair(self.out, b"fieldexpireat")
                self._number(self.out, expire_ms)
            return self._end_line()
        self._commas(CSV_EXPIREAT - CSV_VALUE)
        if self.key.expire_ms >= 0:
            self._number(self.out, self.key.expire_ms)
        self._put(self.out, b",")
        if expire_ms >= 0:
            self._number(self.out, expire_ms)
        return self._row_end(CSV_ID)

    cdef int slot(self, uint64_t index, Item* value) except -1:
        self._line()
        if self.csv:
            self._commas(2)
            self._csv_text(self.out, value.p, value.n)
            self._put(self.out, b",")
            self._unsigned(self.out, index)
            return self._row_end(CSV_MEMBER)
        self.out.raw(b',"index":', 9)
        self._unsigned(self.out, index)
        self.out.raw(b',"value":', 9)
        self._json_text(self.out, value.p, value.n)
        return self._end_line()

    cdef int array_end(self, bint has_insert, uint64_t insert) except -1:
        if not has_insert:
            return 0
        self._record_begin(b"insert")
        self._pair(self.cell, b"index")
        self._unsigned(self.cell, insert)
        return self._record_end()

    # -- long items: base64, in parts -----------------------------------------------------------------------------------------

    cdef int string_part(self, const unsigned char* p, Py_ssize_t n, uint64_t at, uint64_t total) except -1:
        if at == 0:
            self._line()
            if self.csv:
                self._commas(2)
                self._put(self.out, b"base64:")
            else:
                self._put(self.out, b',"value":{"base64":"')
            self.carried = 0
        return self._long_data(p, n)

    cdef int _long_data(self, const unsigned char* p, Py_ssize_t n) except -1:
        """Base64 of a part; up to two bytes wait for the next one."""
        cdef Py_ssize_t whole
        while self.carried and n:
            self.carry[self.carried] = p[0]
            self.carried += 1
            p += 1
            n -= 1
            if self.carried == 3:
                self._base64(self.out, self.carry, 3)
                self.carried = 0
        whole = n - n % 3
        if whole:
            self._base64(self.out, p, whole)
        while whole < n:
            self.carry[self.carried] = p[whole]
            self.carried += 1
            whole += 1
        return self._cut_if_full()

    cdef int _long_begin(self) except -1:
        self.carried = 0
        return self._put(self.out, b"base64:" if self.csv else b'{"base64":"')

    cdef int _long_end(self) except -1:
        if self.carried:
            self._base64(self.out, self.carry, self.carried)
            self.carried = 0
        if not self.csv:
            self._put(self.out, b'"}')
        return 0

    cdef int large_begin(self, int collection, int strings, bint has_last) except -1:
        self.items = 0
        return self._line()

    cdef int large_item(self, uint64_t n) except -1:
        self.item_long = n > self.chunk_bytes
        if self.collection == C_STREAM:
            self._entry_item_begin()
        elif self.csv:
            self._commas(1 + (self.items == 0) * (
                0 if self.collection == C_HASH else 1 if self.collection == C_LIST else 3
            ))
        elif self.collection == C_HASH:
            self._pair(self.out, b"field" if self.items == 0 else b"value")
        elif self.collection == C_LIST:
            self._pair(self.out, b"index")
            self._unsigned(self.out, self.index)
            self._pair(self.out, b"value")
        else:
            self._pair(self.out, b"member")
        self.items += 1
        return self._long_begin() if self.item_long else 0

    cdef int large_data(self, const unsigned char* p, Py_ssize_t n) except -1:
        # What is not long comes in one piece.
        return self._long_data(p, n) if self.item_long else self._text(self.out, p, n)

    cdef int large_item_end(self) except -1:
        if self.item_long:
            self._long_end()
        if self.collection == C_STREAM:
            return self._entry_item_end()
        return 0

    cdef int large_end(self, Item* last) except -1:
        cdef int64_t expire_ms = -1
        if self.collection == C_HASH:
            if last != NULL:
                expire_ms = int(last.p[:last.n])
            return self._field_end(expire_ms)
        if self.collection == C_ZSET:
            self._put(self.out, b"," if self.csv else b',"score":')
            self._score(last.p, last.n)
            return self._row_end(CSV_EXPIREAT) if self.csv else self._end_line()
        if self.collection == C_LIST:
            if self.csv:
                self._put(self.out, b",")
                self._unsigned(self.out, self.index)
            self.index += 1
            return self._row_end(CSV_MEMBER) if self.csv else self._end_line()
        return self._row_end(CSV_SCORE) if self.csv else self._end_line()

    # -- streams ---------------------------------------------------------------------------------------------------------

    cdef int entry(self, uint64_t ms, uint64_t seq, uint64_t fields) except -1:
        self.entry_ms = ms
        self.entry_seq = seq
        self.items = 0
        if self.csv:
            return 0
        self._line()
        self._put(self.out, b',"id":"')
        self._id(self.out, ms, seq)
        return self._put(self.out, b'","fields":[')

    cdef int _entry_item_begin(self) except -1:
        """CSV has a row for each field of an entry, JSON a list of pairs."""
        if self.csv:
            if self.items % 2 == 0:
                self._line()
            return self._put(self.out, b",")
        return self._put(self.out, b"," if self.items % 2 else b"[" if self.items == 0 else b",[")

    cdef int _entry_item_end(self) except -1:
        if self.items % 2:
            return 0
        if not self.csv:
            self._put(self.out, b"]")
            return self._cut_if_full()
        self._commas(CSV_EXPIREAT - CSV_VALUE)
        if self.key.expire_ms >= 0:
            self._number(self.out, self.key.expire_ms)
        self._commas(CSV_ID - CSV_EXPIREAT)
        self._id(self.out, self.entry_ms, self.entry_seq)
        return self._row_end(CSV_RECORD)

    cdef int entry_item(self, Item* item) except -1:
        self._entry_item_begin()
        self._text(self.out, item.p, item.n)
        self.items += 1
        return self._entry_item_end()

    cdef int entry_end(self) except -1:
        if self.csv:
            return 0
        self._put(self.out, b"]")
        return self._end_line()

    cdef int stream_meta(self, StreamMeta* meta) except -1:
        self._record_begin(b"stream")
        self._pair(self.cell, b"length")
        self._unsigned(self.cell, meta.length)
        self._put(self.cell, b',"lastid":"')
        self._id(self.cell, meta.last_ms, meta.last_seq)
        self._put(self.cell, b'"')
        if meta.version > 1:
            self._put(self.cell, b',"maxdeletedid":"')
            self._id(self.cell, meta.deleted_ms, meta.deleted_seq)
            self._put(self.cell, b'","added":')
            self._unsigned(self.cell, meta.added)
        return self._record_end()

    cdef bytes _cell_text(self, Item* item):
        """JSON of a name that several records repeat."""
        self.cell.used = 0
        self._json_text(self.cell, item.p, item.n)
        return self.cell.buffer[:self.cell.used]

    cdef int group(self, Item* name, uint64_t ms, uint64_t seq, int64_t entries_read) except -1:
        self.group_name = self._cell_text(name)
        self._record_begin(b"group")
        self._pair(self.cell, b"group")
        self._put(self.cell, self.group_name)
        self._put(self.cell, b',"lastid":"')
        self._id(self.cell, ms, seq)
        self._put(self.cell, b'","read":')
        self._number(self.cell, entries_read)
        return self._record_end()

    cdef int pending(self, const unsigned char* id, int64_t delivered_ms, uint64_t count) except -1:
        self._record_begin(b"pending")
        self._pair(self.cell, b"group")
        self._put(self.cell, self.group_name)
        self._put(self.cell, b',"id":"')
        self._id(self.cell, be64(id), be64(id + 8))
        self._put(self.cell, b'","delivered":')
        self._number(self.cell, delivered_ms)
        self._pair(self.cell, b"deliveries")
        self._unsigned(self.cell, count)
        return self._record_end()

    cdef int consumer(self, Item* name, int64_t seen_ms, int64_t active_ms) except -1:
        self.consumer_name = self._cell_text(name)
        self._record_begin(b"consumer")
        self._pair(self.cell, b"group")
        self._put(self.cell, self.group_name)
        self._pair(self.cell, b"consumer")
        self._put(self.cell, self.consumer_name)
        self._pair(self.cell, b"seen")
        self._number(self.cell, seen_ms)
        self._pair(self.cell, b"active")
        self._number(self.cell, active_ms)
        return self._record_end()

    cdef int owns(self, const unsigned char* id) except -1:
        self._record_begin(b"owned")
        self._pair(self.cell, b"group")
        self._put(self.cell, self.group_name)
        self._pair(self.cell, b"consumer")
        self._put(self.cell, self.consumer_name)
        self._put(self.cell, b',"id":"')
        self._id(self.cell, be64(id), be64(id + 8))
        self._put(self.cell, b'"')
        return self._record_end()

    cdef int stream_dropped(self, const char* what) except -1:
        self._record_begin(b"untold")
        self._pair(self.cell, b"name")
        self._json_text(self.cell, <const unsigned char*>what, strlen(what))
        return self._record_end()
