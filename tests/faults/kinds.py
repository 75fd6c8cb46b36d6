"""The kinds of faults. Each begins, lasts and ends; recovery is measured by the caller from then on."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.faults.world import SILENCE_SECONDS, Failure, until_online
from tests.servers import PATIENCE_SECONDS, wait_for, wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.faults.world import World
    from tests.proxy import Proxy
    from tests.servers import Server

    FaultFunction = Callable[[World], Awaitable[float | None]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: side and what happens.
        run: makes it happen, and ends it; may tell how long recovery took when it waited for that itself.
        weight: how often it is chosen.
        full: a full sync follows.
        alone: it does not go together with another one.
    """

    name: str
    run: FaultFunction
    weight: float = 1.0
    full: bool = False
    alone: bool = False


KINDS: list[Kind] = []


def kind(name: str, **options: Any) -> Callable[[FaultFunction], FaultFunction]:
    """Registers a fault."""

    def register(run: FaultFunction) -> FaultFunction:
        KINDS.append(Kind(name, run, **options))
        return run

    return register


def once(server: Server) -> redis.Redis:
    """A client that sends nothing twice."""
    return redis.Redis(unix_socket_path=str(server.path), socket_timeout=PATIENCE_SECONDS, retry=Retry(NoBackoff(), 0))


async def _ask(server: Server, *command: Any) -> Any:
    """One command over a connection of its own; None when the server is restarted meanwhile, which ends what it did."""

    def ask() -> Any:
        with contextlib.suppress(redis.ConnectionError), once(server) as client:
            return client.execute_command(*command)
        return None

    return await asyncio.to_thread(ask)


# ---------------------------------------------------------------- portd


@kind("portd: kill -9", weight=3, alone=True)
async def kill_portd(world: World) -> None:
    """The process is gone at any moment, and started again."""
    await asyncio.to_thread(world.portd.kill)
    world.portd.start()


@kind("portd: kill -9, away a while", alone=True)
async def kill_portd_long(world: World) -> None:
    """The stream grows while nobody reads it."""
    await asyncio.to_thread(world.portd.kill)
    await asyncio.sleep(world.chance.uniform(0.2, 1.5))
    world.portd.start()


@kind("portd: kill -9 while the source is away", weight=0.5, alone=True)
async def kill_without_source(world: World) -> None:
    """It ends with 69 or waits, and is started until the source is there."""
    await _kill_without(world, world.source_proxy)


@kind("portd: kill -9 while the target is away", weight=0.5, alone=True)
async def kill_without_target(world: World) -> None:
    """It ends with 69 or waits, and is started until the target is there."""
    await _kill_without(world, world.target_proxy)


async def _kill_without(world: World, proxy: Proxy) -> None:
    proxy.refuse()
    proxy.cut()
    await asyncio.to_thread(world.portd.kill)
    world.portd.start()
    end = time.monotonic() + world.chance.uniform(0.2, 2.5)
    while time.monotonic() < end:
        await world.keep_portd()
        await asyncio.sleep(0.05)
    await proxy.start()


@kind("portd: SIGTERM and start", weight=1, alone=True)
async def terminate_portd(world: World) -> None:
    """A restart in order drains and exits with 0."""
    code = await asyncio.to_thread(world.portd.terminate)
    if code != 0:
        raise Failure(f"portd ended with {code} on SIGTERM\n{world.portd.log()[-3000:]}")
    world.portd.start()


@kind("portd: SIGSTOP a while", alone=True)
async def stop_portd(world: World) -> None:
    """As when the machine is suspended."""
    world.portd.signal(signal.SIGSTOP)
    await asyncio.sleep(world.chance.uniform(0.2, 3.5))
    world.portd.signal(signal.SIGCONT)


# ---------------------------------------------------------------- links


def _flows(world: World, proxy: Proxy) -> list[Any]:
    return world.chance.choice([[proxy.to_server], [proxy.to_client], [proxy.to_server, proxy.to_client]])


async def _cut(world: World, proxy: Proxy) -> None:
    proxy.cut(reset=world.chance.random() < 0.5)


async def _cut_inside(world: World, proxy: Proxy) -> None:
    flow = world.chance.choice([proxy.to_server, proxy.to_client])
    cuts = proxy.cuts
    flow.cut_after = world.chance.randrange(1, 30_000)
    try:
        await wait_for(lambda: proxy.cuts > cuts, 3)
    except AssertionError:
        proxy.cut()
    flow.cut_after = None


async def _cut_often(world: World, proxy: Proxy) -> None:
    for _ in range(world.chance.randrange(2, 6)):
        proxy.cut(reset=world.chance.random() < 0.5)
        await asyncio.sleep(world.chance.uniform(0.01, 0.3))


