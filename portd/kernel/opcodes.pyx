# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""What a snapshot holds beside keys: its magic, the opcodes between keys, its checksum."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memset

from portd.errors import ChecksumMismatch, LimitExceeded

from portd.kernel.blob cimport begin_parts
from portd.kernel.choice cimport enter_database
from portd.kernel.containers cimport le32, le64
from portd.kernel.decoder cimport Decoder, PP_SKIP, ST_CHECKSUM, ST_END, ST_HEAD, ST_MODULE, name_opcode
from portd.kernel.encodings cimport module_name
from portd.kernel.measure cimport measure_meta
from portd.kernel.rare cimport remember_template
from portd.kernel.reader cimport Cursor, R_BAD, R_LARGE, R_MORE, R_OK
from portd.kernel.window cimport next_item, next_number, sum_window


cdef enum:
    HIGHEST_REDIS = 15
    VALKEY_VERSION = 80
    SLOTS = 16384                   # of a cluster


# -- the file ------------------------------------------------------------------------------------------------------


cdef int read_magic(Decoder self) except -1:
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


cdef int read_trailer(Decoder self) except -1:
    cdef uint64_t stored
    if self.version >= 5:
        if self.stop - self.start < 8:
            return R_MORE
        sum_window(self)
        stored = le64(self.buffer + self.start)
        # All zero: the writer had checksums off.
        if self.verify and stored and stored != self.crc:
            return self._fail("the CRC64 of the snapshot differs from the one it carries", ChecksumMismatch)
        self.start += 8
    self.state = ST_END
    self.out.finish()
    return R_MORE


# -- opcodes -----------------------------------------------------------------------------------------------------------


ctypedef int (*Read)(Decoder, Cursor*) except -1
cdef Read[2][14] READS                  # [valkey][opcode - 0xF2]


cdef int read_opcode(Decoder self, Cursor* c, int op) except -1:
    return READS[self.valkey][op - 0xF2](self, c)


cdef void opcode(int byte, str name, Read redis, Read valkey):
    READS[0][byte - 0xF2] = redis
    READS[1][byte - 0xF2] = valkey
    name_opcode(byte, False, name)
    name_opcode(byte, True, name)


cdef void fill_opcodes():
    """rdb.h; all but the first two are read by rdb.c:rdbLoadRioWithLoadingCtx of both families."""
    opcode(0xF2, "HASH_TEMPLATE", remember_template, _unknown)
    opcode(0xF3, "KEY_META", _key_meta, _slot_import)
    name_opcode(0xF3, True, "SLOT_IMPORT")
    opcode(0xF4, "SLOT_INFO", _slot_info, _slot_info)
    opcode(0xF5, "FUNCTION2", _function, _function)                     # functions.c, by rdb.c:rdbFunctionLoad
    opcode(0xF6, "FUNCTION_PRE_GA", _old_function, _old_function)
    opcode(0xF7, "MODULE_AUX", _module_aux, _module_aux)                # rdb.c:rdbSaveSingleModuleAux
    opcode(0xF8, "IDLE", _idle, _idle)
    opcode(0xF9, "FREQ", _freq, _freq)
    opcode(0xFA, "AUX", _aux, _aux)                                     # rdb.c:rdbSaveInfoAuxFields
    opcode(0xFB, "RESIZEDB", _resize, _resize)
    opcode(0xFC, "EXPIRETIME_MS", _expire_ms, _expire_ms)
    opcode(0xFD, "EXPIRETIME", _expire, _expire)
    opcode(0xFE, "SELECTDB", _select, _select)
    opcode(0xFF, "EOF", _end, _end)


cdef int _end(Decoder self, Cursor* c) except -1:
    self.state = ST_CHECKSUM
    return R_OK


cdef int _expire_ms(Decoder self, Cursor* c) except -1:
    if c.end - c.p < 8:
        return R_MORE
    self.key.expire_ms = max(<int64_t>le64(c.p), 0)
    c.p += 8
    return R_OK


cdef int _expire(Decoder self, Cursor* c) except -1:
    """In seconds."""
    if c.end - c.p < 4:
        return R_MORE
    self.key.expire_ms = max(<int64_t><int32_t>le32(c.p) * 1000, 0)
    c.p += 4
    return R_OK


cdef int _freq(Decoder self, Cursor* c) except -1:
    if c.p >= c.end:
        return R_MORE
    self.key.freq = c.p[0]
    c.p += 1
    return R_OK


cdef int _idle(Decoder self, Cursor* c) except -1:
    """In seconds."""
    cdef uint64_t seconds = 0
    cdef int r = next_number(self, c, &seconds)
    if r == R_OK:
        self.key.idle = <int64_t>min(seconds, <uint64_t>1 << 40)
    return r


