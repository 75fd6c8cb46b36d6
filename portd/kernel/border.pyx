# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Where the stream of a cluster's shard stops, for a slot that is not its own alone.

A node has commands for the slots that it owns, and for those that it takes over or clears away. So one for a slot that
the link does not have says that slots move, wherever the map is by now. The splitter stops before it, until somebody has
asked who has what: `Border.open` says which slots are shared with other links from then on, and how far the stream may go. The
same for a slot that is shared: what one link has of it may have to wait for another. What empties all slots stops it while some are
shared: nobody else can tell which of their keys the node had.
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
        self.until = self.emptied = -1

    def reset(self):
        self.since = {}
        self.until = self.emptied = -1
        self.open(-1, {})

    def enter(self, slots):
        for slot in slots:
            self.since[slot] = self.awaited.get(slot, self.until)

    def limit(self, slot):
        return self.shared.get(slot, -1)

    def open(self, int64_t until, dict shared not None, awaited=()):
        # Of a slot that was awaited before, nothing was left out since then.
        self.awaited = {slot: self.awaited.get(slot, self.until) for slot in awaited}
        self.until = until
        self.shared = dict(shared)
        self.count = len(self.shared)
        self.waits = False

    def go_on(self):
        self.waits = False

    def share(self, dict slots not None):
        self.shared = {slot: self.shared.get(slot, limit) for slot, limit in slots.items()}
        self.count = len(self.shared)

    cdef int look(self, int64_t offset, bint brings) noexcept:
        """Another command is looked at."""
        self.at = offset
        self.brings = brings
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
        return own and not self.waits

    cdef bint meet_all(self) noexcept:
        """The same for a command that empties all slots: it waits while some are shared, wherever it is."""
        if self.count > 0:
            self.waits = True
            self.slot = ALL
        elif self.at > self.emptied:
            self.emptied = self.at
        return self.waits
