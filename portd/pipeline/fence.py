"""What order a big key needs: the fence around it, and the runs of chunks that must not be torn apart.

A fence is passive: the queue asks it what may be sent now, lanes never wait at one. So every batch that a lane takes
can be sent at once, and no arrangement of lanes, keys and budget can lock up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portd.kernel.batch import Batch


class Gate(StrEnum):
    """Whether chunks of a big key may go."""

    OPENING = "opening"  # the OPEN batch is not acknowledged yet
    OPEN = "open"
    SKIPPED = "skipped"  # the key exists and is left alone, or could not be opened: its chunks are dropped


class Run:
    """Consecutive ordered chunks of one big key; the lane that takes the run serves it to its end.

    Attributes:
        fence: number of the big key.
        key: its name.
        db: its database.
    """

    def __init__(self, fence: int, key: bytes, db: int) -> None:
        self.fence = fence
        self.key = key
        self.db = db
        self._batches: deque[Batch] = deque()
        self._ended = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def ended(self) -> bool:
        """No batch will be added."""
        return self._ended

    def add(self, batch: Batch) -> None:
        """Appends a chunk; the queue's side."""
        assert not self._ended, "a run takes no chunk after its end"
        self._batches.append(batch)
        self._changed.set()

    def end(self) -> None:
        """Says that no chunk will follow; the queue's side. Idempotent."""
        self._ended = True
        self._changed.set()

    async def peek(self) -> Batch | None:
        """The next chunk, left in place; waits for it. None when the run is over; the lane's side."""
        while not self._batches:
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._batches[0]

    def peek_now(self) -> Batch | None:
        """The next chunk if it is there, left in place; the lane's side."""
        return self._batches[0] if self._batches else None

    def pop(self) -> Batch:
        """Takes the chunk that ``peek`` returned; the lane's side."""
        return self._batches.popleft()

    def drain(self) -> list[Batch]:
        """Takes all chunks that wait; for keys that are skipped."""
        batches = list(self._batches)
        self._batches.clear()
        return batches


@dataclass(frozen=True, slots=True)
class FenceStatistics:
    """A big key on its way.

    Attributes:
        number: counted from 1 in the order of the snapshot.
        db: its database.
        key: its name.
        gate: whether its chunks may go.
        chunks: chunks put and not acknowledged.
        chunks_done: chunks acknowledged.
        closing: only its last batch is missing.
    """

    number: int
    db: int
    key: bytes
    gate: Gate
    chunks: int
    chunks_done: int
    closing: bool


@dataclass(slots=True, eq=False)
class Fence:
    """The state of one big key.

    OPEN must be acknowledged before any chunk goes; CLOSE goes when every chunk is acknowledged. Batches that may not
    go yet are parked here; they stay in the budget.
    """

    number: int
    key: bytes
    db: int
    gate: Gate = Gate.OPENING
    failed: bool = False  # a command of this key was refused for good
    chunks: int = 0  # put and not acknowledged
    chunks_done: int = 0
    parked: list[Batch | Run] = field(default_factory=list)
    run: Run | None = None  # where ordered chunks go now
    closing: Batch | None = None  # the CLOSE batch, while it waits for chunks

    def add(self, batch: Batch, *, ordered: bool) -> Batch | Run | None:
        """Takes a chunk in; returns what a lane may take now because of it, if anything."""
        self.chunks += 1
        item: Batch | Run = batch
        if ordered:
            if self.run is not None:
                self.run.add(batch)
                return None
            item = self.run = Run(self.number, self.key, self.db)
            self.run.add(batch)
        else:
            self.end_run()
        if self.gate is Gate.OPENING:
            self.parked.append(item)
            return None
        return item

    def end_run(self) -> None:
        """Ends the run in progress, if there is one."""
        if self.run is not None:
            self.run.end()
            self.run = None

    def open(self) -> list[Batch | Run]:
        """OPEN is acknowledged: returns what was parked, in order."""
        self.gate = Gate.OPEN
        parked, self.parked = self.parked, []
        return parked

    def skip(self) -> list[Batch]:
        """The key is not to be written: returns the parked chunks for dropping."""
        self.gate = Gate.SKIPPED
        self.end_run()
        dropped: list[Batch] = []
        for item in self.parked:
            dropped += item.drain() if isinstance(item, Run) else [item]
        self.parked.clear()
        self.chunks -= len(dropped)
        return dropped

    def acknowledge(self) -> None:
        """A chunk is with the target."""
        self.chunks -= 1
        self.chunks_done += 1

    def take_close(self) -> Batch | None:
        """The CLOSE batch, once it is there and nothing before it is missing."""
        if self.closing is None or self.chunks or self.gate is Gate.OPENING:
            return None
        batch, self.closing = self.closing, None
        return batch

    def statistics(self) -> FenceStatistics:
        """How far this key is."""
        return FenceStatistics(
            number=self.number,
            db=self.db,
            key=self.key,
            gate=self.gate,
            chunks=self.chunks,
            chunks_done=self.chunks_done,
            closing=self.closing is not None,
        )
