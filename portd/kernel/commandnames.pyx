# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Which commands do not simply go on; what becomes of them is decided in ``stream.pyx``."""

from libc.stdint cimport uint8_t

from portd.kernel.edit cimport (
    DEL, DROP, EVAL, EVALSHA, EXEC, EXPIRE, EXPIREAT, FUNCTION, GETEX, HEXPIRE, HPEXPIRE, MOVES, MULTI, PEXPIRE, PEXPIREAT, PSETEX,
    PUBLISH, REFUSE, REPLCONF, RESTORE, RESTORE_ASKING, SCRIPT, SELECT, SET, SETEX, SWAPDB, XGROUP,
)
from portd.kernel.resp cimport load_word


cdef int fill_names(Names* names) except -1:
    """Builds the table."""
    cdef bytes name, padded
    cdef int row = 0
    cdef int size
    kinds = {
        # noise, and what concerns the source's own topology or settings: streams of cluster nodes that move slots, of
        # hosted servers
        DROP: b"PING TRIMSLOTS CLUSTER DEBUG MIGRATE ASKING CONFIG ACL OPINFO",
        # would turn our connection into one that does not answer commands in order
        REFUSE: b"PSYNC SYNC REPLICAOF SLAVEOF MONITOR SUBSCRIBE PSUBSCRIBE SSUBSCRIBE QUIT RESET HELLO AUTH CLIENT"
        b" SHUTDOWN FAILOVER DISCARD WATCH",
        MULTI: b"MULTI",
        EXEC: b"EXEC",
        SELECT: b"SELECT",
        SWAPDB: b"SWAPDB",
        MOVES: b"RENAME RENAMENX COPY MOVE",
        REPLCONF: b"REPLCONF",
        PUBLISH: b"PUBLISH SPUBLISH",
        DEL: b"DEL",
        EVAL: b"EVAL",
        EVALSHA: b"EVALSHA",
        SCRIPT: b"SCRIPT",
        FUNCTION: b"FUNCTION",
        XGROUP: b"XGROUP",
        SET: b"SET",
        SETEX: b"SETEX",
        PSETEX: b"PSETEX",
        GETEX: b"GETEX",
        EXPIRE: b"EXPIRE",
        PEXPIRE: b"PEXPIRE",
        HEXPIRE: b"HEXPIRE",
        HPEXPIRE: b"HPEXPIRE",
        EXPIREAT: b"EXPIREAT",
        PEXPIREAT: b"PEXPIREAT",
        RESTORE: b"RESTORE",
        RESTORE_ASKING: b"RESTORE-ASKING",
    }
    named = []
    for kind, words in kinds.items():
        for name in words.split():
            named.append((len(name), name, kind))
    for size, name, kind in sorted(named):
        padded = name.ljust(16, b"\0")
        names.rows[row].low = load_word(<const uint8_t*> padded, size)
        names.rows[row].high = load_word(<const uint8_t*> padded + 8, size - 8) if size > 8 else 0
        names.rows[row].kind = kind
        names.initials[size] |= <unsigned int> 1 << ((<const uint8_t*> padded)[0] & 31)
        row += 1
        for longer in range(size + 1, 18):
            names.first_row[<int> longer] = row
    return 0
