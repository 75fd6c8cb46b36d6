"""Kills of alternating holders: two processes on one link under load, and whoever has it is killed, frozen or stopped.

Each time the other one has to take over, and the one that was struck has to come back as the standby. Counters, a dense
list and a stream with ids of its own tell what is lost or doubled; in the end both servers have one digest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Self

from tests.compare import compare
from tests.datasets import fill_mixed
from tests.faults.workload import Ledger, Traffic
from tests.faults.world import Failure, digest
from tests.process import Portd
from tests.servers import Server, wait_for
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers import Binary

CHECK_EVERY = 20  # strikes between two comparisons
STREAM_RATE = 200  # entries a second


@dataclass(slots=True)
class Report:
    """What happened.

    Attributes:
        takeovers: seconds from each strike until the other process had the link and had caught up, by kind.
        checks: comparisons of the ends, all of them equal.
        counted: commands whose number is known.
        commands: of the workload, beside these.
        full_syncs: that a takeover cost.
    """

    takeovers: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    checks: int = 0
    counted: int = 0
    commands: int = 0
    full_syncs: int = 0

    @property
    def strikes(self) -> int:
        """How many there were."""
        return sum(map(len, self.takeovers.values()))

    def table(self) -> str:
        """Markdown: kind, count, time until the other process streamed."""
        lines = ["| the holder gets | count | median s | max s |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {len(each)} | {median(each):.2f} | {max(each):.2f} |"
            for name, each in sorted(self.takeovers.items())
        ]
        lines.append(
            f"\n{self.strikes} strikes, {self.checks} comparisons, {self.counted} counted commands and {self.commands} others: "
            f"0 lost, 0 doubled, {self.full_syncs} full syncs"
        )
        return "\n".join(lines)


class Entries:
    """Appends to a stream with ids of its own, which none may have twice; nothing may be on its way while it is held."""

    def __init__(self, server: Server) -> None:
        self.written = 0
        self._client = server.client(5)
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to write."""
        self._task = asyncio.create_task(self._run(), name="entries")

    async def _run(self) -> None:
        while True:
            async with self._lock:
                await asyncio.to_thread(self._write)
            await asyncio.sleep(0.02)

    def _write(self) -> None:
        pipe = self._client.pipeline(transaction=False)
        for number in range(self.written + 1, self.written + 1 + STREAM_RATE // 50):
            pipe.xadd("exact:stream", {"n": number}, id=f"{number}-1")
        self.written += len(pipe.execute())

    async def hold(self) -> None:
        """Stops writing; returns when nothing is on its way."""
        await self._lock.acquire()

    def release(self) -> None:
        """Goes on writing."""
        self._lock.release()

    async def stop(self) -> None:
        """Stops for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def check(self, server: Server) -> list[str]:
        """What is lost or doubled."""
        with Wire(server, 5) as wire:
            ids = [entry[0] for entry in wire.call("XRANGE", "exact:stream", "-", "+")]
            added = dict(zip(*[iter(wire.call("XINFO", "STREAM", "exact:stream"))] * 2, strict=False)).get(
                b"entries-added"
            )
        wanted = [b"%d-1" % number for number in range(1, self.written + 1)]
        found = [] if ids == wanted else [f"the stream has {len(ids)} entries, {len(wanted)} were added"]
        if added not in {
            None,
            self.written,
        }:  # an entry that was tried twice would not be counted, but one that was removed would
            found.append(f"{added} entries were added to the stream, and {self.written} belong into it")
        return found


class Couple:
    """Two processes on one link, and those who write; an async context manager.

    Args:
        seed: of strikes and workload.
        rate: commands per second of the workload.
        source: binary, the default one when None.
        target: likewise.
    """

    def __init__(
        self, seed: int, *, rate: float = 500.0, source: Binary | None = None, target: Binary | None = None
    ) -> None:
        self.report = Report()
        self._chance = random.Random(f"standby {seed}")
        self._source = Server(source, repl_backlog_size="64mb")
        self._target = Server(target)
        self._rate = rate
        self._stack = contextlib.AsyncExitStack()
        self._deck: list[str] = []

    async def __aenter__(self) -> Self:
        stack = self._stack
        try:
            for server in (self._source, self._target):
                stack.callback(server.close)
                await asyncio.to_thread(server.start)
            await asyncio.to_thread(fill_mixed, self._source, 2000)
            self._portds = [
                Portd(self._source, self._target, standby=True, prune_limit=100, progress_seconds=0, silence_seconds=10)
                for _ in range(2)
            ]
            for each in self._portds:
                stack.callback(each.__exit__)
            self._portds[0].start()
            await self._until(self._portds[0], _holds)
            self._portds[1].start()
            await self._until(self._portds[1], _waits)
            self._traffic = Traffic(self._source, seed=self._chance.randrange(1 << 30), rate=self._rate, expiring=False)
            self._ledger, self._entries = Ledger(self._source), Entries(self._source)
            self._traffic.start()
            stack.push_async_callback(self._traffic.stop)
            for writer in (self._ledger, self._entries):
                writer.start()
                stack.push_async_callback(writer.stop)
        except BaseException:
            await stack.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def run(self, strikes: int, *, tell: bool = False) -> Report:
        """Strikes alternating holders, and compares the ends.

        Raises:
            Failure: something was lost, doubled, hung or crashed.
        """
        begun = time.monotonic()
        for number in range(strikes):
            kind = self._choose()
            seconds = await self._strike(kind)
            self.report.takeovers[kind].append(seconds)
            if tell:
                print(f"{time.monotonic() - begun:8.2f} s  {number + 1:4}  {kind}: {seconds:.2f} s", flush=True)
            if (number + 1) % CHECK_EVERY == 0 and number + 1 < strikes:
                await self._check()
            await asyncio.sleep(self._chance.uniform(0, 0.5))
        await self._check()
        await self._finish()
        return self.report

    def _choose(self) -> str:
        """SIGKILL and SIGTERM more often than SIGSTOP, which costs a lease each time."""
        if not self._deck:
            self._deck = ["SIGKILL"] * 4 + ["SIGTERM"] * 4 + ["SIGSTOP, SIGCONT"] * 2
            self._chance.shuffle(self._deck)
        return self._deck.pop()

    async def _strike(self, kind: str) -> float:
        """The holder is struck, the other one takes over, and the one that was struck stands by again.

        Returns:
            How long it took until the other one streamed, in seconds.
        """
        holder, other = self._portds
        begun = time.monotonic()
        if kind == "SIGKILL":
            await asyncio.to_thread(holder.kill)
        elif kind == "SIGTERM":
            code = await asyncio.to_thread(holder.terminate)
            if code != os.EX_OK:
                raise Failure(f"portd ended with {code} on SIGTERM\n{holder.log()[-3000:]}")
        else:
            holder.signal(signal.SIGSTOP)
        status = await self._until(other, _holds)
        seconds = time.monotonic() - begun
        self.report.full_syncs += sum(count for why, count in status["full_syncs"].items() if why != "first")
        if kind == "SIGSTOP, SIGCONT":
            await asyncio.sleep(self._chance.uniform(0, 0.5))
            holder.signal(signal.SIGCONT)
        else:
            holder.start()
        await self._until(holder, _waits)
        self._portds.reverse()
        return seconds

    async def _until(self, portd: Portd, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Waits until the status says so; the status then."""
        try:
            return await asyncio.to_thread(portd.until, reached)
        except (AssertionError, TimeoutError) as error:
            logs = "\n-- the other one\n".join(each.log()[-4000:] for each in self._portds)
            raise Failure(f"{error}\n{logs}") from error

    async def _check(self) -> None:
        """Holds all writes, waits until they are applied, and compares the ends.

        Raises:
            Failure: they differ.
        """
        writers = (self._traffic, self._ledger, self._entries)
        for each in writers:
            await each.hold()
        await asyncio.to_thread(self._portds[0].until_applied, self._source)
        found = await asyncio.to_thread(self._differences)
        if found:
            raise Failure("the ends differ:\n" + "\n".join(found) + f"\n{self._portds[0].log()[-5000:]}")
        self.report.checks += 1
        self.report.counted = sum(self._ledger.sent) + self._entries.written
        self.report.commands = self._traffic.commands
        for each in writers:
            each.release()

    def _differences(self) -> list[str]:
        found = self._ledger.check(self._source, self._target)
        for name, server in (("source", self._source), ("target", self._target)):
            found += [f"{name}: {each}" for each in self._entries.check(server)]
        lines = compare(self._source, self._target, limit=20)
        return found + [line for line in lines if "consumer" not in line or "is only on one end" not in line]

    async def _finish(self) -> None:
        """Both end in order, and the ends have one digest.

        Raises:
            Failure: they have not.
        """
        for each in (self._traffic, self._ledger, self._entries):
            await each.hold()
        await asyncio.to_thread(self._portds[0].until_applied, self._source)
        for portd in reversed(self._portds):  # the standby first: it would take over
            code = await asyncio.to_thread(portd.terminate)
            if code != os.EX_OK:
                raise Failure(f"portd ended with {code}\n{portd.log()[-4000:]}")
        client = self._target.client()
        client.delete("portd:checkpoint:default", "portd:checkpoint:default:epoch")
        if left := client.keys("portd:*"):
            raise Failure(f"this is left in the target: {left}")
        if self._source.binary.name == self._target.binary.name:
            await wait_for(lambda: digest(self._source) == digest(self._target))
        for each in (self._traffic, self._ledger, self._entries):
            each.release()


def _holds(status: dict[str, Any]) -> bool:
    """It has the link, and has caught up."""
    return bool(status["role"] == "holder" and status["phase"] == "streaming")


def _waits(status: dict[str, Any]) -> bool:
    """It stands by, and has looked at both ends."""
    return bool(status["phase"] == "standby" and status["standby"]["holder"] and status["source"]["outlook"])
