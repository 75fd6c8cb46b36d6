# cython: language_level=3
"""The rewriter: gives a command another form; the methods are in ``rewrite.pyx``."""

from libc.stdint cimport int64_t, uint8_t

from portd.kernel.orderedforms cimport OrderedForms


cdef class Rewriter(OrderedForms):
    cdef int64_t write(self, int kind, const uint8_t* header, int64_t argc, int64_t known, bint large) except -1
    cdef int64_t _write(self, int kind) except -1
    cdef int64_t _set(self) except -1
    cdef int64_t _msetex(self) except -1
    cdef int64_t _msetex_as_sets(self, int64_t pairs) except -1
    cdef int64_t _restore(self) except -1
    cdef int64_t _pop(self, bint left) except -1
    cdef int64_t _lmove(self) except -1
    cdef int64_t _hsetex(self) except -1
    cdef int64_t _field_option(self, int64_t i) noexcept
    cdef int64_t _fields_last(self, const char* name, int64_t i, int64_t end) except -1
    cdef int64_t _copy_fields_last(self, int64_t first, int64_t i, int64_t end) except -1
    cdef int64_t _hpexpireat(self) except -1
    cdef int64_t _field_expiry(self) except -1
