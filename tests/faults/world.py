"""What faults happen to: a source with a replica, a target, portd between two proxies, and those who write."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.compare import compare
from tests.datasets import fill_big_hash, fill_big_list, fill_big_stream, fill_big_string, fill_mixed
from tests.faults.workload import LEDGER_DB, Ledger, Traffic
from tests.process import Portd
from tests.proxy import Proxy
from tests.servers import PATIENCE_SECONDS, Server, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable

    from tests.servers import Binary

SILENCE_SECONDS = 2.0
DIGEST_SECONDS = 15.0  # longer than the workload's keys live
LONGEST_SHORT_SECONDS = 6.0  # keys of the workload that expire soon live no longer
RESTART_SECONDS = 0.2  # what systemd's RestartSec would be
MARK = "exact:mark"
IDLE_CONSUMER = ("consumer", "is only on one end")  # a source does not replicate idle consumers, not to replicas either


class Failure(AssertionError):
    """Something was lost, doubled, hung or crashed."""


class World:
    """A running setup; an async context manager.

    Args:
        chance: seeded.
        rate: commands per second of the workload.
        source: binary of source and replica, the default one when None.
        target: binary of the target.
        replica: the source has a replica that can be promoted.
        expiring: the workload has keys that expire soon.
        big: elements of the biggest values.
    """

    def __init__(
        self,
        chance: random.Random,
        *,
        rate: float = 800.0,
        source: Binary | None = None,
        target: Binary | None = None,
        replica: bool = True,
        expiring: bool = False,
        big: int = 6000,
        **options: object,
    ) -> None:
        self.chance = chance
        settings: dict[str, Any] = {"repl_backlog_size": "64mb", "repl_ping_replica_period": 1, "shutdown_timeout": 10}
        if source is not None and not source.at_least(redis=(7, 0), valkey=(0,)):
            settings.pop("shutdown_timeout")
        self.source = Server(source, **settings)
        self.spare = Server(source, **settings) if replica else None
        self.target = Server(target, appendonly=True, appendfsync="always")
        self.portd: Portd
        self.source_proxy: Proxy
        self.target_proxy: Proxy
        self.traffic: Traffic
        self.ledger: Ledger
        self.exits: list[int] = []
        self._rate = rate
        self._expiring = expiring
        self._big = big
        self._options = options
        self._stopping = False
        self._marks = 0
        self._seed = chance.randrange(1 << 30)
        self._stack = contextlib.AsyncExitStack()

    # -- life

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _begin(self) -> None:
        stack = self._stack
        for server in (self.source, self.spare, self.target):
            if server is not None:
                stack.callback(server.close)
                await asyncio.to_thread(server.start)
        await asyncio.to_thread(self._fill)
        if self.spare is not None:
            self.spare.replicate(self.source)
        self.source_proxy = await stack.enter_async_context(Proxy(self.source.port))
        self.target_proxy = await stack.enter_async_context(Proxy(self.target.port))
        self.traffic = Traffic(self.source, seed=self._seed, rate=self._rate, expiring=self._expiring)
        self.ledger = Ledger(self.source)
        options: dict[str, object] = {"prune_limit": 100}  # a FLUSHALL of the traffic may be in a gap of the stream
        options |= {"silence_seconds": SILENCE_SECONDS, "connect_seconds": SILENCE_SECONDS, "chunk_bytes": 64 * 1024}
        self.portd = Portd(
            self.source_proxy.url, self.target_proxy.url, progress_seconds=0, **{**options, **self._options}
        )
        stack.callback(self.portd.__exit__)
        self.portd.start()
        self.traffic.start()
        stack.push_async_callback(self.traffic.stop)
        self.ledger.start()
        stack.push_async_callback(self.ledger.stop)

    async def __aexit__(self, *exc: object) -> None:
        self.source_proxy.heal()
        self.target_proxy.heal()
        await self._stack.aclose()

    def _fill(self) -> None:
        """Values of every kind that are cut into pieces, and many small ones, none of which expires soon."""
        fill_mixed(self.source, 3000, databases=3)
        fill_big_list(self.source, b"big:list", self._big)
        fill_big_hash(self.source, b"big:hash", self._big)
        fill_big_stream(self.source, b"big:stream", self._big, pending=20)
        fill_big_string(self.source, b"big:string", self._big * 40)
        for kind in ("list", "hash", "stream", "string"):  # where nothing deletes them: every snapshot has them
            self.source.client().move(f"big:{kind}", LEDGER_DB)

    # -- writing

    async def hold(self) -> None:
        """Stops all writes; returns when none is on its way."""
        await self.traffic.hold()
        await self.ledger.hold()

    def release(self) -> None:
        """Goes on writing."""
        self.traffic.release()
        self.ledger.release()

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """No writes inside."""
        await self.hold()
        try:
            yield
        finally:
            self.release()

    # -- portd

    async def status(self) -> dict[str, Any] | None:
        """What portd says; None while it does not listen."""
        return await asyncio.to_thread(self._status)

    def _status(self) -> dict[str, Any] | None:
        try:
            return self.portd.status()
        except (OSError, ValueError):
            return None

    async def keep_portd(self) -> None:
        """Starts portd again as systemd would, when it gave up because an end was not there."""
        if self.portd.alive:
            return
        code = self.portd.process.returncode
        self.exits.append(code)
        if code != os.EX_UNAVAILABLE:
            raise Failure(f"portd ended with {code}\n{self.portd.log()[-4000:]}")
        await asyncio.sleep(RESTART_SECONDS)
        self.portd.start()

    async def until(
        self, reached: Callable[[dict[str, Any]], object], what: str, seconds: float = PATIENCE_SECONDS
    ) -> dict[str, Any]:
        """Waits until the status says so."""
        deadline = time.monotonic() + seconds
        while True:
            await self.keep_portd()
            status = await self.status()
            if status is not None and reached(status):
                return status
            if time.monotonic() > deadline:
                raise Failure(f"{what}: not within {seconds:.0f} s\n{self.describe(status)}")
            await asyncio.sleep(0.01)

    async def recovered(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Waits until a write made now is in the target, and portd follows the stream."""
        self._marks += 1
        mark = b"%d" % self._marks
        deadline = time.monotonic() + seconds
        while not await asyncio.to_thread(_write, self.source, MARK, mark):
            if time.monotonic() > deadline:
                raise Failure(f"the source takes no writes\n{self.source.log_tail()}")
            await asyncio.sleep(0.02)
        while await asyncio.to_thread(_read, self.target, MARK) != mark:
            await self.keep_portd()
            if time.monotonic() > deadline:
                raise Failure(f"not recovered within {seconds:.0f} s\n{self.describe(await self.status())}")
            await asyncio.sleep(0.01)
        await self.until(lambda status: status["phase"] == "streaming", "streaming", seconds)

    def describe(self, status: object) -> str:
        """The state, for failures."""
        return (
            f"exits {self.exits}, source proxy {self.source_proxy.statistics()}\ntarget proxy {self.target_proxy.statistics()}\n{_short(status)}\n"
            f"{self.portd.log()[-5000:]}\n-- source\n{self.source.log_tail(15)}\n-- target\n{self.target.log_tail(15)}"
        )

    # -- the ends

    async def check(self) -> None:
        """Holds all writes, waits for the lag to be 0, and compares the ends.

        Raises:
            Failure: they differ.
        """
        async with self.held():
            await self.recovered()
            if found := await asyncio.to_thread(self.differences):
                raise Failure("the ends differ:\n" + "\n".join(found) + f"\n{self.portd.log()[-5000:]}")

    def differences(self) -> list[str]:
        """How the ends differ; nothing may be on its way."""
        found = self.ledger.check(self.source, self.target)
        deadline = time.monotonic() + (DIGEST_SECONDS if self._expiring else 0)
        while (told := self._told()) and time.monotonic() < deadline:
            time.sleep(0.1)  # a key that expires is gone a little sooner on one end than on the other
        return found + told

    def _told(self) -> list[str]:
        """Differences that count."""
        lines = compare(self.source, self.target, limit=20, postponed=self._expiring)
        told = [line for line in lines if not all(words in line for words in IDLE_CONSUMER)]
        if not self.source.binary.at_least(redis=(7, 2), valkey=(0,)):  # does not replicate it, not to replicas either
            told = [line for line in told if "entries-read" not in line]
        return told

    async def finish(self) -> None:
        """Stops writes and portd, in order, and compares the ends to the last bit.

        Raises:
            Failure: the ends differ, or portd did not end in order.
        """
        await self.hold()
        if self._expiring:
            await asyncio.sleep(LONGEST_SHORT_SECONDS)  # nothing is left that expires soon
        await self.recovered()
        code = await asyncio.to_thread(self.portd.terminate)
        if code != os.EX_OK:
            raise Failure(f"portd ended with {code}\n{self.portd.log()[-4000:]}")
        found = await asyncio.to_thread(self.differences)
        self.target.client().delete("portd:checkpoint:default", "portd:checkpoint:default:epoch")
        if self.source.binary.name == self.target.binary.name:  # other versions print scores in other ways
            found += await self._compare_digests()
        if found:
            raise Failure("the ends differ:\n" + "\n".join(found) + f"\n{self.portd.log()[-5000:]}")

    async def _compare_digests(self) -> list[str]:
        """Equal at one moment: a key that expires is gone a little sooner on one end than on the other."""
        deadline = time.monotonic() + (DIGEST_SECONDS if self._expiring else 0)
        while True:
            one, other = await asyncio.to_thread(lambda: (digest(self.source), digest(self.target)))
            if one == other:
                return []
            if time.monotonic() > deadline:
                return [f"DEBUG DIGEST says {one} and {other}"]
            await asyncio.sleep(0.1)


