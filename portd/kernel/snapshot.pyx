# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The snapshot decoder: a resumable parser of RDB bytes that tells a handler what it finds.

Read the format in rdb.c (rdbLoadRioWithLoadingCtx, rdbLoadObject) of the servers. The parser works on a bounded
window. Every step consumes something whole - an opcode, a key, an element - or nothing at all; where something is too
long to be whole in the window it is passed on in parts. So it can stop at any byte.
"""

cimport cython

from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.math cimport isinf, isnan, signbit
from libc.stdint cimport int32_t, int64_t, uint16_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memmove, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from portd.errors import ChecksumMismatch, DecodeError, LimitExceeded, TruncatedSnapshot, UnsupportedRdb
from portd.kernel.batch import Batch
from portd.kernel.commands import DeadLetter
from portd.kernel.dialect import Dialect

from portd.kernel.commands cimport CommandHandler, module_name
from portd.kernel.containers cimport (
    CELL_BAD, CELL_END, CELL_MORE, CELL_OK, Cell, be64, le16, le32, le64, listpack_cell, little_signed, zipmap_cell,
    ziplist_cell,
)
from portd.kernel.crc64 cimport crc64_update
from portd.kernel.dialect cimport Dialect as CDialect
from portd.kernel.encodings cimport (
    C_ARRAY, C_HASH, C_LIST, C_MODULE, C_OTHER, C_SET, C_STREAM, C_STRING, C_ZSET, E_HASH_TTL, E_HASH_TTL_RC,
    E_HASH_TTL_VALKEY, E_NONE, E_STRING, E_TEMPLATE_ITEMS, E_TEMPLATE_ITEMS_REF, E_TEMPLATE_LISTPACK,
    E_TEMPLATE_LISTPACK_REF, K_INTSET, K_LISTPACK, K_NONE, K_ZIPLIST, K_ZIPMAP, S_ARRAY, S_BLOB, S_ITEMS, S_MODULE,
    S_NODES, S_NUMBER, S_STREAM, S_STRING, S_TEMPLATE, Layout, encoding_of, layout_of, stream_version,
)
from portd.kernel.handler cimport (
    F_LZF_PARTS, F_RAW_PARTS, F_WHOLE, Handler, Item, Key, P_ELEMENTS, P_SKIP, P_SMALL, P_WHOLE, StreamMeta,
)
from portd.kernel.lzf cimport LzfStream, lzf_whole
from portd.kernel.measure cimport Measure, measure_meta, measure_value
from portd.kernel.reader cimport (
    Cursor, NOT_SPECIAL, R_BAD, R_END, R_LARGE, R_MORE, R_OK, read_number, read_string_head,
)
from portd.kernel.writer cimport NUMBER_BYTES, portd_format_i64, portd_format_u64

DEFAULT_CHUNK_BYTES = 1 << 20


cdef enum:
    ITEMS = 4                       # strings of one element that are held at once
    PART_BYTES = 65536              # of a long item, told at a time
    READ_AHEAD = 262144             # window room beyond two chunks
    RESTORE_ELEMENTS = 16384        # a collection of more is not restored in one command: it would block the target
    HIGHEST_REDIS = 15
    VALKEY_VERSION = 80
    TEMPLATES_BYTES = 4 << 20       # field names of hash templates kept for the whole snapshot


cdef enum State:
    ST_MAGIC = 0
    ST_HEAD                         # an opcode or a key
    ST_VALUE                        # the key is known: how will its value be told?
    ST_START                        # prefix and counts of a value told by elements
    ST_ITEMS                        # elements that stand directly in the snapshot
    ST_NODES                        # next node of a quicklist
    ST_CELLS                        # elements in a container
    ST_PARTS                        # a long item goes through
    ST_LARGE                        # what follows a long item in its element
    ST_STREAM                       # see StreamState
    ST_MODULE                       # module items, stepped over
    ST_ARRAY
    ST_TEMPLATE                     # values of a hash template
    ST_CHECKSUM
    ST_END


cdef enum StreamState:
    SS_NODE = 0                     # master id and listpack
    SS_MASTER                       # count, deleted, number of fields
    SS_NAMES                        # the master entry's field names
    SS_ENTRY                        # flags and id
    SS_COUNT                        # number of fields of an entry with its own names
    SS_FIELDS
    SS_CLOSE                        # the entry's cell count
    SS_META
    SS_GROUP
    SS_PENDING
    SS_CONSUMERS
    SS_CONSUMER
    SS_OWNED
    SS_NACKED
    SS_DEDUP
    SS_PRODUCER
    SS_MESSAGE
    SS_TOTALS


cdef enum PartPurpose:
    PP_SKIP = 0                     # nobody wants it
    PP_STRING                       # the value of a string key
    PP_ITEM                         # an item of an element: ST_LARGE goes on
    PP_ENTRY                        # an item of a stream entry: SS_FIELDS goes on
    PP_KEY                          # a key name too long to hold


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
cdef class SnapshotDecoder:
    """Decodes one snapshot into batches; the stub tells how to use it."""

    cdef CommandHandler commands
    cdef Handler nothing
    cdef Handler to                     # who is told of the value in progress
    cdef bint verify
    cdef Py_ssize_t chunk
    # window
    cdef unsigned char* buffer
    cdef Py_ssize_t start
    cdef Py_ssize_t stop
    cdef Py_ssize_t capacity
    cdef uint64_t base                  # snapshot offset of buffer[0]
    cdef Py_ssize_t summed              # bytes of the window that are in crc already
    cdef uint64_t crc
    # file
    cdef int state
    cdef int version
    cdef bint valkey
    cdef int db
    cdef dict aux_fields
    cdef dict templates
    cdef Py_ssize_t templates_size
    cdef list slots                     # half-imported slot ranges
    cdef uint64_t keys_announced
    cdef uint64_t keys
    cdef uint64_t keys_filtered
    cdef uint64_t modules_aux
    # key
    cdef Key key
    cdef unsigned char* name
    cdef Py_ssize_t name_capacity
    cdef bytes meta                     # KEY_META of the next key
    cdef uint64_t value_offset
    cdef bint planned
    cdef int plan
    cdef Measure measure
    # value
    cdef const Layout* layout
    cdef uint64_t left                  # elements, nodes or values still to come
    cdef uint64_t done
    cdef int64_t minimum                # of E_HASH_TTL
    cdef Item[ITEMS] items
    cdef unsigned char* scratch[ITEMS]
    cdef Py_ssize_t[ITEMS] scratch_capacity
    cdef char[ITEMS][32] digits
    cdef int64_t[ITEMS] number
    cdef bint[ITEMS] is_number
    # part
    cdef int part_purpose
    cdef int part_form
    cdef bint part_in_blob
    cdef uint64_t part_size
    cdef uint64_t part_left
    cdef uint64_t part_packed
    cdef Py_ssize_t part_tail
    cdef int after_part                 # state to go on with
    cdef int large_at                   # next op or cell of the element with a long item
    cdef uint64_t large_number          # length op that came before the strings
    cdef LzfStream lzf
    # container
    cdef int container
    cdef unsigned char* blob
    cdef Py_ssize_t blob_start
    cdef Py_ssize_t blob_stop
    cdef Py_ssize_t blob_capacity
    cdef Py_ssize_t blob_next           # where the cells taken end
    cdef uint64_t blob_left             # plain bytes not yet in blob
    cdef uint64_t blob_packed           # compressed bytes not yet read
    cdef int blob_form
    cdef uint64_t blob_size
    cdef int int_width
    cdef uint64_t int_left
    cdef bint opened                    # the container's header was read
    cdef Cell cell
    # stream
    cdef int stream_state
    cdef int stream_version
    cdef uint64_t master_ms
    cdef uint64_t master_seq
    cdef uint64_t entry_ms
    cdef uint64_t entry_seq
    cdef uint64_t entries
    cdef uint64_t fields_left
    cdef bint same_fields
    cdef bint name_turn
    cdef uint64_t groups
    cdef uint64_t consumers
    cdef uint64_t ids
    cdef uint64_t producers
    cdef unsigned char* names
    cdef Py_ssize_t names_size
    cdef Py_ssize_t names_capacity
    cdef Py_ssize_t names_at
    cdef uint64_t names_count
    cdef Handler entry_to
    # module
    cdef int module_step
    # template
    cdef list template
    cdef Py_ssize_t template_at
    cdef int template_step

    def __cinit__(
        self, CDialect dialect not None, *, Py_ssize_t chunk_bytes=DEFAULT_CHUNK_BYTES, Py_ssize_t batch_bytes=131072,
        Py_ssize_t command_bytes=65536, uint64_t command_elements=512, bint skip_existing=False,
        bint verify_checksum=True,
    ):
        if chunk_bytes < 64 or batch_bytes < 64 or command_bytes < 64 or command_elements < 1:
            raise ValueError("sizes must be at least 64 bytes and one element")
        self.commands = CommandHandler(
            dialect, batch_bytes, command_bytes, command_elements, chunk_bytes, skip_existing
        )
        self.nothing = Handler()
        self.to = self.entry_to = self.commands
        self.verify = verify_checksum
        self.chunk = chunk_bytes
        self.capacity = 2 * chunk_bytes + READ_AHEAD
        self.buffer = <unsigned char*>PyMem_Malloc(self.capacity)
        if self.buffer == NULL:
            raise MemoryError
        self.lzf = LzfStream()
        self.aux_fields = {}
        self.templates = {}
        self.slots = []
        self.db = 0
        self._forget_key()

    def __dealloc__(self):
        cdef int i
        PyMem_Free(self.buffer)
        PyMem_Free(self.name)
        PyMem_Free(self.blob)
        PyMem_Free(self.names)
        for i in range(ITEMS):
            PyMem_Free(self.scratch[i])

    # -- the interface ---------------------------------------------------------------------------------------------------

    def feed(self, const unsigned char[::1] data not None):
        cdef Py_ssize_t size = data.shape[0]
        if size == 0:
            return 0
        if self.capacity - self.stop < size and self.start:
            self._checksum()
            memmove(self.buffer, self.buffer + self.start, self.stop - self.start)
            self.base += self.start
            self.stop -= self.start
            self.summed = self.start = 0
        size = min(size, self.capacity - self.stop)
        if size:
            memcpy(self.buffer + self.stop, &data[0], size)
            self.stop += size
        return size

    def next_batch(self):
        cdef int r = R_OK
        cdef timespec now
        clock_gettime(CLOCK_REALTIME, &now)
        self.commands.now_ms = <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000
        while r == R_OK and not self.commands.ready:
            self.commands.offset = self.base + self.start
            r = self._step()
        return self.commands.pop()

    def finish(self):
        if self.state != ST_END:
            raise TruncatedSnapshot("the snapshot ends before its end mark", **self._where())

    def rest(self):
        rest = self.buffer[self.start:self.stop]
        if self.state == ST_END:
            self.base += self.stop - self.start
            self.start = self.stop = 0
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
        cdef Py_ssize_t batch = 3 * self.commands.batch_bytes + 3 * self.commands.command_bytes
        return 2 * self.capacity + (2 * ITEMS + 4) * self.chunk + 4 * batch + (16 << 20)

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
        cdef CommandHandler out = self.commands
        cdef Py_ssize_t scratch = 0
        cdef int i
        for i in range(ITEMS):
            scratch += self.scratch_capacity[i]
        return {
            "keys": self.keys,
            "keys_announced": self.keys_announced,
            "keys_expired": out.keys_expired,
            "keys_filtered": self.keys_filtered,
            "keys_failed": out.keys_failed,
            "elements": out.elements_total,
            "batches": out.batches_total,
            "dead_letters": out.letters_total,
            "window_used": self.stop - self.start,
            "window_capacity": self.capacity,
            "blob_capacity": self.blob_capacity,
            "output_used": out.out.used,
            "output_capacity": out.owned(),
            "scratch_capacity": scratch + self.name_capacity + self.names_capacity + self.templates_size,
            "idle_dropped": out.idle_dropped,
            "freq_dropped": out.freq_dropped,
            "meta_dropped": out.meta_dropped,
            "field_ttl_dropped": out.field_ttl_dropped,
            "stream_meta_dropped": out.stream_meta_dropped,
            "modules_aux": self.modules_aux,
            "functions": out.functions,
            "db": self.db,
        }

    def take_dead_letters(self):
        letters = self.commands.letters
        self.commands.letters = []
        return letters

    # -- errors ----------------------------------------------------------------------------------------------------------

    cdef dict _where(self):
        inside = self.key.encoding != E_NONE and self.state not in (ST_MAGIC, ST_CHECKSUM, ST_END)
        return {
            "offset": self.base + self.start,
            "db": self.db,
            "key": self.key.name[:self.key.size] if inside and self.key.name != NULL else None,
            "type": layout_of(self.key.encoding).name.decode() if inside else None,
        }

    cdef int _fail(self, str message, object error=DecodeError) except -1:
        hint = None if error is not DecodeError else (
            "the snapshot is corrupt or this build misreads it; nothing behind this byte was applied"
        )
        raise error(message, hint=hint, **self._where())

    cdef int _unsupported(self, str message) except -1:
        return self._fail(message, UnsupportedRdb)

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

    cdef inline Cursor _cursor(self) noexcept:
        cdef Cursor c
        c.p = self.buffer + self.start
        c.end = self.buffer + self.stop
        return c

    cdef inline void _consume(self, Cursor* c) noexcept:
        self.start = c.p - self.buffer

    cdef void _checksum(self) noexcept:
        self.crc = crc64_update(self.crc, self.buffer + self.summed, self.start - self.summed)
        self.summed = self.start

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
        self.commands.finish()
        return R_MORE

    # -- strings ---------------------------------------------------------------------------------------------------------

    cdef int _room(self, int i, Py_ssize_t size) except -1:
        """Scratch memory of at least *size* bytes for item *i*."""
        cdef unsigned char* grown
        if self.scratch_capacity[i] < size:
            size = min(max(size, 2 * self.scratch_capacity[i]), max(size, self.chunk))
            grown = <unsigned char*>PyMem_Realloc(self.scratch[i], size)
            if grown == NULL:
                raise MemoryError
            self.scratch[i] = grown
            self.scratch_capacity[i] = size
        return 0

    cdef int _item(self, Cursor* c, int i) except -2:
        """Reads a string into item *i*: R_OK whole; R_LARGE only its head, `form` says how the rest comes; R_MORE."""
        cdef const unsigned char* begin = c.p
        cdef uint64_t packed = 0
        cdef int special = NOT_SPECIAL
        cdef Item* item = &self.items[i]
        cdef int r = read_string_head(c, &item.n, &packed, &special)
        if r != R_OK:
            return self._fail("bad string length") if r == R_BAD else r
        if special == NOT_SPECIAL:
            if item.n > <uint64_t>self.chunk:
                item.form = F_RAW_PARTS
                return R_LARGE
            if <uint64_t>(c.end - c.p) < item.n:
                c.p = begin
                return R_MORE
            item.p = c.p
            item.form = F_WHOLE
            c.p += item.n
            return R_OK
        if special == 3:
            return self._packed_item(c, begin, item, packed, i)
        if c.end - c.p < <Py_ssize_t>item.n:
            c.p = begin
            return R_MORE
        item.p = <unsigned char*>self.digits[i]
        item.form = F_WHOLE
        special = <int>item.n
        item.n = portd_format_i64(self.digits[i], little_signed(c.p, special))
        c.p += special
        return R_OK

    cdef int _packed_item(self, Cursor* c, const unsigned char* begin, Item* item, uint64_t packed, int i) except -2:
        if packed == 0 or packed > 2 * item.n + 16:
            return self._fail(f"LZF string of {packed} bytes claims to hold {item.n}")
        if item.n // 264 > packed:          # the longest match: 3 bytes become 264
            return self._fail(f"LZF string of {packed} bytes cannot hold {item.n}")
        if item.n > <uint64_t>self.chunk or packed > <uint64_t>self.chunk:
            item.form = F_LZF_PARTS
            item.packed = packed
            return R_LARGE
        if <uint64_t>(c.end - c.p) < packed:
            c.p = begin
            return R_MORE
        self._room(i, item.n)
        if lzf_whole(c.p, packed, self.scratch[i], item.n):
            return self._fail("corrupt LZF string")
        item.p = self.scratch[i]
        item.form = F_WHOLE
        c.p += packed
        return R_OK

    cdef int _number(self, Cursor* c, uint64_t* value) except -2:
        cdef int r = read_number(c, value)
        return self._fail("bad length") if r == R_BAD else r

    # -- parts of long items -----------------------------------------------------------------------------------------------

    cdef int _begin_parts(self, int purpose, Item* item, bint in_blob, int after) except -1:
        self.part_purpose = purpose
        self.part_form = F_RAW_PARTS if in_blob else item.form
        self.part_in_blob = in_blob
        self.part_size = self.part_left = item.n
        self.part_packed = item.packed
        self.part_tail = self.cell.tail if in_blob else 0
        self.after_part = after
        self.state = ST_PARTS
        if self.part_form == F_LZF_PARTS:
            self.lzf.reset()
        return R_OK

    cdef int _parts(self) except -1:
        cdef const unsigned char* p
        cdef Py_ssize_t n
        cdef int r
        while self.part_left:
            if self.commands.ready:
                return R_OK
            if self.part_in_blob:
                if self.blob_start == self.blob_stop:
                    r = self._refill()
                    if r != R_OK:
                        return r
                p = self.blob + self.blob_start
                n = self._part_bytes(self.blob_stop - self.blob_start)
                self.blob_start += n
            elif self.part_form == F_LZF_PARTS:
                if self.lzf.available() == 0:
                    r = self._unpack(&self.part_packed)
                    if r != R_OK:
                        return r
                p = self.lzf.buffer + self.lzf.taken
                n = self._part_bytes(self.lzf.available())
                self.lzf.taken += n
            else:
                if self.start == self.stop:
                    return R_MORE
                p = self.buffer + self.start
                n = self._part_bytes(self.stop - self.start)
                self.start += n
            self._tell_part(p, n)
            self.part_left -= n
        if self.part_form == F_LZF_PARTS and (self.part_packed or self.lzf.available()):
            return self._fail("an LZF string holds more than it announced")
        while self.part_tail:
            if self.blob_start == self.blob_stop:
                r = self._refill()
                if r != R_OK:
                    return r
            n = min(self.part_tail, self.blob_stop - self.blob_start)
            self.blob_start += n
            self.part_tail -= n
        return self._end_parts()

    cdef inline Py_ssize_t _part_bytes(self, Py_ssize_t available) noexcept:
        return <Py_ssize_t>min(<uint64_t>min(available, <Py_ssize_t>PART_BYTES), self.part_left)

    cdef int _unpack(self, uint64_t* packed) except -1:
        """Lets the LZF stream produce more from the window; R_MORE when the window is empty."""
        cdef Py_ssize_t available = <Py_ssize_t>min(<uint64_t>(self.stop - self.start), packed[0])
        cdef Py_ssize_t n
        if packed[0] == 0 and not self.lzf.literals and not self.lzf.match:
            return self._fail("an LZF string ends before its announced size")
        n = self.lzf.run(self.buffer + self.start, available)
        if n == -2:
            raise MemoryError
        if n < 0:
            return self._fail("corrupt LZF string")
        self.start += n
        packed[0] -= n
        if self.lzf.available():
            return R_OK
        if <uint64_t>available == packed[0] + n:
            return self._fail("an LZF string ends before its announced size")
        return R_MORE

    cdef int _tell_part(self, const unsigned char* p, Py_ssize_t n) except -1:
        if self.part_purpose == PP_STRING:
            return self.to.string_part(p, n, self.part_size - self.part_left, self.part_size)
        if self.part_purpose == PP_ITEM:
            return self.to.large_data(p, n)
        if self.part_purpose == PP_ENTRY:
            return self.entry_to.large_data(p, n)
        return 0

    cdef int _end_parts(self) except -1:
        self.state = self.after_part
        if self.part_purpose == PP_STRING:
            return self._end_value()
        if self.part_purpose == PP_ITEM:
            self.to.large_item_end()
        elif self.part_purpose == PP_ENTRY:
            self.entry_to.large_item_end()
        return R_OK

    # -- opcodes -----------------------------------------------------------------------------------------------------------

    cdef int _forget_key(self) except -1:
        self.key.expire_ms = self.key.idle = -1
        self.key.freq = -1
        self.key.encoding = E_NONE
        self.key.name = NULL
        self.key.size = 0
        self.key.elements = 0
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
                self.commands.select(self.db)
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
            self.commands.function(&self.items[0])
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
                self.commands.refuse(NULL, f"module {module_name(a)}", "auxiliary module data cannot be replicated")
                self.module_step = 0
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

    cdef int _remember_template(self, Cursor* c) except -1:
        """HASH_TEMPLATE: the field names that values of types 30 and 32 refer to."""
        cdef uint64_t id = 0
        cdef uint64_t n = 0
        cdef list fields = []
        cdef Py_ssize_t size = 0
        cdef int r = self._number(c, &id)
        if r == R_OK:
            r = self._number(c, &n)
        while r == R_OK and n:
            r = self._item(c, 0)
            if r == R_OK:
                fields.append(self.items[0].p[:self.items[0].n])
                size += self.items[0].n + 64
            if r == R_LARGE or self.templates_size + size > TEMPLATES_BYTES:
                return self._fail("hash templates take too much memory", LimitExceeded)
            n -= 1
        if r == R_OK:
            self.templates[id] = fields
            self.templates_size += size
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
        cdef int r = self._item(c, 1)
        if r == R_LARGE:
            c.p = value
            return R_LARGE
        if r == R_OK:
            if self.commands.plan(&self.key) == P_WHOLE:
                self.commands.raw(&self.key, value, c.p - value, NULL, 0)
            else:
                self.commands.string(&self.key, &self.items[1])
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
        self.commands.keys_failed += 1
        self.commands.refuse(&self.key, self.layout.name.decode(), f"its name of {self.items[0].n} bytes is longer than chunk_bytes")
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
        self.to = self.commands
        if self.plan == P_ELEMENTS:
            return self._begin(False)
        r = measure_value(
            &self.measure, self.key.encoding, self.buffer + self.start, self.stop - self.start, self.chunk + 64,
            RESTORE_ELEMENTS,
        )
        if r == R_BAD:
            return self._fail("corrupt value")
        if r == R_MORE:
            return R_MORE
        if r == R_OK and self.measure.empty:
            # Servers skip such keys too: rdb.c, RDB_LOAD_ERR_EMPTY_KEY.
            self.keys_filtered += 1
            self.start += self.measure.at
            return self._key_done()
        if r == R_OK and self.plan == P_WHOLE:
            self.commands.raw(
                &self.key, self.buffer + self.start, self.measure.at, self.meta, len(self.meta)
            )
            self.start += self.measure.at
            return self._key_done()
        return self._begin(r == R_OK and self.measure.at <= self.commands.batch_bytes)

    cdef int _plan(self) except -1:
        self.planned = True
        if self.slots and self._half_imported():
            self.keys_filtered += 1
            self.plan = P_SKIP
            return 0
        self.plan = self.commands.plan(&self.key)
        if self.plan == P_SKIP:
            self.commands.keys_failed += 1
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
            self.commands.keys_failed += 1
            self.to = self.nothing
        if self.meta:
            self.commands.meta_dropped += 1
        self.state = ST_START
        return R_OK

    cdef int _begin_string(self) except -1:
        """A string: whole unless it is above a chunk."""
        cdef Cursor c = self._cursor()
        cdef int r = self._item(&c, 1)
        if r == R_MORE:
            return R_MORE
        if r == R_OK:
            self.to.string(&self.key, &self.items[1])
            self._consume(&c)
            return self._key_done()
        self.to.begin(&self.key, C_STRING, False)
        self.key.elements = self.items[1].n
        self._consume(&c)
        return self._begin_parts(PP_STRING, &self.items[1], False, ST_HEAD)

    cdef int _key_done(self) except -1:
        self._forget_key()
        self.state = ST_HEAD
        return R_OK

    cdef int _end_value(self) except -1:
        self.to.end(&self.key)
        return self._key_done()

    # -- elements ------------------------------------------------------------------------------------------------------------

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
            self.module_step = 0
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

    cdef int _elements(self) except -1:
        """Elements that stand one after another in the window, as the layout's pattern says."""
        cdef Cursor c = self._cursor()
        cdef const char* op
        cdef uint64_t number = 0
        cdef int i
        cdef int r
        while self.left:
            if self.commands.ready:
                return R_OK
            op = self.layout.pattern
            i = 0
            while op[0]:
                if op[0] == b"s":
                    r = self._item(&c, i)
                    i += 1
                elif op[0] == b"l":
                    r = self._number(&c, &number)
                elif op[0] == b"d":
                    r = R_MORE if c.end - c.p < 8 else R_OK
                    if r == R_OK:
                        number = le64(c.p)
                        c.p += 8
                else:
                    r = self._score_text(&c)
                if r != R_OK:
                    if r == R_LARGE:
                        return self._long_in_items(&c, op - self.layout.pattern, i - 1, number)
                    return r
                op += 1
            self._tell(number)
            self._consume(&c)
            self.left -= 1
            self.done += 1
        return self._end_value()

    cdef int _tell(self, uint64_t number) except -1:
        cdef int collection = self.layout.collection
        if collection == C_HASH:
            return self.to.field(&self.items[0], &self.items[1], self._expiry(number))
        if collection == C_ZSET:
            if self.layout.pattern[1] == b"d":
                self._score(number)
            return self.to.scored(&self.items[0], &self.items[1])
        return self.to.element(&self.items[0])

    cdef int64_t _expiry(self, uint64_t number) noexcept:
        """Expiry of a hash field, unix ms; -1 none."""
        if self.key.encoding == E_HASH_TTL:
            return self.minimum + <int64_t>number - 1 if number else -1
        if self.key.encoding == E_HASH_TTL_VALKEY:
            return <int64_t>number if <int64_t>number >= 0 else -1
        if self.key.encoding == E_HASH_TTL_RC:
            return <int64_t>number if number else -1
        return -1

    cdef int _score(self, uint64_t bits) except -1:
        """The binary score as text, exact, in item 1."""
        cdef double value = 0
        cdef int n
        memcpy(&value, &bits, 8)
        if isnan(value):
            n = snprintf(self.digits[1], 32, "nan")
        elif isinf(value):
            n = snprintf(self.digits[1], 32, "-inf" if value < 0 else "inf")
        elif -1e15 < value < 1e15 and <double><int64_t>value == value and not (value == 0 and signbit(value)):
            n = portd_format_i64(self.digits[1], <int64_t>value)
        else:
            n = snprintf(self.digits[1], 32, "%.17g", value)
        self.items[1].p = <unsigned char*>self.digits[1]
        self.items[1].n = n
        self.items[1].form = F_WHOLE
        return 0

    cdef int _score_text(self, Cursor* c) except -2:
        """A score of RDB versions up to 7: a length byte and text, or 253 nan, 254 inf, 255 -inf."""
        cdef int n
        if c.p >= c.end:
            return R_MORE
        n = c.p[0]
        self.items[1].form = F_WHOLE
        if n >= 253:
            n = snprintf(self.digits[1], 32, "nan" if n == 253 else "inf" if n == 254 else "-inf")
            self.items[1].p = <unsigned char*>self.digits[1]
            self.items[1].n = n
            c.p += 1
            return R_OK
        if c.end - c.p < 1 + n:
            return R_MORE
        self.items[1].p = c.p + 1
        self.items[1].n = n
        c.p += 1 + n
        return R_OK

    # -- elements with a long item ---------------------------------------------------------------------------------------------

    cdef int _long_in_items(self, Cursor* c, int op, int item, uint64_t number) except -1:
        """The string at *op* of the pattern is too long: from here on the element goes through item by item."""
        self.large_number = number
        self.large_at = op + 1
        return self._long_begin(c, item, False)

    cdef int _long_begin(self, Cursor* c, int item, bint in_blob) except -1:
        cdef int i
        cdef int collection = self.layout.collection
        self.to.large_begin(
            collection, 2 if collection == C_HASH else 1, self._has_last()
        )
        for i in range(item):
            self._long_whole(i)
        if not in_blob:
            self._consume(c)
        self.to.large_item(self.items[item].n)
        return self._begin_parts(PP_ITEM, &self.items[item], in_blob, ST_LARGE)

    cdef int _long_whole(self, int i) except -1:
        self.to.large_item(self.items[i].n)
        self.to.large_data(self.items[i].p, self.items[i].n)
        return self.to.large_item_end()

    cdef bint _has_last(self) noexcept:
        """An element's strings are followed by a score or an expiry."""
        if self.layout.collection == C_ZSET:
            return True
        if self.layout.collection != C_HASH or self.layout.shape == S_TEMPLATE:
            return False
        return self.layout.strings == 3 or self.layout.pattern[0] == b"l" or (
            self.layout.pattern[0] != 0 and self.layout.pattern[2] == b"d"
        )

    cdef int _large(self) except -1:
        """What follows a long item: more strings, each whole or long, then score or expiry."""
        if self.layout.shape == S_TEMPLATE:
            self.to.large_end(NULL)
            self.state = ST_TEMPLATE
            return self._template_next()
        if self.container != K_NONE:
            return self._large_cells()
        return self._large_items()

    cdef int _large_items(self) except -1:
        cdef Cursor c = self._cursor()
        cdef const char* pattern = self.layout.pattern
        cdef int r
        while pattern[self.large_at]:
            if self.commands.ready:
                return R_OK
            if pattern[self.large_at] == b"s":
                r = self._item(&c, 0)
                if r == R_MORE:
                    return R_MORE
                self.large_at += 1
                self._consume(&c)
                if r == R_LARGE:
                    self.to.large_item(self.items[0].n)
                    return self._begin_parts(PP_ITEM, &self.items[0], False, ST_LARGE)
                self._long_whole(0)
            elif pattern[self.large_at] == b"d":
                if c.end - c.p < 8:
                    return R_MORE
                self.large_number = le64(c.p)
                if self.layout.collection == C_ZSET:
                    self._score(self.large_number)
                c.p += 8
                self.large_at += 1
                self._consume(&c)
            else:
                r = self._score_text(&c)
                if r != R_OK:
                    return r
                self.large_at += 1
                # Told at once: the text stands in the window.
                self.to.large_end(&self.items[1])
                self._consume(&c)
                return self._long_done(ST_ITEMS)
        if self.layout.collection == C_HASH and self._has_last():
            self._expiry_text(self._expiry(self.large_number))
        self.to.large_end(&self.items[1] if self._has_last() else NULL)
        return self._long_done(ST_ITEMS)

    cdef int _expiry_text(self, int64_t expire_ms) except -1:
        self.items[1].p = <unsigned char*>self.digits[1]
        self.items[1].n = portd_format_i64(self.digits[1], expire_ms)
        self.items[1].form = F_WHOLE
        return 0

    cdef int _long_done(self, int state) except -1:
        if state == ST_ITEMS:
            self.left = self.left - 1
            if self.layout.shape == S_NODES:
                state = ST_NODES
        self.done += 1
        self.state = state
        return R_OK

    cdef int _large_cells(self) except -1:
        cdef int cells = self.layout.strings
        cdef int strings = 2 if self.layout.collection == C_HASH else 1
        cdef int r
        cdef int64_t expire_ms
        while self.large_at < cells:
            if self.commands.ready:
                return R_OK
            r = self._take(self.large_at, self.large_at + 1)
            if r == R_MORE:
                return R_MORE
            if r == R_END:
                return self._fail("a container ends in the middle of an element")
            if self.large_at >= strings:
                if r == R_LARGE:
                    return self._fail("score or expiry too long")
                if self.layout.collection == C_HASH:
                    expire_ms = self.number[self.large_at]
                    self._expiry_text(expire_ms if expire_ms else -1)
                    self.to.large_end(&self.items[1])
                else:
                    self.to.large_end(&self.items[self.large_at])
                self.blob_start = self.blob_next
                return self._long_done(ST_CELLS)
            self.large_at += 1
            if r == R_LARGE:
                self.to.large_item(self.items[self.large_at - 1].n)
                self.blob_start = self.blob_next
                return self._begin_parts(PP_ITEM, &self.items[self.large_at - 1], True, ST_LARGE)
            self._long_whole(self.large_at - 1)
            self.blob_start = self.blob_next
        self.to.large_end(NULL)
        return self._long_done(ST_CELLS)

    # -- containers ------------------------------------------------------------------------------------------------------------

    cdef int _open_blob(self, Cursor* c, int container, int state) except -1:
        """Reads the head of the string that is a container; its bytes go through the blob window."""
        cdef uint64_t packed = 0
        cdef int special = NOT_SPECIAL
        cdef Py_ssize_t wanted
        cdef unsigned char* grown
        cdef int r = read_string_head(c, &self.blob_size, &packed, &special)
        if r == R_MORE:
            return R_MORE
        if r == R_BAD or (special >= 0 and special != 3):
            return self._fail("bad length of a container")
        if special == 3 and (packed > 2 * self.blob_size + 16 or self.blob_size // 264 > packed):
            return self._fail(f"LZF container of {packed} bytes claims to hold {self.blob_size}")
        # Two whole cells with their heads always fit.
        wanted = <Py_ssize_t>min(self.blob_size, <uint64_t>(2 * self.chunk + 1024)) + 64
        if self.blob_capacity < wanted:
            grown = <unsigned char*>PyMem_Realloc(self.blob, wanted)
            if grown == NULL:
                raise MemoryError
            self.blob = grown
            self.blob_capacity = wanted
        self.container = container
        self.blob_start = self.blob_stop = 0
        self.blob_left = self.blob_size
        self.blob_packed = packed
        self.blob_form = F_LZF_PARTS if special == 3 else F_RAW_PARTS
        if special == 3:
            self.lzf.reset()
        self.opened = False
        self._consume(c)
        self.state = state
        return R_OK

    cdef int _refill(self) except -1:
        """Moves more bytes of the container into its window; R_MORE when the snapshot's window is empty."""
        cdef Py_ssize_t room
        cdef Py_ssize_t n
        cdef const unsigned char* p
        cdef int r
        if self.blob_left == 0:
            return self._fail("a container ends in the middle of an entry")
        if self.blob_start:
            memmove(self.blob, self.blob + self.blob_start, self.blob_stop - self.blob_start)
            self.blob_stop -= self.blob_start
            self.blob_start = 0
        room = <Py_ssize_t>min(<uint64_t>(self.blob_capacity - self.blob_stop), self.blob_left)
        if room == 0:
            return self._fail("an entry of a container does not fit the window", LimitExceeded)
        if self.blob_form == F_LZF_PARTS:
            if self.lzf.available() == 0:
                r = self._unpack(&self.blob_packed)
                if r != R_OK:
                    return r
            p = self.lzf.buffer + self.lzf.taken
            n = min(room, self.lzf.available())
            self.lzf.taken += n
        else:
            p = self.buffer + self.start
            n = min(room, self.stop - self.start)
            if n == 0:
                return R_MORE
            self.start += n
        memcpy(self.blob + self.blob_stop, p, n)
        self.blob_stop += n
        self.blob_left -= n
        return R_OK

    cdef int _need(self, Py_ssize_t n) except -1:
        """At least *n* bytes of the container in its window."""
        cdef int r
        while self.blob_stop - self.blob_start < n:
            r = self._refill()
            if r != R_OK:
                return r
        return R_OK

    cdef int _open_container(self) except -1:
        """The container's own header, checked against the size of the string."""
        cdef const unsigned char* p
        cdef Py_ssize_t head = 0
        cdef int r
        if self.container == K_LISTPACK:
            head = 6
        elif self.container == K_ZIPLIST:
            head = 10
        elif self.container == K_INTSET:
            head = 8
        else:
            head = 1
        r = self._need(head)
        if r != R_OK:
            return r
        p = self.blob + self.blob_start
        if self.container == K_LISTPACK or self.container == K_ZIPLIST:
            if le32(p) != self.blob_size:
                return self._fail(f"a container of {self.blob_size} bytes says it has {le32(p)}")
        elif self.container == K_INTSET:
            self.int_width = le32(p)
            self.int_left = le32(p + 4)
            if self.int_width not in (2, 4, 8) or 8 + self.int_width * self.int_left != self.blob_size:
                return self._fail("bad intset header")
        self.blob_start += head
        self.opened = True
        return R_OK

    cdef int _cell(self, const unsigned char** p, int i) except -2:
        """One cell of the container into item *i*."""
        cdef Py_ssize_t available = self.blob + self.blob_stop - p[0]
        cdef Cell* cell = &self.cell
        cdef Item* item = &self.items[i]
        cdef int r
        if self.container == K_LISTPACK:
            r = listpack_cell(p[0], available, cell)
        elif self.container == K_ZIPLIST:
            r = ziplist_cell(p[0], available, cell)
        elif self.container == K_ZIPMAP:
            r = zipmap_cell(p[0], available, i & 1, cell)
        elif self.int_left == 0:
            r = CELL_END
        else:
            cell.is_number = True
            cell.head = self.int_width
            cell.tail = 0
            cell.n = 0
            r = CELL_OK if available >= self.int_width else CELL_MORE
            if r == CELL_OK:
                cell.number = little_signed(p[0], self.int_width)
        if r == CELL_BAD:
            return self._fail("corrupt entry in a container")
        if r != CELL_OK:
            return R_END if r == CELL_END else R_MORE
        item.form = F_WHOLE
        self.is_number[i] = cell.is_number
        if cell.n > <uint64_t>self.chunk:
            if cell.n > self.blob_size:
                return self._fail("an entry is longer than its container")
            item.n = cell.n
            return R_LARGE
        if <uint64_t>available < cell.head + cell.n + cell.tail:
            return R_MORE
        if cell.is_number:
            self.number[i] = cell.number
            item.p = <unsigned char*>self.digits[i]
            item.n = portd_format_i64(self.digits[i], cell.number)
        else:
            item.p = p[0] + cell.head
            item.n = cell.n
        p[0] += cell.head + cell.n + cell.tail
        return R_OK

    cdef int _take(self, int first, int limit) except -1:
        """Cells into items *first* .. *limit* - 1, all or none; they end at `blob_next`.

        R_LARGE: cell `large_at` is too long, the ones before it are whole, and its bytes begin at `blob_next`. R_END: the
        container ends where the first cell would begin.
        """
        cdef const unsigned char* p
        cdef int i = first
        cdef int r = R_OK
        if not self.opened:
            r = self._open_container()
            if r != R_OK:
                return r
        while True:
            p = self.blob + self.blob_start
            for i in range(first, limit):
                r = self._cell(&p, i)
                if r != R_OK:
                    break
            self.blob_next = p - self.blob
            if r == R_OK:
                return R_OK
            if r == R_LARGE:
                self.large_at = i
                self.blob_next += self.cell.head
                return R_LARGE
            if r == R_END:
                if i != first:
                    return self._fail("a container ends in the middle of an element")
                return R_END
            r = self._refill()
            if r != R_OK:
                return r

    cdef int _close_container(self) except -1:
        """The end mark must be the container's last byte."""
        cdef Py_ssize_t mark = 0 if self.container == K_INTSET else 1
        if self.blob_left or self.blob_stop - self.blob_start != mark:
            return self._fail("a container goes on behind its end mark")
        if self.blob_form == F_LZF_PARTS and (self.blob_packed or self.lzf.available()):
            return self._fail("an LZF string holds more than it announced")
        self.container = K_NONE
        return 0

    cdef int _cells(self) except -1:
        cdef int cells = self.layout.strings
        cdef int collection = self.layout.collection
        cdef int64_t expire_ms
        cdef int i
        cdef int r
        while True:
            if self.commands.ready:
                return R_OK
            r = self._take(0, cells)
            if r == R_MORE:
                return R_MORE
            if r == R_END:
                self._close_container()
                if self.layout.shape == S_NODES:
                    self.left -= 1
                    self.state = ST_NODES
                    return R_OK
                return self._end_value()
            if r == R_LARGE:
                i = self.large_at
                if (collection == C_ZSET and i == 1) or i == 2:
                    return self._fail("score or expiry too long")
                self.large_at = i + 1
                self._long_begin(NULL, i, True)
                self.blob_start = self.blob_next
                return R_OK
            if collection == C_HASH:
                expire_ms = -1
                if cells == 3:
                    if not self.is_number[2]:
                        return self._fail("the expiry of a field is not a number")
                    expire_ms = self.number[2] if self.number[2] else -1
                self.to.field(&self.items[0], &self.items[1], expire_ms)
            elif collection == C_ZSET:
                self.to.scored(&self.items[0], &self.items[1])
            else:
                self.to.element(&self.items[0])
            self.blob_start = self.blob_next
            if self.container == K_INTSET:
                self.int_left -= 1
            self.done += 1

    cdef int _node(self) except -1:
        """The next node of a quicklist: a container, or (version 2) one plain element."""
        cdef Cursor c = self._cursor()
        cdef uint64_t kind = 2
        cdef int r
        if self.left == 0:
            return self._end_value()
        if self.commands.ready:
            return R_OK
        if self.layout.pattern[0] == b"l":
            r = self._number(&c, &kind)
            if r != R_OK:
                return r
            if kind != 1 and kind != 2:
                return self._fail(f"quicklist node of unknown kind {kind}")
        if kind == 2:
            return self._open_blob(&c, self.layout.container, ST_CELLS)
        self.container = K_NONE
        r = self._item(&c, 0)
        if r == R_MORE:
            return R_MORE
        if self.items[0].n == 0:
            return self._fail("empty plain node in a quicklist")
        if r == R_LARGE:
            self.large_at = 2                       # nothing follows it
            return self._long_begin(&c, 0, False)
        self.to.element(&self.items[0])
        self._consume(&c)
        self.left -= 1
        self.done += 1
        return R_OK

    # -- streams ---------------------------------------------------------------------------------------------------------------

    cdef int _stream(self) except -1:
        cdef int state = self.stream_state
        if state == SS_FIELDS:
            return self._stream_fields()
        if state == SS_ENTRY:
            return self._stream_entry()
        if state == SS_COUNT:
            return self._stream_count()
        if state == SS_CLOSE:
            return self._stream_close()
        if state == SS_NODE:
            return self._stream_node()
        if state == SS_MASTER:
            return self._stream_master()
        if state == SS_NAMES:
            return self._stream_names()
        if state == SS_META:
            return self._stream_meta()
        return self._stream_groups()

    cdef int _stream_node(self) except -1:
        cdef Cursor c = self._cursor()
        cdef int r
        if self.left == 0:
            self.stream_state = SS_META
            return R_OK
        if self.commands.ready:
            return R_OK
        r = self._item(&c, 0)
        if r == R_MORE:
            return R_MORE
        if r != R_OK or self.items[0].n != 16:
            return self._fail("the id of a stream node is not 16 bytes")
        self.master_ms = be64(self.items[0].p)
        self.master_seq = be64(self.items[0].p + 8)
        r = self._open_blob(&c, K_LISTPACK, ST_STREAM)
        if r == R_OK:
            self.stream_state = SS_MASTER
        return r

    cdef int _numbers(self, int n) except -1:
        """The next *n* cells, all numbers."""
        cdef int i
        cdef int r = self._take(0, n)
        if r == R_END or r == R_LARGE:
            return self._fail("corrupt stream node")
        if r == R_OK:
            for i in range(n):
                if not self.is_number[i]:
                    return self._fail("a number is missing in a stream node")
            self.blob_start = self.blob_next
        return r

    cdef int _stream_master(self) except -1:
        cdef int r = self._numbers(3)
        if r != R_OK:
            return r
        if self.number[0] < 0 or self.number[1] < 0 or self.number[2] < 0:
            return self._fail("negative count in a stream node")
        self.entries = <uint64_t>self.number[0] + <uint64_t>self.number[1]
        self.names_count = self.fields_left = self.number[2]
        self.names_size = 0
        self.stream_state = SS_NAMES
        return R_OK

    cdef int _stream_names(self) except -1:
        """The master entry's names, kept for the entries that share them, then a 0."""
        cdef uint64_t size
        cdef Py_ssize_t wanted
        cdef unsigned char* grown
        cdef int r
        while self.fields_left:
            r = self._take(0, 1)
            if r == R_MORE:
                return R_MORE
            if r == R_END:
                return self._fail("corrupt stream node")
            size = self.items[0].n
            wanted = self.names_size + sizeof(uint64_t) + <Py_ssize_t>size
            if r == R_LARGE or wanted > 2 * self.chunk:
                return self._fail("field names of a stream node are longer than chunk_bytes", LimitExceeded)
            if wanted > self.names_capacity:
                wanted = max(wanted, 2 * self.names_capacity)
                grown = <unsigned char*>PyMem_Realloc(self.names, wanted)
                if grown == NULL:
                    raise MemoryError
                self.names = grown
                self.names_capacity = wanted
            memcpy(self.names + self.names_size, &size, sizeof(uint64_t))
            memcpy(self.names + self.names_size + sizeof(uint64_t), self.items[0].p, size)
            self.names_size += sizeof(uint64_t) + size
            self.blob_start = self.blob_next
            self.fields_left -= 1
        r = self._numbers(1)
        if r == R_OK:
            self.stream_state = SS_ENTRY
        return r

    cdef int _stream_entry(self) except -1:
        cdef int r
        if self.entries == 0:
            r = self._take(0, 1)
            if r == R_MORE:
                return R_MORE
            if r != R_END:
                return self._fail("a stream node holds more entries than it announced")
            self._close_container()
            self.left -= 1
            self.stream_state = SS_NODE
            return R_OK
        if self.commands.ready:
            return R_OK
        r = self._numbers(3)
        if r != R_OK:
            return r
        self.same_fields = (self.number[0] & 2) != 0
        self.entry_to = self.nothing if self.number[0] & 1 else self.to         # 1: deleted
        # Deltas wrap around on purpose: the sequence restarts when the time moves on.
        self.entry_ms = self.master_ms + <uint64_t>self.number[1]
        self.entry_seq = self.master_seq + <uint64_t>self.number[2]
        self.stream_state = SS_FIELDS
        if self.same_fields:
            return self._open_entry(self.names_count)
        self.stream_state = SS_COUNT
        return R_OK

    cdef int _stream_count(self) except -1:
        cdef int r = self._numbers(1)
        if r != R_OK:
            return r
        if self.number[0] < 0:
            return self._fail("negative count in a stream entry")
        self.stream_state = SS_FIELDS
        return self._open_entry(self.number[0])

    cdef int _open_entry(self, uint64_t fields) except -1:
        if fields > self.blob_size:
            return self._fail("a stream entry announces more fields than its node has bytes")
        self.fields_left = fields
        self.names_at = 0
        self.name_turn = True
        self.entry_to.entry(self.entry_ms, self.entry_seq, fields)
        return R_OK

    cdef int _stream_fields(self) except -1:
        cdef int r
        while self.fields_left:
            if self.commands.ready:
                return R_OK
            if self.same_fields and self.name_turn:
                memcpy(&self.items[1].n, self.names + self.names_at, sizeof(uint64_t))
                self.items[1].p = self.names + self.names_at + sizeof(uint64_t)
                self.items[1].form = F_WHOLE
                self.names_at += sizeof(uint64_t) + <Py_ssize_t>self.items[1].n
                self.name_turn = False
                self.entry_to.entry_item(&self.items[1])
                continue
            r = self._take(0, 1)
            if r == R_MORE:
                return R_MORE
            if r == R_END:
                return self._fail("a stream entry is cut")
            self.name_turn = not self.name_turn
            self.fields_left -= self.name_turn      # a name and its value are done
            if r == R_LARGE:
                self.entry_to.large_item(self.items[0].n)
                self.blob_start = self.blob_next
                return self._begin_parts(PP_ENTRY, &self.items[0], True, ST_STREAM)
            self.entry_to.entry_item(&self.items[0])
            self.blob_start = self.blob_next
        self.stream_state = SS_CLOSE
        return R_OK

    cdef int _stream_close(self) except -1:
        cdef int r = self._numbers(1)
        if r == R_OK:
            self.entry_to.entry_end()
            self.entries -= 1
            self.done += 1
            self.stream_state = SS_ENTRY
        return r

    cdef int _stream_meta(self) except -1:
        cdef Cursor c = self._cursor()
        cdef StreamMeta meta
        cdef uint64_t[8] numbers
        cdef int n = 8 if self.stream_version >= 2 else 3
        cdef int i
        cdef int r = R_OK
        for i in range(8):
            numbers[i] = 0
        for i in range(n):
            r = self._number(&c, &numbers[i])
            if r != R_OK:
                return r
        r = self._number(&c, &self.groups)
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

    cdef int _stream_groups(self) except -1:
        cdef Cursor c = self._cursor()
        cdef int state = self.stream_state
        cdef int r
        if self.commands.ready:
            return R_OK
        if state == SS_GROUP:
            r = self._group(&c)
        elif state == SS_PENDING:
            r = self._group_pending(&c)
        elif state == SS_CONSUMERS:
            r = self._number(&c, &self.consumers)
            self.stream_state = SS_CONSUMER if r == R_OK else state
        elif state == SS_CONSUMER:
            r = self._consumer(&c)
        elif state == SS_OWNED:
            r = self._owned(&c)
        elif state == SS_NACKED:
            r = self._nacked(&c)
        else:
            return self._dedup(&c)
        if r == R_OK and self.state == ST_STREAM:
            self._consume(&c)
        return r

    cdef int _group(self, Cursor* c) except -1:
        cdef uint64_t ms = 0
        cdef uint64_t seq = 0
        cdef uint64_t entries_read = <uint64_t>-1
        cdef int r
        if self.groups == 0:
            if self.stream_version >= 4:
                self.stream_state = SS_DEDUP
                return R_OK
            return self._end_value()
        r = self._item(c, 0)
        if r == R_LARGE:
            return self._fail("the name of a consumer group is longer than chunk_bytes", LimitExceeded)
        if r == R_OK:
            r = self._number(c, &ms)
        if r == R_OK:
            r = self._number(c, &seq)
        if r == R_OK and self.stream_version >= 2:
            r = self._number(c, &entries_read)
        if r == R_OK:
            r = self._number(c, &self.ids)
        if r != R_OK:
            return r
        self.to.group(&self.items[0], ms, seq, <int64_t>entries_read)
        self.groups -= 1
        self.stream_state = SS_PENDING
        return R_OK

    cdef int _group_pending(self, Cursor* c) except -1:
        cdef uint64_t count = 0
        cdef const unsigned char* entry
        cdef int r
        while self.ids:
            if c.end - c.p < 25:
                break
            entry = c.p
            c.p += 24
            r = self._number(c, &count)
            if r != R_OK:
                c.p = entry
                break
            self.to.pending(entry, <int64_t>le64(entry + 16), count)
            self.ids -= 1
        if self.ids == 0:
            self.stream_state = SS_CONSUMERS
            return R_OK
        self._consume(c)
        return R_MORE

    cdef int _consumer(self, Cursor* c) except -1:
        cdef Py_ssize_t times = 16 if self.stream_version >= 3 else 8
        cdef int64_t seen_ms
        cdef int r
        if self.consumers == 0:
            self.stream_state = SS_NACKED if self.stream_version >= 5 else SS_GROUP
            if self.stream_version >= 5:
                r = self._number(c, &self.ids)
                if r != R_OK:
                    self.stream_state = SS_CONSUMER
                elif self.ids:
                    self.to.stream_dropped("negatively acknowledged entries")
                return r
            return R_OK
        r = self._item(c, 0)
        if r == R_LARGE:
            return self._fail("the name of a consumer is longer than chunk_bytes", LimitExceeded)
        if r == R_OK and c.end - c.p < times:
            r = R_MORE
        if r != R_OK:
            return r
        seen_ms = <int64_t>le64(c.p)
        entry_active = <int64_t>le64(c.p + 8) if times == 16 else seen_ms
        c.p += times
        r = self._number(c, &self.ids)
        if r == R_OK:
            self.to.consumer(&self.items[0], seen_ms, entry_active)
            self.consumers -= 1
            self.stream_state = SS_OWNED
        return r

    cdef int _owned(self, Cursor* c) except -1:
        while self.ids and c.end - c.p >= 16 and not self.commands.ready:
            self.to.owns(c.p)
            c.p += 16
            self.ids -= 1
        if self.ids == 0:
            self.stream_state = SS_CONSUMER
            return R_OK
        self._consume(c)
        return R_OK if self.commands.ready else R_MORE

    cdef int _nacked(self, Cursor* c) except -1:
        cdef uint64_t n = min(self.ids, <uint64_t>(c.end - c.p) // 16)
        c.p += 16 * n
        self.ids -= n
        if self.ids == 0:
            self.stream_state = SS_GROUP
            return R_OK
        self._consume(c)
        return R_MORE

    cdef int _dedup(self, Cursor* c) except -1:
        """Idempotent producers of version 4 and later: stepped over."""
        cdef uint64_t a = 0
        cdef uint64_t b = 0
        cdef int r = R_OK
        if self.stream_state == SS_DEDUP:           # duration, max entries, producers
            r = self._number(c, &a)
            if r == R_OK:
                r = self._number(c, &b)
            if r == R_OK:
                r = self._number(c, &self.producers)
            if r != R_OK:
                return r
            if self.producers:
                self.to.stream_dropped("idempotent producers")
            self.stream_state = SS_PRODUCER
        elif self.stream_state == SS_PRODUCER:
            if self.producers == 0:
                self.stream_state = SS_TOTALS
                return R_OK
            r = self._item(c, 0)
            if r == R_LARGE:
                return self._fail("the name of a producer is longer than chunk_bytes", LimitExceeded)
            if r == R_OK:
                r = self._number(c, &self.ids)
            if r != R_OK:
                return r
            self.producers -= 1
            self.stream_state = SS_MESSAGE
        elif self.stream_state == SS_MESSAGE:
            if self.ids == 0:
                self.stream_state = SS_PRODUCER
                return R_OK
            r = self._item(c, 0)
            if r == R_LARGE:
                return self._fail("the id of a message is longer than chunk_bytes", LimitExceeded)
            if r == R_OK:
                r = self._number(c, &a)
            if r == R_OK:
                r = self._number(c, &b)
            if r != R_OK:
                return r
            self.ids -= 1
        else:                                       # total ids, total duplicates
            r = self._number(c, &a)
            if r == R_OK:
                r = self._number(c, &b)
            if r != R_OK:
                return r
            self._consume(c)
            return self._end_value()
        self._consume(c)
        return R_OK

    # -- modules, arrays, templates ----------------------------------------------------------------------------------------------

    cdef int _module(self) except -1:
        """Steps over module items one by one, whatever their size, up to the closing 0."""
        cdef Cursor c = self._cursor()
        cdef uint64_t tag = 0
        cdef uint64_t ignored = 0
        cdef int r = self._number(&c, &tag)
        if r != R_OK:
            return r
        if tag == 0:
            self._consume(&c)
            if self.key.encoding != E_NONE:
                return self._end_value()
            self.state = ST_HEAD
            return R_OK
        if tag <= 2:
            r = self._number(&c, &ignored)
        elif tag <= 4:
            r = R_OK if c.end - c.p >= (4 if tag == 3 else 8) else R_MORE
            c.p += (4 if tag == 3 else 8) if r == R_OK else 0
        elif tag == 5:
            r = self._item(&c, 0)
            if r == R_LARGE:
                self._consume(&c)
                return self._begin_parts(PP_SKIP, &self.items[0], False, ST_MODULE)
        else:
            return self._fail(f"unknown tag {tag} in a module value")
        if r == R_OK:
            self._consume(&c)
        return r

    cdef int _begin_array(self, Cursor* c) except -1:
        """Behind the count: whether an insert index follows."""
        cdef uint64_t flag = 0
        cdef uint64_t insert = 0
        cdef int r = self._number(c, &flag)
        if r == R_OK and flag == 1:
            r = self._number(c, &insert)
        if r != R_OK:
            return r
        self.large_number = insert
        self.same_fields = flag == 1
        self._consume(c)
        self.state = ST_ARRAY
        return R_OK

    cdef int _array(self) except -1:
        cdef Cursor c = self._cursor()
        cdef uint64_t index = 0
        cdef uint64_t tag = 0
        cdef int r
        while self.left:
            if self.commands.ready:
                return R_OK
            r = self._number(&c, &index)
            if r == R_OK:
                r = self._number(&c, &tag)
            if r != R_OK:
                return r
            if tag == 1 or tag == 2:
                if c.end - c.p < 8:
                    return R_MORE
                if tag == 2:
                    self._score(le64(c.p))
                else:
                    self._expiry_text(<int64_t>le64(c.p))
                c.p += 8
            elif tag == 0 or tag == 3:
                r = self._item(&c, 1)
                if r == R_LARGE:
                    return self._fail("an array element is longer than chunk_bytes", LimitExceeded)
                if r != R_OK:
                    return r
            else:
                return self._fail(f"unknown tag {tag} in an array")
            self.to.slot(index, &self.items[1])
            self._consume(&c)
            self.left -= 1
            self.done += 1
        self.to.array_end(self.same_fields, self.large_number)
        return self._end_value()

    cdef int _begin_template(self, Cursor* c) except -1:
        """The field names of a templated hash: in the value (29, 31) or by number (30, 32)."""
        cdef int encoding = self.key.encoding
        cdef uint64_t format = 0
        cdef uint64_t id = 0
        cdef uint64_t n = 0
        cdef int r = R_OK
        self.template = []
        self.template_at = 0
        if encoding == E_TEMPLATE_LISTPACK_REF:
            # Its container begins with the number of the template.
            self.template_step = 1
            return self._open_blob(c, K_LISTPACK, ST_TEMPLATE)
        if encoding == E_TEMPLATE_ITEMS_REF:
            r = self._number(c, &id)
            if r != R_OK:
                return r
            self._find_template(id)
        else:
            r = self._number(c, &format)
            if r == R_OK and format == 0:
                self.template_step = 2              # names in a listpack of their own
                return self._open_blob(c, K_LISTPACK, ST_TEMPLATE)
            if r == R_OK:
                r = self._number(c, &n)
            while r == R_OK and n:
                r = self._item(c, 0)
                if r == R_OK:
                    self.template.append(self.items[0].p[:self.items[0].n])
                n -= 1
            if r == R_LARGE:
                return self._fail("a field name of a template is longer than chunk_bytes", LimitExceeded)
            if r != R_OK:
                return r
            if encoding == E_TEMPLATE_LISTPACK:
                self.template_step = 0
                return self._open_blob(c, K_LISTPACK, ST_TEMPLATE)
        self.template_step = 0
        self.container = K_NONE
        self._consume(c)
        self.state = ST_TEMPLATE
        return R_OK

    cdef int _find_template(self, uint64_t id) except -1:
        template = self.templates.get(id)
        if template is None:
            return self._fail(f"hash template {id} is not in the snapshot")
        self.template = template
        return 0

    cdef int _template(self) except -1:
        cdef Cursor c
        cdef int r
        if self.commands.ready:
            return R_OK
        if self.template_step == 1:                 # number of the template
            r = self._numbers(1)
            if r == R_OK:
                self._find_template(self.number[0])
                self.template_step = 0
            return r
        if self.template_step == 2:                 # one name
            r = self._take(0, 1)
            if r == R_OK:
                self.template.append(self.items[0].p[:self.items[0].n])
                if len(self.template) * 64 > TEMPLATES_BYTES:
                    return self._fail("too many fields in a template", LimitExceeded)
                self.blob_start = self.blob_next
            elif r == R_LARGE:
                return self._fail("a field name of a template is longer than chunk_bytes", LimitExceeded)
            elif r == R_END:
                self._close_container()
                self.template_step = 0 if self.key.encoding == E_TEMPLATE_ITEMS else 3
                return R_OK
            return r
        if self.template_step == 3:                 # then the values' listpack
            c = self._cursor()
            r = self._open_blob(&c, K_LISTPACK, ST_TEMPLATE)
            if r == R_OK:
                self.template_step = 0
            return r
        return self._template_value()

    cdef int _template_value(self) except -1:
        cdef Cursor c = self._cursor()
        cdef int r
        cdef bytes name
        if self.template_at == len(self.template):
            if self.container != K_NONE:
                r = self._take(1, 2)
                if r == R_MORE:
                    return R_MORE
                if r != R_END:
                    return self._fail("a templated hash has more values than fields")
                self._close_container()
            return self._end_value()
        r = self._item(&c, 1) if self.container == K_NONE else self._take(1, 2)
        if r == R_MORE:
            return R_MORE
        if r == R_END:
            return self._fail("a templated hash has fewer values than fields")
        name = self.template[self.template_at]
        self.items[0].p = <const unsigned char*><const char*>name
        self.items[0].n = len(name)
        self.items[0].form = F_WHOLE
        if r == R_LARGE:
            self._long_begin(&c, 1, self.container != K_NONE)
            if self.container != K_NONE:
                self.blob_start = self.blob_next
            return R_OK
        self.to.field(&self.items[0], &self.items[1], -1)
        if self.container == K_NONE:
            self._consume(&c)
        else:
            self.blob_start = self.blob_next
        return self._template_next()

    cdef int _template_next(self) except -1:
        self.template_at += 1
        self.done += 1
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
