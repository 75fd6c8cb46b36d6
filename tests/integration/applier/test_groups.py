"""Groups of commands are applied once, however connections end."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from portd.errors import DecodeError
from portd.model import Position
from portd.net.resp import request
from portd.target.kept.checkpoint import read_checkpoint
from portd.target.limiter import Limiter
from tests.integration.applier.kit import FIRST, KEY, PATIENCE_MS, REPLID, Stream, Sync, running
from tests.loops import both_loops
from tests.proxy import Proxy
from tests.relay import Relay, holding
from tests.servers import Server, wait_for

if TYPE_CHECKING:
    from tests.conftest import ServerFactory


async def reaches(sync: Sync, offset: int) -> None:
    """Waits until the checkpoint is there."""
    await wait_for(lambda: sync.progress.stream.checkpointed_offset == offset, dump=lambda: sync.progress)


def kill_portd(server: Server) -> int:
    """CLIENT KILL of every connection of portd."""
    client = server.client()
    victims = [each["id"] for each in client.client_list() if each["name"].startswith("portd-")]
    for victim in victims:
        with contextlib.suppress(Exception):  # it may be gone already
            client.client_kill_filter(_id=victim)
    return len(victims)


@both_loops
async def test_applies_and_checkpoints(binary: Any, servers: ServerFactory) -> None:
    """Commands of several databases and transactions arrive once, in order; the checkpoint says how far and where."""
    sync = Sync(servers(binary), stream := Stream())
    async with running(sync):
        for number in range(300):
            if number % 7 == 0:
                stream.write("SELECT", number % 3)
            stream.write("RPUSH", "list", number)
            if number % 10 == 0:
                stream.write("MULTI")
                stream.write("INCR", "a")
                stream.write("INCR", "b")
                stream.write("EXEC")
        stream.write("PING")
        stream.write("REPLCONF", "GETACK", "*")
        await sync.caught_up()
        assert sync.applier.checkpoint.db == 294 % 3
    lists = [[int(item) for item in sync.server.client(db=db).lrange("list", 0, -1)] for db in range(3)]
    assert sorted(item for each in lists for item in each) == list(range(300))
    assert all(each == sorted(each) for each in lists)
    assert sum(int(sync.server.client(db=db).get("a") or 0) for db in range(3)) == 30
    assert sync.progress.stream.commands_applied == 300 + 43 + 60
    assert sync.progress.stream.commands_filtered == 2
    assert sync.progress.stream.transactions >= 1
    assert sync.applier.caught_up.is_set()
    assert sync.progress.position == Position(REPLID, stream.end)


@both_loops
@pytest.mark.parametrize("ages", [True, False])
async def test_takes_again_what_has_waited_while_the_target_stood_still(target: Server, *, ages: bool) -> None:
    """A group that grew while the target did nothing is made anew where its expiries depend on the time."""
    sync = Sync(target, stream := Stream(), ages=ages, caught_up_seconds=0.05)
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        before = len(stream.rewinds)
        target.client().client_pause(PATIENCE_MS, all=False)
        for _ in range(20_000):  # many groups
            stream.write("INCR", "n")
        await asyncio.sleep(0.3)  # longer than a group may wait
        target.client().client_unpause()
        await sync.caught_up()
        assert (len(stream.rewinds) > before) == ages
    assert target.client().get("n") == b"20001"


@both_loops
@pytest.mark.parametrize("piece_bytes", [4096, 100])
async def test_a_transaction_that_is_not_whole_holds_nothing_back(target: Server, piece_bytes: int) -> None:
    """What stands before it is applied, however long its rest takes; the rest comes in one piece with its beginning."""
    sync = Sync(target, stream := Stream(piece_bytes))
    async with running(sync):
        for turn in range(1, 4):
            for _ in range(100):
                stream.write("INCR", "n")
            whole = stream.end
            stream.write("MULTI")
            for _ in range(20):
                stream.write("INCR", "m")
            await reaches(sync, whole)
            assert target.client().get("n") == b"%d" % (100 * turn)
            assert int(target.client().get("m") or 0) == 20 * (turn - 1)
            stream.write("EXEC")
            await sync.caught_up()
            assert target.client().get("m") == b"%d" % (20 * turn)
    assert sync.progress.stream.commands_applied == 3 * (100 + 20)  # MULTI and EXEC are not counted


@both_loops
@pytest.mark.parametrize("ages", [True, False])
async def test_makes_anew_what_has_waited_for_the_limiter(target: Server, *, ages: bool) -> None:
    """A limit makes groups wait; where expiries depend on the time they are split once more, and sent then."""
    limiter = Limiter(ops_per_second=500)
    sync = Sync(target, stream := Stream(), ages=ages, caught_up_seconds=0.05, limiter=limiter)
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        before = len(stream.rewinds)
        for _ in range(400):
            stream.write("INCR", "n")
        await sync.caught_up()
        assert (len(stream.rewinds) > before) == ages
    assert target.client().get("n") == b"401"
    assert sync.progress.stream.commands_applied == 401


@both_loops
async def test_lost_replies_double_nothing(target: Server) -> None:
    """The connection is cut behind EXEC, before or inside its reply, again and again: every INCR counts once."""
    async with Proxy(target.port) as proxy:
        sync = Sync(target, stream := Stream(), url=proxy.url)
        async with running(sync):
            for turn in range(60):
                for _ in range(5):
                    stream.write("INCR", "n")
                    stream.write("APPEND", "s", "x")
                    stream.write("RPUSH", "l", "x")
                if turn % 2:
                    proxy.to_client.cut_after = 1 + 7 * turn % 150
                else:
                    proxy.to_server.cut_after = 1 + 41 * turn % 900
                await sync.caught_up()
    client = target.client()
    assert (client.get("n"), client.strlen("s"), client.llen("l")) == (b"300", 300, 300)
    assert sync.progress.stream.commands_applied == 900
    assert sync.progress.lanes[0].connection.losses.total() > 20


@both_loops
async def test_killed_connections_double_nothing(target: Server) -> None:
    """CLIENT KILL at random moments under load: every INCR counts once, order is kept."""
    sync = Sync(target, stream := Stream(), max_commands=20)
    killed = 0
    async with running(sync):
        for number in range(3000):
            stream.write("INCR", "n")
            stream.write("RPUSH", "l", number)
            if number % 100 == 50:
                killed += await wait_for(lambda: kill_portd(target))
        await sync.caught_up()
    client = target.client()
    assert client.get("n") == b"3000"
    assert client.lrange("l", 0, -1) == [b"%d" % number for number in range(3000)]
    assert killed >= 30


@pytest.mark.parametrize("late", ["before", "between", "behind"])
@both_loops
async def test_late_execution_on_an_old_connection_doubles_nothing(target: Server, late: str) -> None:
    """Bytes of a connection that was given up and reach the target late do not take effect a second time.

    Before: after the new connection has read the checkpoint, before it opens a transaction. Between: before it executes
    that. Behind: after that.
    """
    target.client().acl_setuser(
        "plain", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-client|kill"]
    )
    with Relay(target.port) as relay:
        sync = Sync(target, stream := Stream(), url=f"redis://plain:pw@127.0.0.1:{relay.port}")
        sync.endpoint = replace(sync.endpoint, silence_seconds=0.2)
        async with running(sync):
            stream.write("INCR", "n")
            await sync.caught_up()
            first = relay.hold(holding(b"EXEC"))
            stream.write("INCR", "n")
            await wait_for(first.caught.is_set)
            stream.write("INCR", "n")  # the second attempt is larger than the first
            if late != "behind":
                second = relay.hold(holding(b"EXEC" if late == "between" else b"MULTI"))
                await wait_for(second.caught.is_set)
                first.release()
                await wait_for(lambda: target.client().get("n") == b"2")
                second.release()
            await sync.caught_up()
            first.release()
            await wait_for(first.over.is_set)
        assert target.client().get("n") == b"3"
        assert sync.progress.stream.commands_applied == 3


@both_loops
async def test_corrupt_stream_ends_behind_the_last_good_command(target: Server) -> None:
    """Bytes that are not RESP end the applier; what was before them is applied and checkpointed."""
    sync = Sync(target, stream := Stream())

    async def attempt() -> None:
        async with running(sync):
            stream.write("INCR", "n")
            await sync.caught_up()
            stream.bytes += request("INCR", "n") + b"garbage\r\n"
            stream.write("INCR", "n")

    with pytest.raises(DecodeError):
        await attempt()
    assert target.client().get("n") == b"2"


@both_loops
async def test_new_replid_is_checkpointed(target: Server) -> None:
    """After a failover of the source the checkpoint carries the new id."""
    sync = Sync(target, stream := Stream())
    other = REPLID[::-1]
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        sync.applier.adopt(other)
        stream.write("INCR", "n")
        await sync.caught_up()
        found = await read_checkpoint(sync.endpoint, KEY)
        assert found is not None
        assert found.position == Position(other, stream.end)
        sync.applier.adopt(REPLID)
        stream.write("PING")
        await sync.caught_up()


@both_loops
async def test_getack_calls_back(target: Server) -> None:
    """GETACK in the stream reaches whoever acknowledges."""
    sync = Sync(target, stream := Stream())
    calls: list[int] = []
    sync.applier.on_getack = lambda: calls.append(1)
    async with running(sync):
        stream.write("REPLCONF", "GETACK", "*")
        await sync.caught_up()
    assert calls == [1]


@both_loops
async def test_lag_is_told(target: Server) -> None:
    """While the target does not answer, the lag grows; afterwards the applier counts as caught up again."""
    target.client()
    sync = Sync(target, stream := Stream(), caught_up_seconds=0.05)
    async with running(sync):
        stream.write("INCR", "n")
        await sync.caught_up()
        target.client().client_pause(200)
        stream.write("INCR", "n")
        sync.progress.stream.read_offset = stream.end
        await wait_for(lambda: sync.progress.stream.waiting_seconds > 0.1)
        await sync.caught_up()
        assert sync.progress.stream.acknowledged_seconds > 0.1
        assert sync.progress.stream.waiting_seconds == 0
    assert sync.applier.statistics().in_flight_bytes == 0


@both_loops
@pytest.mark.parametrize("busy", [True, False])
async def test_lag_grows_while_the_target_is_gone(target: Server, *, busy: bool) -> None:
    """Neither a lost connection nor one that is refused makes what waits look young; bytes that come meanwhile count."""
    async with Proxy(target.port) as proxy:
        sync = Sync(target, stream := Stream(), url=proxy.url)
        seen = sync.progress.stream
        async with running(sync):
            stream.write("INCR", "n")
            await sync.caught_up()
            seen.read_offset = stream.end
            assert seen.waiting_seconds == 0
            if busy:  # it is in flight when the connection is lost
                proxy.half_open()
                stream.write("INCR", "n")
                seen.read_offset = stream.end
                await wait_for(lambda: seen.waiting_seconds > 0)
            await proxy.close()
            await wait_for(lambda: sync.progress.lanes[0].connection.losses["refused"] > 2)
            stream.write("INCR", "n")
            seen.read_offset = stream.end
            before = seen.waiting_seconds
            assert before > 0
            await wait_for(lambda: sync.progress.lanes[0].connection.losses["refused"] > 4)
            assert seen.waiting_seconds > before
            proxy.heal()
            await proxy.start()
            await sync.caught_up()
            assert seen.waiting_seconds == 0
    assert target.client().get("n") == (b"3" if busy else b"2")


@both_loops
async def test_cancelled_applier_leaves_no_connection(target: Server) -> None:
    """Cancelling at any moment ends the connection at once; another applier goes on exactly once."""
    sync = Sync(target, stream := Stream())
    for number in range(200):
        stream.write("RPUSH", "l", number)
    await sync.begin()
    checkpoint = sync.start
    for turns in range(1, 60, 4):
        step = Sync(target, stream, max_commands=7, epoch=sync.epoch)
        step.start = checkpoint
        task = asyncio.create_task(step.applier.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        found = await read_checkpoint(step.endpoint, KEY)
        assert found is not None
        checkpoint = found
        stream.released = FIRST
    last = Sync(target, stream, epoch=sync.epoch)
    last.start = checkpoint
    stream.finish()
    await last.applier.run()
    assert target.client().lrange("l", 0, -1) == [b"%d" % number for number in range(200)]
