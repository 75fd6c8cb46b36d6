# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Sorts the commands of a stream by slot, for a cluster, where a transaction holds keys of one slot only.

A window is what one node gets in one go: for each slot that is touched ``MULTI``, the slot's record, its commands in
their order, ``EXEC``. The record says how far the slot is, so what it has is known whatever became of an answer. Commands are
kept in the order in which they came, and sorted when they are written out: a list a slot, linked through the entries.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

from collections import namedtuple

from portd.errors import InternalError
from portd.kernel.keyspecs cimport KeySpecs
from portd.kernel.resp cimport argument_behind, print_number
from portd.kernel.slotroute cimport C_KEYS, C_NOT, G_EVERYWHERE, G_SELECT, G_SEVERAL, Args, SlotRoute, read_args
from portd.kernel.slots cimport fill_tags, slot_of, tag_of

NO_RECORD = -1
Place = namedtuple("Place", ("slot", "command", "executes"))
Left = namedtuple("Left", ("offset", "name", "key", "several"))

cdef enum:
    SLOT_COUNT = 16384
    NONE = -1  # of positions; the slot of an entry that went to another window
    OWN_REPLIES = 3  # of a transaction: MULTI, the record, EXEC
    MOST_LEFT = 1000  # that are told one by one
    LEFT_BYTES = 512  # of a key that is told
    NUMBER = 24  # bytes for the digits of one
    PUBLISH_SIZE = 7

cdef const char* MULTI = b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$"
cdef const char* EXEC = b"*1\r\n$4\r\nEXEC\r\n"
cdef const char* PAIR = b"*3\r\n$3\r\nSET\r\n"
cdef enum:
    MULTI_SIZE = 29
    EXEC_SIZE = 14
    PAIR_SIZE = 13


cdef struct Entry:  # a command, or a part of one
    Py_ssize_t begin  # in the data
    Py_ssize_t size  # 0: it is left out
    int64_t offset  # of its first byte, as the source counts
    int64_t behind  # position behind it
    int32_t slot
    int32_t next  # of the same slot
    bint counts  # as a command of the source


cdef struct Transaction:
    int32_t slot
    int32_t first  # entry
    int32_t last
    int32_t count
    int64_t behind  # what the record says
    int64_t reply  # number of its first one


@cython.final
cdef class Window:
    cdef uint8_t* data
    cdef Py_ssize_t used
    cdef Py_ssize_t capacity
    cdef Entry* list
    cdef Py_ssize_t count
    cdef Py_ssize_t room
    cdef Transaction* groups
    cdef readonly Py_ssize_t transactions
    cdef readonly Py_ssize_t commands
    cdef readonly Py_ssize_t kept
    cdef readonly int64_t floor

    def __init__(self):
        self.floor = NONE

    def __dealloc__(self):
        PyMem_Free(self.data)
        PyMem_Free(self.list)
        PyMem_Free(self.groups)

    @property
    def size(self):
        return self.used

    @property
    def entries(self):
        return self.count

    @property
    def offset(self):
        return self.list[0].offset if self.count else NONE

    @property
    def owned_bytes(self):
        return (
            self.capacity + self.room * <Py_ssize_t> sizeof(Entry) + self.transactions * <Py_ssize_t> sizeof(Transaction)
        )

    cdef uint8_t* _room_for(self, Py_ssize_t size) except NULL:
        """Room for one more entry of so many bytes."""
        cdef void* larger
        cdef Py_ssize_t wanted
        if self.used + size > self.capacity:
            wanted = max(self.used + size, 2 * self.capacity, 1024)
            larger = PyMem_Realloc(self.data, wanted)
            if larger == NULL:
                raise MemoryError
            self.data, self.capacity = <uint8_t*> larger, wanted
        if self.count == self.room:
            wanted = max(2 * self.room, 16)
            larger = PyMem_Realloc(self.list, wanted * sizeof(Entry))
            if larger == NULL:
                raise MemoryError
            self.list, self.room = <Entry*> larger, wanted
        return self.data + self.used

    cdef int _add(self, Py_ssize_t size, int slot, int64_t offset, int64_t behind, bint counts, int64_t floor) noexcept:
        """The bytes were written where `_room_for` said."""
        cdef Entry* entry = &self.list[self.count]
        entry.begin, entry.size, entry.slot = self.used, size, slot
        entry.offset, entry.behind, entry.counts, entry.next = offset, behind, counts, NONE
        if self.floor == NONE or floor < self.floor:
            self.floor = floor
        self.used += size
        self.count += 1
        self.commands += counts
        return 0

    cdef Transaction* _group(self, int slot) except NULL:
        cdef Py_ssize_t i
        for i in range(self.transactions):
            if self.groups[i].slot == slot:
                return &self.groups[i]
        raise InternalError(f"slot {slot} is not in the window")

    def slots(self):
        cdef Py_ssize_t i
        return [(self.groups[i].slot, self.groups[i].behind) for i in range(self.transactions)]

    def place(self, int64_t reply):
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = self.transactions
        cdef Py_ssize_t middle
        cdef int64_t number
        while low < high:
            middle = (low + high) // 2
            if self.groups[middle].reply <= reply:
                low = middle + 1
            else:
                high = middle
        if low == 0:
            raise InternalError("a reply to nothing")
        number = reply - self.groups[low - 1].reply
        if number >= self.groups[low - 1].count + OWN_REPLIES:
            raise InternalError("a reply to nothing")
        return Place(
            self.groups[low - 1].slot,
            number - 2 if 2 <= number < self.groups[low - 1].count + 2 else -1,
            number == self.groups[low - 1].count + 2,
        )

    cdef Entry* _entry(self, int slot, int64_t number) except NULL:
        cdef int32_t at = self._group(slot).first
        while at != NONE:
            if self.list[at].size:
                if number == 0:
                    return &self.list[at]
                number -= 1
            at = self.list[at].next
        raise InternalError("there is no such command in the window")

    def command(self, int slot, int64_t number):
        cdef Entry* entry = self._entry(slot, number)
        return PyBytes_FromStringAndSize(<const char*> self.data + entry.begin, entry.size), entry.offset

    def leave_out(self, int slot, list numbers not None):
        cdef Entry* entry
        cdef int64_t number
        cdef int counted = 0
        for number in sorted(numbers, reverse=True):
            entry = self._entry(slot, number)
            entry.size = 0
            counted += entry.counts
            self.commands -= entry.counts
            entry.counts = False
        return counted


