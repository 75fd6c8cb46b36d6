# cython: language_level=3
"""What the arguments of a whole command say. *header* is where the first one behind its name begins."""

from libc.stdint cimport int64_t, uint8_t


cdef bint sets_expiry(const uint8_t* header, int64_t argc, bint pxat, bint postpones, int64_t horizon_ms) noexcept
cdef bint tells_entries_read(const uint8_t* header, int64_t argc) noexcept
cdef bint expires_before(const uint8_t* header, int64_t horizon_ms, int64_t unit) noexcept
cdef bint restores_before(const uint8_t* header, int64_t horizon_ms) noexcept
cdef bint restores_relative(const uint8_t* header, int64_t argc) noexcept
