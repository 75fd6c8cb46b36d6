from libc.stdint cimport uint64_t

from portd.kernel.rare cimport RareReader
from portd.kernel.reader cimport Cursor


cdef enum StreamState:
    SS_NODE = 0                     # master id and listpack
    SS_MASTER                       # count, deleted, number of fields
    SS_NAMES                        # the master entry's field names
    SS_ENTRY                        # flags and id
    SS_COUNT                        # number of fields of an entry with its own names
    SS_FIELDS
    SS_CLOSE                        # the entry's cell count
    SS_META
    SS_GROUP
    SS_PENDING
    SS_CONSUMERS
    SS_CONSUMER
    SS_OWNED
    SS_NACKED
    SS_DEDUP
    SS_PRODUCER
    SS_MESSAGE
    SS_TOTALS


cdef class StreamReader(RareReader):
    cdef int stream_state
    cdef int stream_version
    cdef uint64_t master_ms             # id that a node's entries are relative to
    cdef uint64_t master_seq
    cdef uint64_t entry_ms
    cdef uint64_t entry_seq
    cdef uint64_t entries               # of the node, still to come
    cdef uint64_t fields_left           # of the entry
    cdef bint same_fields               # the entry has the master's field names
    cdef bint name_turn                 # a name is next, not a value
    cdef unsigned char* names           # the master's: length as u64, bytes, ...
    cdef Py_ssize_t names_size
    cdef Py_ssize_t names_capacity
    cdef Py_ssize_t names_at
    cdef uint64_t names_count
    cdef bint names_kept                # False: the key was given up, only values are stepped over
    cdef uint64_t groups                # still to come, as the following
    cdef uint64_t consumers
    cdef uint64_t ids
    cdef uint64_t producers

    cdef int _stream(self) except -1
    cdef int _stream_node(self) except -1
    cdef int _stream_master(self) except -1
    cdef int _stream_names(self) except -1
    cdef int _abandon(self, str reason) except -1
    cdef int _stream_entry(self) except -1
    cdef int _stream_count(self) except -1
    cdef int _open_entry(self, uint64_t fields) except -1
    cdef int _stream_fields(self) except -1
    cdef int _stream_close(self) except -1
    cdef int _stream_meta(self) except -1
    cdef int _stream_groups(self) except -1
    cdef int _group(self, Cursor* c) except -1
    cdef int _group_pending(self, Cursor* c) except -1
    cdef int _consumer(self, Cursor* c) except -1
    cdef int _owned(self, Cursor* c) except -1
    cdef int _nacked(self, Cursor* c) except -1
    cdef int _dedup(self, Cursor* c) except -1
