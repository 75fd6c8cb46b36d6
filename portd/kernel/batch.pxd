from libc.stdint cimport int64_t, uint64_t


cpdef enum:
    WHOLE = 0
    OPEN = 1
    SPREAD = 2
    ORDERED = 3
    CLOSE = 4


cdef class Batch:
    cdef readonly bytes data
    cdef readonly int64_t replies
    cdef readonly int db
    cdef readonly int64_t keys
    cdef readonly int kind
    cdef readonly uint64_t fence
    cdef readonly bytes key
    cdef readonly uint64_t offset
    cdef readonly uint64_t base
    cdef readonly bint part
