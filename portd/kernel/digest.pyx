# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Digests of values, for telling whether two servers are equal.

A value's digest does not depend on how it is encoded, nor on the order of members of sets, sorted sets and hashes:
their hashes are added up. Lists and stream entries are chained in order. A key becomes a record of fixed size, put
into a bucket by the hash of its database and name; its name goes into a file of its own, so that records stay small.
"""

cimport cython
from collections import deque

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.math cimport isnan
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort, strtod
from libc.string cimport memcmp, memcpy, memset

from portd.kernel.containers cimport be64
from portd.kernel.encodings cimport C_HASH, C_LIST, C_MODULE, C_OTHER, C_STREAM, C_STRING, C_ZSET, layout_of
from portd.kernel.handler cimport F_DOUBLE, Handler, Item, Key, P_ELEMENTS, P_SKIP, P_WHOLE, StreamMeta


cdef enum:
    NAMES_BYTES = 1 << 18           # names are handed out in pieces of about this size
    NAME_HEAD = 8                   # database and length before each name

RECORD_BYTES = sizeof(Record)
DIFFERENCE_BYTES = sizeof(Difference)
NAMES = -1                          # in place of a bucket: the piece is names

MISSING, EXTRA, TYPE, VALUE, TTL, FIELD_TTL = 1, 2, 4, 8, 16, 32

cdef enum Kind:
    D_MISSING = 1                   # only the source has it
    D_EXTRA = 2                     # only the target has it
    D_TYPE = 4
    D_VALUE = 8
    D_TTL = 16
    D_FIELD_TTL = 32


cdef struct Difference:
    uint64_t kinds
    uint64_t source                 # offset of the name; all ones none
    uint64_t target
    uint64_t source_state           # changes when anything about the key changes; 0 absent
    uint64_t target_state


cdef double score_of(Item* score) noexcept:
    """A score as a number: from text, where short integers are read without strtod, or from its bytes."""
    cdef char[64] text
    cdef double value = 0
    cdef Py_ssize_t size = min(<Py_ssize_t>score.n, 63)
    cdef Py_ssize_t i = 0
    cdef int64_t number = 0
    cdef bint negative = size > 0 and score.p[0] == c"-"
    if score.form == F_DOUBLE:
        memcpy(&value, score.p, 8)
        return value
    if size <= 15:
        i = 1 if negative else 0
        while i < size and c"0" <= score.p[i] <= c"9":
            number = number * 10 + (score.p[i] - c"0")
            i += 1
        if i == size and size > negative:
            return <double>(-number if negative else number)
    memcpy(text, score.p, size)
    text[size] = 0
    return strtod(text, NULL) + 0.0


cdef uint64_t score_bits(Item* score) noexcept:
    """The number's bits; both zeros are one score, and so is whatever is no number."""
    cdef double value = score_of(score)
    cdef uint64_t bits = 0
    if isnan(value):
        return <uint64_t>-1
    if value != 0:
        memcpy(&bits, &value, 8)
    return bits


