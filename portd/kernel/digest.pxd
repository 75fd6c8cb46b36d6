from libc.stdint cimport int64_t, uint8_t, uint64_t

from portd.kernel.handler cimport Handler, Item, Key, StreamMeta


cdef extern from "native/digest.h" nogil:
    ctypedef struct Hash "portd_hash":
        uint64_t a
        uint64_t b
    ctypedef struct Hasher "portd_hasher":
        uint64_t total
    void hash_begin "portd_hash_begin"(Hasher* hasher, Hash seed)
    void hash_add "portd_hash_add"(Hasher* hasher, const void* data, size_t size)
    Hash hash_end "portd_hash_end"(Hasher* hasher)
    Hash hash_bytes "portd_hash_bytes"(Hash seed, const void* data, size_t size)
    Hash hash_pair "portd_hash_pair"(Hash x, Hash y)
    Hash hash_numbers "portd_hash_numbers"(Hash seed, uint64_t x, uint64_t y)


cdef struct Record:
    uint64_t key                # hash of database and name
    Hash value
    uint64_t expire_ms          # of the key; all ones none
    uint64_t fields_ttl         # hash over the expiry times of hash fields; 0 none
    uint64_t place              # type in the top byte, offset of the name below


cdef struct Bucket:
    unsigned char* data
    Py_ssize_t used


cdef class DigestHandler(Handler):
    cdef object chunks                  # deque of finished (bucket, bytes)
    cdef int bits                       # of the key's hash that choose the bucket
    cdef Bucket* buckets
    cdef Py_ssize_t bucket_bytes
    cdef unsigned char* names
    cdef Py_ssize_t names_used
    cdef Py_ssize_t names_capacity
    cdef uint64_t names_base            # offset of names[0]
    cdef bytes ignored                  # prefix of keys of database 0 that do not count
    cdef bint entries_read
    cdef bint idle_consumers
    cdef bint counters
    cdef Hash seed
    cdef int db
    # the value being told
    cdef Record record
    cdef int collection
    cdef uint64_t elements
    cdef Hash total
    cdef Hash entry_hash
    cdef Hash group_hash
    cdef Hash group_total
    cdef Hasher hasher
    cdef Hash[2] parts
    cdef int part
    cdef bint in_group
    cdef bint in_consumer               # one that counts
    cdef Hash consumer_total
    # counters
    cdef uint64_t keys_told
    cdef uint64_t keys_expired
    cdef uint64_t keys_unreadable
    cdef uint64_t elements_total

    cdef int _open(self, Key* key, int collection) except -1
    cdef int _close(self, Key* key) except -1
    cdef int _emit(self) except -1
    cdef int _cut_names(self) except -1
    cdef int _close_group(self) except -1
    cdef int _close_consumer(self) except -1
    cdef int _field(self, Hash name, Hash value, int64_t expire_ms) except -1
    cdef void _add(self, Hash element) noexcept
    cdef void _chain(self, Hash element) noexcept
