"""Writers for fault runs: a workload that can be held and moved, and a ledger that knows every total."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.traffic import LiveTraffic, Workload

if TYPE_CHECKING:
    from tests.servers import Server
    from tests.traffic import Line
    from tests.wire import Command

LEDGER_DB = 5  # never swapped or flushed
COUNTERS = 8
SEQUENCE = b"exact:sequence"
PAUSE_SECONDS = 0.02


class Held:
    """A writer that can be held between two groups of commands, and moved to another server."""

    _server: Server
    _open: asyncio.Event  # it may write
    _quiet: asyncio.Event  # nothing is on its way

    def _begin_open(self) -> None:
        self._open, self._quiet = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._quiet.set()

    async def hold(self) -> None:
        """Stops writing; returns when nothing is on its way."""
        self._open.clear()
        await self._quiet.wait()

    def release(self) -> None:
        """Goes on writing."""
        self._open.set()

    def move(self, server: Server) -> None:
        """New connections go to *server*; the caller ends those that exist."""
        self._server = server


class Traffic(Held, LiveTraffic):
    """The workload of `tests.traffic`, which can be held between two groups and moved to another server.

    Args:
        server: where it writes.
        seed: of the workload.
        rate: commands per second.
        expiring: also keys and hash fields that expire soon.
    """

    def __init__(self, server: Server, *, seed: int, rate: float, expiring: bool) -> None:
        super().__init__(server, rate=rate)
        self.workload = Workload(server.binary, seed=seed, swapdb=True, flushdb=True)
        if not expiring:
            self.workload._field_ttl = False
            makers = self.workload._makers
            self.workload._makers = tuple(maker for maker in makers if maker.__name__ != "_expiring")
        self._begin_open()

    async def stop(self) -> Any:
        """Stops for good."""
        self._open.set()
        return await super().stop()

    async def _send(self, commands: list[Command], line: Line) -> None:
        await self._open.wait()
        if self._stopping.is_set():
            return
        self._quiet.clear()
        try:
            await super()._send(commands, line)
        finally:
            self._quiet.set()


class Ledger(Held):
    """Writes INCRs and a dense sequence, and knows what must come of them.

    A lost connection leaves open whether its last commands ran: totals have bounds, and the sequence continues behind
    what the server has. The target must equal the source exactly all the same.

    Args:
        server: where it writes.
    """

    def __init__(self, server: Server) -> None:
        self.sent = [0] * COUNTERS
        self.acknowledged = [0] * COUNTERS
        self._server = server
        self._stopping = asyncio.Event()
        self._begin_open()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to write."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="ledger")

    async def stop(self) -> None:
        """Stops for good."""
        self._stopping.set()
        self._open.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while not self._stopping.is_set():
            client = redis.asyncio.Redis(
                unix_socket_path=str(self._server.path),
                db=LEDGER_DB,
                single_connection_client=True,
                retry=Retry(NoBackoff(), 0),  # what the server did is the truth, and nothing may be sent twice
            )
            try:
                await self._write(client)
            except (redis.RedisError, OSError):
                await asyncio.sleep(PAUSE_SECONDS)
            finally:
                self._quiet.set()
                with contextlib.suppress(redis.RedisError, OSError):
                    await client.aclose()

    async def _write(self, client: redis.asyncio.Redis) -> None:
        await self._open.wait()
        number = int(await client.llen(SEQUENCE))
        while not self._stopping.is_set():
            await self._open.wait()
            self._quiet.clear()
            pipe = client.pipeline(transaction=False)
            for counter in range(COUNTERS):
                pipe.incr(f"exact:{counter}")
                self.sent[counter] += 1
            pipe.rpush(SEQUENCE, number)
            replies = await pipe.execute()
            self.acknowledged = [max(old, new) for old, new in zip(self.acknowledged, replies, strict=False)]
            number += 1
            self._quiet.set()
            await asyncio.sleep(PAUSE_SECONDS)

    def check(self, source: Server, target: Server) -> list[str]:
        """What is lost or doubled; nothing may be on its way."""
        found: list[str] = []
        here, there = source.client(LEDGER_DB), target.client(LEDGER_DB)
        for counter in range(COUNTERS):
            key = f"exact:{counter}"
            one, other = int(here.get(key) or 0), int(there.get(key) or 0)
            if one != other:
                found.append(f"{key}: {one} INCRs on the source, {other} on the target")
            if not self.acknowledged[counter] <= one <= self.sent[counter]:
                found.append(f"{key}: {one} is not between {self.acknowledged[counter]} and {self.sent[counter]}")
        for name, client in (("source", here), ("target", there)):
            numbers = list(map(int, client.lrange(SEQUENCE, 0, -1)))
            if numbers != list(range(len(numbers))):
                found.append(f"the sequence on the {name} has gaps or repetitions")
        if (one := here.llen(SEQUENCE)) != (other := there.llen(SEQUENCE)):
            found.append(f"the sequence has {one} entries on the source, {other} on the target")
        return found
