# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""What is known of commands by their names, for one target; where their keys stand is in ``keyspecs.pyx``.

Only what writes goes on. What the target's own COMMAND flags as ``write`` does, modules included; what it has without
that flag does not; what it does not have it refuses by itself. Where COMMAND is not known, the lists of this unit decide,
and a name that is in none of them is refused. A command that the target may know in another form only has a kind of its
own, whether COMMAND lists it or not: see ``forms.pyx``. What becomes of commands that need more than that is decided in
``decide.pyx``.

Flags: src/commands/*.json of Valkey and Redis, server.c:redisCommandTable before 7.0.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t, uint64_t

from portd.kernel.dialect cimport Dialect
from portd.kernel.edit cimport (
    BLOCKING, BY_NAME, DEL, DISCARD, DROP, EVAL, EVALSHA, EXEC, EXPIRE, EXPIREAT, FILTERED, FLUSHES, FORWARD, FUNCTION, GETEX, HEXPIRE, HPEXPIRE, MOVES,
    MULTI, PEXPIRE, PEXPIREAT, PSETEX, PUBLISH, REPLCONF, RESTORE, RESTORE_ASKING, SCRIPT, SELECT, SET, SETEX, STRANGE, SWAPDB,
    TELLS, TRIMS, XGROUP,
)
from portd.kernel.forms cimport Forms
from portd.kernel.keyspecs cimport K_UNKNOWN, KeySpecs, known
from portd.kernel.resp cimport SLACK, load_word


# Commands that are treated alike whatever a target says of them.
cdef dict KINDS = {
    # noise of primaries, of cluster nodes and of hosted servers
    DROP: b"PING ASKING OPINFO",
    # what concerns the source's own topology or settings, in streams of cluster nodes that move slots; and what would turn our connection into one that does not answer commands in order
    FILTERED: b"DEBUG MIGRATE CONFIG ACL"
    b" PSYNC SYNC REPLICAOF SLAVEOF MONITOR SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE"
    b" QUIT RESET HELLO AUTH CLIENT SHUTDOWN FAILOVER WATCH UNWATCH READONLY READWRITE",
    # they wait for data; servers send what such a command did (BRPOPLPUSH is an exception of sources before 6.0)
    BLOCKING: b"BLPOP BRPOP BLMOVE BLMPOP BZPOPMIN BZPOPMAX BZMPOP XREADGROUP",
    # they are filtered, too, but for what they say of slots to a border
    TRIMS: b"TRIMSLOTS",
    TELLS: b"CLUSTER",
    MULTI: b"MULTI",
    EXEC: b"EXEC",
    DISCARD: b"DISCARD",
    SELECT: b"SELECT",
    SWAPDB: b"SWAPDB",
    MOVES: b"RENAME RENAMENX COPY MOVE",
    FLUSHES: b"FLUSHALL FLUSHDB",
    REPLCONF: b"REPLCONF",
    PUBLISH: b"PUBLISH SPUBLISH",
    DEL: b"DEL",
    # write without being flagged so; so do the last ones here, of which PFCOUNT keeps in the value what it has counted
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
    FORWARD: b"FCALL PFCOUNT",
}

# What writes, whether the target tells it or not.
cdef bytes WRITES = (
    b"APPEND BITFIELD BITOP BRPOPLPUSH DECR DECRBY DELIFEQ DELEX GEOADD GEORADIUS GEORADIUSBYMEMBER"
    b" GEOSEARCHSTORE GETDEL GETSET HDEL HEXPIREAT HGETDEL HGETEX HINCRBY HINCRBYFLOAT HMSET HPERSIST HPEXPIREAT HSET HSETEX"
    b" HSETNX INCR INCRBY INCRBYFLOAT LINSERT LMOVE LMPOP LPOP LPUSH LPUSHX LREM LSET LTRIM MSET MSETEX MSETNX PERSIST"
    b" PFADD PFDEBUG PFMERGE RPOP RPOPLPUSH RPUSH RPUSHX SADD SDIFFSTORE SETBIT SETNX SETRANGE SINTERSTORE SMOVE SORT"
    b" SPOP SREM SUNIONSTORE UNLINK XACK XACKDEL XADD XAUTOCLAIM XCFGSET XCLAIM XDEL XDELEX XIDMPRECORD XSETID XTRIM ZADD"
    b" ZDIFFSTORE ZINCRBY ZINTERSTORE ZMPOP ZPOPMAX ZPOPMIN ZRANGESTORE ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK"
    b" ZREMRANGEBYSCORE ZUNIONSTORE VADD VREM VSETATTR ARSET ARMSET ARDEL ARINSERT"
)

# What does not write, of servers that do not tell.
cdef bytes OTHERS = (
    b"BGREWRITEAOF BGSAVE BITCOUNT BITFIELD_RO BITPOS CLUSTERSCAN COMMAND COMMANDLOG DBSIZE DIGEST DUMP ECHO EVALSHA_RO"
    b" EVAL_RO EXISTS EXPIRETIME FCALL_RO GEODIST GEOHASH GEOPOS GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GET GETBIT"
    b" GETRANGE HEXISTS HEXPIRETIME HGET HGETALL HKEYS HLEN HMGET HOST: HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSTRLEN"
    b" HTTL HVALS INFO KEYS LASTSAVE LATENCY LCS LINDEX LLEN LOLWUT LPOS LRANGE MEMORY MGET MODULE OBJECT PEXPIRETIME"
    b" PFSELFTEST POST PTTL PUBSUB RANDOMKEY ROLE SAVE SCAN SCARD SDIFF SINTER SINTERCARD SISMEMBER SLOWLOG SMEMBERS"
    b" SMISMEMBER SORT_RO SRANDMEMBER SSCAN STRALGO STRLEN SUBSTR SUNION TIME TOUCH TTL TYPE WAIT WAITAOF XINFO XLEN"
    b" XPENDING XRANGE XREAD XREVRANGE ZCARD ZCOUNT ZDIFF ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE"
    b" ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION"
)

cdef frozenset NOBODY = frozenset()
cdef Forms ALL_KNOWN = Forms((), True, False)


@cython.final
cdef class CommandTable:
    def __cinit__(self, flags=None, *, bint publish=True, Forms forms=None, Dialect dialect=None, KeySpecs keys=None,
                  frozenset left not None=NOBODY):
        cdef dict found = {}
        self.forms = ALL_KNOWN if forms is None else forms
        self.dialect = dialect
        self.keys = known if keys is None else keys
        for kind, words in ((FILTERED, OTHERS), (FORWARD, WRITES)):
            found.update(dict.fromkeys((<bytes> words).split(), kind))
        for name, writes in (flags or {}).items():
            if len(name) <= MAX_NAME:
                found[name.upper()] = FORWARD if writes else FILTERED
        for kind, words in KINDS.items():
            found.update(dict.fromkeys((<bytes> words).split(), kind))
        if not publish:
            found.update(dict.fromkeys((<bytes> KINDS[PUBLISH]).split(), DROP))
        found.update(self.forms.kinds(dialect is not None))
        for name in left:
            if found.get(name.upper()) in (MULTI, EXEC, DISCARD, SELECT):
                raise ValueError(f"{name.decode()} cannot be left out: commands behind it depend on it")
            if len(name) <= MAX_NAME:
                found[name.upper()] = BY_NAME
        self.strict = flags is not None and not flags
        self.names.other.kind = STRANGE if self.strict else FORWARD
        self.names.other.keys = K_UNKNOWN
        for name in self.keys.numbers:
            if b"|" not in name:
                found.setdefault(name, self.names.other.kind)
        self._build(found)

    def __dealloc__(self):
        PyMem_Free(self.names.rows)

    cdef int _build(self, dict found) except -1:
        cdef bytes name, padded
        cdef const uint8_t* text
        cdef uint64_t low, high, at
        cdef Row* row
        self.names.mask = 1
        while self.names.mask < <uint64_t> (4 * len(found)):
            self.names.mask *= 2
        self.names.rows = <Row*> PyMem_Calloc(self.names.mask, sizeof(Row))
        if self.names.rows == NULL:
            raise MemoryError
        self.names.mask -= 1
        for name, kind in found.items():
            padded = name + bytes(SLACK)
            text = padded
            low, high = load_word(text, len(name)), 0
            if len(name) > 8:
                high = load_word(text + 8, len(name) - 8) if len(name) <= 16 else digest_behind(text, len(name))
            at = place_of(low, high, len(name)) & self.names.mask
            while self.names.rows[at].size:
                at = (at + 1) & self.names.mask
            row = &self.names.rows[at]
            row.low = low
            row.high = high
            row.size = len(name)
            row.kind = kind
            row.keys = self.keys.numbers.get(name, K_UNKNOWN)
        return 0

    cdef Py_ssize_t owned(self) noexcept:
        """Bytes allocated."""
        return <Py_ssize_t> ((self.names.mask + 1) * sizeof(Row)) + (0 if self.keys is known else self.keys.owned())

    def decide(self, bytes name not None):
        cdef bytes padded = name + bytes(SLACK)
        kind = look_up(&self.names, padded, len(name)).kind
        return "filtered" if kind in (FILTERED, DROP, TRIMS, TELLS) else "refused" if kind in (BLOCKING, STRANGE) else "passed"
