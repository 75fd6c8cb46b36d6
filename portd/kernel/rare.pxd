from libc.stdint cimport uint64_t

from portd.kernel.elements cimport ElementReader
from portd.kernel.reader cimport Cursor


cdef class RareReader(ElementReader):
    cdef dict templates                 # number -> field names
    cdef Py_ssize_t templates_size      # bytes
    cdef list template                  # field names of the value in progress
    cdef Py_ssize_t template_at         # next of them
    cdef int template_step
    cdef bint array_seeks               # an insert index was stored

    cdef int _remember_template(self, Cursor* c) except -1
    cdef int _module(self) except -1
    cdef int _begin_array(self, Cursor* c) except -1
    cdef int _array(self) except -1
    cdef int _begin_template(self, Cursor* c) except -1
    cdef int _find_template(self, uint64_t id) except -1
    cdef int _template(self) except -1
    cdef int _template_value(self) except -1
