from libc.stdint cimport uint64_t

from portd.kernel.elements cimport ElementReader
from portd.kernel.reader cimport Cursor


cdef class RareReader(ElementReader):
    cdef dict templates                 # number -> field names
    cdef Py_ssize_t templates_size      # bytes
    cdef Py_ssize_t template_size       # bytes of the value's own names
    cdef list template                  # field names of the value in progress
    cdef Py_ssize_t template_at         # next of them
    cdef int template_step
    cdef bytes slot_text                # of the float in item 1
    cdef bint array_seeks               # an insert index was stored

    cdef int _remember_template(self, Cursor* c) except -1
    cdef int _module(self) except -1
    cdef int _begin_array(self, Cursor* c) except -1
    cdef int _array(self) except -1
    cdef int _slot_float(self, uint64_t bits) except -1
    cdef int _begin_template(self, Cursor* c) except -1
    cdef int _add_name(self) except -1
    cdef int _find_template(self, uint64_t id) except -1
    cdef int _template(self) except -1
    cdef int _template_value(self) except -1
