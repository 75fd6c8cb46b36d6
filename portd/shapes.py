"""The shapes of answers: each function takes an answer, makes sure that it is what the question asks for, and returns it.

Whoever answers may be no Redis or Valkey server at all, or a proxy that answers for one. An answer of a wrong type is an
error of that end, which says what was asked and what came; never a `TypeError` somewhere behind.
"""

from __future__ import annotations

from typing import Any, Final, TypeGuard, TypeVar

import hiredis

from portd.errors import SourceError, TargetError

HINT: Final = "is that a Redis or Valkey server? a proxy in between may answer for it"
_ENDS: Final = {TargetError: "the target", SourceError: "the source"}

ItemT = TypeVar("ItemT")
End = type[TargetError] | type[SourceError]


def text(answer: object, asked: str, end: End = TargetError) -> bytes:
    """A string, of either kind."""
    if isinstance(answer, bytes):
        return answer
    raise _wrong(answer, asked, "a string belongs", end)


def text_or_nil(answer: object, asked: str, end: End = TargetError) -> bytes | None:
    """A string, or nil where there is nothing."""
    if answer is None or isinstance(answer, bytes):
        return answer
    raise _wrong(answer, asked, "a string or nil belongs", end)


def number(answer: object, asked: str, end: End = TargetError) -> int:
    """An integer."""
    if _is_number(answer):
        return answer
    raise _wrong(answer, asked, "a number belongs", end)


def numbers(answer: object, asked: str, count: int, end: End = TargetError) -> list[int]:
    """That many integers."""
    if isinstance(answer, list) and len(answer) == count and all(map(_is_number, answer)):
        return answer
    raise _wrong(answer, asked, f"{count} numbers belong", end)


def texts(answer: object, asked: str, end: End = TargetError) -> list[bytes]:
    """Any number of strings."""
    if _are(answer, bytes):
        return answer
    raise _wrong(answer, asked, "a list of strings belongs", end)


def pairs(answer: object, asked: str, end: End = TargetError) -> list[bytes]:
    """Names and values, alternating."""
    if _are(answer, bytes) and len(answer) % 2 == 0:
        return answer
    raise _wrong(answer, asked, "pairs of strings belong", end)


def rows(answer: object, asked: str, end: End = TargetError) -> list[list[Any]]:
    """Any number of lists, each of which begins with a string (COMMAND)."""
    if _are(answer, list) and all(each and isinstance(each[0], bytes) for each in answer):
        return answer
    raise _wrong(answer, asked, "a list of lists belongs", end)


def page(answer: object, asked: str = "SCAN", end: End = TargetError) -> tuple[bytes, list[bytes]]:
    """A cursor, and strings (SCAN)."""
    if isinstance(answer, list) and len(answer) == 2:
        cursor, found = answer
        if isinstance(cursor, bytes) and cursor.isdigit() and _are(found, bytes):
            return cursor, found
    raise _wrong(answer, asked, "a cursor and a list of strings belong", end)


def kind_of(answer: object) -> str:
    """What came, in words that hold nothing of its contents."""
    if isinstance(answer, list):
        return f"a list of {len(answer)}"
    kinds: dict[type, str] = {
        type(None): "nil", bool: "a boolean", int: "a number", float: "a float", bytes: "a string", dict: "a map",
        set: "a set", hiredis.ReplyError: "an error",
    }  # fmt: skip
    return next((name for kind, name in kinds.items() if isinstance(answer, kind)), type(answer).__name__)


def _is_number(answer: object) -> TypeGuard[int]:
    return isinstance(answer, int) and not isinstance(answer, bool)


def _are(answer: object, kind: type[ItemT]) -> TypeGuard[list[ItemT]]:
    return isinstance(answer, list) and all(isinstance(each, kind) for each in answer)


def _wrong(answer: object, asked: str, wanted: str, end: End) -> TargetError | SourceError:
    who = next(name for kind, name in _ENDS.items() if issubclass(end, kind))
    return end(f"{who} answers {asked} with {kind_of(answer)}, where {wanted}", hint=HINT)
