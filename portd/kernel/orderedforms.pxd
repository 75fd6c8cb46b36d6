# cython: language_level=3
"""Other forms of what is done to sorted sets, bits and streams; the methods are in ``orderedforms.pyx``."""

from libc.stdint cimport int64_t

from portd.kernel.formwriter cimport FormWriter


cdef class OrderedForms(FormWriter):
    cdef int64_t _write_ordered(self, int kind) except -1
    cdef int64_t _zadd(self) except -1
    cdef int64_t _zpop(self, bint least) except -1
    cdef int64_t _geosearchstore(self) except -1
    cdef int64_t _bitop(self) except -1
    cdef int64_t _bits(self, const char* operation) except -1
    cdef int64_t _xadd(self, bint adds) except -1
    cdef int64_t _record(self, int64_t producer, int64_t done, int64_t i) except -1
    cdef int _copy_rest(self, int64_t done) except -1
    cdef int64_t _trim_by_references(self, int64_t strategy, int64_t least, int64_t refers, int64_t i, bint adds) except -1
    cdef int64_t _xackdel(self) except -1
    cdef int64_t _trim_by_id(self, int64_t least, int64_t i, bint adds) except -1
    cdef bint _is_older(self, int64_t i, int64_t other) noexcept
    cdef int64_t _xdelex(self) except -1
    cdef int64_t _xgroup(self) except -1
