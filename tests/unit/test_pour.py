"""Bytes into a decoder, and out of it what it makes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from portd.errors import DecodeError
from portd.feed.pour import pour, pour_into
from portd.kernel.handler import Handler
from portd.kernel.snapshot import SnapshotDecoder
from portd.link.glimpse import names
from tests.oracle.dialects import VALKEY_9
from tests.oracle.model import Entry, Group, Snapshot, StreamValue
from tests.oracle.rdbwrite import encode

KEYS = b"".join(b"\x00" + bytes([2]) + b"%02d" % number + b"\x01x" for number in range(50))
SNAPSHOT = b"REDIS0011" + KEYS + b"\xff" + bytes(8)


@pytest.mark.parametrize("size", [1, 7, 100, len(SNAPSHOT)])
def test_whatever_the_pieces_all_comes_out(size: int) -> None:
    """Every key is handed on once, however the bytes are cut."""
    decoder = SnapshotDecoder(VALKEY_9.dialect(), batch_bytes=64)
    found = [
        name
        for start in range(0, len(SNAPSHOT), size)
        for batch in pour(decoder, SNAPSHOT[start : start + size])
        for name in names(batch)
    ]
    assert found == [b"%02d" % number for number in range(50)]
    assert decoder.ended


def test_names_stand_where_commands_have_them() -> None:
    """A stream's groups are told by commands whose first argument is no key."""
    groups = {b"group": Group((1, 0), 1)}
    stream = StreamValue([((1, 0), [(b"f", b"v")])], 1, (1, 0), (1, 0), (0, 0), 1, groups)
    data = encode(Snapshot(valkey=True, version=80, entries=[Entry(0, b"s", 21, stream)]))
    older = replace(VALKEY_9, rdb_version=8, footer=8)  # takes no such value with RESTORE
    batches = list(pour(SnapshotDecoder(older.dialect()), data))
    assert any(b"XGROUP" in batch.data for batch in batches)
    assert {name for batch in batches for name in names(batch)} == {b"s"}


def test_what_is_behind_the_end_is_left() -> None:
    """A stream that follows in the same bytes is not decoded, however long: it would never fit the decoder."""
    decoder = SnapshotDecoder(Handler())
    data = SNAPSHOT + bytes(2 * decoder.window_bytes)
    assert list(pour(decoder, data)) == []
    assert (decoder.ended, decoder.offset) == (True, len(SNAPSHOT))


def test_what_is_made_before_an_error_is_handed_on() -> None:
    """Batches in front of corrupt bytes are valid."""
    poured = pour(SnapshotDecoder(VALKEY_9.dialect(), batch_bytes=64), b"REDIS0011" + KEYS + b"\xf0")
    assert names(next(poured))[0] == b"00"
    with pytest.raises(DecodeError):
        list(poured)


async def test_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding that takes long leaves the event loop to others in between."""
    monkeypatch.setattr("portd.feed.pour.TURN_SECONDS", -1.0)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    made = []

    async def put(batch: object) -> None:
        made.append(batch)

    counting = asyncio.create_task(count(), name="count")
    await pour_into(put, SnapshotDecoder(VALKEY_9.dialect(), batch_bytes=64), memoryview(SNAPSHOT))
    counting.cancel()
    assert len(made) > 5
    assert turns >= len(made)
