from libc.stdint cimport int64_t, uint64_t

from portd.kernel.blob cimport BlobReader
from portd.kernel.reader cimport Cursor


cdef class ElementReader(BlobReader):
    cdef int64_t minimum                # of E_HASH_TTL
    cdef uint64_t large_number          # number that came before the strings of an element with a long item

    cdef int _elements(self) except -1
    cdef int _tell(self, uint64_t number) except -1
    cdef int64_t _expiry(self, uint64_t number) noexcept
    cdef int _binary_score(self, uint64_t bits) except -1
    cdef int _score(self, uint64_t bits) except -1
    cdef int _score_text(self, Cursor* c) except -2
    cdef int _cells(self) except -1
    cdef int _node(self) except -1
    cdef int _long_in_items(self, Cursor* c, int op, int item, uint64_t number) except -1
    cdef int _long_begin(self, Cursor* c, int item, bint in_blob) except -1
    cdef int _long_whole(self, int i) except -1
    cdef bint _has_last(self) noexcept
    cdef int _large(self) except -1
    cdef int _large_items(self) except -1
    cdef int _expiry_text(self, int64_t expire_ms) except -1
    cdef int _long_done(self, int state) except -1
    cdef int _large_cells(self) except -1
    cdef int _template_next(self) except -1
