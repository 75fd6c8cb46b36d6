# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""The stream splitter: replication stream bytes in, pieces of raw commands out. States and fields are in ``stream.pxd``.

The window holds bytes as they came. A command is looked at once it is whole (``_scan``, resumable, no Python object):
most go on as they came, so a run of them is copied with one memcpy. Commands that carry a relative expiry are edited
argument by argument (``_begin`` .. ``_finish``); the same machine passes a command that is larger than a piece on in
parts, since it needs no more than an argument's header to go on. A piece never ends between a MULTI that it opened and
the EXEC when there is something before the MULTI that can go alone: it goes back to ``mark`` then.

Format: networking.c:processMultibulkBuffer; which commands a server sends: server.c:propagateNow, t_string.c, expire.c.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport INT32_MAX, INT64_MAX, int64_t, uint8_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy, memmove, strlen

from portd.errors import DecodeError, LimitExceeded


cdef enum:
    SLACK = 16  # bytes behind the window's end that may be read: a name is loaded as two words
    HEAD_ROOM = 4096  # window bytes beyond two pieces: the headers and small arguments that must be whole
    LEAST_PIECE = 64
    MAX_DIGITS = 19  # more cannot be a length: 10**19 does not fit a signed 64-bit number
    MAX_NAME = 512  # longer than the name of any command
    SMALL = 64  # arguments that are looked at are not longer
    RECEIVED = 64  # times of feeds that are told apart while they wait in the window
    PART_BYTES = 16384  # a part of one large argument holds at least this much, or its rest

DEFAULT_PIECE_BYTES = 256 * 1024
DEFAULT_MAX_ARGUMENT = 512 * 1024 * 1024  # proto-max-bulk-len of a server that was not told otherwise

cdef int64_t NEVER = INT64_MAX // 4  # ms; no server takes a later expiry


# ---------------------------------------------------------------------------------------------------- command names

cdef struct Row:
    uint64_t low  # the name in upper case, first eight bytes
    uint64_t high  # the next eight
    int kind

cdef Row rows[64]
cdef int first_row[18]  # rows of names with n bytes: first_row[n] to first_row[n + 1]
cdef unsigned int initials[17]  # by length: a bit per letter that a name in the table begins with


cdef inline uint64_t _load(const uint8_t* text, Py_ssize_t size) noexcept:
    """Up to eight bytes as a number, letters in upper case; reads eight."""
    cdef uint64_t word
    memcpy(&word, text, 8)
    word &= <uint64_t> 0xDFDFDFDFDFDFDFDF
    return word if size >= 8 else word & ((<uint64_t> 1 << (8 * size)) - 1)


cdef inline int classify(const uint8_t* name, Py_ssize_t size) noexcept:
    """The kind of a command by its name; reads ``SLACK`` bytes."""
    cdef uint64_t low, high
    cdef int row
    if size > 16 or not (initials[size] >> (name[0] & 31)) & 1:
        return FORWARD
    low = _load(name, size)
    high = _load(name + 8, size - 8) if size > 8 else 0
    for row in range(first_row[size], first_row[size + 1]):
        if rows[row].low == low and rows[row].high == high:
            return rows[row].kind
    return FORWARD


def _fill_rows():
    """Builds the table of commands that do not simply go on."""
    cdef bytes padded
    cdef int row = 0
    kinds = {
        # noise, and what concerns the source's own topology, settings or scripts (stream of sources up to 6.2, of
        # cluster nodes that move slots, of hosted servers)
        DROP: b"PING SCRIPT TRIMSLOTS CLUSTER DEBUG MIGRATE ASKING CONFIG ACL OPINFO",
        # would turn our connection into something that does not answer commands in order
        REFUSE: b"PSYNC SYNC REPLICAOF SLAVEOF MONITOR SUBSCRIBE PSUBSCRIBE SSUBSCRIBE QUIT RESET HELLO AUTH CLIENT"
        b" SHUTDOWN FAILOVER DISCARD WATCH",
        MULTI: b"MULTI", EXEC: b"EXEC", SELECT: b"SELECT", SWAPDB: b"SWAPDB", REPLCONF: b"REPLCONF",
        PUBLISH: b"PUBLISH SPUBLISH", FUNCTION: b"FUNCTION", SET: b"SET", SETEX: b"SETEX", PSETEX: b"PSETEX",
        GETEX: b"GETEX", EXPIRE: b"EXPIRE", PEXPIRE: b"PEXPIRE", HEXPIRE: b"HEXPIRE", HPEXPIRE: b"HPEXPIRE",
        RESTORE: b"RESTORE", RESTORE_ASKING: b"RESTORE-ASKING",
    }  # fmt: skip
    names = sorted((len(name), name, kind) for kind, listed in kinds.items() for name in listed.split())
    for size, name, kind in names:
        padded = name.ljust(16, b"\0")
        rows[row].low = _load(<const uint8_t*> padded, size)
        rows[row].high = _load(<const uint8_t*> padded + 8, size - 8) if size > 8 else 0
        rows[row].kind = kind
        initials[<Py_ssize_t> size] |= <unsigned int> 1 << (name[0] & 31)
        row += 1
        for longer in range(size + 1, 18):
            first_row[<int> longer] = row


_fill_rows()


