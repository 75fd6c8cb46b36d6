# cython: language_level=3
"""A set of prefixes; the methods are in ``prefixes.pyx``."""

from libc.stdint cimport uint8_t


cdef struct Prefix:
    const uint8_t* text
    Py_ssize_t size
    Py_ssize_t shorter  # number of the longest other one that this one begins with; -1: there is none


cdef class Prefixes:
    cdef list texts  # ascending; they own the bytes
    cdef Prefix* entries
    cdef Py_ssize_t count
    cdef Py_ssize_t[257] first  # number of the first one that begins with that byte
    cdef Py_ssize_t every  # number of the one that every key begins with; -1: there is none

    cdef int _fill(self) except -1
    cdef Py_ssize_t longest(self, const uint8_t* key, Py_ssize_t size) noexcept nogil
