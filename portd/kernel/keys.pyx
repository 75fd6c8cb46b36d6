# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Keys, and how their values begin: from an opcode or a type byte to the state that reads a value's elements.

A string at hand goes to the handler from the window. Of every other value it is decided first whether it goes raw, by
elements or not at all, after a look at its size where that matters.
"""

from cpython.mem cimport PyMem_Realloc
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from portd.errors import LimitExceeded

from portd.kernel.blob cimport begin_parts, open_blob, read_parts
from portd.kernel.choice cimport choose, fit
from portd.kernel.containers cimport le64
from portd.kernel.decoder cimport (
    Decoder, PP_KEY, PP_STRING, SS_NODE, ST_ARRAY, ST_CELLS, ST_CHECKSUM, ST_END, ST_HEAD, ST_ITEMS, ST_LARGE, ST_MAGIC,
    ST_MODULE, ST_NODES, ST_PARTS, ST_START, ST_STREAM, ST_TEMPLATE, ST_VALUE, STATES, clear_key, end_value,
    is_field_expiry, key_done, name_state, note_dropped,
)
from portd.kernel.elements cimport has_last, read_cells, read_elements, read_large, read_node
from portd.kernel.encodings cimport (
    C_ARRAY, C_STREAM, C_STRING, E_NONE, E_STRING, K_LISTPACK, K_ZIPLIST, K_ZIPMAP, S_ARRAY, S_BLOB, S_ITEMS, S_MODULE,
    S_NODES, S_NUMBER, S_STREAM, S_STRING, S_TEMPLATE, encoding_of, layout_of, stream_version,
)
from portd.kernel.handler cimport P_ELEMENTS, P_SKIP, P_WHOLE
from portd.kernel.measure cimport Measure, measure_value
from portd.kernel.opcodes cimport read_magic, read_opcode, read_trailer
from portd.kernel.rare cimport begin_array, begin_template, read_array, read_module, read_template
from portd.kernel.reader cimport Cursor, R_BAD, R_LARGE, R_MORE, R_OK
from portd.kernel.rules cimport R_DATABASE
from portd.kernel.streams cimport read_stream
from portd.kernel.window cimport next_item, next_number


cdef enum:
    RAM_LRU = 107                   # opcodes that only Redis Enterprise writes
    ENTERPRISE = 121


# -- stepping ------------------------------------------------------------------------------------------------------


ctypedef int (*Step)(Decoder) except -1
cdef Step[<int>STATES] STEPS


cdef int run_decoder(Decoder self) except -1:
    """Steps until the handler has something to hand out (R_OK) or bytes run out (R_MORE)."""
    cdef int r = R_OK
    while r == R_OK and not self.out.ready:
        self.out.offset = self.base + self.start
        # By name what comes for every key: the compiler makes one function of it.
        r = _head(self) if self.state == ST_HEAD else STEPS[self.state](self)
    return r


cdef int _nothing(Decoder self) except -1:
    return R_MORE


cdef void state(int number, Step step, str name):
    STEPS[number] = step
    name_state(number, name)


cdef void fill():
    #     state         read by         in errors, where decoder.pyx has no better word
    state(ST_MAGIC, read_magic, "the magic")
    state(ST_HEAD, _head, "an opcode or a key")
    state(ST_VALUE, _value, "a value being measured")
    state(ST_START, _begin_elements, "the beginning of a value")
    state(ST_ITEMS, read_elements, "the elements of a collection")
    state(ST_NODES, read_node, "a node of a quicklist")
    state(ST_CELLS, read_cells, "an entry of a container")
    state(ST_PARTS, read_parts, "a long string")
    state(ST_LARGE, read_large, "what follows a long string in its element")
    state(ST_STREAM, read_stream, "a stream")
    state(ST_MODULE, read_module, "the data of a module")
    state(ST_ARRAY, read_array, "an element of an array")
    state(ST_TEMPLATE, read_template, "a templated hash")
    state(ST_CHECKSUM, read_trailer, "the checksum")
    state(ST_END, _nothing, None)


# -- keys ----------------------------------------------------------------------------------------------------------


cdef int _head(Decoder self) except -1:
    cdef Cursor c = self._cursor()
    cdef int op
    cdef int r
    if c.p >= c.end:
        return R_MORE
    op = c.p[0]
    if self.key.offset == <uint64_t>-1:
        self.key.offset = self.base + self.start
    if op < 0xF2:
        return _key(self, &c)
    c.p += 1
    r = read_opcode(self, &c, op)
    if r == R_OK:
        self._consume(&c)
        if op not in (0xFD, 0xFC, 0xF9, 0xF8, 0xF3):
            self.key.offset = <uint64_t>-1
    return r


cdef int _key(Decoder self, Cursor* c) except -1:
    cdef int byte = c.p[0]
    cdef int encoding = encoding_of(byte, self.valkey)
    cdef int r
    if encoding == E_NONE and not self.valkey and (byte == RAM_LRU or byte == ENTERPRISE):
        return _enterprise(self, c)
    if encoding == E_NONE:
        return self._unsupported(f"value type {byte} is not known under this magic")
    c.p += 1
    r = next_item(self, c, 0)
    if r == R_MORE:
        return R_MORE
    self.key.byte = byte
    self.key.encoding = encoding
    self.key.db = self.db
    self.layout = layout_of(encoding)
    if r == R_LARGE:
        return _long_key(self, c)
    self.key.name = self.items[0].p
    self.key.size = self.items[0].n
    if encoding == E_STRING and not self.meta:
        r = _string(self, c) if self.plain else _chosen_string(self, c)
        if r != R_LARGE:
            return r
    # The value may take many turns: keep the name.
    _keep_name(self)
    self.keys += 1
    self._consume(c)
    self.planned = False
    self.value_offset = self.base + self.start
    memset(&self.measure, 0, sizeof(Measure))
    self.state = ST_VALUE
    return R_OK


cdef int _enterprise(Decoder self, Cursor* c) except -1:
    """What Redis Enterprise says of the key that follows: one length, of no use to another server."""
    cdef uint64_t ignored = 0
    cdef int r
    c.p += 1
    r = next_number(self, c, &ignored)
    if r == R_OK:
        self._consume(c)
    return r


cdef int _string(Decoder self, Cursor* c) except -1:
    """A string key whose value is at hand is told at once, from the window."""
    cdef const unsigned char* value = c.p
    cdef int plan
    cdef int r = next_item(self, c, 1)
    if r == R_LARGE:
        c.p = value
        return R_LARGE
    if r == R_OK:
        self.key.bytes = c.p - value
        plan = self.out.plan(&self.key)
        if plan == P_WHOLE:
            self.out.raw(&self.key, value, c.p - value, NULL, 0)
        elif plan != P_SKIP:
            self.out.string(&self.key, &self.items[1])
        self.keys += 1
        self._consume(c)
        clear_key(&self.key)                # it came without metadata
    else:
        self.key.encoding = E_NONE
        self.key.name = NULL
    return r


cdef int _chosen_string(Decoder self, Cursor* c) except -1:
    """The same, where not every key is taken."""
    cdef const unsigned char* value = c.p
    cdef uint64_t begin
    cdef int plan
    cdef int r = next_item(self, c, 1)
    if r == R_LARGE:
        c.p = value
        return R_LARGE
    if r != R_OK:
        self.key.encoding = E_NONE
        self.key.name = NULL
        return r
    self.key.bytes = c.p - value
    begin = self.key.offset
    if choose(self) and fit(self, self.key.bytes):
        plan = self.out.plan(&self.key)
        if plan == P_WHOLE:
            self.out.raw(&self.key, value, c.p - value, NULL, 0)
        elif plan != P_SKIP:
            self.out.string(&self.key, &self.items[1])
        begin = <uint64_t>-1
    self.keys += 1
    self._consume(c)
    if self.sifting and begin != <uint64_t>-1:
        note_dropped(self, begin)
    clear_key(&self.key)
    return R_OK


cdef int _keep_name(Decoder self) except -1:
    cdef unsigned char* grown
    if self.name_capacity < self.key.size + 1:
        grown = <unsigned char*>PyMem_Realloc(self.name, self.key.size + 1)
        if grown == NULL:
            raise MemoryError
        self.name = grown
        self.name_capacity = self.key.size + 1
    memcpy(self.name, self.key.name, self.key.size)
    self.key.name = self.name
    return 0


cdef int _long_key(Decoder self, Cursor* c) except -1:
    """A key name above chunk_bytes cannot be repeated in every command: the key is refused."""
    self.key.name = NULL
    self.key.size = 0
    self.keys += 1
    if self.db_taken:
        self.out.keys_failed += 1
        self.out.refuse(&self.key, self.layout.name.decode(), f"its name of {self.items[0].n} bytes is longer than chunk_bytes")
    else:
        self.left_out[<int> R_DATABASE] += 1
        self.keys_filtered += 1
    self._consume(c)
    self.planned = True
    self.plan = P_SKIP
    self.value_offset = self.base + self.start
    memset(&self.measure, 0, sizeof(Measure))
    return begin_parts(self, PP_KEY, &self.items[0], False, ST_VALUE)


# -- values --------------------------------------------------------------------------------------------------------


cdef int _value(Decoder self) except -1:
    """Decides how the value will be told, measuring it first where that matters."""
    cdef Cursor c = self._cursor()
    cdef int r
    if not self.planned:
        if self.layout.shape == S_MODULE:
            r = next_number(self, &c, &self.key.module)
            if r != R_OK:
                return r
        r = _plan(self) if self.plain else _choose(self)
        if r != R_OK:
            return r
    if self.plan == P_SKIP:
        self.to = self.nothing
        self.state = ST_START
        return R_OK
    self.to = self.out
    if self.plan == P_ELEMENTS:
        return _begin(self, False)
    # A string of a whole chunk has its length in front; items of collections longer than a chunk go in parts.
    r = measure_value(
        &self.measure, self.key.encoding, self.buffer + self.start, self.stop - self.start,
        self.chunk + (64 if self.layout.shape == S_STRING else 0), self.out.whole_elements,
    )
    if r == R_BAD:
        return self._fail(f"corrupt value behind its first {self.measure.at} bytes")
    if r == R_MORE:
        return R_MORE
    if r == R_OK and (self.measure.empty or _is_empty_blob(self) or _has_empty_nodes(self)):
        # Servers skip such keys too: rdb.c, RDB_LOAD_ERR_EMPTY_KEY.
        self.keys_filtered += 1
        self.start += self.measure.at
        return key_done(self)
    if r == R_OK:
        self.key.bytes = self.measure.at
    if r == R_OK and self.plan == P_WHOLE:
        self.out.raw(
            &self.key, self.buffer + self.start, self.measure.at, self.meta, len(self.meta)
        )
        self.start += self.measure.at
        return key_done(self)
    return _begin(self, r == R_OK and _told_bytes(self) <= <uint64_t>self.out.small_bytes)


cdef int _plan(Decoder self) except -1:
    self.planned = True
    self.key.meta = len(self.meta) > 0
    self.plan = self.out.plan(&self.key)
    return R_OK


cdef int _choose(Decoder self) except -1:
    """The same, where not every key is taken."""
    cdef bint taken
    cdef int r
    if not self.chosen and not choose(self):
        taken = False
    elif self.rules is None or not self.rules.sized:
        taken = True
    else:
        r = measure_value(
            &self.sizing, self.key.encoding, self.buffer + self.start, self.stop - self.start,
            self.chunk + (64 if self.layout.shape == S_STRING else 0), <uint64_t>-1,
        )
        if r == R_MORE:
            self.chosen = True
            return R_MORE
        taken = fit(self, self.sizing.at if r == R_OK else 0)
        memset(&self.sizing, 0, sizeof(Measure))
        self.chosen = False
    if taken:
        return _plan(self)
    self.planned = True
    self.plan = P_SKIP
    self.dropping = self.sifting
    self.drop_from = self.key.offset
    return R_OK


cdef uint64_t _told_bytes(Decoder self) noexcept:
    """About how many bytes the measured value takes as commands; the key's name stands in each of them."""
    cdef uint64_t bytes = self.measure.at + self.measure.plain
    cdef uint64_t commands = 1 + bytes // 512
    if self.layout.collection == C_STREAM or self.layout.collection == C_ARRAY or has_last(self):
        commands = 1 + bytes // 8           # one command for each entry, pending entry or field with an expiry
    if self.key.size > self.out.small_name:
        commands = 1 + bytes                # the name alone may fill a command: then each element has its own
    return bytes + commands * (<uint64_t>self.key.size + 64)


