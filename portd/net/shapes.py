"""The shapes of answers: whether what a server answers is what the question asks for.

Whoever answers may be no Redis or Valkey server at all, or a proxy that answers for one. What is asked over a connection
is checked here, by the name of the command, before anybody reads the answer: one of a wrong shape is an error of that end,
which says what was asked and what came, and never a `TypeError` somewhere behind.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import hiredis

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STRANGE: Final = "is that a Redis or Valkey server? a proxy in between may answer for it"
MOST_NUMBER: Final = 2**63 - 1  # no server counts further
MOST_DIGITS: Final = len(str(MOST_NUMBER))

Shape = tuple["Callable[[Any], bool]", str]


def _are(answer: object, kind: type) -> bool:
    return isinstance(answer, list) and all(isinstance(each, kind) for each in answer)


def _is_number(answer: object) -> bool:
    return isinstance(answer, int) and not isinstance(answer, bool)


def _is_page(answer: Any) -> bool:
    is_pair = isinstance(answer, list) and len(answer) == 2
    return is_pair and isinstance(answer[0], bytes) and answer[0].isdigit() and _are(answer[1], bytes)


def _are_rows(answer: Any) -> bool:
    return _are(answer, list) and all(each and isinstance(each[0], bytes) for each in answer)


_TEXT: Final[Shape] = (lambda answer: isinstance(answer, bytes), "a string belongs")
_TEXT_OR_NIL: Final[Shape] = (lambda answer: answer is None or isinstance(answer, bytes), "a string or nil belongs")
_NUMBER: Final[Shape] = (_is_number, "a number belongs")
_PAIRS: Final[Shape] = (lambda answer: _are(answer, bytes) and len(answer) % 2 == 0, "pairs of strings belong")
_TEXTS: Final[Shape] = (lambda answer: _are(answer, bytes), "a list of strings belongs")
_ROWS: Final[Shape] = (_are_rows, "a list of lists belongs")
_PAGE: Final[Shape] = (_is_page, "a cursor and a list of strings belong")
_NUMBERS: Final[Shape] = (
    lambda answer: isinstance(answer, list) and all(map(_is_number, answer)),
    "a list of numbers belongs",
)
_CLOCK: Final[Shape] = (
    lambda answer: _are(answer, bytes) and len(answer) == 2 and all(whole(each) is not None for each in answer),
    "two numbers belong",
)
_QUEUED: Final[Shape] = (lambda answer: answer == b"QUEUED", "QUEUED belongs")
_RESULTS: Final[Shape] = (lambda answer: answer is None or isinstance(answer, list), "a list or nil belongs")

SHAPES: Final[dict[bytes, Shape]] = {
    **dict.fromkeys((b"INFO", b"CLIENT LIST", b"ACL WHOAMI", b"MULTI", b"WATCH", b"UNWATCH", b"SELECT"), _TEXT),
    **dict.fromkeys((b"CLIENT SETNAME", b"SCRIPT LOAD", b"AUTH", b"PING"), _TEXT),
    **dict.fromkeys((b"HGET", b"DUMP"), _TEXT_OR_NIL),
    **dict.fromkeys(
        (b"EXISTS", b"DEL", b"UNLINK", b"HSET", b"PEXPIRE", b"PTTL", b"LLEN", b"DBSIZE", b"RPUSH"), _NUMBER
    ),
    **dict.fromkeys((b"CLIENT ID", b"PEXPIREAT", b"PEXPIRETIME"), _NUMBER),
    b"MEMORY USAGE": (lambda answer: answer is None or _is_number(answer), "a number or nil belongs"),
    **dict.fromkeys((b"HGETALL", b"CONFIG GET"), _PAIRS),
    b"BLPOP": (lambda answer: answer is None or _are(answer, bytes), "a list of strings or nil belongs"),
    b"COMMAND LIST": _TEXTS,
    **dict.fromkeys((b"COMMAND", b"FUNCTION LIST"), _ROWS),
    b"SCAN": _PAGE,
    b"SCRIPT EXISTS": _NUMBERS,
    b"TIME": _CLOCK,
    b"EXEC": _RESULTS,
}
_CONTAINERS: Final = {b"CLIENT", b"CONFIG", b"COMMAND", b"ACL", b"SCRIPT", b"MEMORY", b"FUNCTION"}


class Conversation:
    """What was asked over one connection, as far as it decides what has to be answered."""

    def __init__(self) -> None:
        self._queued: deque[bytes] | None = None  # of the open transaction

    def complaint(self, commands: Sequence[bytes], answers: Sequence[Any]) -> str:
        """What is wrong with the answers to commands, "" when nothing is; error replies never are.

        Args:
            commands: as they were sent, in order.
            answers: of each, as hiredis builds them.
        """
        for command, answer in zip(commands, answers, strict=True):
            if complaint := self._look(name_of(command), answer):
                return complaint
        return ""

    def _look(self, name: bytes, answer: Any) -> str:
        queued, is_error = self._queued, isinstance(answer, hiredis.ReplyError)
        if name in {b"EXEC", b"DISCARD"} or (name == b"MULTI" and not is_error):
            self._queued = None if name != b"MULTI" else deque()
        if is_error:
            return ""
        if queued is None or name == b"DISCARD":
            return complaint_about(name, answer)
        if name != b"EXEC":
            queued.append(name)
            return _complaint(name, answer, _QUEUED)
        if (complaint := complaint_about(name, answer)) or answer is None:
            return complaint
        if len(answer) != len(queued):
            return f"answers EXEC with {kind_of(answer)}, where one of {len(queued)} belongs"
        return next(
            (said for each, name in zip(answer, queued, strict=True) if (said := complaint_about(name, each))), ""
        )


def complaint_about(name: bytes, answer: Any) -> str:
    """What is wrong with the answer to one command outside of a transaction, "" when nothing is."""
    shape = SHAPES.get(name) or SHAPES.get(name.split(b" ", 1)[0])
    if shape is None or isinstance(answer, hiredis.ReplyError):
        return ""
    return _complaint(name, answer, shape)


def _complaint(name: bytes, answer: Any, shape: Shape) -> str:
    fits, wanted = shape
    return "" if fits(answer) else f"answers {name.decode('ascii', 'replace')} with {kind_of(answer)}, where {wanted}"


def name_of(command: bytes) -> bytes:
    """The name of a command, in upper case; with its second word where that is a part of it."""
    _, _, name, *rest = command.split(b"\r\n", 5)
    name = name.upper()
    if name in _CONTAINERS and len(rest) > 1:
        name += b" " + rest[1].upper()
    return name


def kind_of(answer: object) -> str:
    """What came, in words that hold nothing of its contents."""
    if isinstance(answer, list):
        return f"a list of {len(answer)}"
    if isinstance(answer, bytes):
        return f"a string of {len(answer)} bytes"
    kinds = {type(None): "nil", bool: "a boolean", int: "a number", float: "a float", dict: "a map"}
    return kinds.get(type(answer), "something else")


def whole(text: str | bytes, most: int = MOST_NUMBER) -> int | None:
    """A whole number of decimal digits up to *most*; None when it is anything else."""
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        return None
    number = int(text)
    return number if number <= most else None
