"""The queue between the decoder and the lanes, bounded in bytes, with big keys kept in order.

What lies in it can be sent at once, by any lane. Batches that may not go yet wait at their fence (`portd.pipeline.fence`)
and enter the queue when an acknowledgement lets them. Every batch counts against the budget from ``put`` until it is
acknowledged.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portd.kernel.batch import CLOSE, OPEN, ORDERED, WHOLE
from portd.pipeline.fence import Fence, FenceStatistics, Gate, Run

if TYPE_CHECKING:
    from portd.kernel.batch import Batch
    from portd.model import SnapshotProgress
    from portd.pipeline.budget import ByteBudget

OWNER = "queue"  # holder in the budget of what no lane has taken yet


class QueueClosed(Exception):
    """Nothing more will come out, or may be put in."""


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """A moment of the queue.

    Attributes:
        ready: items that a lane could take now.
        outstanding: batches put and not acknowledged, wherever they are.
        bytes: bytes of batches that no lane has taken.
        parked: items that wait at a fence.
        waiting: lanes that wait for an item.
        fences: big keys on their way.
    """

    ready: int
    outstanding: int
    bytes: int
    parked: int
    waiting: int
    fences: tuple[FenceStatistics, ...]


class BatchQueue:
    """Hands batches to lanes, counts keys when they are acknowledged.

    Args:
        budget: what bounds it.
        progress: receives ``keys_applied``, ``keys_filtered`` and ``keys_failed``.
    """

    def __init__(self, budget: ByteBudget, progress: SnapshotProgress) -> None:
        self.budget = budget
        self._progress = progress
        self._ready: asyncio.Queue[Batch | Run | None] = asyncio.Queue()  # None is the end mark
        self._fences: dict[int, Fence] = {}
        self._outstanding = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._waiting = 0

    @property
    def closed(self) -> bool:
        """Nothing may be put in any more."""
        return self._closed

    # -- decoder's side

    async def put(self, batch: Batch) -> None:
        """Takes a batch in, once the budget has room for it. One caller at a time.

        Raises:
            QueueClosed: it was closed before or while waiting.
        """
        self._check_open()
        fence = self._fences.get(batch.fence) if batch.fence else None
        if fence is not None and fence.gate is Gate.SKIPPED:
            if batch.kind == CLOSE:
                self._finish(fence, batch)
            return
        await self.budget.acquire(OWNER, len(batch))
        try:
            self._check_open()
        except QueueClosed:
            self.budget.release(OWNER, len(batch))
            raise
        self._outstanding += 1
        self._idle.clear()
        self._progress.bytes_made += len(batch)
        self._route(batch)

    async def join(self) -> None:
        """Waits until every batch that was put is acknowledged."""
        await self._idle.wait()

    def close(self) -> None:
        """Ends the queue: what is ready can still be taken, then getters get QueueClosed. Idempotent."""
        if not self._closed:
            self._closed = True
            self._ready.put_nowait(None)

    def discard(self) -> None:
        """Lets go of all batches: the lanes are gone and nobody will acknowledge anything. Idempotent."""
        self.close()
        self._fences.clear()
        while not self._ready.empty():
            item = self._ready.get_nowait()
            if isinstance(item, Run):
                item.drain()
        self._ready.put_nowait(None)

    # -- lanes' side

    async def get(self, owner: str) -> Batch | Run:
        """The next batch, or a run to be served to its end; waits for one. Cancelling it loses nothing.

        A batch's bytes are *owner*'s from now on; those of a run's chunks when `take` is called for them.

        Raises:
            QueueClosed: closed and empty.
        """
        self._waiting += 1
        try:
            item = await self._ready.get()
        finally:
            self._waiting -= 1
        if item is None:
            self._ready.put_nowait(None)  # for the next lane
            raise QueueClosed
        if not isinstance(item, Run):
            self.budget.move(OWNER, owner, len(item))
        return item

    def get_now(self, owner: str) -> Batch | Run | None:
        """Like `get`, when something is at hand; None otherwise."""
        if self._ready.empty():
            return None
        item = self._ready.get_nowait()
        if item is None:
            self._ready.put_nowait(None)
            return None
        if not isinstance(item, Run):
            self.budget.move(OWNER, owner, len(item))
        return item

    def take(self, run: Run, owner: str) -> Batch:
        """Takes the next chunk of a run, which must be there; its bytes are *owner*'s from now on."""
        batch = run.pop()
        self.budget.move(OWNER, owner, len(batch))
        return batch

    def acknowledge(
        self, batch: Batch, owner: str, *, failed: int = 0, filtered: int = 0, exists: bool = False
    ) -> None:
        """The target has answered every command of the batch.

        Args:
            batch: taken with `get` or `take`.
            owner: who took it.
            failed: keys of the batch that were refused for good; for a batch of a big key, any number means that key.
            filtered: keys of the batch that were left alone on purpose.
            exists: OPEN was an EXISTS and the key is there, so it is to be left alone.
        """
        self.budget.release(owner, len(batch))
        self._progress.bytes_settled += len(batch)
        if batch.kind == WHOLE:
            self._progress.keys_failed += failed
            self._progress.keys_filtered += filtered
            self._progress.keys_applied += max(0, batch.keys - failed - filtered)
        else:
            self._acknowledge_fenced(self._fences[batch.fence], batch, failed=failed > 0, exists=exists)
        self._done()

    def failed(self, batch: Batch) -> bool:
        """Whether a command of the batch's big key was refused before."""
        fence = self._fences.get(batch.fence)
        return fence is not None and fence.failed

    def fail(self, batch: Batch) -> None:
        """Notes that a command of the batch's big key was refused for good."""
        self._fences[batch.fence].failed = True

    def statistics(self) -> QueueStatistics:
        """What waits where."""
        return QueueStatistics(
            ready=self._ready.qsize() - self._closed,
            outstanding=self._outstanding,
            bytes=self.budget.held(OWNER),
            parked=sum(len(fence.parked) + (fence.closing is not None) for fence in self._fences.values()),
            waiting=self._waiting,
            fences=tuple(fence.statistics() for fence in self._fences.values()),
        )

    # -- inside

    def _check_open(self) -> None:
        if self._closed:
            raise QueueClosed

    def _route(self, batch: Batch) -> None:
        """Puts an admitted batch where it belongs."""
        if batch.kind == WHOLE:
            self._ready.put_nowait(batch)
        elif batch.kind == OPEN:
            assert batch.fence not in self._fences, "a big key is opened once"
            self._fences[batch.fence] = Fence(batch.fence, batch.key, batch.db)
            self._ready.put_nowait(batch)
        else:
            self._route_fenced(self._fences[batch.fence], batch)

    def _route_fenced(self, fence: Fence, batch: Batch) -> None:
        if batch.kind == CLOSE:
            fence.end_run()
            fence.closing = batch
            self._try_close(fence)
        elif fence.gate is Gate.SKIPPED:  # since the producer waited for room
            self._drop(batch)
        else:
            item = fence.add(batch, ordered=batch.kind == ORDERED)
            if item is not None:
                self._ready.put_nowait(item)

    def _acknowledge_fenced(self, fence: Fence, batch: Batch, *, failed: bool, exists: bool) -> None:
        fence.failed |= failed
        if batch.kind == CLOSE:
            self._finish(fence, batch)
        elif batch.kind == OPEN:
            if exists or failed:
                for dropped in fence.skip():
                    self._drop(dropped)
            else:
                for item in fence.open():
                    self._ready.put_nowait(item)
            self._try_close(fence)
        else:
            fence.acknowledge()
            self._try_close(fence)

    def _try_close(self, fence: Fence) -> None:
        """Sends CLOSE on its way once nothing before it is missing."""
        batch = fence.take_close()
        if batch is None:
            return
        if fence.gate is Gate.SKIPPED or not len(batch):
            self._finish(fence, batch)
            self._drop(batch)
        else:
            self._ready.put_nowait(batch)

    def _finish(self, fence: Fence, close: Batch) -> None:
        """Counts a big key and forgets it."""
        if fence.failed:
            self._progress.keys_failed += close.keys
        elif fence.gate is Gate.SKIPPED:
            self._progress.keys_filtered += close.keys
        else:
            self._progress.keys_applied += close.keys
        del self._fences[fence.number]

    def _drop(self, batch: Batch) -> None:
        """Forgets a batch that needs no sending."""
        self.budget.release(OWNER, len(batch))
        self._progress.bytes_settled += len(batch)
        self._done()

    def _done(self) -> None:
        self._outstanding -= 1
        if not self._outstanding:
            self._idle.set()
