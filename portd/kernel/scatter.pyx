# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Sorts the whole keys of a snapshot by the node of a cluster that has their slots.

Commands of one key follow one another in a batch, and belong to one slot: they stay together and in order. A batch for a
node is made of many, so that it is as large as one for a single server.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcmp, memcpy

from portd.errors import InternalError
from portd.kernel.batch cimport WHOLE, Batch
from portd.kernel.resp cimport argument_behind
from portd.kernel.slotroute cimport G_EVERYWHERE, Args, SlotRoute, read_args
from portd.kernel.slots cimport slot_of


cdef struct Pile:  # what goes to one node
    uint8_t* data
    Py_ssize_t size
    Py_ssize_t capacity
    int64_t replies
    int64_t keys
    uint64_t offset  # of the batch that its first bytes came from


@cython.final
cdef class Scatter:
    cdef Pile* piles
    cdef int nodes
    cdef Py_ssize_t full
    cdef bytes table
    cdef const uint16_t* owners
    cdef SlotRoute route

    def __cinit__(self, bytes table not None, int nodes, Py_ssize_t size):
        if PyBytes_GET_SIZE(table) != 2 * 16384 or nodes < 1 or size < 1:
            raise ValueError("a table has a number for each of 16384 slots")
        self.table = table
        self.owners = <const uint16_t*> PyBytes_AS_STRING(table)
        self.nodes = nodes
        self.full = size
        self.route = SlotRoute()
        self.piles = <Pile*> PyMem_Calloc(nodes, sizeof(Pile))
        if self.piles == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef int node
        if self.piles != NULL:
            for node in range(self.nodes):
                PyMem_Free(self.piles[node].data)
            PyMem_Free(self.piles)

    def node_of(self, bytes key not None):
        return self._owner(slot_of(<const uint8_t*> PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)))

    cdef int _owner(self, int slot) except -1:
        cdef int node = self.owners[slot]
        if node >= self.nodes:
            raise InternalError(f"slot {slot} has no node")
        return node

    def add(self, Batch batch not None):
        cdef bytes data = batch.data
        cdef const uint8_t* p = <const uint8_t*> PyBytes_AS_STRING(data)
        cdef const uint8_t* end = p + PyBytes_GET_SIZE(data)
        cdef const uint8_t* key = NULL  # of the command before
        cdef const uint8_t* text
        cdef Py_ssize_t key_size = 0
        cdef Py_ssize_t size = 0
        cdef int64_t left = batch.keys
        cdef Args command
        cdef int node = -1
        cdef int slot
        if batch.kind != WHOLE:
            raise InternalError("only whole keys are sorted by nodes")
        while p < end:
            if not read_args(p, end, &command):
                raise InternalError("a batch does not hold whole commands")
            slot = self.route.slot(&command, end)
            if slot == G_EVERYWHERE:
                for node in range(self.nodes):
                    self._put(&self.piles[node], p, command.end - p, batch.offset)
                node = -1
                key = NULL
            elif slot < 0:
                raise InternalError(f"a batch holds {command.name[:min(command.name_size, 30)]!r}, which has no slot")
            else:
                text = argument_behind(command.header, &size)
                if self.route.layout.subcommand_count:
                    text = argument_behind(text + size + 2, &size)
                if key == NULL or size != key_size or memcmp(text, key, size) != 0:
                    if node >= 0 and left > 0:
                        self.piles[node].keys += 1
                        left -= 1
                    key, key_size = text, size
                node = self._owner(slot)
                self._put(&self.piles[node], p, command.end - p, batch.offset)
            p = command.end
        if left > 0:
            self.piles[node if node >= 0 else 0].keys += left
        return self._take(self.full)

    cdef int _put(self, Pile* pile, const uint8_t* data, Py_ssize_t size, uint64_t offset) except -1:
        cdef void* larger
        cdef Py_ssize_t wanted
        if pile.size + size > pile.capacity:
            wanted = max(pile.size + size, min(2 * pile.capacity, pile.size + size + self.full))
            larger = PyMem_Realloc(pile.data, wanted)
            if larger == NULL:
                raise MemoryError
            pile.data = <uint8_t*> larger
            pile.capacity = wanted
        if pile.size == 0:
            pile.offset = offset
        memcpy(pile.data + pile.size, data, size)
        pile.size += size
        pile.replies += 1
        return 0

    cdef list _take(self, Py_ssize_t least):
        cdef list taken = []
        cdef Pile* pile
        cdef int node
        for node in range(self.nodes):
            pile = &self.piles[node]
            if pile.size >= least:
                data = PyBytes_FromStringAndSize(<const char*> pile.data, pile.size)
                taken.append((node, Batch(data, replies=pile.replies, db=0, keys=pile.keys, offset=pile.offset)))
                pile.size = pile.replies = pile.keys = 0
        return taken

    def rest(self):
        return self._take(1)

    @property
    def owned_bytes(self):
        cdef Py_ssize_t total = self.nodes * <Py_ssize_t> sizeof(Pile)
        cdef int node
        for node in range(self.nodes):
            total += self.piles[node].capacity
        return total
