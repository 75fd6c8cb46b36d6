# cython: language_level=3
"""What forms are written with; the methods are in ``formwriter.pyx``."""

from libc.stdint cimport int64_t, uint8_t

from portd.kernel.dialect cimport Dialect
from portd.kernel.edit cimport Editor
from portd.kernel.forms cimport Forms
from portd.kernel.piecebuffer cimport PieceBuffer


cdef struct Argument:
    const uint8_t* text
    Py_ssize_t size


cdef struct Expiry:  # what options say about one
    int64_t at  # unix ms; -1: nothing
    bint relative
    bint keeps  # KEEPTTL


cdef class FormWriter:
    cdef PieceBuffer buffer
    cdef Editor editor
    cdef Forms forms
    cdef Dialect dialect
    cdef bint pxat
    cdef bint unlink
    cdef bint drops  # the command has no form on the target, and needs none
    cdef int fate  # of the payload of a RESTORE
    cdef int64_t lost  # expiry times of hash fields that the target cannot hold
    cdef int64_t unrecorded  # what streams know of idempotent producers, and the target's cannot
    cdef int64_t begun  # commands written
    # the command looked at; its name is argument 0 and not there
    cdef const uint8_t* header  # of its first argument
    cdef Argument* arguments
    cdef int64_t capacity
    cdef int64_t known
    cdef int64_t argc
    cdef bint large
    cdef Expiry expiry
    cdef int64_t now_ms

    cdef Py_ssize_t owned(self) noexcept
    cdef const uint8_t* behind(self, int64_t done) noexcept
    cdef int _parse(self, const uint8_t* header, int64_t argc, int64_t known) except -1

    cdef bint _is(self, int64_t i, const char* word) noexcept
    cdef bint _same(self, int64_t i, int64_t other) noexcept
    cdef bint _begins(self, int64_t i, const char* word) noexcept
    cdef bint _number(self, int64_t i, int64_t* number) noexcept
    cdef bint _reads_expiry(self, int64_t i) noexcept
    cdef int _begin(self, int64_t argc, const char* name) except -1
    cdef int _copy(self, int64_t i) except -1
    cdef int _copy_all(self, int64_t i, int64_t end) except -1
    cdef int64_t _script(self, bytes text, int64_t keys, int64_t i) except -1
    cdef int _expire(self, int64_t key, int64_t at) except -1
