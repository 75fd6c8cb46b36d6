"""The stream on its way from the spool to the applier: what is in memory is handed out without waiting, also ahead of need."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from portd.feed.stream import StreamFeed
from portd.kernel.commandtable import CommandTable
from portd.model import StreamProgress
from portd.net.resp import request
from portd.spool import Spool
from tests.servers import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from portd.target.capabilities import StreamForms

OFFSET = 1000  # replication offset of the byte before the first
BUFFER_BYTES = 4096
MUCH = 1 << 30
COMMANDS = [request("SET", f"key:{number:04}", "x" * 100) for number in range(1000)]


@contextmanager
def feed_of(directory: Path | None, progress: StreamProgress | None = None) -> Iterator[tuple[Spool, StreamFeed]]:
    """A feed over a small spool."""
    spool = Spool(
        memory_bytes=16 * BUFFER_BYTES, directory=directory, max_disk_bytes=1 << 20, buffer_bytes=BUFFER_BYTES
    )
    forms: StreamForms = {
        "pxat": True, "entries_read": True, "unlink": True,
        "commands": CommandTable(), "databases": 0, "own": b"", "stops": False,
        "rules": None, "mapping": None, "blocked": frozenset(), "owes": False, "border": None, "parted": False,
    }  # fmt: skip
    try:
        yield spool, StreamFeed(spool, progress or StreamProgress(), index=0, offset=OFFSET, db=0, forms=forms)
    finally:
        spool.close()


def receive(spool: Spool, data: bytes) -> None:
    """Puts bytes into the spool as the link does."""
    view = memoryview(data)
    while view:
        room = spool.get_buffer()
        count = min(len(room), len(view))
        room[:count] = view[:count]
        spool.commit(count)
        view = view[count:]


def ready(feed: StreamFeed) -> bytes:
    """All that can be had without waiting."""
    taken = []
    while (piece := feed.pending(MUCH, MUCH)) is not None:
        taken.append(piece.data)
    return b"".join(taken)


async def spill(spool: Spool) -> None:
    """Receives all commands; the spool takes most of them to disk."""
    for command in COMMANDS:
        await wait_for(lambda: not spool.full)
        receive(spool, command)


async def rest(feed: StreamFeed, size: int) -> bytes:
    """The next *size* bytes, waited for."""
    taken = b""
    while len(taken) < size:
        piece = await feed.next_piece(MUCH, MUCH)
        assert piece is not None
        taken += piece.data + ready(feed)
    return taken


async def test_takes_all_chunks_in_memory_without_waiting() -> None:
    """A group grows over any number of chunks; a command that is not whole yet waits for its rest."""
    stream = b"".join(COMMANDS[:300])
    cut = 7 * BUFFER_BYTES
    with feed_of(None) as (spool, feed):
        receive(spool, stream[:cut])
        taken = ready(feed)
        assert spool.cursor == cut
        assert stream.startswith(taken)
        assert cut - len(taken) < len(COMMANDS[0])
        assert feed.pending(MUCH, MUCH) is None
        receive(spool, stream[cut:])
        assert taken + await rest(feed, len(stream) - len(taken)) == stream


async def test_respects_the_room_of_a_group() -> None:
    """Not one command more than there is room for is handed out, however much is there."""
    with feed_of(None) as (spool, feed):
        receive(spool, b"".join(COMMANDS[:200]))
        counts = [piece.replies for _ in range(3) if (piece := feed.pending(MUCH, 20))]
        assert counts == [20, 10, 20]  # a piece ends where the chunk does
        assert spool.cursor == 2 * BUFFER_BYTES


async def test_waits_for_what_is_on_disk(tmp_path: Path) -> None:
    """What was spilled is not there at once; asking for it begins to load it."""
    stream = b"".join(COMMANDS)
    with feed_of(tmp_path) as (spool, feed):
        await spill(spool)
        assert spool.statistics().disk_bytes > BUFFER_BYTES
        taken = ready(feed)
        assert 0 < len(taken) < len(stream)
        assert taken + await rest(feed, len(stream) - len(taken)) == stream


async def test_rewinds_behind_what_was_taken_ahead() -> None:
    """Pieces that were taken ahead come again after a failure, from the first byte that was not committed."""
    with feed_of(None) as (spool, feed):
        receive(spool, b"".join(COMMANDS[:300]))
        first = feed.pending(MUCH, 20)
        assert first is not None
        feed.release(first.end_offset)
        ahead = ready(feed)
        feed.rewind(first.end_offset, 0)
        assert ready(feed) == ahead == b"".join(COMMANDS[20:300])


async def test_tells_what_ends_the_stream_only_when_asked_for_more() -> None:
    """Looking ahead raises nothing of the link's: what was received is applied first."""
    with feed_of(None) as (spool, feed):
        receive(spool, COMMANDS[0])
        spool.end(ConnectionResetError("the link is gone"))
        assert ready(feed) == COMMANDS[0]
        with pytest.raises(ConnectionResetError):
            await feed.next_piece(MUCH, MUCH)


