# cython: language_level=3
"""Where in a cluster a command belongs."""

from libc.stdint cimport int64_t, uint8_t

from portd.kernel.keypositions cimport Layout
from portd.kernel.keyspecs cimport KeySpecs


cdef enum:
    LONGEST_NAME = 32  # names above this are looked up each time


cdef enum Goes:  # where, if it is no slot
    G_SEVERAL = -1  # its keys are in several slots
    G_UNKNOWN = -2  # nobody knows its keys
    G_EVERYWHERE = -3  # to each node, once
    G_SELECT = -4


cdef enum Cuts:  # how a command is cut whose keys are in several slots
    C_NOT
    C_KEYS  # each argument is a key: the same command for each
    C_PAIRS  # keys and values in turn: a SET for each
    C_SETS  # their number first, and options behind them: likewise


cdef struct Args:  # of a command that was found
    const uint8_t* name
    Py_ssize_t name_size
    const uint8_t* header  # of the first argument behind the name
    const uint8_t* end  # behind the command
    int64_t argc


cdef class SlotRoute:
    cdef KeySpecs keys
    cdef const Layout* layout  # of the command that was looked at last
    cdef Cuts cuts  # likewise
    cdef int goes  # likewise: G_EVERYWHERE, G_SELECT, or anything else for what its keys say
    cdef bint messages  # it is PUBLISH or SPUBLISH
    cdef uint8_t[32] last
    cdef Py_ssize_t last_size

    cdef int slot(self, const Args* command, const uint8_t* end) except -9
    cdef int _look_up(self, const uint8_t* name, Py_ssize_t size) except -1


cdef bint read_args(const uint8_t* p, const uint8_t* end, Args* command) noexcept nogil
