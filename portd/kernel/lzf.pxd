from libc.stdint cimport uint64_t


cdef enum:
    LZF_HISTORY = 8192      # the farthest a match reaches back
    LZF_BLOCK = 65536       # plain bytes produced at a time


cdef int lzf_whole(
    const unsigned char* source, Py_ssize_t size, unsigned char* out, Py_ssize_t plain
) noexcept nogil


cdef class LzfStream:
    cdef unsigned char* buffer          # history, then what is being produced
    cdef Py_ssize_t size                # valid bytes in buffer
    cdef Py_ssize_t taken               # of these, handed out
    cdef int literals                   # pending literal bytes
    cdef int match                      # pending match bytes
    cdef int distance                   # of the pending match
    cdef uint64_t produced
    cdef void reset(self) noexcept
    cdef Py_ssize_t run(self, const unsigned char* source, Py_ssize_t size) noexcept
    cdef inline Py_ssize_t available(self) noexcept:
        return self.size - self.taken
