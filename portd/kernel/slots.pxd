# cython: language_level=3
"""Cluster slots of keys."""

from libc.stdint cimport uint8_t


cdef int slot_of(const uint8_t* key, Py_ssize_t size) noexcept nogil
