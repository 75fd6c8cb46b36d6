# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The rewriter: commands in the form that the target knows, by the table in ``forms.pyx``.

What decides stands at the beginning of a command nearly everywhere: it is written anew, and the rest goes on as it came. So
a command larger than a piece is rewritten as a small one is. Those that end in what decides (SET, MSETEX), and those that
become several commands for each element, are rewritten when they are whole, or handed to a script that reads their end.

What cannot be rewritten goes on as it came: the target refuses it then, and it is a dead letter.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t

from portd.kernel.forms cimport (
    FIELD_EXPIRY, F_COPY, F_DELETE, F_FIELD_EXPIRY, F_FIELDS_LAST, F_FLUSHALL, F_FLUSHDB, F_HGETDEL, F_HSETEX, F_LMOVE, F_LPOP, F_MSETEX,
    F_RESTORE, F_RESTORE_ASKING, F_RPOP, F_SET, F_ZADD, HSETEX, MSETEX, SET_GET, SET_IFEQ, SET_IFNE, SET_KEEPTTL, Forms,
)
from portd.kernel.formscripts cimport COPYING, FIELDS, MANY_SETS, MOVING, SET_KEEPING
from portd.kernel.formwriter cimport Argument
from portd.kernel.orderedforms cimport OrderedForms
from portd.kernel.payload cimport AS_IT_CAME, OTHER_FORM, fate_of, other_form


cdef enum:
    FRONT = 24  # arguments at the beginning that can decide; what stands behind is data


cdef inline bint takes_all(int kind) noexcept:
    """Whether the end of a command decides about its form."""
    return kind == F_SET or kind == F_MSETEX or kind == F_HSETEX


