# cython: language_level=3
"""Which keys are taken; the methods are in ``rules.pyx``."""

from libc.stdint cimport uint8_t, uint64_t


cdef struct Prefix:
    const uint8_t* text
    Py_ssize_t size
    Py_ssize_t shorter  # number of the longest other one that this one begins with; -1: there is none


cdef struct Step:  # of a glob: one byte, or any number of them
    bint any
    uint64_t[4] bytes  # which ones, a bit each


cdef struct Glob:
    Step* steps
    Py_ssize_t size


cdef class Patterns:
    cdef list texts  # of prefixes, sorted; they own the bytes
    cdef Prefix* prefixes
    cdef Py_ssize_t prefix_count
    cdef Glob* globs
    cdef Py_ssize_t glob_count
    cdef Step* steps  # of all globs

    cdef int _build_prefixes(self) except -1
    cdef int _build_globs(self, list globs) except -1
    cdef bint match(self, const uint8_t* key, Py_ssize_t size) noexcept nogil


cdef class Rules:
    cdef Patterns included
    cdef Patterns excluded
    cdef bint all

    cdef bint take(self, const uint8_t* key, Py_ssize_t size) noexcept nogil
