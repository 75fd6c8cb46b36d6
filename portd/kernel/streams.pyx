# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Streams: nodes of entries, then counters, groups, pending entries and consumers (t_stream.c, rdb.c)."""

from cpython.mem cimport PyMem_Realloc
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from portd.errors import LimitExceeded

from portd.kernel.blob cimport begin_parts, close_container, open_blob, take_cells, take_numbers
from portd.kernel.containers cimport be64, le64
from portd.kernel.decoder cimport (
    Decoder, PP_ENTRY, PP_SKIP, SS_CLOSE, SS_CONSUMER, SS_CONSUMERS, SS_COUNT, SS_DEDUP, SS_ENTRY, SS_FIELDS, SS_GROUP,
    SS_MASTER, SS_MESSAGE, SS_META, SS_NACKED, SS_NAMES, SS_NODE, SS_OWNED, SS_PENDING, SS_PRODUCER, SS_TOTALS, ST_STREAM,
    STREAM_STATES, end_value, name_stream_state,
)
from portd.kernel.encodings cimport K_LISTPACK
from portd.kernel.handler cimport F_WHOLE, StreamMeta
from portd.kernel.reader cimport Cursor, R_END, R_LARGE, R_MORE, R_OK
from portd.kernel.window cimport next_item, next_number


ctypedef int (*Step)(Decoder) except -1
cdef Step[<int>STREAM_STATES] STEPS


cdef int read_stream(Decoder self) except -1:
    return STEPS[self.stream_state](self)


cdef void state(int number, Step step, str name):
    STEPS[number] = step
    name_stream_state(number, name)


cdef void fill():
    #     state         read by           in errors                                 written by
    state(SS_NODE, _stream_node, "the id of a stream's node")                     # rdb.c:rdbSaveObject
    state(SS_MASTER, _stream_master, "the master entry of a stream's node")       # t_stream.c:streamAppendItem
    state(SS_NAMES, _stream_names, "the field names of a stream's node")
    state(SS_ENTRY, _stream_entry, "an entry of a stream")
    state(SS_COUNT, _stream_count, "the field count of a stream's entry")
    state(SS_FIELDS, _stream_fields, "the fields of a stream's entry")
    state(SS_CLOSE, _stream_close, "the end of a stream's entry")
    state(SS_META, _stream_meta, "the counters of a stream")                      # rdb.c:rdbSaveObject
    state(SS_GROUP, _stream_groups, "a consumer group")
    state(SS_PENDING, _stream_groups, "the pending entries of a group")           # rdb.c:rdbSaveStreamPEL
    state(SS_CONSUMERS, _stream_groups, "the consumers of a group")               # rdb.c:rdbSaveStreamConsumers
    state(SS_CONSUMER, _stream_groups, "a consumer")
    state(SS_OWNED, _stream_groups, "the pending entries of a consumer")
    state(SS_NACKED, _stream_groups, "the negatively acknowledged entries of a group")
    state(SS_DEDUP, _stream_groups, "the idempotent producers of a stream")
    state(SS_PRODUCER, _stream_groups, "an idempotent producer")
    state(SS_MESSAGE, _stream_groups, "the messages of an idempotent producer")
    state(SS_TOTALS, _stream_groups, "the totals of idempotent producers")


cdef int _stream_node(Decoder self) except -1:
    cdef Cursor c = self._cursor()
    cdef int r
    if self.left == 0:
        self.stream_state = SS_META
        return R_OK
    if self.out.ready:
        return R_OK
    r = next_item(self, &c, 0)
    if r == R_MORE:
        return R_MORE
    if r != R_OK or self.items[0].n != 16:
        return self._fail("the id of a stream node is not 16 bytes")
    self.master_ms = be64(self.items[0].p)
    self.master_seq = be64(self.items[0].p + 8)
    r = open_blob(self, &c, K_LISTPACK, ST_STREAM)
    if r == R_OK:
        self.stream_state = SS_MASTER
    return r


cdef int _stream_master(Decoder self) except -1:
    cdef int r = take_numbers(self, 3)
    if r != R_OK:
        return r
    if self.number[0] < 0 or self.number[1] < 0 or self.number[2] < 0:
        return self._fail("negative count in a stream node")
    self.entries = <uint64_t>self.number[0] + <uint64_t>self.number[1]
    self.names_count = self.fields_left = self.number[2]
    self.names_kept = True
    self.names_size = 0
    self.stream_state = SS_NAMES
    return R_OK


