# What a snapshot holds beside keys.

from portd.kernel.decoder cimport Decoder
from portd.kernel.reader cimport Cursor


cdef int read_magic(Decoder self) except -1
cdef int read_trailer(Decoder self) except -1
cdef int read_opcode(Decoder self, Cursor* c, int op) except -1
