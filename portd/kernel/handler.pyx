# cython: language_level=3, auto_pickle=False
"""The handler that hears nothing: base of the others, and what a skipped value is told to."""

from libc.stdint cimport int64_t, uint64_t


cdef class Handler:
    def __cinit__(self, *_, **__):
        self.whole_elements = <uint64_t>-1
        self.origin_db = -1

    cdef object pop(self):
        """What was made of the values, in order; None when there is nothing now."""
        self.ready = False
        return None

    cdef int add_statistics(self, dict counters) except -1:
        return 0

    cdef Py_ssize_t owned(self) noexcept:
        """Bytes held beside what was popped."""
        return 0

    cdef Py_ssize_t bound(self) noexcept:
        return 0

    cdef int refuse(self, Key* key, str type_name, str reason) except -1:
        """The decoder itself cannot tell this value."""
        return 0

    cdef int aux(self, Item* name, Item* value) except -1:
        return 0

    cdef int select(self, int db) except -1:
        return 0

    cdef int plan(self, Key* key) except -1:
        return P_SKIP

    cdef int string(self, Key* key, Item* value) except -1:
        return 0

    cdef int raw(
        self, Key* key, const unsigned char* p, Py_ssize_t n, const unsigned char* meta, Py_ssize_t meta_n
    ) except -1:
        return 0

    cdef int begin(self, Key* key, int collection, bint small) except -1:
        return 0

    cdef int end(self, Key* key) except -1:
        return 0

    cdef int abandon(self, Key* key, str reason) except -1:
        return 0

    cdef int string_part(self, const unsigned char* p, Py_ssize_t n, uint64_t at, uint64_t total) except -1:
        return 0

    cdef int element(self, Item* item) except -1:
        return 0

    cdef int scored(self, Item* member, Item* score) except -1:
        return 0

    cdef int field(self, Item* name, Item* value, int64_t expire_ms) except -1:
        return 0

    cdef int slot(self, uint64_t index, Item* value) except -1:
        return 0

    cdef int array_end(self, bint has_insert, uint64_t insert) except -1:
        return 0

    cdef int entry(self, uint64_t ms, uint64_t seq, uint64_t fields) except -1:
        return 0

    cdef int entry_item(self, Item* item) except -1:
        return 0

    cdef int entry_end(self) except -1:
        return 0

    cdef int stream_meta(self, StreamMeta* meta) except -1:
        return 0

    cdef int group(self, Item* name, uint64_t ms, uint64_t seq, int64_t entries_read) except -1:
        return 0

    cdef int pending(self, const unsigned char* id, int64_t delivered_ms, uint64_t count) except -1:
        return 0

    cdef int consumer(self, Item* name, int64_t seen_ms, int64_t active_ms) except -1:
        return 0

    cdef int owns(self, const unsigned char* id) except -1:
        return 0

    cdef int producers(self, uint64_t seconds, uint64_t most, uint64_t n) except -1:
        return self.stream_dropped("idempotent producers") if n else 0

    cdef int producer(self, Item* name) except -1:
        return 0

    cdef int message(self, Item* name, uint64_t ms, uint64_t seq) except -1:
        return 0

    cdef int stream_dropped(self, const char* what) except -1:
        return 0

    cdef int large_begin(self, int collection, int strings, bint has_last) except -1:
        return 0

    cdef int large_item(self, uint64_t n) except -1:
        return 0

    cdef int large_data(self, const unsigned char* p, Py_ssize_t n) except -1:
        return 0

    cdef int large_item_end(self) except -1:
        return 0

    cdef int large_end(self, Item* last) except -1:
        return 0

    cdef int function(self, Item* code) except -1:
        return 0

    cdef int finish(self) except -1:
        return 0
