# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The stream splitter: replication stream bytes in, pieces of raw commands out. States and fields are in ``stream.pxd``.

A command is looked at once it is whole (``_scan_command``: resumable, no Python objects); most go on as they came.
Commands that carry a relative expiry, or an option that the target does not know, and those that are larger than a piece,
are handed to ``edit.pyx``. ``DEL`` goes on as ``UNLINK``, which leaves it to another thread of the target to free what is big.

A piece does not end inside of a transaction that it opened when there is something before the MULTI that can go alone:
it goes back to before the MULTI then, so that what can be committed is not held up.

Format: networking.c:processMultibulkBuffer. What servers send: server.c:propagatePendingCommands, t_string.c, expire.c,
cluster.c:restoreCommand.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport INT32_MAX, INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memmove

from portd.kernel.arguments cimport expires_before, restores_before, restores_relative, sets_expiry, tells_entries_read
from portd.kernel.commandnames cimport Names, classify, fill_names
from portd.kernel.edit cimport (
    DEL, DROP, EVAL, EXCLUDED, EXEC, EXPIRE, EXPIREAT, FORWARD, FUNCTION, GETEX, HEXPIRE, HPEXPIRE, MOVES, MULTI, PEXPIRE,
    PEXPIREAT, PSETEX, PUBLISH, REFUSE, REPLCONF, RESTORE, RESTORE_ASKING, SCRIPT, SELECT, SET, SETEX, SWAPDB, XGROUP, Editor,
)
from portd.kernel.piecebuffer cimport (
    BAD, EMPTY_COMMAND, FULL, LARGE, MORE, NAME_TOO_LONG, NESTED_MULTI, NO_DATABASE, NO_LINE_END, NOT_A_DATABASE, REFUSED,
    SELECT_EXCLUDED, STRAY_EXEC, TOO_MANY_ARGUMENTS, WHOLE, PieceBuffer, count_reply, keep, produced, read_header,
)
from portd.kernel.resp cimport NEVER_MS, SMALL, is_word, read_number
from portd.kernel.scripts cimport ScriptNotes


cdef enum:
    LEAST_PIECE = 64
    MAX_NAME = 512  # longer than the name of any command

DEFAULT_PIECE_BYTES = 256 * 1024
DEFAULT_MAX_ARGUMENT = 512 * 1024 * 1024  # proto-max-bulk-len of a server that was not told otherwise

cdef Py_ssize_t UNLIMITED = INT64_MAX // 2
cdef int64_t LARGEST_ARGUMENT = INT64_MAX // 4  # sums with it still fit
cdef const char* HELLO = "__sentinel__:hello"


cdef Names names
fill_names(&names)


# --------------------------------------------------------------------------------------------------------- interface

