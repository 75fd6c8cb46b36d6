from libc.stdint cimport int64_t, uint64_t

from portd.kernel.dialect cimport Dialect
from portd.kernel.handler cimport Handler, Key
from portd.kernel.writer cimport RespWriter


cdef class CommandOutput(Handler):
    cdef readonly Dialect dialect
    cdef RespWriter out
    cdef object batches                 # deque of finished batches
    cdef Py_ssize_t batch_bytes
    cdef Py_ssize_t command_bytes
    cdef uint64_t command_elements
    cdef Py_ssize_t chunk_bytes
    # the batch being filled
    cdef int db
    cdef bint lacking                   # the target does not have it
    cdef int64_t replies
    cdef int64_t keys
    cdef int kind
    cdef uint64_t batch_offset
    cdef uint64_t batch_base
    # the command being filled
    cdef bint run                       # it is an MSET
    cdef uint64_t elements
    # the value being told
    cdef Key* key
    cdef int collection
    cdef bint big
    cdef uint64_t fence
    cdef uint64_t told                  # elements told so far
    # counters
    cdef uint64_t batches_total
    cdef uint64_t elements_total
    cdef uint64_t keys_expired
    cdef uint64_t keys_postponed
    cdef uint64_t idle_dropped
    cdef uint64_t freq_dropped
    cdef uint64_t field_ttl_dropped
    cdef uint64_t stream_meta_dropped
    cdef uint64_t functions
    cdef list letters
    cdef uint64_t letters_bytes         # of their keys
    cdef uint64_t letters_total
    cdef list scripts                   # texts found
    cdef uint64_t scripts_bytes

    cdef int cut(self, bint part) except -1

    # Looked at behind every key or element: these are inlined into the units that write them.

    cdef inline int _close_run(self) except -1:
        if self.run:
            self.run = False
            self.out.close_command()
            self.replies += 1
        return 0

    cdef inline int _cut_if_full(self) except -1:
        """Between two keys."""
        if self.out.used >= self.batch_bytes:
            self._close_run()
            return self.cut(False)
        return 0

    cdef inline int _cut_big(self) except -1:
        """Between two commands of a key that may fill many batches; a small one stays in one piece."""
        if self.big and self.out.used >= self.batch_bytes:
            return self.cut(False)
        return 0


cdef class DeadLetter:
    cdef readonly int db
    cdef readonly bytes key
    cdef readonly str type
    cdef readonly uint64_t offset
    cdef readonly str reason
    cdef readonly int source_db         # -1: db and key are those of the source
    cdef readonly bytes source_key
