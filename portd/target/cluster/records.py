"""The records of a cluster's slots: how far each slot is, ``<epoch> <history>:<offset>`` at a key that lies in it.

They are written by every transaction of the stream, and for all slots when a snapshot ends: one that is missing means that its
node has lost its data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.errors import TargetError
from portd.kernel.slotgroups import NO_RECORD, record_keys
from portd.net.resp import request
from portd.net.shapes import whole
from portd.target.connection import text_of
from portd.target.kept.checkpoint import MOST_OFFSET
from portd.target.kept.epoch import check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.target.connection import Connection

RECORDS: Final = "the records of slots"  # for messages
HISTORY: Final = 0  # the only source that a link has
AT_ONCE: Final = 4096  # records that are read or written in one go
BARRIER_SUFFIX: Final = ":barrier"  # of the key that says which barrier a node has behind it


def record_text(writer: str, offset: int) -> bytes:
    """What a record says."""
    return f"{writer} {HISTORY}:{offset}".encode()


def record_head(writer: str) -> bytes:
    """What stands in a record before the offset."""
    return f"{writer} {HISTORY}:".encode()


def parse_record(value: bytes | None, what: str) -> int:
    """The offset that a record says; `NO_RECORD` where there is none.

    Raises:
        TargetError: it is no record.
    """
    if value is None:
        return NO_RECORD
    writer, _, place = value.decode("utf-8", "replace").rpartition(" ")
    history, _, number = place.partition(":")
    offset = whole(number, MOST_OFFSET)
    if not writer or history != str(HISTORY) or offset is None:
        raise TargetError(
            f"{what} holds something that is no record", hint="delete the link's checkpoint to start with a full sync"
        )
    return offset


async def read_records(connection: Connection, prefix: str, slots: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Slots of a node, and what their records say; `NO_RECORD` for those that are missing.

    Raises:
        Disconnected: the connection was lost.
        TargetBusy: the node refuses for now.
        TargetError: it refuses, or what is there is no record.
    """
    found: list[tuple[int, int]] = []
    for first, last in portions(slots):
        keys = record_keys(prefix.encode(), first, last)
        answers = await connection.ask(*(request("GET", key) for key in keys))
        for number, answer in enumerate(answers):
            if text_of(answer):
                check(answer, RECORDS, keys[number].decode())
            found.append((first + number, parse_record(answer, f"the key {keys[number].decode()!r}")))
    return found


async def write_records(
    connection: Connection, prefix: str, slots: Sequence[tuple[int, int]], writer: str, offset: int
) -> None:
    """Writes the records of a node's slots anew. The connection is one that whoever takes the link ends.

    Raises:
        Disconnected: the connection was lost; some may be written.
        TargetBusy: the node refuses for now.
        TargetError: it refuses.
    """
    text = record_text(writer, offset)
    for first, last in portions(slots):
        keys = record_keys(prefix.encode(), first, last)
        for answer in await connection.ask(*(request("SET", key, text) for key in keys)):
            if text_of(answer):
                check(answer, RECORDS)


def portions(slots: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of slots, none of them too large."""
    return [
        (begin, min(last, begin + AT_ONCE - 1)) for first, last in slots for begin in range(first, last + 1, AT_ONCE)
    ]
