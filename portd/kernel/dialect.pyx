# cython: language_level=3, auto_pickle=False
"""What a target understands."""

cimport cython

from libc.stdint cimport uint64_t

from portd.kernel.encodings cimport Layout, layout_of

MAX_BULK_BYTES = 512 * 1024 * 1024  # proto-max-bulk-len of a server that was not told otherwise


@cython.final
cdef class Dialect:
    def __init__(
        self,
        *,
        bint valkey,
        int rdb_version,
        int footer,
        tuple server_version not None,
        bint mset,
        frozenset modules not None,
        frozenset commands not None,
        str maxmemory_policy not None,
        uint64_t max_bulk_bytes=MAX_BULK_BYTES,
        int databases=0,
    ):
        self.valkey = valkey
        self.rdb_version = rdb_version
        self.footer = footer
        self.server_version = server_version
        self.mset = mset
        self.modules = modules
        self.commands = commands
        self.maxmemory_policy = maxmemory_policy
        self.max_bulk_bytes = max_bulk_bytes
        self.databases = databases
        self.takes_lfu = "lfu" in maxmemory_policy
        self.pxat = valkey or server_version >= (6, 2)
        self.hsetex = "hsetex" in commands
        self.hpexpireat = "hpexpireat" in commands
        self.functions = "function" in commands
        self.arrays = "armset" in commands
        self.entries_read = valkey or server_version >= (7, 0)
        self.create_consumer = valkey or server_version >= (6, 2)
        self.absttl = valkey or server_version >= (5, 0)
        self.unlink = "unlink" in commands
        self.scripts = "script" in commands
        self.producers = commands.issuperset(("xcfgset", "xidmprecord", "eval"))

    cdef bint takes(self, int encoding) noexcept:
        """RESTORE of this encoding is understood (rdb.c:rdbIsObjectType and rdbLoadObject of the target's release)."""
        cdef const Layout* layout = layout_of(encoding)
        cdef int since = layout.valkey if self.valkey else layout.redis
        if since == 0:
            return False
        if self.valkey and since == 1:
            return self.rdb_version >= layout.redis         # RDB 11 of Valkey 7.2 holds all the common types
        return self.rdb_version >= since
