# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""What is left of a command when rules take some of its keys: the table of docs/filters.md, in the stream.

The names are those of the source. A command of which all keys are taken goes on, one of which none is does not. Of the others,
those that do the same to each key are split; those that only read what is taken change nothing; those that take something
away from a key that is taken and put it elsewhere become the first half. What is left needs a value that the target does not have:
the keys that it writes are owed from then on, and an owed key is one that is not taken (see ``owed.pyx``).

So it is with commands over several slots of a cluster, under the names of the target: what is not done to each key by itself (see
``slotgroups.pyx``) makes the keys owed that it writes.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport INT32_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

from portd.kernel.keypositions cimport (
    NOT_KEY, OW, RM, RW, R_MIGRATE, R_NONE, R_SORT, Found, Layout, Ours, find_keys, is_key, use_of,
)
from portd.kernel.mapping cimport Mapping, Swap
from portd.kernel.resp cimport LINE_READ, argument_behind, is_word, read_length, read_number
from portd.kernel.slots cimport slot_of


cdef enum:
    WROTE_TAKEN = 1
    WROTE_LEFT = 2
    WRITES = RW | OW | RM


cdef inline bint _named(const Command* command, const char* word) noexcept:
    return is_word(command.name, command.size, word)


cdef bint _is_cut(const Command* command) noexcept:
    """Whether ``slotgroups.pyx`` makes of a command that writes one for each of its keys."""
    if _named(command, "MSET") or _named(command, "MSETNX") or _named(command, "MSETEX"):
        return True
    return _named(command, "DEL") or _named(command, "UNLINK")


cdef bint _reads_others(const Command* command) noexcept:
    """Whether a SORT reads keys that only a pattern names."""
    cdef const uint8_t* header = command.header
    cdef const uint8_t* text
    cdef Py_ssize_t size = 0
    cdef Py_ssize_t i
    cdef int64_t index
    cdef bint pattern = False
    for index in range(1, command.argc):
        text = argument_behind(header, &size)
        header = text + size + 2
        if pattern:
            for i in range(size):
                if text[i] == c"*":
                    return True
        pattern = not pattern and index > 1 and (is_word(text, size, "BY") or is_word(text, size, "GET"))
    return False


cdef int _reach(const Command* command, int64_t index, const uint8_t** text, Py_ssize_t* size) noexcept:
    """Looks for the argument at *index* of a large command: P_ALL when it is at hand, P_MORE when it will be, or P_UNKNOWN."""
    cdef const uint8_t* cursor = command.header
    cdef const uint8_t* limit = command.header + command.most
    cdef uint64_t length = 0
    cdef int64_t i
    if index >= command.argc:
        return P_UNKNOWN
    for i in range(index):
        cursor += 1
        if cursor >= command.end or read_length(&cursor, command.end, &length) != LINE_READ:
            return P_MORE if cursor < limit else P_UNKNOWN
        if cursor >= limit or length > <uint64_t> (limit - cursor):
            return P_UNKNOWN
        if length > <uint64_t> (command.end - cursor):
            return P_MORE
        text[0] = cursor
        size[0] = <Py_ssize_t> length
        cursor += length + 2
    return P_ALL


cdef bint _become_one(Mapping mapping, const uint8_t* key, Py_ssize_t size, const uint8_t* other, Py_ssize_t length) noexcept:
    """Whether two keys have the same name in the target."""
    cdef const Swap* one = NULL
    cdef const Swap* two = NULL
    cdef Py_ssize_t before = 0
    cdef Py_ssize_t behind = 0
    cdef Py_ssize_t i
    if mapping is not None:
        one = mapping.find(key, size)
        two = mapping.find(other, length)
    if one != NULL:
        before = one.size - one.cut
    if two != NULL:
        behind = two.size - two.cut
    if size + before != length + behind:
        return False
    for i in range(size + before):
        if (one.new[i] if one != NULL and i < one.size else key[i - before]) != (
            two.new[i] if two != NULL and i < two.size else other[i - behind]
        ):
            return False
    return True


