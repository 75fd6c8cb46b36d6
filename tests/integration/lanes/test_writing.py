"""What lanes write, and how much of it is on its way."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from portd.kernel.requests import split
from portd.net.endpoint import Endpoint, Tls
from portd.net.resp import request
from portd.target.snapshot import seats
from tests.fencing import stand
from tests.integration.lanes.kit import Load, big_list, big_set, big_stream, in_parts, one_mode, running, strings, whole
from tests.loops import both_loops
from tests.proxy import Proxy
from tests.servers import Server, free_port, wait_for
from tests.tls import over_tls

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.conftest import ServerFactory


def commands_per_client(client: redis.Redis) -> int:
    """How many portd connections the target has."""
    return sum(each["name"].startswith("portd-") for each in client.client_list())


@pytest.mark.parametrize("lanes", [1, 4])
@both_loops
async def test_writes_every_kind_of_key(binary: Any, servers: ServerFactory, lanes: int) -> None:
    """Whole keys, lists in order, sets over all lanes, streams and parts all arrive, in every database."""
    target = servers(binary)
    elements = [b"e%d" % i for i in range(1000)]
    large = random.Random(1).randbytes(50_000)
    batches = [
        *strings(500, db=0),
        *big_list("list", elements, expire_ms=32503680000000),
        *strings(100, db=3, prefix="t"),
        *big_set("set", elements, db=3),
        *big_stream("stream", 333),
        *in_parts("parts", elements[:30], large),
        *strings(50, db=0, prefix="u"),
    ]
    async with running(Load(target.url, writers=lanes, budget=100_000)) as load:
        await load.put(batches)
    client, other = target.client(), target.client(db=3)
    assert client.lrange("list", 0, -1) == elements
    assert client.expiretime("list") == 32503680000 if target.binary.at_least(redis=(7, 0), valkey=(7, 2)) else True
    assert other.smembers("set") == set(elements)
    assert client.lrange("parts", 0, -1) == [*elements[:30], large]
    assert [entry[0] for entry in client.xrange("stream") or []] == [b"%d-1" % i for i in range(1, 334)]
    assert client.xpending("stream", "g")["pending"] == 1
    assert (client.dbsize(), other.dbsize()) == (500 + 50 + 3, 101)
    assert other.get("t99") == b"99".ljust(32, b"x")
    assert load.progress.snapshot.keys_applied == 500 + 50 + 100 + 4
    assert load.progress.snapshot.keys_failed == 0


@both_loops
async def test_existing_keys_are_left_alone(target: Server) -> None:
    """Skipping: BUSYKEY and an EXISTS that answers 1 leave the key as it is and count it as filtered."""
    client = target.client()
    client.set("theirs", "x")
    client.sadd("big", "theirs")
    dump = client.dump("theirs") or b""
    batch = whole(request("RESTORE", "theirs", 0, dump), request("RESTORE", "new", 0, dump), keys=2)
    members = [b"m%d" % i for i in range(500)]
    async with running(Load(target.url, skip_existing=True)) as load:
        await load.put([batch, *big_set("big", members, exists=True), *big_set("fresh", members, exists=True)])
    snapshot = load.progress.snapshot
    assert (snapshot.keys_applied, snapshot.keys_filtered, snapshot.keys_failed) == (2, 2, 0)
    assert (client.scard("big"), client.scard("fresh")) == (1, 500)


@one_mode
@both_loops
async def test_writes_over_tls(servers: ServerFactory, tmp_path: Path) -> None:
    """Over TLS everything arrives as well, a slow reader is waited for, and an idle connection is kept."""
    binary, certificate, files = over_tls(tmp_path)
    port = free_port()
    target = servers(binary, tls_port=port, tls_auth_clients="no", **files)
    endpoint = Endpoint.parse(f"rediss://127.0.0.1:{port}", tls=Tls(ca=certificate))
    load = Load(target.url, budget=3_000_000)
    load.writers = load.make(replace(endpoint, silence_seconds=0.2))
    large = random.Random(1).randbytes(3_000_000)
    async with running(load):
        await load.put([*strings(300), *in_parts("parts", [b"a"], large, part=50_000)])
        await load.writers.flush()
        target.client().client_pause(100)
        await load.put(strings(40, batch=1, size=100_000, prefix="t"))
        await load.writers.flush()
        connects = [
            lane.connection.connects for lane in load.progress.lanes
        ]  # more than one where we had no turn for so long
        quiet_since = max(lane.connection.last_received_at for lane in load.progress.lanes)
        await wait_for(lambda: time.time() - quiet_since > 0.5)  # silence, if something were owed
        assert [lane.connection.connects for lane in load.progress.lanes] == connects
        await load.put(strings(10, prefix="u"))
    assert target.client().lindex("parts", 1) == large
    assert target.client().dbsize() == 351


@both_loops
async def test_window_bounds_what_is_on_its_way(target: Server) -> None:
    """A target that does not answer gets no more than the window; the rest waits in the queue, within the budget."""
    client = target.client()
    load = Load(target.url, writers=1, window_bytes=10_000, budget=40_000)
    async with running(load):
        client.client_pause(300)
        putting = asyncio.create_task(load.put(strings(2000)))
        await wait_for(lambda: load.budget.waiting == 1)
        assert load.progress.lanes[0].in_flight_bytes <= 10_000
        assert load.budget.used <= 40_000
        await putting
    assert client.dbsize() == 2000


@both_loops
async def test_cancelled_writers_leave_no_connection(target: Server) -> None:
    """Cancelling the writers at any moment ends every connection at once."""
    client = target.client()
    for turns in range(0, 40, 3):
        load = Load(target.url, writers=3, budget=20_000)
        await stand(load.direct, load.epoch)
        task = asyncio.create_task(load.writers.run())
        putting = asyncio.create_task(load.put(big_list("list", [b"x" * 50] * 5000)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        putting.cancel()
        for ended in await asyncio.gather(task, putting, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError)
    await wait_for(lambda: commands_per_client(client) == 0)


@one_mode
def test_batches_of_these_tests_are_well_formed() -> None:
    """The batches used here keep the decoder's contract: replies equal commands, parts join to one command."""
    for batch in (*strings(120), *big_list("l", [b"x"] * 333), *big_set("s", [b"x"] * 99), *big_stream("x", 120)):
        assert len(list(split(batch.data))) == batch.replies
    parts = in_parts("p", [b"a"], b"x" * 2500)
    assert len(list(split(b"".join(batch.data for batch in parts[2:-1])))) == 1


@both_loops
async def test_two_lanes_work_for_a_near_target_and_more_for_a_far_one(
    target: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other clients of a near target wait for two connections of ours at most; a far one is reached over several."""
    with monkeypatch.context() as busy:  # a machine that is busy makes a target seem far
        busy.setattr(seats, "NEAR_SECONDS", 60.0)
        load = Load(target.url)
        async with running(load):
            await load.put(strings(5000))
    assert sum(lane.replies > 0 for lane in load.progress.lanes) <= 2
    async with Proxy(target.port) as proxy:
        proxy.to_server.delay = proxy.to_client.delay = 0.02
        load = Load(proxy.url, at=target.url, window_bytes=5000)
        async with running(load):
            await load.put(strings(3000))
    assert sum(lane.replies > 0 for lane in load.progress.lanes) > 2
    assert target.client().dbsize() == 5000
