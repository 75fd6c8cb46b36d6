# Modules, arrays and templated hashes: their beginnings, and the states ST_MODULE, ST_ARRAY, ST_TEMPLATE.

from portd.kernel.decoder cimport Decoder
from portd.kernel.reader cimport Cursor


cdef int remember_template(Decoder self, Cursor* c) except -1
cdef int read_module(Decoder self) except -1
cdef int begin_array(Decoder self, Cursor* c) except -1
cdef int read_array(Decoder self) except -1
cdef int begin_template(Decoder self, Cursor* c) except -1
cdef int read_template(Decoder self) except -1
