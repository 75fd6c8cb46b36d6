# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""What a splitter owes to its target, for whoever copies keys at the source; see ``owed.pyx``."""

cimport cython
from libc.stdint cimport int64_t

from sys import byteorder

from portd.kernel.leftout cimport LeftOut, Refusal
from portd.kernel.owed cimport Owed
from portd.kernel.stream cimport Piece, StreamSplitter


cdef tuple NOTHING = ()
cdef frozenset NOBODY = frozenset()


@cython.final
cdef class Settler:
    cdef StreamSplitter splitter
    cdef Owed owed

    def __cinit__(self, StreamSplitter splitter not None):
        self.splitter = splitter
        self.owed = splitter.owed

    def unanswered(self):
        if self.owed.count == 0:
            return NOTHING
        return tuple([key for key in self.owed.keys if key not in self.owed.told])

    @property
    def lacks(self):
        return self.owed.count > len(self.owed.told)

    def owes(self, tuple key not None):
        return key in self.owed.keys

    def tell(self, tuple key not None, offset=None):
        return self.owed.tell(key, -1 if offset is None else offset)

    def forget(self):
        self.owed.forget()

    def hold(self, frozenset keys not None):
        self.owed.held = keys
        self.owed.waits = False

    @property
    def waits(self):
        return self.owed.waits

    @property
    def offset(self):
        return self.splitter.buffer.base + self.splitter.buffer.cut.head

    def due(self):
        cdef int64_t offset = self.splitter.buffer.base + self.splitter.buffer.cut.head
        if self.owed.due_at > offset or self.splitter.tally.in_transaction or self.splitter.editor.part.kind >= 0:
            return NOTHING
        return self.owed.due(offset)

    def settle(self, tuple key not None, Piece piece, int64_t number, bint last):
        cdef StreamSplitter splitter = self.splitter
        cdef int64_t offset = splitter.buffer.base + splitter.buffer.cut.head
        cdef Refusal refusal
        if piece is None:
            piece = Piece.__new__(Piece)
            piece.data = b""
            piece.names = piece.databases = NOBODY
            piece.refusals = piece.bodies = piece.loaded = piece.digests = NOTHING
        piece.owing = NOTHING
        if last:
            self.owed.settle(key)
            piece.settled = (key, splitter.slot_of_key(key)) if splitter.parted else None
        piece.boundary = last
        piece.settles = True
        piece.copied = last and piece.replies > 0 and piece.refused == 0
        piece.refused = piece.crossing = piece.filtered = piece.by_key = piece.by_database = 0
        for refusal in piece.refusals:
            refusal.offset = offset  # that of a copy is none of the stream's
        piece.end_offset = offset
        piece.db = splitter.tally.db
        piece.selected = splitter.projector.place(splitter.tally.db)
        piece.owed = "" if splitter.parted else self.owed.write()
        piece.offsets = max(offset - number, 0).to_bytes(8, byteorder) * piece.replies
        return piece

    def refuse(self, tuple key not None, str command not None, str reason not None):
        cdef LeftOut left = LeftOut()
        cdef Piece piece = self.settle(key, None, 0, True)
        left.refuse(
            piece.end_offset, key[0], command.encode(), key[1], "not_copied", reason, self.splitter.projector.mapping
        )
        piece.refusals = left.take_refusals()
        return piece
