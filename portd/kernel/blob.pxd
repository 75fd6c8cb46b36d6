# Containers inside strings, cell by cell, and long items in parts.

from libc.stdint cimport uint64_t

from portd.kernel.decoder cimport Decoder
from portd.kernel.handler cimport Item
from portd.kernel.reader cimport Cursor


cdef int begin_parts(Decoder self, int purpose, Item* item, bint in_blob, int after) except -1
cdef int read_parts(Decoder self) except -1
cdef int open_blob(Decoder self, Cursor* c, int container, int state) except -1
cdef int take_cells(Decoder self, int first, int limit) except -1
cdef int close_container(Decoder self) except -1
cdef int take_numbers(Decoder self, int n) except -1