@cython.final
cdef class DigestHandler(Handler):
    """Makes records of keys; the stub tells how to use it."""

    def __cinit__(
        self, *, int bucket_bits=0, Py_ssize_t bucket_records=200, bytes ignored=b"", bint stream_counters=True,
        bytes seed=b"", bint entries_read=True, bint idle_consumers=True, uint64_t names_base=0,
    ):
        if not 0 <= bucket_bits <= 12 or bucket_records < 1:
            raise ValueError("at most 4096 buckets, of at least one record")
        self.binary_scores = True
        self.bits = bucket_bits
        self.bucket_bytes = bucket_records * sizeof(Record)
        self.ignored = ignored
        self.counters = stream_counters
        self.entries_read = stream_counters and entries_read
        self.idle_consumers = idle_consumers
        self.seed = hash_bytes(Hash(0, 0), <const char*>seed, len(seed))
        self.chunks = deque()
        self.buckets = <Bucket*>PyMem_Calloc(1 << bucket_bits, sizeof(Bucket))
        if self.buckets == NULL:
            raise MemoryError
        for i in range(1 << bucket_bits):
            self.buckets[i].data = <unsigned char*>PyMem_Malloc(self.bucket_bytes)
            if self.buckets[i].data == NULL:
                raise MemoryError
        self.names_base = names_base
        self.names_capacity = NAMES_BYTES
        self.names = <unsigned char*>PyMem_Malloc(self.names_capacity)
        if self.names == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef int i
        if self.buckets != NULL:
            for i in range(1 << self.bits):
                PyMem_Free(self.buckets[i].data)
        PyMem_Free(self.buckets)
        PyMem_Free(self.names)

    # -- what the decoder asks ------------------------------------------------------------------------------------------------

    cdef object pop(self):
        chunk = self.chunks.popleft() if self.chunks else None
        self.ready = bool(self.chunks)
        return chunk

    cdef Py_ssize_t owned(self) noexcept:
        return (self.bucket_bytes << self.bits) + self.names_capacity

    cdef Py_ssize_t bound(self) noexcept:
        return 2 * ((self.bucket_bytes << self.bits) + self.names_capacity) + (1 << 20)

    cdef int add_statistics(self, dict counters) except -1:
        counters.update({
            "keys_told": self.keys_told,
            "keys_expired": self.keys_expired,
            "keys_unreadable": self.keys_unreadable,
            "elements": self.elements_total,
        })
        return 0

    cdef int refuse(self, Key* key, str type_name, str reason) except -1:
        if key != NULL:
            self.keys_unreadable += 1
        return 0

    cdef int select(self, int db) except -1:
        self.db = db
        return 0

    cdef int plan(self, Key* key) except -1:
        cdef Py_ssize_t n = len(self.ignored)
        cdef int collection = layout_of(key.encoding).collection
        if n and key.size >= n and memcmp(key.name, <const char*>self.ignored, n) == 0:
            self.keys_left_out += 1
            return P_SKIP
        if key.expire_ms >= 0 and key.expire_ms <= self.now_ms:
            self.keys_expired += 1
            return P_SKIP
        return P_WHOLE if collection == C_MODULE or collection == C_OTHER else P_ELEMENTS

    # -- keys -----------------------------------------------------------------------------------------------------------------

    cdef int _open(self, Key* key, int collection) except -1:
        cdef Hash zero
        zero.a = zero.b = 0
        self.collection = collection
        self.elements = 0
        self.total = self.entry_hash = self.group_total = zero
        self.in_group = self.in_consumer = False
        self.record.fields_ttl = 0
        return 0

    cdef int _close(self, Key* key) except -1:
        """The value was told: its record goes into a bucket, its name behind the other names."""
        cdef Hash name = hash_bytes(self.seed, key.name, key.size)
        cdef uint32_t head[2]
        cdef Py_ssize_t wanted = self.names_used + NAME_HEAD + key.size
        cdef unsigned char* grown
        name = hash_numbers(name, key.db, key.size)
        self.record.key = name.a
        self.record.value = hash_pair(hash_numbers(self.seed, self.collection, self.elements), self.total)
        self.record.expire_ms = <uint64_t>key.expire_ms
        self.record.place = (<uint64_t>self.collection << 56) | (self.names_base + self.names_used)
        if wanted > self.names_capacity:
            grown = <unsigned char*>PyMem_Realloc(self.names, wanted)
            if grown == NULL:
                raise MemoryError
            self.names = grown
            self.names_capacity = wanted
        head[0] = <uint32_t>key.db
        head[1] = <uint32_t>key.size
        memcpy(self.names + self.names_used, head, NAME_HEAD)
        if key.size:
            memcpy(self.names + self.names_used + NAME_HEAD, key.name, key.size)
        self.names_used = wanted
        self.keys_told += 1
        self.elements_total += self.elements
        self._emit()
        return self._cut_names() if self.names_used >= NAMES_BYTES else 0

    cdef int _emit(self) except -1:
        cdef int i = <int>(self.record.key >> (64 - self.bits)) if self.bits else 0
        cdef Bucket* bucket = &self.buckets[i]
        memcpy(bucket.data + bucket.used, &self.record, sizeof(Record))
        bucket.used += sizeof(Record)
        if bucket.used == self.bucket_bytes:
            self.chunks.append((i, PyBytes_FromStringAndSize(<char*>bucket.data, bucket.used)))
            bucket.used = 0
            self.ready = True
        return 0

    cdef int _cut_names(self) except -1:
        if self.names_used:
            self.chunks.append((NAMES, PyBytes_FromStringAndSize(<char*>self.names, self.names_used)))
            self.names_base += self.names_used
            self.names_used = 0
            self.ready = True
        return 0

    cdef int finish(self) except -1:
        cdef int i
        for i in range(1 << self.bits):
            if self.buckets[i].used:
                self.chunks.append(
                    (i, PyBytes_FromStringAndSize(<char*>self.buckets[i].data, self.buckets[i].used))
                )
                self.buckets[i].used = 0
        self._cut_names()
        self.ready = bool(self.chunks)
        return 0

    cdef int string(self, Key* key, Item* value) except -1:
        self._open(key, C_STRING)
        self.total = hash_bytes(self.seed, value.p, value.n)
        return self._close(key)

    cdef int raw(
        self, Key* key, const unsigned char* p, Py_ssize_t n, const unsigned char* meta, Py_ssize_t meta_n
    ) except -1:
        self._open(key, layout_of(key.encoding).collection)
        self.total = hash_bytes(self.seed, p, n)
        return self._close(key)

    cdef int begin(self, Key* key, int collection, bint small) except -1:
        self._open(key, collection)
        if collection == C_MODULE or collection == C_OTHER:
            # Too long to be told whole, and nothing but raw bytes is known of it: only that it is there is compared.
            self.keys_unreadable += 1
            self._close(key)
            return 1
        if collection == C_STRING:
            hash_begin(&self.hasher, self.seed)
        return 0

    cdef int end(self, Key* key) except -1:
        self._close_group()
        if self.collection == C_STRING:
            self.total = hash_end(&self.hasher)
        elif self.elements == 0 and self.collection != C_STREAM:
            # Nothing in it, or all of its fields expired: servers know no such key.
            self.keys_expired += 1
            return 0
        return self._close(key)

    cdef int abandon(self, Key* key, str reason) except -1:
        self.keys_unreadable += 1
        return 0

    cdef int string_part(self, const unsigned char* p, Py_ssize_t n, uint64_t at, uint64_t total) except -1:
        hash_add(&self.hasher, p, n)
        return 0

    # -- elements -------------------------------------------------------------------------------------------------------------

    cdef void _add(self, Hash element) noexcept:
        self.total.a += element.a
        self.total.b += element.b
        self.elements += 1

    cdef void _chain(self, Hash element) noexcept:
        self.total = hash_pair(self.total, element)
        self.elements += 1

    cdef int element(self, Item* item) except -1:
        cdef Hash hash = hash_bytes(self.seed, item.p, item.n)
        if self.collection == C_LIST:
            self._chain(hash)
        else:
            self._add(hash)
        return 0

    cdef int scored(self, Item* member, Item* score) except -1:
        self._add(hash_numbers(hash_bytes(self.seed, member.p, member.n), score_bits(score), 1))
        return 0

    cdef int field(self, Item* name, Item* value, int64_t expire_ms) except -1:
        return self._field(
            hash_bytes(self.seed, name.p, name.n), hash_bytes(self.seed, value.p, value.n), expire_ms
        )

    cdef int _field(self, Hash name, Hash value, int64_t expire_ms) except -1:
        if expire_ms >= 0:
            if expire_ms <= self.now_ms:
                return 0
            self.record.fields_ttl += hash_numbers(name, <uint64_t>expire_ms, 2).a
        self._add(hash_pair(name, value))
        return 0

    cdef int slot(self, uint64_t index, Item* value) except -1:
        self._add(hash_numbers(hash_bytes(self.seed, value.p, value.n), index, 3))
        return 0

    cdef int array_end(self, bint has_insert, uint64_t insert) except -1:
        if has_insert:
            self._add(hash_numbers(self.seed, insert, 4))
        return 0

    # -- elements too long to hold --------------------------------------------------------------------------------------------

    cdef int large_begin(self, int collection, int strings, bint has_last) except -1:
        self.part = 0
        return 0

    cdef int large_item(self, uint64_t n) except -1:
        hash_begin(&self.hasher, self.seed)
        return 0

    cdef int large_data(self, const unsigned char* p, Py_ssize_t n) except -1:
        hash_add(&self.hasher, p, n)
        return 0

    cdef int large_item_end(self) except -1:
        if self.collection == C_STREAM:
            self.entry_hash = hash_pair(self.entry_hash, hash_end(&self.hasher))
        elif self.part < 2:
            self.parts[self.part] = hash_end(&self.hasher)
            self.part += 1
        return 0

    cdef int large_end(self, Item* last) except -1:
        cdef int64_t expire_ms = -1
        if self.collection == C_HASH:
            if last != NULL and not (last.n and last.p[0] == c"-"):
                expire_ms = <int64_t>score_of(last)
            return self._field(self.parts[0], self.parts[1], expire_ms)
        if self.collection == C_ZSET:
            self._add(hash_numbers(self.parts[0], score_bits(last), 1))
        elif self.collection == C_LIST:
            self._chain(self.parts[0])
        else:
            self._add(self.parts[0])
        return 0

    # -- streams --------------------------------------------------------------------------------------------------------------

    cdef int entry(self, uint64_t ms, uint64_t seq, uint64_t fields) except -1:
        self.entry_hash = hash_numbers(self.seed, ms, seq)
        return 0

    cdef int entry_item(self, Item* item) except -1:
        self.entry_hash = hash_pair(self.entry_hash, hash_bytes(self.seed, item.p, item.n))
        return 0

    cdef int entry_end(self) except -1:
        self._chain(self.entry_hash)
        return 0

    cdef int stream_meta(self, StreamMeta* meta) except -1:
        self.total = hash_pair(self.total, hash_numbers(self.seed, meta.last_ms, meta.last_seq))
        if self.counters and meta.version > 1:
            self.total = hash_pair(self.total, hash_numbers(self.seed, meta.deleted_ms, meta.deleted_seq))
            self.total = hash_pair(self.total, hash_numbers(self.seed, meta.added, 5))
        return 0

    cdef int group(self, Item* name, uint64_t ms, uint64_t seq, int64_t entries_read) except -1:
        """A group's hash covers its name, its position, its pending entries and who owns them."""
        self._close_group()
        self.in_group = True
        self.group_hash = hash_pair(hash_bytes(self.seed, name.p, name.n), hash_numbers(self.seed, ms, seq))
        if self.entries_read:
            self.group_hash = hash_numbers(self.group_hash, <uint64_t>max(entries_read, -1), 6)
        self.group_total.a = self.group_total.b = 0
        return 0

    cdef int pending(self, const unsigned char* id, int64_t delivered_ms, uint64_t count) except -1:
        cdef Hash hash = hash_numbers(
            hash_numbers(self.seed, be64(id), be64(id + 8)), <uint64_t>delivered_ms, count
        )
        self.group_total.a += hash.a
        self.group_total.b += hash.b
        return 0

    cdef int consumer(self, Item* name, int64_t seen_ms, int64_t active_ms) except -1:
        """When a consumer was last seen is not part of it: no command carries that."""
        self._close_consumer()
        self.in_consumer = self.idle_consumers
        self.consumer_total = hash_bytes(self.seed, name.p, name.n)
        return 0

    cdef int owns(self, const unsigned char* id) except -1:
        self.in_consumer = True
        self.consumer_total = hash_pair(self.consumer_total, hash_numbers(self.seed, be64(id), be64(id + 8)))
        return 0

    cdef int _close_consumer(self) except -1:
        cdef Hash hash
        if self.in_consumer:
            hash = hash_numbers(self.consumer_total, 7, 7)
            self.group_total.a += hash.a
            self.group_total.b += hash.b
            self.in_consumer = False
        return 0

    cdef int _close_group(self) except -1:
        self._close_consumer()
        if self.in_group:
            self.total = hash_pair(self.total, hash_pair(self.group_hash, self.group_total))
            self.in_group = False
        return 0


