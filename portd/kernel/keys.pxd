# The decoder's steps, and its table of states.

from portd.kernel.decoder cimport Decoder


cdef int run_decoder(Decoder self) except -1
