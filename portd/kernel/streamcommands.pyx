# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Streams become commands: XADD for the entries, then XSETID, then XGROUP and XCLAIM for each group."""

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy

from portd.kernel.containers cimport be64
from portd.kernel.elementcommands cimport ElementCommands
from portd.kernel.formscripts cimport CLAIMING_THERE, RECORDING
from portd.kernel.handler cimport Item, StreamMeta


cdef enum:
    PEL_BYTES = 4 << 20             # pending entries of one group held while its consumers are told


cdef class StreamCommands(ElementCommands):
    """Writes the stream that was begun. Holds a group's pending entries: the snapshot tells later whose they are."""

    def __dealloc__(self):
        PyMem_Free(self.group_name.p)
        PyMem_Free(self.consumer_name.p)
        PyMem_Free(self.pel)

    # -- entries -------------------------------------------------------------------------------------------------------

    cdef int entry(self, uint64_t ms, uint64_t seq, uint64_t fields) except -1:
        self._cut_big()
        if self.told == 0:
            self.first_ms, self.first_seq = ms, seq
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
        cdef bint deleted = meta.deleted_ms > 0 or meta.deleted_seq > 0
        self.drops_gone = self.dialect.entries_read     # since Redis 7.0 (t_stream.c:xclaimCommand)
        self.asks = self.drops_gone and (deleted or meta.version == 1) and "eval" in self.dialect.commands
        self.deleted_ms = meta.deleted_ms if meta.version > 1 else <uint64_t>-1
        self.deleted_seq = meta.deleted_seq
        if self.told == 0:
            self.first_ms = self.first_seq = <uint64_t>-1
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

    # -- groups --------------------------------------------------------------------------------------------------------

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

    cdef bint _is_up_to(self, const unsigned char* id, uint64_t ms, uint64_t seq) noexcept:
        cdef uint64_t own = be64(id)
        return own < ms or (own == ms and be64(id + 8) <= seq)

    cdef int _xclaim(self, const unsigned char* id, Pending* entry) except -1:
        """Makes the message pending; what no command makes so is counted where its message was trimmed, and a dead letter where it was deleted."""
        cdef bint asks = self.asks and self._is_up_to(id, self.deleted_ms, self.deleted_seq)
        if self.drops_gone and not (be64(id) == self.first_ms and be64(id + 8) == self.first_seq):
            if self._is_up_to(id, self.first_ms, self.first_seq):
                self.stream_meta_dropped += 1
                return 0
        self.out.array((8 if entry == NULL else 12) + 2 * asks)
        if asks:
            self.out.raw(b"$4\r\nEVAL\r\n", 10)
            self.out.bulk(<const char*> CLAIMING_THERE, len(CLAIMING_THERE))
            self.out.raw(b"$1\r\n1\r\n", 7)
        else:
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

    # -- idempotent producers ------------------------------------------------------------------------------------------

    cdef int producers(self, uint64_t seconds, uint64_t most, uint64_t n) except -1:
        if not self.dialect.producers:
            return ElementCommands.producers(self, seconds, most, n)
        self.out.raw(b"*6\r\n$7\r\nXCFGSET\r\n", 17)
        self.out.bulk(self.key.name, self.key.size)
        self.out.raw(b"$13\r\nIDMP-DURATION\r\n", 20)
        self.out.unsigned(seconds)
        self.out.raw(b"$12\r\nIDMP-MAXSIZE\r\n", 19)
        self.out.unsigned(most)
        self.replies += 1
        return self._cut_big()

    cdef int producer(self, Item* name) except -1:
        return self._remember(&self.group_name, name)

    cdef int message(self, Item* name, uint64_t ms, uint64_t seq) except -1:
        if not self.dialect.producers:
            return 0
        self.out.array(7)  # the message may have been deleted
        self.out.raw(b"$4\r\nEVAL\r\n", 10)
        self.out.bulk(<const char*> RECORDING, len(RECORDING))
        self.out.raw(b"$1\r\n1\r\n", 7)
        self.out.bulk(self.key.name, self.key.size)
        self.out.bulk(self.group_name.p, self.group_name.size)
        self.out.bulk(name.p, name.n)
        self.out.stream_id(ms, seq)
        self.replies += 1
        return self._cut_big()

    cdef int stream_dropped(self, const char* what) except -1:
        self.stream_meta_dropped += 1
        return self.refuse(self.key, "stream " + what.decode(), "no command carries it")

    cdef Py_ssize_t owned(self) noexcept:
        return (
            ElementCommands.owned(self) + self.group_name.capacity + self.consumer_name.capacity
            + self.pel_capacity * <Py_ssize_t>sizeof(Pending)
        )
