# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Cluster slots of keys (cluster.c:keyHashSlot).

By a table, for a name may be a megabyte long, and hundreds of them packed in one window.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint8_t, uint16_t
from libc.string cimport memchr

from portd.kernel.resp cimport print_number

SLOTS = 16384

cdef uint16_t[256] CRC16  # of each byte


cdef int fill_table() noexcept:
    cdef unsigned int crc
    cdef int byte
    cdef int bit
    for byte in range(256):
        crc = <unsigned int> byte << 8
        for bit in range(8):
            crc = ((crc << 1) ^ 0x1021) & 0xFFFF if crc & 0x8000 else (crc << 1) & 0xFFFF
        CRC16[byte] = <uint16_t> crc
    return 0


fill_table()


cdef int slot_of(const uint8_t* key, Py_ssize_t size) noexcept nogil:
    """The slot of a key, from 0 to 16383."""
    cdef const uint8_t* end = key + size
    cdef const uint8_t* opening = <const uint8_t*> memchr(key, c"{", size)
    cdef const uint8_t* closing = NULL
    cdef unsigned int crc = 0
    if opening != NULL:
        closing = <const uint8_t*> memchr(opening + 1, c"}", end - opening - 1)
        if closing != NULL and closing > opening + 1:
            key = opening + 1
            end = closing
    while key < end:
        crc = ((crc << 8) & 0xFFFF) ^ CRC16[(crc >> 8) ^ key[0]]
        key += 1
    return crc & 0x3FFF


# ------------------------------------------------------------------------------------------------------------- tags

cdef int32_t[16384] TAGS  # of each slot, the lowest number whose digits have it
cdef bint tagged = False


cdef int fill_tags() noexcept:
    """Writes the tags, once; some 170,000 numbers are looked at for that."""
    global tagged
    cdef char digits[16]
    cdef int32_t number = 0
    cdef int missing = SLOTS
    cdef int slot
    cdef Py_ssize_t begin
    if tagged:
        return 0
    for slot in range(SLOTS):
        TAGS[slot] = -1
    while missing:
        begin = print_number(number, digits, 16)
        slot = slot_of(<const uint8_t*> &digits[begin], 16 - begin)
        if TAGS[slot] < 0:
            TAGS[slot] = number
            missing -= 1
        number += 1
    tagged = True
    return 0


cdef int32_t tag_of(int slot) noexcept nogil:
    """The number in a slot's tag; `fill_tags` was called."""
    return TAGS[slot]


def slot_tag(int slot):
    if not 0 <= slot < SLOTS:
        raise ValueError(f"there is no slot {slot}")
    fill_tags()
    return str(TAGS[slot])


def key_slot(bytes key not None):
    return slot_of(<const uint8_t*> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
