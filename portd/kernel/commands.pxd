# The handler that writes commands. It is told by methods (handler.pxd), and Cython wants all methods of a class in one
# file: so it is four classes, each a unit, of which only the last is used.
#
#   CommandOutput     output.pxd            batches: what is in the one being filled, when it is cut; counters, dead letters
#   ElementCommands   elementcommands.pxd   elements of collections, strings in parts, what is too long to hold
#   StreamCommands    streamcommands.pxd    entries, groups, pending entries, consumers
#   CommandHandler    this                  how each value goes: skipped, whole by RESTORE or SET, or by elements; expiry

from libc.stdint cimport int64_t, uint64_t

from portd.kernel.handler cimport Item, Key
from portd.kernel.streamcommands cimport StreamCommands


cdef class CommandHandler(StreamCommands):
    cdef bint skip_existing
    # expiry times before ``horizon_ms`` (unix ms; 0: none) are sent ``shift_ms`` later
    cdef int64_t horizon_ms
    cdef int64_t shift_ms
    cdef frozenset wanted               # (db, key) of the keys to write; None for all of them
    cdef bytes own                      # prefix of names that are ours alone; b"": there are none
    cdef const unsigned char* own_name  # the same
    cdef Py_ssize_t own_size
    cdef uint64_t keys_own              # of those left out
    cdef uint64_t keys_lacking          # of those that failed: the target does not have their database
    cdef bint expired                   # the key that was begun
    cdef uint64_t fences                # big keys so far

    cdef bint _is_wanted(self, Key* key) except -1
    cdef int _older_stream(self, int encoding) noexcept
    cdef bint _is_expired(self, Key* key) noexcept
    cdef int64_t _expiry(self, Key* key) noexcept
    cdef int _plain_string(self, Key* key, Item* value) except -1
    cdef int _expire(self, Key* key) except -1
    cdef int _open_key(self, Key* key) except -1