cdef int _stream_names(Decoder self) except -1:
    """The master entry's names, kept for the entries that share them, then a 0."""
    cdef uint64_t size
    cdef Py_ssize_t wanted
    cdef unsigned char* grown
    cdef int r
    while self.fields_left:
        r = take_cells(self, 0, 1)
        if r == R_MORE:
            return R_MORE
        if r == R_END:
            return self._fail("corrupt stream node")
        size = self.items[0].n
        wanted = self.names_size + sizeof(uint64_t) + <Py_ssize_t>size
        if r == R_LARGE or wanted > 2 * self.chunk:
            _abandon(self, "its field names are longer than chunk_bytes")
            self.fields_left -= 1
            self.names_kept = False
            self.blob_start = self.blob_next
            if r == R_LARGE:
                return begin_parts(self, PP_SKIP, &self.items[0], True, ST_STREAM)
            continue
        if wanted > self.names_capacity:
            wanted = max(wanted, 2 * self.names_capacity)
            grown = <unsigned char*>PyMem_Realloc(self.names, wanted)
            if grown == NULL:
                raise MemoryError
            self.names = grown
            self.names_capacity = wanted
        if self.names_kept:
            memcpy(self.names + self.names_size, &size, sizeof(uint64_t))
            memcpy(self.names + self.names_size + sizeof(uint64_t), self.items[0].p, size)
            self.names_size += sizeof(uint64_t) + size
        self.blob_start = self.blob_next
        self.fields_left -= 1
    r = take_numbers(self, 1)
    if r == R_OK:
        self.stream_state = SS_ENTRY
    return r


cdef int _abandon(Decoder self, str reason) except -1:
    """Gives the key in progress up: it is a dead letter, and the rest of it is stepped over."""
    if self.to is not self.nothing:
        self.to.abandon(&self.key, reason)
        self.out.keys_failed += 1
        self.to = self.entry_to = self.nothing
    return 0


cdef int _stream_entry(Decoder self) except -1:
    cdef int r
    if self.entries == 0:
        r = take_cells(self, 0, 1)
        if r == R_MORE:
            return R_MORE
        if r != R_END:
            return self._fail("a stream node holds more entries than it announced")
        close_container(self)
        self.left -= 1
        self.stream_state = SS_NODE
        return R_OK
    if self.out.ready:
        return R_OK
    r = take_numbers(self, 3)
    if r != R_OK:
        return r
    self.same_fields = (self.number[0] & 2) != 0
    self.entry_to = self.nothing if self.number[0] & 1 else self.to         # 1: deleted
    # Deltas wrap around on purpose: the sequence restarts when the time moves on.
    self.entry_ms = self.master_ms + <uint64_t>self.number[1]
    self.entry_seq = self.master_seq + <uint64_t>self.number[2]
    self.stream_state = SS_FIELDS
    if self.same_fields:
        return _open_entry(self, self.names_count)
    self.stream_state = SS_COUNT
    return R_OK


cdef int _stream_count(Decoder self) except -1:
    cdef int r = take_numbers(self, 1)
    if r != R_OK:
        return r
    if self.number[0] < 0:
        return self._fail("negative count in a stream entry")
    self.stream_state = SS_FIELDS
    return _open_entry(self, self.number[0])


cdef int _open_entry(Decoder self, uint64_t fields) except -1:
    if fields > self.blob_size:
        return self._fail("a stream entry announces more fields than its node has bytes")
    self.fields_left = fields
    self.names_at = 0
    self.name_turn = True
    self.entry_to.entry(self.entry_ms, self.entry_seq, fields)
    return R_OK