@cython.final
cdef class Gap:
    cdef readonly bint open
    cdef readonly Py_ssize_t entries
    cdef readonly int64_t floor

    def __init__(self):
        self.floor = NONE

    cdef int _note(self, int64_t floor) noexcept:
        """Something behind *floor* is left behind."""
        if self.floor == NONE or floor < self.floor:
            self.floor = floor
        self.entries += 1
        return 0


@cython.final
cdef class SlotGroups:
    cdef bytes prefix
    cdef SlotRoute router
    cdef int64_t[SLOT_COUNT] records
    cdef int64_t[SLOT_COUNT] begins  # what records said first: commands up to there were counted before our time
    cdef int32_t[SLOT_COUNT] places  # of each slot, in the window that is written out; NONE but for that
    cdef bytes table
    cdef const uint16_t* owners
    cdef list windows
    cdef list all_gaps
    cdef int nodes
    cdef int anywhere  # a slot that has a node
    cdef list told
    cdef public Py_ssize_t left
    cdef public Py_ssize_t skipped
    cdef public Py_ssize_t cut
    cdef public int64_t known

    def __init__(self, bytes prefix not None, KeySpecs keys=None):
        cdef int slot
        fill_tags()
        self.prefix = prefix
        self.router = SlotRoute(keys)
        self.told = []
        for slot in range(SLOT_COUNT):
            self.records[slot] = self.begins[slot] = NONE
            self.places[slot] = NONE
        self.windows = []
        self.all_gaps = []
        self.known = NONE

    # ------------------------------------------------------------------------------------------------------ windows

    def route(self, bytes table not None, int nodes):
        if PyBytes_GET_SIZE(table) != 2 * SLOT_COUNT or nodes < 1:
            raise ValueError("a table has a number for each of 16384 slots")
        self.table = table
        self.owners = <const uint16_t*> PyBytes_AS_STRING(table)
        self.nodes = nodes
        self.anywhere = 0
        while self.anywhere < SLOT_COUNT - 1 and self.owners[self.anywhere] >= nodes:
            self.anywhere += 1
        self.windows = [Window() for _ in range(nodes)]
        self.all_gaps = [Gap() for _ in range(nodes)]
        return self.windows

    @property
    def growing(self):
        return self.windows

    def renew(self, int node):
        cdef Window window = self.windows[node]
        self.windows[node] = Window()
        return window

    @property
    def gaps(self):
        return self.all_gaps

    def leave(self, int node, int64_t floor=NONE):
        cdef Gap gap = self.all_gaps[node]
        gap.open = True
        if floor != NONE:
            gap._note(floor)

    def resume(self, int node):
        self.windows[node] = Window()
        self.all_gaps[node] = Gap()

    cdef Window _window(self, int slot):
        if self.owners[slot] >= self.nodes:
            raise InternalError(f"slot {slot} has no node")
        return <Window> self.windows[self.owners[slot]]

    cdef Gap _gap(self, int slot):
        """Of the node that has a slot, if what it is to get is left behind."""
        if self.owners[slot] >= self.nodes:
            raise InternalError(f"slot {slot} has no node")
        cdef Gap gap = <Gap> self.all_gaps[self.owners[slot]]
        return gap if gap.open else None

    def again(self, Window window not None, bint leave=False):
        cdef Py_ssize_t i
        cdef Entry* entry
        cdef Window into
        cdef Gap gap
        cdef Py_ssize_t commands = 0
        window.kept = 0
        for i in range(window.count):
            entry = &window.list[i]
            if entry.slot == NONE:
                continue
            gap = self._gap(entry.slot) if leave else None
            if gap is not None:
                gap._note(window.floor)
                window.kept += 1
                continue
            window.commands -= entry.counts
            if entry.offset > self.records[entry.slot]:
                into = self._window(entry.slot)
                memcpy(into._room_for(entry.size), window.data + entry.begin, entry.size)
                into._add(entry.size, entry.slot, entry.offset, entry.behind, entry.counts, window.floor)
                commands += entry.counts
            entry.slot = NONE
        return commands

    # ------------------------------------------------------------------------------------------------------- taking

    def take(self, bytes data not None, bytes offsets not None, int64_t end_offset, int64_t floor, Py_ssize_t first=0):
        cdef const uint8_t* p = <const uint8_t*> PyBytes_AS_STRING(data)
        cdef const uint8_t* end = p + PyBytes_GET_SIZE(data)
        cdef const uint64_t* of = <const uint64_t*> PyBytes_AS_STRING(offsets)
        cdef Py_ssize_t total = PyBytes_GET_SIZE(offsets) // <Py_ssize_t> sizeof(uint64_t)
        cdef Py_ssize_t number
        cdef Py_ssize_t next_one = 0  # the first command that another command of the source became
        cdef int64_t behind = end_offset
        cdef Args command
        cdef int slot
        for number in range(total):
            if not read_args(p, end, &command):
                raise InternalError("a piece does not hold whole commands")
            if number >= first:
                if number >= next_one:
                    next_one = number + 1
                    while next_one < total and of[next_one] == of[number]:
                        next_one += 1
                    behind = <int64_t> of[next_one] - 1 if next_one < total else end_offset
                slot = self.router.slot(&command, end)
                if slot == G_EVERYWHERE:
                    return number
                if slot >= 0 and self.router.messages and self.owners[slot] >= self.nodes:
                    if command.name_size != PUBLISH_SIZE:  # SPUBLISH, for other links to bring
                        self.skipped += <int64_t> of[number] > self.known
                        p = command.end
                        continue
                    slot = self.anywhere  # every node brings it to all others
                if slot >= 0:
                    self._keep(p, command.end - p, slot, of[number], behind, True, floor)
                elif slot == G_SEVERAL and self.router.cuts != C_NOT:
                    self._cut(&command, of[number], behind, floor)
                elif <int64_t> of[number] <= self.known:
                    pass
                elif slot == G_SELECT:
                    self.skipped += 1
                else:
                    self._leave(&command, of[number], slot == G_SEVERAL)
            p = command.end
        return total

    cdef int _keep(
        self, const uint8_t* data, Py_ssize_t size, int slot, int64_t offset, int64_t behind, bint counts, int64_t floor
    ) except -1:
        cdef Window window
        cdef Gap gap
        if offset <= self.records[slot]:
            self.skipped += counts and offset > self.known
            return 0
        gap = self._gap(slot)
        if gap is not None:
            return gap._note(floor)
        window = self._window(slot)
        memcpy(window._room_for(size), data, size)
        return window._add(size, slot, offset, behind, counts, floor)

    cdef int _cut(self, const Args* command, int64_t offset, int64_t behind, int64_t floor) except -1:
        """A command of several slots becomes one for each of its keys."""
        cdef const uint8_t* argument = command.header
        cdef const uint8_t* key
        cdef Py_ssize_t size = 0
        cdef Py_ssize_t key_size = 0
        cdef int64_t index
        cdef int step = 1 if self.router.cuts == C_KEYS else 2
        cdef bint counts = True
        cdef bint parts = False
        cdef bytes head = PAIR[:PAIR_SIZE]
        self.cut += offset > self.known
        if step == 1:
            head = b"*2\r\n$%d\r\n%b\r\n" % (
                command.name_size, PyBytes_FromStringAndSize(<const char*> command.name, command.name_size)
            )
        for index in range((command.argc - 1) // step):
            key = argument_behind(argument, &key_size)
            if step == 2:
                key = argument_behind(argument, &key_size)
                size = 0
                text = argument_behind(key + key_size + 2, &size)
                parts = self._keep_part(head, argument, text + size + 2 - argument, key, key_size, offset, behind, counts, floor)
                argument = text + size + 2
            else:
                parts = self._keep_part(head, argument, key + key_size + 2 - argument, key, key_size, offset, behind, counts, floor)
                argument = key + key_size + 2
            counts = counts and not parts
        self.skipped += counts and offset > self.known
        return 0

    cdef int _keep_part(
        self, bytes head, const uint8_t* rest, Py_ssize_t size, const uint8_t* key, Py_ssize_t key_size,
        int64_t offset, int64_t behind, bint counts, int64_t floor,
    ) except -1:
        """Keeps a part; whether it is needed, or was when it came by for the first time."""
        cdef int slot = slot_of(key, key_size)
        cdef Py_ssize_t begin = PyBytes_GET_SIZE(head)
        cdef Window window
        cdef Gap gap
        cdef uint8_t* room
        if offset <= self.records[slot]:
            return offset > self.begins[slot]
        gap = self._gap(slot)
        if gap is not None:
            gap._note(floor)
            return 1
        window = self._window(slot)
        room = window._room_for(begin + size)
        memcpy(room, PyBytes_AS_STRING(head), begin)
        memcpy(room + begin, rest, size)
        window._add(begin + size, slot, offset, behind, counts, floor)
        return 1

    cdef int _leave(self, const Args* command, int64_t offset, bint several) except -1:
        cdef const uint8_t* text
        cdef Py_ssize_t size = 0
        cdef bytes key = b""
        self.left += 1
        if len(self.told) < MOST_LEFT:
            if command.argc > 1:
                text = argument_behind(command.header, &size)
                key = PyBytes_FromStringAndSize(<const char*> text, min(size, LEFT_BYTES))
            name = PyBytes_FromStringAndSize(<const char*> command.name, min(command.name_size, LEFT_BYTES))
            self.told.append(Left(offset, name, key, several))
        return 0

    def take_left(self):
        told, self.told = self.told, []
        return told

    def command(self, bytes data not None, Py_ssize_t number):
        cdef const uint8_t* p = <const uint8_t*> PyBytes_AS_STRING(data)
        cdef const uint8_t* end = p + PyBytes_GET_SIZE(data)
        cdef Args command
        while read_args(p, end, &command):
            if number == 0:
                return PyBytes_FromStringAndSize(<const char*> p, command.end - p)
            number -= 1
            p = command.end
        raise InternalError("a piece does not hold that command")

    # ------------------------------------------------------------------------------------------------------ writing

    def render(self, Window window not None, bytes writer not None):
        cdef Py_ssize_t i
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t overhead
        cdef int64_t replies = 0
        cdef int32_t slot
        cdef int32_t at
        cdef Transaction* group
        cdef Entry* entry
        cdef uint8_t* p
        cdef bytes data
        PyMem_Free(window.groups)
        window.transactions = 0
        window.groups = <Transaction*> PyMem_Malloc(max(1, min(window.count, SLOT_COUNT)) * sizeof(Transaction))
        if window.groups == NULL:
            raise MemoryError
        overhead = MULTI_SIZE + EXEC_SIZE + PyBytes_GET_SIZE(self.prefix) + PyBytes_GET_SIZE(writer) + 4 * NUMBER + 16
        for i in range(window.count):
            entry = &window.list[i]
            entry.next = NONE
            slot = entry.slot
            at = self.places[slot]
            if at == NONE:
                at = self.places[slot] = <int32_t> window.transactions
                group = &window.groups[at]
                group.slot, group.first, group.count = slot, <int32_t> i, 0
                window.transactions += 1
                total += overhead
            else:
                group = &window.groups[at]
                window.list[group.last].next = <int32_t> i
            group.last = <int32_t> i
            group.behind = entry.behind
            if entry.size:
                group.count += 1
                total += entry.size
        data = PyBytes_FromStringAndSize(NULL, total)
        p = <uint8_t*> PyBytes_AS_STRING(data)
        for i in range(window.transactions):
            group = &window.groups[i]
            self.places[group.slot] = NONE
            group.reply = replies
            replies += group.count + OWN_REPLIES
            p = self._head(p, group, writer)
            at = group.first
            while at != NONE:
                entry = &window.list[at]
                memcpy(p, window.data + entry.begin, entry.size)
                p += entry.size
                at = entry.next
            memcpy(p, EXEC, EXEC_SIZE)
            p += EXEC_SIZE
        return data[: p - <uint8_t*> PyBytes_AS_STRING(data)], replies

    cdef uint8_t* _head(self, uint8_t* p, const Transaction* group, bytes writer) noexcept:
        """MULTI and the record."""
        cdef char digits[NUMBER]
        cdef char tag[NUMBER]
        cdef Py_ssize_t begin = print_number(group.behind, digits, NUMBER)
        cdef Py_ssize_t tag_begin = print_number(tag_of(group.slot), tag, NUMBER)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.prefix)
        memcpy(p, MULTI, MULTI_SIZE)
        p = _number(p + MULTI_SIZE, size + NUMBER - tag_begin + 2)
        memcpy(p, PyBytes_AS_STRING(self.prefix), size)
        p += size
        p[0] = c"{"
        memcpy(p + 1, &tag[tag_begin], NUMBER - tag_begin)
        p += NUMBER - tag_begin + 1
        memcpy(p, <const char*> b"}\r\n$", 4)
        size = PyBytes_GET_SIZE(writer)
        p = _number(p + 4, size + NUMBER - begin)
        memcpy(p, PyBytes_AS_STRING(writer), size)
        memcpy(p + size, &digits[begin], NUMBER - begin)
        p += size + NUMBER - begin
        memcpy(p, <const char*> b"\r\n", 2)
        return p + 2

    def confirm(self, Window window not None):
        cdef Py_ssize_t i
        for i in range(window.transactions):
            self.records[window.groups[i].slot] = window.groups[i].behind

    # ------------------------------------------------------------------------------------------------------ records

    def record(self, int slot):
        if not 0 <= slot < SLOT_COUNT:
            raise ValueError(f"there is no slot {slot}")
        return self.records[slot]

    def set_record(self, int slot, int64_t position):
        if not 0 <= slot < SLOT_COUNT:
            raise ValueError(f"there is no slot {slot}")
        self._set(slot, position)

    def set_records(self, int64_t position):
        cdef int slot
        for slot in range(SLOT_COUNT):
            self._set(slot, max(self.records[slot], position))

    cdef int _set(self, int slot, int64_t position) noexcept:
        self.records[slot] = position
        if self.begins[slot] == NONE:
            self.begins[slot] = position
        return 0

    @property
    def lowest(self):
        cdef int slot
        cdef int64_t lowest = self.records[0]
        for slot in range(SLOT_COUNT):
            lowest = min(lowest, self.records[slot])
        return lowest

    @property
    def owned_bytes(self):
        cdef Py_ssize_t total = sizeof(self.records) + sizeof(self.begins) + sizeof(self.places)
        for window in self.windows:
            total += (<Window> window).owned_bytes
        return total


cdef uint8_t* _number(uint8_t* p, int64_t number) noexcept nogil:
    """Writes a length and the end of its line."""
    cdef char digits[NUMBER]
    cdef Py_ssize_t begin = print_number(number, digits, NUMBER)
    memcpy(p, &digits[begin], NUMBER - begin)
    memcpy(p + NUMBER - begin, <const char*> b"\r\n", 2)
    return p + NUMBER - begin + 2


def record_keys(bytes prefix not None, int first, int last):
    cdef int slot
    fill_tags()
    if not 0 <= first <= last < SLOT_COUNT:
        raise ValueError("there are no such slots")
    return [b"%b{%d}" % (prefix, tag_of(slot)) for slot in range(first, last + 1)]
