# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, auto_pickle=False
"""Finds where the command at the head of the window ends, and what it is called.

Resumable, without Python objects: a command that comes byte by byte is looked at once.

Format: networking.c:processMultibulkBuffer, and processInlineBuffer for what is no command.
"""

from libc.stdint cimport INT32_MAX, int64_t, uint8_t, uint64_t

from portd.kernel.commandtable cimport MAX_NAME, Row, look_up
from portd.kernel.keypositions cimport Layout
from portd.kernel.piecebuffer cimport (
    EMPTY, LARGE, MORE, NAME_TOO_LONG, NO_LINE_END, NOT_A_COMMAND, NOT_A_LENGTH, TOO_MANY_ARGUMENTS, WHOLE, PieceBuffer,
    read_header,
)
from portd.kernel.resp cimport LINE_CUT, LINE_READ, SMALL, read_length


cdef class CommandScanner:
    """What is known of the command at the head; base of the splitter."""

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
            if cursor < end and (cursor[0] != c"*" or cursor[1] == c"-"):
                return self._scan_empty(cursor, end)
            status = read_header(buffer, c"*", &cursor, &size)
            if status != WHOLE:
                return status
            if size == 0:
                self.scan.next = cursor - head
                return EMPTY
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
        if size > MAX_NAME:
            return self._bad_command(NAME_TOO_LONG)
        self.scan.name = index
        self.scan.name_size = <Py_ssize_t> size
        return WHOLE

    cdef int _scan_empty(self, const uint8_t* cursor, const uint8_t* end) noexcept:
        """Reads what is no command at the head: an empty line, or a negative number of arguments."""
        cdef const uint8_t* behind = cursor + 2
        cdef uint64_t number = 0
        cdef int line
        if cursor[0] == c"*":
            line = read_length(&behind, end, &number)
            if line == LINE_CUT:
                return MORE
            if line != LINE_READ or number == 0:
                return self.buffer.bad(NOT_A_LENGTH, cursor - self.buffer.window)
        elif cursor[0] == c"\n":
            behind = cursor + 1
        elif cursor[0] != c"\r" or (end - cursor > 1 and cursor[1] != c"\n"):
            return self.buffer.bad(NOT_A_COMMAND, cursor - self.buffer.window)
        elif end - cursor < 2:
            return MORE
        self.scan.next = behind - self.buffer.window - self.buffer.cut.head
        return EMPTY

    cdef int _bad_command(self, int why) noexcept:
        """Notes what is wrong with the command at the head."""
        return self.buffer.bad(why, self.buffer.cut.head)

    cdef const Row* _row_at_head(self) noexcept:
        return look_up(&self.table.names, self.buffer.window + self.buffer.cut.head + self.scan.name, self.scan.name_size)

    cdef const Layout* _layout(self, const Row* row) noexcept:
        """Where the keys of a command stand."""
        return &self.table.keys.layouts[row.keys]

    cdef bytes _name(self):
        """The name of the scanned command, as it came."""
        cdef const uint8_t* name = self.buffer.window + self.buffer.cut.head + self.scan.name
        return name[: self.scan.name_size]

    cdef const uint8_t* _arguments(self) noexcept:
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
