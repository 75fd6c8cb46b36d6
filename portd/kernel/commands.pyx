# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Values become commands: MSET runs, SET, RESTORE with a rewritten footer, element commands in chunks.

This unit decides how each value is written and writes whole ones; the units it is derived from write elements and
streams.
"""

cimport cython

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.string cimport memcmp, memcpy

from portd.errors import DecodeError

from portd.kernel.batch cimport CLOSE, OPEN, ORDERED, SPREAD, WHOLE
from portd.kernel.crc64 cimport crc64_update
from portd.kernel.downgrade cimport Lost, rewrite_stream
from portd.kernel.encodings cimport (
    C_ARRAY, C_HASH, C_MODULE, C_OTHER, C_SET, C_STREAM, C_STRING, C_ZSET, E_STREAM_1, E_STREAM_2, E_STREAM_3,
    E_STREAM_4, layout_of, module_name, stream_version,
)
from portd.kernel.handler cimport F_WHOLE, Item, Key, P_ELEMENTS, P_SKIP, P_SMALL, P_WHOLE
from portd.kernel.streamcommands cimport StreamCommands


cdef enum:
    SCRIPTS_BYTES = 1 << 20         # texts of scripts that are held until they are taken, one text more or less
    SCRIPT_COST = 64                # bytes that one of them costs beside its text
    RESTORE_ELEMENTS = 4096         # a collection of more is not restored in one command: it would block the target


@cython.final
cdef class CommandHandler(StreamCommands):
    """Writes the values it is told as RESP commands and cuts them into batches."""

    def __cinit__(self, *_, bint skip_existing):
        self.whole_elements = RESTORE_ELEMENTS
        self.skip_existing = skip_existing

    # -- how a value goes ----------------------------------------------------------------------------------------------

    cdef int plan(self, Key* key) except -1:
        cdef int collection = layout_of(key.encoding).collection
        cdef bint takes_meta
        if self.wanted is not None and not self._is_wanted(key):
            self.keys_left_out += 1
            return P_SKIP
        if self.own_size and key.size >= self.own_size and memcmp(key.name, self.own_name, self.own_size) == 0:
            self.keys_left_out += 1
            self.keys_own += 1
            return P_SKIP
        if self.lacking:
            self.keys_failed += 1
            self.keys_lacking += 1
            self.refuse(key, layout_of(key.encoding).name.decode(), "database: the target does not have it")
            return P_SKIP
        if key.idle >= 0 and self.dialect.takes_lfu:
            self.idle_dropped += 1
            key.idle = -1
        if key.freq >= 0 and not self.dialect.takes_lfu:
            self.freq_dropped += 1
            key.freq = -1
        if collection == C_STRING:
            # Only RESTORE carries idle time, frequency or metadata, and spares an existing key.
            takes_meta = key.meta and not self.dialect.valkey and self.dialect.rdb_version >= 13
            return P_WHOLE if self.skip_existing or key.idle >= 0 or key.freq >= 0 or takes_meta else P_ELEMENTS
        if collection == C_MODULE:
            name = module_name(key.module)
            if name not in self.dialect.modules:
                self.keys_failed += 1
                self.refuse(key, f"module {name}", "the target lacks the module")
                return P_SKIP
            return P_WHOLE
        if self.dialect.takes(key.encoding) or (collection == C_STREAM and self._older_stream(key.encoding)):
            return P_WHOLE
        if collection == C_OTHER or (collection == C_ARRAY and not self.dialect.arrays):
            self.keys_failed += 1
            self.refuse(key, layout_of(key.encoding).name.decode(), "the target does not know this type")
            return P_SKIP
        return P_SMALL

    cdef bint _is_wanted(self, Key* key) except -1:
        if self.origin_db >= 0:
            return (self.origin_db, self.origin[:self.origin_size]) in self.wanted
        return (self.db, key.name[:key.size]) in self.wanted

    cdef int _older_stream(self, int encoding) noexcept:
        """The encoding that the target takes this stream in when it does not know it as it is; 0 for none."""
        cdef int older = E_STREAM_3
        if encoding != E_STREAM_2 and encoding != E_STREAM_3 and encoding != E_STREAM_4:
            return 0
        if self.dialect.takes(encoding):
            return 0
        while older != E_STREAM_1:
            if stream_version(older) < stream_version(encoding) and self.dialect.takes(older):
                return older
            older = E_STREAM_2 if older == E_STREAM_3 else E_STREAM_1
        return E_STREAM_1 if self.dialect.takes(E_STREAM_1) else 0

    # -- expiry --------------------------------------------------------------------------------------------------------

    cdef bint _is_expired(self, Key* key) noexcept:
        """Counts the key: one that is postponed is kept, for the source may have renewed it meanwhile."""
        cdef bint postponed = key.expire_ms >= 0 and key.expire_ms < self.horizon_ms
        self.expired = key.expire_ms >= 0 and key.expire_ms <= self.now_ms and not postponed
        self.keys_expired += self.expired
        self.keys_postponed += postponed
        return self.expired

    cdef int64_t _expiry(self, Key* key) noexcept:
        """The expiry time to send; 0 would mean none to RESTORE, and is refused by the others."""
        return max(key.expire_ms, 1) + (self.shift_ms if key.expire_ms < self.horizon_ms else 0)

    cdef int _expire(self, Key* key) except -1:
        self.out.raw(b"*3\r\n$9\r\nPEXPIREAT\r\n", 19)
        self.out.bulk(key.name, key.size)
        self.out.number(self._expiry(key))
        self.replies += 1
        return 0

    # -- whole values --------------------------------------------------------------------------------------------------

    cdef int string(self, Key* key, Item* value) except -1:
        if not self._is_expired(key):
            self.keys += 1
        if key.expire_ms < 0 and self.dialect.mset:
            if self.run:
                if (
                    self.elements >= self.command_elements
                    or self.out.used - self.out.command + <Py_ssize_t>value.n > self.command_bytes
                ):
                    self._close_run()
            if not self.run:
                self.run = True
                self.elements = 0
                self.out.open_command("MSET", 4)
            self.out.bulk(key.name, key.size)
            self.out.bulk(value.p, value.n)
            self.out.arguments += 2
            self.elements += 1
        else:
            self._close_run()
            self._plain_string(key, value)
        return self._cut_if_full()

    cdef int _plain_string(self, Key* key, Item* value) except -1:
        cdef bint timed = key.expire_ms >= 0
        cdef bint inline_expiry = timed and self.dialect.pxat
        self.out.array(5 if inline_expiry else 3)
        self.out.raw(b"$3\r\nSET\r\n", 9)
        self.out.bulk(key.name, key.size)
        self.out.bulk(value.p, value.n)
        self.replies += 1
        if inline_expiry:
            self.out.raw(b"$4\r\nPXAT\r\n", 10)
            self.out.number(self._expiry(key))
        elif timed:
            self._expire(key)
        return 0

    cdef int raw(
        self, Key* key, const unsigned char* p, Py_ssize_t n, const unsigned char* meta, Py_ssize_t meta_n
    ) except -1:
        cdef int arguments = 4
        cdef Py_ssize_t payload
        cdef char* start
        cdef char* body
        cdef uint16_t footer = <uint16_t>self.dialect.footer
        cdef uint64_t crc
        cdef int older
        cdef int byte = key.byte
        cdef bint inline_expiry
        cdef bytes rewritten
        cdef Lost lost
        self._close_run()
        if not self._is_expired(key):
            self.keys += 1
        if meta_n and (self.dialect.valkey or self.dialect.rdb_version < 13):
            self.meta_dropped += 1
            meta_n = 0
        older = self._older_stream(key.encoding)
        if older:
            rewritten = PyBytes_FromStringAndSize(NULL, n)
            n = rewrite_stream(
                p, n, stream_version(key.encoding), stream_version(older), <unsigned char*><char*>rewritten, &lost
            )
            if n < 0:
                raise DecodeError("corrupt stream", offset=key.offset, db=key.db, key=key.name[:key.size])
            p = <const unsigned char*><char*>rewritten
            byte = 19 if older == E_STREAM_2 else 21 if older == E_STREAM_3 else 15
            self.stream_meta_dropped += lost.times
            if lost.producers:
                self.key = key
                self.stream_dropped("idempotent producers")
                self.key = NULL
        if not self.dialect.absttl:             # Redis 4.0: PEXPIREAT behind says when, nothing says how idle
            self.idle_dropped += key.idle >= 0
            self.freq_dropped += key.freq >= 0
            key.idle = key.freq = -1
        payload = meta_n + 1 + n + 10
        inline_expiry = key.expire_ms >= 0 and (self.dialect.absttl or self.skip_existing)
        arguments += (not self.skip_existing) + (inline_expiry and self.dialect.absttl) + 2 * (key.idle >= 0) + 2 * (key.freq >= 0)
        self.out.reserve(payload + key.size + 256)
        self.out.array(arguments)
        self.out.raw(b"$7\r\nRESTORE\r\n", 13)
        self.out.bulk(key.name, key.size)
        if not inline_expiry:
            self.out.number(0)
        elif self.dialect.absttl:
            self.out.number(self._expiry(key))
        else:                                   # a key that is there must keep its expiry
            self.out.number(max(self._expiry(key) - self.now_ms, 1))
        self.out.bulk_head(payload)
        # Type byte and value as they came, then the RDB version the target is to believe, then CRC64 (rdb.c, cluster.c:
        # createDumpPayload).
        start = body = self.out.buffer + self.out.used
        if meta_n:
            memcpy(body, meta, meta_n)
            body += meta_n
        body[0] = <char>byte
        memcpy(body + 1, p, n)
        body += 1 + n
        memcpy(body, &footer, 2)
        crc = crc64_update(0, start, payload - 8)
        memcpy(body + 2, &crc, 8)
        self.out.used += payload
        self.out.crlf()
        if not self.skip_existing:
            self.out.raw(b"$7\r\nREPLACE\r\n", 13)
        if inline_expiry and self.dialect.absttl:
            self.out.raw(b"$6\r\nABSTTL\r\n", 12)
        if key.idle >= 0:
            self.out.raw(b"$8\r\nIDLETIME\r\n", 14)
            self.out.number(key.idle)
        if key.freq >= 0:
            self.out.raw(b"$4\r\nFREQ\r\n", 10)
            self.out.number(key.freq)
        self.replies += 1
        if key.expire_ms >= 0 and not inline_expiry:
            self._expire(key)
        return self._cut_if_full()

    # -- values told by elements ---------------------------------------------------------------------------------------

    cdef int begin(self, Key* key, int collection, bint small) except -1:
        self._close_run()
        self.key = key
        self.collection = collection
        self.told = 0
        self.left_out = self.lost = False
        small = small and not self.skip_existing        # whether it exists has to be asked first
        self.big = not small
        if collection == C_MODULE or collection == C_OTHER:
            self.keys_failed += 1
            self.refuse(key, layout_of(key.encoding).name.decode(), "larger than chunk_bytes and only RESTORE carries it")
            return 1
        self.idle_dropped += key.idle >= 0
        self.freq_dropped += key.freq >= 0
        if small:
            self._is_expired(key)
            self.out.raw(b"*2\r\n$6\r\nUNLINK\r\n" if self.dialect.unlink else b"*2\r\n$3\r\nDEL\r\n",
                         16 if self.dialect.unlink else 13)
            self.out.bulk(key.name, key.size)
            self.replies += 1
            return 0
        self.big = False                    # what is pending belongs to whole keys
        self.cut(False)
        self.big = True
        return self._open_key(key)

    cdef int _open_key(self, Key* key) except -1:
        self.fences += 1
        self.fence = self.fences
        self.kind = OPEN
        if self.skip_existing:
            self.out.raw(b"*2\r\n$6\r\nEXISTS\r\n", 16)
        elif self.dialect.unlink:
            self.out.raw(b"*2\r\n$6\r\nUNLINK\r\n", 16)
        else:
            self.out.raw(b"*2\r\n$3\r\nDEL\r\n", 13)
        self.out.bulk(key.name, key.size)
        self.replies = 1
        self.cut(False)
        spread = self.collection in (C_SET, C_ZSET, C_HASH)
        self.kind = SPREAD if spread else ORDERED
        return 0

    cdef int end(self, Key* key) except -1:
        self._close_command()
        if not self.big:
            if key.expire_ms >= 0:
                self._expire(key)
            self.keys += not self.expired
            self.key = NULL
            return self._cut_if_full()
        self.cut(False)
        self.kind = CLOSE
        if key.expire_ms >= 0:
            self._expire(key)
        if self.lost:
            self.keys_failed += 1
        elif self.told == 0 and self.collection != C_STREAM and self.collection != C_STRING:
            self.keys_left_out += 1             # no elements, no key: servers skip such a key when they load a file
        else:
            self.keys = not self._is_expired(key)
        self.cut(False)
        self.kind = WHOLE
        self.big = False
        self.batch_base = 0
        self.key = NULL
        return 0

    cdef int abandon(self, Key* key, str reason) except -1:
        """The key cannot be finished: what was written of it goes, and it is a dead letter."""
        self._close_command()
        if self.big:
            self.cut(False)
            self.kind = CLOSE
        else:
            self.keys_expired -= self.expired       # counted when it began
        self.out.raw(b"*2\r\n$3\r\nDEL\r\n", 13)
        self.out.bulk(key.name, key.size)
        self.replies += 1
        if self.big:
            self.cut(False)
        self.kind = WHOLE
        self.big = False
        self.batch_base = 0
        self.key = NULL
        return self.refuse(key, layout_of(key.encoding).name.decode(), reason)

    # -- functions -----------------------------------------------------------------------------------------------------

    cdef int function(self, Item* code) except -1:
        self._close_run()
        if self.wanted is not None:
            return 0
        self.functions += 1
        if not self.dialect.functions:
            return self.refuse(NULL, "function library", "the target has no functions")
        if code.form != F_WHOLE:
            return self.refuse(NULL, "function library", "larger than chunk_bytes")
        self.out.raw(b"*4\r\n$8\r\nFUNCTION\r\n$4\r\nLOAD\r\n$7\r\nREPLACE\r\n", 41)
        self.out.bulk(code.p, code.n)
        self.replies += 1
        return self._cut_if_full()

    # -- scripts -------------------------------------------------------------------------------------------------------

    cdef int aux(self, Item* name, Item* value) except -1:
        """A text of a script that the source has cached, behind its keys (rdb.c:rdbSaveRio, up to 6.2)."""
        cdef bytes body
        if name.n != 3 or memcmp(name.p, b"lua", 3) or self.wanted is not None or value.form != F_WHOLE:
            return 0
        body = value.p[:value.n]
        if self.scripts_bytes < SCRIPTS_BYTES:
            self.scripts.append(body)
            self.scripts_bytes += value.n + SCRIPT_COST
        if not self.dialect.scripts:
            return 0
        self._close_run()
        self.out.raw(b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n", 26)
        self.out.bulk(value.p, value.n)
        self.replies += 1
        return self._cut_if_full()
