from libc.stdint cimport uint64_t


cdef class Dialect:
    cdef readonly bint valkey
    cdef readonly int rdb_version
    cdef readonly int footer
    cdef readonly tuple server_version
    cdef readonly bint mset
    cdef readonly frozenset modules
    cdef readonly frozenset commands
    cdef readonly str maxmemory_policy
    cdef readonly uint64_t max_bulk_bytes
    cdef readonly int databases     # 0: not known
    cdef bint takes_lfu             # FREQ has an effect there
    cdef readonly bint pxat                  # SET .. PXAT
    cdef bint hsetex
    cdef bint hpexpireat
    cdef bint functions
    cdef bint arrays
    cdef bint entries_read          # XGROUP CREATE .. ENTRIESREAD, XSETID .. ENTRIESADDED
    cdef bint create_consumer
    cdef bint absttl                # RESTORE .. ABSTTL
    cdef bint unlink
    cdef bint scripts               # SCRIPT LOAD
    cdef bint producers             # XCFGSET, XIDMPRECORD
    cdef bint takes(self, int encoding) noexcept
