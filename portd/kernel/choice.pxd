from libc.stdint cimport uint64_t

from portd.kernel.decoder cimport Decoder

cdef bint choose(Decoder self) except -1
cdef bint fit(Decoder self, uint64_t size) except -1
cdef int enter_database(Decoder self, int db) except -1
cdef int set_rules(Decoder self, rules, mapping, frozenset blocked) except -1
