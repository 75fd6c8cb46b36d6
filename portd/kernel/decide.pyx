# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""What becomes of the command at the head of the window: its kind, by its name first, then by its arguments.

Only what writes goes on, as ``commandtable`` says. What cannot be written to the target, such as a command in a database
that it lacks, is refused: left out and named. So is what names keys that are ours alone, whatever else it names; where
all its keys are ours it is filtered, and ``DEL`` and ``MSET`` lose those. What is left of all that may be given another form.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport INT32_MAX, int64_t, uint8_t
from libc.string cimport memcmp

from portd.kernel.arguments cimport expires_before, restores_before, restores_relative, sets_expiry, tells_entries_read
from portd.kernel.commandtable cimport Row, look_up
from portd.kernel.edit cimport (
    BLOCKING, BY_COPY, BY_DATABASE, BY_KEY, BY_NAME, CLEARS, DEL, DISCARD, DROP, EVAL, EXCLUDED, EXEC, EXPIRE, EXPIREAT, FILTERED, FLUSHES,
    FORWARD, FUNCTION, FUNCTION_RESTORE, GETEX, HALVED, HEXPIRE, HPEXPIRE, MOVES, MULTI, OWN, PEXPIRE, PEXPIREAT, PSETEX,
    PUBLISH, REFUSED, REPLCONF, RESTORE, RESTORE_ASKING, SCATTERED, SCRIPT, SELECT, SET, SETEX, SPARED, SPLIT, STRANGE, SWAPDB, TELLS, TRIMS, XGROUP,
)
from portd.kernel.forms cimport F_COPY, F_FLUSHALL, F_FLUSHDB, F_MSETEX, F_RESTORE_ASKING, FORM, FUNCTIONS, MSETEX
from portd.kernel.keypositions cimport O_ALL, O_NONE, Found, Layout, first_key, owned
from portd.kernel.keyspecs cimport K_DATABASE, K_NONE
from portd.kernel.piecebuffer cimport FULL, LATE_DISCARD, MORE, NO_DATABASE, NOT_A_DATABASE, SELECT_EXCLUDED, SWAP_RULED, PieceBuffer
from portd.kernel.project cimport (
    P_ALL, P_BLOCKED, P_BY_DATABASE, P_BY_KEY, P_CROSSES, P_HALF, P_KEYS, P_MORE, P_OURS, P_PARTS, P_UNKNOWN, Command, Projector,
)
from portd.kernel.resp cimport NEVER_MS, argument_behind, is_word, read_number
from portd.kernel.scan cimport CommandScanner

from portd.kernel.slots import SLOTS


cdef extern from "string.h" nogil:
    void* memmem(const void* haystack, size_t size, const void* needle, size_t length)


REASONS = (
    ("unsupported", "database: the target does not have it"),
    ("unsupported", "command: it names keys of portd among others"),
    ("unsupported", "command: it waits for data, and no server replicates it"),
    ("unsupported", "command: it is not known, and the target does not tell what its commands do"),
    ("cross_rule", "command: rules take some of its keys only, and it needs what is not in the target"),
    ("cross_rule", "command: it is not known what its keys are, so rules cannot be applied to them"),
    ("not_copied", "command: it makes one key more to be copied from the source than may wait for that"),
    ("cross_rule", "database: map_db puts another one there"),
    ("cross_slot", "command: its keys are in several slots, and it is too large for its keys to be copied instead"),
)
cdef frozenset OVER = frozenset((b"completed", b"failed", b"canceled"))  # states of a move
cdef const char* HELLO = "__sentinel__:hello"


cdef bint add_range(list slots, int64_t first, int64_t last) except -1:
    """Adds a range; False where it is none, or there would be more slots than a cluster has."""
    if not 0 <= first <= last < SLOTS or len(slots) + last - first >= SLOTS:
        return False
    slots.extend(range(first, last + 1))
    return True


