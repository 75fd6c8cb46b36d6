"""Counts replies without looking at them: the hot path of everything that comes back from the target.

A lane needs to know how many replies came and which of them were errors. Nearly all are short lines (``+OK``,
``:12``, ``+QUEUED``), and a run of those is counted by counting line feeds, at memory speed. Bulk strings are skipped
byte by byte, never held; arrays are counted element by element, never built: a reply may be of any size.

`ReplyCounter` is the seam where a compiled counter can take over: everything behind it sees only ``feed``, ``want``,
``replies``, ``notes`` and ``values``.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

MAX_DEPTH: Final = 32  # nesting of arrays
MAX_LINE: Final = 64 * 1024  # bytes of a line or of a wanted value; more is not an answer to what we send
MAX_ELEMENT_NOTES: Final = 16384  # errors noted inside one array; more are counted

_MARKS: Final = (b"\n-", b"\n$", b"\n*")  # lines that are more than a plain reply


class ReplyFormatError(Exception):
    """What the target sent is not RESP2."""


class Note(NamedTuple):
    """A reply that is more than an acknowledgement.

    Attributes:
        reply: number of the reply, from 0 on the connection.
        element: index inside the reply when that is an array (of EXEC), -1 for the reply itself.
        text: the error without its ``-``; None for nil.
    """

    reply: int
    element: int
    text: str | None


class ReplyCounter:
    """Counts the top-level replies of one connection.

    Attributes:
        replies: complete replies so far.
        notes: errors, errors inside arrays, and top-level nils, in order; the reader removes what it has seen.
        values: what `want` asked for, by reply number.
        unnoted: errors inside arrays beyond ``MAX_ELEMENT_NOTES`` of one reply.
    """

    __slots__ = ("_element", "_noted", "_skip", "_stack", "_tail", "_wanted", "notes", "replies", "unnoted", "values")

    def __init__(self) -> None:
        self.replies = 0
        self.notes: deque[Note] = deque()
        self.values: dict[int, bytes | int | None] = {}
        self.unnoted = 0
        self._wanted: deque[int] = deque()  # reply numbers, ascending
        self._tail = b""  # an incomplete line
        self._skip = 0  # bytes of a bulk string, its line end included, that are still to come
        self._stack: list[int] = []  # elements to come, per open array
        self._element = 0  # elements seen of the outermost array
        self._noted = 0  # notes about the current array

    def want(self, reply: int) -> None:
        """Keeps the value of a reply that is still to come: an integer, a line, a short bulk string, the length of an
        array, None for nil. Errors are noted as ever. Numbers must be told in ascending order.
        """  # noqa: D205
        self._wanted.append(reply)

    def feed(self, data: bytes) -> None:
        """Takes bytes as they were received.

        Raises:
            ReplyFormatError: they are not RESP2; the counter cannot go on.
        """
        if self._tail:
            data = self._tail + data
            self._tail = b""
        size = len(data)
        position = 0
        if self._skip:
            position = min(self._skip, size)
            self._skip -= position
            if self._skip:
                return
            self._complete(1)
        marks = [-1, -1, -1]  # where the next line of each kind begins; size when there is none
        while position < size:
            if data[position] == 36:  # $
                position = self._bulks(data, position, size)
                if position == size:
                    return
            special = position if data[position] in b"-$*" else self._find(data, position, marks)
            lines = data.count(b"\n", position, special)
            if lines:
                position = self._plain(data, position, special, lines)
            if position != special:
                self._keep(data, position)
                return
            if special < size:
                position = self._special(data, position)
                if position < 0:
                    return

    # -- inside

    @staticmethod
    def _find(data: bytes, position: int, marks: list[int]) -> int:
        """Index of the next line that is not plain; *marks* remembers, so that every byte is searched once."""
        for index, mark in enumerate(_MARKS):
            if marks[index] < position:
                found = data.find(mark, position)
                marks[index] = found + 1 if found >= 0 else len(data)
        return min(marks)

    def _plain(self, data: bytes, position: int, end: int, lines: int) -> int:
        """Counts *lines* plain lines; returns where the next byte is."""
        if not self._wanted or self._reach(lines) <= self._wanted[0]:
            self._complete(lines)
            return data.rindex(b"\n", position, end) + 1
        for _ in range(lines):
            after = data.index(b"\n", position) + 1
            if self._is_wanted():
                line = data[position + 1 : after - 2]
                self._value(int(line) if data[position : position + 1] == b":" else line)
            self._complete(1)
            position = after
        return position

    def _reach(self, lines: int) -> int:
        """How many replies will be complete after that many plain lines."""
        open_lines = sum(self._stack) - len(self._stack) + 1 if self._stack else 0  # until the outermost array is whole
        if lines < open_lines:
            return self.replies
        return self.replies + lines - open_lines + bool(self._stack)

    def _bulks(self, data: bytes, position: int, size: int) -> int:
        """Skips a run of bulk strings that are there whole and not wanted; returns where the next byte is."""
        count = 0
        room = self._stack[-1] if self._stack else self._wanted[0] - self.replies if self._wanted else size
        while count < room and position < size and data[position] == 36:
            end = data.find(b"\r\n", position, position + 24)
            if end < 0 or data[position + 1] == 45:  # incomplete, or nil
                break
            try:
                after = end + 4 + int(data[position + 1 : end])
            except ValueError:
                break  # told by who looks closer
            if after > size:
                break
            position = after
            count += 1
        self._complete(count)
        return position

    def _special(self, data: bytes, position: int) -> int:
        """Takes an error, bulk string or array header; returns where the next byte is, -1 when more are needed."""
        end = data.find(b"\n", position)
        if end < 0:
            self._keep(data, position)
            return -1
        kind = data[position : position + 1]
        if kind == b"-":
            self._note(data[position + 1 : end - 1].decode("utf-8", "backslashreplace"))
            self._complete(1)
            return end + 1
        try:
            count = int(data[position + 1 : end - 1])
        except ValueError:
            raise ReplyFormatError("a length is not a number") from None
        if count < 0:
            self._nil()
            return end + 1
        if kind == b"*":
            self._open(count)
            return end + 1
        return self._bulk(data, position, end + 1, count)

    def _bulk(self, data: bytes, position: int, body: int, count: int) -> int:
        end = body + count + 2
        if self._is_wanted():
            if count > MAX_LINE:
                raise ReplyFormatError("a value is longer than anything asked for")
            if end > len(data):
                self._tail = data[position:]
                return -1
            self._value(data[body : body + count])
        if end > len(data):
            self._skip = end - len(data)
            return -1
        self._complete(1)
        return end

    def _open(self, count: int) -> None:
        """Begins an array."""
        if self._is_wanted():
            self._value(count)
        if not count:
            self._complete(1)
            return
        if len(self._stack) == MAX_DEPTH:
            raise ReplyFormatError("arrays are nested too deeply")
        if not self._stack:
            self._element = self._noted = 0
        self._stack.append(count)

    def _nil(self) -> None:
        if self._is_wanted():
            self._value(None)
        if not self._stack:
            self.notes.append(Note(self.replies, -1, None))
        self._complete(1)

    def _note(self, text: str) -> None:
        if not self._stack:
            if self._is_wanted():
                self._wanted.popleft()
            self.notes.append(Note(self.replies, -1, text))
        elif self._noted < MAX_ELEMENT_NOTES:
            self._noted += 1
            self.notes.append(Note(self.replies, self._element, text))
        else:
            self.unnoted += 1

    def _is_wanted(self) -> bool:
        return bool(self._wanted) and not self._stack and self._wanted[0] == self.replies

    def _value(self, value: bytes | int | None) -> None:
        self.values[self._wanted.popleft()] = value

    def _complete(self, count: int) -> None:
        """*count* replies are complete at the current depth."""
        stack = self._stack
        while stack:
            taken = min(stack[-1], count)
            if len(stack) == 1:
                self._element += taken
            stack[-1] -= taken
            count -= taken
            if stack[-1]:
                return
            stack.pop()
            count += 1  # the array itself
        self.replies += count

    def _keep(self, data: bytes, position: int) -> None:
        """Remembers an incomplete line."""
        if len(data) - position > MAX_LINE:
            raise ReplyFormatError("a line does not end")
        if data[position] not in b"+:-$*":
            raise ReplyFormatError("a reply begins with an unknown byte")
        self._tail = data[position:]
