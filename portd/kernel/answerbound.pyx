# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""How many objects an answer is made of, counted before anybody builds them.

An answer of few bytes may hold many objects, or announce more than memory holds. So headers are read here first: RESP2 and
RESP3 (the lines of networking.c:addReply and its kin). What is no RESP is left to who builds the objects.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t

cdef enum:
    MAX_DIGITS = 18


@cython.final
cdef class AnswerBound:
    cdef int64_t most
    cdef int64_t objects
    cdef int64_t skip  # bytes of a string still to come
    cdef uint8_t kind  # of the line in progress; 0 at its beginning
    cdef int64_t number  # that it says
    cdef int digits
    cdef bint negative

    def __cinit__(self, int64_t most):
        self.most = most

    def feed(self, data):
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        self._walk(<const uint8_t*> view.buf, <const uint8_t*> view.buf + view.len)
        PyBuffer_Release(&view)
        return self.objects <= self.most

    def forget(self):
        self.objects = 0

    cdef int _walk(self, const uint8_t* p, const uint8_t* end) noexcept:
        cdef int64_t step
        while p < end and self.objects <= self.most:
            if self.skip > 0:
                step = min(self.skip, <int64_t> (end - p))
                self.skip -= step
                p += step
            elif self.kind == 0:
                self.kind = p[0]
                self.number = 0
                self.digits = 0
                self.negative = False
                p += 1
            elif p[0] == c"\n":
                self._line()
                p += 1
            else:
                if c"0" <= p[0] <= c"9" and self.digits < MAX_DIGITS:
                    self.number = 10 * self.number + p[0] - c"0"
                    self.digits += 1
                self.negative |= p[0] == c"-"
                p += 1
        return 0

    cdef int _line(self) noexcept:
        """Counts what a line stands for; the elements of a list when it is announced."""
        self.objects += 1
        if not self.negative and self.digits > 0:
            if self.kind == c"$" or self.kind == c"=" or self.kind == c"!":
                self.skip = self.number + 2
            elif self.kind == c"*" or self.kind == c"~" or self.kind == c">" or self.kind == c"%":
                if self.number > self.most:
                    self.objects = self.most + 1
        self.kind = 0
        return 0
