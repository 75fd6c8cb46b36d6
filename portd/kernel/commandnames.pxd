# cython: language_level=3, boundscheck=False, wraparound=False
"""Commands that do not simply go on, by name. Who looks them up has a table of his own, so that nothing is in between."""

from libc.stdint cimport uint8_t, uint64_t

from portd.kernel.edit cimport FORWARD
from portd.kernel.resp cimport load_word


cdef struct Row:
    uint64_t low  # the name in upper case, first eight bytes
    uint64_t high  # the next eight
    int kind


cdef struct Names:
    Row rows[96]
    int first_row[18]  # names of n bytes are rows first_row[n] to first_row[n + 1]
    unsigned int initials[17]  # by length: a bit per letter that such a name begins with


cdef int fill_names(Names* names, dict forms) except -1


cdef inline int classify(const Names* names, const uint8_t* name, Py_ssize_t size) noexcept:
    """The kind of a command by its name; reads ``SLACK`` bytes."""
    cdef uint64_t low, high
    cdef int row
    if size > 16 or not (names.initials[size] >> (name[0] & 31)) & 1:
        return FORWARD
    low = load_word(name, size)
    high = load_word(name + 8, size - 8) if size > 8 else 0
    for row in range(names.first_row[size], names.first_row[size + 1]):
        if names.rows[row].low == low and names.rows[row].high == high:
            return names.rows[row].kind
    return FORWARD
