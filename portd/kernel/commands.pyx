# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Values become commands: MSET runs, SET, RESTORE with a rewritten footer, element commands in chunks.

How each value is written is section 3 and 4 of docs/architecture.md; the contract with the lanes is in batch.pyi.
"""

cimport cython
from collections import deque

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.string cimport memcmp, memcpy, strlen

from portd.errors import DecodeError

from portd.kernel.batch cimport CLOSE, OPEN, ORDERED, SPREAD, WHOLE, Batch
from portd.kernel.containers cimport be64
from portd.kernel.crc64 cimport crc64_update
from portd.kernel.dialect cimport Dialect
from portd.kernel.downgrade cimport Lost, rewrite_stream
from portd.kernel.encodings cimport (
    C_ARRAY, C_HASH, C_LIST, C_MODULE, C_OTHER, C_SET, C_STREAM, C_STRING, C_ZSET, E_STREAM_1, E_STREAM_2, E_STREAM_3,
    E_STREAM_4, E_STRING, layout_of, stream_version,
)
from portd.kernel.handler cimport F_WHOLE, Handler, Item, Key, P_SKIP, P_ELEMENTS, P_SMALL, P_WHOLE, StreamMeta
from portd.kernel.writer cimport FRAME_BYTES, RespWriter


cdef enum:
    RESTORE_ELEMENTS = 4096         # a collection of more is not restored in one command: it would block the target
    ZADD_SHARE = 4                  # a member costs the skip list 5 us in a big sorted set, others cost 1: ZADD has 1/4 as many
    LETTERS_KEPT = 1000             # dead letters held until they are taken; more are only counted
    PEL_BYTES = 4 << 20             # pending entries of one group held while its consumers are told

# A member or field too long to hold arrives before its score or expiry, but ZADD and HSETEX want it after.
cdef const char* ZADD_SCRIPT = b"return redis.call('ZADD',KEYS[1],ARGV[2],ARGV[1])"
cdef const char* HSET_SCRIPT = (
    b"redis.call('HSET',KEYS[1],ARGV[1],ARGV[2]) if ARGV[3]~='-1' then "
    b"redis.call('HPEXPIREAT',KEYS[1],ARGV[3],'FIELDS','1',ARGV[1]) end return 1"
)


@cython.final
cdef class DeadLetter:
    """A value that did not reach the target."""

    def __repr__(self):
        return f"DeadLetter(db={self.db}, type={self.type!r}, offset={self.offset}, reason={self.reason!r})"


@cython.final
cdef class CommandHandler(Handler):
    """Writes the values it is told as RESP commands and cuts them into batches."""

    def __cinit__(
        self, Dialect dialect not None, Py_ssize_t batch_bytes, Py_ssize_t command_bytes, uint64_t command_elements,
        Py_ssize_t chunk_bytes, bint skip_existing,
    ):
        self.dialect = dialect
        self.out = RespWriter(batch_bytes + command_bytes)
        self.batches = deque()
        self.batch_bytes = self.small_bytes = batch_bytes
        self.whole_elements = RESTORE_ELEMENTS
        self.command_bytes = command_bytes
        self.command_elements = command_elements
        self.chunk_bytes = chunk_bytes
        self.skip_existing = skip_existing
        self.letters = []
        self.kind = WHOLE

    def __dealloc__(self):
        PyMem_Free(self.group_name.p)
        PyMem_Free(self.consumer_name.p)
        PyMem_Free(self.pel)

    # -- batches ------------------------------------------------------------------------------------------------------

    cdef object pop(self):
        batch = self.batches.popleft() if self.batches else None
        self.ready = bool(self.batches)
        return batch

    cdef int cut(self, bint part) except -1:
        """Ends the batch being filled; *part*: in the middle of a command."""
        cdef Batch batch
        if self.out.used == 0 and self.kind != CLOSE:
            self.batch_offset = self.offset
            return 0
        batch = Batch.__new__(Batch)
        batch.data = self.out.take()
        batch.replies = self.replies
        batch.db = self.db
        batch.keys = self.keys
        batch.kind = self.kind
        batch.fence = self.fence if self.kind != WHOLE else 0
        batch.key = self.key.name[:self.key.size] if self.kind != WHOLE else b""
        batch.offset = self.batch_offset
        batch.base = self.batch_base
        batch.part = part
        self.batches.append(batch)
        self.ready = True
        self.batches_total += 1
        self.replies = self.keys = 0
        self.batch_offset = self.offset
        self.batch_base = self.told if self.big and self.collection == C_LIST else 0
        return 0

    cdef int _cut_if_full(self) except -1:
        if self.out.used >= self.batch_bytes:
            self._close_run()
            return self.cut(False)
        return 0

    cdef int refuse(self, Key* key, str type_name, str reason) except -1:
        """Counts and keeps a value that cannot reach the target."""
        cdef DeadLetter letter
        self.letters_total += 1
        if len(self.letters) < LETTERS_KEPT:
            letter = DeadLetter.__new__(DeadLetter)
            letter.db = self.db
            letter.key = key.name[:key.size] if key != NULL else b""
            letter.type = type_name
            letter.offset = key.offset if key != NULL else self.offset
            letter.reason = reason
            self.letters.append(letter)
        return 0

    cdef Py_ssize_t bound(self) noexcept:
        return 12 * (self.batch_bytes + self.command_bytes) + 4 * self.chunk_bytes + (16 << 20)

    cdef int add_statistics(self, dict counters) except -1:
        counters.update({
            "keys_expired": self.keys_expired,
            "keys_postponed": self.keys_postponed,
            "elements": self.elements_total,
            "batches": self.batches_total,
            "dead_letters": self.letters_total,
            "output_used": self.out.used,
            "idle_dropped": self.idle_dropped,
            "freq_dropped": self.freq_dropped,
            "field_ttl_dropped": self.field_ttl_dropped,
            "stream_meta_dropped": self.stream_meta_dropped,
            "functions": self.functions,
        })
        return 0

    cdef Py_ssize_t owned(self) noexcept:
        """Bytes held beside the batches: output buffer, names, pending entries."""
        return (
            self.out.capacity + self.group_name.capacity + self.consumer_name.capacity
            + self.pel_capacity * <Py_ssize_t>sizeof(Pending)
        )

    # -- commands of many elements --------------------------------------------------------------------------------------

    cdef int _open(self, const char* name, Py_ssize_t extra) except -1:
        """Makes sure a command of this name is open and has room for *extra* more bytes.

        Closes the one before when it would pass a limit.
        """
        if self.out.command >= 0:
            if (
                self.elements < self.command_elements
                and self.out.used - self.out.command + extra <= self.command_bytes
            ):
                return 0
            self._close_command()
        self.out.open_command(name, strlen(name))
        self.out.bulk(self.key.name, self.key.size)
        self.out.arguments += 1
        self.elements = 0
        return 0

    cdef int _close_command(self) except -1:
        if self.out.command >= 0:
            self.out.close_command()
            self.replies += 1
            if self.big and self.out.used >= self.batch_bytes:
                self.cut(False)
        return 0

    cdef int _close_run(self) except -1:
        if self.run:
            self.run = False
            self.out.close_command()
            self.replies += 1
        return 0

    # -- keys ------------------------------------------------------------------------------------------------------------

    cdef int select(self, int db) except -1:
        self._close_run()
        self.cut(False)
        self.db = db
        return 0

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

    cdef int plan(self, Key* key) except -1:
        cdef int collection = layout_of(key.encoding).collection
        cdef bint takes_meta
        if self.wanted is not None and not self._is_wanted(key):
            self.keys_left_out += 1
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

    cdef int _expire(self, Key* key) except -1:
        self.out.raw(b"*3\r\n$9\r\nPEXPIREAT\r\n", 19)
        self.out.bulk(key.name, key.size)
        self.out.number(self._expiry(key))
        self.replies += 1
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
        payload = meta_n + 1 + n + 10
        arguments += (not self.skip_existing) + (key.expire_ms >= 0) + 2 * (key.idle >= 0) + 2 * (key.freq >= 0)
        self.out.reserve(payload + key.size + 256)
        self.out.array(arguments)
        self.out.raw(b"$7\r\nRESTORE\r\n", 13)
        self.out.bulk(key.name, key.size)
        self.out.number(self._expiry(key) if key.expire_ms >= 0 else 0)
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
        if key.expire_ms >= 0:
            self.out.raw(b"$6\r\nABSTTL\r\n", 12)
        if key.idle >= 0:
            self.out.raw(b"$8\r\nIDLETIME\r\n", 14)
            self.out.number(key.idle)
        if key.freq >= 0:
            self.out.raw(b"$4\r\nFREQ\r\n", 10)
            self.out.number(key.freq)
        self.replies += 1
        return self._cut_if_full()

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

    # -- elements --------------------------------------------------------------------------------------------------------

    cdef int string_part(self, const unsigned char* p, Py_ssize_t n, uint64_t at, uint64_t total) except -1:
        cdef Py_ssize_t piece
        if total > self.dialect.max_bulk_bytes and not self.left_out:
            self._leave_out(total)
        if self.left_out:
            return 0
        while n:
            piece = min(n, self.command_bytes)
            self.out.raw(b"*4\r\n$8\r\nSETRANGE\r\n", 18)
            self.out.bulk(self.key.name, self.key.size)
            self.out.unsigned(at)
            self.out.bulk(p, piece)
            self.replies += 1
            p += piece
            at += piece
            n -= piece
            if self.out.used >= self.batch_bytes:
                self.cut(False)
        return 0

    cdef int element(self, Item* item) except -1:
        self._open("RPUSH" if self.collection == C_LIST else "SADD", item.n)
        self.out.bulk(item.p, item.n)
        self.out.arguments += 1
        self.elements += 1
        self.told += 1
        self.elements_total += 1
        return 0

    cdef int scored(self, Item* member, Item* score) except -1:
        if self.elements * ZADD_SHARE >= self.command_elements:
            self._close_command()
        self._open("ZADD", member.n + score.n)
        self.out.bulk(score.p, score.n)
        self.out.bulk(member.p, member.n)
        self.out.arguments += 2
        self.elements += 1
        self.told += 1
        self.elements_total += 1
        return 0

    cdef int field(self, Item* name, Item* value, int64_t expire_ms) except -1:
        self.elements_total += 1
        self.told += 1
        if expire_ms >= 0:
            return self._timed_field(name, value, expire_ms)
        self._open("HSET", name.n + value.n)
        self.out.bulk(name.p, name.n)
        self.out.bulk(value.p, value.n)
        self.out.arguments += 2
        self.elements += 1
        return 0

    cdef int _timed_field(self, Item* name, Item* value, int64_t expire_ms) except -1:
        """A field with an expiry of its own: HSETEX where it is known, else HSET and HPEXPIREAT."""
        self._close_command()
        if self.dialect.hsetex:
            self.out.raw(b"*8\r\n$6\r\nHSETEX\r\n", 16)
            self.out.bulk(self.key.name, self.key.size)
            self.out.raw(b"$4\r\nPXAT\r\n", 10)
            self.out.number(max(expire_ms, 1))
            self.out.raw(b"$6\r\nFIELDS\r\n$1\r\n1\r\n", 19)
            self.out.bulk(name.p, name.n)
            self.out.bulk(value.p, value.n)
            self.replies += 1
        else:
            self.out.raw(b"*4\r\n$4\r\nHSET\r\n", 14)
            self.out.bulk(self.key.name, self.key.size)
            self.out.bulk(name.p, name.n)
            self.out.bulk(value.p, value.n)
            self.replies += 1
            if self.dialect.hpexpireat:
                self.out.raw(b"*6\r\n$10\r\nHPEXPIREAT\r\n", 21)
                self.out.bulk(self.key.name, self.key.size)
                self.out.number(max(expire_ms, 1))
                self.out.raw(b"$6\r\nFIELDS\r\n$1\r\n1\r\n", 19)
                self.out.bulk(name.p, name.n)
                self.replies += 1
            else:
                self.field_ttl_dropped += 1
        if self.big and self.out.used >= self.batch_bytes:
            self.cut(False)
        return 0

    cdef int slot(self, uint64_t index, Item* value) except -1:
        self.out.raw(b"*4\r\n$6\r\nARMSET\r\n", 16)
        self.out.bulk(self.key.name, self.key.size)
        self.out.unsigned(index)
        self.out.bulk(value.p, value.n)
        self.replies += 1
        self.told += 1
        self.elements_total += 1
        if self.big and self.out.used >= self.batch_bytes:
            self.cut(False)
        return 0

    cdef int array_end(self, bint has_insert, uint64_t insert) except -1:
        if has_insert:
            self.out.raw(b"*3\r\n$6\r\nARSEEK\r\n", 16)
            self.out.bulk(self.key.name, self.key.size)
            self.out.unsigned(insert + 1)
            self.replies += 1
        return 0

    # -- elements too long to hold -----------------------------------------------------------------------------------------

    cdef int large_begin(self, int collection, int strings, bint has_last) except -1:
        self._close_command()
        self.cut(False)
        self.kind = ORDERED
        self.drop_last = self.left_out = self.part_cut = False
        self.last_is_expiry = has_last and collection == C_HASH
        if collection == C_ZSET or (self.last_is_expiry and self.dialect.hpexpireat):
            script = ZADD_SCRIPT if collection == C_ZSET else HSET_SCRIPT
            self.out.array(4 + strings + 1)
            self.out.raw(b"$4\r\nEVAL\r\n", 10)
            self.out.bulk(script, strlen(script))
            self.out.raw(b"$1\r\n1\r\n", 7)
        else:
            self.drop_last = has_last
            self.out.array(2 + strings)
            if collection == C_LIST:
                self.out.raw(b"$5\r\nRPUSH\r\n", 11)
            elif collection == C_SET:
                self.out.raw(b"$4\r\nSADD\r\n", 10)
            else:
                self.out.raw(b"$4\r\nHSET\r\n", 10)
        return self.out.bulk(self.key.name, self.key.size)

    cdef int large_item(self, uint64_t n) except -1:
        if n > self.dialect.max_bulk_bytes and not self.left_out:
            self._leave_out(n)
        if not self.left_out:
            return self.out.bulk_head(n)
        if self.part_cut:
            self.out.raw(b"$0\r\n\r\n", 6)          # a command that the lanes have begun must come to its end
        return 0

    cdef int _leave_out(self, uint64_t n) except -1:
        """The target would close the connection over an argument of *n* bytes (networking.c:processMultibulkBuffer)."""
        self.left_out = self.lost = True
        return self.refuse(
            self.key, layout_of(self.key.encoding).name.decode(),
            f"{n} bytes in one piece, and the target's proto-max-bulk-len is {self.dialect.max_bulk_bytes}: "
            + ("its field stays without a value" if self.part_cut else "left out"),
        )

    cdef int large_data(self, const unsigned char* p, Py_ssize_t n) except -1:
        if self.left_out:
            return 0
        self.out.raw(p, n)
        if self.out.used >= self.batch_bytes:
            self.part_cut = True
            self.cut(True)
        return 0

    cdef int large_item_end(self) except -1:
        if self.left_out:
            return 0
        self.out.reserve(FRAME_BYTES)
        self.out.crlf()
        return 0

    cdef int large_end(self, Item* last) except -1:
        if last != NULL:
            if self.drop_last:
                self.field_ttl_dropped += not (last.n == 2 and memcmp(last.p, b"-1", 2) == 0)
            else:
                self.out.bulk(last.p, last.n)
        if self.left_out and not self.part_cut:
            self.out.used = 0                       # the command's beginning
        else:
            self.replies += 1
            self.told += 1
            self.elements_total += 1
            self.cut(False)
        if self.collection != C_LIST:
            self.kind = SPREAD
        return 0

    # -- streams ---------------------------------------------------------------------------------------------------------

    cdef int entry(self, uint64_t ms, uint64_t seq, uint64_t fields) except -1:
        if self.big and self.out.used >= self.batch_bytes:
            self.cut(False)
        self.out.array(3 + 2 * fields)
        self.out.raw(b"$4\r\nXADD\r\n", 10)
        self.out.bulk(self.key.name, self.key.size)
        return self.out.stream_id(ms, seq)

    cdef int entry_item(self, Item* item) except -1:
        self.out.bulk(item.p, item.n)
        if self.big and self.out.used >= 2 * self.batch_bytes:
            self.cut(True)
        return 0

    cdef int entry_end(self) except -1:
        self.replies += 1
        self.told += 1
        self.elements_total += 1
        return 0

    cdef int stream_meta(self, StreamMeta* meta) except -1:
        cdef uint64_t added
        cdef bint never = meta.last_ms == 0 and meta.last_seq == 0
        if self.told == 0:
            # The shortest way to an empty stream: add one entry and trim it in the same command.
            self.out.raw(b"*7\r\n$4\r\nXADD\r\n", 14)
            self.out.bulk(self.key.name, self.key.size)
            self.out.raw(b"$6\r\nMAXLEN\r\n$1\r\n0\r\n", 19)
            self.out.stream_id(meta.last_ms, 1 if never else meta.last_seq)
            self.out.raw(b"$1\r\nx\r\n$1\r\ny\r\n", 14)
            self.replies += 1
        self.out.array(7 if self.dialect.entries_read else 3)
        self.out.raw(b"$6\r\nXSETID\r\n", 12)
        self.out.bulk(self.key.name, self.key.size)
        self.out.stream_id(meta.last_ms, meta.last_seq)
        self.replies += 1
        if self.dialect.entries_read:
            # Version 1 has no counters; files of old servers may claim fewer entries than they hold.
            added = max(meta.added, self.told) if meta.version > 1 else self.told
            self.out.raw(b"$12\r\nENTRIESADDED\r\n", 19)
            self.out.unsigned(added)
            self.out.raw(b"$12\r\nMAXDELETEDID\r\n", 19)
            self.out.stream_id(meta.deleted_ms, meta.deleted_seq)
        return 0

    cdef int _remember(self, Name* name, Item* item) except -1:
        cdef char* p
        if name.capacity < <Py_ssize_t>item.n:
            p = <char*>PyMem_Realloc(name.p, item.n)
            if p == NULL:
                raise MemoryError
            name.p = p
            name.capacity = item.n
        if item.n:
            memcpy(name.p, item.p, item.n)
        name.size = item.n
        return 0

    cdef int group(self, Item* name, uint64_t ms, uint64_t seq, int64_t entries_read) except -1:
        self._remember(&self.group_name, name)
        self.pel_size = 0
        self.pel_overflow = False
        self.out.array(7 if self.dialect.entries_read else 5)
        self.out.raw(b"$6\r\nXGROUP\r\n$6\r\nCREATE\r\n", 24)
        self.out.bulk(self.key.name, self.key.size)
        self.out.bulk(name.p, name.n)
        self.out.stream_id(ms, seq)
        if self.dialect.entries_read:
            self.out.raw(b"$11\r\nENTRIESREAD\r\n", 18)
            self.out.number(max(entries_read, -1))
        self.replies += 1
        return self._cut_big()

    cdef int _cut_big(self) except -1:
        if self.big and self.out.used >= self.batch_bytes:
            return self.cut(False)
        return 0

    cdef int pending(self, const unsigned char* id, int64_t delivered_ms, uint64_t count) except -1:
        cdef Py_ssize_t capacity
        cdef Pending* grown
        if self.pel_size == self.pel_capacity:
            capacity = max(<Py_ssize_t>256, self.pel_capacity * 2)
            if capacity * <Py_ssize_t>sizeof(Pending) > PEL_BYTES:
                if not self.pel_overflow:
                    self.pel_overflow = True
                    self.refuse(
                        self.key, "stream pending entries",
                        "too many for one group: delivery times and counts of the last ones are lost",
                    )
                self.stream_meta_dropped += 1
                return 0
            grown = <Pending*>PyMem_Realloc(self.pel, capacity * sizeof(Pending))
            if grown == NULL:
                raise MemoryError
            self.pel = grown
            self.pel_capacity = capacity
        memcpy(self.pel[self.pel_size].id, id, 16)
        self.pel[self.pel_size].delivered_ms = delivered_ms
        self.pel[self.pel_size].count = count
        self.pel_size += 1
        return 0

    cdef int consumer(self, Item* name, int64_t seen_ms, int64_t active_ms) except -1:
        self._remember(&self.consumer_name, name)
        if self.dialect.create_consumer:
            self.out.raw(b"*5\r\n$6\r\nXGROUP\r\n$14\r\nCREATECONSUMER\r\n", 37)
            self.out.bulk(self.key.name, self.key.size)
            self.out.bulk(self.group_name.p, self.group_name.size)
            self.out.bulk(name.p, name.n)
            self.replies += 1
        return self._cut_big()

    cdef int owns(self, const unsigned char* id) except -1:
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = self.pel_size
        cdef Py_ssize_t middle
        cdef int order
        while low < high:
            middle = (low + high) // 2
            order = memcmp(self.pel[middle].id, id, 16)
            if order == 0:
                return self._xclaim(id, &self.pel[middle])
            if order < 0:
                low = middle + 1
            else:
                high = middle
        return self._xclaim(id, NULL)

    cdef int _xclaim(self, const unsigned char* id, Pending* entry) except -1:
        self.out.array(8 if entry == NULL else 12)
        self.out.raw(b"$6\r\nXCLAIM\r\n", 12)
        self.out.bulk(self.key.name, self.key.size)
        self.out.bulk(self.group_name.p, self.group_name.size)
        self.out.bulk(self.consumer_name.p, self.consumer_name.size)
        self.out.raw(b"$1\r\n0\r\n", 7)
        self.out.stream_id(be64(id), be64(id + 8))
        if entry != NULL:
            self.out.raw(b"$4\r\nTIME\r\n", 10)
            self.out.number(entry.delivered_ms)
            self.out.raw(b"$10\r\nRETRYCOUNT\r\n", 17)
            self.out.unsigned(entry.count)
        self.out.raw(b"$5\r\nFORCE\r\n$6\r\nJUSTID\r\n", 23)
        self.replies += 1
        return self._cut_big()

    cdef int stream_dropped(self, const char* what) except -1:
        self.stream_meta_dropped += 1
        return self.refuse(self.key, "stream " + what.decode(), "no command carries it")

    # -- functions -------------------------------------------------------------------------------------------------------

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

    cdef int finish(self) except -1:
        self._close_run()
        return self.cut(False)


cdef str module_name(uint64_t module):
    """Nine characters of six bits each, highest first; the low ten bits are the encoding version (module.c)."""
    cdef bytes alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return bytes([alphabet[(module >> (10 + 6 * (8 - i))) & 63] for i in range(9)]).decode()
