# cython: language_level=3
"""Payloads of RESTORE and FUNCTION RESTORE in the stream: whether the target takes them, and what it is given instead."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from portd.kernel.dialect cimport Dialect


cdef enum:
    FOOTER = 10  # RDB version and CRC64 at the end of a payload


cdef enum Fate:
    AS_IT_CAME
    NEW_FOOTER
    OTHER_FORM


cdef int fate_of(Dialect dialect, const uint8_t* payload, Py_ssize_t size, bint function) noexcept
cdef bint accepts(Dialect dialect, const uint8_t* footer) noexcept
cdef void write_footer(Dialect dialect, uint64_t crc, uint8_t* footer) noexcept
cdef tuple other_form(Dialect dialect, bytes key, bytes payload)