# -- comparing ---------------------------------------------------------------------------------------------------------------


cdef int in_order(const void* x, const void* y) noexcept nogil:
    cdef const Record* a = <const Record*>x
    cdef const Record* b = <const Record*>y
    if a.key != b.key:
        return -1 if a.key < b.key else 1
    if a.value.a != b.value.a:
        return -1 if a.value.a < b.value.a else 1
    if a.expire_ms != b.expire_ms:
        return -1 if a.expire_ms < b.expire_ms else 1
    return 0


cdef uint64_t state_of(const Record* record, uint64_t tolerance) noexcept nogil:
    """Changes when anything about the key changes; never 0. Expiry times that are not exact count roughly."""
    cdef uint64_t expire = record.expire_ms >> 12 if tolerance else record.expire_ms
    cdef Hash hash = hash_numbers(record.value, expire, record.fields_ttl)
    return hash.a | 1


cdef uint64_t kinds_of(const Record* source, const Record* target, uint64_t tolerance) noexcept nogil:
    cdef uint64_t kinds = 0
    cdef uint64_t gap
    if source.place >> 56 != target.place >> 56:
        kinds |= D_TYPE
    elif source.value.a != target.value.a or source.value.b != target.value.b:
        kinds |= D_VALUE
    if source.expire_ms != target.expire_ms:
        gap = source.expire_ms - target.expire_ms
        if <int64_t>gap < 0:
            gap = 0 - gap
        if source.expire_ms == <uint64_t>-1 or target.expire_ms == <uint64_t>-1 or gap > tolerance:
            kinds |= D_TTL
    if source.fields_ttl != target.fields_ttl:
        kinds |= D_FIELD_TTL
    return kinds