cdef int _select(Decoder self, Cursor* c) except -1:
    cdef uint64_t db = 0
    cdef int r = next_number(self, c, &db)
    if r == R_OK:
        if db > 1 << 30:
            return self._fail(f"database number {db}", LimitExceeded)
        enter_database(self, <int>db)
        self.out.select(self.to_db)
    return r


cdef int _resize(Decoder self, Cursor* c) except -1:
    """How many keys and expiries a database has: a hint."""
    cdef uint64_t keys = 0
    cdef uint64_t expires = 0
    cdef int r = next_number(self, c, &keys)
    if r == R_OK:
        r = next_number(self, c, &expires)
    if r == R_OK:
        self.keys_announced += keys
    return r


cdef int _aux(Decoder self, Cursor* c) except -1:
    cdef int r = next_item(self, c, 0)
    if r == R_LARGE:
        return self._fail("AUX name too long", LimitExceeded)
    if r == R_OK:
        r = next_item(self, c, 1)
    if r == R_LARGE:
        # A cached script of an old server, say: of no use to the target.
        return begin_parts(self, PP_SKIP, &self.items[1], False, ST_HEAD)
    if r == R_OK:
        self.out.aux(&self.items[0], &self.items[1])
    if r == R_OK and len(self.aux_fields) < 64 and self.items[0].n <= 64 and self.items[1].n <= 256:
        name = self.items[0].p[:self.items[0].n].decode("utf-8", "replace")
        self.aux_fields[name] = self.items[1].p[:self.items[1].n].decode("utf-8", "replace")
    return r


cdef int _function(Decoder self, Cursor* c) except -1:
    cdef int r = next_item(self, c, 0)
    if r == R_MORE:
        return R_MORE
    self.out.function(&self.items[0])
    return begin_parts(self, PP_SKIP, &self.items[0], False, ST_HEAD) if r == R_LARGE else R_OK


cdef int _old_function(Decoder self, Cursor* c) except -1:
    return self._unsupported("functions in the format of a 7.0 release candidate")


cdef int _three_numbers(Decoder self, Cursor* c, uint64_t* numbers) except -1:
    cdef int r = next_number(self, c, &numbers[0])
    if r == R_OK:
        r = next_number(self, c, &numbers[1])
    if r == R_OK:
        r = next_number(self, c, &numbers[2])
    return r


cdef int _slot_info(Decoder self, Cursor* c) except -1:
    """A slot and its sizes: a hint."""
    cdef uint64_t[3] ignored
    cdef int r = _three_numbers(self, c, ignored)
    if r == R_OK:
        self.slot_infos += 1
    return r


cdef int _module_aux(Decoder self, Cursor* c) except -1:
    """Id, tag 2 and when; then items."""
    cdef uint64_t[3] numbers
    cdef int r = _three_numbers(self, c, numbers)
    if r == R_OK:
        self.modules_aux += 1
        self.out.refuse(NULL, f"module {module_name(numbers[0])}", "auxiliary module data cannot be replicated")
        self.state = ST_MODULE
    return r


cdef int _key_meta(Decoder self, Cursor* c) except -1:
    cdef Py_ssize_t size = 0
    cdef int r = measure_meta(c.p, c.end - c.p, self.chunk, &size)
    if r == R_BAD:
        return self._fail("corrupt key metadata")
    if r == R_LARGE:
        return self._fail("key metadata larger than chunk_bytes", LimitExceeded)
    if r == R_OK:
        self.meta = (c.p - 1)[:size + 1]
        c.p += size
    return r


cdef int _unknown(Decoder self, Cursor* c) except -1:
    return self._unsupported(f"opcode {(c.p - 1)[0]} of a Valkey development version")


# -- slots being imported ------------------------------------------------------------------------------------------


cdef int _slot_import(Decoder self, Cursor* c) except -1:
    """Ranges of slots that were being imported: their keys are incomplete and will come again from their owner."""
    cdef uint64_t n = 0
    cdef uint64_t first = 0
    cdef uint64_t last = 0
    cdef int r = next_item(self, c, 0)
    if r == R_OK:
        r = next_number(self, c, &n)
    if r == R_LARGE or n > SLOTS:
        return self._fail("bad slot import", LimitExceeded)
    while r == R_OK and n:
        r = next_number(self, c, &first)
        if r == R_OK:
            r = next_number(self, c, &last)
        if r == R_OK:
            if first > last or last >= SLOTS:
                return self._fail(f"slots {first} to {last} are being imported, but there are {SLOTS}")
            if self.slots is None:
                self.slots = bytearray(SLOTS)
                self.plain = False
            memset(PyByteArray_AS_STRING(self.slots) + first, 1, last - first + 1)
        n -= 1
    return r


fill_opcodes()
