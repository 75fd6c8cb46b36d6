"""A splitter that is fed at once."""

from __future__ import annotations

import struct
from typing import Any

from portd.kernel.stream import Piece, StreamSplitter
from tests.oracle.resp import drain, pack

BASE = 1000  # replication offset of the byte before the streams here

MUCH = 1 << 30


def split(*commands: list[bytes], db: int = 0, **settings: Any) -> list[Piece]:
    """Pieces of a stream that is fed at once and asked for without limits."""
    splitter = StreamSplitter(BASE, db, **settings)
    data = b"".join(pack(command) for command in commands)
    assert splitter.feed(data, 0) == len(data)
    return drain(splitter)


def starts(piece: Piece) -> list[int]:
    """Offsets of the commands of a piece, counted from the stream's first byte."""
    return [offset - BASE - 1 for offset in struct.unpack(f"={piece.replies}Q", piece.offsets)]


def refusals(piece: Piece) -> list[tuple[str, int, bytes]]:
    """Commands, databases and keys that a piece left out as dead letters."""
    return [(each.command, each.db, each.key) for each in piece.refusals]