@cython.final
cdef class Projector:
    def __cinit__(self, Rules rules, Mapping mapping, frozenset blocked, bint parted):
        cdef Py_ssize_t i
        self.parted = parted
        self.blocked = blocked
        self.rules = rules
        self.mapping = mapping
        self.by_names = rules is not None and rules.of_names
        self.by_databases = rules is not None and rules.of_databases or mapping is not None and mapping.databases
        self.renames = mapping is not None and mapping.names
        if mapping is not None:
            for i in range(mapping.count):
                self.reserves |= mapping.swaps[i].size == 0

    cdef bint takes(self, const uint8_t* key, Py_ssize_t size) noexcept:
        """Whether a key of the command that is looked at is taken, not one of ours, and not owed."""
        return self.takes_in(self.db, key, size)

    cdef bint takes_in(self, int64_t db, const uint8_t* key, Py_ssize_t size) noexcept:
        """The same of a key of a database that is taken."""
        if size >= self.ours.size > 0 and memcmp(key, self.ours.prefix, self.ours.size) == 0:
            return False
        try:
            if self.border is not None:
                if not self._within(key, size):
                    return False
            elif self.rules is not None and not self.rules.take(key, size):
                return False
        except Exception as error:  # nobody on the way up can raise it: the splitter does, before it hands anything out
            self.error = error
            return False
        return self.owed.count == 0 or not self.owed.meet(db, key, size)

    cdef bint _within(self, const uint8_t* key, Py_ssize_t size) except -1:
        """Whether a name is taken, and its slot is this link's; the border is told of slots where the command has to wait."""
        cdef int slot
        if not self.rules.take_name(key, size):
            return False
        slot = slot_of(key, size)
        return self.border.meet(slot, self.rules.slots[slot] != 0)

    cdef bint _becomes_ours(self, const uint8_t* key, Py_ssize_t size) noexcept:
        """Whether a key would be given a name of ours."""
        return self.reserves and self.ours.size > 0 and self.mapping.meets(key, size, self.ours.prefix, self.ours.size)

    cdef bint takes_database(self, int64_t db) noexcept:
        return self.rules is None or self.rules.take_database(<int> min(db, INT32_MAX))

    cdef int64_t database(self, int64_t db) noexcept:
        return db if self.mapping is None else self.mapping.database(db)

    cdef int64_t place(self, int64_t db) noexcept:
        """The database of the target in which commands are executed; 0 where those of the source's are not written."""
        if db < 0:
            return db
        return self.database(db) if self.takes_database(db) and db not in self.blocked else 0

    cdef bint alone(self, int64_t db) noexcept:
        """Whether nothing else is written to where a database goes."""
        cdef int64_t other
        if self.mapping is None or not self.mapping.databases:
            return True
        origins = self.mapping.databases_to(self.mapping.database(db))
        if origins is None:
            return False
        for each in origins:
            other = each
            if other != db and each not in self.blocked and self.takes_database(other):
                return False
        return True

    cdef int slot(self, const uint8_t* key, Py_ssize_t size) noexcept:
        """The slot of the target in which a key is."""
        cdef bytes name
        if not self.renames or self.mapping.find(key, size) == NULL:
            return slot_of(key, size)
        name = self.mapping.renamed(key[:size])
        return slot_of(<const uint8_t*> PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))

    cdef int fate(self, const Command* command, const Layout* layout, Found* found) noexcept:
        """What becomes of a whole command, a Fate; *found* are its keys."""
        cdef const uint8_t* header = command.header
        cdef const uint8_t* text
        cdef Py_ssize_t size = 0
        cdef int64_t index
        cdef int use
        cdef int wrote = 0
        cdef int taken = 0
        cdef int left = 0
        cdef int slot = -1
        cdef int other
        cdef bint first = False
        cdef bint several = False
        cdef bint inside
        self.to_key = NULL
        find_keys(header, command.end, layout, command.argc, found)
        if not found.known or not found.fits:
            return P_UNKNOWN
        if _named(command, "MOVE") and command.argc == 3 or _named(command, "COPY") and command.argc > 2:
            return self._across(command, _named(command, "COPY"))
        if not self.takes_database(command.db):
            return P_BY_DATABASE
        for index in range(1, command.argc):
            text = argument_behind(header, &size)
            header = text + size + 2
            use = use_of(found, index)
            if use == 0 or use & NOT_KEY:
                continue
            inside = self.takes(text, size)
            if inside and self._becomes_ours(text, size):
                return P_OURS
            if self.parted and inside:
                other = self.slot(text, size)
                several |= slot >= 0 and other != slot
                slot = other
            first |= inside and taken + left == 0
            taken += inside
            left += not inside
            if use & WRITES:
                wrote |= WROTE_TAKEN if inside else WROTE_LEFT
        if left > 0:
            return self._mixed(command, layout, found, first, wrote) if taken > 0 else P_BY_KEY
        if taken == 0:
            return P_UNKNOWN if layout.specs[0].counted and layout.count == 1 else P_ALL  # a script without keys
        if layout.rule == R_SORT and _reads_others(command):
            return P_CROSSES
        return self._over_slots(command, layout, wrote) if several else P_ALL

    cdef int _over_slots(self, const Command* command, const Layout* layout, int wrote) noexcept:
        """The same for one of which all keys are taken, and are in several slots."""
        cdef int use = layout.specs[0].use
        if _named(command, "PFCOUNT"):
            return P_BY_KEY
        if not wrote & WROTE_TAKEN or _is_cut(command):
            return P_ALL
        if layout.count == 2 and layout.rule == R_NONE and use & RW and layout.specs[1].use & WRITES and not layout.specs[1].size:
            return P_PARTS
        return P_CROSSES

    cdef int _mixed(self, const Command* command, const Layout* layout, const Found* found, bint first, int wrote) noexcept:
        """The same for one of which some keys are taken; *first* whether its first one is."""
        cdef int use = layout.specs[0].use
        if layout.count == 1 and layout.rule == R_NONE and use & (OW | RM) and not layout.specs[0].size:
            return P_KEYS
        if _named(command, "PFCOUNT") or not wrote & WROTE_TAKEN:
            return P_BY_KEY
        if first and layout.count == 2 and use & RW and layout.specs[1].use & WRITES:
            return P_HALF
        return P_CROSSES

    cdef bint _are_one(
        self, int64_t db, const uint8_t* key, Py_ssize_t size, int64_t to, const uint8_t* second, Py_ssize_t other
    ) noexcept:
        """Two keys of the source are one in the target."""
        return self.database(to) == self.database(db) and _become_one(self.mapping, key, size, second, other)

    cdef bint _is_blocked(self, int64_t db) noexcept:
        """Nothing may be written there, for another database goes where it would."""
        return db in self.blocked

    cdef int _across(self, const Command* command, bint copies) noexcept:
        """The same for a MOVE or COPY, which may write to another database."""
        cdef Py_ssize_t size = 0
        cdef Py_ssize_t other = 0
        cdef Py_ssize_t length = 0
        cdef const uint8_t* key = argument_behind(command.header, &size)
        cdef const uint8_t* second = argument_behind(key + size + 2, &other)
        cdef const uint8_t* option = second + other + 2
        cdef const uint8_t* text
        cdef int64_t to = command.db
        cdef int64_t index
        cdef bint named = False
        cdef bint comes, goes
        if not copies:
            if not read_number(second, other, INT32_MAX, &to):
                return P_UNKNOWN
            second, other = key, size
        for index in range(3, command.argc):
            text = argument_behind(option, &length)
            if named and not read_number(text, length, INT32_MAX, &to):
                return P_UNKNOWN
            named = not named and is_word(text, length, "DB")
            option = text + length + 2
        comes = self.takes_database(command.db) and self.takes_in(command.db, key, size)
        goes = self.takes_database(to) and self.takes_in(to, second, other)
        self.to_db, self.to_key, self.to_size = to, second, other
        if not goes:
            if comes and not copies:
                return P_HALF
            return P_BY_DATABASE if not self.takes_database(command.db if not comes else to) else P_BY_KEY
        if self._becomes_ours(second, other):
            return P_OURS
        if self._is_blocked(to):
            return P_BLOCKED
        if not comes:
            return P_CROSSES
        if self._becomes_ours(key, size):
            return P_OURS
        if self._are_one(command.db, key, size, to, second, other):
            return P_BY_DATABASE if to != command.db else P_BY_KEY  # it is there already
        if self.parted and copies and self.database(to) == self.database(command.db):
            return P_ALL if self.slot(key, size) == self.slot(second, other) else P_CROSSES
        return P_ALL

    cdef bint owe(self, const Command* command, const Found* found) noexcept:
        """Makes those keys owed that are taken, and that a command writes of which `fate` said that it crosses rules.

        Returns:
            False where there are none, or too many.
        """
        cdef const uint8_t* header = command.header
        cdef const uint8_t* text
        cdef Py_ssize_t size = 0
        cdef int64_t index = 1
        cdef bint some = False
        if self.to_key != NULL:
            return self.owed.add(self.to_db, self.to_key, self.to_size)
        while True:
            text = self._next_written(command, found, &index, &header, &size)
            if text == NULL:
                return some
            if not self.owed.add(command.db, text, size):
                return False
            some = True

    cdef bint owe_second(self, const Command* command) noexcept:
        """Makes the second key of a command owed; False: there are too many."""
        cdef Py_ssize_t size = 0
        cdef const uint8_t* text = argument_behind(command.header, &size)
        text = argument_behind(text + size + 2, &size)
        return self.owed.add(command.db, text, size)

    cdef const uint8_t* _next_written(
        self, const Command* command, const Found* found, int64_t* index, const uint8_t** header, Py_ssize_t* size
    ) noexcept:
        """The next key that a command writes and that is taken, from an argument on whose header is given; NULL behind the last."""
        cdef const uint8_t* text
        cdef int use
        while index[0] < command.argc:
            text = argument_behind(header[0], size)
            header[0] = text + size[0] + 2
            use = use_of(found, index[0])
            index[0] += 1
            if use & WRITES and not use & NOT_KEY and self.takes(text, size[0]):
                return text
        return NULL

    cdef const uint8_t* lost(self, const Command* command, const Layout* layout, int64_t* db, Py_ssize_t* size) noexcept:
        """The first key that a whole command writes and that is taken, and its database; NULL: there is none.

        Of a command of which `fate` said that it crosses rules: by this key the target differs where that is left out.
        """
        cdef const uint8_t* header = command.header
        cdef Found found
        cdef int64_t index = 1
        db[0] = command.db
        if self.to_key != NULL:
            db[0] = self.to_db
            size[0] = self.to_size
            return self.to_key
        find_keys(header, command.end, layout, command.argc, &found)
        return self._next_written(command, &found, &index, &header, size)

    cdef int fate_of_large(self, const Command* command, const Layout* layout, Found* found, int* others) noexcept:
        """The same for a command of which only the beginning is at hand.

        Args:
            command: it.
            layout: where its keys stand.
            found: all of its keys, in so far as it is not P_UNKNOWN.
            others: whether the keys behind the first one must be taken; -1: nobody needs to look.
        """
        cdef const uint8_t* key = NULL
        cdef Py_ssize_t size = 0
        cdef int64_t index = 0
        cdef int64_t first = INT32_MAX
        cdef int fate, i
        cdef bint inside
        cdef bint selects = self.by_names or self.owed.count > 0
        others[0] = -1
        if not layout.known or layout.subcommand_count or layout.rule == R_SORT or layout.rule == R_MIGRATE:
            return P_UNKNOWN
        if _named(command, "MOVE") or _named(command, "COPY") or _named(command, "RENAME") or _named(command, "RENAMENX"):
            return P_UNKNOWN
        for i in range(layout.count):
            if layout.specs[i].size:
                return P_UNKNOWN
            index = max(index, <int64_t> layout.specs[i].begin)
            first = min(first, <int64_t> layout.specs[i].begin + layout.specs[i].counted)
        if layout.count == 1 and not layout.specs[0].counted and layout.specs[0].last == -1 and layout.specs[0].use & (OW | RM):
            if self.border is not None:  # all keys of a command have one slot there
                fate = _reach(command, first, &key, &size)
                if fate == P_MORE:
                    return fate
                if fate == P_ALL:
                    self.takes(key, size)
            return P_KEYS if selects and layout.specs[0].step <= 2 else P_UNKNOWN if selects else P_ALL
        if not selects and not (self.reserves and self.ours.size > 0):
            return P_ALL
        fate = _reach(command, max(index, first), &key, &size)
        if fate != P_ALL:
            return fate
        find_keys(command.header, command.end, layout, command.argc, found)
        if not found.fits or not is_key(found, first):
            return P_UNKNOWN
        _reach(command, first, &key, &size)
        inside = self.takes(key, size)
        if inside and self._becomes_ours(key, size):
            return P_OURS
        if not layout.single and (inside or layout.count == 1 or layout.specs[1].use & WRITES):
            others[0] = inside
        return P_ALL if inside else P_BY_KEY