cdef bint _is_empty_blob(Decoder self) noexcept:
    """A container without entries: nothing but its header and end mark, never worth compressing."""
    cdef Py_ssize_t least
    cdef Py_ssize_t prefix = 8 if self.layout.prefix[0] else 0
    if self.layout.shape != S_BLOB:
        return False
    least = 7 if self.layout.container == K_LISTPACK else 11 if self.layout.container == K_ZIPLIST else 8
    if self.layout.container == K_ZIPMAP:
        least = 2
    return self.measure.at == prefix + 1 + least and self.buffer[self.start + prefix] == least


cdef int _has_empty_nodes(Decoder self) except -1:
    """A list of nodes none of which has an entry: servers skip those when they load it."""
    cdef Cursor c = self._cursor()
    cdef uint64_t nodes = 0
    cdef int least = 7 if self.layout.container == K_LISTPACK else 11
    if self.layout.shape != S_NODES:
        return False
    next_number(self, &c, &nodes)
    while nodes:
        if self.layout.pattern[0] == b"l":
            if c.p[0] != 2:                     # an element of its own
                return False
            c.p += 1
        if c.p[0] != least:                     # the length of the container
            return False
        c.p += 1 + least
        nodes -= 1
    return True


cdef int _begin(Decoder self, bint small) except -1:
    if self.layout.shape == S_STRING:
        return _begin_string(self)
    if self.to.begin(&self.key, self.layout.collection, small):
        self.to = self.nothing
    elif self.meta:
        self.out.meta_dropped += 1
    self.state = ST_START
    return R_OK


