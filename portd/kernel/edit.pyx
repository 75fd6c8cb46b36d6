# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The editor: passes one command on argument by argument, with something else written where it must be.

Three kinds of commands need it. Those with an expiry that counts from the moment they are executed (sources up to 6.2
send ``SETEX``, ``EXPIRE``, ``SET .. EX``) are given an absolute one. Those larger than a piece go on in parts: no more
than the next argument's header must be here to go on, and the few arguments that decide something are small. And those
with options that the target does not know.

In place, an expiry is written where the command has it: ``SET k v PXAT ms``, ``RESTORE k ms v ABSTTL``. Where that
cannot be (the target is older than PXAT, the ABSTTL of a large RESTORE comes after its TTL has gone) the command goes
on as it came and PEXPIREAT behind it makes the expiry exact: the ``late`` form. The source's t_string.c and expire.c
say which forms there are.

RESTORE-ASKING brings a key of a slot that moves. It replaces one that is there: what its place before has said of the key may come
behind that in the target (``portd.link.handover``).

Targets older than 7.0 refuse ``XGROUP CREATE`` and ``SETID`` with ``ENTRIESREAD n``, which sources from 7.0 on send whenever
a group's position moves: it is left out for them (t_stream.c:xgroupCommand, streamPropagateGroupID).