def compare(bytearray source not None, bytearray target not None, uint64_t ttl_tolerance_ms=0):
    """Compares the records of one bucket of both ends; the stub tells more."""
    cdef Record* s = <Record*><char*>source
    cdef Record* t = <Record*><char*>target
    cdef Py_ssize_t sn = len(source) // <Py_ssize_t>sizeof(Record)
    cdef Py_ssize_t tn = len(target) // <Py_ssize_t>sizeof(Record)
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t j = 0
    cdef uint64_t equal = 0
    cdef uint64_t kinds
    cdef Difference found
    cdef bytearray out = bytearray()
    cdef uint64_t place = (<uint64_t>1 << 56) - 1
    if len(source) % sizeof(Record) or len(target) % sizeof(Record):
        raise ValueError("a bucket holds whole records")
    with nogil:
        qsort(s, sn, sizeof(Record), in_order)
        qsort(t, tn, sizeof(Record), in_order)
    while i < sn or j < tn:
        memset(&found, 0, sizeof(Difference))
        found.source = found.target = <uint64_t>-1
        if j == tn or (i < sn and s[i].key < t[j].key):
            found.kinds = D_MISSING
            found.source = s[i].place & place
            found.source_state = state_of(&s[i], ttl_tolerance_ms)
            i += 1
        elif i == sn or t[j].key < s[i].key:
            found.kinds = D_EXTRA
            found.target = t[j].place & place
            found.target_state = state_of(&t[j], ttl_tolerance_ms)
            j += 1
        else:
            kinds = kinds_of(&s[i], &t[j], ttl_tolerance_ms)
            if not kinds:
                equal += 1
                i += 1
                j += 1
                continue
            found.kinds = kinds
            found.source = s[i].place & place
            found.target = t[j].place & place
            found.source_state = state_of(&s[i], ttl_tolerance_ms)
            found.target_state = state_of(&t[j], ttl_tolerance_ms)
            i += 1
            j += 1
        out += PyBytes_FromStringAndSize(<char*>&found, sizeof(Difference))
    return equal, bytes(out)


def digest_bytes(const unsigned char[::1] data not None, bytes seed=b"", list cuts=[]):
    """The hash of some bytes, taken in pieces that end at *cuts*; for tests."""
    cdef Hasher hasher
    cdef Hash hash
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t stop
    cdef Py_ssize_t size = data.shape[0]
    hash_begin(&hasher, hash_bytes(Hash(0, 0), <const char*>seed, len(seed)))
    for cut in [*cuts, size]:
        stop = cut
        if stop > start:
            hash_add(&hasher, &data[start], stop - start)
        start = stop
    hash = hash_end(&hasher)
    return hash.a, hash.b
