"""Lanes whose connections are lost: nothing is doubled, or the snapshot starts over."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from portd.errors import PortdError, TargetLost
from portd.net.endpoint import Endpoint
from tests.integration.lanes.kit import Load, big_list, big_set, big_stream, in_parts, one_mode, running, strings
from tests.loops import both_loops
from tests.proxy import Proxy
from tests.servers import Server, wait_for

if TYPE_CHECKING:
    from tests.conftest import ServerFactory


@pytest.mark.parametrize("lanes", [1, 3])
@both_loops
async def test_killed_connections_double_nothing(servers: ServerFactory, lanes: int) -> None:
    """CLIENT KILL again and again during a load: lists and streams hold every element once, in order."""
    target = servers()
    admin = target.client()
    elements = [b"e%d" % i for i in range(4000)]
    batches = [
        *strings(200),
        *(batch for i in range(4) for batch in big_list(f"list{i}", elements)),
        *big_stream("stream", 2000),
        *big_set("set", elements, db=1),
    ]
    rng = random.Random(7)
    async with running(Load(target.url, writers=lanes, budget=50_000, window_bytes=20_000)) as load:
        for batch in batches:
            await load.writers.put(batch)
            if rng.random() < 0.1:
                victims = [each["id"] for each in admin.client_list() if each["name"].startswith("portd-")]
                for victim in victims:
                    admin.client_kill_filter(_id=victim)
    for i in range(4):
        assert admin.lrange(f"list{i}", 0, -1) == elements
    assert [entry[0] for entry in admin.xrange("stream") or []] == [b"%d-1" % i for i in range(1, 2001)]
    assert admin.xpending("stream", "g")["pending"] == 1
    assert target.client(db=1).scard("set") == 4000
    assert sum(lane.connection.losses.total() for lane in load.progress.lanes) > 0
    assert load.progress.snapshot.keys_applied == 200 + 4 + 1 + 1
    assert not load.progress.dead_letters


@both_loops
async def test_cut_at_any_byte_doubles_nothing(target: Server) -> None:
    """A connection cut in the middle of commands or replies leaves a list as it should be."""
    elements = [b"e%d" % i for i in range(1500)]
    async with Proxy(target.port) as proxy:
        for cut in (50, 700, 3000, 12_345):
            proxy.to_server.cut_after = cut
            async with running(Load(proxy.url, at=target.url, writers=1)) as load:
                await load.put(big_list(f"list{cut}", elements))
                proxy.to_client.cut_after = cut // 100 + 1
            assert target.client().lrange(f"list{cut}", 0, -1) == elements
            assert load.progress.lanes[0].connection.connects > 1


@one_mode
@both_loops
async def test_target_that_is_away_is_waited_for(servers: ServerFactory) -> None:
    """A target that refuses connections is tried again until it is there."""
    target = servers()
    async with Proxy(target.port) as proxy:
        proxy.refuse()
        async with running(Load(proxy.url, at=target.url)) as load:
            await load.put(strings(10))
            await wait_for(lambda: load.progress.lanes[0].connection.losses["refused"] >= 3)
            await proxy.start()
    assert target.client().dbsize() == 10


@both_loops
async def test_restarted_target_starts_the_snapshot_over(servers: ServerFactory) -> None:
    """A target that is another process than the one that acknowledged keys may have lost them: that is noticed."""
    target = servers()
    run_id = target.info("server")["run_id"]

    async def attempt() -> None:
        async with running(Load(target.url, run_id=run_id)) as load:
            await load.put(strings(10))
            await load.writers.flush()
            target.restart(crash=True)
            await load.put(strings(10))

    with pytest.raises(TargetLost, match="restarted") as caught:
        await attempt()
    assert caught.value.retriable


@both_loops
async def test_lost_epoch_starts_the_snapshot_over(servers: ServerFactory) -> None:
    """Where the run id is not told, an epoch that is gone says that the target lost its data."""
    target = servers()
    client = target.client()

    async def attempt() -> None:
        async with running(Load(target.url)) as load:
            await load.put(strings(10))
            await load.writers.flush()
            client.flushall()
            for each in client.client_list():
                if each["name"].startswith("portd-"):
                    client.client_kill_filter(_id=each["id"])
            await load.put(strings(10))

    with pytest.raises(TargetLost, match="epoch"):
        await attempt()


@both_loops
async def test_cut_inside_parts_starts_the_snapshot_over(target: Server) -> None:
    """A command that is passed on in parts and cut cannot be sent again: that is said, and can be tried again."""
    batches = in_parts("list", [b"a"], b"x" * 400_000, part=10_000)

    async def attempt(proxy: Proxy) -> None:
        async with running(Load(proxy.url, at=target.url, writers=1)) as load:
            await load.put(batches[:-5])
            await wait_for(lambda: load.budget.used <= 10_000)
            proxy.cut()
            await load.put(batches[-5:])

    async with Proxy(target.port) as proxy:
        with pytest.raises(TargetLost, match="larger than the memory") as caught:
            await attempt(proxy)
    assert caught.value.retriable
    assert target.client().llen("list") == 1


@both_loops
async def test_silent_target_is_given_up(target: Server) -> None:
    """A connection that carries nothing any more is replaced, and what it held is sent again."""
    async with Proxy(target.port) as proxy:
        load = Load(proxy.url, at=target.url)
        load.writers = load.make(replace(Endpoint.parse(proxy.url), connect_seconds=1, silence_seconds=0.2), writers=1)
        async with running(load):
            await load.put(strings(100))
            await load.writers.flush()
            proxy.half_open()
            await load.put(strings(100, prefix="t"))
            await wait_for(lambda: load.progress.lanes[0].connection.losses["silent"] >= 1)
            proxy.heal()
    assert target.client().dbsize() == 200


@both_loops
async def test_readonly_target_is_reconnected(servers: ServerFactory) -> None:
    """A target that was demoted is asked again over new connections until it takes writes."""
    target = servers()
    client = target.client()
    async with running(Load(target.url, writers=1)) as load:
        client.replicaof("127.0.0.1", "1")  # nobody is there: what it holds stays
        await load.put(strings(10))
        await wait_for(lambda: load.progress.lanes[0].connection.losses["readonly"] >= 2)
        client.replicaof("NO", "ONE")
    assert client.dbsize() == 10


@one_mode
@both_loops
async def test_dead_connection_never_hides_an_error(target: Server) -> None:
    """Replies that are not RESP end the writers with a typed error."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(PortdError, match="does not speak RESP"):
            async with running(Load(f"redis://127.0.0.1:{port}", writers=1)) as load:
                await load.put(strings(10))
    finally:
        server.close()
        await server.wait_closed()
