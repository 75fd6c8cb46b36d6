"""What the target refuses for good, and what it refuses for a while."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from portd.errors import TargetRejected
from portd.target.kept.checkpoint import read_checkpoint
from portd.target.stream.account import AT_ONCE
from tests.integration.applier.kit import FIRST, KEY, Stream, Sync, refused_again, running, starve
from tests.loops import both_loops
from tests.servers import Server, wait_for

if TYPE_CHECKING:
    from tests.conftest import ServerFactory


@both_loops
async def test_group_with_unknown_command_goes_on_without_it(target: Server) -> None:
    """A command that cannot be queued is a dead letter; the rest of its group takes effect, exactly once, in order."""
    sync = Sync(target, stream := Stream())
    async with running(sync):
        stream.write("INCR", "n")
        stream.write("SELECT", 2)
        first = stream.write("NOSUCH", "key1", "secret")
        stream.write("INCR", "n")
        stream.write("MULTI")
        stream.write("INCR", "n")
        second = stream.write("ALSONOT", "key2")
        stream.write("INCR", "n")
        stream.write("EXEC")
        await sync.caught_up()
    assert (target.client().get("n"), target.client(db=2).get("n")) == (b"1", b"3")
    letters = [(letter.offset, letter.db, letter.command, letter.key) for letter in sync.letters.kept]
    assert letters == [(first, 2, "NOSUCH", b"key1"), (second, 2, "ALSONOT", b"key2")]
    assert (sync.progress.stream.commands_failed, sync.progress.stream.commands_applied) == (2, 5)
    assert "secret" not in str(sync.letters.kept) + sync.progress.last_error


@both_loops
async def test_failed_commands_are_named(target: Server) -> None:
    """WRONGTYPE inside EXEC names command, key, database and offset; everything else of the group takes effect."""
    sync = Sync(target, stream := Stream())
    async with running(sync):
        stream.write("SELECT", 1)
        stream.write("SET", "str", "x")
        offset = stream.write("RPUSH", "str", "secret")
        stream.write("INCR", "n")
        stream.write("SELECT", 3)
        other = stream.write("INCRBY", "n", "many")
        await sync.caught_up()
    letters = [(letter.offset, letter.db, letter.command, letter.key, letter.code) for letter in sync.letters.kept]
    assert letters == [(offset, 1, "RPUSH", b"str", "WRONGTYPE"), (other, 3, "INCRBY", b"n", "ERR")]
    assert target.client(db=1).get("n") == b"1"
    assert (sync.progress.stream.commands_failed, sync.progress.stream.commands_applied) == (2, 4)


@both_loops
async def test_policy_stop_ends_behind_the_group(target: Server) -> None:
    """With the policy stop a refusal ends the applier; the checkpoint stands behind the group it was in."""
    sync = Sync(target, stream := Stream(), stop=True)

    async def attempt() -> None:
        async with running(sync):
            stream.write("SET", "str", "x")
            stream.write("RPUSH", "str", "x")

    with pytest.raises(TargetRejected, match="RPUSH"):
        await attempt()
    found = await read_checkpoint(sync.endpoint, KEY)
    assert found is not None
    assert found.position.offset == stream.end


@both_loops
async def test_waits_out_a_target_without_memory(servers: ServerFactory) -> None:
    """OOM: the group goes again as a whole until it passes; nothing is lost, doubled or reordered."""
    target = servers()
    client = target.client()
    sync = Sync(target, stream := Stream(), max_commands=50)
    async with running(sync):
        await starve(sync)
        for number in range(500):
            stream.write("RPUSH", "l", number)
            stream.write("DEL", "other")  # is not refused, and must not go alone
        await refused_again(sync)
        for _ in range(20):
            client.config_set("maxmemory", 0)
            await asyncio.sleep(0)
            client.config_set("maxmemory", 1)
            await asyncio.sleep(0.002)
        client.config_set("maxmemory", 0)
        await sync.caught_up()
    assert client.lrange("l", 0, -1) == [b"%d" % number for number in range(500)]
    assert sync.progress.stream.commands_failed == 0


@both_loops
async def test_readonly_target_is_waited_for(servers: ServerFactory) -> None:
    """A target that is demoted for a while is reconnected until it takes writes; then nothing is missing."""
    target, other = servers(), servers()
    sync = Sync(target, stream := Stream())
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        target.client().config_set("replica-read-only", "yes")
        target.client().replicaof("127.0.0.1", "1")  # nobody there: the data stays
        stream.write("INCR", "n")
        await wait_for(lambda: sync.progress.lanes[0].connection.losses.total() >= 2)
        target.client().replicaof("NO", "ONE")
        await sync.caught_up()
    assert target.client().get("n") == b"2"
    assert other.client().dbsize() == 0


@pytest.mark.parametrize("shape", ["commands", "large transaction"])
@pytest.mark.parametrize("when", ["queued", "run"])
@both_loops
async def test_many_refused_commands_take_one_round(target: Server, when: str, shape: str) -> None:
    """However many commands of a group are refused, it is sent once more at the most; each is named, the others apply."""
    sync = Sync(target, stream := Stream(), max_bytes=20_000 if shape == "large transaction" else 1024 * 1024)
    refused: list[tuple[int, int, str, bytes]] = []
    async with running(sync):
        stream.write("SET", "str", "x")
        if shape != "commands":
            stream.write("MULTI")
        for number in range(3000):
            if not number % 500:
                stream.write("SELECT", number // 500)
                stream.write("SET", "str", "x")
            stream.write("INCR", "n")
            command = "NOSUCH" if when == "queued" else "SADD"
            if not number % 3:
                refused.append((stream.write(command, "str", number), number // 500, command, b"str"))
        if shape != "commands":
            stream.write("EXEC")
        await sync.caught_up()
    assert [(letter.offset, letter.db, letter.command, letter.key) for letter in sync.letters.kept] == refused
    assert [target.client(db=db).get("n") for db in range(6)] == [b"500"] * 6
    progress = sync.progress.stream
    assert (progress.commands_failed, progress.commands_applied) == (1000, 1 + 3000 + 12)
    lost = sync.progress.lanes[0].connection.losses
    if shape == "large transaction":
        assert lost == ({"refused": 1} if when == "queued" else {})
    else:
        assert lost == {}
        assert sync.stream.rewinds == [FIRST]
        assert sync.progress.lanes[0].replies < 2 * 4013 + 10 * progress.transactions


@both_loops
async def test_what_was_refused_before_is_tried_before_its_group_is_sent(target: Server) -> None:
    """Commands of a name that was not queued go ahead without effect, so that their group goes once; until it is taken again."""
    sync = Sync(target, stream := Stream())
    user = ["ACL", "SETUSER", "default", "resetkeys", "~ok:*", "~portd:*", f"~{KEY}*"]
    client: Any = target.client()
    client.execute_command(*user)
    refused: list[int] = []
    sent: list[int] = []
    async with running(sync):
        for _ in range(4):
            for number in range(900):
                stream.write("INCR", "ok:n")
                if not number % 9:
                    refused.append(stream.write("INCR", "no:n"))
                    stream.write("SET", "ok:s", number)
            await sync.caught_up()
            sent.append(sync.progress.lanes[0].replies)
        assert [letter.offset for letter in sync.letters.kept] == refused
        client.execute_command(*user, "~no:*")
        for _ in range(2):
            stream.write("INCR", "no:n")
            await sync.caught_up()
    assert (client.get("ok:n"), client.get("ok:s"), client.get("no:n")) == (b"3600", b"891", b"2")
    assert len(sync.letters.kept) == len(refused)
    assert sync.progress.stream.commands_failed == len(refused)
    rounds = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert all(1000 <= each < 1200 for each in rounds), rounds


@both_loops
async def test_dead_letters_leave_room_for_others(target: Server) -> None:
    """Letters are written some at a time: whoever waits for the loop gets a turn in between, and none is lost."""
    sync = Sync(target, stream := Stream())
    counts: list[int] = []

    async def watch() -> None:
        while True:
            counts.append(len(sync.letters.kept))
            await asyncio.sleep(0)

    stream.write("SET", "str", "x")
    stream.write("MULTI")
    for number in range(4000):
        stream.write("SADD", "str", number)
    stream.write("EXEC")
    watcher = asyncio.create_task(watch(), name="watch")
    async with running(sync):
        await sync.caught_up()
    watcher.cancel()
    counts.append(len(sync.letters.kept))
    assert counts[-1] == 4000
    assert max(after - before for before, after in itertools.pairwise(counts)) <= AT_ONCE
