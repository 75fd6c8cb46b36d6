# Streams in an older form, so that RESTORE of an older target takes them (rdb.c:rdbSaveObject of each release).

from libc.stdint cimport uint64_t


cdef struct Lost:
    uint64_t times          # consumers whose time of last activity the older form cannot hold
    uint64_t producers      # idempotent producers, which it does not know


cdef Py_ssize_t rewrite_stream(
    const unsigned char* value, Py_ssize_t size, int version, int wanted, unsigned char* out, Lost* lost
) noexcept nogil
