# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Values become lines: one JSON object, or one CSV row, for each element. The form is in docs/decode.md.

What a line is made of is in ``lines.pyx``. A string longer than ``chunk_bytes``, which passes through in parts before its end
is known, is base64 whatever it holds.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport strlen

from portd.kernel.containers cimport be64
from portd.kernel.encodings cimport C_HASH, C_LIST, C_MODULE, C_OTHER, C_STREAM, C_STRING, C_ZSET, layout_of, module_name
from portd.kernel.handler cimport F_WHOLE, Item, Key, StreamMeta
from portd.kernel.lines cimport (
    CSV_VALUE, CSV_INDEX, CSV_MEMBER, CSV_SCORE, CSV_EXPIREAT, CSV_ID, CSV_RECORD, LineWriter,
)

from portd.kernel.lines import CSV_HEADER  # noqa: F401 - for those who use this unit


cdef class EventHandler(LineWriter):
    """Writes what it is told as lines; the stub tells how to use it."""

    # -- keys --------------------------------------------------------------------------------------------------------------

    cdef int string(self, Key* key, Item* value) except -1:
        self._tell(key, C_STRING)
        self._line()
        if self.csv:
            self._commas(2)
            self._csv_text(self.out, value.p, value.n)
            return self._row_end(CSV_INDEX)
        self.out.raw(b',"value":', 9)
        self._json_text(self.out, value.p, value.n)
        return self._end_line()

    cdef int begin(self, Key* key, int collection, bint small) except -1:
        self.index = 0
        return self._tell(key, collection)

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

    # -- the file itself -----------------------------------------------------------------------------------------------------

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
            return self._end_row()
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
        return self._file_line(b"aux", name, value) if self.fields else 0

    cdef int function(self, Item* code) except -1:
        if not self.functions or code.form != F_WHOLE:
            self.keys_failed += self.functions
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