@cython.final
cdef class Piece:
    def __len__(self):
        return len(self.data)

    def __repr__(self):
        return (
            f"Piece({len(self.data)} bytes, replies={self.replies}, end_offset={self.end_offset}, db={self.db},"
            f" boundary={self.boundary}, part={self.part}, filtered={self.filtered}, swaps={self.swaps},"
            f" getack={self.getack})"
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
    ):
        if offset < 0 or max_argument < 0 or piece_bytes < LEAST_PIECE:
            raise ValueError(f"offset and max_argument must not be negative, piece_bytes not below {LEAST_PIECE}")
        self.buffer = PieceBuffer(offset, piece_bytes, <uint64_t> min(max_argument, LARGEST_ARGUMENT))
        self.editor = Editor(self.buffer, pxat)
        self.scripts = ScriptNotes(self.buffer)
        self.entries_read = entries_read
        self.unlink = unlink
        self.tally.db = max(db, -1)

    def __dealloc__(self):
        PyMem_Free(self.exclusions)

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
        status = self._gather(start, min(max(max_bytes, 1), buffer.piece_bytes), max(max_commands, 1))
        if self.marked and self.editor.part.kind < 0 and self.marked_cut.head > start:
            back = True
            buffer.cut = self.marked_cut
            self.tally = self.marked_tally
            self.scan.next = self.scan.argc = 0
        buffer.forget_received(status == MORE and not back and self.editor.part.kind < 0)
        if buffer.cut.head == start or (self.marked and not back and buffer.cut.head == self.after_multi):
            if status == BAD:  # a piece that ends before the bad bytes was handed out first
                raise self._error()
            return None
        return self._end_piece()

    def postpone(self, int64_t horizon_ms, int64_t shift_ms):
        if horizon_ms < 0 or shift_ms < 0:
            raise ValueError("horizon_ms and shift_ms must not be negative")
        self.postpones = shift_ms > 0
        self.editor.horizon_ms = horizon_ms if shift_ms else 0
        self.editor.shift_ms = shift_ms

    def exclude(self, int64_t offset):
        cdef Py_ssize_t at
        cdef int64_t* grown
        if offset <= self.buffer.base + self.buffer.cut.head:
            return  # it has passed; a splitter that starts before it must be told again
        if self.exclusion_count == self.exclusion_capacity:
            at = max(2 * self.exclusion_capacity, 8)
            grown = <int64_t*> PyMem_Realloc(self.exclusions, at * sizeof(int64_t))
            if grown == NULL:
                raise MemoryError
            self.exclusions = grown
            self.exclusion_capacity = at
        at = self.exclusion_count
        while at > 0 and self.exclusions[at - 1] > offset:
            self.exclusions[at] = self.exclusions[at - 1]
            at -= 1
        self.exclusions[at] = offset
        self.exclusion_count += 1

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
            "owned_bytes": buffer.owned() + self.editor.key_capacity + self.exclusion_capacity * <Py_ssize_t> sizeof(int64_t),
            "commands": self.totals.commands,
            "filtered": self.totals.filtered,
            "excluded": self.totals.excluded,
            "transactions": self.totals.transactions,
            "relative_kept": self.editor.relative_kept,
            "postponed": self.totals.postponed,
        }

    # --------------------------------------------------------------------------------------------------- one piece

    cdef Piece _end_piece(self):
        cdef PieceBuffer buffer = self.buffer
        cdef Piece piece = Piece.__new__(Piece)
        cdef Tally* tally = &self.tally
        piece.replies = buffer.cut.replies
        piece.offsets = PyBytes_FromStringAndSize(<char*> buffer.offsets, piece.replies * sizeof(uint64_t))
        piece.end_offset = buffer.base + buffer.cut.head
        piece.data = buffer.take_data()
        piece.db = tally.db
        piece.part = self.editor.passes()
        piece.boundary = self.editor.part.kind < 0 and not tally.in_transaction
        piece.filtered = tally.filtered
        piece.swaps = tally.swaps
        piece.getack = tally.getack
        piece.moves = tally.moves or tally.swaps
        piece.overdue = tally.overdue
        piece.postponed = tally.postponed
        piece.bodies = tuple(self.scripts.bodies)
        piece.loaded = tuple(self.scripts.loaded)
        piece.digests = tuple(self.scripts.digests)
        piece.flushed = self.scripts.flushed
        self.totals.commands += tally.commands
        self.totals.filtered += tally.filtered
        self.totals.excluded += tally.excluded
        self.totals.transactions += tally.transactions
        self.totals.postponed += tally.postponed
        tally.commands = tally.filtered = tally.excluded = tally.transactions = tally.postponed = 0
        tally.swaps = tally.getack = tally.moves = tally.overdue = False
        self._forget_exclusions(piece.end_offset)
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
            if status != WHOLE:
                return status
        if self.tally.in_transaction and self._scan_command() == WHOLE:
            if classify(&names, buffer.window + buffer.cut.head + self.scan.name, self.scan.name_size) == EXEC:
                self._take()  # then the piece ends where a checkpoint may stand
        return FULL

    cdef int _take(self) except -1:
        """Consumes the whole command at the head."""
        cdef PieceBuffer buffer = self.buffer
        cdef int kind = self._kind_at_head(False)
        if kind == FORWARD:
            count_reply(buffer, buffer.base + buffer.cut.head + 1)
            keep(buffer, buffer.cut.head + self.scan.next)
            self.tally.commands += 1
            self.scan.next = self.scan.argc = 0
            return WHOLE
        if kind < 0:
            return -kind
        if kind == DEL:
            return self._unlink()
        if kind >= FUNCTION:
            return self._edit(kind)
        if EVAL <= kind <= SCRIPT:
            self.scripts.note(kind, self._arguments(), self.scan.argc)
            kind = DROP if kind == SCRIPT else kind
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

    cdef int _take_whole(self, int kind) except -1:
        """Consumes a command that is not edited but means something to us."""
        cdef PieceBuffer buffer = self.buffer
        cdef Tally* tally = &self.tally
        cdef Py_ssize_t end = buffer.cut.head + self.scan.next
        if kind == MULTI:
            self.marked = True
            self.marked_cut = buffer.cut
            self.marked_tally = tally[0]
            self.after_multi = end
            tally.in_transaction = True
            return buffer.skip(end)
        if kind == EXEC:
            self.marked = False
            tally.in_transaction = False
            tally.transactions += 1
            return buffer.skip(end)
        tally.commands += 1
        if kind == DROP or kind == EXCLUDED:
            tally.filtered += kind == DROP
            tally.excluded += kind == EXCLUDED
            return buffer.skip(end)
        if kind == SELECT:
            tally.db = self.selected
        elif kind == SWAPDB:
            tally.swaps = True
        count_reply(buffer, buffer.base + buffer.cut.head + 1)
        keep(buffer, end)
        return 0

    cdef int _take_large(self) except -1:
        """Begins to pass on the command at the head, which is larger than a piece."""
        cdef int kind = self._kind_at_head(True)
        if kind < 0:
            return -kind
        if EVAL <= kind <= SCRIPT:
            if self.scripts.note(kind, self._arguments(), self.scan.argc) == MORE:
                return MORE
            kind = DROP if kind == SCRIPT else kind
        self._begin_edit(kind, True)
        return self._go_on(self.buffer.piece_bytes)

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
            self.tally.filtered += kind == DROP
            self.tally.excluded += kind == EXCLUDED
            self.tally.postponed += self.editor.postponed
            self.tally.overdue |= self.editor.overdue
        return status

    # ------------------------------------------------------------------------------------------------- one command

    cdef int _scan_command(self) noexcept:
        """Reads on in the command at the head until it is whole, from where it stopped before."""
        cdef PieceBuffer buffer = self.buffer
        cdef const uint8_t* head = buffer.window + buffer.cut.head
        cdef const uint8_t* end = buffer.window + buffer.tail
        cdef const uint8_t* cursor = head + self.scan.next
        cdef const uint8_t* header
        cdef uint64_t size = 0
        cdef int64_t argc = self.scan.argc
        cdef int64_t i = self.scan.done
        cdef int status
        cdef bint large
        if argc == 0:
            status = read_header(buffer, c"*", &cursor, &size)
            if status != WHOLE:
                return status
            if size == 0:
                return self._bad_command(EMPTY_COMMAND)
            if size > INT32_MAX:  # as networking.c:processMultibulkBuffer says
                return self._bad_command(TOO_MANY_ARGUMENTS)
            argc = self.scan.argc = <int64_t> size
            i = 0
        while i < argc:
            header = cursor
            status = read_header(buffer, c"$", &cursor, &size)
            if status == WHOLE and i == 0:
                status = self._note_name(cursor - head, size)
            if status == WHOLE:
                # the arguments behind this one take six bytes each at least
                large = cursor - head + <int64_t> size + 2 + 6 * (argc - i - 1) > buffer.piece_bytes
                if large and i > 0:
                    status = LARGE
                elif <uint64_t> (end - cursor) < size + 2:
                    status = MORE
                elif cursor[size] != c"\r" or cursor[size + 1] != c"\n":
                    status = buffer.bad(NO_LINE_END, cursor - buffer.window + <Py_ssize_t> size)
                elif large:
                    status = LARGE
            if status != WHOLE:
                self.scan.next = header - head
                self.scan.done = i
                return status
            cursor += size + 2
            i += 1
        self.scan.next = cursor - head
        self.scan.done = i
        return WHOLE

    cdef int _note_name(self, Py_ssize_t index, uint64_t size) noexcept:
        if size == 0:
            return self._bad_command(EMPTY_COMMAND)
        if size > MAX_NAME:
            return self._bad_command(NAME_TOO_LONG)
        self.scan.name = index
        self.scan.name_size = <Py_ssize_t> size
        return WHOLE

    cdef int _bad_command(self, int why) noexcept:
        """Notes what is wrong with the command at the head."""
        return self.buffer.bad(why, self.buffer.cut.head)

    cdef object _error(self):
        cdef const uint8_t* name = self.buffer.window + self.buffer.cut.head + self.scan.name
        type_name = None
        if self.buffer.bad_why == REFUSED:
            type_name = name[: self.scan.name_size].decode("ascii").upper()
        return self.buffer.error(self.tally.db, type_name)

    # ------------------------------------------------------------------------------------------- what becomes of it

    cdef int _kind_at_head(self, bint large) noexcept:
        """The kind as which the scanned command is passed on, or ``-BAD``, or ``-MORE`` when it is large."""
        cdef PieceBuffer buffer = self.buffer
        cdef int kind = classify(&names, buffer.window + buffer.cut.head + self.scan.name, self.scan.name_size)
        if kind != FORWARD:
            kind = self._decide(kind, large)
        if kind == MULTI or kind == EXEC or kind < 0:
            return kind
        if self.exclusion_count > 0 and self._is_excluded(buffer.base + buffer.cut.head + 1):
            return -self._bad_command(SELECT_EXCLUDED) if kind == SELECT else EXCLUDED
        if self.tally.db < 0 and kind != DROP and kind != SCRIPT and kind != SELECT:
            return -self._bad_command(NO_DATABASE)
        return kind

    cdef int _decide(self, int kind, bint large) noexcept:
        """What a command from the table becomes; see ``_kind_at_head``."""
        cdef int64_t argc = self.scan.argc
        cdef bint edited
        if kind == DEL:
            return DEL if self.unlink else FORWARD
        if kind == REFUSE:
            return -self._bad_command(REFUSED)
        if kind == MULTI or kind == EXEC:
            if argc != 1 or large or (kind == MULTI) == self.tally.in_transaction:
                return -self._bad_command(NESTED_MULTI if kind == MULTI else STRAY_EXEC)
            return kind
        if kind in (SELECT, REPLCONF, PUBLISH, FUNCTION):
            return self._decide_by_first(kind, large)
        if kind == MOVES:
            self.tally.moves = True
            return FORWARD
        if kind == SET:
            return SET if argc > 3 and (large or self._sets_expiry()) else FORWARD
        if kind == EXPIREAT or kind == PEXPIREAT:
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
            if kind != RESTORE or large or restores_relative(self._arguments(), argc):
                return kind
            return kind if self.postpones and restores_before(self._arguments(), self.editor.horizon_ms) else FORWARD
        return kind  # DROP, SWAPDB

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
        return FUNCTION if self.scan.argc == 3 and size >= 0 and is_word(first, size, "LOAD") else FORWARD

    cdef inline bint _sets_expiry(self) noexcept:
        """Whether a whole SET carries an expiry that the target must not be given as it is."""
        return sets_expiry(self._arguments(), self.scan.argc, self.editor.pxat, self.postpones, self.editor.horizon_ms)

    cdef inline const uint8_t* _arguments(self) noexcept:
        """Where the header behind the name stands in the window."""
        return self.buffer.window + self.buffer.cut.head + self.scan.name + self.scan.name_size + 2

    cdef bint _first_argument(self, const uint8_t** start, Py_ssize_t* size) noexcept:
        """Finds the argument behind the name; False: it is not here yet. Leaves *size* alone when it is not small."""
        cdef PieceBuffer buffer = self.buffer
        cdef const uint8_t* cursor = self._arguments()
        cdef uint64_t announced = 0
        cdef int status = read_header(buffer, c"$", &cursor, &announced)
        if status == WHOLE and announced <= SMALL:
            if <uint64_t> (buffer.window + buffer.tail - cursor) < announced:
                return False
            start[0] = cursor
            size[0] = <Py_ssize_t> announced
        return status != MORE  # wrong bytes are met again when the argument is passed on

    cdef bint _is_excluded(self, int64_t offset) noexcept:
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = self.exclusion_count
        cdef Py_ssize_t middle
        while low < high:
            middle = (low + high) // 2
            if self.exclusions[middle] < offset:
                low = middle + 1
            else:
                high = middle
        return low < self.exclusion_count and self.exclusions[low] == offset

    cdef void _forget_exclusions(self, int64_t offset) noexcept:
        """Drops those up to *offset*: they have passed."""
        cdef Py_ssize_t passed = 0
        while passed < self.exclusion_count and self.exclusions[passed] <= offset:
            passed += 1
        if passed > 0:
            self.exclusion_count -= passed
            memmove(self.exclusions, self.exclusions + passed, self.exclusion_count * sizeof(int64_t))
