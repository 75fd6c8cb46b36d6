# cython: language_level=3
"""What a piece of the stream says of scripts; the methods are in ``scripts.pyx``."""

from libc.stdint cimport int64_t, uint8_t

from portd.kernel.piecebuffer cimport PieceBuffer


cdef class ScriptNotes:
    cdef PieceBuffer buffer
    cdef set bodies
    cdef set loaded  # those of them that came by SCRIPT LOAD
    cdef set digests
    cdef bytes last  # the body noted last: most sources send the same one again
    cdef Py_ssize_t held  # bytes of bodies
    cdef bint flushed
    cdef bint full  # the piece is to end: no more is noted in it

    cdef void begin(self) noexcept
    cdef int note(self, int kind, const uint8_t* cursor, int64_t argc) except -1
    cdef int _note_body(self, const uint8_t** cursor, bint loaded) except -1
    cdef int _read(self, const uint8_t** cursor, Py_ssize_t most, const uint8_t** text, Py_ssize_t* size) noexcept
