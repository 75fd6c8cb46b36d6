# How many bytes a value takes, as far as it is at hand.

from libc.stdint cimport uint64_t


cdef struct Measure:
    int stage               # 0 before the count, 1 elements, 2 what follows them
    uint64_t left           # elements still to step over
    Py_ssize_t at           # bytes measured
    uint64_t plain          # the same, decompressed
    bint empty              # a collection of no elements


cdef int measure_value(
    Measure* m, int encoding, const unsigned char* p, Py_ssize_t available, uint64_t limit, uint64_t max_elements
) noexcept nogil
cdef int measure_meta(const unsigned char* p, Py_ssize_t available, uint64_t limit, Py_ssize_t* size) noexcept nogil
