# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Whole commands of which only a part goes on: those of whose keys some are not taken, or are ours. See ``project.pyx``."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp

from portd.kernel.decide cimport Decider
from portd.kernel.edit cimport DEL
from portd.kernel.keypositions cimport Found, find_keys, is_key
from portd.kernel.piecebuffer cimport WHOLE, PieceBuffer, count_reply
from portd.kernel.resp cimport NEVER_MS, argument_behind, is_word, read_number


cdef class PartTaker(Decider):
    """What writes them; base of the splitter."""

    cdef tuple _owing(self):
        """Keys that are owed since commands of this piece, with their slots in the target."""
        cdef tuple fresh = self.owed.take_fresh()
        if not fresh or not self.parted:
            return ()
        return tuple([(offset, key, self.slot_of_key(key)) for offset, key in fresh])

    cdef int slot_of_key(self, tuple key) except -1:
        """The slot of the target in which a key of the source is."""
        cdef bytes name = key[1]
        return self.projector.slot(<const uint8_t*> PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))

    cdef int _spare(self) except -1:
        """Consumes a whole command at the head that does the same to each of its keys; those that are ours or not taken do not go on."""
        cdef PieceBuffer buffer = self.buffer
        cdef const uint8_t* header = self._arguments()
        cdef const uint8_t* text
        cdef Py_ssize_t size = 0
        cdef Py_ssize_t end = buffer.cut.head + self.scan.next
        cdef Found found
        cdef int64_t i
        cdef int64_t keys = 0
        cdef bint ours = False
        cdef bint some = False  # of ours
        cdef bint left = False
        cdef bint counted = self._layout(self._row_at_head()).specs[0].counted
        cdef int64_t unit = 0  # of the time that an MSETEX says next
        cdef bint relative = False
        kept = []
        find_keys(header, buffer.window + buffer.tail, self._layout(self._row_at_head()), self.scan.argc, &found)
        for i in range(1, self.scan.argc):
            text = argument_behind(header, &size)
            header = text + size + 2
            if counted and i > found.ranges[0].last + found.ranges[0].step - 1:
                left = False  # options
                if unit:
                    kept.append((-1, self._absolute(text, size, unit, relative)))
                    unit = 0
                    continue
                relative = is_word(text, size, "EX") or is_word(text, size, "PX")
                unit = 1000 if is_word(text, size, "EX") or is_word(text, size, "EXAT") else 1
                if relative or is_word(text, size, "EXAT") or is_word(text, size, "PXAT"):
                    kept.append((-2, 0))
                    continue
                unit = 0
            elif is_key(&found, i):
                ours = size >= self.ours.size > 0 and memcmp(text, self.ours.prefix, self.ours.size) == 0
                some |= ours
                left = ours or (self.projector is not None and not self.projector.takes(text, size))
                keys += not left
            if not left and not (counted and i == 1):
                kept.append((text - buffer.window, size))
        count_reply(buffer, buffer.base + buffer.cut.head + 1)
        name = b"UNLINK" if self.unlink and self._row_at_head().kind == DEL else self._name().upper()
        buffer.write_head(1 + counted + len(kept), name)
        if counted:
            buffer.write_number(keys)
        for start, size in kept:
            if start == -1:
                buffer.write_number(size)
            elif start == -2:
                buffer.write_word("PXAT")
            else:
                buffer.write_argument(buffer.window + <Py_ssize_t> start, size)
        self.tally.commands += 1
        self.tally.own += some
        self.tally.projected += self.projector is not None
        buffer.skip(end)
        self.scan.next = self.scan.argc = 0
        return WHOLE

    cdef int64_t _absolute(self, const uint8_t* text, Py_ssize_t size, int64_t unit, bint relative) noexcept:
        """When an expiry is that a whole command at the head names for all of its keys, unix ms."""
        cdef int64_t number = 0
        cdef int64_t now_ms = self.buffer.received_at(self.buffer.cut.head)
        read_number(text, size, NEVER_MS // unit, &number)
        self.editor.postponed = 0
        self.editor.overdue = False
        number = self.editor.postpone_from(max(number * unit + (now_ms if relative else 0), 1), now_ms)
        self.tally.postponed += self.editor.postponed
        self.tally.overdue |= self.editor.overdue
        return number

    cdef int _halve(self, bint whole) except -1:
        """Consumes the whole command at the head, of which only what it takes away goes on; *whole*: what an SMOVE adds, too."""
        cdef PieceBuffer buffer = self.buffer
        cdef const uint8_t* name = buffer.window + buffer.cut.head + self.scan.name
        cdef Py_ssize_t size = self.scan.name_size
        cdef Py_ssize_t end = buffer.cut.head + self.scan.next
        cdef Py_ssize_t key_size = 0
        cdef Py_ssize_t other_size = 0
        cdef Py_ssize_t third_size = 0
        cdef const uint8_t* key = argument_behind(self._arguments(), &key_size)
        cdef const uint8_t* other = argument_behind(key + key_size + 2, &other_size)
        cdef const uint8_t* third = argument_behind(other + other_size + 2, &third_size) if self.scan.argc > 3 else NULL
        count_reply(buffer, buffer.base + buffer.cut.head + 1)
        if is_word(name, size, "SMOVE") and third != NULL:
            buffer.write_head(3, "SREM")
        elif is_word(name, size, "LMOVE") or is_word(name, size, "BLMOVE"):
            buffer.write_head(2, "LPOP" if third != NULL and is_word(third, third_size, "LEFT") else "RPOP")
        elif size >= 9:  # RPOPLPUSH, BRPOPLPUSH
            buffer.write_head(2, "RPOP")
        else:
            buffer.write_head(2, "UNLINK" if self.unlink else "DEL")
        buffer.write_argument(key, key_size)
        if is_word(name, size, "SMOVE") and third != NULL:
            buffer.write_argument(third, third_size)
        if whole:
            count_reply(buffer, buffer.base + buffer.cut.head + 1)
            buffer.write_head(3, "SADD")
            buffer.write_argument(other, other_size)
            buffer.write_argument(third, third_size)
        self.tally.commands += 1
        self.tally.projected += not whole
        buffer.skip(end)
        self.scan.next = self.scan.argc = 0
        return WHOLE
