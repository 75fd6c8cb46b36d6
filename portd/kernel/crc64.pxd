from libc.stdint cimport uint64_t


cdef uint64_t crc64_update(uint64_t crc, const void* data, size_t size) noexcept nogil