async def test_counts_what_comes_again_once() -> None:
    """However pieces are cut after a rewind, each command is read once; the counter never goes back."""
    progress = StreamProgress()
    with feed_of(None, progress) as (spool, feed):
        receive(spool, b"".join(COMMANDS[:300]))
        first = feed.pending(MUCH, 20)
        assert first is not None
        progress.commands_applied = first.replies
        ready(feed)
        assert progress.commands_read == 300
        for room in (7, 13, MUCH):
            feed.rewind(first.end_offset, 0)
            counts = []
            while (piece := feed.pending(MUCH, room)) is not None:
                counts.append(piece.replies)
                assert progress.commands_read == 300
            assert sum(counts) == 280


async def test_what_is_not_handed_out_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest byte counts: in the spool, in a command that is not whole, and again after a rewind; 0 only for none."""
    now = 100.0
    monkeypatch.setattr(time, "time", lambda: now)
    with feed_of(None) as (spool, feed):
        assert feed.waiting_since == 0
        receive(spool, COMMANDS[0])
        assert feed.waiting_since == 100
        assert ready(feed) == COMMANDS[0]
        assert feed.waiting_since == 0
        now = 101.0
        receive(spool, COMMANDS[1] + COMMANDS[2][:30])
        assert ready(feed) == COMMANDS[1]
        assert feed.waiting_since == 101  # the beginning of a command, though the applier has nothing to do
        now = 102.0
        receive(spool, COMMANDS[2][30:60])
        assert ready(feed) == b""
        assert feed.waiting_since == 101
        receive(spool, COMMANDS[2][60:])
        assert ready(feed) == COMMANDS[2]
        assert feed.waiting_since == 0
        feed.rewind(OFFSET, 0)
        assert feed.waiting_since == 100


async def test_what_is_on_disk_waits_too(tmp_path: Path) -> None:
    """Bytes that are not in memory are not there at once, and have not gone either."""
    begun = time.time()
    with feed_of(tmp_path) as (spool, feed):
        await spill(spool)
        taken = ready(feed)
        assert spool.cursor < spool.written, "all of it was in memory"
        assert begun <= feed.waiting_since <= time.time()
        await rest(feed, sum(map(len, COMMANDS)) - len(taken))
        assert feed.waiting_since == 0


def test_what_is_read_again_for_a_part_of_the_target_counts_once() -> None:
    """It comes in pieces that end where it ended, however it is cut before that; what follows is new, and counts."""
    progress = StreamProgress()
    with feed_of(None, progress) as (spool, feed):
        receive(spool, b"".join(COMMANDS[:30]))
        first = feed.pending(MUCH, 10)
        assert first is not None
        while (piece := feed.pending(MUCH, 7)) is not None:
            last = piece.end_offset
        assert progress.commands_read == 30
        receive(spool, b"".join(COMMANDS[30:40]))
        feed.reread(first.end_offset, 0)
        ends, data = [], b""
        while (piece := feed.pending(MUCH, 1000)) is not None:
            ends.append(piece.end_offset)
            data += piece.data
            assert progress.commands_read == (30 if piece.end_offset <= last else 40)
        assert data == b"".join(COMMANDS[10:40])
        assert last in ends
