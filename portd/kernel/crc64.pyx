# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False
"""CRC-64/Jones for the snapshot's trailer and for RESTORE footers."""

from libc.stdint cimport uint64_t


cdef extern from "native/crc64.h" nogil:
    void portd_crc64_prepare()
    uint64_t portd_crc64(uint64_t crc, const void* data, size_t size)


portd_crc64_prepare()


cdef uint64_t crc64_update(uint64_t crc, const void* data, size_t size) noexcept nogil:
    return portd_crc64(crc, data, size)


def crc64(const unsigned char[::1] data not None, uint64_t crc = 0):
    if data.shape[0] == 0:
        return crc
    return portd_crc64(crc, &data[0], data.shape[0])
