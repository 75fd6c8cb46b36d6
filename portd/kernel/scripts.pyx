# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""What a piece of the stream says of scripts: which texts it brings, and which it takes for known.

Sources up to 4.0, and up to 6.2 where ``lua-replicate-commands`` is off, send scripts instead of what they did: ``EVAL`` with
the text at first, ``EVALSHA`` with its SHA1 afterwards (scripting.c:evalGenericCommand, replicationScriptCacheExists). Both
go on as they came; who sends them has to see to it that the target knows the text.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

from portd.kernel.edit cimport EVALSHA, SCRIPT
from portd.kernel.piecebuffer cimport LARGE, MORE, WHOLE, PieceBuffer, read_header
from portd.kernel.resp cimport SMALL, is_word


cdef enum:
    MOST = 32  # texts and digests that are noted in one piece
    TEXT_BYTES = 128 * 1024  # of a text that is noted, when a piece is not smaller
    DIGEST = 40  # hexadecimal digits of a SHA1


@cython.final
cdef class ScriptNotes:
    def __cinit__(self, PieceBuffer buffer):
        self.buffer = buffer
        self.bodies = set()
        self.loaded = set()
        self.digests = set()
        self.last = b""

    cdef void begin(self) noexcept:
        """A piece begins."""
        if self.bodies:
            self.bodies = set()
            self.loaded = set()
            self.last = b""
        if self.digests:
            self.digests = set()
        self.held = 0
        self.flushed = self.full = False

    cdef int note(self, int kind, const uint8_t* cursor, int64_t argc) except -1:
        """Notes an EVAL, EVALSHA or SCRIPT whose arguments begin with the header at *cursor*.

        Returns:
            MORE when what has to be looked at is not here yet, otherwise WHOLE. Wrong bytes are met again when the command
            is passed on.
        """
        cdef const uint8_t* text = NULL
        cdef Py_ssize_t size = 0
        cdef int status = WHOLE
        if argc < 2:
            return WHOLE
        if kind == EVALSHA or kind == SCRIPT:
            status = self._read(&cursor, SMALL, &text, &size)
        if status == WHOLE and kind == EVALSHA:
            if size == DIGEST:
                self.digests.add(text[:DIGEST].lower())
        elif status == WHOLE and kind == SCRIPT:
            if is_word(text, size, "FLUSH"):
                self.flushed = True
            elif argc > 2 and is_word(text, size, "LOAD"):
                status = self._note_body(&cursor, True)
        elif status == WHOLE:
            status = self._note_body(&cursor, False)
        self.full = len(self.bodies) + len(self.digests) >= MOST or self.held >= self.buffer.piece_bytes
        return MORE if status == MORE else WHOLE

    cdef int _note_body(self, const uint8_t** cursor, bint loaded) except -1:
        """Notes the text at *cursor*, unless it is too large."""
        cdef const uint8_t* text = NULL
        cdef Py_ssize_t size = 0
        cdef int status = self._read(cursor, min(self.buffer.piece_bytes, <Py_ssize_t> TEXT_BYTES), &text, &size)
        if status != WHOLE:
            return status
        if size != len(self.last) or memcmp(text, <const char*> self.last, size):
            self.last = text[:size]
            if self.last not in self.bodies:
                self.bodies.add(self.last)
                self.held += size
        if loaded:
            self.loaded.add(self.last)
        return WHOLE

    cdef int _read(self, const uint8_t** cursor, Py_ssize_t most, const uint8_t** text, Py_ssize_t* size) noexcept:
        """Finds an argument of up to *most* bytes and moves *cursor* behind it: WHOLE, MORE, LARGE or BAD."""
        cdef PieceBuffer buffer = self.buffer
        cdef uint64_t announced = 0
        cdef int status = read_header(buffer, c"$", cursor, &announced)
        if status != WHOLE:
            return status
        if announced > <uint64_t> most:
            return LARGE
        if <uint64_t> (buffer.window + buffer.tail - cursor[0]) < announced + 2:
            return MORE
        text[0] = cursor[0]
        size[0] = <Py_ssize_t> announced
        cursor[0] += announced + 2
        return WHOLE
