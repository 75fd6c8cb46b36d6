from libc.stdint cimport uint64_t

from portd.kernel.handler cimport Key


cdef class Selection:
    cdef bint[16] collections       # wanted, by Collection
    cdef bint functions
    cdef bint aux
    cdef tuple patterns             # globs; empty: any key
    cdef frozenset databases        # empty: all
    cdef readonly uint64_t min_bytes
    cdef readonly uint64_t max_bytes
    cdef readonly bint sized        # a size is asked for: it must be measured first
    cdef bint takes(self, Key* key, int collection) except -1
    cdef bint fits(self, Key* key) noexcept