cdef class Decider(CommandScanner):
    """What is known of the target and of the stream before the head; base of the splitter."""

    cdef int _kind_at_head(self, bint large) noexcept:
        """The kind as which the scanned command is passed on, or ``-BAD``, or ``-MORE`` when it is large."""
        cdef PieceBuffer buffer = self.buffer
        cdef const uint8_t* name = buffer.window + buffer.cut.head + self.scan.name
        cdef const Row* row = look_up(&self.table.names, name, self.scan.name_size)
        cdef int kind = row.kind
        if kind != FORWARD:
            kind = self._decide(kind, large)
            if kind in (MULTI, EXEC, DISCARD) or kind < 0:
                return kind
        if self.excluded.count > 0 and self.excluded.has(buffer.base + buffer.cut.head + 1):
            return -self._bad_command(SELECT_EXCLUDED) if kind == SELECT else EXCLUDED
        if DROP <= kind <= REFUSED or kind == SELECT or kind == SCRIPT:
            return kind
        if self.tally.db < 0 and row.kind != TRIMS:
            return -self._bad_command(NO_DATABASE)
        if row.keys <= K_NONE:
            return kind
        if self.tally.care or (self.parted and (self.owed.count > 0 or not self._layout(row).single)):
            return self._decide_by_rules(kind, row, large)
        if large and self.mixed.count > 0 and self.mixed.has(buffer.base + buffer.cut.head + 1):
            return self._refuse(NAMES_OURS)
        if self.ours.size and self._may_name_ours(buffer.tail if large else buffer.cut.head + self.scan.next):
            return self._decide_ours(kind, self._layout(row), large)
        return kind

    cdef int _refuse(self, Reason reason) noexcept:
        self.reason = reason
        return REFUSED

    cdef bint _lacks(self, int64_t db) noexcept:
        """The target does not have what this database is written to, as far as is known."""
        if self.projector is not None:
            db = self.projector.database(db)
        return 0 < self.databases <= db or (len(self.lacking) > 0 and db in self.lacking)

    cdef int _care(self, int64_t db) noexcept:
        """What must be looked at in a database."""
        cdef int care = C_LACKS if self._lacks(db) else 0
        if self.ruled:
            care |= C_RULES
            if db in self.projector.blocked and self.projector.takes_database(db):
                care |= C_BLOCKED
        return care

    cdef int _decide_by_rules(self, int kind, const Row* row, bint large) noexcept:
        """What becomes of a command where its name does not tell; see ``_kind_at_head``."""
        cdef Projector projector = self.projector
        cdef PieceBuffer buffer = self.buffer
        cdef const Layout* layout = self._layout(row)
        cdef bint moves = kind == MOVES or kind == F_COPY or row.kind == MOVES
        cdef bint some = False  # some of its keys are ours
        cdef Command command
        cdef Found found
        cdef int fate
        if projector is None:
            return self._refuse(LACKS)
        if self.owed.count > 0:
            if self._is_due():
                return -FULL
            projector.db = self.tally.db
            self.owed.look(buffer.base + buffer.cut.head + 1)
            if row.keys == K_DATABASE:
                self.owed.touch_all()
        if projector.border is not None:
            projector.border.look(buffer.base + buffer.cut.head + 1, row.kind == RESTORE_ASKING or row.kind == F_RESTORE_ASKING)
        if kind == CLEARS:
            return kind
        if not projector.takes_database(self.tally.db):
            if not moves:
                return BY_DATABASE
        elif self.tally.care & ~C_RULES:
            return self._refuse(LACKS if self.tally.care & C_LACKS else BLOCKED)
        if large and self.mixed.count > 0 and self.mixed.has(buffer.base + buffer.cut.head + 1):
            return self._refuse(self._crosses() if projector.by_names or self.owed.count > 0 else NAMES_OURS)
        if self.ours.size and self._may_name_ours(buffer.tail if large else buffer.cut.head + self.scan.next):
            fate = owned(self._arguments(), buffer.window + buffer.tail, layout, self.scan.argc, &self.ours)
            if fate == O_ALL and (not large or layout.single):
                return OWN
            some = fate != O_NONE
        if row.keys == K_DATABASE:
            return kind
        if not (projector.by_names or projector.renames or moves or some or self.owed.count > 0 or (self.parted and not large)):
            return kind
        self._describe(&command)
        if large:
            fate = projector.fate_of_large(&command, layout, &self.editor.found, &self.judging)
        else:
            fate = projector.fate(&command, layout, &found)
        if self.owed.waits:
            self.owed.undo()
            return -FULL
        if projector.border is not None and projector.border.waits:
            return -FULL
        if fate == P_UNKNOWN and moves:  # it may be from, or to, a database that is not taken
            return self._refuse(KEYS_UNKNOWN)
        if fate == P_CROSSES or fate == P_PARTS or fate == P_KEYS and kind == F_MSETEX and self.table.forms.lacks[MSETEX]:
            return self._decide_crossing(fate, &command, &found, large)
        return self._decide_by_fate(kind, fate, large)

    cdef bint _is_due(self) noexcept:
        """Whether an owed key must be settled before anything else."""
        return not self.tally.in_transaction and self.owed.due_at <= self.buffer.base + self.buffer.cut.head

    cdef Reason _crosses(self) noexcept:
        """Why a command is refused that nobody can do in the target."""
        return CROSSES if self.ruled else PARTED

    cdef int _decide_crossing(self, int fate, const Command* command, const Found* found, bint large) noexcept:
        """The kind of a command that needs what is not in the target, or not in its slot."""
        cdef Projector projector = self.projector
        if fate == P_PARTS and is_word(command.name, command.size, "SMOVE"):
            return SPLIT
        if not self.may_owe or large:
            return self._refuse(self._crosses())
        if self.owed.count == 0:
            projector.db = self.tally.db
            self.owed.look(self.buffer.base + self.buffer.cut.head + 1)
        if fate == P_PARTS:
            return HALVED if projector.owe_second(command) else self._refuse(OWED_TOO_MANY)
        return BY_COPY if projector.owe(command, found) else self._refuse(OWED_TOO_MANY)

    cdef const uint8_t* _key_of_letter(self, bint large, int64_t* db, Py_ssize_t* size) noexcept:
        """The key that a dead letter for the command at the head names, and its database: the one that differs, or the first."""
        cdef const Row* row = self._row_at_head()
        cdef const uint8_t* key = NULL
        cdef Command command
        if self.reason in (CROSSES, OWED_TOO_MANY, PARTED) and row.keys > K_NONE and row.keys != K_DATABASE and not large:
            self._describe(&command)
            key = self.projector.lost(&command, self._layout(row), db, size)
        if key == NULL:
            key = first_key(self._arguments(), self.buffer.window + self.buffer.tail, self._layout(row), self.scan.argc, size)
        return key

    cdef void _describe(self, Command* command) noexcept:
        """The command at the head, for the projector."""
        command.name = self.buffer.window + self.buffer.cut.head + self.scan.name
        command.size = self.scan.name_size
        command.header = self._arguments()
        command.end = self.buffer.window + self.buffer.tail
        command.argc = self.scan.argc
        command.most = self.buffer.piece_bytes
        command.db = self.tally.db

    cdef int _decide_by_fate(self, int kind, int fate, bint large) noexcept:
        """The kind of a command by what rules say of its keys."""
        if fate == P_ALL:
            return kind
        if fate == P_BY_KEY:
            return BY_COPY if self.owed.count > 0 and self.owed.met else BY_KEY
        if fate == P_BY_DATABASE:
            return BY_DATABASE
        if fate == P_KEYS:
            return SCATTERED if large else SPARED
        if fate == P_HALF:
            return HALVED
        if fate == P_MORE:
            return -MORE
        if fate == P_OURS:
            return self._refuse(NAMES_OURS)
        if fate == P_BLOCKED:
            return self._refuse(BLOCKED)
        if self.parted and large and self.owed.count > 0:  # it may read one of them
            return self._refuse(self._crosses())
        return self._refuse(KEYS_UNKNOWN) if self.projector.by_names or self.projector.renames else kind

    cdef int _decide_flush(self, int kind) noexcept:
        """What a FLUSHDB or FLUSHALL becomes that would go on as *kind*."""
        cdef Projector projector = self.projector
        cdef bint every = self.scan.name_size == 8
        cdef bint names
        if projector is not None:
            names = projector.by_names or projector.renames
            if not every:
                if not projector.takes_database(self.tally.db):
                    return BY_DATABASE
                if self.tally.care & (C_LACKS | C_BLOCKED):
                    return self._refuse(LACKS if self.tally.care & C_LACKS else BLOCKED)
                if not projector.alone(self.tally.db):
                    return self._refuse(CROSSES)
            if names or every and projector.by_databases:
                if self.tally.in_transaction:
                    return self._refuse(CROSSES)
                if projector.border is not None:
                    projector.border.look(self.buffer.base + self.buffer.cut.head + 1, False)
                    if projector.border.meet_all():
                        return -FULL
                self.clears = -1 if every else self.tally.db
                self.trims = None
                return CLEARS
        self.tally.swaps = True
        return kind

    cdef int _decide_slots(self, int kind, bint large) noexcept:
        """What becomes of word of slots that move in one step, see ``border.pyx``, and of a slot that is emptied."""
        cdef Projector projector = self.projector
        cdef bint flushes = kind == TELLS and not large and self._flushes_slot()
        if not flushes and (projector is None or projector.border is None):
            return FILTERED
        if large or kind == TRIMS and self.tally.in_transaction:
            return FILTERED if kind == TELLS else self._refuse(CROSSES)
        if flushes and self.tally.in_transaction:
            return self._refuse(CROSSES)
        if self._is_due():
            return -FULL
        if projector is not None and projector.border is not None:
            projector.border.look(self.buffer.base + self.buffer.cut.head + 1, False)
        try:
            if flushes:
                return self._flush_slot()
            return self._trim() if kind == TRIMS else self._hear()
        except Exception as error:  # nobody on the way up can raise it: the splitter does, before it hands anything out
            if projector is None:
                return self._refuse(CROSSES)
            projector.error = error
            return FILTERED

    cdef int _trim(self) except -100:
        """TRIMSLOTS: the link's keys of these slots go. What was left out of a slot before it came stays so."""
        cdef Projector projector = self.projector
        cdef list gone = projector.border.end([slot for slot in self._slots_named() if projector.rules.slots[slot]])
        if projector.border.waits:
            return -FULL
        return self._empty(frozenset(gone)) if gone else FILTERED

    cdef bint _flushes_slot(self) noexcept:
        """Whether it is ``CLUSTER FLUSHSLOT slot [SYNC | ASYNC]``, which Valkey sends as it came (cluster.c:clusterCommandFlushslot)."""
        cdef const uint8_t* text
        cdef Py_ssize_t size = 0
        if self.scan.argc < 3:
            return False
        text = argument_behind(self._arguments(), &size)
        return is_word(text, size, "FLUSHSLOT")

    cdef int _flush_slot(self) except -100:
        """The keys of a slot that the link takes go."""
        cdef Projector projector = self.projector
        cdef const uint8_t* text
        cdef Py_ssize_t size = 0
        cdef int64_t slot = 0
        cdef bint taken = True
        text = argument_behind(self._arguments(), &size)
        text = argument_behind(text + size + 2, &size)
        if not read_number(text, size, INT32_MAX, &slot) or not 0 <= slot < SLOTS:
            return FILTERED
        if projector is not None:
            taken = projector.rules is None or projector.rules.slots is None or projector.rules.slots[slot] != 0
            if projector.border is not None:
                taken = projector.border.meet_flush(slot, taken)
                if projector.border.waits:
                    return -FULL
        return self._empty(frozenset((slot,))) if taken else FILTERED

    cdef int _empty(self, frozenset slots) except -100:
        """The link's keys of these slots go."""
        if self.owed.count > 0:
            self.owed.look(self.buffer.base + self.buffer.cut.head + 1)
            self.owed.touch_all()
        self.clears = -1
        self.trims = slots
        return CLEARS

    cdef list _slots_named(self):
        """Slots of ``TRIMSLOTS RANGES count first last ...``."""
        cdef const uint8_t* header = self._arguments()
        cdef const uint8_t* text
        cdef Py_ssize_t size = 0
        cdef int64_t index, number
        cdef int64_t first = 0
        cdef list slots = []
        for index in range(1, self.scan.argc):
            text = argument_behind(header, &size)
            header = text + size + 2
            if index < 3:
                continue
            if not read_number(text, size, INT32_MAX, &number):
                return []
            if index % 2:
                first = number
            elif not add_range(slots, first, number):
                return []
        return slots

    cdef int _hear(self) except -100:
        """``CLUSTER SYNCSLOTS CONF ASM-TASK id:from:to:import:state:ranges``: slots begin to come in one step, or have come."""
        cdef const uint8_t* header = self._arguments()
        cdef const uint8_t* text
        cdef Py_ssize_t size = 0
        cdef int64_t index, first, last
        cdef bytes begin, end
        cdef list words = []
        cdef list slots = []
        if self.scan.argc != 5:
            return FILTERED
        for index in range(4):
            text = argument_behind(header, &size)
            header = text + size + 2
            words.append(PyBytes_FromStringAndSize(<const char*> text, size))
        if words[2].upper() != b"ASM-TASK":
            return FILTERED
        told = words[3].split(b":")
        if len(told) < 6 or told[3] != b"import" or told[4] in OVER:
            return FILTERED
        for each in told[5].split():
            begin, _, end = each.partition(b"-")
            end = end or begin
            if not (
                read_number(<const uint8_t*> <const char*> begin, len(begin), INT32_MAX, &first)
                and read_number(<const uint8_t*> <const char*> end, len(end), INT32_MAX, &last)
                and add_range(slots, first, last)
            ):
                return FILTERED
        return -FULL if self.projector.border.begin(slots) else FILTERED

    cdef bint _may_name_ours(self, Py_ssize_t end) noexcept:
        """Whether the prefix of our names stands in the window between the head and *end*. Each byte is searched once."""
        cdef PieceBuffer buffer = self.buffer
        cdef int64_t begin
        cdef const uint8_t* found
        if self.ours_at < buffer.base + buffer.cut.head:
            self.ours_at = buffer.base + buffer.cut.head
            self.ours_found = False
        while self.ours_at + self.ours.size <= buffer.base + end:
            if self.ours_found:
                return True
            begin = self.ours_at - buffer.base
            found = <const uint8_t*> memmem(
                buffer.window + begin, buffer.tail - begin, self.ours.prefix, self.ours.size
            )
            self.ours_found = found != NULL
            self.ours_at = buffer.base + (found - buffer.window if found != NULL else buffer.tail - self.ours.size + 1)
        return False

    cdef int _decide_ours(self, int kind, const Layout* layout, bint large) noexcept:
        """What becomes of a command in which our prefix stands; see ``_kind_at_head``."""
        cdef const uint8_t* name = self.buffer.window + self.buffer.cut.head + self.scan.name
        cdef const uint8_t* end = self.buffer.window + self.buffer.tail
        cdef int found = owned(self._arguments(), end, layout, self.scan.argc, &self.ours)
        if found == O_NONE:
            return kind
        if found == O_ALL and (not large or layout.single):
            return OWN
        if large:
            return self._refuse(NAMES_OURS)
        if layout.pairs or is_word(name, self.scan.name_size, "DEL") or is_word(name, self.scan.name_size, "UNLINK"):
            return SPARED
        return self._refuse(NAMES_OURS)

    cdef int _decide(self, int kind, bint large) noexcept:
        """What a command from the table becomes; see ``_kind_at_head``."""
        cdef int64_t argc = self.scan.argc
        cdef bint edited
        if kind >= FORM:
            self.tally.moves |= kind == F_COPY
            return self._decide_flush(kind) if kind == F_FLUSHALL or kind == F_FLUSHDB else kind
        if kind == DEL:
            return DEL if self.unlink else FORWARD
        if kind == TRIMS or kind == TELLS:
            return self._decide_slots(kind, large)
        if DROP <= kind <= BY_COPY or EVAL <= kind <= SCRIPT:
            return kind
        if kind == BLOCKING or kind == STRANGE:
            return self._refuse(WAITS if kind == BLOCKING else UNKNOWN)
        if kind in (MULTI, EXEC, DISCARD):
            if argc != 1 or large or (kind == MULTI) == self.tally.in_transaction:
                return FILTERED  # replicas pass it over, too
            if kind == MULTI and self._is_due():
                return -FULL
            return kind if kind != DISCARD or self.marked else -self._bad_command(LATE_DISCARD)
        if kind in (SELECT, REPLCONF, PUBLISH, FUNCTION):
            return self._decide_by_first(kind, large)
        if kind == SWAPDB:
            return self._decide_swap(large)
        if kind == MOVES:
            self.tally.moves = True
            return FORWARD
        if kind == FLUSHES:
            return self._decide_flush(FORWARD)
        if kind == SET:
            return SET if argc > 3 and (large or self._sets_expiry()) else FORWARD
        if kind == EXPIREAT or kind == PEXPIREAT:
            if argc > 3 and not large and not self.editor.conditions:
                return kind
            if not self.postpones or argc < 3 or large:
                return FORWARD
            edited = argc > 3 or expires_before(self._arguments(), self.editor.horizon_ms, 1000 if kind == EXPIREAT else 1)
            return kind if edited else FORWARD
        if kind in (SETEX, PSETEX, GETEX):
            return kind if argc == 4 else FORWARD
        if kind in (EXPIRE, PEXPIRE, HEXPIRE, HPEXPIRE):
            return kind if argc >= 3 else FORWARD
        if kind == XGROUP:
            if self.entries_read or not 7 <= argc <= 8:
                return FORWARD
            return XGROUP if large or tells_entries_read(self._arguments(), argc) else FORWARD
        if kind == RESTORE or kind == RESTORE_ASKING:
            if argc < 4:
                return FORWARD
            if kind != RESTORE or large or self.editor.dialect is not None and not self.editor.dialect.absttl:
                return kind
            if restores_relative(self._arguments(), argc):
                return kind
            return kind if self.postpones and restores_before(self._arguments(), self.editor.horizon_ms) else FORWARD
        return kind

    cdef int _decide_swap(self, bint large) noexcept:
        """The same for SWAPDB. One that is malformed goes on: the target refuses it."""
        cdef const uint8_t* text
        cdef Py_ssize_t size = 0
        self.selected = self.swapped = -1
        if large or self.scan.argc != 3:
            return SWAPDB
        text = argument_behind(self._arguments(), &size)
        if not read_number(text, size, NEVER_MS, &self.selected):
            self.selected = -1
        text = argument_behind(text + size + 2, &size)
        if not read_number(text, size, NEVER_MS, &self.swapped):
            self.selected = -1
        if self.selected >= 0 and self.projector is not None:
            return self._decide_ruled_swap()
        if self.selected >= 0 and (self._lacks(self.selected) or self._lacks(self.swapped)):
            return self._refuse(LACKS)
        return SWAPDB

    cdef int _decide_ruled_swap(self) noexcept:
        """The same under rules: it goes on where what is swapped is what it would be without them."""
        cdef Projector projector = self.projector
        cdef int care = self._care(self.selected) | self._care(self.swapped)
        cdef bint one = projector.takes_database(self.selected)
        cdef bint other = projector.takes_database(self.swapped)
        if not one and not other:
            return BY_DATABASE
        if self.selected == self.swapped:
            return SWAPDB
        if self._is_due():
            return -FULL
        if not (one and other) or projector.by_names or projector.renames or care & C_BLOCKED:
            return -self._bad_command(SWAP_RULED)
        if not projector.alone(self.selected) or not projector.alone(self.swapped):
            return -self._bad_command(SWAP_RULED)
        return self._refuse(LACKS) if care & C_LACKS else SWAPDB

    cdef int _decide_by_first(self, int kind, bint large) noexcept:
        """The same for commands whose first argument tells."""
        cdef const uint8_t* first = NULL
        cdef Py_ssize_t size = -1
        cdef int64_t db = -1
        if self.scan.argc > 1 and not self._first_argument(&first, &size):
            return -MORE
        if kind == SELECT:
            if large or self.scan.argc != 2 or size < 0 or not read_number(first, size, NEVER_MS, &db) or not 0 <= db <= INT32_MAX:
                return -self._bad_command(NOT_A_DATABASE)
            self.selected = db
            return SELECT
        if kind == REPLCONF:
            self.tally.getack |= size >= 0 and is_word(first, size, "GETACK")
            return DROP
        if kind == PUBLISH:
            return DROP if size == 18 and memcmp(first, HELLO, 18) == 0 else FORWARD
        if size < 0:
            return FILTERED
        if is_word(first, size, "LOAD"):
            return FUNCTION if self.scan.argc == 3 else FORWARD
        if is_word(first, size, "RESTORE"):
            return FUNCTION_RESTORE if self.scan.argc > 2 else FORWARD
        if is_word(first, size, "DELETE") or is_word(first, size, "FLUSH"):
            return DROP if self.table.forms.lacks[FUNCTIONS] else FORWARD  # there are none to be deleted
        return FILTERED

    cdef inline bint _sets_expiry(self) noexcept:
        """Whether a whole SET carries an expiry that the target must not be given as it is."""
        return sets_expiry(self._arguments(), self.scan.argc, self.editor.pxat, self.postpones, self.editor.horizon_ms)