cdef inline bint _is_word(const uint8_t* text, Py_ssize_t size, const char* word) noexcept:
    """Whether *text* is *word* (upper case, at most eight letters), in any letter case; reads eight bytes of both."""
    cdef uint8_t wanted[8]
    cdef Py_ssize_t length = strlen(word)
    if size != length:
        return False
    memcpy(wanted, word, length)
    return _load(text, size) == _load(wanted, size)


cdef inline bint _to_number(const uint8_t* text, Py_ssize_t size, int64_t* number) noexcept:
    """Reads a decimal number as the most lenient server does: sign, leading zeros; saturates at ``NEVER``."""
    cdef bint negative = size > 0 and text[0] == c"-"
    cdef Py_ssize_t i = 1 if size > 0 and (text[0] == c"-" or text[0] == c"+") else 0
    cdef int64_t value = 0
    if i == size:
        return False
    while i < size:
        if not c"0" <= text[i] <= c"9":
            return False
        value = min(value * 10 + (text[i] - c"0"), NEVER) if value < NEVER // 10 else NEVER
        i += 1
    number[0] = -value if negative else value
    return True


cdef inline const uint8_t* _argument(const uint8_t* header, Py_ssize_t* size) noexcept:
    """The payload behind a header that was scanned before."""
    cdef const uint8_t* digit = header + 1
    size[0] = 0
    while digit[0] != c"\r":
        size[0] = size[0] * 10 + (digit[0] - c"0")
        digit += 1
    return digit + 2


# ----------------------------------------------------------------------------------------------------------- errors

cdef enum Why:
    NOT_A_COMMAND
    NOT_AN_ARGUMENT
    NOT_A_LENGTH
    NO_LINE_END
    TOO_MANY_ARGUMENTS
    ARGUMENT_TOO_LARGE
    NAME_TOO_LONG
    EMPTY_COMMAND
    REFUSED
    NESTED_MULTI
    STRAY_EXEC
    NOT_A_DATABASE
    NO_DATABASE
    SELECT_EXCLUDED
    NOT_A_TIME

