# Elements of collections: the states ST_ITEMS, ST_CELLS, ST_NODES, ST_LARGE, and what values of rare types need of them.

from libc.stdint cimport int64_t, uint64_t

from portd.kernel.decoder cimport Decoder
from portd.kernel.reader cimport Cursor


cdef int read_elements(Decoder self) except -1
cdef int write_score(Decoder self, uint64_t bits) except -1
cdef int read_cells(Decoder self) except -1
cdef int read_node(Decoder self) except -1
cdef int begin_long(Decoder self, Cursor* c, int item, bint in_blob) except -1
cdef bint has_last(Decoder self) noexcept
cdef int read_large(Decoder self) except -1
cdef int write_expiry(Decoder self, int64_t expire_ms) except -1
cdef int template_next(Decoder self) except -1
