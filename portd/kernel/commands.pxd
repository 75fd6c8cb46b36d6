from libc.stdint cimport int64_t, uint64_t

from portd.kernel.dialect cimport Dialect
from portd.kernel.handler cimport Handler, Item, Key, StreamMeta
from portd.kernel.writer cimport RespWriter


cdef struct Name:
    char* p
    Py_ssize_t size
    Py_ssize_t capacity


cdef struct Pending:
    unsigned char[16] id
    int64_t delivered_ms
    uint64_t count


cdef class CommandHandler(Handler):
    cdef readonly Dialect dialect
    cdef RespWriter out
    cdef object batches                 # deque of finished batches
    cdef Py_ssize_t batch_bytes
    cdef Py_ssize_t command_bytes
    cdef uint64_t command_elements
    cdef Py_ssize_t chunk_bytes
    cdef bint skip_existing
    # expiry times before ``horizon_ms`` (unix ms; 0: none) are sent ``shift_ms`` later
    cdef int64_t horizon_ms
    cdef int64_t shift_ms
    # the batch being filled
    cdef int db
    cdef int64_t replies
    cdef int64_t keys
    cdef int kind
    cdef uint64_t batch_offset
    cdef uint64_t batch_base
    # the command being filled
    cdef bint run                       # it is an MSET
    cdef uint64_t elements
    # the value being told
    cdef Key* key
    cdef int collection
    cdef bint big
    cdef bint expired
    cdef uint64_t fence
    cdef uint64_t told                  # elements told so far
    cdef bint drop_last
    cdef bint last_is_expiry
    cdef bint left_out                  # the element, or the string, that is being told is too large for the target
    cdef bint part_cut                  # a part of its command is with the lanes already
    cdef bint lost                      # something of the big key is left out: it does not count as applied
    # stream groups
    cdef Name group_name
    cdef Name consumer_name
    cdef Pending* pel
    cdef Py_ssize_t pel_size
    cdef Py_ssize_t pel_capacity
    cdef bint pel_overflow
    # counters
    cdef uint64_t fences
    cdef uint64_t batches_total
    cdef uint64_t elements_total
    cdef uint64_t keys_expired
    cdef uint64_t keys_postponed
    cdef uint64_t idle_dropped
    cdef uint64_t freq_dropped
    cdef uint64_t field_ttl_dropped
    cdef uint64_t stream_meta_dropped
    cdef uint64_t functions
    cdef list letters
    cdef frozenset wanted               # (db, key) of the keys to write; None for all of them
    cdef uint64_t letters_total

    cdef int cut(self, bint part) except -1

    cdef int _cut_if_full(self) except -1
    cdef int _close_run(self) except -1
    cdef bint _is_wanted(self, Key* key) except -1
    cdef int _leave_out(self, uint64_t n) except -1
    cdef int _close_command(self) except -1
    cdef int _open(self, const char* name, Py_ssize_t extra) except -1
    cdef int _plain_string(self, Key* key, Item* value) except -1
    cdef int _expire(self, Key* key) except -1
    cdef bint _is_expired(self, Key* key) noexcept
    cdef int64_t _expiry(self, Key* key) noexcept
    cdef int _older_stream(self, int encoding) noexcept
    cdef int _timed_field(self, Item* name, Item* value, int64_t expire_ms) except -1
    cdef int _remember(self, Name* name, Item* item) except -1
    cdef int _open_key(self, Key* key) except -1
    cdef int _cut_big(self) except -1
    cdef int _xclaim(self, const unsigned char* id, Pending* entry) except -1


cdef class DeadLetter:
    cdef readonly int db
    cdef readonly bytes key
    cdef readonly str type
    cdef readonly uint64_t offset
    cdef readonly str reason


cdef str module_name(uint64_t module)