cdef int _begin_string(Decoder self) except -1:
    """A string: whole unless it is above a chunk."""
    cdef Cursor c = self._cursor()
    cdef int r = next_item(self, &c, 1)
    if r == R_MORE:
        return R_MORE
    if self.meta:
        self.out.meta_dropped += 1
    if r == R_OK:
        self.key.bytes = c.p - self.buffer - self.start
        self.to.string(&self.key, &self.items[1])
        self._consume(&c)
        return key_done(self)
    if self.to.begin(&self.key, C_STRING, False):
        self.to = self.nothing
    self.key.elements = self.items[1].n
    self._consume(&c)
    return begin_parts(self, PP_STRING, &self.items[1], False, ST_HEAD)


cdef int _begin_elements(Decoder self) except -1:
    """Prefix and count of the value, then the state that reads its elements."""
    cdef Cursor c = self._cursor()
    cdef uint64_t ignored = 0
    cdef int r = R_OK
    cdef int shape = self.layout.shape
    self.done = 0
    self.entry_to = self.to
    if self.layout.prefix[0]:                   # d: lowest expiry
        if c.end - c.p < 8:
            return R_MORE
        self.minimum = <int64_t>le64(c.p)
        if shape == S_ITEMS and not is_field_expiry(<uint64_t>self.minimum):
            return self._fail("the lowest expiry of a hash's fields is out of range", LimitExceeded)
        c.p += 8
    if shape == S_STRING:
        r = next_item(self, &c, 1)
        if r == R_LARGE:
            self._consume(&c)
            return begin_parts(self, PP_STRING, &self.items[1], False, ST_HEAD)
        if r == R_OK:
            self._consume(&c)
            return key_done(self)
        return r
    if shape == S_BLOB:
        return open_blob(self, &c, self.layout.container, ST_CELLS)
    if shape == S_NUMBER:
        r = next_number(self, &c, &ignored)
        if r == R_OK:
            self._consume(&c)
            return end_value(self)
        return r
    if shape == S_MODULE:
        r = next_number(self, &c, &ignored)
    elif shape == S_TEMPLATE:
        return begin_template(self, &c)
    else:
        r = next_number(self, &c, &self.left)
    if r != R_OK:
        return r
    self.key.elements = self.left if shape in (S_ITEMS, S_ARRAY) else 0
    if shape == S_ARRAY:
        return begin_array(self, &c)
    self._consume(&c)
    if shape == S_STREAM:
        self.stream_version = stream_version(self.key.encoding)
        self.stream_state = SS_NODE
        self.state = ST_STREAM
    else:
        self.state = ST_ITEMS if shape == S_ITEMS else ST_NODES if shape == S_NODES else ST_MODULE
    return R_OK


fill()
