# cython: language_level=3
"""Where the keys of a command stand. *header* is where the first argument behind its name begins."""

from libc.stdint cimport int64_t, uint8_t


cdef enum Keys:
    K_FIRST = 0  # the first argument: most commands, and all that nobody knows
    K_NONE  # no key, and no database either: it is the same whatever is selected
    K_DATABASE  # no key, but all those of the database that is selected
    K_ALL  # all arguments
    K_PAIRS  # every other one, with values between them
    K_TWO  # the first two
    K_SECOND  # the second one, behind a word
    K_FROM_SECOND  # the second one and all behind it
    K_STORE  # the first, then as many as the second says
    K_SCRIPT  # as many as the second says, behind it
    K_COUNTED  # as many as the first says, behind it
    K_COUNTED_PAIRS  # the same, with values between them
    K_SORT  # the first, and one behind each STORE
    K_TRIPLES  # every third one


cdef struct Ours:  # names that are ours alone: those that begin with a prefix
    const uint8_t* prefix
    Py_ssize_t size  # 0: there are none


cdef enum Owned:
    O_NONE  # no key of the command is ours
    O_ALL  # all of them are
    O_SOME


cdef bint may_be_key(int keys, int64_t index, int64_t argc) noexcept nogil
cdef bint is_key(int keys, int64_t index, int64_t argc) noexcept nogil
cdef int owned(
    const uint8_t* header, const uint8_t* end, int keys, int64_t argc, const Ours* ours
) noexcept nogil
cdef const uint8_t* first_key(
    const uint8_t* header, const uint8_t* end, int keys, int64_t argc, Py_ssize_t* size
) noexcept nogil
