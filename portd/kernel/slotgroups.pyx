# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Sorts the commands of a stream by slot, for a cluster, where a transaction holds keys of one slot only.

A window is what one node gets in one go: for each slot that is touched ``MULTI``, the slot's record, its commands in
their order, ``EXEC``. The record says how far the slot is, so what it has is known whatever became of an answer, and which keys
are owed to it, whose commands were left out. Commands are kept in the order in which they came, and sorted when they are
written out: a list a slot, linked through the entries (``slotwindow.pyx``).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from collections import namedtuple

from portd.errors import InternalError
from portd.kernel.keyspecs cimport KeySpecs
from portd.kernel.resp cimport argument_behind, print_number
from portd.kernel.slotroute cimport C_KEYS, C_NOT, C_SETS, G_EVERYWHERE, G_SELECT, G_SEVERAL, Args, SlotRoute, read_args
from portd.kernel.slots cimport fill_tags, slot_of, tag_of
from portd.kernel.slotwindow cimport NONE, Entry, Gap, Transaction, Window

NO_RECORD = -1
Left = namedtuple("Left", ("offset", "name", "key", "several"))

cdef enum:
    SLOT_COUNT = 16384
    OWN_REPLIES = 3  # of a transaction: MULTI, the record, EXEC
    MOST_LEFT = 1000  # that are told one by one
    LEFT_BYTES = 512  # of a key that is told
    NUMBER = 24  # bytes for the digits of one
    PUBLISH_SIZE = 7

cdef frozenset CONDITIONS = frozenset((b"NX", b"XX"))
cdef const char* MULTI = b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$"
cdef const char* EXEC = b"*1\r\n$4\r\nEXEC\r\n"
cdef dict NOTHING = {}
cdef const char* PAIR = b"*3\r\n$3\r\nSET\r\n"
cdef enum:
    MULTI_SIZE = 29
    EXEC_SIZE = 14
    PAIR_SIZE = 13


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

    def take(
        self, bytes data not None, bytes offsets not None, int64_t end_offset, int64_t floor, Py_ssize_t first=0,
        tuple owing=(), bint copies=False,
    ):
        cdef const uint8_t* p = <const uint8_t*> PyBytes_AS_STRING(data)
        cdef const uint8_t* end = p + PyBytes_GET_SIZE(data)
        cdef const uint64_t* of = <const uint64_t*> PyBytes_AS_STRING(offsets)
        cdef Py_ssize_t total = PyBytes_GET_SIZE(offsets) // <Py_ssize_t> sizeof(uint64_t)
        cdef Py_ssize_t number
        cdef Py_ssize_t next_one = 0  # the first command that another command of the source became
        cdef Py_ssize_t owed = 0  # of those that are owing, how many are noted
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
                while owed < len(owing) and <int64_t> owing[owed][0] < <int64_t> of[number]:
                    self.note(owing[owed][2], owing[owed][0], <int64_t> of[number] - 1, floor)
                    owed += 1
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
                    self._keep(p, command.end - p, slot, of[number], behind, not copies, floor)
                elif slot == G_SEVERAL and self.router.cuts != C_NOT:
                    self._cut(&command, of[number], behind, floor)
                elif copies or <int64_t> of[number] <= self.known:
                    pass
                elif slot == G_SELECT:
                    self.skipped += 1
                else:
                    self._leave(&command, of[number], slot == G_SEVERAL)
            p = command.end
        while owed < len(owing):
            self.note(owing[owed][2], owing[owed][0], end_offset, floor)
            owed += 1
        return total

    def note(self, int slot, int64_t offset, int64_t behind, int64_t floor):
        cdef Gap gap
        cdef Window window
        if self.owners[slot] >= self.nodes:
            return
        gap = self._gap(slot)
        if gap is not None:
            gap._note(floor)
            return
        if offset <= self.records[slot]:
            offset, behind = self.records[slot] + 1, self.records[slot]
        window = self._window(slot)
        window._room_for(1)  # there is room behind what it has, however little that is
        window._add(0, slot, offset, behind, False, floor)

    def takes(self, int slot):
        return self.owners[slot] < self.nodes and not (<Gap> self.all_gaps[self.owners[slot]]).open

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
        if self.router.cuts == C_SETS:
            return self._cut_sets(command, offset, behind, floor)
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

    cdef int _cut_sets(self, const Args* command, int64_t offset, int64_t behind, int64_t floor) except -1:
        """An MSETEX of several slots becomes a SET for each of its keys; its condition was met."""
        cdef const uint8_t* p
        cdef Py_ssize_t size = 0
        cdef int64_t index
        cdef bint counts = True
        arguments = []
        p = command.header
        for index in range(command.argc - 1):
            p = argument_behind(p, &size)
            arguments.append(PyBytes_FromStringAndSize(<const char*> p, size))
            p += size + 2
        pairs = int(arguments[0])
        options = [each for each in arguments[1 + 2 * pairs:] if each.upper() not in CONDITIONS]
        self.cut += offset > self.known
        for index in range(1, 2 * pairs, 2):
            head = b"*%d\r\n$3\r\nSET\r\n" % (3 + len(options))
            key = arguments[index]
            rest = b"".join([b"$%d\r\n%b\r\n" % (len(each), each) for each in (key, arguments[index + 1], *options)])
            parts = self._keep_part(
                head, <const uint8_t*> PyBytes_AS_STRING(rest), PyBytes_GET_SIZE(rest),
                <const uint8_t*> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), offset, behind, counts, floor,
            )
            counts = counts and not parts
        self.skipped += counts and offset > self.known
        return 0

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

    def render(self, Window window not None, bytes writer not None, dict owed not None=NOTHING):
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
        window.owed = {}
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
                if owed and slot in owed:
                    window.owed[slot] = owed[slot]
                    total += PyBytes_GET_SIZE(owed[slot]) + 1
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
            p = self._head(p, group, writer, window.owed.get(group.slot) if window.owed else None)
            at = group.first
            while at != NONE:
                entry = &window.list[at]
                memcpy(p, window.data + entry.begin, entry.size)
                p += entry.size
                at = entry.next
            memcpy(p, EXEC, EXEC_SIZE)
            p += EXEC_SIZE
        return data[: p - <uint8_t*> PyBytes_AS_STRING(data)], replies

    cdef uint8_t* _head(self, uint8_t* p, const Transaction* group, bytes writer, bytes owed) except NULL:
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
        p = _number(p + 4, size + NUMBER - begin + (0 if owed is None else 1 + PyBytes_GET_SIZE(owed)))
        memcpy(p, PyBytes_AS_STRING(writer), size)
        memcpy(p + size, &digits[begin], NUMBER - begin)
        p += size + NUMBER - begin
        if owed is not None:
            p[0] = c":"
            memcpy(p + 1, PyBytes_AS_STRING(owed), PyBytes_GET_SIZE(owed))
            p += 1 + PyBytes_GET_SIZE(owed)
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
    def highest(self):
        cdef int slot
        cdef int64_t highest = self.known
        for slot in range(SLOT_COUNT):
            highest = max(highest, self.records[slot])
        return highest

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
