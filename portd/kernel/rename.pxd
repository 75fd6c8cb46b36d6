# cython: language_level=3
"""Commands under the names and in the databases of the target; the methods are in ``rename.pyx``."""

from libc.stdint cimport int64_t, uint8_t

from portd.kernel.commandtable cimport CommandTable, Row
from portd.kernel.keypositions cimport Found, Layout
from portd.kernel.mapping cimport Mapping


cdef struct Half:  # the command that goes on in the next piece
    int64_t argc  # 0: there is none
    int64_t index  # arguments done
    int64_t left  # bytes of the argument at hand still to come, CRLF included
    bint script  # an EVAL
    const Layout* layout


cdef class Renamer:
    cdef Mapping mapping
    cdef CommandTable table
    cdef Half half
    cdef Found found
    cdef bytes held  # of its bytes, what comes again with the next piece
    cdef Py_ssize_t look  # bytes of a key that must be at hand
    cdef readonly Py_ssize_t growth  # bytes that a key may become longer by, its length included
    # what was written; bytes from ``run`` on go on as they came and are not in it yet
    cdef uint8_t* output
    cdef Py_ssize_t capacity
    cdef Py_ssize_t used
    cdef const uint8_t* run
    cdef bint changed

    cdef bytes rename(self, bytes data)
    cdef Py_ssize_t owned(self) noexcept
    cdef const uint8_t* _whole(self, const uint8_t* head, const uint8_t* end) except? NULL
    cdef int _keys(
        self, const uint8_t* name, Py_ssize_t size, const Row* row, const uint8_t* header, const uint8_t* end, int64_t argc
    ) except -1
    cdef const uint8_t* _resume(self, const uint8_t* cursor, const uint8_t* end) except? NULL
    cdef const uint8_t* _argument(
        self, const uint8_t* header, const uint8_t* text, Py_ssize_t size, const uint8_t* end
    ) except? NULL
    cdef int _begin(self) noexcept
    cdef bint _counts(self) noexcept
    cdef int _count(self, const uint8_t* text, Py_ssize_t size) noexcept
    cdef const uint8_t* _key(self, const uint8_t* header, const uint8_t* text, Py_ssize_t size) except NULL
    cdef int _number(self, const uint8_t* header, const uint8_t* text, Py_ssize_t size) except -1
    cdef int _flush(self, const uint8_t* end) except -1
    cdef int _append(self, const void* data, Py_ssize_t size) except -1
    cdef int _append_length(self, Py_ssize_t size) except -1
