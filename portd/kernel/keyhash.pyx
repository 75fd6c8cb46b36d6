# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Keyed 128-bit hashes of key names, sorted into buckets: which keys of a target does a snapshot not have?

The names are found in the batches that go to the target, so that decoding costs nothing where nobody asks.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from portd.errors import InternalError
from portd.kernel.batch cimport OPEN, WHOLE, Batch

HASH_SIZE = 16
cdef enum:
    HASH = 16
    HEAD = HASH + 8                 # of a name's record: hash, database, length
    BUCKET_BITS = 9
    BUCKET_COUNT = 1 << BUCKET_BITS

BUCKETS = BUCKET_COUNT


cdef struct Digest:
    uint64_t low
    uint64_t high


cdef struct Secret:
    uint64_t k0
    uint64_t k1


cdef inline uint64_t _turn(uint64_t x, int bits) noexcept nogil:
    return (x << bits) | (x >> (64 - bits))


cdef inline void _round(uint64_t* v) noexcept nogil:
    v[0] += v[1]
    v[1] = _turn(v[1], 13) ^ v[0]
    v[0] = _turn(v[0], 32)
    v[2] += v[3]
    v[3] = _turn(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = _turn(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = _turn(v[1], 17) ^ v[2]
    v[2] = _turn(v[2], 32)


cdef inline void _word(uint64_t* v, uint64_t m) noexcept nogil:
    v[3] ^= m
    _round(v)
    _round(v)
    v[0] ^= m


cdef Digest _siphash(Secret* secret, const uint64_t* db, const unsigned char* p, Py_ssize_t size) noexcept nogil:
    """SipHash-2-4 with 128 bits of result, over *db* (unless NULL) as 8 bytes and then the name."""
    cdef uint64_t[4] v
    cdef uint64_t m = 0, last = (<uint64_t>size + (8 if db != NULL else 0)) << 56
    cdef Digest digest
    cdef Py_ssize_t left = size
    v[0] = secret.k0 ^ <uint64_t>0x736F6D6570736575
    v[1] = secret.k1 ^ <uint64_t>0x646F72616E646F6D ^ <uint64_t>0xEE
    v[2] = secret.k0 ^ <uint64_t>0x6C7967656E657261
    v[3] = secret.k1 ^ <uint64_t>0x7465646279746573
    if db != NULL:
        _word(v, db[0])
    while left >= 8:
        memcpy(&m, p, 8)
        _word(v, m)
        p += 8
        left -= 8
    m = 0
    memcpy(&m, p, left)
    _word(v, last | m)
    v[2] ^= 0xEE
    _round(v)
    _round(v)
    _round(v)
    _round(v)
    digest.low = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    _round(v)
    _round(v)
    _round(v)
    _round(v)
    digest.high = v[0] ^ v[1] ^ v[2] ^ v[3]
    return digest


cdef inline void _read_secret(Secret* secret, const unsigned char[::1] data) except *:
    if data.shape[0] != 16:
        raise ValueError("the secret of a hash has 16 bytes")
    memcpy(&secret.k0, &data[0], 8)
    memcpy(&secret.k1, &data[8], 8)


def siphash128(const unsigned char[::1] secret not None, bytes data not None):
    cdef Secret keys
    cdef Digest digest
    keys.k0 = keys.k1 = 0
    _read_secret(&keys, secret)
    digest = _siphash(&keys, NULL, <const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return PyBytes_FromStringAndSize(<const char*>&digest, HASH)


# -- what the commands of a batch open --------------------------------------------------------------------------------

cdef enum:
    C_FOLLOWS = 0                   # belongs to a key that an earlier command opened, or to none
    C_ONE = 1                       # its first argument is a key of the snapshot
    C_PAIRS = 2                     # every second argument is
    C_STRANGE = 3


cdef frozenset _FOLLOWERS = frozenset((
    b"HSET", b"HSETEX", b"HPEXPIREAT", b"SADD", b"ZADD", b"RPUSH", b"XADD", b"XGROUP", b"XCLAIM", b"XSETID", b"EVAL",
    b"PEXPIREAT", b"SETRANGE", b"FUNCTION", b"SCRIPT", b"ARMSET", b"ARSEEK", b"APPEND", b"SELECT", b"LLEN", b"XCFGSET", b"XIDMPRECORD",
))


cdef int _kind(const unsigned char* name, Py_ssize_t size) except -1:
    if size == 3 and (memcmp(name, b"SET", 3) == 0 or memcmp(name, b"DEL", 3) == 0):
        return C_ONE
    if size == 4 and memcmp(name, b"MSET", 4) == 0:
        return C_PAIRS
    if size == 7 and memcmp(name, b"RESTORE", 7) == 0:
        return C_ONE
    if size == 6 and (memcmp(name, b"UNLINK", 6) == 0 or memcmp(name, b"EXISTS", 6) == 0):
        return C_ONE
    return C_FOLLOWS if name[:size] in _FOLLOWERS else C_STRANGE


cdef struct Cursor:
    const unsigned char* p
    const unsigned char* end


cdef int64_t _head(Cursor* c, unsigned char mark) except -1:
    """Reads `*<n>` or `$<n>` with its line end."""
    cdef const unsigned char* p = c.p
    cdef int64_t number = 0
    if p >= c.end or p[0] != mark:
        raise InternalError("a batch does not hold whole commands")
    p += 1
    while p < c.end and 48 <= p[0] <= 57:
        number = number * 10 + (p[0] - 48)
        p += 1
    if c.end - p < 2 or p[0] != 13:
        raise InternalError("a batch does not hold whole commands")
    c.p = p + 2
    return number


@cython.final
cdef class KeyBuckets:
    """Collects hashes of snapshot keys, or names of target keys, by bucket."""

    cdef Secret secret
    cdef char* memory
    cdef int32_t[BUCKET_COUNT] used
    cdef Py_ssize_t block_bytes
    cdef list full
    cdef readonly uint64_t keys
    cdef readonly uint64_t full_bytes
    cdef Digest last                # several commands may open one key: UNLINK, later DEL

    def __cinit__(self, const unsigned char[::1] secret not None, *, Py_ssize_t block_bytes=2048):
        if not HEAD <= block_bytes <= 1 << 20:
            raise ValueError("a block has 24 bytes to 1 MiB")
        _read_secret(&self.secret, secret)
        self.block_bytes = block_bytes
        self.full = []
        self.memory = <char*>PyMem_Malloc(block_bytes * BUCKET_COUNT)
        if self.memory == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.memory)

    @property
    def owned_bytes(self):
        return self.block_bytes * BUCKET_COUNT + self.full_bytes

    cdef int _flush(self, uint32_t bucket) except -1:
        if self.used[bucket]:
            self.full.append((bucket, self.memory[bucket * self.block_bytes:bucket * self.block_bytes + self.used[bucket]]))
            self.full_bytes += self.used[bucket]
            self.used[bucket] = 0
        return 0

    cdef int _add(self, uint64_t db, const unsigned char* name, Py_ssize_t size) except -1:
        cdef Digest digest = _siphash(&self.secret, &db, name, size)
        cdef uint32_t bucket = <uint32_t>(digest.low >> (64 - BUCKET_BITS))
        if digest.low == self.last.low and digest.high == self.last.high:
            return 0
        self.last = digest
        if self.used[bucket] + HASH > self.block_bytes:
            self._flush(bucket)
        memcpy(self.memory + bucket * self.block_bytes + self.used[bucket], &digest, HASH)
        self.used[bucket] += HASH
        self.keys += 1
        return 0

    def add(self, uint32_t db, bytes name not None):
        self._add(db, <const unsigned char*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))

    def add_batch(self, Batch batch not None):
        cdef bytes data
        if batch.kind == OPEN:
            self.add(batch.db, batch.key)
        elif batch.kind == WHOLE:
            data = batch.data
            self._add_commands(batch.db, <const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int _add_commands(self, uint64_t db, const unsigned char* data, Py_ssize_t size) except -1:
        cdef Cursor c
        cdef int64_t arguments, length, i
        cdef int kind
        c.p, c.end = data, data + size
        while c.p < c.end:
            arguments = _head(&c, b"*"[0])
            kind = C_FOLLOWS
            for i in range(arguments):
                length = _head(&c, b"$"[0])
                if c.end - c.p < length + 2:
                    raise InternalError("a batch does not hold whole commands")
                if i == 0:
                    kind = _kind(c.p, length)
                    if kind == C_STRANGE:
                        raise InternalError(f"a batch holds {c.p[:min(length, 30)]!r}, whose keys are not known")
                elif i == 1 and kind != C_FOLLOWS or kind == C_PAIRS and i & 1:
                    self._add(db, c.p, length)
                c.p += length + 2
        return 0

    def add_names(self, uint32_t db, list names not None):
        cdef Py_ssize_t size
        cdef bytes name
        cdef const unsigned char* p
        cdef uint64_t number = db
        cdef uint32_t bucket, length
        cdef Digest digest
        cdef char* record
        for name in names:
            p, size = <const unsigned char*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)
            digest = _siphash(&self.secret, &number, p, size)
            bucket = <uint32_t>(digest.low >> (64 - BUCKET_BITS))
            length = <uint32_t>size
            self.keys += 1
            if self.used[bucket] + HEAD + size > self.block_bytes:
                self._flush(bucket)
            if HEAD + size > self.block_bytes:          # a block of its own
                alone = PyBytes_FromStringAndSize(NULL, HEAD + size)
                record = PyBytes_AS_STRING(alone)
                self.full.append((bucket, alone))
                self.full_bytes += HEAD + size
            else:
                record = self.memory + bucket * self.block_bytes + self.used[bucket]
                self.used[bucket] += <int32_t>(HEAD + size)
            memcpy(record, &digest, HASH)
            memcpy(record + HASH, &db, 4)
            memcpy(record + HASH + 4, &length, 4)
            memcpy(record + HEAD, p, size)

    def take(self):
        taken, self.full = self.full, []
        self.full_bytes = 0
        return taken

    def take_rest(self):
        cdef uint32_t bucket
        for bucket in range(<uint32_t>BUCKET_COUNT):
            self._flush(bucket)
        return self.take()


@cython.final
cdef class HashSet:
    """Hashes of one bucket, to be asked for."""

    cdef Digest* slots
    cdef uint64_t size
    cdef bint has_zero              # an empty slot is all zeros
    cdef readonly uint64_t hashes

    def __cinit__(self, list blocks not None):
        cdef bytes block
        cdef uint64_t count = 0
        for block in blocks:
            count += PyBytes_GET_SIZE(block) // HASH
        self.hashes = count
        self.size = count + count // 3 + 2
        self.slots = <Digest*>PyMem_Calloc(self.size, sizeof(Digest))
        if self.slots == NULL:
            raise MemoryError
        for block in blocks:
            self._fill(PyBytes_AS_STRING(block), PyBytes_GET_SIZE(block) // HASH)

    def __dealloc__(self):
        PyMem_Free(self.slots)

    @property
    def owned_bytes(self):
        return self.size * sizeof(Digest)

    cdef uint64_t _find(self, Digest* digest) noexcept nogil:
        """The slot that holds the hash, or the empty one where it belongs."""
        # The low word chose the bucket: the high one is as good as new.
        cdef uint64_t i = (digest.high >> 32) * self.size >> 32
        while (self.slots[i].low or self.slots[i].high) and (
            self.slots[i].low != digest.low or self.slots[i].high != digest.high
        ):
            i += 1
            if i == self.size:
                i = 0
        return i

    cdef void _fill(self, const char* p, Py_ssize_t count) noexcept nogil:
        cdef Py_ssize_t i
        cdef Digest digest
        for i in range(count):
            memcpy(&digest, p + i * HASH, HASH)
            if not (digest.low or digest.high):
                self.has_zero = True
            else:
                self.slots[self._find(&digest)] = digest

    def missing(self, bytes block not None):
        """The records of names whose hash is not here, as a block of the same form."""
        cdef const char* p = PyBytes_AS_STRING(block)
        cdef const char* end = p + PyBytes_GET_SIZE(block)
        cdef uint32_t length = 0
        cdef Digest digest
        cdef uint64_t slot
        cdef bint found
        cdef list kept = []
        while p < end:
            memcpy(&digest, p, HASH)
            memcpy(&length, p + HASH + 4, 4)
            if digest.low or digest.high:
                slot = self._find(&digest)
                found = self.slots[slot].low or self.slots[slot].high
            else:
                found = self.has_zero
            if not found:
                kept.append(p[:HEAD + length])
            p += HEAD + length
        return b"".join(kept)


def names_of(bytes block not None):
    """The records of a block as (database, name)."""
    cdef const char* p = PyBytes_AS_STRING(block)
    cdef const char* end = p + PyBytes_GET_SIZE(block)
    cdef uint32_t db = 0, length = 0
    cdef list found = []
    while p < end:
        memcpy(&db, p + HASH, 4)
        memcpy(&length, p + HASH + 4, 4)
        found.append((db, p[HEAD:HEAD + length]))
        p += HEAD + length
    return found
