# cython: language_level=3
"""Under which names and in which databases things are written; the methods are in ``mapping.pyx``."""

from libc.stdint cimport int64_t, uint8_t

from portd.kernel.prefixes cimport Prefixes


cdef struct Swap:  # of the beginning of a key for another one
    Py_ssize_t cut  # bytes of the old one
    const uint8_t* new
    Py_ssize_t size  # bytes of that


cdef class Mapping:
    cdef list texts  # old and new ones, ascending; they own the bytes
    cdef Prefixes olds
    cdef Swap* swaps  # by the number of their old one
    cdef Py_ssize_t count
    cdef bytes added
    cdef dict to  # databases, by that of the source
    cdef int64_t all_to  # -1: only those in ``to`` are mapped
    cdef readonly bint names  # some keys change
    cdef readonly bint databases  # some databases do
    cdef bytes own

    cdef int _fill(self, dict renamed) except -1
    cdef const Swap* find(self, const uint8_t* key, Py_ssize_t size) noexcept nogil
    cdef bint meets(self, const uint8_t* key, Py_ssize_t size, const uint8_t* prefix, Py_ssize_t length) noexcept nogil
    cdef int64_t database(self, int64_t db) noexcept