async def _stall(world: World, proxy: Proxy) -> None:
    flows = _flows(world, proxy)
    for flow in flows:
        flow.stall()
    await asyncio.sleep(world.chance.uniform(0.2, 2 * SILENCE_SECONDS))
    for flow in flows:
        flow.flow()


async def _delay(world: World, proxy: Proxy) -> None:
    await _slow(world, proxy, "delay", lambda: world.chance.uniform(0.01, 0.3))


async def _slow(world: World, proxy: Proxy, how: str, much: Callable[[], float]) -> None:
    """Makes flows slower for a moment; nothing of it is 0."""
    flows = _flows(world, proxy)
    for flow in flows:
        setattr(flow, how, much())
    await asyncio.sleep(world.chance.uniform(0.3, 1.5))
    for flow in flows:
        setattr(flow, how, 0)


async def _half_open(world: World, proxy: Proxy) -> None:
    proxy.half_open()
    await asyncio.sleep(world.chance.uniform(0.1, 1.5 * SILENCE_SECONDS))
    proxy.heal()


async def _throttle(world: World, proxy: Proxy) -> None:
    await _slow(world, proxy, "bytes_per_second", lambda: world.chance.randrange(20_000, 200_000))


async def _refuse(world: World, proxy: Proxy) -> None:
    proxy.refuse()
    proxy.cut()
    await asyncio.sleep(world.chance.uniform(0.05, 1.0))
    await proxy.start()


def _link_kinds() -> None:
    faults = {
        "cut": (_cut, 2.0), "cut inside a message": (_cut_inside, 3.0), "cut again and again": (_cut_often, 1.0),
        "stall": (_stall, 1.0), "delay": (_delay, 1.0), "half-open": (_half_open, 1.0), "throttle": (_throttle, 1.0),
        "refused a while": (_refuse, 1.0),
    }  # fmt: skip
    for side in ("source", "target"):
        for name, (run, weight) in faults.items():

            async def fault(world: World, run: Any = run, side: str = side) -> None:
                await run(world, world.source_proxy if side == "source" else world.target_proxy)

            KINDS.append(Kind(f"{side} link: {name}", fault, weight))


_link_kinds()


# ---------------------------------------------------------------- source


@kind("source: DEBUG SLEEP")
async def source_sleeps(world: World) -> None:
    """The server does nothing for a while."""
    await _ask(world.source, "DEBUG", "SLEEP", round(world.chance.uniform(0.1, 3.0), 2))


@kind("source: CLIENT PAUSE")
async def source_pauses(world: World) -> None:
    """Commands wait."""
    await _pause(world, world.source)


async def _pause(world: World, server: Server) -> None:
    mode = world.chance.choice(["ALL", "WRITE"])
    await _ask(server, "CLIENT", "PAUSE", 5000, mode)
    await asyncio.sleep(world.chance.uniform(0.2, 2.5))
    await _ask(server, "CLIENT", "UNPAUSE")


@kind("source: CLIENT KILL TYPE replica", weight=2)
async def source_kills_replicas(world: World) -> None:
    """An operator ends the link."""
    await _ask(world.source, "CLIENT", "KILL", "TYPE", "replica")


@kind("source: restart with its data", alone=True)
async def source_restarts(world: World) -> None:
    """SHUTDOWN SAVE; the snapshot on disk keeps the history's id, so the stream goes on."""
    source = world.source
    if world.spare is not None:
        await until_online(world, world.spare)

    def restart() -> None:
        with contextlib.suppress(redis.ConnectionError), once(source) as client:
            client.execute_command("SHUTDOWN", "SAVE")
        source.restart()

    await asyncio.to_thread(restart)


@kind("source: failover to its replica", alone=True)
async def fail_over(world: World) -> None:
    """The replica is promoted: another replid, the old one is its second."""
    old, new = world.source, world.spare
    if new is None:
        return
    await until_online(world, new)
    await _ask(old, "FAILOVER", "TO", "127.0.0.1", new.port, "TIMEOUT", 20000)

    promoted: Callable[[], bool] = lambda: bool(new.info("replication")["role"] == "master")  # noqa: E731
    await asyncio.to_thread(wait_for_sync, promoted, 25, new.log_tail)
    world.source_proxy.upstream = ("127.0.0.1", new.port)
    world.source, world.spare = new, old
    for writer in (world.traffic, world.ledger):
        writer.move(new)
    await _ask(old, "CLIENT", "KILL", "TYPE", "normal")
    world.source_proxy.cut()


# ---------------------------------------------------------------- target


@kind("target: CLIENT KILL", weight=2)
async def target_kills_clients(world: World) -> None:
    """An operator ends all connections."""
    await _ask(world.target, "CLIENT", "KILL", "TYPE", "normal")


