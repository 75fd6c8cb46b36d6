# cython: language_level=3
"""Cluster slots of keys."""

from libc.stdint cimport int32_t, uint8_t


cdef int slot_of(const uint8_t* key, Py_ssize_t size) noexcept nogil
cdef int fill_tags() noexcept
cdef int32_t tag_of(int slot) noexcept nogil
