"""The writers: N lanes that take the snapshot's batches to the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portd.groups import TaskGroup
from portd.pipeline import BatchQueue
from portd.pipeline.queue import OWNER as QUEUE
from portd.target.snapshot.lane import Lane
from portd.target.snapshot.seats import Seats

if TYPE_CHECKING:
    from portd.kernel.batch import Batch
    from portd.model import Progress
    from portd.net.endpoint import Endpoint
    from portd.pipeline import ByteBudget, QueueStatistics
    from portd.target.deadletter import DeadLetters
    from portd.target.snapshot.writing import WriterOptions


@dataclass(frozen=True, slots=True)
class WriterStatistics:
    """A moment of the writers.

    Attributes:
        queue: what no lane has taken, and the big keys on their way.
        in_flight_bytes: sent and not acknowledged, or to be sent again, by lane.
    """

    queue: QueueStatistics
    in_flight_bytes: tuple[int, ...]


class Writers:
    """Applies batches of one snapshot. Use: ``run`` as a task, ``put`` each batch, ``flush``, ``close``.

    Args:
        endpoint: the target.
        budget: bounds queue and lanes together; owners are ``queue`` and ``lane-<n>``, which are ours until `discard`.
        progress: ``snapshot`` counts keys, ``lanes`` is filled anew.
        letters: receives refusals.
        options: see there.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        budget: ByteBudget,
        progress: Progress,
        letters: DeadLetters,
        options: WriterOptions,
    ) -> None:
        self._budget = budget
        self.queue = BatchQueue(budget, progress.snapshot)
        self._states = progress.take_lanes(options.writers)
        # One transaction is executed while another one is on its way.
        seats = Seats(options.writers, options.seats if options.eviction is not None else 2 * options.seats)
        self._lanes = [Lane(state, endpoint, self.queue, seats, letters, options) for state in self._states]

    async def run(self) -> None:
        """Runs the lanes until `close` was called and everything put is acknowledged.

        Raises:
            ExceptionGroup: of `portd.errors.TargetError`, when a lane cannot go on; the others are cancelled.
        """
        async with TaskGroup() as group:
            for lane in self._lanes:
                group.create_task(lane.run(), name=lane.name)

    async def put(self, batch: Batch) -> None:
        """Hands a batch over; waits for room in the budget.

        Raises:
            QueueClosed: `close` was called.
        """
        await self.queue.put(batch)

    async def flush(self) -> None:
        """Waits until everything put is acknowledged."""
        await self.queue.join()

    def close(self) -> None:
        """Lets the lanes end once the queue is empty; idempotent. To stop at once, cancel the task of ``run``."""
        self.queue.close()

    def discard(self) -> None:
        """Lets go of every batch, after ``run`` has ended in whatever way; idempotent.

        Tracebacks keep lanes and queue alive until the collector comes by: what they held would add up from try to try.
        """
        self.queue.discard()
        for lane in self._lanes:
            lane.discard()
        self._budget.clear(QUEUE, *(lane.name for lane in self._lanes))

    def statistics(self) -> WriterStatistics:
        """Who holds what."""
        return WriterStatistics(
            queue=self.queue.statistics(), in_flight_bytes=tuple(state.in_flight_bytes for state in self._states)
        )
