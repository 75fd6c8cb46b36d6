from libc.stdint cimport int64_t, uint64_t

from portd.kernel.containers cimport Cell
from portd.kernel.handler cimport Item
from portd.kernel.lzf cimport LzfStream
from portd.kernel.reader cimport Cursor
from portd.kernel.window cimport ITEMS, Window


cdef class BlobReader(Window):
    cdef int64_t[ITEMS] number          # value of cell i
    cdef bint[ITEMS] is_number
    # the long item in progress
    cdef int part_purpose
    cdef int part_form
    cdef bint part_in_blob
    cdef uint64_t part_size
    cdef uint64_t part_left
    cdef uint64_t part_packed
    cdef Py_ssize_t part_tail
    cdef int after_part                 # state to go on with
    cdef int large_at                   # next op or cell of the element with a long item
    cdef LzfStream lzf
    # the container in progress
    cdef int container
    cdef unsigned char* blob
    cdef Py_ssize_t blob_start
    cdef Py_ssize_t blob_stop
    cdef Py_ssize_t blob_capacity
    cdef Py_ssize_t blob_next           # where the cells taken end
    cdef uint64_t blob_left             # plain bytes not yet in blob
    cdef uint64_t blob_packed           # compressed bytes not yet read
    cdef int blob_form
    cdef uint64_t blob_size
    cdef int int_width
    cdef uint64_t int_left
    cdef bint opened                    # the container's header was read
    cdef Cell cell

    cdef int _begin_parts(self, int purpose, Item* item, bint in_blob, int after) except -1
    cdef int _parts(self) except -1
    cdef int _unpack(self, uint64_t* packed) except -1
    cdef int _tell_part(self, const unsigned char* p, Py_ssize_t n) except -1
    cdef int _end_parts(self) except -1
    cdef int _open_blob(self, Cursor* c, int container, int state) except -1
    cdef int _refill(self) except -1
    cdef int _need(self, Py_ssize_t n) except -1
    cdef int _open_container(self) except -1
    cdef int _cell(self, const unsigned char** p, int i) except -2
    cdef int _take(self, int first, int limit) except -1
    cdef int _close_container(self) except -1
    cdef int _numbers(self, int n) except -1
