# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The stream splitter: replication stream bytes in, pieces of raw commands out. States and fields are in ``stream.pxd``.

A command is looked at once it is whole (see ``scan.pyx``), ``decide.pyx`` says what becomes of it; most go on as they came.
Commands that carry a relative expiry, and those that are larger than a piece, are handed to ``edit.pyx``; those that the
target knows in another form only, to ``rewrite.pyx``. ``DEL`` goes on as ``UNLINK``, which leaves it to another thread of
the target to free what is big.

Bytes between commands that replicas pass over (networking.c: empty lines, ``*0``, ``*-1``) are consumed, and so are a
MULTI inside of a transaction and an EXEC outside.

A piece does not end inside of a transaction that it opened when there is something before the MULTI that can go alone:
it goes back to before the MULTI then, so that what can be committed is not held up.

What servers send: server.c:propagatePendingCommands, t_string.c, expire.c, cluster.c:restoreCommand.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t

from portd.kernel.arguments cimport restores_relative
from portd.kernel.border cimport Border
from portd.kernel.commandtable cimport CommandTable
from portd.kernel.decide cimport C_BLOCKED, C_LACKS, CROSSES, OWED_TOO_MANY, PARTED, REASONS, Tally
from portd.kernel.edit cimport (
    BY_COPY, BY_DATABASE, BY_KEY, BY_NAME, CLEARS, DEL, DISCARD, DROP, EVAL, EXCLUDED, EXEC, FILTERED, FORWARD, FUNCTION, HALVED, MULTI,
    OWN, REFUSED, RESTORE, RESTORE_ASKING, SCATTERED, SCRIPT, SELECT, SET, SPARED, SPLIT, SWAPDB, XGROUP, Editor,
)
from portd.kernel.forms cimport F_RESTORE, F_RESTORE_ASKING, F_SET, F_XGROUP, FORM, PEXPIREAT_CONDITION
from portd.kernel.keypositions cimport Layout
from portd.kernel.leftout cimport Exclusions, LeftOut
from portd.kernel.mapping cimport Mapping
from portd.kernel.owed cimport Owed
from portd.kernel.partly cimport PartTaker
from portd.kernel.payload cimport AS_IT_CAME
from portd.kernel.piecebuffer cimport (
    BAD, EMPTY, FULL, LARGE, MORE, WHOLE, Cut, PieceBuffer, count_reply, keep, produced,
)
from portd.kernel.project cimport Projector
from portd.kernel.rename cimport Renamer
from portd.kernel.resp cimport NEVER_MS
from portd.kernel.rewrite cimport Rewriter
from portd.kernel.rules cimport Rules
from portd.kernel.scripts cimport ScriptNotes


cdef enum:
    LEAST_PIECE = 64
    LEAST_KEY = 8  # bytes of a command that names a short key, for each of its keys

DEFAULT_PIECE_BYTES = 256 * 1024
DEFAULT_MAX_ARGUMENT = 512 * 1024 * 1024  # proto-max-bulk-len of a server that was not told otherwise

cdef Py_ssize_t UNLIMITED = INT64_MAX // 2
cdef int64_t LARGEST_ARGUMENT = INT64_MAX // 4  # sums with it still fit


cdef CommandTable ANY_TARGET = CommandTable()
cdef frozenset NOBODY = frozenset()


# --------------------------------------------------------------------------------------------------------- interface

@cython.final
cdef class Piece:
    def __len__(self):
        return len(self.data)

    def __repr__(self):
        return (
            f"Piece({len(self.data)} bytes, replies={self.replies}, end_offset={self.end_offset}, db={self.db},"
            f" boundary={self.boundary}, part={self.part}, filtered={self.filtered}, refused={self.refused},"
            f" swaps={self.swaps}, getack={self.getack})"
        )


