"""The checkpoint: what moves or deletes it, and who else writes it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from portd.errors import TargetError, TargetLost
from portd.model import Position
from portd.target.kept.checkpoint import Checkpoint
from tests.fencing import put_checkpoint, stand
from tests.integration.applier.kit import FIRST, KEY, REPLID, Stream, Sync, data_of, running
from tests.loops import both_loops
from tests.servers import Server, wait_for

if TYPE_CHECKING:
    from tests.conftest import ServerFactory


@both_loops
async def test_checkpoint_survives_flush_and_swap(target: Server) -> None:
    """FLUSHALL and SWAPDB in the stream neither lose the checkpoint nor leave a copy of it in another database."""
    sync = Sync(target, stream := Stream(piece_bytes=1024), max_bytes=5_000)
    fill = "x" * 100
    async with running(sync):
        for large in (False, True):
            stream.write("SELECT", 0)
            stream.write("SET", "zero", "0")
            stream.write("SELECT", 1)
            stream.write("SET", "one", "1")
            await sync.caught_up()
            if large:
                stream.write("MULTI")
                for _ in range(200):
                    stream.write("SET", "fill", fill)
            stream.write("SWAPDB", 0, 1)
            if large:
                stream.write("EXEC")
            await sync.caught_up()
            assert target.client().exists("one", KEY) == 2
            assert target.client(db=1).exists("zero") == 1
            assert target.client(db=1).exists(KEY) == 0
            stream.write("FLUSHALL")
            await sync.caught_up()
            assert data_of(target) == set()
    assert target.client(db=1).dbsize() == 0


@both_loops
async def test_checkpoint_key_written_by_the_stream(target: Server) -> None:
    """Whatever the stream does to a key of the checkpoint's name, our checkpoint stands afterwards."""
    sync = Sync(target, stream := Stream())
    async with running(sync):
        for command in (("SET", KEY, "x"), ("HSET", KEY, "f", "v"), ("PEXPIREAT", KEY, 1), ("RENAME", KEY, "k")):
            stream.write(*command)
            await sync.caught_up()
    assert sorted(target.client().hkeys(KEY)) == sorted(name.encode() for name in sync.start.fields()[::2])  # type: ignore[union-attr]


@both_loops
async def test_flushed_target_is_noticed(target: Server) -> None:
    """A target that somebody flushed is told as such with the next group, which does not take effect."""
    sync = Sync(target, stream := Stream())

    async def attempt() -> None:
        async with running(sync):
            stream.write("INCR", "n")
            await sync.caught_up()
            target.client().flushall()
            stream.write("INCR", "n")

    with pytest.raises(TargetLost, match="checkpoint is gone"):
        await attempt()
    assert target.client().dbsize() == 0


@both_loops
async def test_second_writer_is_noticed(target: Server) -> None:
    """Two appliers on one link: the one that came second goes on, the first one stops without writing."""
    first, second = Sync(target, Stream()), Sync(target, Stream())

    async def takeover() -> None:
        async with running(first):
            first.stream.write("INCR", "first")
            await first.caught_up()
            second.start = first.applier.checkpoint
            second.stream.bytes[:] = first.stream.bytes
            second.stream.released = first.stream.end
            await stand(second.endpoint, second.epoch)
            task = asyncio.create_task(second.applier.run())
            await wait_for(second.applier.caught_up.is_set)
            second.stream.write("INCR", "second")
            await second.caught_up()
            first.stream.write("INCR", "first")
            second.stream.finish()
            await task

    with pytest.raises(TargetError, match="another portd"):
        await takeover()
    assert target.client().mget("first", "second") == [b"1", b"1"]


@both_loops
async def test_checkpoint_that_changed_since_it_was_read(target: Server) -> None:
    """An applier does not begin from a checkpoint that is not the one in the target."""
    for change in (Checkpoint(position=Position(REPLID, FIRST), epoch="other"), None):
        sync = Sync(target, Stream())
        found = change or Checkpoint(position=Position(REPLID, 5), epoch="before")
        await put_checkpoint(sync.endpoint, KEY, found, sync.epoch)
        with pytest.raises(TargetLost, match="changed by somebody else"):
            await sync.applier.run()
    target.client().delete(KEY)
    with pytest.raises(TargetLost, match="checkpoint is gone"):
        await Sync(target, Stream()).applier.run()


@both_loops
async def test_target_that_went_back_is_noticed(servers: ServerFactory) -> None:
    """A target restarted from an older file is told as such: what it lost has to come again from the source."""
    target = servers()
    sync = Sync(target, stream := Stream())

    async def attempt() -> None:
        async with running(sync):
            stream.write("INCR", "n")
            await sync.caught_up()
            target.client().save()
            stream.write("INCR", "n")
            await sync.caught_up()
            target.restart(crash=True)
            await asyncio.Event().wait()  # the applier notices

    with pytest.raises(TargetLost, match="went back"):
        await attempt()


@both_loops
async def test_restarted_target_is_continued(servers: ServerFactory) -> None:
    """A target that comes back with all its data is continued where it is."""
    target = servers()
    sync = Sync(target, stream := Stream())
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        target.client().save()
        target.restart(crash=True)
        stream.write("INCR", "n")
        await sync.caught_up()
    assert target.client().get("n") == b"2"
    assert sync.progress.lanes[0].connection.connects > 1
