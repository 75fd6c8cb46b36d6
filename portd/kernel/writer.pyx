# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False
"""Requests for the target, written once: the buffer becomes the bytes object that the lane sends."""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.string cimport memmove, strlen


cdef extern from "Python.h":
    PyObject* PyBytes_FromStringAndSize(const char* data, Py_ssize_t size)
    int _PyBytes_Resize(PyObject** data, Py_ssize_t size) except -1
    char* PyBytes_AS_STRING(PyObject* data)


cdef extern from *:
    """
    /* Hands our reference over to Cython. */
    #define portd_steal(object) ((PyObject *)(object))
    """
    object portd_steal(PyObject* object)


@cython.final
cdef class RespWriter:
    """A growing request buffer; see the .pxd for the inline parts."""

    def __cinit__(self, Py_ssize_t initial):
        self.initial = initial
        self.command = -1
        self.guess = 4

    def __dealloc__(self):
        Py_XDECREF(self.object)

    cdef int grow(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t capacity
        if self.object == NULL:
            capacity = max(self.initial, more)
            self.object = PyBytes_FromStringAndSize(NULL, capacity)
            if self.object == NULL:
                raise MemoryError
        else:
            capacity = max(self.capacity + self.capacity // 2, self.used + more)
            try:
                _PyBytes_Resize(&self.object, capacity)
            except MemoryError:
                self.buffer = NULL
                self.capacity = self.used = 0
                raise
        self.buffer = PyBytes_AS_STRING(self.object)
        self.capacity = capacity
        self.peak = max(self.peak, capacity)
        return 0

    cdef bytes take(self):
        """The bytes written, cut to size; the writer is empty afterwards."""
        cdef object data
        if self.object == NULL:
            return b""
        if self.used != self.capacity:
            _PyBytes_Resize(&self.object, self.used)
        data = portd_steal(self.object)
        self.object = NULL
        self.buffer = NULL
        self.used = self.capacity = 0
        return <bytes>data

    cdef int open_command(self, const char* name, Py_ssize_t name_size) except -1:
        """Begins a command of unknown length, with room for its header as large as the last one's."""
        self.reserve(self.guess)
        self.command = self.used
        self.header = self.guess
        self.used += self.guess
        self.arguments = 1
        return self.bulk(name, name_size)

    cdef int close_command(self) except -1:
        cdef Py_ssize_t size = 3 + portd_digits(self.arguments)
        cdef Py_ssize_t body
        if size != self.header:
            self.reserve(FRAME_BYTES)
            body = self.command + self.header
            memmove(self.buffer + self.command + size, self.buffer + body, self.used - body)
            self.used += size - self.header
            self.guess = size
        self.buffer[self.command] = b"*"
        portd_format_u64(self.buffer + self.command + 1, self.arguments)
        self.buffer[self.command + size - 2] = b"\r"
        self.buffer[self.command + size - 1] = b"\n"
        self.command = -1
        return 0
