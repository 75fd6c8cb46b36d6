# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Where the keys of a command stand, and which of them are names of ours.

Arguments are looked at as far as they are at hand: of a command larger than a piece, that is its beginning.
"""

from libc.stdint cimport INT32_MAX, INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

from portd.kernel.resp cimport LINE_READ, SMALL, is_word, read_length, read_number


cdef bint is_key(int keys, int64_t index, int64_t argc) noexcept nogil:
    """Whether the argument at *index* (the name is 0) is a key, where that does not depend on other arguments."""
    if keys == K_FIRST or keys == K_SORT or keys == K_STORE:
        return index == 1
    if keys == K_ALL:
        return index > 0
    if keys == K_PAIRS:
        return index % 2 == 1
    if keys == K_TWO:
        return index == 1 or index == 2
    if keys == K_SECOND:
        return index == 2
    if keys == K_FROM_SECOND:
        return index >= 2
    if keys == K_TRIPLES:
        return index % 3 == 1
    return False


cdef bint may_be_key(int keys, int64_t index, int64_t argc) noexcept nogil:
    """The same where it does: whether it can be one, whatever the others say."""
    if keys == K_SORT or keys == K_STORE:
        return True
    if keys == K_SCRIPT:
        return index > 2
    if keys == K_COUNTED:
        return index > 1
    if keys == K_COUNTED_PAIRS:
        return index > 1 and index % 2 == 0
    return is_key(keys, index, argc)


cdef bint _next(
    const uint8_t** header, const uint8_t* end, const uint8_t** text, Py_ssize_t* size
) noexcept nogil:
    """The argument at *header*, which moves behind it; False when it is not at hand to its end."""
    cdef const uint8_t* cursor = header[0] + 1
    cdef uint64_t announced = 0
    if header[0] >= end or read_length(&cursor, end, &announced) != LINE_READ or announced > <uint64_t> (end - cursor):
        return False
    text[0] = cursor
    size[0] = <Py_ssize_t> announced
    header[0] = cursor + announced + 2
    return True


cdef int owned(
    const uint8_t* header, const uint8_t* end, int keys, int64_t argc, const Ours* ours
) noexcept nogil:
    """Which of the keys of a command, as far as they are at hand before *end*, are ours: an Owned."""
    cdef const uint8_t* text = NULL
    cdef Py_ssize_t size = 0
    cdef int64_t index = 0
    cdef int64_t first = INT64_MAX  # of keys that another argument counts
    cdef int64_t step = 1
    cdef int64_t count = 0
    cdef int64_t mine = 0
    cdef int64_t others = 0
    cdef bint named, behind_store = False
    while index + 1 < argc and _next(&header, end, &text, &size):
        index += 1
        named = is_key(keys, index, argc)
        if keys == K_SORT and index > 1:
            named = behind_store                    # the word itself, too: it may have been a pattern of GET
            behind_store = is_word(text, size, "STORE") or is_word(text, size, "STOREDIS")
            behind_store |= size == 9 and is_word(text, 8, "STOREDIS")
        elif index >= first and (index - first) < count * step:
            named = (index - first) % step == 0
        elif (index == 2 and keys in (K_STORE, K_SCRIPT)) or (index == 1 and keys in (K_COUNTED, K_COUNTED_PAIRS)):
            if size <= SMALL and read_number(text, size, INT32_MAX, &count):
                first = index + 1
                step = 2 if keys == K_COUNTED_PAIRS else 1
        if named:
            if size >= ours.size and memcmp(text, ours.prefix, ours.size) == 0:
                mine += 1
            else:
                others += 1
    return O_NONE if mine == 0 else O_SOME if others else O_ALL


cdef const uint8_t* first_key(
    const uint8_t* header, const uint8_t* end, int keys, int64_t argc, Py_ssize_t* size
) noexcept nogil:
    """The first key of a command; NULL when it has none, or it is not at hand."""
    cdef const uint8_t* text = NULL
    cdef int64_t wanted = 1
    cdef int64_t index = 0
    if keys == K_NONE or keys == K_DATABASE:
        return NULL
    if keys in (K_SECOND, K_FROM_SECOND, K_COUNTED, K_COUNTED_PAIRS):
        wanted = 2
    elif keys == K_SCRIPT:
        wanted = 3
    while index + 1 < argc and index < wanted:
        if not _next(&header, end, &text, size):
            return NULL
        index += 1
        if keys == K_SCRIPT and index == 2 and size[0] == 1 and text[0] == c"0":
            return NULL
    return text if index == wanted else NULL