@kind("target: DEBUG SLEEP")
async def target_sleeps(world: World) -> None:
    """The server does nothing for a while, perhaps longer than we are patient."""
    await _ask(world.target, "DEBUG", "SLEEP", round(world.chance.uniform(0.1, 3.0), 2))


@kind("target: CLIENT PAUSE")
async def target_pauses(world: World) -> None:
    """Commands wait."""
    await _pause(world, world.target)


@kind("target: out of memory", weight=2)
async def target_out_of_memory(world: World) -> None:
    """Writes are refused for a while."""
    await _ask(world.target, "CONFIG", "SET", "maxmemory", 1_000_000)
    await asyncio.sleep(world.chance.uniform(0.1, 1.5))
    await _ask(world.target, "CONFIG", "SET", "maxmemory", 0)


@kind("target: read-only replica a while")
async def target_read_only(world: World) -> None:
    """A failover went by: the target refuses writes with READONLY, then is a primary again."""
    spare_port = 1  # nobody listens there: the data stay
    await _ask(world.target, "REPLICAOF", "127.0.0.1", spare_port)
    await asyncio.sleep(world.chance.uniform(0.1, 1.0))
    await _ask(world.target, "REPLICAOF", "NO", "ONE")


@kind("target: restart with its data")
async def target_restarts(world: World) -> None:
    """In order."""
    await asyncio.to_thread(world.target.restart)


@kind("target: kill -9 with its data", weight=2)
async def target_crashes(world: World) -> None:
    """With appendfsync always, what was acknowledged is there."""
    await asyncio.to_thread(world.target.restart, crash=True)


@kind("target: restart without its data", full=True, alone=True)
async def target_loses_all(world: World) -> None:
    """A cache is restarted: a full sync must follow."""

    def restart() -> None:
        world.target.kill()
        shutil.rmtree(world.target.directory / "appendonlydir", ignore_errors=True)
        for file in world.target.directory.glob("*.aof"):
            file.unlink()
        world.target.start()

    await asyncio.to_thread(restart)


@kind("target: back to an older copy of its data", alone=True)
async def target_goes_back(world: World) -> None:
    """A backup is restored: the checkpoint goes back with the data, and the stream is asked for again from there."""
    target = world.target
    data, copy = target.directory / "appendonlydir", target.directory / "older"

    def take() -> None:
        target.signal(signal.SIGSTOP)  # a copy of one moment
        shutil.copytree(data, copy)
        target.signal(signal.SIGCONT)

    def restore() -> None:
        target.kill()
        shutil.rmtree(data)
        copy.rename(data)
        target.start()

    await asyncio.to_thread(take)
    await asyncio.sleep(world.chance.uniform(0.2, 1.5))
    await asyncio.to_thread(restore)


@kind("target: FLUSHALL by a stranger", full=True, alone=True)
async def target_flushed(world: World) -> None:
    """The checkpoint goes with the data: a full sync must follow."""
    await _ask(world.target, "FLUSHALL")


# ---------------------------------------------------------------- inside of a snapshot

SNAPSHOT_BYTES_PER_SECOND = 600_000
SNAPSHOT_BYTES = 600_000  # no snapshot here is smaller


def _inside_kinds() -> None:
    inner = [
        each for each in KINDS
        if not each.full
        and "failover" not in each.name
        and "older copy" not in each.name
        and "while the" not in each.name
        and each.name != "source: restart with its data"
    ]  # fmt: skip
    for each in inner:

        async def fault(world: World, each: Kind = each) -> float:
            return await in_snapshot(world, each)

        KINDS.append(Kind(f"snapshot, {each.name}", fault, each.weight / 3, full=True, alone=True))


async def in_snapshot(world: World, inner: Kind) -> float:
    """Forces a full sync, slow enough to be hit, and lets something happen in the middle of it.

    Returns:
        Seconds from the end of the fault until the snapshot was applied and the stream followed.
    """
    flow = world.source_proxy.to_client
    before = await world.until(lambda _: True, "status")
    count = sum(before["full_syncs"].values())
    flow.bytes_per_second = SNAPSHOT_BYTES_PER_SECOND
    await _ask(world.target, "FLUSHALL")
    least = world.chance.randrange(1, SNAPSHOT_BYTES)

    def inside(status: dict[str, Any]) -> bool:
        again = sum(status["full_syncs"].values()) > count
        bytes_decoded: int = status["snapshot"]["bytes_decoded"]
        return again and (bytes_decoded >= least or status["phase"] == "streaming")

    await world.until(inside, "a full sync after FLUSHALL")
    await inner.run(world)
    flow.bytes_per_second = 0
    ended = time.monotonic()
    await world.recovered()
    return time.monotonic() - ended


_inside_kinds()
BY_NAME = {each.name: each for each in KINDS}
