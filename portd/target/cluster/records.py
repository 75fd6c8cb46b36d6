"""The records of a cluster's slots: how far each slot is, ``<epoch> <history>:<offset>`` at a key that lies in it.

Where keys are owed to a slot (docs/design/0009), ``:<database>:<name>,...`` stands behind that, names in hexadecimal digits: an older
portd takes that for no record, and so does not forget them.

They are written by every transaction of the stream, and for all slots when a snapshot ends: one that is missing means that its
node has lost its data. While a snapshot is applied, ``snapshot`` stands in the place of the offset, from before its first key: what
the link's hash says of it may be lost with a node that has nothing of the slot.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from portd.errors import TargetError
from portd.kernel.slotgroups import NO_RECORD, record_keys
from portd.net.resp import request
from portd.net.shapes import whole
from portd.target.connection import text_of
from portd.target.kept.checkpoint import MOST_OFFSET
from portd.target.kept.epoch import check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from portd.target.connection import Connection

RECORDS: Final = "the records of slots"  # for messages
KEY: Final = re.compile("[0-9]{1,10}:(?:[0-9a-f]{2})*")  # that is owed
HISTORY: Final = 0  # the only source that a link has
COPIED: Final = -2  # in the place of an offset: the slot has a part of a snapshot, or all of one that has not ended
_COPIED: Final = "snapshot"  # the same in a record
AT_ONCE: Final = 4096  # records that are read or written in one go
BARRIER_SUFFIX: Final = ":barrier"  # of the key that says which barrier a node has behind it


class Record(NamedTuple):
    """What the record of a slot says.

    Attributes:
        slot: it.
        offset: how far it is; `NO_RECORD` where there is none, or `COPIED`.
        owed: keys that are owed to it, as `portd.target.cluster.owing` writes them.
    """

    slot: int
    offset: int
    owed: bytes = b""


def record_text(writer: str, offset: int, owed: bytes = b"") -> bytes:
    """What a record says; of an offset or `COPIED`."""
    return f"{writer} {HISTORY}:{_COPIED if offset == COPIED else offset}".encode() + (b":" + owed if owed else b"")


def record_head(writer: str) -> bytes:
    """What stands in a record before the offset."""
    return f"{writer} {HISTORY}:".encode()


def parse_record(value: bytes | None, what: str) -> tuple[int, bytes]:
    """The offset that a record says, `NO_RECORD` where there is none or `COPIED`, and the keys that it names.

    Raises:
        TargetError: it is no record.
    """
    if value is None:
        return NO_RECORD, b""
    writer, _, place = value.decode("utf-8", "replace").rpartition(" ")
    history, _, rest = place.partition(":")
    number, behind, owed = rest.partition(":")
    offset = COPIED if number == _COPIED else whole(number, MOST_OFFSET)
    names = owed.split(",") if behind else []
    if not writer or history != str(HISTORY) or offset is None or not all(map(KEY.fullmatch, names)):
        raise TargetError(
            f"{what} holds something that is no record", hint="delete the link's checkpoint to start with a full sync"
        )
    return offset, owed.encode()


async def read_records(connection: Connection, prefix: str, slots: Sequence[tuple[int, int]]) -> list[Record]:
    """What the records of slots of a node say.

    Raises:
        Disconnected: the connection was lost.
        TargetBusy: the node refuses for now.
        TargetError: it refuses, or what is there is no record.
    """
    found: list[Record] = []
    for first, last in portions(slots):
        keys = record_keys(prefix.encode(), first, last)
        answers = await connection.ask(*(request("GET", key) for key in keys))
        for number, answer in enumerate(answers):
            if text_of(answer):
                check(answer, RECORDS, keys[number].decode())
            found.append(Record(first + number, *parse_record(answer, f"the key {keys[number].decode()!r}")))
    return found


async def write_records(
    connection: Connection,
    prefix: str,
    slots: Sequence[tuple[int, int]],
    writer: str,
    offset: int,
    owed: Mapping[int, bytes] | None = None,
) -> None:
    """Writes the records of a node's slots anew. The connection is one that whoever takes the link ends.

    Args:
        connection: to the node.
        prefix: what the keys of records begin with.
        slots: ranges of them.
        writer: of records.
        offset: that all of them say; or `COPIED`.
        owed: keys that they name, by slot.

    Raises:
        Disconnected: the connection was lost; some may be written.
        TargetBusy: the node refuses for now.
        TargetError: it refuses.
    """
    named = owed or {}
    for first, last in portions(slots):
        keys = enumerate(record_keys(prefix.encode(), first, last), first)
        commands = (request("SET", key, record_text(writer, offset, named.get(slot, b""))) for slot, key in keys)
        for answer in await connection.ask(*commands):
            if text_of(answer):
                check(answer, RECORDS)


def portions(slots: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of slots, none of them too large."""
    return [
        (begin, min(last, begin + AT_ONCE - 1)) for first, last in slots for begin in range(first, last + 1, AT_ONCE)
    ]
