# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Where the stream of a cluster's shard stops, for a slot that is not its own alone.

A node has commands for the slots that it owns, and for those that it takes over or clears away. So one for a slot that
the link does not have says that slots move, wherever the map is by now. The splitter stops before it, until somebody has
asked who has what: `Border.open` says which slots are shared with other links from then on, and how far the stream may go. The
same for a slot that is shared: what one link has of it may have to wait for another. What empties all slots stops it while some are
shared: nobody else can tell which of their keys the node had.

Where a node takes slots in one step, and says so in its stream (Redis 8.4), all that it had of them before is behind it. So the stream
stops there, too, while one of them is shared: its link leaves the slot first, and what comes is another life of it. Where the stream
says that a node has no key of slots any more, what is there goes from the target, unless others have brought what followed.
"""

cimport cython
from libc.stdint cimport int64_t


ALL = -1


@cython.final
cdef class Border:
    def __cinit__(self):
        self.shared = {}
        self.since = {}
        self.awaited = {}
        self.began = {}
        self.over = {}
        self.named = frozenset()
        self.until = self.emptied = self.heard = -1

    def reset(self):
        self.since = {}
        self.began = {}
        self.over = {}
        self.until = self.emptied = self.heard = -1
        self.open(-1, {})

    def enter(self, slots):
        for slot in slots:
            self.since[slot] = self.awaited.get(slot, self.until)

    def leave(self, slots):
        self.awaited.update(dict.fromkeys(slots, self.at))

    def limit(self, slot):
        return self.shared.get(slot, -1)

    def open(self, int64_t until, dict shared not None, awaited=()):
        # Of a slot that was awaited before, nothing was left out since then.
        self.awaited = {slot: self.awaited.get(slot, self.until) for slot in awaited}
        self.until = until
        self.shared = dict(shared)
        self.count = len(self.shared)
        self.waits = False

    def go_on(self, *, bint heard=False):
        self.waits = False
        if heard:
            self.heard = self.at

    def share(self, dict slots not None):
        self.shared = {slot: self.shared.get(slot, limit) for slot, limit in slots.items()}
        self.count = len(self.shared)

    cdef int look(self, int64_t offset, bint brings) noexcept:
        """Another command is looked at."""
        self.at = offset
        self.brings = brings
        self.begins = self.ends = False
        self.waits = False
        return 0

    cdef bint meet(self, int64_t slot, bint own) except -1:
        """Whether the command goes on, which names a key of a slot; `waits` where it has to wait."""
        if own and self.count > 0:
            limit = self.shared.get(slot)
            if limit is not None:
                if self.at <= <int64_t> self.since.get(slot, -1):
                    return False
                self.waits = self.at > <int64_t> limit or (self.brings and self.at > self.until)
        elif not own:
            limit = self.awaited.get(slot, self.until)
            self.waits = self.at > <int64_t> limit
        self.slot = slot
        if self.brings:
            self.began.pop(slot, None)
            self.over.pop(slot, None)
        return own and not self.waits

    cdef bint meet_all(self) noexcept:
        """The same for a command that empties all slots: it waits while some are shared, wherever it is."""
        if self.count > 0:
            self.waits = True
            self.slot = ALL
        elif self.at > self.emptied:
            self.emptied = self.at
        return self.waits

    cdef bint meet_flush(self, int64_t slot, bint own) except -1:
        """Whether a command goes on that empties one slot; as `meet_all` where others have it, too, else as `meet`."""
        if not own:
            return self.meet(slot, False)
        if self.at <= <int64_t> self.since.get(slot, -1):
            return False
        if slot in self.shared:
            return not self.meet_all()
        if self.at > self.emptied:
            self.emptied = self.at
        return True

    cdef bint begin(self, list slots) except -1:
        """The same for word of a move in one step to here, of these slots."""
        self.begins = True
        if self._stops_at(slots):
            return True
        for slot in slots:
            self.began[slot] = self.at
            self.over.pop(slot, None)
        return False

    cdef list end(self, list slots):
        """The same for word that the node has no key of these slots of the link any more; those of which it is heard."""
        cdef list gone
        self.ends = True
        if self._stops_at(slots):
            return []
        gone = [slot for slot in slots if self.at > <int64_t> self.since.get(slot, -1)]
        for slot in gone:
            self.over[slot] = self.at
            self.began.pop(slot, None)
        return gone

    cdef bint _stops_at(self, list slots) except -1:
        """Such a word stops the splitter while one of its slots is shared, unless it was let pass."""
        self.named = frozenset(slots)
        if self.at > self.heard:
            for slot in slots:
                if slot in self.shared:
                    self.waits = True
                    self.slot = slot
                    break
        return self.waits