cdef int _stream_fields(Decoder self) except -1:
    cdef int r
    while self.fields_left:
        if self.out.ready:
            return R_OK
        if self.same_fields and self.name_turn and not self.names_kept:
            self.name_turn = False
            continue
        if self.same_fields and self.name_turn:
            memcpy(&self.items[1].n, self.names + self.names_at, sizeof(uint64_t))
            self.items[1].p = self.names + self.names_at + sizeof(uint64_t)
            self.items[1].form = F_WHOLE
            self.names_at += sizeof(uint64_t) + <Py_ssize_t>self.items[1].n
            self.name_turn = False
            self.entry_to.entry_item(&self.items[1])
            continue
        r = take_cells(self, 0, 1)
        if r == R_MORE:
            return R_MORE
        if r == R_END:
            return self._fail("a stream entry is cut")
        self.name_turn = not self.name_turn
        self.fields_left -= self.name_turn      # a name and its value are done
        if r == R_LARGE:
            self.entry_to.large_item(self.items[0].n)
            self.blob_start = self.blob_next
            return begin_parts(self, PP_ENTRY, &self.items[0], True, ST_STREAM)
        self.entry_to.entry_item(&self.items[0])
        self.blob_start = self.blob_next
    self.stream_state = SS_CLOSE
    return R_OK


cdef int _stream_close(Decoder self) except -1:
    cdef int r = take_numbers(self, 1)
    if r == R_OK:
        self.entry_to.entry_end()
        self.entries -= 1
        self.done += 1
        self.stream_state = SS_ENTRY
    return r


cdef int _stream_meta(Decoder self) except -1:
    cdef Cursor c = self._cursor()
    cdef StreamMeta meta
    cdef uint64_t[8] numbers
    cdef int n = 8 if self.stream_version >= 2 else 3
    cdef int i
    cdef int r = R_OK
    for i in range(8):
        numbers[i] = 0
    for i in range(n):
        r = next_number(self, &c, &numbers[i])
        if r != R_OK:
            return r
    r = next_number(self, &c, &self.groups)
    if r != R_OK:
        return r
    meta.version = self.stream_version
    meta.length = numbers[0]
    meta.last_ms = numbers[1]
    meta.last_seq = numbers[2]
    meta.deleted_ms = numbers[5]                # 3 and 4: first id, which follows from the entries
    meta.deleted_seq = numbers[6]
    meta.added = numbers[7]
    self.to.stream_meta(&meta)
    self._consume(&c)
    self.stream_state = SS_GROUP
    return R_OK


cdef int _stream_groups(Decoder self) except -1:
    cdef Cursor c = self._cursor()
    cdef int state = self.stream_state
    cdef int r
    if self.out.ready:
        return R_OK
    if state == SS_GROUP:
        r = _group(self, &c)
    elif state == SS_PENDING:
        r = _group_pending(self, &c)
    elif state == SS_CONSUMERS:
        r = next_number(self, &c, &self.consumers)
        self.stream_state = SS_CONSUMER if r == R_OK else state
    elif state == SS_CONSUMER:
        r = _consumer(self, &c)
    elif state == SS_OWNED:
        r = _owned(self, &c)
    elif state == SS_NACKED:
        r = _nacked(self, &c)
    else:
        return _dedup(self, &c)
    if r == R_OK and self.state == ST_STREAM:
        self._consume(&c)
    return r


cdef int _group(Decoder self, Cursor* c) except -1:
    cdef uint64_t ms = 0
    cdef uint64_t seq = 0
    cdef uint64_t entries_read = <uint64_t>-1
    cdef int r
    if self.groups == 0:
        if self.stream_version >= 4:
            self.stream_state = SS_DEDUP
            return R_OK
        return end_value(self)
    r = next_item(self, c, 0)
    if r == R_LARGE:
        return self._fail("the name of a consumer group is longer than chunk_bytes", LimitExceeded)
    if r == R_OK:
        r = next_number(self, c, &ms)
    if r == R_OK:
        r = next_number(self, c, &seq)
    if r == R_OK and self.stream_version >= 2:
        r = next_number(self, c, &entries_read)
    if r == R_OK:
        r = next_number(self, c, &self.ids)
    if r != R_OK:
        return r
    self.to.group(&self.items[0], ms, seq, <int64_t>entries_read)
    self.groups -= 1
    self.stream_state = SS_PENDING
    return R_OK


