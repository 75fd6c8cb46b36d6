# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""What one node of a cluster gets in one go: commands in the order in which they came, linked by slot when they are written out."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int32_t, int64_t, uint8_t

from collections import namedtuple

from portd.errors import InternalError

Place = namedtuple("Place", ("slot", "command", "executes"))

cdef enum:
    OWN_REPLIES = 3  # of a transaction: MULTI, the record, EXEC


@cython.final
cdef class Window:
    def __init__(self):
        self.floor = NONE
        self.owed = {}

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
        if self.used + size > self.capacity or self.data == NULL:  # a command that was left out has no bytes
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

    def copies(self, int slot, int64_t number):
        cdef Entry* entry = self._entry(slot, number)
        return entry.offset > entry.behind

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
    def __init__(self):
        self.floor = NONE

    cdef int _note(self, int64_t floor) noexcept:
        """Something behind *floor* is left behind."""
        if self.floor == NONE or floor < self.floor:
            self.floor = floor
        self.entries += 1
        return 0
