# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What is known of commands by their names: what becomes of them, and where their keys stand."""

from libc.stdint cimport uint8_t, uint64_t

from portd.kernel.dialect cimport Dialect
from portd.kernel.forms cimport Forms
from portd.kernel.keypositions cimport Layout
from portd.kernel.keyspecs cimport KeySpecs
from portd.kernel.resp cimport load_word


cdef enum:
    MAX_NAME = 512  # longer than the name of any command


cdef struct Row:
    uint64_t low  # the name in upper case, first eight bytes
    uint64_t high  # the next eight; of a name longer than 16 bytes, a digest of what is behind the first eight
    uint64_t size  # 0: nothing is here
    int kind  # what becomes of it: a Kind of edit.pxd or forms.pxd
    int keys  # where its keys stand: the number of a layout, see keyspecs.pxd


cdef struct Names:
    Row* rows  # open addressing
    uint64_t mask  # their number, a power of two, less one
    Row other  # of a name that is not in the table


cdef class CommandTable:
    cdef Names names
    cdef readonly bint strict
    cdef Forms forms  # of commands that the target does not know
    cdef KeySpecs keys
    cdef Dialect dialect  # of the target; None: payloads go on as they came

    cdef int _build(self, dict found) except -1
    cdef Py_ssize_t owned(self) noexcept


cdef inline uint64_t digest_behind(const uint8_t* name, Py_ssize_t size) noexcept nogil:
    """FNV-1a of the bytes behind the first eight, in upper case."""
    cdef uint64_t digest = <uint64_t> 0xCBF29CE484222325
    cdef Py_ssize_t i
    for i in range(8, size):
        digest = (digest ^ (name[i] & 0xDF)) * <uint64_t> 0x100000001B3
    return digest


cdef inline uint64_t place_of(uint64_t low, uint64_t high, uint64_t size) noexcept nogil:
    """Where a name is looked for first."""
    cdef uint64_t mixed = (low ^ (high * <uint64_t> 0x9E3779B97F4A7C15) ^ size) * <uint64_t> 0xD6E8FEB86659FD93
    return mixed >> 32


cdef inline const Row* look_up(const Names* names, const uint8_t* name, Py_ssize_t size) noexcept:
    """The row of a command; reads ``SLACK`` bytes."""
    cdef uint64_t low = load_word(name, size)
    cdef uint64_t high = 0
    cdef uint64_t at
    cdef const Row* row
    if size > 8:
        high = load_word(name + 8, size - 8) if size <= 16 else digest_behind(name, size)
    at = place_of(low, high, <uint64_t> size) & names.mask
    while True:
        row = &names.rows[at]
        if row.size == 0:
            return &names.other
        if row.low == low and row.high == high and row.size == <uint64_t> size:
            return row
        at = (at + 1) & names.mask
