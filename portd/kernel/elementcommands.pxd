from libc.stdint cimport int64_t, uint64_t

from portd.kernel.handler cimport Item
from portd.kernel.output cimport CommandOutput


cdef class ElementCommands(CommandOutput):
    # an element, or a string, too long to hold
    cdef bint drop_last
    cdef bint last_is_expiry
    cdef bint left_out                  # it is too large for the target
    cdef bint part_cut                  # a part of its command is with the lanes already
    cdef bint lost                      # something of the big key is left out: it does not count as applied

    cdef int _open(self, const char* name, Py_ssize_t extra) except -1
    cdef int _timed_field(self, Item* name, Item* value, int64_t expire_ms) except -1
    cdef int _leave_out(self, uint64_t n) except -1

    cdef inline int _close_command(self) except -1:
        if self.out.command >= 0:
            self.out.close_command()
            self.replies += 1
            return self._cut_big()
        return 0
