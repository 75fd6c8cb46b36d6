# RESP requests written straight into the bytes object that will be sent.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memmove


cdef extern from "native/format.h" nogil:
    int portd_digits(uint64_t value)
    int portd_format_u64(char* out, uint64_t value)
    int portd_format_i64(char* out, int64_t value)


cdef enum:
    NUMBER_BYTES = 24       # room for any 64-bit number in decimal
    FRAME_BYTES = 32        # room for `$<length>\r\n` and the closing `\r\n`


cdef class RespWriter:
    cdef PyObject* object           # the bytes object being filled; NULL before the first byte
    cdef char* buffer               # its memory
    cdef Py_ssize_t used            # bytes written
    cdef Py_ssize_t capacity
    cdef Py_ssize_t initial         # capacity to begin with
    cdef Py_ssize_t peak            # largest capacity so far
    # A command whose argument count is not known yet
    cdef Py_ssize_t command         # index of its header; -1 none open
    cdef Py_ssize_t header          # bytes kept free for the header
    cdef uint64_t arguments
    cdef Py_ssize_t guess           # header size of the command before
    cdef int grow(self, Py_ssize_t more) except -1
    cdef bytes take(self)
    cdef int open_command(self, const char* name, Py_ssize_t name_size) except -1
    cdef int close_command(self) except -1

    cdef inline int reserve(self, Py_ssize_t more) except -1:
        if self.capacity - self.used < more:
            return self.grow(more)
        return 0

    cdef inline int raw(self, const void* p, Py_ssize_t n) except -1:
        self.reserve(n)
        memcpy(self.buffer + self.used, p, n)
        self.used += n
        return 0

    cdef inline int array(self, uint64_t n) except -1:
        self.reserve(FRAME_BYTES)
        self.buffer[self.used] = b"*"
        self.used += 1 + portd_format_u64(self.buffer + self.used + 1, n)
        self.crlf()
        return 0

    cdef inline int bulk_head(self, uint64_t n) except -1:
        self.reserve(FRAME_BYTES)
        self.buffer[self.used] = b"$"
        self.used += 1 + portd_format_u64(self.buffer + self.used + 1, n)
        self.crlf()
        return 0

    cdef inline void crlf(self) noexcept:
        self.buffer[self.used] = b"\r"
        self.buffer[self.used + 1] = b"\n"
        self.used += 2

    cdef inline int bulk(self, const void* p, Py_ssize_t n) except -1:
        cdef char* out
        self.reserve(n + FRAME_BYTES)
        out = self.buffer + self.used
        out[0] = b"$"
        out += 1 + portd_format_u64(out + 1, n)
        out[0] = b"\r"
        out[1] = b"\n"
        if n:
            memcpy(out + 2, p, n)
        out += 2 + n
        out[0] = b"\r"
        out[1] = b"\n"
        self.used = out + 2 - self.buffer
        return 0

    cdef inline int number(self, int64_t value) except -1:
        cdef char[NUMBER_BYTES] text
        return self.bulk(text, portd_format_i64(text, value))

    cdef inline int unsigned(self, uint64_t value) except -1:
        cdef char[NUMBER_BYTES] text
        return self.bulk(text, portd_format_u64(text, value))

    cdef inline int stream_id(self, uint64_t ms, uint64_t seq) except -1:
        cdef char[NUMBER_BYTES * 2] text
        cdef int n = portd_format_u64(text, ms)
        text[n] = b"-"
        n += 1 + portd_format_u64(text + n + 1, seq)
        return self.bulk(text, n)
