"""A fault run: a seeded schedule against one world, recovery times, and the ends compared."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from tests.faults.kinds import KINDS, Kind
from tests.faults.world import Failure, World
from tests.servers import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

FAULT_SECONDS = 2 * PATIENCE_SECONDS  # a fault that takes longer hangs
OVERLAP = 0.15  # of the faults begin before the one before is over


@dataclass(slots=True)
class Report:
    """What happened.

    Attributes:
        seed: of the schedule.
        recoveries: seconds from the end of each fault until a new write was in the target, by kind.
        checks: comparisons of the ends, all of them equal.
        commands: of the workload.
        exits: of portd by itself, when an end could not be reached.
        history: (seconds since the start, kind, recovery seconds) of every fault in order.
    """

    seed: int
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    checks: int = 0
    commands: int = 0
    exits: int = 0
    history: list[tuple[float, str, float]] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """How many there were."""
        return sum(map(len, self.recoveries.values()))

    def summary(self) -> dict[str, object]:
        """Everything, for a machine."""
        return {
            "seed": self.seed, "faults": self.faults, "checks": self.checks, "commands": self.commands,
            "exits": self.exits, "recoveries": {name: [round(s, 3) for s in all_] for name, all_ in self.recoveries.items()},
        }  # fmt: skip

    def merge(self, other: Report) -> None:
        """Adds another run's figures."""
        for name, seconds in other.recoveries.items():
            self.recoveries[name] += seconds
        self.checks += other.checks
        self.commands += other.commands
        self.exits += other.exits

    def table(self) -> str:
        """Markdown: kind, count, recovery time."""
        lines = ["| fault | count | median s | max s |", "|---|---|---|---|"]
        told = ((each.name, self.recoveries[each.name]) for each in KINDS if each.name in self.recoveries)
        lines += [f"| {name} | {len(each)} | {median(each):.2f} | {max(each):.2f} |" for name, each in told]
        every = [each for seconds in self.recoveries.values() for each in seconds]
        if every:
            lines.append(f"| **all** | **{len(every)}** | **{median(every):.2f}** | **{max(every):.2f}** |")
        return "\n".join(lines)


class Run:
    """One run.

    Args:
        world: not begun.
        seed: of the schedule.
        kinds: to choose from.
        check_every: faults between two comparisons.
        verbose: tell every fault.
        pause_seconds: without faults, after each.
    """

    def __init__(
        self,
        world: World,
        seed: int,
        kinds: Sequence[Kind] = KINDS,
        *,
        check_every: int = 20,
        verbose: bool = False,
        pause_seconds: float = 0.0,
    ) -> None:
        self.report = Report(seed)
        self._world = world
        self._kinds = list(kinds)
        self._chance = random.Random(f"schedule {seed}")
        self._check_every = check_every
        self._verbose = verbose
        self._pause = pause_seconds
        self._begun = time.monotonic()
        self._deck: list[Kind] = []

    async def run(self, *, faults: int | None = None, seconds: float = 3600.0, at_least: int = 0) -> Report:
        """Faults until there were enough or the time is over; then the ends are compared to the last bit.

        Args:
            faults: enough.
            seconds: the time, from when this was made.
            at_least: this many however long they take.

        Raises:
            Failure: something was lost, doubled, hung or crashed; says what happened before.
        """
        deadline = self._begun + seconds
        try:
            async with self._world as world:
                await world.until(lambda status: status["phase"] == "streaming", "first sync")
                await world.check()
                while self.report.faults < at_least or (
                    time.monotonic() < deadline and (faults is None or self.report.faults < faults)
                ):
                    await self._next()
                    if self.report.faults // self._check_every >= self.report.checks:
                        await self._check()
                self.report.commands = world.traffic.commands + sum(world.ledger.sent)
                self.report.exits = len(world.exits)
                await world.finish()
                self.report.checks += 1
        except Exception as error:
            last = "\n".join(f"{at:8.2f} s  {name}  {seconds:.2f} s" for at, name, seconds in self.report.history[-12:])
            raise Failure(
                f"seed {self.report.seed}, after {self.report.faults} faults, the last of them:\n{last}\n{type(error).__name__}: {error}"
            ) from error
        return self.report

    def _choose(self) -> Kind:
        """Every kind comes up by its weight, and all of them before any deck begins again."""
        while not self._deck:
            for each in self._kinds:
                copies = int(each.weight) + (self._chance.random() < each.weight % 1)
                self._deck += [each] * copies
            self._chance.shuffle(self._deck)
        return self._deck.pop()

    async def _next(self) -> None:
        """One fault, sometimes together with another one."""
        kinds = [self._choose()]
        if not kinds[0].alone and self._chance.random() < OVERLAP:
            other = self._choose()
            if other.alone:
                self._deck.append(other)
            elif other.name != kinds[0].name:
                kinds.append(other)
        at = time.monotonic() - self._begun
        names = " + ".join(each.name for each in kinds)
        try:
            async with asyncio.timeout(FAULT_SECONDS):
                told = await asyncio.gather(*(each.run(self._world) for each in kinds))
        except Exception as error:
            status = await self._world.status()
            raise Failure(f"{names}: {type(error).__name__}: {error}\n{self._world.describe(status)}") from error
        ended = time.monotonic()
        try:
            await self._world.recovered()
        except Failure as error:
            raise Failure(f"{names}: {error}") from error
        seconds = max(time.monotonic() - ended, *(each or 0.0 for each in told))
        for each in kinds:
            self.report.recoveries[each.name].append(seconds)
            self.report.history.append((at, each.name, seconds))
        if self._verbose:
            print(f"{at:8.2f} s  {self.report.faults:4}  {names}: {seconds:.2f} s", flush=True)
        await asyncio.sleep(self._chance.uniform(0, 0.3) + self._pause)

    async def _check(self) -> None:
        await self._world.check()
        self.report.checks += 1
        if self._verbose:
            print(f"{time.monotonic() - self._begun:8.2f} s  equal after {self.report.faults} faults", flush=True)