@cython.final
cdef class StreamSplitter:
    def __cinit__(
        self,
        int64_t offset,
        int64_t db,
        *,
        Py_ssize_t piece_bytes=DEFAULT_PIECE_BYTES,
        int64_t max_argument=DEFAULT_MAX_ARGUMENT,
        bint pxat=True,
        bint entries_read=True,
        bint unlink=False,
        CommandTable commands=None,
        int64_t databases=0,
        frozenset lacking not None=NOBODY,
        bytes own not None=b"",
        bint stops=False,
        frozenset mixed not None=NOBODY,
        Rules rules=None,
        Mapping mapping=None,
        frozenset blocked not None=NOBODY,
        bint owes=False,
        str owed not None="",
        Border border=None,
        bint parted=False,
        int64_t copied_since=0,
    ):
        cdef CommandTable table = ANY_TARGET if commands is None else commands
        if offset < 0 or max_argument < 0 or piece_bytes < LEAST_PIECE:
            raise ValueError(f"offset and max_argument must not be negative, piece_bytes not below {LEAST_PIECE}")
        self.buffer = PieceBuffer(offset, piece_bytes, <uint64_t> min(max_argument, LARGEST_ARGUMENT))
        self.editor = Editor(self.buffer, pxat, not table.forms.lacks[PEXPIREAT_CONDITION], table.dialect)
        self.rewriter = Rewriter(self.buffer, self.editor, table.forms, table.dialect, pxat, unlink)
        self.scripts = ScriptNotes(self.buffer)
        self.entries_read = entries_read
        self.unlink = unlink
        self.table = table
        self.databases = databases
        self.lacking = lacking
        self.own = own
        self.ours.prefix = own
        self.ours.size = len(own)
        self.editor.ours = &self.ours
        self.mixed = Exclusions()
        for each in mixed:
            self.mixed.add(each)
        self.stops = stops
        self.left_out = LeftOut()
        self.excluded = Exclusions()
        self.most_bytes = piece_bytes
        self.editor.unlink = unlink
        self.judging = -1
        self.may_owe = owes
        self.parted = parted
        self.ruled = rules is not None or mapping is not None
        self.owed = Owed()
        self.owed.least = copied_since
        if parted:
            self.owed.part()
        self.owed.read(owed, offset)
        if self.ruled or parted:
            self.projector = self.editor.projector = Projector(rules, mapping, blocked, parted)
            self.projector.ours = &self.ours
            self.projector.owed = self.owed
            self.projector.border = border if rules is not None and rules.slots is not None else None
        if mapping is not None and (mapping.names or mapping.databases):
            self.renamer = Renamer(mapping, table)
            self.most_bytes = max(piece_bytes * LEAST_KEY // (LEAST_KEY + self.renamer.growth), 1)
        self.tally.db = max(db, -1)
        self.tally.care = self._care(db)
        self.gone = -2

    def feed(self, data, int64_t now_ms):
        return self.buffer.fill(data, min(max(now_ms, 0), NEVER_MS))

    def next_piece(self, Py_ssize_t max_bytes, Py_ssize_t max_commands):
        cdef PieceBuffer buffer = self.buffer
        cdef Py_ssize_t start = buffer.cut.head
        cdef bint back = False
        cdef int status
        self.marked = False
        buffer.begin_piece()
        self.scripts.begin()
        self.start = start
        status = self._gather(start, min(max(max_bytes, 1), self.most_bytes), max(max_commands, 1))
        if self.projector is not None and self.projector.error is not None:
            raise self.projector.error
        if self.marked and self.editor.part.kind < 0 and self.marked_cut.head > start:
            back = True
            buffer.cut = self.marked_cut
            self.tally = self.marked_tally
            self.left_out.back()
            self.owed.back()
            self.ours_at = -1  # what was looked through comes again
            self.scan.next = self.scan.argc = 0
        buffer.forget_received(status == MORE and not back and self.editor.part.kind < 0)
        if buffer.cut.head == start or (self.marked and not back and buffer.cut.head == self.after_multi):
            if status == BAD:  # a piece that ends before the bad bytes was handed out first
                raise buffer.error(self.tally.db)
            return None
        return self._end_piece()

    def postpone(self, int64_t horizon_ms, int64_t shift_ms):
        if horizon_ms < 0 or shift_ms < 0:
            raise ValueError("horizon_ms and shift_ms must not be negative")
        self.postpones = shift_ms > 0
        self.editor.horizon_ms = horizon_ms if shift_ms else 0
        self.editor.shift_ms = shift_ms

    def exclude(self, int64_t offset):
        if offset > self.buffer.base + self.buffer.cut.head:  # else it has passed
            self.excluded.add(offset)

    @property
    def offset(self):
        return self.buffer.base + self.buffer.cut.head

    @property
    def db(self):
        return self.tally.db

    @property
    def in_transaction(self):
        return self.tally.in_transaction

    def statistics(self):
        cdef PieceBuffer buffer = self.buffer
        return {
            "window_used": buffer.tail - buffer.cut.head,
            "window_capacity": buffer.capacity,
            "output_capacity": buffer.output_capacity,
            "owned_bytes": buffer.owned() + self.editor.key_capacity + self.rewriter.owned() + self.excluded.owned() + self.mixed.owned()
            + (self.table.owned() if self.table is not ANY_TARGET else 0)
            + (self.renamer.owned() if self.renamer is not None else 0),
            "commands": self.totals.commands,
            "filtered": self.totals.filtered,
            "excluded": self.totals.excluded,
            "refused": self.totals.refused,
            "own": self.totals.own,
            "transactions": self.totals.transactions,
            "relative_kept": self.editor.relative_kept,
            "postponed": self.totals.postponed,
            "lost": self.totals.lost,
            "unrecorded": self.totals.unrecorded,
        }

    # --------------------------------------------------------------------------------------------------- one piece

    cdef Piece _end_piece(self):
        cdef PieceBuffer buffer = self.buffer
        cdef Piece piece = Piece.__new__(Piece)
        cdef Tally* tally = &self.tally
        piece.replies = buffer.cut.replies
        piece.offsets = PyBytes_FromStringAndSize(<char*> buffer.offsets, piece.replies * sizeof(uint64_t))
        piece.end_offset = buffer.base + buffer.cut.head
        piece.data = buffer.take_data() if self.renamer is None else self.renamer.rename(buffer.take_data())
        piece.db = tally.db
        piece.selected = tally.db if self.projector is None else self.projector.place(tally.db)
        piece.part = self.editor.passes()
        piece.boundary = self.editor.part.kind < 0 and not tally.in_transaction
        piece.filtered = tally.filtered
        piece.own = tally.own
        piece.refused = tally.refused
        piece.by_key = tally.by_key
        piece.by_database = tally.by_database
        piece.by_name = tally.by_name
        piece.by_copy = tally.by_copy
        piece.projected = tally.projected
        piece.crossing = tally.crossing
        piece.owed = "" if self.parted else self.owed.write()
        piece.owing = self._owing()
        piece.clears = None if self.gone == -2 else self.gone
        piece.trims = None if self.gone == -2 else self.trims
        self.gone = -2
        piece.mixed = self.editor.mixed
        if self.editor.part.kind < 0:
            self.editor.mixed = 0
        piece.refusals = self.left_out.take_refusals()
        piece.names = self.left_out.take_names()
        piece.databases = self.left_out.take_databases()
        if self.projector is not None and piece.databases:
            piece.databases = frozenset([self.projector.database(each) for each in piece.databases])
        piece.swaps = tally.swaps
        piece.getack = tally.getack
        piece.moves = tally.moves or tally.swaps
        piece.overdue = tally.overdue
        piece.postponed = tally.postponed
        piece.bodies = tuple(self.scripts.bodies)
        piece.loaded = tuple(self.scripts.loaded)
        piece.digests = tuple(self.scripts.digests)
        piece.flushed = self.scripts.flushed
        piece.lost = tally.lost
        piece.unrecorded = tally.unrecorded
        self.totals.commands += tally.commands
        self.totals.filtered += tally.filtered
        self.totals.excluded += tally.excluded
        self.totals.refused += tally.refused
        self.totals.own += tally.own
        self.totals.transactions += tally.transactions
        self.totals.postponed += tally.postponed
        self.totals.lost += tally.lost
        self.totals.unrecorded += tally.unrecorded
        tally.commands = tally.filtered = tally.excluded = tally.transactions = tally.postponed = tally.lost = tally.unrecorded = 0
        tally.refused = tally.own = tally.by_key = tally.by_database = tally.by_name = tally.by_copy = tally.projected = tally.crossing = 0
        tally.swaps = tally.getack = tally.moves = tally.overdue = False
        self.excluded.forget(piece.end_offset)
        return piece

    cdef int _gather(self, Py_ssize_t start, Py_ssize_t max_bytes, Py_ssize_t max_commands) except -1:
        """Consumes commands until the piece is full; the Status says why it went no further."""
        cdef PieceBuffer buffer = self.buffer
        cdef int status
        if self.editor.part.kind >= 0:
            return self._go_on(buffer.piece_bytes)
        while produced(buffer) < max_bytes and buffer.cut.replies < max_commands and not self.scripts.full:
            status = self._scan_command()
            if status == WHOLE:
                status = self._take()
            elif status == LARGE:
                if produced(buffer) > 0 or (self.marked and self.marked_cut.head > start):
                    return FULL  # it gets pieces of its own
                return self._take_large()
            elif status == EMPTY:
                buffer.skip(buffer.cut.head + self.scan.next)
                self.scan.next = 0
                continue
            if status != WHOLE:
                return status
        if self.tally.in_transaction and self._scan_command() == WHOLE and self._row_at_head().kind == EXEC:
            self._take()  # then the piece ends where a checkpoint may stand
        return FULL

    cdef int _take(self) except -1:
        """Consumes the whole command at the head."""
        cdef PieceBuffer buffer = self.buffer
        cdef int kind = self._kind_at_head(False)
        if kind == FORWARD:  # most commands come along here
            count_reply(buffer, buffer.base + buffer.cut.head + 1)
            keep(buffer, buffer.cut.head + self.scan.next)
            self.tally.commands += 1
            self.scan.next = self.scan.argc = 0
            return WHOLE
        if kind == DEL:
            return self._unlink()
        if kind >= FORM:
            return self._rewrite(kind)
        return self._take_as(kind)

    cdef int _take_as(self, int kind) except -1:
        """Consumes the whole command at the head; the rest of ``_take``."""
        cdef PieceBuffer buffer = self.buffer
        if kind < 0:
            return -kind
        if kind == SPARED:
            return self._spare()
        if kind == HALVED or kind == SPLIT:
            return self._halve(kind == SPLIT)
        if kind == CLEARS:
            return self._clear()
        if kind == REFUSED and self._stops_before():
            return FULL
        if kind >= FUNCTION:
            return self._edit(kind)
        if EVAL <= kind <= SCRIPT:
            self.scripts.note(kind, self._arguments(), self.scan.argc)
            kind = DROP if kind == SCRIPT else FORWARD
        if kind == FORWARD:
            count_reply(buffer, buffer.base + buffer.cut.head + 1)
            keep(buffer, buffer.cut.head + self.scan.next)
            self.tally.commands += 1
        else:
            self._take_whole(kind)
        self.scan.next = self.scan.argc = 0
        return WHOLE

    cdef int _unlink(self) except -1:
        """Consumes the whole DEL at the head; it goes on under another name, the rest as it came."""
        cdef PieceBuffer buffer = self.buffer
        cdef Py_ssize_t head = buffer.cut.head
        cdef Py_ssize_t name = head + self.scan.name
        count_reply(buffer, buffer.base + head + 1)
        keep(buffer, name - 4)  # *2 CRLF, without the $3 CRLF behind it
        buffer.skip(name + 5)
        buffer.append(<const char*> b"$6\r\nUNLINK\r\n", 12)
        keep(buffer, head + self.scan.next)
        self.tally.commands += 1
        self.scan.next = self.scan.argc = 0
        return WHOLE

    cdef int _rewrite(self, int kind) except -1:
        """Consumes the whole command at the head in the form that the target knows."""
        cdef PieceBuffer buffer = self.buffer
        cdef Rewriter rewriter = self.rewriter
        cdef int64_t argc = self.scan.argc
        cdef int64_t offset = buffer.base + buffer.cut.head + 1
        cdef Py_ssize_t end = buffer.cut.head + self.scan.next
        cdef int64_t done = rewriter.write(kind, self._arguments(), argc, argc, False)
        cdef int64_t i
        if done == 0:
            return self._take_as(self._kind_without_form(kind, False))
        for i in range(rewriter.begun):
            count_reply(buffer, offset)
        if done == argc:
            buffer.skip(end)
        else:
            buffer.skip(rewriter.behind(done) - buffer.window)
            keep(buffer, end)
        self._count_form()
        self.tally.commands += 1
        self.scan.next = self.scan.argc = 0
        return WHOLE

    cdef int _kind_without_form(self, int kind, bint large) noexcept:
        """What a command becomes that is not given another form, as ``_kind_at_head`` says it."""
        if self.rewriter.drops:
            self._count_form()
            return DROP
        if kind == F_RESTORE or kind == F_RESTORE_ASKING:
            kind = self._decide(RESTORE if kind == F_RESTORE else RESTORE_ASKING, large)
            return RESTORE if kind == FORWARD and self.rewriter.fate != AS_IT_CAME else kind
        if kind == F_SET:
            return self._decide(SET, large)
        return self._decide(XGROUP, large) if kind == F_XGROUP else FORWARD

    cdef int _count_form(self) noexcept:
        """Notes what the rewriter did to expiry times, and what it left out."""
        self.tally.lost += self.rewriter.lost
        self.tally.unrecorded += self.rewriter.unrecorded
        self.tally.postponed += self.editor.postponed
        self.tally.overdue |= self.editor.overdue
        return 0

    cdef int _take_whole(self, int kind) except -1:
        """Consumes a command that is not edited but means something to us."""
        cdef PieceBuffer buffer = self.buffer
        cdef Tally* tally = &self.tally
        cdef Py_ssize_t end = buffer.cut.head + self.scan.next
        if kind == MULTI:
            self.marked = True
            self.marked_cut = buffer.cut
            self.marked_tally = tally[0]
            self.left_out.mark()
            if self.projector is not None:
                self.owed.mark()
            self.after_multi = end
            tally.in_transaction = True
            return buffer.skip(end)
        if kind == EXEC:
            self.marked = False
            tally.in_transaction = False
            tally.transactions += 1
            return buffer.skip(end)
        if kind == DISCARD:
            return self._discard(end)
        tally.commands += 1
        if DROP <= kind <= REFUSED:
            if kind >= BY_KEY and self._row_at_head().kind == EVAL:  # others may be run by its digest
                self.scripts.note(EVAL, self._arguments(), self.scan.argc)
            self._note(kind, False)
            self._count(kind)
            return buffer.skip(end)
        if kind == SELECT:
            tally.db = self.selected
            tally.care = self._care(self.selected)
            if tally.care & (C_LACKS | C_BLOCKED) or (self.projector is not None and not self.projector.takes_database(tally.db)):
                tally.filtered += 1
                return buffer.skip(end)
            self.left_out.select(self.selected)
        elif kind == SWAPDB:
            tally.swaps = True
            if self.selected >= 0:
                self.left_out.select(self.selected)
                self.left_out.select(self.swapped)
                self.owed.swap(self.selected, self.swapped, buffer.base + buffer.cut.head + 1)
        count_reply(buffer, buffer.base + buffer.cut.head + 1)
        keep(buffer, end)
        return 0

    cdef int _discard(self, Py_ssize_t end) except -1:
        """Consumes a DISCARD at the end of the transaction that was opened in this piece, and what is between."""
        cdef PieceBuffer buffer = self.buffer
        cdef int64_t commands = self.tally.commands + 1 - self.marked_tally.commands
        self.tally = self.marked_tally
        self.tally.commands += commands
        self.tally.filtered += commands
        self.left_out.back()
        self.owed.back()
        self.left_out.filter(b"DISCARD")
        self.marked = False
        buffer.cut = self.marked_cut
        return buffer.skip(end)

    cdef int _clear(self) except -1:
        """Consumes the FLUSHDB, FLUSHALL or TRIMSLOTS at the head, alone in its piece: what it means is left to the caller."""
        cdef PieceBuffer buffer = self.buffer
        if buffer.cut.head > self.start:
            return FULL
        self.gone = self.clears
        self.tally.commands += 1
        self.tally.projected += 1
        buffer.skip(buffer.cut.head + self.scan.next)
        self.scan.next = self.scan.argc = 0
        return FULL

    cdef bint _stops_before(self) noexcept:
        """A refused command is at the head that must not be passed; what stands before it can go alone."""
        return self.stops and self.buffer.cut.head > self.start and not (self.marked and self.marked_cut.head == self.start)

    cdef int _take_large(self) except -1:
        """Begins to pass on the command at the head, which is larger than a piece."""
        cdef const Layout* keys = self._layout(self._row_at_head())
        self.judging = -1
        cdef int kind = self._kind_at_head(True)
        if kind >= FORM:
            kind = self._begin_form(kind)
        if kind < 0:
            return -kind
        if kind == REFUSED and self._stops_before():
            return FULL
        if EVAL <= kind <= SCRIPT:
            if self.scripts.note(kind, self._arguments(), self.scan.argc) == MORE:
                return MORE
            kind = DROP if kind == SCRIPT else FORWARD
        if kind < FORM:
            self._note(kind, True)
            self._begin_edit(kind, True)
        if kind == SCATTERED:
            self.editor.scatter(2 if keys.pairs else 1)
        else:
            self.editor.watch(keys)
        if self.judging >= 0:
            self.editor.judge(self.judging)
        return self._go_on(self.buffer.piece_bytes)

    cdef int _begin_form(self, int kind) except -100:
        """Begins to pass on the command at the head, which is larger than a piece; another kind: without another form."""
        cdef PieceBuffer buffer = self.buffer
        cdef Rewriter rewriter = self.rewriter
        cdef int64_t argc = self.scan.argc
        cdef int64_t offset = buffer.base + buffer.cut.head + 1
        cdef int64_t done = rewriter.write(kind, self._arguments(), argc, self.scan.done, True)
        cdef int64_t i
        if done == 0:
            return self._kind_without_form(kind, True)
        self._count_form()
        self.editor.resume(argc, done)
        for i in range(rewriter.begun - 1):
            count_reply(buffer, offset)
        buffer.skip(rewriter.behind(done) - buffer.window)
        self.scan.next = self.scan.argc = 0
        return kind

    cdef int _edit(self, int kind) except -1:
        """Consumes the whole command at the head argument by argument."""
        cdef Cut before = self.buffer.cut
        cdef int status
        self._begin_edit(kind, False)
        status = self._go_on(UNLIMITED)
        if status != WHOLE:
            self.buffer.cut = before
            self.editor.part.kind = -1
        return status

    cdef int _begin_edit(self, int kind, bint large) except -1:
        """Hands the command at the head over to the editor."""
        cdef Py_ssize_t behind_name = self.buffer.cut.head + self.scan.name + self.scan.name_size + 2
        cdef bint relative = kind >= RESTORE and (large or restores_relative(self._arguments(), self.scan.argc))
        self.editor.begin(kind, self.scan.argc, behind_name, large, relative)
        self.scan.next = self.scan.argc = 0
        return 0

    cdef int _go_on(self, Py_ssize_t limit) except -1:
        """Lets the editor pass the command on until the piece holds *limit* bytes; see ``Editor.advance``."""
        cdef int kind = self.editor.part.kind
        cdef int status = self.editor.advance(limit)
        if status == WHOLE:
            self.tally.commands += 1
            self._count(kind)
            self.tally.postponed += self.editor.postponed
            self.tally.overdue |= self.editor.overdue
        return status

    cdef int _note(self, int kind, bint large) except -1:
        """Says what the command at the head is, which does not go on."""
        cdef PieceBuffer buffer = self.buffer
        cdef const uint8_t* key
        cdef Py_ssize_t size = 0
        cdef int64_t db = self.tally.db
        if kind == FILTERED:
            return self.left_out.filter(self._name())
        if kind != REFUSED:
            return 0
        key = self._key_of_letter(large, &db, &size)
        name = key[:size] if key != NULL else b""
        code, reason = REASONS[<int> self.reason]
        return self.left_out.refuse(
            buffer.base + buffer.cut.head + 1, db, self._name(), name, code, reason,
            None if self.projector is None else self.projector.mapping,
        )

    cdef int _count(self, int kind) noexcept:
        """Counts a command, if it does not go on."""
        cdef Tally* tally = &self.tally
        if kind == EXCLUDED:
            tally.excluded += 1
        elif kind == REFUSED:
            tally.refused += 1
            tally.crossing += CROSSES <= self.reason < PARTED and self.reason != OWED_TOO_MANY
        elif DROP <= kind <= BY_COPY:
            tally.filtered += 1
            tally.own += kind == OWN
            tally.by_key += kind == BY_KEY
            tally.by_database += kind == BY_DATABASE
            tally.by_name += kind == BY_NAME
            tally.by_copy += kind == BY_COPY
        elif kind == SCATTERED:
            self._count_scattered()
        return 0

    cdef int _count_scattered(self) noexcept:
        """Counts a large command that was taken apart."""
        cdef bint none = self.editor.part.taken == 0
        self.tally.filtered += none
        self.tally.by_key += none
        self.tally.projected += not none
        return 0