Expiry times before a horizon go on by a fixed shift later (see ``portd.target.kept.postponed``). PEXPIREAT loses its conditions
then: a source sends it only when they were met, and a postponed expiry in the target would not meet GT.
"""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from portd.kernel.crc64 cimport crc64_update
from portd.kernel.keypositions cimport Layout, is_key, may_be_key
from portd.kernel.payload cimport FOOTER, accepts, write_footer
from portd.kernel.piecebuffer cimport (
    BAD, FULL, MORE, NOT_A_TIME, WHOLE, PieceBuffer, count_reply, keep, produced, read_header,
)
from portd.kernel.resp cimport NEVER_MS, SMALL, is_word, read_number


cdef enum:
    PART_BYTES = 16384  # a part of one large argument holds at least this much, or its rest


@cython.final
cdef class Editor:
    def __cinit__(self, PieceBuffer buffer, bint pxat, bint conditions, Dialect dialect):
        self.buffer = buffer
        self.ours = NULL
        self.pxat = pxat
        self.conditions = conditions
        self.dialect = dialect
        self.part.kind = -1
        self.key_size = -1

    def __dealloc__(self):
        PyMem_Free(self.key)

    cdef int begin(self, int kind, int64_t argc, Py_ssize_t end, bint large, bint relative) except -1:
        """Starts to pass the command at the head on; consumes its beginning.

        Args:
            kind: what becomes of it.
            argc: its arguments, the name included.
            end: window index behind the name.
            large: it is larger than a piece.
            relative: a RESTORE has a TTL that is not absolute, as far as is known.
        """
        cdef PieceBuffer buffer = self.buffer
        cdef Part* part = &self.part
        part.kind = kind
        part.argc = argc
        part.index = 1
        part.kept = 5 if kind == XGROUP else argc
        if kind in (EXPIRE, PEXPIRE) and not self.conditions:
            part.kept = 3
        part.offset = buffer.base + buffer.cut.head + 1
        part.left = 0
        part.now_ms = buffer.received_at(buffer.cut.head)
        part.unit = 0 if kind in (SET, GETEX) else 1000 if kind in (SETEX, EXPIRE, HEXPIRE, EXPIREAT) else 1
        part.relative = kind < EXPIREAT or relative
        self.postponed = 0
        self.overdue = False
        part.ignores_next = False
        # the options of a large RESTORE come too late to say ABSTTL; PEXPIREAT is known to any target
        part.late = kind in (SET, SETEX, PSETEX, RESTORE, RESTORE_ASKING) and (not self.pxat or large and kind >= RESTORE)
        part.bare = kind >= RESTORE and self.dialect is not None and not self.dialect.absttl
        if part.bare:
            part.late = part.relative = True
            part.kept = 4
        part.payload = 0
        if self.dialect is not None and self.dialect.footer:
            part.payload = 3 if kind >= RESTORE else 2 if kind == FUNCTION_RESTORE else 0
        part.footed = part.judged = False
        part.taken = 0
        part.keys = NULL
        part.expires_at = 0
        self.key_size = -1
        return self._write_beginning(end)

    cdef int resume(self, int64_t argc, int64_t index) noexcept:
        """Starts to pass the rest of the command at the head on, whose beginning was written; *index* arguments are done."""
        cdef Part* part = &self.part
        part.kind = FORWARD
        part.argc = part.kept = argc
        part.index = index
        part.offset = self.buffer.base + self.buffer.cut.head + 1
        part.left = 0
        part.relative = part.ignores_next = part.late = part.bare = part.footed = part.judged = False
        part.payload = 0
        part.expires_at = 0
        return 0

    cdef void watch(self, const Layout* keys) noexcept:
        """Looks for names of ours among the keys still to come of the command that was begun."""
        self.part.keys = keys if self.ours.size and self.passes() else NULL

    cdef void judge(self, bint expected) noexcept:
        """Looks whether the keys of the command that was begun, which are in ``found``, are all taken or none as expected."""
        self.part.judged = True
        self.part.expected = expected

    cdef void scatter(self, int64_t step) noexcept:
        """Each key of the command that was begun becomes a command of its own, *step* arguments with it."""
        self.part.step = step
        self.part.passing = False

    cdef int _write_beginning(self, Py_ssize_t end) except -1:
        """Passes on what stands before window index *end*, or writes another count and name instead."""
        cdef int kind = self.part.kind
        cdef int64_t argc = self.part.argc
        cdef bint here = not self.part.late
        cdef const char* name
        if kind in (SETEX, PSETEX) and here:
            argc, name = 5, "SET"
        elif kind == EXPIRE or kind == PEXPIRE:
            argc, name = min(argc, self.part.kept), "PEXPIREAT"
        elif kind == HEXPIRE or kind == HPEXPIRE:
            name = "HPEXPIREAT"
        elif kind == GETEX:  # PEXPIREAT answers less, and any target has it
            argc, name = 3, "PEXPIREAT"
        elif kind == EXPIREAT or kind == PEXPIREAT:
            argc, name = 3, "PEXPIREAT"
        elif self.part.bare:
            argc, name = 5, "RESTORE"
        elif kind == RESTORE_ASKING or (kind == RESTORE and here):
            argc, name = argc + (here and self.part.relative) + (kind == RESTORE_ASKING), "RESTORE"
        elif kind == FUNCTION:
            argc, name = argc + 1, "FUNCTION"
        elif kind == XGROUP:
            argc, name = argc - 2, "XGROUP"
        elif kind == DEL:
            name = "UNLINK"
        elif kind == SCATTERED:
            return self.buffer.skip(end)
        else:
            return self._consume(end)
        self.buffer.write_head(argc, name)
        return self.buffer.skip(end)

    cdef int advance(self, Py_ssize_t limit) except -1:
        """Passes on what is there of the command, until the piece holds *limit* bytes.

        Returns:
            WHOLE when the command has ended, otherwise MORE, FULL or BAD.
        """
        cdef int status
        while True:
            if self.part.left > 0:
                status = self._pass_bytes(limit)
            elif self.part.index == self.part.argc:
                return self._finish()
            elif produced(self.buffer) >= limit:
                return FULL
            else:
                status = self._next_argument()
            if status != WHOLE:
                return status

    cdef int _pass_bytes(self, Py_ssize_t limit) except -1:
        """Passes on bytes of the argument at the head; WHOLE at its end."""
        cdef PieceBuffer buffer = self.buffer
        cdef Part* part = &self.part
        cdef Py_ssize_t available = buffer.tail - buffer.cut.head
        if part.footed:
            return self._pass_payload(limit)
        cdef Py_ssize_t size = <Py_ssize_t> min(part.left - 2, available)
        if size < part.left - 2 and size < min(PART_BYTES, buffer.piece_bytes):
            return MORE
        size = min(size, max(limit - produced(buffer), 0))
        self._consume(buffer.cut.head + size)
        part.left -= size
        if part.left > 2:
            return FULL if produced(buffer) >= limit else MORE
        if buffer.tail - buffer.cut.head < 2:
            return MORE
        if not buffer.line_ends(buffer.cut.head):
            return BAD
        self._consume(buffer.cut.head + 2)
        return self._end_argument()

    cdef int _end_argument(self) except -1:
        """The argument at the head has gone on."""
        cdef Part* part = &self.part
        part.left = 0
        if part.kind == SCATTERED and part.passing and part.index % part.step == 0:
            count_reply(self.buffer, part.offset)
        part.index += 1
        return WHOLE

    cdef int _pass_payload(self, Py_ssize_t limit) except -1:
        """The same for a payload; its footer is replaced when the target does not take it."""
        cdef PieceBuffer buffer = self.buffer
        cdef Part* part = &self.part
        cdef Py_ssize_t available = buffer.tail - buffer.cut.head
        cdef Py_ssize_t body = <Py_ssize_t> part.left - 2 - FOOTER
        cdef Py_ssize_t size = min(body, available)
        cdef uint8_t[FOOTER] footer
        if size < body and size < min(PART_BYTES, buffer.piece_bytes):
            return MORE
        size = min(size, max(limit - produced(buffer), 0))
        part.crc = crc64_update(part.crc, buffer.window + buffer.cut.head, size)
        self._consume(buffer.cut.head + size)
        part.left -= size
        if size < body:
            return FULL if produced(buffer) >= limit else MORE
        if buffer.tail - buffer.cut.head < FOOTER + 2:
            return MORE
        if not buffer.line_ends(buffer.cut.head + FOOTER):
            return BAD
        if not accepts(self.dialect, buffer.window + buffer.cut.head):
            write_footer(self.dialect, part.crc, footer)
            buffer.skip(buffer.cut.head)
            buffer.append(footer, FOOTER)
            buffer.skip(buffer.cut.head + FOOTER)
            self._consume(buffer.cut.head + 2)
        else:
            self._consume(buffer.cut.head + FOOTER + 2)
        part.left = 0
        part.footed = False
        part.index += 1
        return WHOLE

    cdef inline int _consume(self, Py_ssize_t end) except -1:
        """Consumes bytes up to window index *end*; they go on unless the command, or its argument, is left out."""
        if not self.passes() or self.part.index >= self.part.kept or (self.part.kind == SCATTERED and not self.part.passing):
            return self.buffer.skip(end)
        keep(self.buffer, end)
        return 0

    cdef inline bint passes(self) noexcept:
        """Whether there is a command on its way, and its bytes go on."""
        return self.part.kind >= 0 and not DROP <= self.part.kind <= REFUSED

    cdef int _next_argument(self) except -1:
        """Passes on the header of the next argument, or all of it when it must be looked at."""
        cdef PieceBuffer buffer = self.buffer
        cdef Part* part = &self.part
        cdef const uint8_t* cursor = buffer.window + buffer.cut.head
        cdef Py_ssize_t payload, end
        cdef uint64_t announced = 0
        cdef int status = read_header(buffer, c"$", &cursor, &announced)
        if status != WHOLE:
            return status
        payload = cursor - buffer.window
        if part.keys != NULL and may_be_key(part.keys, part.index, part.argc) and announced >= <uint64_t> self.ours.size:
            if buffer.tail - payload < self.ours.size:
                return MORE
            if memcmp(cursor, self.ours.prefix, self.ours.size) == 0:
                self.mixed = part.offset
        if part.judged and is_key(&self.found, part.index):
            status = self._judge(cursor, announced)
            if status != WHOLE:
                return status
        if part.kind == SCATTERED and (part.index - 1) % part.step == 0:
            status = self._scatter(payload, announced)
            if status != WHOLE:
                return status
        if not self._looks_at(announced):
            if part.kind == FUNCTION and part.index == 2:
                buffer.write_word("REPLACE")
            part.left = <int64_t> announced + 2
            part.footed = part.index == part.payload and announced >= FOOTER  # of no library at all it is nothing else
            part.crc = 0
            part.ignores_next = False
            self._consume(payload)
            return WHOLE
        if part.index > 1 and announced > SMALL:
            return self.buffer.bad(NOT_A_TIME, buffer.cut.head)
        end = payload + <Py_ssize_t> announced + 2
        if buffer.tail < end:
            return MORE
        if not buffer.line_ends(end - 2):
            return BAD
        status = self._look(payload, <Py_ssize_t> announced, end)
        part.index += status == WHOLE
        return status

    cdef int _judge(self, const uint8_t* text, uint64_t size) noexcept:
        """Looks at a key: one that is not as expected, or too large to be looked at, makes the command one that is mixed."""
        if size <= <uint64_t> self.buffer.piece_bytes:
            if <uint64_t> (self.buffer.window + self.buffer.tail - text) < size:
                return MORE
            if self.projector.takes(text, <Py_ssize_t> size) == self.part.expected:
                return WHOLE
        self.mixed = self.part.offset
        return WHOLE

    cdef int _scatter(self, Py_ssize_t payload, uint64_t size) except -1:
        """Begins a command for the key whose header is at the head, if it is taken."""
        cdef Part* part = &self.part
        if size > <uint64_t> self.buffer.piece_bytes:
            self.mixed = part.offset
            part.passing = False
            return WHOLE
        if <uint64_t> (self.buffer.tail - payload) < size:
            return MORE
        part.passing = self.projector.takes(self.buffer.window + payload, <Py_ssize_t> size)
        if part.passing:
            part.taken += 1
            self.buffer.write_head(1 + part.step, "SET" if part.step == 2 else "UNLINK" if self.unlink else "DEL")
        return WHOLE

    cdef inline bint _looks_at(self, uint64_t size) noexcept:
        """Whether the next argument must be whole, because it decides something or is needed again."""
        cdef Part* part = &self.part
        if part.kind < SET:
            return False
        if part.index == 1:  # the key, for the PEXPIREAT behind; one that does not fit is not kept
            return part.late and size <= <uint64_t> self.buffer.piece_bytes
        if part.kind == SET:
            return part.index > 2 and (size <= SMALL or part.unit != 0)
        if part.kind in (GETEX, EXPIREAT, PEXPIREAT):
            return True
        return part.index == 2 or (part.kind >= RESTORE and part.index > 3 and size <= SMALL)

    cdef int _look(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1:
        """Passes on the argument from the head to window index *end* as its command needs it."""
        cdef Part* part = &self.part
        if part.index == 1:
            self._keep_key(payload, size)
        elif part.kind == SET and part.unit == 0:
            return self._look_at_set_option(payload, size, end)
        elif part.kind == GETEX and part.index == 2:
            return self._look_at_getex_option(payload, size, end)
        elif part.index > 2 and part.kind in (EXPIREAT, PEXPIREAT):
            self.buffer.skip(end)  # NX, XX, GT, LT
            return WHOLE
        elif part.kind >= RESTORE and part.index > 3:
            if is_word(self.buffer.window + payload, size, "ABSTTL"):
                part.relative = False
                part.expires_at = part.expires_at if part.bare else 0  # the TTL was absolute
            if part.bare:
                self.buffer.skip(end)
                return WHOLE
        else:
            return self._look_at_time(payload, size, end)
        keep(self.buffer, end)
        return WHOLE

    cdef int _look_at_set_option(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1:
        cdef Part* part = &self.part
        cdef const uint8_t* word = self.buffer.window + payload
        cdef bint seconds = is_word(word, size, "EX") or is_word(word, size, "EXAT")
        cdef bint absolute = is_word(word, size, "EXAT") or is_word(word, size, "PXAT")
        if part.ignores_next or not (seconds or absolute or is_word(word, size, "PX")):
            part.ignores_next = not part.ignores_next and size >= 4 and is_word(word, 2, "IF")  # IFEQ and its kin
            keep(self.buffer, end)
            return WHOLE
        part.unit = 1000 if seconds else 1
        part.relative = not absolute
        if part.late and part.relative:
            keep(self.buffer, end)
        else:
            self.buffer.write_word("PX" if part.late else "PXAT")
            self.buffer.skip(end)
        return WHOLE

    cdef int _look_at_getex_option(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1:
        cdef Part* part = &self.part
        cdef const uint8_t* word = self.buffer.window + payload
        cdef bint seconds = is_word(word, size, "EX") or is_word(word, size, "EXAT")
        part.relative = is_word(word, size, "EX") or is_word(word, size, "PX")
        if not (seconds or part.relative or is_word(word, size, "PXAT")):
            return self.buffer.bad(NOT_A_TIME, payload)
        part.unit = 1000 if seconds else 1
        self.buffer.skip(end)
        return WHOLE

    cdef int _look_at_time(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1:
        cdef PieceBuffer buffer = self.buffer
        cdef Part* part = &self.part
        cdef int64_t number = 0
        cdef int64_t at
        if not read_number(buffer.window + payload, size, NEVER_MS // part.unit, &number):
            return self.buffer.bad(NOT_A_TIME, payload)
        if part.bare:  # options say later what it means
            part.expires_at = number
            buffer.write_number(0)
            buffer.skip(end)
            return WHOLE
        # 0 would mean "no expiry" to RESTORE, and is refused by the others
        at = max(number * part.unit + (part.now_ms if part.relative else 0), 1)
        if part.kind == SET:
            part.unit = 0
        if part.kind < HEXPIRE or part.kind > HPEXPIRE:
            at = self.postpone(at)
        if part.kind >= RESTORE and (number <= 0 or not (part.relative or self.postponed)):
            self.postponed = 0
            keep(buffer, end)
        elif part.late:
            part.expires_at = at
            if part.relative:
                keep(buffer, end)
            else:
                buffer.write_number(max(at - part.now_ms, 1))
                buffer.skip(end)
        elif part.kind == SETEX or part.kind == PSETEX:
            part.expires_at = at  # SET wants it behind the value
            buffer.skip(end)
        else:
            buffer.write_number(at)
            buffer.skip(end)
        return WHOLE

    cdef int64_t postpone_from(self, int64_t at, int64_t now_ms) noexcept:
        """The same for a command that was received at *now_ms* and is not the part."""
        self.part.now_ms = now_ms
        return self.postpone(at)

    cdef int64_t postpone(self, int64_t at) noexcept:
        """When an expiry at unix ms *at* is to take place on the target."""
        if at >= self.horizon_ms:
            return at
        self.postponed += 1
        self.overdue |= at <= self.part.now_ms
        return at + self.shift_ms

    cdef int _keep_key(self, Py_ssize_t payload, Py_ssize_t size) except -1:
        cdef Py_ssize_t wanted = max(size, 256)
        cdef uint8_t* grown
        if size > self.key_capacity or self.key == NULL:
            grown = <uint8_t*> PyMem_Realloc(self.key, wanted)
            if grown == NULL:
                raise MemoryError
            self.key = grown
            self.key_capacity = wanted
        memcpy(self.key, self.buffer.window + payload, size)
        self.key_size = size
        return 0

    cdef int _finish(self) except -1:
        """Ends the command with what is said behind it, and counts its replies."""
        cdef PieceBuffer buffer = self.buffer
        cdef Part* part = &self.part
        cdef bint passes = self.passes()
        cdef bint adds_absttl = part.kind >= RESTORE and part.relative and not part.late
        cdef bint bare = part.bare
        cdef bint replaces = bare or part.kind == RESTORE_ASKING
        cdef bint adds_mkstream = part.kind == XGROUP and part.argc == 8  # it may stand on either side of ENTRIESREAD
        if part.kind == SCATTERED:
            passes = False  # its commands are counted
        part.kind = -1
        if not passes:
            return WHOLE
        count_reply(buffer, part.offset)
        if adds_mkstream:
            buffer.write_word("MKSTREAM")
        if replaces:
            buffer.write_word("REPLACE")  # if there was a condition, it was met
        if bare:
            if part.expires_at > 0:
                part.expires_at = self.postpone(max(part.expires_at + (part.now_ms if part.relative else 0), 1))
        if part.expires_at <= 0:
            if adds_absttl:
                buffer.write_word("ABSTTL")
        elif not part.late:
            buffer.write_word("PXAT")
            buffer.write_number(part.expires_at)
        elif self.key_size < 0:
            self.relative_kept += 1
        else:
            buffer.write_head(3, "PEXPIREAT")
            buffer.write_argument(self.key, self.key_size)
            buffer.write_number(part.expires_at)
            count_reply(buffer, part.offset)
        return WHOLE
