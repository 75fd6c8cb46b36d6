"""RESP requests: finding the commands inside bytes that were sent.

Splitting happens only after the target refused something, to say what it was; the hot path never looks inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_KEY = frozenset(b"FUNCTION SCRIPT FLUSHALL FLUSHDB SWAPDB SELECT PUBLISH SPUBLISH MULTI EXEC DISCARD PING".split())
SECOND_ARGUMENT = frozenset(b"XGROUP BITOP OBJECT XINFO MEMORY".split())
SCRIPTS = frozenset(b"EVAL EVALSHA FCALL".split())


@dataclass(frozen=True, slots=True)
class Command:
    """A command inside a buffer.

    Attributes:
        name: upper case.
        key: its first key; b"" when it has none.
        start: index of its first byte.
        end: index behind its last byte.
        keys: how many keys it writes (MSET: all of them).
        second: its second argument, b"" when there is none (database of a SELECT, elements start here for RPUSH).
        arguments: number of arguments, the name included.
    """

    name: bytes
    key: bytes
    start: int
    end: int
    keys: int
    second: bytes
    arguments: int

    @property
    def title(self) -> str:
        """The name as text, for messages."""
        return self.name.decode("ascii", "replace")


def split(data: bytes) -> Iterator[Command]:
    """The commands of *data*, which begins and ends on command boundaries, or ends inside a command.

    A command that is cut at the end is not told.

    Raises:
        ValueError: the bytes are not RESP requests.
    """
    position = 0
    while position < len(data):
        command, whole = _read(data, position)
        if not whole:
            return
        yield command
        position = command.end


def head(data: bytes) -> Command:
    """The first command of *data*, as far as it is there: a name or key that is cut is b"".

    Raises:
        ValueError: the bytes are not a RESP request.
    """
    return _read(data, 0)[0]


def _read(data: bytes, start: int) -> tuple[Command, bool]:
    """The command at *start*, and whether it is there whole."""
    words: list[bytes] = []
    count, position, whole = 0, start, True
    try:
        count, position = _header(data, start, b"*")
        for index in range(count):
            size, position = _header(data, position, b"$")
            if position + size + 2 > len(data):
                whole = False
                break
            if index < 4:  # the name and where a key can be
                words.append(data[position : position + size])
            position += size + 2
    except _CutError:
        whole = False
    return _describe(words, count, start, position), whole


class _CutError(Exception):
    """The buffer ends inside a header."""


def _header(data: bytes, position: int, mark: bytes) -> tuple[int, int]:
    """The number of a ``*n`` or ``$n`` line, and where the next byte is."""
    end = data.find(b"\r\n", position)
    if end < 0:
        raise _CutError
    if data[position : position + 1] != mark:
        raise ValueError("not a RESP request")
    return int(data[position + 1 : end]), end + 2


def _describe(words: list[bytes], count: int, start: int, end: int) -> Command:
    name = words[0].upper() if words else b""
    where = 1
    if name in SECOND_ARGUMENT:
        where = 2
    elif name in SCRIPTS:
        where = 3 if words[2:3] not in ([b"0"], []) else count
    elif name in NO_KEY:
        where = count
    return Command(
        name=name,
        key=words[where] if where < len(words) else b"",
        start=start,
        end=end,
        keys=count // 2 if name in {b"MSET", b"MSETNX"} else int(where < count),
        second=words[1] if len(words) > 1 else b"",
        arguments=count,
    )
