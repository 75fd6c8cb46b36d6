"""Databases that the target does not have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from portd.errors import TargetRejected
from portd.target.kept.checkpoint import read_checkpoint
from tests.integration.applier.kit import FIRST, KEY, Stream, Sync, data_of, running
from tests.loops import both_loops

if TYPE_CHECKING:
    from tests.conftest import ServerFactory


@both_loops
async def test_commands_of_a_missing_database_land_nowhere(servers: ServerFactory) -> None:
    """A SELECT is tried before a transaction needs it; what is behind one that fails are dead letters, the rest goes on."""
    target = servers(databases=5)
    sync = Sync(target, stream := Stream())
    async with running(sync):
        stream.write("SELECT", 4)
        stream.write("SET", "k", "*2\r\n$6\r\nSELECT\r\n$2\r\n77\r\n")  # a value that looks like a SELECT
        stream.write("select", 5)
        misplaced = stream.write("SET", "misplaced", "x")
        stream.write("SWAPDB", 0, 20)
        stream.write("SELECT", 0)
        stream.write("SET", "behind", "x")
        stream.write("SWAPDB", 1, 2)
        stream.write("SET", "last", "x")
        await sync.caught_up()
    found = {db: data_of(target, db) for db in range(5)}
    assert found == {0: {b"behind", b"last"}, 1: set(), 2: set(), 3: set(), 4: {b"k"}}
    assert [(letter.db, letter.command, letter.key) for letter in sync.letters.kept] == [
        (5, "SET", b"misplaced"),
        (5, "SWAPDB", b""),
    ]
    assert sync.letters.kept[0].offset == misplaced
    done = sync.progress.stream
    assert (done.commands_applied, done.commands_failed, done.commands_filtered) == (6, 2, 1)


@both_loops
async def test_a_checkpoint_in_a_missing_database(servers: ServerFactory) -> None:
    """A stream that goes on there, as after a snapshot that says so, writes nothing anywhere until another is selected."""
    target = servers(databases=5)
    sync = Sync(target, stream := Stream())
    sync.start = replace(sync.start, db=20)
    stream.rewind(FIRST, 20)
    async with running(sync):
        stream.write("SET", "k", "x")
        stream.write("FLUSHALL")
        await sync.caught_up()
        assert sync.applier.checkpoint.db == 20
        stream.write("SELECT", 1)
        stream.write("SET", "k", "x")
        await sync.caught_up()
    assert data_of(target) == set()
    assert target.client(db=1).get("k") == b"x"
    assert [letter.command for letter in sync.letters.kept] == ["SET"]


@both_loops
async def test_a_large_transaction_into_a_missing_database(servers: ServerFactory) -> None:
    """One that is passed on as it comes is begun again without it."""
    target = servers(databases=5)
    sync = Sync(target, stream := Stream(), max_bytes=20_000)
    async with running(sync):
        stream.write("MULTI")
        for number in range(30):
            stream.write("SET", f"k{number}", "x" * 2000)
        stream.write("SELECT", 7)
        stream.write("SET", "misplaced", "x" * 9000)
        stream.write("SELECT", 3)
        stream.write("SET", "k", "x")
        stream.write("EXEC")
        await sync.caught_up()
    assert len(data_of(target)) == 30
    assert target.client(db=3).keys("*") == [b"k"]
    assert [(letter.db, letter.key) for letter in sync.letters.kept] == [(7, b"misplaced")]


@both_loops
async def test_the_policy_to_stop_stops_before_a_missing_database(servers: ServerFactory) -> None:
    """What stands before it is applied and checkpointed, nothing behind it is."""
    target = servers(databases=5)
    sync = Sync(target, stream := Stream(databases=5, stops=True), stop=True)
    stream.write("SET", "before", "x")
    end = stream.end
    stream.write("SELECT", 5)
    stream.write("SET", "misplaced", "x")
    with pytest.raises(TargetRejected, match=r"db 5, key 'misplaced'"):
        async with running(sync):
            pass
    found = await read_checkpoint(sync.endpoint, KEY)
    assert found is not None
    assert end <= found.position.offset < stream.end
    assert data_of(target) == {b"before"}


@both_loops
async def test_a_target_that_comes_back_with_fewer_databases(servers: ServerFactory) -> None:
    """What was selected before has to be tried again."""
    target = servers(databases=16)
    sync = Sync(target, stream := Stream())
    async with running(sync):
        stream.write("SELECT", 9)
        stream.write("SET", "k", "x")
        await sync.caught_up()
        target.client(db=9).flushdb()
        target.client().save()
        target.config["databases"] = 5
        target.restart(crash=True)
        stream.write("SET", "misplaced", "x")
        await sync.caught_up()
    assert data_of(target) == set()
    assert [(letter.db, letter.key) for letter in sync.letters.kept] == [(9, b"misplaced")]
