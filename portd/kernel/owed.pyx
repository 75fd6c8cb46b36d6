# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Keys that are owed to the target: what they hold now came from keys that rules do not take, and only the source has it.

From the command on that brought it there, such a key counts as one that is not taken: what the stream says of it is left
out, and what reads it to write another key makes that one owed, too. Its value is copied at the source, at an offset that the
source tells with it. Where the stream has come to that offset, the key is settled: the copy is written, and what follows goes on.

A copy is good for a key as long as nothing behind its offset was left out for it. Offsets of commands are those of their first
bytes, and a copy is never made inside of a command: it holds what a command did if its offset is not before that byte.

How many there can be is bounded: their names stand in every checkpoint meanwhile. In a cluster each stands in the record of its
slot alone, and there may be more.
"""

cimport cython
from libc.stdint cimport INT64_MAX, int64_t, uint8_t


cdef enum:
    MOST_KEYS = 1024
    MOST_BYTES = 32 * 1024  # of their names
    MOST_PARTED = 16 * 1024  # of keys whose names stand in the records of their slots only
    MOST_PARTED_BYTES = 512 * 1024
    ANY = -1

cdef dict NOTHING = {}


@cython.final
cdef class Owed:
    def __cinit__(self):
        self.keys = {}
        self.told = {}
        self.held = frozenset()
        self.marked = NOTHING
        self.before = {}
        self.fresh = []
        self.due_at = INT64_MAX
        self.text = ""
        self.most_keys, self.most_bytes = MOST_KEYS, MOST_BYTES

    cdef int part(self) except -1:
        """Each name stands in a record of its own slot."""
        self.most_keys, self.most_bytes = MOST_PARTED, MOST_PARTED_BYTES
        return 0

    cdef int read(self, str text, int64_t offset) except -1:
        """Those that a text tells that `write` made, of what was known at *offset*.

        Raises:
            ValueError: it was made by somebody else.
        """
        for each in text.split():
            db, _, name = each.partition(":")
            self.keys[int(db), bytes.fromhex(name)] = offset
        return self._changed()

    cdef str write(self):
        """Databases and names."""
        if self.text is None:
            self.text = " ".join([f"{db}:{key.hex()}" for db, key in self.keys])
        return self.text

    cdef int look(self, int64_t offset) noexcept:
        """Another command is looked at, whose first byte has that offset."""
        self.at = offset
        self.met = self.waits = False
        return 0

    cdef bint meet(self, int64_t db, const uint8_t* key, Py_ssize_t size) except -1:
        """Whether a key that the command names is owed; then what the command does to it is left out."""
        name = (db, key[:size])
        if name not in self.keys:
            return False
        if name in self.held:
            if not self.waits:
                self.before.clear()
            self.before.setdefault(name, self.keys[name])
            self.waits = True
        self.keys[name] = max(<int64_t> self.keys[name], self.at)
        self.met = True
        return True

    cdef int undo(self) except -1:
        """The command waits: nothing was left out for those that are held."""
        self.keys.update(self.before)
        return 0

    cdef bint add(self, int64_t db, const uint8_t* key, Py_ssize_t size) except -1:
        """The command makes a key owed; False: there are too many."""
        cdef tuple name = (db, key[:size])
        if self.count >= self.most_keys or self.size + size > self.most_bytes:
            return False
        if name not in self.keys:
            self.size += size
            self.fresh.append((self.at, name))
        self.keys[name] = self.at
        self.count = len(self.keys)
        self.text = None
        return True

    cdef tuple take_fresh(self):
        """Keys that are owed since this was asked for: offset of the command's first byte, and the key."""
        if not self.fresh:
            return ()
        fresh, self.fresh = tuple(self.fresh), []
        return fresh

    cdef int touch_all(self) except -1:
        """The command may change all of them."""
        for name in self.keys:
            self.keys[name] = max(<int64_t> self.keys[name], self.at)
        return 0

    cdef int swap(self, int64_t one, int64_t other, int64_t at) except -1:
        """The command at an offset swaps two databases."""
        cdef dict swapped = {}
        if self.count == 0:
            return 0
        for (db, key), offset in self.keys.items():
            if db == one or db == other:
                db, offset = (other if db == one else one), at
            swapped[db, key] = offset
        self.keys = swapped
        return self._changed()

    cdef int mark(self) except -1:
        """A transaction begins."""
        self.marked = dict(self.keys) if self.count else NOTHING
        self.marked_fresh = len(self.fresh)
        return 0

    cdef int back(self) except -1:
        """It goes back to before it. Copies that were told stay, as far as they are wanted."""
        if self.count != len(self.marked) or self.keys != self.marked:
            self.keys = dict(self.marked)
            self._changed()
        del self.fresh[self.marked_fresh:]
        return 0

    cdef bint tell(self, tuple key, int64_t offset) except -1:
        """A key was copied at *offset* of the source; False: that is of no use."""
        if key not in self.keys or (offset != ANY and offset < max(self.least, <int64_t> self.keys[key])):
            return False
        self.told[key] = offset
        self.waits = False
        return self._look_due() or True

    cdef int forget(self) except -1:
        """What was told is not believed any more."""
        self.told.clear()
        return self._look_due()

    cdef tuple due(self, int64_t offset):
        """Those that can be settled at *offset*, which no transaction goes over."""
        cdef list found = []
        cdef int64_t copied
        for key in list(self.told):
            copied = self.told[key]
            if copied != ANY and copied < <int64_t> self.keys[key]:
                del self.told[key]  # something was left out behind it
            elif copied <= offset:
                found.append(key)
        self._look_due()
        return tuple(found)

    cdef int settle(self, tuple key) except -1:
        """The target has it."""
        if self.keys.pop(key, None) is not None:
            self.count = len(self.keys)
            self.size -= len(key[1])
            self.text = None
        self.told.pop(key, None)
        self.waits = False
        return self._look_due()

    cdef int _changed(self) except -1:
        """Keeps what follows from a table of keys that is another one."""
        cdef int64_t offset
        if len(self.told):
            self.told = {key: offset for key, offset in self.told.items() if key in self.keys}
        self.count = len(self.keys)
        self.size = sum([len(key) for _, key in self.keys])
        self.text = None
        self.waits = False
        return self._look_due()

    cdef int _look_due(self) except -1:
        """Keeps the lowest offset of what was told."""
        self.due_at = min(self.told.values()) if len(self.told) else INT64_MAX
        return 0