@cython.final
cdef class Rewriter(OrderedForms):
    cdef int64_t write(self, int kind, const uint8_t* header, int64_t argc, int64_t known, bint large) except -1:
        """Writes the beginning of a command in another form, if it needs one.

        Args:
            kind: of the command.
            header: where its first argument begins.
            argc: its arguments, the name included.
            known: as many of them are in the window.
            large: it is larger than a piece; otherwise all are known.

        Returns:
            How many arguments are done, the name included: the rest goes on as it came. 0: so does all of it, unless
            ``drops`` says that it is to be left out. ``begun`` commands are written then, the last perhaps not to its end.
        """
        self.begun = self.lost = self.unrecorded = 0
        self.header = header
        self.editor.postponed = 0
        self.editor.overdue = False
        self.drops = False
        self.fate = AS_IT_CAME
        self.large = large
        self.now_ms = self.buffer.received_at(self.buffer.cut.head)
        self._parse(header, argc, known if takes_all(kind) else min(known, <int64_t> FRONT))
        return self._write(kind) if kind < F_ZADD else self._write_ordered(kind)

    cdef int64_t _write(self, int kind) except -1:
        if kind == F_SET:
            return self._set()
        if kind == F_MSETEX:
            return self._msetex()
        if kind == F_LPOP or kind == F_RPOP:
            return self._pop(kind == F_LPOP)
        if kind == F_RESTORE or kind == F_RESTORE_ASKING:
            return self._restore()
        if kind == F_LMOVE:
            return self._lmove()
        if kind == F_HSETEX:
            return self._hsetex()
        if kind == F_FIELD_EXPIRY:
            return self._field_expiry()
        if kind == F_FIELDS_LAST:
            return self._hpexpireat()
        if kind == F_COPY:
            return self._script(COPYING, 2, 1)
        if kind == F_FLUSHALL or kind == F_FLUSHDB:
            if self.argc != 2 or not self._is(1, "SYNC"):
                return 0
            self._begin(1, "FLUSHALL" if kind == F_FLUSHALL else "FLUSHDB")
            return 2
        if kind == F_DELETE:
            if self.large or self.argc < 2:
                return 0
            self._begin(2, "UNLINK" if self.unlink else "DEL")
            self._copy(1)
            return self.argc
        if kind == F_HGETDEL:
            if self.argc < 5 or self.known < 4 or not self._is(2, "FIELDS"):
                return 0
            self._begin(self.argc - 2, "HDEL")
            self._copy(1)
            return 4
        return 0

    # --------------------------------------------------------------------------------------------------------- strings

    cdef int64_t _set(self) except -1:
        """SET without what the target does not know; conditions were met."""
        cdef Forms forms = self.forms
        cdef bint lacks = False
        cdef int64_t i = 3
        self.expiry.at = -1
        self.expiry.keeps = False
        if self.argc < 4:
            return 0
        if self.large:  # its options are not here: one is no expiry
            return self._script(SET_KEEPING, 1, 1) if self.argc == 4 else 0
        while i < self.argc:
            if self._reads_expiry(i):
                i += 1
            elif self._is(i, "KEEPTTL"):
                self.expiry.keeps = True
                lacks |= forms.lacks[SET_KEEPTTL]
            elif self._is(i, "GET"):
                lacks |= forms.lacks[SET_GET]
            elif self._is(i, "IFEQ"):
                lacks |= forms.lacks[SET_IFEQ]
                i += 1
            elif self._is(i, "IFNE") or self._is(i, "IFDEQ") or self._is(i, "IFDNE"):
                lacks |= forms.lacks[SET_IFNE]
                i += 1
            elif not self._is(i, "NX") and not self._is(i, "XX"):
                return 0
            i += 1
        if not lacks or i > self.argc:
            return 0
        if self.expiry.keeps and forms.lacks[SET_KEEPTTL]:
            return self._script(SET_KEEPING, 1, 1)
        if self.expiry.at >= 0:
            self.expiry.at = self.editor.postpone_from(self.expiry.at, self.now_ms)
        self._begin(3 + self.expiry.keeps + 2 * (self.expiry.at >= 0), "SET")
        self._copy_all(1, 3)
        if self.expiry.keeps:
            self.buffer.write_word("KEEPTTL")
        if self.expiry.at < 0:
            return self.argc
        self.buffer.write_word("PXAT" if self.pxat else "PX")
        self.buffer.write_number(self.expiry.at if self.pxat else max(self.expiry.at - self.now_ms, 1))
        if not self.pxat:
            self._expire(1, self.expiry.at)
        return self.argc

    cdef int64_t _msetex(self) except -1:
        """MSETEX, which may also have to be sent with another time."""
        cdef bint lacks = self.forms.lacks[MSETEX]
        cdef int64_t pairs = 0
        cdef int64_t i
        self.expiry.at = -1
        self.expiry.keeps = False
        if not self._number(1, &pairs) or pairs < 1 or pairs > (self.argc - 2) // 2:
            return 0
        if self.large:
            return self._script(MANY_SETS, 0, 1) if lacks else 0
        i = 2 + 2 * pairs
        while i < self.argc:
            if self._reads_expiry(i):
                i += 1
            elif self._is(i, "KEEPTTL"):
                self.expiry.keeps = True
            i += 1
        if self.expiry.at >= 0 and (lacks or self.expiry.relative or self.expiry.at < self.editor.horizon_ms):
            self.expiry.at = self.editor.postpone_from(self.expiry.at, self.now_ms)
            self.editor.postponed *= pairs
        elif not lacks:
            return 0
        if lacks:
            return self._msetex_as_sets(pairs)
        self._begin(4 + 2 * pairs, "MSETEX")
        self._copy_all(1, 2 + 2 * pairs)
        self.buffer.write_word("PXAT")
        self.buffer.write_number(self.expiry.at)
        return self.argc

    cdef int64_t _msetex_as_sets(self, int64_t pairs) except -1:
        cdef int64_t i
        if self.expiry.keeps and self.forms.lacks[SET_KEEPTTL]:
            return self._script(MANY_SETS, 0, 1)
        if self.expiry.keeps:
            for i in range(2, 2 + 2 * pairs, 2):
                self._begin(4, "SET")
                self._copy_all(i, i + 2)
                self.buffer.write_word("KEEPTTL")
            return self.argc
        self._begin(1 + 2 * pairs, "MSET")
        self._copy_all(2, 2 + 2 * pairs)
        if self.expiry.at >= 0:
            for i in range(2, 2 + 2 * pairs, 2):
                self._expire(i, self.expiry.at)
        return self.argc

    cdef int64_t _restore(self) except -1:
        """RESTORE of a value in an encoding that the target does not know, as commands that make it; a condition was met."""
        cdef Argument* payload = &self.arguments[3]
        cdef int64_t ttl = 0
        cdef int64_t i
        cdef bint absolute = False
        if self.large or self.argc < 4 or not self._number(2, &ttl):
            return 0
        self.fate = fate_of(self.dialect, payload.text, payload.size, False)
        if self.fate != OTHER_FORM:
            return 0
        made = other_form(
            self.dialect, self.arguments[1].text[:self.arguments[1].size], payload.text[:payload.size]
        )
        if made is None:
            return 0
        for i in range(4, self.known):
            absolute |= self._is(i, "ABSTTL")
        self.buffer.skip(self.buffer.cut.head)
        self.buffer.append(<const char*> <bytes> made[0], len(made[0]))
        self.begun = made[1]
        self.lost = made[2]
        self.unrecorded = made[3]
        if ttl > 0:
            self._expire(1, self.editor.postpone_from(ttl if absolute else ttl + self.now_ms, self.now_ms))
        return self.argc

    # ----------------------------------------------------------------------------------------------------------- lists

    cdef int64_t _pop(self, bint left) except -1:
        """LPOP or RPOP with a count, as what is left."""
        cdef int64_t count = 0
        if self.argc != 3 or not self._number(2, &count) or count < 0:
            return 0
        self._begin(4, "LTRIM")
        self._copy(1)
        if left:
            self.buffer.write_number(count)
            self.buffer.write_word("-1")
        else:
            self.buffer.write_word("0")
            self.buffer.write_negative(count + 1)
        return 3

    cdef int64_t _lmove(self) except -1:
        if self.argc != 5:
            return 0
        if not self.large and self._is(3, "RIGHT") and self._is(4, "LEFT"):
            self._begin(3, "RPOPLPUSH")
            self._copy_all(1, 3)
            return 5
        return self._script(MOVING, 2, 1)

    # ---------------------------------------------------------------------------------------------------------- hashes

    cdef int64_t _hsetex(self) except -1:
        """HSETEX as HSET, and what is to be said of expiry times; or with its options in front of the fields."""
        cdef bint expires = self.forms.lacks[FIELD_EXPIRY]
        cdef int64_t fields = 0
        cdef int64_t i = 2
        cdef int64_t at, end
        self.expiry.at = -1
        self.expiry.keeps = False
        while i < self.known and not self._is(i, "FIELDS"):
            i = self._field_option(i)
        if not self._number(i + 1, &fields) or fields < 1 or fields > (self.argc - i - 2) // 2:
            return 0
        end = i + 2 + 2 * fields
        if end < self.argc and self.large:
            return 0
        # Valkey takes the name of a key for the option.
        if not self.forms.lacks[HSETEX] and not (self.dialect is not None and self.dialect.valkey and self._is(1, "FIELDS")):
            return self._fields_last("HSETEX", i, end)
        at = end
        while at < self.argc:
            at = self._field_option(at)
        if not expires and (self.expiry.keeps or (self.expiry.at >= 0 and self.large)):
            if end == self.argc:
                return self._script(FIELDS, 1, 1)
            return self._script(FIELDS, 1, 1) and self._copy_fields_last(1, i, end)
        self._begin(2 + 2 * fields, "HSET")
        self._copy(1)
        if self.expiry.at < 0 or expires:
            self.lost += fields if self.expiry.at >= 0 else 0
            if end == self.argc:
                return i + 2
            self._copy_all(i + 2, end)
            return self.argc
        self._copy_all(i + 2, end)
        self._begin(5 + fields, "HPEXPIREAT")
        self._copy(1)
        self.buffer.write_number(self.expiry.at)
        self.buffer.write_word("FIELDS")
        self.buffer.write_number(fields)
        for i in range(i + 2, end, 2):
            self._copy(i)
        return self.argc

    cdef int64_t _field_option(self, int64_t i) noexcept:
        """Reads the option of HSETEX at *i*; where the next one is."""
        if self._reads_expiry(i):
            return i + 2
        self.expiry.keeps |= self._is(i, "KEEPTTL")
        return i + 1

    cdef int64_t _fields_last(self, const char* name, int64_t i, int64_t end) except -1:
        """The command with its options in front of the fields, which are from *i* to *end*; 0 where they are already."""
        if end >= self.argc:
            return 0
        self._begin(self.argc, name)
        return self._copy_fields_last(1, i, end)

    cdef int64_t _copy_fields_last(self, int64_t first, int64_t i, int64_t end) except -1:
        self._copy_all(first, i)
        self._copy_all(end, self.argc)
        self._copy_all(i, end)
        return self.argc

    cdef int64_t _hpexpireat(self) except -1:
        """HPEXPIREAT with its condition in front of the fields."""
        cdef int64_t fields = 0
        cdef int64_t i = 3 if self._is(3, "FIELDS") else 4
        if self.large or not self._is(i, "FIELDS") or not self._number(i + 1, &fields) or fields < 1 or fields >= self.argc - i - 2:
            return 0
        self._parse(self.header, self.argc, self.argc)
        return self._fields_last("HPEXPIREAT", i, i + 2 + fields)

    cdef int64_t _field_expiry(self) except -1:
        """Expiry times of fields on a target without them: fields live for ever there. HPERSIST takes nothing away."""
        cdef int64_t fields = 0
        cdef int64_t i
        self.drops = True
        for i in range(3, min(self.known, 6)):
            if self._is(i, "FIELDS") and self._number(i + 1, &fields):
                self.lost = max(fields, 0)
        return 0
