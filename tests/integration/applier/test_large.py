"""Transactions and commands that are too large to be held are passed on, and are still one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from portd.errors import ScriptMissing
from portd.target.kept.checkpoint import State, read_checkpoint
from portd.target.stream.scriptbook import ScriptBook
from portd.target.stream.scripts import Scripts
from tests.integration.applier.kit import KEY, Stream, Sync, refused_again, running, starve
from tests.loops import both_loops
from tests.proxy import Proxy
from tests.servers import Server, wait_for

if TYPE_CHECKING:
    from portd.net.endpoint import Endpoint
    from tests.conftest import ServerFactory


@pytest.mark.parametrize("mode", ["whole", "refused", "failed", "cut"])
@both_loops
async def test_large_transactions_are_passed_on(target: Server, mode: str) -> None:
    """A transaction larger than the cap goes on as it comes, atomically, exactly once, whatever happens inside."""
    async with Proxy(target.port) as proxy:
        sync = Sync(target, stream := Stream(), url=proxy.url, max_bytes=20_000, max_commands=100)
        async with running(sync):
            stream.write("INCR", "n")
            stream.write("SELECT", 4)
            stream.write("MULTI")
            for number in range(2000):
                stream.write("RPUSH", "l", f"{number}".ljust(50, "x"))
                if number == 1000 and mode == "refused":
                    refused = stream.write("NOSUCH", "key")
                if number == 1000 and mode == "failed":
                    refused = stream.write("INCR", "l")
            stream.write("INCR", "n")
            if mode == "cut":
                proxy.to_server.cut_after = 60_000
                await wait_for(lambda: sync.progress.lanes[0].connection.losses.total() == 1)
            assert target.client(db=4).dbsize() == 0
            stream.write("EXEC")
            stream.write("INCR", "n")
            await sync.caught_up()
            if mode == "cut":
                proxy.to_client.cut_after = 3
                stream.write("INCR", "m")
                await sync.caught_up()
    client = target.client(db=4)
    items: Any = client.lrange("l", 0, -1)
    assert [int(item.rstrip(b"x")) for item in items] == list(range(2000))
    assert (client.get("n"), target.client().get("n")) == (b"2", b"1")
    if mode == "refused":
        assert [(letter.offset, letter.db, letter.command, letter.key) for letter in sync.letters.kept] == [
            (refused, 4, "NOSUCH", b"key")
        ]
    elif mode == "failed":
        assert [(letter.offset, letter.db, letter.command, letter.key) for letter in sync.letters.kept] == [
            (refused, 4, "INCR", b"l")
        ]
    else:
        assert sync.letters.kept == []


@both_loops
async def test_large_command_is_passed_on_in_parts(target: Server) -> None:
    """A command larger than a group goes on in parts; so does one that is refused, which is named then."""
    sync = Sync(target, stream := Stream(), max_bytes=20_000)
    value = bytes(range(256)) * 2000
    async with running(sync):
        stream.write("INCR", "n")
        stream.write("SET", "large", value)
        refused = stream.write("NOSUCH", "key", value)
        stream.write("SADD", "n", value)
        stream.write("APPEND", "large", "!")
        await sync.caught_up()
    client = target.client()
    assert client.get("large") == value + b"!"
    letters = sync.letters.kept
    assert [(letter.command, letter.key, letter.code) for letter in letters[:1]] == [("NOSUCH", b"key", "ERR")]
    assert letters[0].offset == refused
    assert letters[1].code == "WRONGTYPE"


@both_loops
async def test_large_transaction_waits_out_oom(servers: ServerFactory) -> None:
    """A transaction that is passed on and refused for memory is passed on again, as a whole."""
    target = servers()
    client = target.client()
    sync = Sync(target, stream := Stream(), max_bytes=10_000)
    async with running(sync):
        await starve(sync)
        stream.write("MULTI")
        for number in range(1000):
            stream.write("RPUSH", "l", f"{number}".ljust(50, "x"))
        stream.write("EXEC")
        await refused_again(sync)
        client.config_set("maxmemory", 0)
        await sync.caught_up()
    assert client.llen("l") == 1000


class Unaware(Scripts):
    """Puts nothing in front: as if the target had forgotten its scripts behind our question."""

    async def before(self, endpoint: Endpoint, pieces: Any) -> list[bytes]:
        """See `Scripts`."""
        del self, endpoint, pieces
        return []


@pytest.mark.parametrize("large", [False, True])
async def test_a_script_forgotten_at_the_last_moment_disowns_the_data(target: Server, *, large: bool) -> None:
    """What stands beside it in its transaction took effect, so nothing may go on from there: the checkpoint says so."""
    sync = Sync(target, Stream(), max_bytes=4096, scripts=Unaware(ScriptBook()))
    sync.stream.write("SET", "before", "1")
    sync.stream.write("MULTI")
    sync.stream.write("SET", "beside", "x" * (20_000 if large else 1))
    sync.stream.write("EVALSHA", "0" * 40, "1", "k")
    sync.stream.write("EXEC")
    with pytest.raises(ScriptMissing):
        async with running(sync):
            await asyncio.Event().wait()
    found = await read_checkpoint(sync.endpoint, KEY)
    assert found is not None
    assert found.state is State.SNAPSHOT
    assert found.position.offset == sync.stream.end
    assert sync.letters.kept == []