cdef str RESYNC = "the position resumed from was not a command boundary, or bytes were altered on the way; sync again"
cdef dict WHYS = {
    NOT_A_COMMAND: ("unexpected byte where a command should begin", RESYNC),
    NOT_AN_ARGUMENT: ("unexpected byte where an argument should begin", RESYNC),
    NOT_A_LENGTH: ("malformed length", RESYNC),
    NO_LINE_END: ("an argument is longer than announced", RESYNC),
    TOO_MANY_ARGUMENTS: ("more arguments than any server takes", RESYNC),
    ARGUMENT_TOO_LARGE: (
        "argument larger than the limit", "raise the limit if the source's proto-max-bulk-len is really that large"),
    NAME_TOO_LONG: ("command name longer than any known", RESYNC),
    EMPTY_COMMAND: ("empty command", RESYNC),
    REFUSED: (
        "the stream holds a command that must never reach the target",
        "only write commands belong into a replication stream: look at what feeds the source"),
    NESTED_MULTI: ("MULTI inside of a transaction", RESYNC),
    STRAY_EXEC: ("EXEC without MULTI", RESYNC),
    NOT_A_DATABASE: ("malformed SELECT", RESYNC),
    NO_DATABASE: ("a command before any SELECT, and no database is known", "the checkpoint lacks its database; sync again"),
    SELECT_EXCLUDED: (
        "the target refused a SELECT, what follows would land in another database",
        "give the target as many databases as the source has"),
    NOT_A_TIME: ("an expiry is not a number", RESYNC),
}
cdef frozenset LIMITS = frozenset((TOO_MANY_ARGUMENTS, ARGUMENT_TOO_LARGE, NAME_TOO_LONG))


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
    ):
        if offset < 0 or piece_bytes < LEAST_PIECE or max_argument < 0:
            raise ValueError(f"offset and max_argument must not be negative, piece_bytes not below {LEAST_PIECE}")
        self.piece_bytes = piece_bytes
        self.max_argument = <uint64_t> max_argument
        self.pxat = pxat
        self.capacity = 2 * piece_bytes + HEAD_ROOM
        self.window = <uint8_t*> PyMem_Malloc(self.capacity + SLACK)
        if self.window == NULL:
            raise MemoryError
        self.window[0] = 0
        self.base = offset
        self.kind = -1
        self.key_size = -1
        self.gathered.run = -1
        self.gathered.db = max(db, -1)

    def __dealloc__(self):
        PyMem_Free(self.window)
        PyMem_Free(self.output)
        PyMem_Free(self.offsets)
        PyMem_Free(self.exclusions)
        PyMem_Free(self.key)

    # ---------------------------------------------------------------------------------------------------- for callers

    def feed(self, data, int64_t now_ms):
        cdef Py_buffer view
        cdef Py_ssize_t size
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            size = min(view.len, self._make_room(view.len))
            memcpy(self.window + self.tail, view.buf, size)
        finally:
            PyBuffer_Release(&view)
        self.tail += size
        self.window[self.tail] = 0  # ends a number that is cut here
        if size > 0:
            self._note_received(size, now_ms)
        return size

    def next_piece(self, Py_ssize_t max_bytes, Py_ssize_t max_commands):
        cdef Py_ssize_t start = self.gathered.head
        cdef int status
        cdef bint back = False
        self._begin_piece()
        status = self._gather(start, min(max(max_bytes, 1), self.piece_bytes), max(max_commands, 1))
        if self.marked and self.kind < 0 and self.mark.head > start:
            back = True
            self.gathered = self.mark
            self._forget_scan()
        self._forget_received(status == MORE and not back and self.kind < 0)
        if self.gathered.head == (self.after_multi if self.marked and not back else start):
            if status == BAD:
                raise self._error()
            return None
        return self._end_piece()

    def exclude(self, int64_t offset):
        cdef Py_ssize_t at = self.exclusion_count
        cdef int64_t* grown
        if offset <= self.base + self.gathered.head:
            raise ValueError(f"offset {offset} was passed already: the splitter is at {self.offset}")
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
        return self.base + self.gathered.head

    @property
    def db(self):
        return self.gathered.db

    @property
    def in_transaction(self):
        return self.gathered.in_transaction

    def statistics(self):
        return {
            "window_used": self.tail - self.gathered.head,
            "window_capacity": self.capacity,
            "output_capacity": self.output_capacity,
            "offsets_capacity": self.offsets_capacity * <Py_ssize_t> sizeof(uint64_t),
            "owned": self.capacity + SLACK + self.output_capacity + self.key_capacity
            + self.offsets_capacity * <Py_ssize_t> sizeof(uint64_t)
            + self.exclusion_capacity * <Py_ssize_t> sizeof(int64_t),
            "commands": self.commands,
            "filtered": self.filtered,
            "excluded": self.excluded,
            "transactions": self.transactions,
            "relative_kept": self.relative_kept,
        }

    # ------------------------------------------------------------------------------------------------------ the window

    cdef Py_ssize_t _make_room(self, Py_ssize_t wanted) noexcept:
        """Bytes free at the tail, after moving what waits to the front if that is worth it.

        Unless a quarter of the window was consumed it is not: what waits is then more than a piece, so ``next_piece``
        goes on without new bytes.
        """
        cdef Py_ssize_t shift = self.gathered.head
        cdef int i
        if self.capacity - self.tail < wanted and shift > 0 and (shift == self.tail or shift >= self.capacity // 4):
            memmove(self.window, self.window + shift, self.tail - shift)
            self.tail -= shift
            self.base += shift
            self.scan -= shift
            self.name -= shift
            self.gathered.head = 0
            for i in range(self.received_count):
                self.received[i].end -= shift
        return self.capacity - self.tail

    cdef void _note_received(self, Py_ssize_t size, int64_t now_ms) noexcept:
        """Remembers when the last *size* bytes came; more times than fit take the one before them."""
        cdef int last = self.received_count - 1
        if last >= 0 and (self.received[last].ms == now_ms or last == RECEIVED - 1):
            self.received[last].end += size
        else:
            self.received[last + 1].end = self.tail
            self.received[last + 1].ms = min(max(now_ms, 0), NEVER)
            self.received_count += 1

    cdef int64_t _received_at(self, Py_ssize_t index) noexcept:
        """Unix time in ms at which the byte at *index* came."""
        cdef int i = 0
        while i < self.received_count - 1 and self.received[i].end <= index:
            i += 1
        return self.received[i].ms

    cdef void _forget_received(self, bint waiting) noexcept:
        """Drops the times of bytes that were consumed.

        Args:
            waiting: all bytes in the window belong to the command at the head: only the time of its first one counts.
        """
        cdef Py_ssize_t head = self.gathered.head
        cdef int kept = 0
        cdef int i
        for i in range(self.received_count):
            if self.received[i].end > head:
                self.received[kept] = self.received[i]
                kept += 1
                if waiting:
                    self.received[0].end = self.tail
                    break
        self.received_count = kept

    # ---------------------------------------------------------------------------------------------------- one command

    cdef int _bad(self, int why, Py_ssize_t index) noexcept:
        self.bad_why = why
        self.bad_index = index
        return BAD

    cdef object _error(self):
        message, hint = WHYS[self.bad_why]
        kind = LimitExceeded if self.bad_why in LIMITS else DecodeError
        name = None
        if self.bad_why == REFUSED:
            name = PyBytes_FromStringAndSize(<char*> self.window + self.name, self.name_size).decode("ascii").upper()
        return kind(message, offset=self.base + self.bad_index + 1, db=self.gathered.db, type=name, hint=hint)

    cdef inline int _header(self, const uint8_t** cursor, uint8_t mark, int wrong, uint64_t* value) noexcept:
        """Reads ``<mark><digits>CRLF`` at *cursor* and moves it behind.

        Returns:
            WHOLE, MORE, or BAD with *wrong* as the reason when another byte than *mark* stands there.
        """
        cdef const uint8_t* end = self.window + self.tail
        cdef const uint8_t* digits = cursor[0] + 1
        cdef const uint8_t* p = digits
        cdef Py_ssize_t index = cursor[0] - self.window
        cdef uint64_t number = 0
        cdef unsigned int digit
        if cursor[0] >= end:
            return MORE
        if cursor[0][0] != mark:
            return self._bad(wrong, index)
        while True:  # ends at window[tail] at the latest
            digit = <unsigned int> p[0] - c"0"
            if digit > 9:
                break
            number = number * 10 + digit
            p += 1
            if p - digits > MAX_DIGITS:
                return self._bad(TOO_MANY_ARGUMENTS if mark == c"*" else ARGUMENT_TOO_LARGE, index)
        if end - p < 2:
            if p < end and (p[0] != c"\r" or p == digits):
                return self._bad(NOT_A_LENGTH, index)
            return MORE
        # servers refuse leading zeros and signs: util.c:string2ll
        if p[0] != c"\r" or p[1] != c"\n" or p == digits or (digits[0] == c"0" and p - digits > 1):
            return self._bad(NOT_A_LENGTH, index)
        value[0] = number
        cursor[0] = p + 2
        return WHOLE

    cdef int _scan(self) noexcept:
        """Reads on in the command at the head until it is whole; goes on where it stopped before."""
        cdef const uint8_t* cursor = self.window + self.scan
        cdef const uint8_t* end = self.window + self.tail
        cdef const uint8_t* header
        cdef uint64_t size
        cdef int64_t i = self.scanned
        cdef int64_t argc = self.argc
        cdef Py_ssize_t head = self.gathered.head
        cdef int status
        if argc == 0:
            status = self._header(&cursor, c"*", NOT_A_COMMAND, &size)
            if status != WHOLE:
                return status
            if size == 0:
                return self._bad(EMPTY_COMMAND, head)
            if size > INT32_MAX:  # networking.c:processMultibulkBuffer
                return self._bad(TOO_MANY_ARGUMENTS, head)
            argc = self.argc = <int64_t> size
            i = 0
        while i < argc:
            header = cursor
            status = self._header(&cursor, c"$", NOT_AN_ARGUMENT, &size)
            if status == WHOLE and size > self.max_argument:
                status = self._bad(ARGUMENT_TOO_LARGE, header - self.window)
            elif status == WHOLE and i == 0:
                status = self._note_name(cursor - self.window, size)
            if status == WHOLE:
                # the arguments behind this one take six bytes each at least
                large = cursor - self.window - head + <int64_t> size + 2 + 6 * (argc - i - 1) > self.piece_bytes
                if large and i > 0:
                    status = LARGE
                elif <uint64_t> (end - cursor) < size + 2:
                    status = MORE
                elif cursor[size] != c"\r" or cursor[size + 1] != c"\n":
                    status = self._bad(NO_LINE_END, cursor - self.window + <Py_ssize_t> size)
                elif large:
                    status = LARGE
            if status != WHOLE:
                self.scan = header - self.window
                self.scanned = i
                return status
            cursor += size + 2
            i += 1
        self.scan = cursor - self.window
        self.scanned = i
        return WHOLE

    cdef int _note_name(self, Py_ssize_t index, uint64_t size) noexcept:
        if size == 0:
            return self._bad(EMPTY_COMMAND, self.gathered.head)
        if size > MAX_NAME:
            return self._bad(NAME_TOO_LONG, self.gathered.head)
        self.name = index
        self.name_size = <Py_ssize_t> size
        return WHOLE

    cdef void _forget_scan(self) noexcept:
        """What stands at the head now was not looked at."""
        self.scan = self.gathered.head
        self.argc = 0
        self.scanned = 0

    # ------------------------------------------------------------------------------------------- what becomes of it

    cdef int _kind_at_head(self, bint large) noexcept:
        """The kind as which the scanned command is passed on, or ``-BAD``, or ``-MORE`` when it is large."""
        cdef int kind = classify(self.window + self.name, self.name_size)
        cdef int64_t offset = self.base + self.gathered.head + 1
        if self.exclusion_count > 0 and self._is_excluded(offset) and kind != MULTI and kind != EXEC:
            if kind == SELECT:
                return -self._bad(SELECT_EXCLUDED, self.gathered.head)
            return EXCLUDED
        if kind != FORWARD:
            kind = self._decide(kind, large)
        if kind != DROP and kind >= 0 and self.gathered.db < 0 and kind != MULTI and kind != EXEC and kind != SELECT:
            return -self._bad(NO_DATABASE, self.gathered.head)
        return kind

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

    cdef int _decide(self, int kind, bint large) noexcept:
        """What a command from the table becomes; see ``_kind_at_head``."""
        cdef int64_t argc = self.argc
        if kind == REFUSE:
            return -self._bad(REFUSED, self.gathered.head)
        if kind == MULTI or kind == EXEC:
            if argc != 1 or large or (kind == MULTI) == self.gathered.in_transaction:
                return -self._bad(NESTED_MULTI if kind == MULTI else STRAY_EXEC, self.gathered.head)
            return kind
        if SELECT <= kind <= FUNCTION and kind != SWAPDB:
            return self._decide_by_first(kind, large)
        if kind == SET:
            return SET if argc > 3 and (large or self._sets_expiry()) else FORWARD
        if kind == SETEX or kind == PSETEX or kind == GETEX:
            return kind if argc == 4 else FORWARD
        if kind == EXPIRE or kind == PEXPIRE or kind == HEXPIRE or kind == HPEXPIRE:
            return kind if argc >= 3 else FORWARD
        if kind == RESTORE:
            return RESTORE if argc >= 4 and (large or self._restores_relative()) else FORWARD
        return kind  # DROP, SWAPDB, RESTORE_ASKING

    cdef int _decide_by_first(self, int kind, bint large) noexcept:
        """The same for commands whose first argument tells."""
        cdef const uint8_t* first = NULL
        cdef Py_ssize_t size = -1
        cdef int64_t number = -1
        if self.argc > 1:
            if not self._first_argument(&first, &size):
                return -MORE
        if kind == SELECT:
            if large or self.argc != 2 or size < 0 or not _to_number(first, size, &number) or not 0 <= number <= INT32_MAX:
                return -self._bad(NOT_A_DATABASE, self.gathered.head)
            self.selected = number
            return SELECT
        if kind == REPLCONF:
            self.gathered.getack |= size >= 0 and _is_word(first, size, "GETACK")
            return DROP
        if kind == PUBLISH:
            return DROP if size == 18 and memcmp(first, <const char*> b"__sentinel__:hello", 18) == 0 else FORWARD
        return FUNCTION if self.argc == 3 and size >= 0 and _is_word(first, size, "LOAD") else FORWARD

    cdef bint _first_argument(self, const uint8_t** start, Py_ssize_t* size) noexcept:
        """Finds the argument behind the name; *size* stays -1 when it is larger than ``SMALL``; False: not here yet."""
        cdef const uint8_t* cursor = self.window + self.name + self.name_size + 2
        cdef uint64_t announced
        cdef int status = self._header(&cursor, c"$", NOT_AN_ARGUMENT, &announced)
        if status == WHOLE and announced <= SMALL:
            if <uint64_t> (self.window + self.tail - cursor) < announced:
                return False
            start[0] = cursor
            size[0] = <Py_ssize_t> announced
        return status != MORE  # wrong bytes are met again when the argument is passed on

    cdef bint _sets_expiry(self) noexcept:
        """Whether a whole SET carries an expiry that the target must not be given as it is."""
        cdef const uint8_t* header = self.window + self.name + self.name_size + 2
        cdef const uint8_t* option
        cdef Py_ssize_t size
        cdef int64_t i
        for i in range(1, self.argc):
            option = _argument(header, &size)
            if i > 2 and size == 2 and (_is_word(option, 2, "EX") or _is_word(option, 2, "PX")):
                return True
            if i > 2 and size == 4 and not self.pxat and (_is_word(option, 4, "EXAT") or _is_word(option, 4, "PXAT")):
                return True
            header = option + size + 2
        return False

    cdef bint _restores_relative(self) noexcept:
        """Whether a whole RESTORE has a TTL and no ABSTTL."""
        cdef const uint8_t* header = self.window + self.name + self.name_size + 2
        cdef const uint8_t* argument
        cdef Py_ssize_t size
        cdef int64_t ttl = 0
        cdef int64_t i
        for i in range(1, self.argc):
            argument = _argument(header, &size)
            if i == 2:
                _to_number(argument, size, &ttl)
            elif i > 3 and _is_word(argument, size, "ABSTTL"):
                return False
            header = argument + size + 2
        return ttl > 0

    # ------------------------------------------------------------------------------------------------------ the piece

    cdef void _begin_piece(self) noexcept:
        self.marked = False
        self.gathered.run = -1
        self.gathered.used = 0
        self.gathered.replies = 0
        self.gathered.commands = 0
        self.gathered.filtered = 0
        self.gathered.excluded = 0
        self.gathered.transactions = 0
        self.gathered.swaps = False
        self.gathered.getack = False

    cdef Piece _end_piece(self):
        cdef Piece piece = Piece.__new__(Piece)
        cdef Gathered* done = &self.gathered
        cdef int64_t offset
        cdef Py_ssize_t passed = 0
        if done.used == 0 and done.run >= 0:
            piece.data = PyBytes_FromStringAndSize(<char*> self.window + done.run, done.head - done.run)
        else:
            self._skip(done.head)  # closes the run
            piece.data = PyBytes_FromStringAndSize(<char*> self.output, done.used)
        piece.offsets = PyBytes_FromStringAndSize(<char*> self.offsets, done.replies * sizeof(uint64_t))
        offset = self.base + done.head
        piece.replies = done.replies
        piece.end_offset = offset
        piece.db = done.db
        piece.part = self.kind >= 0 and self.kind != DROP and self.kind != EXCLUDED
        piece.boundary = self.kind < 0 and not done.in_transaction
        piece.filtered = done.filtered
        piece.swaps = done.swaps
        piece.getack = done.getack
        self.commands += done.commands
        self.filtered += done.filtered
        self.excluded += done.excluded
        self.transactions += done.transactions
        while passed < self.exclusion_count and self.exclusions[passed] <= offset:
            passed += 1
        if passed > 0:
            self.exclusion_count -= passed
            memmove(self.exclusions, self.exclusions + passed, self.exclusion_count * sizeof(int64_t))
        if self.output_capacity > 2 * self.piece_bytes:
            PyMem_Free(self.output)
            self.output = NULL
            self.output_capacity = 0
        done.run = -1
        done.used = 0
        return piece

    cdef int _gather(self, Py_ssize_t start, Py_ssize_t max_bytes, Py_ssize_t max_commands) except -1:
        """Consumes commands until the piece is full; the Status says why it went no further."""
        cdef int status
        if self.kind >= 0:
            return self._advance(self.piece_bytes)
        while self._produced() < max_bytes and self.gathered.replies < max_commands:
            status = self._scan()
            if status == WHOLE:
                status = self._take()
            elif status == LARGE:
                if self._produced() > 0 or (self.marked and self.mark.head > start):
                    return FULL  # it gets pieces of its own
                return self._take_large()
            if status != WHOLE:
                return status
        if self.gathered.in_transaction and self._scan() == WHOLE:
            if classify(self.window + self.name, self.name_size) == EXEC:
                self._take()  # the piece ends where a checkpoint may stand
        return FULL

    cdef int _take(self) except -1:
        """Consumes the whole command at the head."""
        cdef Gathered* g = &self.gathered
        cdef int64_t offset = self.base + g.head + 1
        cdef int kind = self._kind_at_head(False)
        if kind < 0:
            return -kind
        if kind == FORWARD or kind == SELECT or kind == SWAPDB:
            if kind == SELECT:
                g.db = self.selected
            elif kind == SWAPDB:
                g.swaps = True
            self._push_offset(offset)
            self._keep(self.scan)
            g.commands += 1
        elif kind == MULTI:
            self.mark = g[0]
            self.marked = True
            self._skip(self.scan)
            self.after_multi = g.head
            g.in_transaction = True
        elif kind == EXEC:
            self._skip(self.scan)
            self.marked = False
            g.in_transaction = False
            g.transactions += 1
        elif kind == DROP or kind == EXCLUDED:
            self._skip(self.scan)
            g.commands += 1
            g.filtered += kind == DROP
            g.excluded += kind == EXCLUDED
        else:
            return self._edit(kind)
        self._forget_scan()
        return WHOLE

    cdef int _edit(self, int kind) except -1:
        """Consumes a whole command argument by argument."""
        cdef Gathered before = self.gathered
        cdef int status
        self._begin(kind, False)
        status = self._advance(PY_SSIZE_T_MAX)
        if status != WHOLE:
            self.gathered = before
            self.kind = -1
            self._forget_scan()
        return status

    cdef int _take_large(self) except -1:
        """Begins to pass on the command at the head."""
        cdef int kind = self._kind_at_head(True)
        if kind < 0:
            return -kind
        self._begin(kind, True)
        return self._advance(self.piece_bytes)

    cdef inline void _keep(self, Py_ssize_t end) noexcept:
        """Consumes bytes of the window up to *end*; they go on."""
        if self.gathered.run < 0:
            self.gathered.run = self.gathered.head
        self.gathered.head = end

    cdef int _skip(self, Py_ssize_t end) except -1:
        """Consumes bytes of the window up to *end*; they do not go on."""
        self._close_run()
        self.gathered.head = end
        return 0

    cdef int _close_run(self) except -1:
        cdef Py_ssize_t run = self.gathered.run
        if run >= 0:
            self.gathered.run = -1
            self._append(self.window + run, self.gathered.head - run)
        return 0

    cdef int _append(self, const void* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t wanted = self.gathered.used + size
        cdef uint8_t* grown
        if wanted > self.output_capacity:
            wanted = max(wanted, min(2 * self.output_capacity, self.piece_bytes), 4096)
            grown = <uint8_t*> PyMem_Realloc(self.output, wanted)
            if grown == NULL:
                raise MemoryError
            self.output = grown
            self.output_capacity = wanted
        memcpy(self.output + self.gathered.used, data, size)
        self.gathered.used += size
        return 0

    cdef inline Py_ssize_t _produced(self) noexcept:
        """Bytes of the piece so far."""
        return self.gathered.used + (self.gathered.head - self.gathered.run if self.gathered.run >= 0 else 0)

    cdef inline int _push_offset(self, int64_t offset) except -1:
        """Counts a command that ends in this piece."""
        cdef Py_ssize_t wanted
        cdef uint64_t* grown
        if self.gathered.replies == self.offsets_capacity:
            wanted = max(2 * self.offsets_capacity, 256)
            grown = <uint64_t*> PyMem_Realloc(self.offsets, wanted * sizeof(uint64_t))
            if grown == NULL:
                raise MemoryError
            self.offsets = grown
            self.offsets_capacity = wanted
        self.offsets[self.gathered.replies] = <uint64_t> offset
        self.gathered.replies += 1
        return 0

    # ---------------------------------------------------------------------------------------- argument by argument

    cdef int _begin(self, int kind, bint large) except -1:
        """Starts to pass the command at the head on; its name is consumed."""
        cdef Py_ssize_t end = self.name + self.name_size + 2
        cdef int64_t argc = self.argc
        self.kind = kind
        self.part_argc = argc
        self.part_index = 1
        self.part_offset = self.base + self.gathered.head + 1
        self.now_ms = self._received_at(self.gathered.head)
        self.left = 0
        self.unit = 0 if kind == SET or kind == GETEX else 1000 if kind in (SETEX, EXPIRE, HEXPIRE) else 1
        self.ignores_next = False
        self.expires_at = 0
        self.key_size = -1
        self.relative = kind < RESTORE or large or self._restores_relative()
        # the options of a large RESTORE come too late to say ABSTTL in place; PEXPIREAT is known to any target
        self.late = kind in (SET, SETEX, PSETEX, RESTORE, RESTORE_ASKING) and (not self.pxat or large and kind >= RESTORE)
        if kind == DROP or kind == EXCLUDED:
            return self._skip(end)
        if kind in (SETEX, PSETEX) and not self.late:
            return self._replace_head(end, 5, "SET")
        if kind == EXPIRE or kind == PEXPIRE:
            return self._replace_head(end, argc, "PEXPIREAT")
        if kind == HEXPIRE or kind == HPEXPIRE:
            return self._replace_head(end, argc, "HPEXPIREAT")
        if kind == GETEX:  # PEXPIREAT answers less, and any target has it
            return self._replace_head(end, 3, "PEXPIREAT")
        if kind >= RESTORE and self.relative and not self.late:
            return self._replace_head(end, argc + 1, "RESTORE")
        if kind == RESTORE_ASKING:
            return self._replace_head(end, argc, "RESTORE")
        if kind == FUNCTION:
            return self._replace_head(end, argc + 1, "FUNCTION")
        self._keep(end)
        return 0

    cdef int _advance(self, Py_ssize_t limit) except -1:
        """Passes on what is there of the command, until the piece holds *limit* bytes.

        Returns:
            WHOLE when the command has ended, otherwise MORE, FULL or BAD.
        """
        cdef int status
        while True:
            if self.left > 0:
                status = self._pass_bytes(limit)
            elif self.part_index == self.part_argc:
                return self._finish()
            elif self._produced() >= limit:
                return FULL
            else:
                status = self._next_argument()
            if status != WHOLE:
                return status

    cdef int _pass_bytes(self, Py_ssize_t limit) except -1:
        """Passes on bytes of the argument at the head; WHOLE at its end."""
        cdef Py_ssize_t available = self.tail - self.gathered.head
        cdef Py_ssize_t room = limit - self._produced()
        cdef Py_ssize_t size = <Py_ssize_t> min(self.left - 2, available)
        if size < self.left - 2 and size < min(PART_BYTES, self.piece_bytes):
            return MORE
        if size > room:
            size = max(room, 0)
        self._consume(self.gathered.head + size)
        self.left -= size
        if self.left > 2:
            return FULL if self._produced() >= limit else MORE
        if self.tail - self.gathered.head < 2:
            return MORE
        if not self._line_ends(self.gathered.head):
            return BAD
        self._consume(self.gathered.head + 2)
        self.left = 0
        self.part_index += 1
        return WHOLE

    cdef inline int _consume(self, Py_ssize_t end) except -1:
        if self.kind == DROP or self.kind == EXCLUDED:
            return self._skip(end)
        self._keep(end)
        return 0

    cdef inline bint _line_ends(self, Py_ssize_t index) noexcept:
        if self.window[index] == c"\r" and self.window[index + 1] == c"\n":
            return True
        self._bad(NO_LINE_END, index)
        return False

    cdef int _next_argument(self) except -1:
        """Passes on the header of the next argument, or all of it when it must be looked at."""
        cdef const uint8_t* cursor = self.window + self.gathered.head
        cdef Py_ssize_t payload, end
        cdef uint64_t announced
        cdef int status = self._header(&cursor, c"$", NOT_AN_ARGUMENT, &announced)
        if status != WHOLE:
            return status
        if announced > self.max_argument:
            return self._bad(ARGUMENT_TOO_LARGE, self.gathered.head)
        payload = cursor - self.window
        if not self._looks_at(announced):
            if self.kind == FUNCTION and self.part_index == 2:
                self._emit_word("REPLACE")
            self._consume(payload)
            self.left = <int64_t> announced + 2
            self.ignores_next = False
            return WHOLE
        if self.part_index > 1 and announced > SMALL:
            return self._bad(NOT_A_TIME, self.gathered.head)
        end = payload + <Py_ssize_t> announced + 2
        if self.tail < end:
            return MORE
        if not self._line_ends(end - 2):
            return BAD
        status = self._look(payload, <Py_ssize_t> announced, end)
        if status == WHOLE:
            self.part_index += 1
        return status

    cdef inline bint _looks_at(self, uint64_t size) noexcept:
        """Whether the next argument must be whole, because it decides something or is needed again."""
        cdef int64_t index = self.part_index
        if self.kind == SET and index > 2:
            return size <= SMALL or self.unit != 0
        if self.kind < SET:
            return False
        if index == 1:  # the key, for the PEXPIREAT behind; one that does not fit is not kept
            return self.late and size <= <uint64_t> self.piece_bytes
        if index == 2:
            return self.kind != SET
        return self.kind == GETEX or (self.kind >= RESTORE and index > 3 and size <= SMALL)

    cdef int _look(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1:
        """Passes on the argument from the head to *end* as its command needs it."""
        if self.part_index == 1:
            self._keep_key(payload, size)
            self._keep(end)
            return WHOLE
        if self.kind == SET and self.unit == 0:
            return self._look_at_set_option(payload, size, end)
        if self.kind == GETEX and self.part_index == 2:
            return self._look_at_getex_option(payload, size, end)
        if self.kind >= RESTORE and self.part_index > 3:
            if _is_word(self.window + payload, size, "ABSTTL"):
                self.expires_at = 0  # the TTL was absolute
            self._keep(end)
            return WHOLE
        return self._look_at_time(payload, size, end)

    cdef int _keep_key(self, Py_ssize_t payload, Py_ssize_t size) except -1:
        cdef uint8_t* grown
        if size > self.key_capacity or self.key == NULL:
            grown = <uint8_t*> PyMem_Realloc(self.key, max(size, 256))
            if grown == NULL:
                raise MemoryError
            self.key = grown
            self.key_capacity = max(size, 256)
        memcpy(self.key, self.window + payload, size)
        self.key_size = size
        return 0

    cdef int _look_at_set_option(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1:
        cdef const uint8_t* word = self.window + payload
        cdef bint seconds = _is_word(word, size, "EX") or _is_word(word, size, "EXAT")
        cdef bint absolute = _is_word(word, size, "EXAT") or _is_word(word, size, "PXAT")
        if self.ignores_next or not (seconds or absolute or _is_word(word, size, "PX")):
            self.ignores_next = not self.ignores_next and size >= 4 and _is_word(word, 2, "IF")  # IFEQ and its kin
            self._keep(end)
            return WHOLE
        self.unit = 1000 if seconds else 1
        self.relative = not absolute
        if not self.late:
            return self._replace_word(end, "PXAT")
        if absolute:
            return self._replace_word(end, "PX")
        self._keep(end)
        return WHOLE

    cdef int _look_at_getex_option(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1:
        cdef const uint8_t* word = self.window + payload
        cdef bint seconds = _is_word(word, size, "EX") or _is_word(word, size, "EXAT")
        self.relative = _is_word(word, size, "EX") or _is_word(word, size, "PX")
        if not (seconds or self.relative or _is_word(word, size, "PXAT")):
            return self._bad(NOT_A_TIME, self.gathered.head)
        self.unit = 1000 if seconds else 1
        self._skip(end)
        return WHOLE

    cdef int _look_at_time(self, Py_ssize_t payload, Py_ssize_t size, Py_ssize_t end) except -1:
        cdef int kind = self.kind
        cdef int64_t number, at
        if not _to_number(self.window + payload, size, &number):
            return self._bad(NOT_A_TIME, self.gathered.head)
        at = NEVER if number > NEVER // self.unit else max(number, -NEVER // self.unit) * self.unit
        # 0 would mean "no expiry" to RESTORE and is refused by the others
        at = max(at + (self.now_ms if self.relative else 0), 1)
        if kind == SET:
            self.unit = 0
        if kind >= RESTORE and (number <= 0 or not self.relative):
            self._keep(end)
        elif self.late:
            self.expires_at = at
            if self.relative:
                self._keep(end)
            else:
                self._replace_number(end, max(at - self.now_ms, 1))
        elif kind == SETEX or kind == PSETEX:
            self.expires_at = at  # SET wants it behind the value
            self._skip(end)
        else:
            self._replace_number(end, at)
        return WHOLE

    cdef int _finish(self) except -1:
        """Ends the command: what stands behind it, and the accounts."""
        cdef Gathered* g = &self.gathered
        cdef int kind = self.kind
        self.kind = -1
        self._forget_scan()
        g.commands += 1
        if kind == DROP:
            g.filtered += 1
            return WHOLE
        if kind == EXCLUDED:
            g.excluded += 1
            return WHOLE
        self._push_offset(self.part_offset)
        if self.expires_at > 0 and not self.late:
            self._emit_word("PXAT")
            self._emit_number(self.expires_at)
        elif self.expires_at > 0 and self.key_size < 0:
            self.relative_kept += 1
        elif self.expires_at > 0:
            self._emit_head(3, "PEXPIREAT")
            self._emit_text("$%lld\r\n", self.key_size)
            self._append(self.key, self.key_size)
            self._append(<const char*> b"\r\n", 2)
            self._emit_number(self.expires_at)
            self._push_offset(self.part_offset)
        elif kind >= RESTORE and self.relative and not self.late:
            self._emit_word("ABSTTL")
        return WHOLE

    cdef int _replace_head(self, Py_ssize_t end, int64_t argc, const char* name) except -1:
        """Another count of arguments and another name instead of what stands up to *end*."""
        self._skip(end)
        self._emit_head(argc, name)
        return WHOLE

    cdef int _replace_word(self, Py_ssize_t end, const char* word) except -1:
        self._skip(end)
        self._emit_word(word)
        return WHOLE

    cdef int _replace_number(self, Py_ssize_t end, int64_t number) except -1:
        self._skip(end)
        self._emit_number(number)
        return WHOLE

    cdef int _emit_head(self, int64_t argc, const char* name) except -1:
        self._emit_text("*%lld\r\n", argc)
        self._emit_word(name)
        return 0

    cdef int _emit_word(self, const char* word) except -1:
        """Writes *word* as an argument."""
        cdef Py_ssize_t size = strlen(word)
        self._emit_text("$%lld\r\n", size)
        self._append(word, size)
        self._append(<const char*> b"\r\n", 2)
        return 0

    cdef int _emit_number(self, int64_t number) except -1:
        """Writes *number* as an argument."""
        cdef char text[24]
        snprintf(text, 24, "%lld", <long long> number)
        self._emit_word(text)
        return 0

    cdef int _emit_text(self, const char* format, int64_t number) except -1:
        """Writes a header."""
        cdef char text[32]
        cdef int size = snprintf(text, 32, format, <long long> number)
        self._close_run()
        self._append(text, size)
        return 0
