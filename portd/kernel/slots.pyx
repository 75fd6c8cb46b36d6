# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Cluster slots of keys (cluster.c:keyHashSlot).

By a table, for a name may be a megabyte long, and hundreds of them packed in one window.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memchr

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


def key_slot(bytes key not None):
    return slot_of(<const uint8_t*> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
