# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The snapshot decoder: a resumable parser of RDB bytes that tells a handler what it finds.

Read the format in rdb.c (rdbLoadRioWithLoadingCtx, rdbLoadObject) of the servers. The parser works on a bounded
window. Every step consumes something whole - an opcode, a key, an element - or nothing at all; where something is too
long to be whole in the window it is passed on in parts. So it can stop at any byte.

This unit is what Python sees of it; decoder.pxd tells which unit does what. Begin reading with the table in keys.pyx.
"""

cimport cython

from libc.stdint cimport int64_t, uint64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from portd.errors import LimitExceeded, TruncatedSnapshot
from portd.kernel.dialect import Dialect
from portd.kernel.output import DeadLetter
from portd.kernel.rules import REASONS as _REASONS

from portd.kernel.choice cimport set_rules
from portd.kernel.commands cimport CommandHandler
from portd.kernel.decoder cimport DEFAULT_CHUNK, Decoder, ITEMS, ST_CHECKSUM, ST_END, ST_HEAD, ST_VALUE, note_dropped
from portd.kernel.dialect cimport Dialect as TargetDialect
from portd.kernel.encodings cimport E_NONE, layout_of
from portd.kernel.handler cimport Handler
from portd.kernel.keys cimport run_decoder
from portd.kernel.mapping cimport Mapping
from portd.kernel.reader cimport R_MORE
from portd.kernel.rules cimport REASONS_COUNT, Rules
from portd.kernel.window cimport take_in

DEFAULT_CHUNK_BYTES = DEFAULT_CHUNK

cdef frozenset CLUSTER_FIELDS = frozenset({"slot-info", "cluster-slot-states"})    # AUX names of Valkey, rdb.c


@cython.final
cdef class CurrentKey:
    """A key in the middle of being decoded."""

    cdef readonly int db
    cdef readonly bytes key
    cdef readonly str type
    cdef readonly uint64_t elements_done
    cdef readonly uint64_t elements_total
    cdef readonly uint64_t bytes_done


@cython.final
cdef class SnapshotDecoder(Decoder):
    """Decodes one snapshot into batches; the stub tells how to use it."""

    cdef CommandHandler letters         # the handler, when it keeps dead letters
    cdef int64_t margin_ms              # how far from now on expiry times are postponed

    def __cinit__(
        self, consumer not None, *, Py_ssize_t chunk_bytes=DEFAULT_CHUNK_BYTES,
        Py_ssize_t batch_bytes=131072, Py_ssize_t command_bytes=65536, uint64_t command_elements=512,
        bint skip_existing=False, bint verify_checksum=True,
    ):
        if chunk_bytes < 64 or batch_bytes < 64 or command_bytes < 64 or command_elements < 1:
            raise ValueError("sizes must be at least 64 bytes and one element")
        if isinstance(consumer, Handler):
            self.out = <Handler>consumer
        elif isinstance(consumer, TargetDialect):
            self.letters = self.out = CommandHandler(
                consumer, batch_bytes, command_bytes, command_elements, chunk_bytes, skip_existing=skip_existing
            )
        else:
            raise TypeError("a decoder needs a dialect or a handler")
        self.nothing = Handler()
        self.to = self.entry_to = self.out
        self.verify = verify_checksum

    # -- bytes in, batches out -----------------------------------------------------------------------------------------

    def feed(self, const unsigned char[::1] data not None):
        return take_in(self, &data[0], data.shape[0]) if data.shape[0] else 0

    def next_batch(self):
        cdef int r
        cdef timespec now
        clock_gettime(CLOCK_REALTIME, &now)
        self.out.now_ms = <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000
        if self.letters is not None:
            self.letters.horizon_ms = self.out.now_ms + self.margin_ms if self.letters.shift_ms else 0
        r = run_decoder(self)
        if r == R_MORE and self.stop - self.start == self.capacity and not self.out.ready:
            return self._fail("an item does not fit the window", LimitExceeded)
        return self.out.pop()

    def postpone(self, int64_t margin_ms, int64_t shift_ms):
        if self.letters is None:
            raise TypeError("only commands can be postponed")
        if margin_ms < 0 or shift_ms < 0:
            raise ValueError("margin_ms and shift_ms must not be negative")
        self.margin_ms = margin_ms
        self.letters.shift_ms = shift_ms

    def restrict(self, frozenset keys not None):
        if self.letters is None:
            raise TypeError("only commands can be restricted")
        self.letters.wanted = keys

    def choose(
        self, Rules rules=None, Mapping mapping=None, frozenset blocked not None=frozenset(), bytes own not None=b""
    ):
        if own:
            self.own = own
            self.own_size = len(own)
        set_rules(self, rules, mapping, blocked)

    def cover(self, covers not None):
        self.covers = covers
        self.plain = False

    def sift(self):
        self.sifting = True

    def take_dropped(self):
        cdef uint64_t at = self.base + self.start
        if self.dropping:
            note_dropped(self, self.drop_from)
            self.drop_from = at
        dropped, self.dropped = self.dropped, []
        if self.key.offset != <uint64_t>-1 and (self.state == ST_HEAD or (self.state == ST_VALUE and not self.planned)):
            at = self.key.offset
        return at, dropped

    def spare(self, bytes prefix not None):
        if self.letters is None:
            raise TypeError("only commands can be spared")
        self.own = prefix
        self.own_size = len(prefix)
        self.letters.own = prefix
        self.letters.own_name = prefix
        self.letters.own_size = len(prefix)

    def next_output(self):
        return self.next_batch()

    def finish(self):
        if self.state != ST_END:
            raise TruncatedSnapshot("the snapshot ends before its end mark", **self._where())

    def rest(self):
        rest = self.buffer[self.start:self.stop]
        if self.state == ST_END:
            self.base += self.start
            self.start = self.stop = self.summed = 0
        return rest

    # -- where it stands -----------------------------------------------------------------------------------------------

    @property
    def ended(self):
        return self.state == ST_END

    @property
    def offset(self):
        return self.base + self.start

    @property
    def free(self):
        return self.capacity - (self.stop - self.start)

    @property
    def window_bytes(self):
        """The window, one chunk for every item held, the container's window, names, and the output."""
        return 2 * self.capacity + 2 * ITEMS * self.chunk + (8 << 20) + self.out.bound()

    @property
    def aux(self):
        return dict(self.aux_fields)

    @property
    def of_cluster_node(self):
        return self.slot_infos > 0 or self.slots is not None or not CLUSTER_FIELDS.isdisjoint(self.aux_fields)

    @property
    def current(self):
        cdef CurrentKey current
        if self.state <= ST_HEAD or self.state >= ST_CHECKSUM or self.key.encoding == E_NONE:
            return None
        current = CurrentKey.__new__(CurrentKey)
        current.db = self.db
        current.key = self._source_name()
        current.type = layout_of(self.key.encoding).name.decode()
        current.elements_done = self.done
        current.elements_total = self.key.elements
        current.bytes_done = self.base + self.start - self.value_offset
        return current

    def statistics(self):
        cdef Py_ssize_t scratch = 0
        cdef int i
        for i in range(ITEMS):
            scratch += self.scratch_capacity[i]
        counters = {
            "keys": self.keys,
            "keys_announced": self.keys_announced,
            "keys_expired": 0,
            "keys_postponed": 0,
            "keys_filtered": self.keys_filtered + self.out.keys_left_out,
            "keys_failed": self.out.keys_failed,
            "keys_own": self.keys_own + (self.letters.keys_own if self.letters is not None else 0),
            "keys_lacking": self.letters.keys_lacking if self.letters is not None else 0,
            "window_used": self.stop - self.start,
            "window_capacity": self.capacity,
            "blob_capacity": self.blob_capacity,
            "output_capacity": self.out.owned(),
            "scratch_capacity": scratch + self.name_capacity + self.names_capacity + self.templates_size + self.template_size,
            "meta_dropped": self.out.meta_dropped,
            "modules_aux": self.modules_aux,
            "db": self.db,
        }
        for i in range(1, <int>REASONS_COUNT):
            counters["filtered_" + <str>_REASONS[i]] = self.left_out[i]
        self.out.add_statistics(counters)
        return counters

    def take_dead_letters(self):
        if self.letters is None:
            return []
        letters = self.letters.letters
        self.letters.letters = []
        return letters

    def take_scripts(self):
        if self.letters is None or not self.letters.scripts:
            return []
        scripts = self.letters.scripts
        self.letters.scripts = []
        self.letters.scripts_bytes = 0
        return scripts
