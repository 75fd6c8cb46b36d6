# Streams: the state ST_STREAM.

from portd.kernel.decoder cimport Decoder


cdef int read_stream(Decoder self) except -1
