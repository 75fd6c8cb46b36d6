# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The snapshot decoder: a resumable parser of RDB bytes that tells a handler what it finds.

Read the format in rdb.c (rdbLoadRioWithLoadingCtx, rdbLoadObject) of the servers. The parser works on a bounded
window. Every step consumes something whole - an opcode, a key, an element - or nothing at all; where something is too
long to be whole in the window it is passed on in parts. So it can stop at any byte.
"""

cimport cython

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from portd.errors import ChecksumMismatch, LimitExceeded, TruncatedSnapshot, UnsupportedRdb
from portd.kernel.dialect import Dialect
from portd.kernel.output import DeadLetter

from portd.kernel.commands cimport CommandHandler
from portd.kernel.containers cimport le32, le64
from portd.kernel.dialect cimport Dialect as TargetDialect
from portd.kernel.encodings cimport (
    C_ARRAY, C_STREAM, C_STRING, E_NONE, E_STRING, K_LISTPACK, K_ZIPLIST, K_ZIPMAP, S_ARRAY, S_BLOB, S_ITEMS,
    S_MODULE, S_NODES, S_NUMBER, S_STREAM, S_STRING, S_TEMPLATE, encoding_of, layout_of, module_name, stream_version,
)
from portd.kernel.handler cimport Handler, P_ELEMENTS, P_SKIP, P_WHOLE
from portd.kernel.measure cimport Measure, measure_meta, measure_value
from portd.kernel.reader cimport Cursor, R_BAD, R_LARGE, R_MORE, R_OK
from portd.kernel.streams cimport SS_NODE, StreamReader
from portd.kernel.window cimport (
    DEFAULT_CHUNK, ITEMS, PP_KEY, PP_SKIP, PP_STRING, ST_ARRAY, ST_CELLS, ST_CHECKSUM, ST_END, ST_HEAD, ST_ITEMS,
    ST_LARGE, ST_MAGIC, ST_MODULE, ST_NODES, ST_PARTS, ST_START, ST_STREAM, ST_TEMPLATE, ST_VALUE,
)

DEFAULT_CHUNK_BYTES = DEFAULT_CHUNK


cdef enum:
    HIGHEST_REDIS = 15
    VALKEY_VERSION = 80


@cython.final
cdef class CurrentKey:
    """A key in the middle of being decoded."""

    cdef readonly int db
    cdef readonly bytes key
    cdef readonly str type
    cdef readonly uint64_t elements_done
    cdef readonly uint64_t elements_total
    cdef readonly uint64_t bytes_done


@cython.final
cdef class SnapshotDecoder(StreamReader):
    """Decodes one snapshot into batches; the stub tells how to use it."""

    cdef bint verify
    cdef CommandHandler letters         # the handler, when it keeps dead letters
    cdef int64_t margin_ms              # how far from now on expiry times are postponed
    # file
    cdef int version
    cdef bint valkey
    cdef dict aux_fields
    cdef list slots                     # half-imported slot ranges
    cdef uint64_t keys_announced
    cdef uint64_t keys
    cdef uint64_t keys_filtered
    cdef uint64_t modules_aux
    # key
    cdef unsigned char* name
    cdef Py_ssize_t name_capacity
    cdef bytes meta                     # KEY_META of the next key
    cdef uint64_t value_offset
    cdef bint planned
    cdef int plan
    cdef Measure measure

    def __cinit__(
        self, consumer not None, *, Py_ssize_t chunk_bytes=DEFAULT_CHUNK_BYTES,
        Py_ssize_t batch_bytes=131072, Py_ssize_t command_bytes=65536, uint64_t command_elements=512,
        bint skip_existing=False, bint verify_checksum=True,
    ):
        if chunk_bytes < 64 or batch_bytes < 64 or command_bytes < 64 or command_elements < 1:
            raise ValueError("sizes must be at least 64 bytes and one element")
        if isinstance(consumer, Handler):
            self.out = <Handler>consumer
        elif isinstance(consumer, TargetDialect):
            self.letters = self.out = CommandHandler(
                consumer, batch_bytes, command_bytes, command_elements, chunk_bytes,
                skip_existing=skip_existing,
            )
        else:
            raise TypeError("a decoder needs a dialect or a handler")
        self.nothing = Handler()
        self.to = self.entry_to = self.out
        self.verify = verify_checksum
        self.aux_fields = {}
        self.slots = []
        self._forget_key()

    def __dealloc__(self):
        PyMem_Free(self.name)

    # -- the interface ---------------------------------------------------------------------------------------------------

    def feed(self, const unsigned char[::1] data not None):
        return self.take_in(&data[0], data.shape[0]) if data.shape[0] else 0

    def next_batch(self):
        cdef int r = R_OK
        cdef timespec now
        clock_gettime(CLOCK_REALTIME, &now)
        self.out.now_ms = <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000
        if self.letters is not None:
            self.letters.horizon_ms = self.out.now_ms + self.margin_ms if self.letters.shift_ms else 0
        while r == R_OK and not self.out.ready:
            self.out.offset = self.base + self.start
            r = self._step()
        if r == R_MORE and self.stop - self.start == self.capacity and not self.out.ready:
            return self._fail("an item does not fit the window", LimitExceeded)
        return self.out.pop()

    def postpone(self, int64_t margin_ms, int64_t shift_ms):
        if self.letters is None:
            raise TypeError("only commands can be postponed")
        if margin_ms < 0 or shift_ms < 0:
            raise ValueError("margin_ms and shift_ms must not be negative")
        self.margin_ms = margin_ms
        self.letters.shift_ms = shift_ms

    def restrict(self, frozenset keys not None):
        if self.letters is None:
            raise TypeError("only commands can be restricted")
        self.letters.wanted = keys

    def next_output(self):
        return self.next_batch()

    def finish(self):
        if self.state != ST_END:
            raise TruncatedSnapshot("the snapshot ends before its end mark", **self._where())

    def rest(self):
        rest = self.buffer[self.start:self.stop]
        if self.state == ST_END:
            self.base += self.start
            self.start = self.stop = self.summed = 0
        return rest

    @property
    def ended(self):
        return self.state == ST_END

    @property
    def offset(self):
        return self.base + self.start

    @property
    def free(self):
        return self.capacity - (self.stop - self.start)

    @property
    def window_bytes(self):
        """The window, one chunk for every item held, the container's window, names, and the output."""
        return 2 * self.capacity + 2 * ITEMS * self.chunk + (8 << 20) + self.out.bound()

    @property
    def aux(self):
        return dict(self.aux_fields)

    @property
    def current(self):
        cdef CurrentKey current
        if self.state <= ST_HEAD or self.state >= ST_CHECKSUM or self.key.encoding == E_NONE:
            return None
        current = CurrentKey.__new__(CurrentKey)
        current.db = self.db
        current.key = self.key.name[:self.key.size] if self.key.name != NULL else b""
        current.type = layout_of(self.key.encoding).name.decode()
        current.elements_done = self.done
        current.elements_total = self.key.elements
        current.bytes_done = self.base + self.start - self.value_offset
        return current

    def statistics(self):
        cdef Py_ssize_t scratch = 0
        cdef int i
        for i in range(ITEMS):
            scratch += self.scratch_capacity[i]
        counters = {
            "keys": self.keys,
            "keys_announced": self.keys_announced,
            "keys_expired": 0,
            "keys_postponed": 0,
            "keys_filtered": self.keys_filtered + self.out.keys_left_out,
            "keys_failed": self.out.keys_failed,
            "window_used": self.stop - self.start,
            "window_capacity": self.capacity,
            "blob_capacity": self.blob_capacity,
            "output_capacity": self.out.owned(),
            "scratch_capacity": scratch + self.name_capacity + self.names_capacity + self.templates_size,
            "meta_dropped": self.out.meta_dropped,
            "modules_aux": self.modules_aux,
            "db": self.db,
        }
        self.out.add_statistics(counters)
        return counters

    def take_dead_letters(self):
        if self.letters is None:
            return []
        letters = self.letters.letters
        self.letters.letters = []
        return letters

    # -- stepping --------------------------------------------------------------------------------------------------------

    cdef int _step(self) except -1:
        if self.state == ST_HEAD:
            return self._head()
        if self.state == ST_ITEMS:
            return self._elements()
        if self.state == ST_CELLS:
            return self._cells()
        if self.state == ST_VALUE:
            return self._value()
        if self.state == ST_START:
            return self._begin_elements()
        if self.state == ST_PARTS:
            return self._parts()
        if self.state == ST_LARGE:
            return self._large()
        if self.state == ST_NODES:
            return self._node()
        if self.state == ST_STREAM:
            return self._stream()
        if self.state == ST_MODULE:
            return self._module()
        if self.state == ST_ARRAY:
            return self._array()
        if self.state == ST_TEMPLATE:
            return self._template()
        if self.state == ST_MAGIC:
            return self._magic()
        if self.state == ST_CHECKSUM:
            return self._trailer()
        return R_MORE

    cdef int _magic(self) except -1:
        cdef bytes magic
        if self.stop - self.start < 9:
            if self.stop > self.start and self.buffer[self.start] not in (b"R", b"V"):
                return self._unsupported("not an RDB snapshot: it does not begin with REDIS or VALKEY")
            return R_MORE
        magic = self.buffer[self.start:self.start + 9]
        self.valkey = magic.startswith(b"VALKEY")
        digits = magic[6 if self.valkey else 5:]
        if not (self.valkey or magic.startswith(b"REDIS")) or not digits.isdigit():
            return self._unsupported("not an RDB snapshot: it does not begin with REDIS or VALKEY")
        self.version = int(digits)
        if self.valkey != (self.version >= VALKEY_VERSION) or not (
            self.version == VALKEY_VERSION or 1 <= self.version <= HIGHEST_REDIS
        ):
            return self._unsupported(f"RDB version {magic.decode()} is not known to this build")
        self.start += 9
        self.out.valkey = self.valkey
        self.state = ST_HEAD
        return R_OK

    cdef int _trailer(self) except -1:
        cdef uint64_t stored
        if self.version >= 5:
            if self.stop - self.start < 8:
                return R_MORE
            self._checksum()
            stored = le64(self.buffer + self.start)
            # All zero: the writer had checksums off.
            if self.verify and stored and stored != self.crc:
                return self._fail("the CRC64 of the snapshot differs from the one it carries", ChecksumMismatch)
            self.start += 8
        self.state = ST_END
        self.out.finish()
        return R_MORE

    # -- opcodes -----------------------------------------------------------------------------------------------------------

    cdef int _forget_key(self) except -1:
        self.key.expire_ms = self.key.idle = -1
        self.key.freq = -1
        self.key.encoding = E_NONE
        self.key.name = NULL
        self.key.size = 0
        self.key.elements = 0
        self.key.bytes = 0
        self.key.module = 0
        self.key.offset = <uint64_t>-1
        self.meta = b""
        return 0

    cdef int _head(self) except -1:
        cdef Cursor c = self._cursor()
        cdef int op
        cdef int r
        if c.p >= c.end:
            return R_MORE
        op = c.p[0]
        if self.key.offset == <uint64_t>-1:
            self.key.offset = self.base + self.start
        if op < 0xF2:
            return self._key(&c)
        c.p += 1
        r = self._opcode(&c, op)
        if r == R_OK:
            self._consume(&c)
            if op not in (0xFD, 0xFC, 0xF9, 0xF8, 0xF3):
                self.key.offset = <uint64_t>-1
        return r

    cdef int _opcode(self, Cursor* c, int op) except -1:
        cdef uint64_t a = 0
        cdef uint64_t b = 0
        cdef int r
        if op == 0xFF:                              # EOF
            self.state = ST_CHECKSUM
            return R_OK
        if op == 0xFC:                              # EXPIRETIME_MS
            if c.end - c.p < 8:
                return R_MORE
            self.key.expire_ms = max(<int64_t>le64(c.p), 0)
            c.p += 8
            return R_OK
        if op == 0xFD:                              # EXPIRETIME, seconds
            if c.end - c.p < 4:
                return R_MORE
            self.key.expire_ms = max(<int64_t><int32_t>le32(c.p) * 1000, 0)
            c.p += 4
            return R_OK
        if op == 0xF9:                              # FREQ
            if c.p >= c.end:
                return R_MORE
            self.key.freq = c.p[0]
            c.p += 1
            return R_OK
        if op == 0xF8:                              # IDLE, seconds
            r = self._number(c, &a)
            if r == R_OK:
                self.key.idle = <int64_t>min(a, <uint64_t>1 << 40)
            return r
        if op == 0xFE:                              # SELECTDB
            r = self._number(c, &a)
            if r == R_OK:
                if a > 1 << 30:
                    return self._fail(f"database number {a}", LimitExceeded)
                self.db = <int>a
                self.out.select(self.db)
            return r
        if op == 0xFB:                              # RESIZEDB: a hint
            r = self._number(c, &a)
            if r == R_OK:
                r = self._number(c, &b)
            if r == R_OK:
                self.keys_announced += a
            return r
        if op == 0xFA:
            return self._aux(c)
        return self._rare_opcode(c, op)

    cdef int _aux(self, Cursor* c) except -1:
        cdef int r = self._item(c, 0)
        if r == R_LARGE:
            return self._fail("AUX name too long", LimitExceeded)
        if r == R_OK:
            r = self._item(c, 1)
        if r == R_LARGE:
            # A cached script of an old server, say: of no use to the target.
            return self._begin_parts(PP_SKIP, &self.items[1], False, ST_HEAD)
        if r == R_OK:
            self.out.aux(&self.items[0], &self.items[1])
        if r == R_OK and len(self.aux_fields) < 64 and self.items[0].n <= 64 and self.items[1].n <= 256:
            name = self.items[0].p[:self.items[0].n].decode("utf-8", "replace")
            self.aux_fields[name] = self.items[1].p[:self.items[1].n].decode("utf-8", "replace")
        return r

    cdef int _rare_opcode(self, Cursor* c, int op) except -1:
        cdef uint64_t a = 0
        cdef uint64_t b = 0
        cdef uint64_t d = 0
        cdef Py_ssize_t size = 0
        cdef int r
        if op == 0xF5:                              # FUNCTION2
            r = self._item(c, 0)
            if r == R_MORE:
                return R_MORE
            self.out.function(&self.items[0])
            return self._begin_parts(PP_SKIP, &self.items[0], False, ST_HEAD) if r == R_LARGE else R_OK
        if op == 0xF6:
            return self._unsupported("functions in the format of a 7.0 release candidate")
        if op == 0xF4:                              # SLOT_INFO: a hint
            r = self._number(c, &a)
            if r == R_OK:
                r = self._number(c, &b)
            return self._number(c, &d) if r == R_OK else r
        if op == 0xF7:                              # MODULE_AUX: id, tag 2, when, items
            r = self._number(c, &a)
            if r == R_OK:
                r = self._number(c, &b)
            if r == R_OK:
                r = self._number(c, &d)
            if r == R_OK:
                self.modules_aux += 1
                self.out.refuse(NULL, f"module {module_name(a)}", "auxiliary module data cannot be replicated")
                self.state = ST_MODULE
            return r
        if op == 0xF3 and not self.valkey:          # KEY_META
            r = measure_meta(c.p, c.end - c.p, self.chunk, &size)
            if r == R_BAD:
                return self._fail("corrupt key metadata")
            if r == R_LARGE:
                return self._fail("key metadata larger than chunk_bytes", LimitExceeded)
            if r == R_OK:
                self.meta = (c.p - 1)[:size + 1]
                c.p += size
            return r
        if op == 0xF3:
            return self._slot_import(c)
        if not self.valkey:
            return self._remember_template(c)
        return self._unsupported(f"opcode {op} of a Valkey development version")

    cdef int _slot_import(self, Cursor* c) except -1:
        """Ranges of slots that were being imported: their keys are incomplete and will come again from their owner."""
        cdef uint64_t n = 0
        cdef uint64_t first = 0
        cdef uint64_t last = 0
        cdef list ranges = []
        cdef int r = self._item(c, 0)
        if r == R_OK:
            r = self._number(c, &n)
        if r == R_LARGE or n > 16384:
            return self._fail("bad slot import", LimitExceeded)
        while r == R_OK and n:
            r = self._number(c, &first)
            if r == R_OK:
                r = self._number(c, &last)
            ranges.append((first, last))
            n -= 1
        if r == R_OK:
            self.slots.extend(ranges)
        return r


    # -- keys ----------------------------------------------------------------------------------------------------------------

    cdef int _key(self, Cursor* c) except -1:
        cdef int byte = c.p[0]
        cdef int encoding = encoding_of(byte, self.valkey)
        cdef int r
        if encoding == E_NONE:
            return self._unsupported(f"value type {byte} is not known under this magic")
        c.p += 1
        r = self._item(c, 0)
        if r == R_MORE:
            return R_MORE
        self.key.byte = byte
        self.key.encoding = encoding
        self.key.db = self.db
        self.layout = layout_of(encoding)
        if r == R_LARGE:
            return self._long_key(c)
        self.key.name = self.items[0].p
        self.key.size = self.items[0].n
        if encoding == E_STRING and not self.slots and not self.meta:
            r = self._string(c)
            if r != R_LARGE:
                return r
        # The value may take many turns: keep the name.
        self._keep_name()
        self.keys += 1
        self._consume(c)
        self.planned = False
        self.value_offset = self.base + self.start
        memset(&self.measure, 0, sizeof(Measure))
        self.state = ST_VALUE
        return R_OK

    cdef int _string(self, Cursor* c) except -1:
        """A string key whose value is at hand is told at once, from the window."""
        cdef const unsigned char* value = c.p
        cdef int plan
        cdef int r = self._item(c, 1)
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
            self._forget_key()
        else:
            self.key.encoding = E_NONE
            self.key.name = NULL
        return r

    cdef int _keep_name(self) except -1:
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

    cdef int _long_key(self, Cursor* c) except -1:
        """A key name above chunk_bytes cannot be repeated in every command: the key is refused."""
        self.key.name = NULL
        self.key.size = 0
        self.keys += 1
        self.out.keys_failed += 1
        self.out.refuse(&self.key, self.layout.name.decode(), f"its name of {self.items[0].n} bytes is longer than chunk_bytes")
        self._consume(c)
        self.planned = True
        self.plan = P_SKIP
        self.value_offset = self.base + self.start
        memset(&self.measure, 0, sizeof(Measure))
        return self._begin_parts(PP_KEY, &self.items[0], False, ST_VALUE)

    cdef int _value(self) except -1:
        """Decides how the value will be told, measuring it first where that matters."""
        cdef Cursor c = self._cursor()
        cdef int r
        if not self.planned:
            if self.layout.shape == S_MODULE:
                r = self._number(&c, &self.key.module)
                if r != R_OK:
                    return r
            self._plan()
        if self.plan == P_SKIP:
            self.to = self.nothing
            self.state = ST_START
            return R_OK
        self.to = self.out
        if self.plan == P_ELEMENTS:
            return self._begin(False)
        # A string of a whole chunk has its length in front; items of collections longer than a chunk go in parts.
        r = measure_value(
            &self.measure, self.key.encoding, self.buffer + self.start, self.stop - self.start,
            self.chunk + (64 if self.layout.shape == S_STRING else 0), self.out.whole_elements,
        )
        if r == R_BAD:
            return self._fail("corrupt value")
        if r == R_MORE:
            return R_MORE
        if r == R_OK and (self.measure.empty or self._is_empty_blob()):
            # Servers skip such keys too: rdb.c, RDB_LOAD_ERR_EMPTY_KEY.
            self.keys_filtered += 1
            self.start += self.measure.at
            return self._key_done()
        if r == R_OK:
            self.key.bytes = self.measure.at
        if r == R_OK and self.plan == P_WHOLE:
            self.out.raw(
                &self.key, self.buffer + self.start, self.measure.at, self.meta, len(self.meta)
            )
            self.start += self.measure.at
            return self._key_done()
        return self._begin(r == R_OK and self._told_bytes() <= <uint64_t>self.out.small_bytes)

    cdef uint64_t _told_bytes(self) noexcept:
        """About how many bytes the measured value takes as commands; the key's name stands in each of them."""
        cdef uint64_t bytes = self.measure.at + self.measure.plain
        cdef uint64_t commands = 1 + bytes // 512
        if self.layout.collection == C_STREAM or self.layout.collection == C_ARRAY or self._has_last():
            commands = 1 + bytes // 8           # one command for each entry, pending entry or field with an expiry
        return bytes + commands * (<uint64_t>self.key.size + 64)

    cdef bint _is_empty_blob(self) noexcept:
        """A container without entries: nothing but its header and end mark, never worth compressing."""
        cdef Py_ssize_t least
        cdef Py_ssize_t prefix = 8 if self.layout.prefix[0] else 0
        if self.layout.shape != S_BLOB:
            return False
        least = 7 if self.layout.container == K_LISTPACK else 11 if self.layout.container == K_ZIPLIST else 8
        if self.layout.container == K_ZIPMAP:
            least = 2
        return self.measure.at == prefix + 1 + least and self.buffer[self.start + prefix] == least

    cdef int _plan(self) except -1:
        self.planned = True
        self.key.meta = len(self.meta) > 0
        if self.slots and self._half_imported():
            self.keys_filtered += 1
            self.plan = P_SKIP
            return 0
        self.plan = self.out.plan(&self.key)
        return 0

    cdef bint _half_imported(self) except -1:
        slot = key_slot(self.key.name[:self.key.size])
        for first, last in self.slots:
            if first <= slot <= last:
                return True
        return False

    cdef int _begin(self, bint small) except -1:
        if self.layout.shape == S_STRING:
            return self._begin_string()
        if self.to.begin(&self.key, self.layout.collection, small):
            self.to = self.nothing
        elif self.meta:
            self.out.meta_dropped += 1
        self.state = ST_START
        return R_OK

    cdef int _begin_string(self) except -1:
        """A string: whole unless it is above a chunk."""
        cdef Cursor c = self._cursor()
        cdef int r = self._item(&c, 1)
        if r == R_MORE:
            return R_MORE
        if self.meta:
            self.out.meta_dropped += 1
        if r == R_OK:
            self.key.bytes = c.p - self.buffer - self.start
            self.to.string(&self.key, &self.items[1])
            self._consume(&c)
            return self._key_done()
        if self.to.begin(&self.key, C_STRING, False):
            self.to = self.nothing
        self.key.elements = self.items[1].n
        self._consume(&c)
        return self._begin_parts(PP_STRING, &self.items[1], False, ST_HEAD)

    cdef int _key_done(self) except -1:
        self._forget_key()
        self.state = ST_HEAD
        return R_OK

    cdef int _end_value(self) except -1:
        self.key.bytes = self.base + self.start - self.value_offset
        self.to.end(&self.key)
        return self._key_done()

    cdef int _begin_elements(self) except -1:
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
            c.p += 8
        if shape == S_STRING:
            r = self._item(&c, 1)
            if r == R_LARGE:
                self._consume(&c)
                return self._begin_parts(PP_STRING, &self.items[1], False, ST_HEAD)
            if r == R_OK:
                self._consume(&c)
                return self._key_done()
            return r
        if shape == S_BLOB:
            return self._open_blob(&c, self.layout.container, ST_CELLS)
        if shape == S_NUMBER:
            r = self._number(&c, &ignored)
            if r == R_OK:
                self._consume(&c)
                return self._end_value()
            return r
        if shape == S_MODULE:
            r = self._number(&c, &ignored)
        elif shape == S_TEMPLATE:
            return self._begin_template(&c)
        else:
            r = self._number(&c, &self.left)
        if r != R_OK:
            return r
        self.key.elements = self.left if shape in (S_ITEMS, S_ARRAY) else 0
        if shape == S_ARRAY:
            return self._begin_array(&c)
        self._consume(&c)
        if shape == S_STREAM:
            self.stream_version = stream_version(self.key.encoding)
            self.stream_state = SS_NODE
            self.state = ST_STREAM
        else:
            self.state = ST_ITEMS if shape == S_ITEMS else ST_NODES if shape == S_NODES else ST_MODULE
        return R_OK


cdef int key_slot(bytes key) except -1:
    """Cluster slot of a key: CRC16/XMODEM of the hash tag or of all of it (cluster.c:keyHashSlot)."""
    cdef unsigned int crc = 0
    opening = key.find(b"{")
    if opening >= 0:
        closing = key.find(b"}", opening + 1)
        if closing > opening + 1:
            key = key[opening + 1:closing]
    for byte in key:
        crc ^= <unsigned int>byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021) & 0xFFFF if crc & 0x8000 else (crc << 1) & 0xFFFF
    return crc & 0x3FFF
