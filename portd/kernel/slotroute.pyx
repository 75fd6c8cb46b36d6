# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Where in a cluster a command belongs: to the slot of its keys, to every node, or to none that is one.

Messages of PUBLISH go to the slot of their channel, as those of SPUBLISH must (cluster.c:getNodeByQuery): a node tells all
the others, and each message comes once, in the order of its channel.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport INT32_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from portd.kernel.keypositions cimport R_BITFIELD, R_NONE, R_SET, Found, find_keys, use_of
from portd.kernel.keyspecs cimport K_DATABASE, K_NONE, KeySpecs, known
from portd.kernel.resp cimport LINE_READ, argument_behind, is_word, read_length
from portd.kernel.slots cimport slot_of

cdef frozenset KEYS = frozenset((b"DEL", b"UNLINK", b"TOUCH"))
cdef frozenset PAIRS = frozenset((b"MSET", b"MSETNX"))  # that one comes only where none of its keys was there


@cython.final
cdef class SlotRoute:
    def __cinit__(self, KeySpecs keys=None):
        self.keys = known if keys is None else keys
        self.last_size = -1

    cdef int _look_up(self, const uint8_t* name, Py_ssize_t size) except -1:
        """Notes what is known of a command of this name."""
        cdef bytes word = PyBytes_FromStringAndSize(<const char*> name, size).upper()
        number = self.keys.numbers.get(word)
        self.layout = self.keys.layout_of(word)
        self.cuts = C_KEYS if word in KEYS else C_PAIRS if word in PAIRS else C_SETS if word == b"MSETEX" else C_NOT
        self.messages = word == b"PUBLISH" or word == b"SPUBLISH"
        self.goes = 0
        if word == b"SELECT":
            self.goes = G_SELECT
        elif word == b"SWAPDB":
            self.goes = G_SEVERAL
        elif not self.messages and (number == K_NONE or number == K_DATABASE or word == b"FUNCTION" or word == b"SCRIPT"):
            self.goes = G_EVERYWHERE
        self.last_size = size if size <= LONGEST_NAME else -1
        if self.last_size >= 0:
            memcpy(self.last, name, size)
        return 0

    cdef int slot(self, const Args* command, const uint8_t* end) except -9:
        """The slot of a command whose bytes are all there, or one of ``Goes``; *end* is that of the bytes."""
        cdef const uint8_t* text
        cdef Py_ssize_t size = 0
        cdef Found found
        cdef int64_t index
        cdef int slot = G_UNKNOWN
        cdef int one
        if command.name_size != self.last_size or memcmp(self.last, command.name, command.name_size) != 0:
            self._look_up(command.name, command.name_size)
        if self.goes < 0:
            return self.goes
        if self.messages:
            if command.argc < 2:
                return G_UNKNOWN
            text = argument_behind(command.header, &size)
            return slot_of(text, size)
        if (
            self.layout.single and not self.layout.subcommand_count and self.layout.known
            and self.layout.rule in (R_NONE, R_SET, R_BITFIELD) and self.layout.specs[0].begin < command.argc
        ):
            text = command.header
            for index in range(self.layout.specs[0].begin):
                text = argument_behind(text, &size)
                if index + 1 < self.layout.specs[0].begin:
                    text += size + 2
            return slot_of(text, size)
        find_keys(command.header, command.end, self.layout, command.argc, &found)
        if not found.known or not found.fits:
            return G_UNKNOWN
        text = command.header
        for index in range(1, command.argc):
            text = argument_behind(text, &size)
            if use_of(&found, index):
                one = slot_of(text, size)
                if slot >= 0 and one != slot:
                    return G_SEVERAL
                slot = one
            text += size + 2
        return slot


cdef bint read_args(const uint8_t* p, const uint8_t* end, Args* command) noexcept nogil:
    """Finds the ends of the command at *p*; False when it is not there whole."""
    cdef uint64_t count = 0
    cdef uint64_t size = 0
    cdef uint64_t index
    if p >= end or p[0] != c"*":
        return False
    p += 1
    if read_length(&p, end, &count) != LINE_READ or not 0 < count <= INT32_MAX:
        return False
    command.argc = <int64_t> count
    for index in range(count):
        if p >= end or p[0] != c"$":
            return False
        p += 1
        if read_length(&p, end, &size) != LINE_READ or end - p < 2 or <uint64_t> (end - p - 2) < size:
            return False
        if index == 0:
            command.name = p
            command.name_size = <Py_ssize_t> size
            command.header = p + size + 2
        p += size + 2
    command.end = p
    return True
