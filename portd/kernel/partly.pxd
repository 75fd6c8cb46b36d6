# cython: language_level=3
"""Whole commands of which only a part goes on; the methods are in ``partly.pyx``."""

from libc.stdint cimport int64_t, uint8_t

from portd.kernel.decide cimport Decider


cdef class PartTaker(Decider):
    cdef tuple _owing(self)
    cdef int slot_of_key(self, tuple key) except -1
    cdef int _spare(self) except -1
    cdef int64_t _absolute(self, const uint8_t* text, Py_ssize_t size, int64_t unit, bint relative) noexcept
    cdef int _halve(self, bint whole) except -1
