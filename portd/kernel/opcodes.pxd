from libc.stdint cimport uint64_t

from portd.kernel.reader cimport Cursor
from portd.kernel.streams cimport StreamReader


cdef class OpcodeReader(StreamReader):
    cdef bint verify                    # compare the checksum
    cdef int version
    cdef bint valkey
    cdef dict aux_fields
    cdef bytearray slots                # 1 for each slot that was being imported; None when none was
    cdef bytes meta                     # KEY_META of the next key
    cdef uint64_t keys_announced
    cdef uint64_t modules_aux
    cdef uint64_t slot_infos        # of a Redis cluster node, one for each slot with keys

    cdef int _magic(self) except -1
    cdef int _trailer(self) except -1
    cdef int _opcode(self, Cursor* c, int op) except -1
    cdef int _aux(self, Cursor* c) except -1
    cdef int _rare_opcode(self, Cursor* c, int op) except -1
    cdef int _slot_import(self, Cursor* c) except -1
    cdef bint _half_imported(self) except -1
