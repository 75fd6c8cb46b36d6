"""Faults one by one, each with what must be seen of it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.compare import compare_later
from tests.faults.kinds import BY_NAME, in_snapshot
from tests.faults.sampler import sample_process
from tests.faults.world import SILENCE_SECONDS, World, until_online

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A sync that has caught up, with little traffic."""
    async with World(random.Random("cases"), rate=200, replica=False) as running:
        await running.until(lambda status: status["phase"] == "streaming", "first sync")
        yield running


def losses(status: dict[str, Any]) -> set[str]:
    """Reasons under which lost connections to the target are counted."""
    return {reason for lane in status["target"]["lanes"] for reason in lane["losses"]}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "name",
    [
        "portd: kill -9",
        "portd: SIGSTOP a while",
        "target link: cut again and again",
        "target link: cut inside a message",
        "target: kill -9 with its data",
        "source link: cut",
    ],
)
async def test_faults_inside_of_a_snapshot(name: str, world: World) -> None:
    """Long lists, streams and strings are neither doubled nor cut when a snapshot is disturbed."""
    await in_snapshot(world, BY_NAME[name])
    await world.finish()


@pytest.mark.deep
async def test_a_source_link_that_never_lasts_costs_few_forks(world: World) -> None:
    """A snapshot that is cut again and again is begun with growing pauses, and every attempt is counted."""
    before = (await world.until(lambda _: True, "status"))["full_syncs"]
    await world.traffic.hold()
    flow = world.source_proxy.to_client
    forks = world.source.info("stats")["total_forks"]
    flow.bytes_per_second = 300_000
    world.target.client().flushall()
    begun = time.monotonic()
    while time.monotonic() < begun + 12:
        if flow.cut_after is None:
            flow.cut_after = 100_000  # behind the handshake, inside of the snapshot
        await asyncio.sleep(0.02)
    flow.flow()
    forks = world.source.info("stats")["total_forks"] - forks
    assert 2 <= forks <= 7
    await world.recovered()
    after = (await world.until(lambda _: True, "status"))["full_syncs"]
    assert sum(after.values()) - sum(before.values()) >= forks
    world.traffic.release()
    await world.finish()


@pytest.mark.deep
async def test_a_backlog_that_is_too_small_costs_few_forks(world: World) -> None:
    """Full syncs that follow one another, since the source never remembers where we were, come with growing pauses."""
    world.source.client().config_set("repl-backlog-size", 16 * 1024)
    forks = world.source.info("stats")["total_forks"]
    begun = time.monotonic()
    while time.monotonic() < begun + 12:
        await world.until(lambda status: status["phase"] == "streaming" and status["source"]["connected"], "streaming")
        world.source_proxy.cut()
        world.source.client().set("more than the backlog", "x" * 200_000)
        await asyncio.sleep(0.02)
    forks = world.source.info("stats")["total_forks"] - forks
    assert 2 <= forks <= 6
    status = await world.until(lambda status: status["full_syncs"].get("backlog", 0) >= forks - 1, "counted")
    assert status["full_syncs"]["backlog"] <= forks
    world.source.client().config_set("repl-backlog-size", 10 << 20)
    await world.recovered()
    await world.finish()


async def test_half_open_link_to_the_source(world: World) -> None:
    """Packets that are dropped without a word are noticed by silence; the stream goes on where it was."""
    world.source_proxy.half_open()
    await world.until(lambda status: "silence" in status["source"]["losses"], "silence", SILENCE_SECONDS * 5)
    world.source_proxy.heal()
    await world.recovered()
    status = await world.until(lambda _: True, "status")
    assert sum(status["full_syncs"].values()) == 1
    await world.finish()


@pytest.mark.parametrize("way", ["both", "back"])
async def test_half_open_link_to_the_target(way: str, world: World) -> None:
    """Replies that never come are noticed by silence; what was sent, or applied unknown to portd, is not applied twice."""
    if way == "both":
        world.target_proxy.half_open()
    else:
        world.target_proxy.to_client.stall()
    await world.until(lambda status: bool({"silent", "timeout"} & losses(status)), "silence", SILENCE_SECONDS * 5)
    world.target_proxy.heal()
    await world.recovered()
    await world.finish()


async def test_a_target_that_lost_its_data_gets_a_full_sync(world: World) -> None:
    """A restart without data is noticed by the missing checkpoint, said in the log and counted."""
    await BY_NAME["target: restart without its data"].run(world)
    await world.recovered()
    assert "lost its data" in world.portd.log()
    status = await world.until(lambda _: True, "status")
    assert sum(status["full_syncs"].values()) == 2
    await world.finish()


