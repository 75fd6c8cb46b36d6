# What the snapshot decoder tells whoever consumes the values: commands, events, digest, statistics.
#
# A new consumer is a class derived from `Handler`, which hears nothing; SnapshotDecoder takes any of them. What it
# makes of the values it hands out by `pop`, and sets `ready` while there is some.
#
# The decoder calls these methods in the order of the bytes. Pointers are valid during the call only. A method
# returns -1 with an exception set, 0 otherwise. `ready` asks the decoder to stop at the next safe state.

from libc.stdint cimport int64_t, uint64_t


cdef enum Form:
    F_WHOLE = 0             # p holds all n bytes
    F_RAW_PARTS = 1         # n bytes follow, too many to hold
    F_LZF_PARTS = 2         # n bytes follow, packed in `packed` bytes
    F_DOUBLE = 3            # p holds the 8 bytes of a number; only scores, and only for handlers with `binary_scores`


cdef struct Item:
    const unsigned char* p
    uint64_t n              # plain length, bytes
    uint64_t packed         # compressed length, bytes
    int form


cdef struct Key:
    const unsigned char* name
    Py_ssize_t size         # bytes
    int64_t expire_ms       # unix ms; -1 none
    int64_t idle            # seconds; -1 none
    int freq                # 0..255; -1 none
    int db
    int encoding
    int byte                # type byte as read
    uint64_t offset         # snapshot offset of its first attribute or type byte
    uint64_t elements       # announced; 0 unknown
    uint64_t bytes          # of its value in the snapshot; before its end only where it was measured; 0 unknown
    uint64_t module         # id of a module value
    bint meta               # key metadata came with it


cdef struct StreamMeta:
    int version             # of the encoding, 1..5
    uint64_t length
    uint64_t last_ms
    uint64_t last_seq
    uint64_t deleted_ms     # max deleted entry
    uint64_t deleted_seq
    uint64_t added          # entries ever added


cdef enum Plan:
    P_SKIP = 0              # walk over the value, tell nothing
    P_ELEMENTS = 1          # tell every element, never mind the size
    P_WHOLE = 2             # measure first: `raw` when it fits the limits, else elements
    P_SMALL = 3             # measure first: elements, but say whether the value is small (`small_bytes`)


cdef class Handler:
    cdef bint ready
    cdef const unsigned char* origin    # name of the key that is told as the source has it; only where keys are mapped
    cdef Py_ssize_t origin_size
    cdef int origin_db                  # -1: nothing is mapped
    cdef int64_t now_ms                 # unix ms; set by the decoder before each turn
    cdef uint64_t offset                # of the snapshot, set by the decoder before each step
    cdef bint valkey                    # the snapshot is of that family; set when its magic was read
    cdef Py_ssize_t small_bytes         # a value up to here is small
    cdef Py_ssize_t small_name          # a longer name of a key leaves a command too little room for many elements
    cdef bint binary_scores             # scores that stand as doubles in the snapshot are told so, not as text
    cdef uint64_t whole_elements        # a collection of more is not measured: it is large
    cdef uint64_t keys_failed           # refused for good
    cdef uint64_t keys_left_out         # nobody wants them
    cdef uint64_t meta_dropped          # values told without the key metadata that came with them
    cdef object pop(self)
    cdef int add_statistics(self, dict counters) except -1
    cdef Py_ssize_t owned(self) noexcept
    cdef Py_ssize_t bound(self) noexcept                                # the most that `owned` may become
    cdef int refuse(self, Key* key, str type_name, str reason) except -1
    cdef int aux(self, Item* name, Item* value) except -1
    cdef int select(self, int db) except -1
    cdef int plan(self, Key* key) except -1
    cdef int string(self, Key* key, Item* value) except -1
    cdef int raw(self, Key* key, const unsigned char* p, Py_ssize_t n, const unsigned char* meta, Py_ssize_t meta_n) except -1
    cdef int begin(self, Key* key, int collection, bint small) except -1    # 1: cannot be applied, skip it
    cdef int end(self, Key* key) except -1
    cdef int abandon(self, Key* key, str reason) except -1      # instead of end: remove what was told
    cdef int string_part(self, const unsigned char* p, Py_ssize_t n, uint64_t at, uint64_t total) except -1
    cdef int element(self, Item* item) except -1                        # list, set
    cdef int scored(self, Item* member, Item* score) except -1          # zset; score as text or F_DOUBLE
    cdef int field(self, Item* name, Item* value, int64_t expire_ms) except -1      # hash; -1 no expiry
    cdef int slot(self, uint64_t index, Item* value) except -1          # array
    cdef int array_end(self, bint has_insert, uint64_t insert) except -1
    cdef int entry(self, uint64_t ms, uint64_t seq, uint64_t fields) except -1      # then 2 x fields `entry_item`
    cdef int entry_item(self, Item* item) except -1
    cdef int entry_end(self) except -1
    cdef int stream_meta(self, StreamMeta* meta) except -1
    cdef int group(self, Item* name, uint64_t ms, uint64_t seq, int64_t entries_read) except -1
    cdef int pending(self, const unsigned char* id, int64_t delivered_ms, uint64_t count) except -1
    cdef int consumer(self, Item* name, int64_t seen_ms, int64_t active_ms) except -1
    cdef int owns(self, const unsigned char* id) except -1
    cdef int stream_dropped(self, const char* what) except -1
    cdef int producers(self, uint64_t seconds, uint64_t most, uint64_t n) except -1     # of a stream; then each, with its messages
    cdef int producer(self, Item* name) except -1
    cdef int message(self, Item* name, uint64_t ms, uint64_t seq) except -1
    cdef int large_begin(self, int collection, int strings, bint has_last) except -1
    cdef int large_item(self, uint64_t n) except -1                     # an item of n bytes begins
    cdef int large_data(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int large_item_end(self) except -1
    cdef int large_end(self, Item* last) except -1                      # score or expiry that followed; NULL none
    cdef int function(self, Item* code) except -1                       # not F_WHOLE: longer than a chunk, will be skipped
    cdef int finish(self) except -1
