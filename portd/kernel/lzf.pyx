# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""LZF decompression (lzf_d.c): whole for short strings, through an 8 KiB window for any length.

A control byte below 32 copies that many literal bytes plus one; any other is a match: length in the high three bits
(7: the next byte is added), distance in the low five and the next byte.
"""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memmove


cdef extern from "native/lzf.h" nogil:
    int portd_lzf(const unsigned char* source, Py_ssize_t size, unsigned char* out, Py_ssize_t plain)


cdef int lzf_whole(
    const unsigned char* source, Py_ssize_t size, unsigned char* out, Py_ssize_t plain
) noexcept nogil:
    """Fills *out* with exactly *plain* bytes. Returns 0, or -1 when the input does not say exactly that."""
    return portd_lzf(source, size, out, plain)


@cython.final
cdef class LzfStream:
    """Decompresses one string of any length, holding 8 KiB of history and at most one block of output."""

    def __cinit__(self):
        self.buffer = NULL

    def __dealloc__(self):
        PyMem_Free(self.buffer)

    cdef void reset(self) noexcept:
        self.size = self.taken = 0
        self.literals = self.match = self.distance = 0
        self.produced = 0

    cdef Py_ssize_t run(self, const unsigned char* source, Py_ssize_t size) noexcept:
        """Consumes input until the block is full or input runs out.

        Output is at ``buffer + taken``, ``available()`` bytes of it; it must be taken before the next call. Up to two
        bytes of input may stay unconsumed when a control sequence is cut.

        Returns:
            Bytes consumed, or -1 when the input is corrupt, -2 when there is no memory.
        """
        cdef const unsigned char* p = source
        cdef const unsigned char* end = source + size
        cdef unsigned char* out
        cdef const unsigned char* back
        cdef Py_ssize_t room
        cdef Py_ssize_t n
        cdef int control
        if self.buffer == NULL:
            self.buffer = <unsigned char*>PyMem_Malloc(LZF_HISTORY + LZF_BLOCK)
            if self.buffer == NULL:
                return -2
        if self.size > LZF_HISTORY:
            memmove(self.buffer, self.buffer + self.size - LZF_HISTORY, LZF_HISTORY)
            self.size = LZF_HISTORY
        self.taken = self.size
        while self.size < LZF_HISTORY + LZF_BLOCK:
            room = LZF_HISTORY + LZF_BLOCK - self.size
            out = self.buffer + self.size
            if self.literals:
                n = min(<Py_ssize_t>self.literals, min(room, end - p))
                if n == 0:
                    break
                memcpy(out, p, n)
                p += n
                self.literals -= <int>n
                self.size += n
            elif self.match:
                n = min(<Py_ssize_t>self.match, room)
                self.match -= <int>n
                self.size += n
                back = out - self.distance
                while n:
                    out[0] = back[0]
                    out += 1
                    back += 1
                    n -= 1
            else:
                if p >= end:
                    break
                control = p[0]
                if control < 32:
                    self.literals = control + 1
                    p += 1
                    continue
                n = 3 if control >> 5 == 7 else 2
                if end - p < n:
                    break
                self.match = (control >> 5) + 2 + (p[1] if n == 3 else 0)
                self.distance = (((control & 31) << 8) | p[n - 1]) + 1
                if self.distance > self.size:
                    return -1
                p += n
        self.produced += self.size - self.taken
        return p - source