@pytest.mark.parametrize("restart", [False, True])
async def test_a_source_that_restarts_empty_gets_a_full_sync(world: World, *, restart: bool) -> None:
    """A new replid means another history: what the old one had and the new one lacks is not kept."""
    await world.hold()
    await world.recovered()

    def lose_all() -> None:
        world.source.kill()
        for name in ("dump.rdb", "appendonlydir"):
            path = world.source.directory / name
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
        world.source.start()
        world.source.client().set("survivor", "1")

    if restart:
        await asyncio.to_thread(world.portd.kill)
    await asyncio.to_thread(lose_all)
    if restart:
        world.portd.start()
    await world.recovered()
    assert world.target.client().get("survivor") == b"1"
    status = await world.until(lambda _: True, "status")
    assert sum(status["full_syncs"].values()) == (1 if restart else 2)
    await world.hold()
    await world.recovered()
    assert await compare_later(world.source, world.target) == []


async def test_an_offset_beyond_the_new_primarys_is_not_continued() -> None:
    """A replica promoted behind us shares our history's id but not its end: only a full sync is right."""
    async with World(random.Random("beyond"), rate=200) as world:
        await world.until(lambda status: status["phase"] == "streaming", "first sync")
        assert world.spare is not None
        await until_online(world, world.spare)
        await world.traffic.hold()
        old, new = world.source, world.spare
        new.client().replicaof("NO", "ONE")  # from here on it misses what we get
        await world.recovered()
        lost = old.client()
        for number in range(1000):
            lost.rpush("lost", number)
        await world.recovered()
        await world.ledger.hold()
        await world.recovered()
        assert world.target.client().llen("lost") == 1000
        world.source_proxy.upstream = ("127.0.0.1", new.port)
        world.source = new
        await asyncio.to_thread(old.kill)
        world.source_proxy.cut()
        await world.recovered()
        status = await world.until(lambda _: True, "status")
        assert sum(status["full_syncs"].values()) == 2
        assert world.target.client().llen("lost") == 0
        assert status["position"]["replid"] == new.info("replication")["master_replid"]


COMMANDS: dict[str, Callable[[Any], object]] = {
    "SWAPDB 0 1": lambda client: client.swapdb(0, 1),
    "FLUSHALL": lambda client: client.flushall(),
    "FLUSHDB": lambda client: client.flushdb(),
    "MULTI with all": lambda client: client.pipeline().swapdb(0, 3).flushdb().incr("a").flushall().incr("a").execute(),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", COMMANDS)
async def test_commands_on_whole_databases_keep_the_checkpoint(name: str, world: World) -> None:
    """The position survives what would delete it or move it away: a restart continues without a full sync."""
    await world.hold()
    await world.recovered()
    COMMANDS[name](world.source.client())
    world.source.client().incr("behind")
    await world.recovered()
    await asyncio.to_thread(world.portd.kill)
    world.source.client().incr("behind")
    world.portd.start()
    await world.recovered()
    status = await world.until(lambda _: True, "status")
    assert status["full_syncs"] == {}
    assert status["partial_syncs"] == 1
    assert world.target.client().get("behind") == world.source.client().get("behind")
    assert world.target.client(1).keys("portd:*") == []


async def test_streaming_again_soon_after_kill(world: World) -> None:
    """After kill -9 the stream goes on within a second of the start; of processor time, since tests share the machine."""
    seconds, work = [], []
    for _ in range(3):
        await asyncio.to_thread(world.portd.kill)
        begun = time.monotonic()
        world.portd.start()
        await world.recovered()
        seconds.append(time.monotonic() - begun)
        work.append(sample_process(world.portd.process.pid)["cpu_ticks"] / os.sysconf("SC_CLK_TCK"))
    print("from start to applied stream:", *(f"{a:.2f} s ({b:.2f} s CPU)" for a, b in zip(seconds, work, strict=True)))
    assert min(work) < 1.5
    await world.finish()


@pytest.mark.parametrize("away", ["source", "target"])
async def test_sigterm_ends_in_order_while_an_end_is_away(away: str) -> None:
    """Draining waits no longer than it may, and what could not be applied comes again after the next start."""
    async with World(random.Random("away"), rate=200, replica=False, drain_seconds=2) as world:
        await world.until(lambda status: status["phase"] == "streaming", "first sync")
        proxy = world.source_proxy if away == "source" else world.target_proxy
        proxy.refuse()
        proxy.cut()
        begun = time.monotonic()
        assert await asyncio.to_thread(world.portd.terminate) == os.EX_OK, world.portd.log()
        assert time.monotonic() - begun < 20
        await proxy.start()
        world.portd.start()
        await world.recovered()
        await world.finish()