def _short(status: object) -> str:
    """A status without its settings."""
    if not isinstance(status, dict):
        return str(status)
    names = ("phase", "position", "full_syncs", "partial_syncs", "snapshot", "stream", "last_error")
    return "\n".join(f"{name}: {status[name]}" for name in names) + f"\nsource: {status['source']['losses']}"


def _client(server: Server) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(server.path), db=LEDGER_DB, socket_timeout=PATIENCE_SECONDS, retry=Retry(NoBackoff(), 0)
    )


def _write(server: Server, key: str, value: bytes) -> bool:
    with _client(server) as client:
        try:
            client.set(key, value)
        except (redis.RedisError, OSError):
            return False
        return True


def _read(server: Server, key: str) -> bytes | None:
    with _client(server) as client:
        try:
            value: bytes | None = client.get(key)
        except (redis.RedisError, OSError):
            return None
        return value


def digest(server: Server) -> str:
    """Of all its data, by its own count."""
    with Wire(server) as wire:
        return str(wire.call("DEBUG", "DIGEST"))


async def until_online(world: World, server: Server, seconds: float = 30.0) -> None:
    """Waits until *server*, a replica, has caught up with its primary's link."""
    await asyncio.to_thread(wait_for_sync, lambda: _is_online(server), seconds, server.log_tail)


def _is_online(server: Server) -> bool:
    try:
        return bool(server.info("replication").get("master_link_status") == "up")
    except (redis.RedisError, OSError):
        return False
