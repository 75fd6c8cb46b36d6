from libc.stdint cimport int64_t, uint64_t

from portd.kernel.handler cimport Item, Key
from portd.kernel.lines cimport LineWriter


cdef class EventHandler(LineWriter):
    cdef uint64_t index                 # of the next list element
    cdef bytes group_name               # as it stands in the output
    cdef bytes consumer_name
    cdef uint64_t entry_ms
    cdef uint64_t entry_seq
    cdef int items                      # of the entry or element so far
    # the long item in progress
    cdef uint64_t item_left
    cdef bint item_long
    cdef unsigned char[3] carry
    cdef int carried

    cdef int _opaque(self, Key* key) except -1
    cdef int _field_end(self, int64_t expire_ms) except -1
    cdef int _long_data(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _long_begin(self) except -1
    cdef int _long_end(self) except -1
    cdef int _entry_item_begin(self) except -1
    cdef int _entry_item_end(self) except -1
    cdef int _file_line(self, const char* kind, Item* name, Item* value) except -1
