# Strings and numbers from the snapshot's window. Results are those of reader.pxd.

from libc.stdint cimport uint64_t

from portd.kernel.decoder cimport Decoder
from portd.kernel.handler cimport Item
from portd.kernel.reader cimport Cursor


cdef Py_ssize_t take_in(Decoder self, const unsigned char* data, Py_ssize_t size) noexcept
cdef void sum_window(Decoder self) noexcept
cdef int next_item(Decoder self, Cursor* c, int i) except -2
cdef int next_number(Decoder self, Cursor* c, uint64_t* value) except -2
# Of next_item. It stands here for the compiler, which would make a part of next_item of it: longer for every plain string.
cdef int packed_item(Decoder self, Cursor* c, const unsigned char* begin, Item* item, uint64_t packed, int i) except -2
