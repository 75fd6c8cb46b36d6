# cython: language_level=3
"""Which keys are taken; the methods are in ``rules.pyx``."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from portd.kernel.handler cimport Key
from portd.kernel.prefixes cimport Prefixes


cdef enum Reason:  # why a key is left out
    R_TAKEN = 0
    R_KEY
    R_DATABASE
    R_SLOT
    R_TYPE
    R_SIZE
    R_TTL
    REASONS_COUNT


cdef struct Step:  # of a glob: one byte, or any number of them
    bint any
    uint64_t[4] bytes  # which ones, a bit each


cdef struct Glob:
    Step* steps
    Py_ssize_t size


cdef class Patterns:
    cdef Prefixes prefixes
    cdef Glob* globs
    cdef Py_ssize_t glob_count
    cdef Step* steps  # of all globs
    cdef object search  # of the regular expressions; None: there are none

    cdef int _build_globs(self, list globs) except -1
    cdef Py_ssize_t count(self) noexcept
    cdef bint match(self, const uint8_t* key, Py_ssize_t size) noexcept nogil
    cdef bint fits(self, const uint8_t* key, Py_ssize_t size) except -1


cdef class Rules:
    cdef Patterns included
    cdef Patterns excluded
    cdef bint all
    cdef bint[16] collections  # wanted, by Collection
    cdef bint typed  # not all of them are
    cdef frozenset databases  # None: all
    cdef frozenset without  # these
    cdef bytearray slots  # 1 for each that is taken; None: all
    cdef uint64_t min_bytes
    cdef uint64_t max_bytes
    cdef readonly bint sized  # a size is asked for: it must be measured first
    cdef int64_t min_ttl_ms  # -1: not asked for, as the next one
    cdef int64_t max_ttl_ms

    cdef bint take_name(self, const uint8_t* key, Py_ssize_t size) except -1
    cdef bint take_slot(self, const uint8_t* key, Py_ssize_t size) except -1
    cdef bint take_database(self, int db) except -1
    cdef bint take(self, const uint8_t* key, Py_ssize_t size) except -1
    cdef int judge(self, Key* key, bint database, int64_t now_ms) except -1
    cdef bint fits(self, uint64_t size) noexcept nogil
