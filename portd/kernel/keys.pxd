from libc.stdint cimport uint64_t

from portd.kernel.measure cimport Measure
from portd.kernel.opcodes cimport OpcodeReader
from portd.kernel.reader cimport Cursor


cdef class KeyReader(OpcodeReader):
    cdef uint64_t keys
    cdef uint64_t keys_filtered
    # the key in progress
    cdef unsigned char* name
    cdef Py_ssize_t name_capacity
    cdef uint64_t value_offset
    cdef bint planned
    cdef int plan
    cdef Measure measure

    cdef int _run(self) except -1
    cdef int _step(self) except -1
    cdef int _head(self) except -1
    cdef int _key(self, Cursor* c) except -1
    cdef int _string(self, Cursor* c) except -1
    cdef int _keep_name(self) except -1
    cdef int _long_key(self, Cursor* c) except -1
    cdef int _forget_key(self) except -1
    cdef int _value(self) except -1
    cdef int _plan(self) except -1
    cdef uint64_t _told_bytes(self) noexcept
    cdef bint _is_empty_blob(self) noexcept
    cdef int _has_empty_nodes(self) except -1
    cdef int _enterprise(self, Cursor* c) except -1
    cdef int _begin(self, bint small) except -1
    cdef int _begin_string(self) except -1
    cdef int _begin_elements(self) except -1
    cdef int _key_done(self) except -1
