from libc.stdint cimport int64_t, uint64_t

from portd.kernel.encodings cimport ENCODINGS
from portd.kernel.handler cimport Handler, Item, Key
from portd.kernel.lines cimport LineWriter


cdef enum:
    TTL_BUCKETS = 9


cdef struct Count:
    uint64_t keys
    uint64_t bytes              # of values, in the snapshot
    uint64_t elements
    uint64_t expiring           # keys with an expiry
    uint64_t memory             # bytes that they take in a server, estimated


cdef class KeyHandler(LineWriter):
    cdef uint64_t elements
    cdef int _key_line(self, Key* key, uint64_t elements) except -1


cdef class StatsHandler(Handler):
    cdef unsigned char separator
    cdef Py_ssize_t top
    cdef uint64_t elements          # of the key being told
    cdef uint64_t memory            # the same, bytes in a server
    cdef uint64_t each              # bytes of every element beside what is in it
    cdef int container              # of its elements
    cdef Count[<int>ENCODINGS] encodings
    cdef Count[TTL_BUCKETS] expiries
    cdef Count* groups              # databases and prefixes
    cdef Py_ssize_t groups_capacity
    cdef dict databases             # number -> index of its group
    cdef dict prefixes
    cdef int last_db
    cdef Py_ssize_t last_group
    cdef list by_bytes              # heaps
    cdef list by_elements
    cdef uint64_t least_bytes       # what a key must pass to be among the biggest
    cdef uint64_t least_elements
    cdef uint64_t functions

    cdef int _count(self, Key* key, uint64_t elements) except -1
    cdef Py_ssize_t _group_of(self, dict names, object name) except -1
    cdef int _note_big(self, Key* key, uint64_t elements) except -1
