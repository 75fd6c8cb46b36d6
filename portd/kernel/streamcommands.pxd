from libc.stdint cimport int64_t, uint64_t

from portd.kernel.elementcommands cimport ElementCommands
from portd.kernel.handler cimport Item


cdef struct Name:
    char* p
    Py_ssize_t size
    Py_ssize_t capacity


cdef struct Pending:
    unsigned char[16] id
    int64_t delivered_ms
    uint64_t count


cdef class StreamCommands(ElementCommands):
    cdef Name group_name
    cdef Name consumer_name
    cdef Pending* pel                   # pending entries of the group, in the order of their ids
    cdef Py_ssize_t pel_size
    cdef Py_ssize_t pel_capacity
    cdef bint pel_overflow
    # of the stream: a message before the first one is not there, one up to the last deleted one may not be
    cdef uint64_t first_ms, first_seq
    cdef uint64_t deleted_ms, deleted_seq
    cdef bint drops_gone                # the target leaves a message that is not there pending for nobody
    cdef bint asks                      # whether messages are there, which takes EVAL

    cdef int _remember(self, Name* name, Item* item) except -1
    cdef int _xclaim(self, const unsigned char* id, Pending* entry) except -1
    cdef bint _is_up_to(self, const unsigned char* id, uint64_t ms, uint64_t seq) noexcept
