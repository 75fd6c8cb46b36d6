# cython: language_level=3, boundscheck=False, wraparound=False, auto_pickle=False
"""CRC-64/Jones for the snapshot's trailer and for RESTORE footers."""

from libc.stdint cimport uint64_t


cdef extern from "native/crc64.h" nogil:
    void portd_crc64_prepare()
    uint64_t portd_crc64(uint64_t crc, const void* data, size_t size)
    uint64_t portd_crc64_sliced(uint64_t crc, const unsigned char* data, size_t size)

cdef size_t UNLOCKED_BYTES = 4096  # from here on other threads may run meanwhile


portd_crc64_prepare()


cdef uint64_t crc64_update(uint64_t crc, const void* data, size_t size) noexcept nogil:
    return portd_crc64(crc, data, size)


def crc64(const unsigned char[::1] data not None, uint64_t crc = 0):
    cdef size_t size = <size_t>data.shape[0]
    if size == 0:
        return crc
    if size < UNLOCKED_BYTES:
        return portd_crc64(crc, &data[0], size)
    with nogil:
        crc = portd_crc64(crc, &data[0], size)
    return crc


def crc64_sliced(const unsigned char[::1] data not None, uint64_t crc = 0):
    if data.shape[0] == 0:
        return crc
    return portd_crc64_sliced(crc, &data[0], <size_t>data.shape[0])