cdef int _group_pending(Decoder self, Cursor* c) except -1:
    cdef uint64_t count = 0
    cdef const unsigned char* entry
    cdef int r
    while self.ids and not self.out.ready:
        if c.end - c.p < 25:
            break
        entry = c.p
        c.p += 24
        r = next_number(self, c, &count)
        if r != R_OK:
            c.p = entry
            break
        self.to.pending(entry, <int64_t>le64(entry + 16), count)
        self.ids -= 1
    if self.ids == 0:
        self.stream_state = SS_CONSUMERS
        return R_OK
    if self.out.ready:
        return R_OK
    self._consume(c)
    return R_MORE


cdef int _consumer(Decoder self, Cursor* c) except -1:
    cdef Py_ssize_t times = 16 if self.stream_version >= 3 else 8
    cdef int64_t seen_ms
    cdef int r
    if self.consumers == 0:
        self.stream_state = SS_NACKED if self.stream_version >= 5 else SS_GROUP
        if self.stream_version >= 5:
            r = next_number(self, c, &self.ids)
            if r != R_OK:
                self.stream_state = SS_CONSUMER
            elif self.ids:
                self.to.stream_dropped("negatively acknowledged entries")
            return r
        return R_OK
    r = next_item(self, c, 0)
    if r == R_LARGE:
        return self._fail("the name of a consumer is longer than chunk_bytes", LimitExceeded)
    if r == R_OK and c.end - c.p < times:
        r = R_MORE
    if r != R_OK:
        return r
    seen_ms = <int64_t>le64(c.p)
    entry_active = <int64_t>le64(c.p + 8) if times == 16 else seen_ms
    c.p += times
    r = next_number(self, c, &self.ids)
    if r == R_OK:
        self.to.consumer(&self.items[0], seen_ms, entry_active)
        self.consumers -= 1
        self.stream_state = SS_OWNED
    return r


cdef int _owned(Decoder self, Cursor* c) except -1:
    while self.ids and c.end - c.p >= 16 and not self.out.ready:
        self.to.owns(c.p)
        c.p += 16
        self.ids -= 1
    if self.ids == 0:
        self.stream_state = SS_CONSUMER
        return R_OK
    self._consume(c)
    return R_OK if self.out.ready else R_MORE


cdef int _nacked(Decoder self, Cursor* c) except -1:
    cdef uint64_t n = min(self.ids, <uint64_t>(c.end - c.p) // 16)
    c.p += 16 * n
    self.ids -= n
    if self.ids == 0:
        self.stream_state = SS_GROUP
        return R_OK
    self._consume(c)
    return R_MORE


cdef int _dedup(Decoder self, Cursor* c) except -1:
    """Idempotent producers, of version 4 and later."""
    cdef uint64_t a = 0
    cdef uint64_t b = 0
    cdef int r = R_OK
    if self.stream_state == SS_DEDUP:           # duration, max entries, producers
        r = next_number(self, c, &a)
        if r == R_OK:
            r = next_number(self, c, &b)
        if r == R_OK:
            r = next_number(self, c, &self.producers)
        if r != R_OK:
            return r
        self.to.producers(a, b, self.producers)
        self.stream_state = SS_PRODUCER
    elif self.stream_state == SS_PRODUCER:
        if self.producers == 0:
            self.stream_state = SS_TOTALS
            return R_OK
        r = next_item(self, c, 0)
        if r == R_LARGE:
            return self._fail("the name of a producer is longer than chunk_bytes", LimitExceeded)
        if r == R_OK:
            r = next_number(self, c, &self.ids)
        if r != R_OK:
            return r
        self.to.producer(&self.items[0])
        self.producers -= 1
        self.stream_state = SS_MESSAGE
    elif self.stream_state == SS_MESSAGE:
        if self.ids == 0:
            self.stream_state = SS_PRODUCER
            return R_OK
        r = next_item(self, c, 0)
        if r == R_LARGE:
            return self._fail("the id of a message is longer than chunk_bytes", LimitExceeded)
        if r == R_OK:
            r = next_number(self, c, &a)
        if r == R_OK:
            r = next_number(self, c, &b)
        if r != R_OK:
            return r
        self.to.message(&self.items[0], a, b)
        self.ids -= 1
    else:                                       # total ids, total duplicates
        r = next_number(self, c, &a)
        if r == R_OK:
            r = next_number(self, c, &b)
        if r != R_OK:
            return r
        self._consume(c)
        return end_value(self)
    self._consume(c)
    return R_OK


fill()
