# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Elements of lists, sets, sorted sets, hashes and arrays become commands, each of many elements up to a limit.

An element too long to hold passes through in the middle of a command of its own.
"""

cimport cython

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, strlen

from portd.kernel.batch cimport ORDERED, SPREAD
from portd.kernel.encodings cimport C_HASH, C_LIST, C_SET, C_STREAM, C_ZSET, layout_of
from portd.kernel.handler cimport Item
from portd.kernel.output cimport CommandOutput
from portd.kernel.writer cimport FRAME_BYTES


cdef extern from "strings.h" nogil:
    int strncasecmp(const char* text, const char* other, size_t size)


cdef enum:
    ZADD_SHARE = 4                  # a member costs the skip list 5 us in a big sorted set, others cost 1: ZADD has 1/4 as many

# A member or field too long to hold arrives before its score or expiry, but ZADD and HSETEX want it after.
cdef const char* ZADD_SCRIPT = b"return redis.call('ZADD',KEYS[1],ARGV[2],ARGV[1])"
cdef const char* HSET_SCRIPT = (
    b"redis.call('HSET',KEYS[1],ARGV[1],ARGV[2]) if ARGV[3]~='-1' then "
    b"redis.call('HPEXPIREAT',KEYS[1],ARGV[3],'FIELDS','1',ARGV[1]) end return 1"
)


cdef class ElementCommands(CommandOutput):
    """Writes elements of the value that was begun."""

    @cython.final
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

    @cython.final
    cdef int _timed_field(self, Item* name, Item* value, int64_t expire_ms) except -1:
        """A field with an expiry of its own: HSETEX where it is known, else HSET and HPEXPIREAT."""
        self._close_command()
        # Valkey takes a key of that name for the option.
        if self.dialect.hsetex and not (self.key.size == 6 and strncasecmp(<const char*> self.key.name, "FIELDS", 6) == 0):
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
        return self._cut_big()

    cdef int slot(self, uint64_t index, Item* value) except -1:
        self.out.raw(b"*4\r\n$6\r\nARMSET\r\n", 16)
        self.out.bulk(self.key.name, self.key.size)
        self.out.unsigned(index)
        self.out.bulk(value.p, value.n)
        self.replies += 1
        self.told += 1
        self.elements_total += 1
        return self._cut_big()

    cdef int array_end(self, bint has_insert, uint64_t insert) except -1:
        if has_insert:
            self.out.raw(b"*3\r\n$6\r\nARSEEK\r\n", 16)
            self.out.bulk(self.key.name, self.key.size)
            self.out.unsigned(insert + 1)
            self.replies += 1
        return 0

    # -- strings and elements too long to hold -------------------------------------------------------------------------

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
        """An item whose bytes follow. One that the target cannot take costs its command, where nothing of that was sent yet.

        An entry of a stream was told its number of fields: there an empty item stands for it.
        """
        if n > self.dialect.max_bulk_bytes and not self.left_out:
            self._leave_out(n)
        if not self.left_out:
            return self.out.bulk_head(n)
        if self.part_cut or self.collection == C_STREAM:
            self.out.raw(b"$0\r\n\r\n", 6)          # a command that the lanes have begun must come to its end
        return 0

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
            self.left_out = self.collection != C_STREAM
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

    cdef int _leave_out(self, uint64_t n) except -1:
        """The target would close the connection over an argument of *n* bytes (networking.c:processMultibulkBuffer)."""
        self.left_out = self.lost = True
        return self.refuse(
            self.key, layout_of(self.key.encoding).name.decode(),
            f"{n} bytes in one piece, and the target's proto-max-bulk-len is {self.dialect.max_bulk_bytes}: "
            + (
                "an empty one is in its entry" if self.collection == C_STREAM
                else "its field stays without a value" if self.part_cut
                else "left out"
            ),
        )
