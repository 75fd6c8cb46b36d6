"""Writers into a cluster: lanes for each node, which take the keys whose slots it has."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from portd.groups import TaskGroup
from portd.kernel.batch import WHOLE
from portd.kernel.scatter import Scatter
from portd.pipeline import BatchQueue, QueueStatistics
from portd.pipeline.queue import OWNER as QUEUE
from portd.target.snapshot.lane import Lane
from portd.target.snapshot.seats import Seats
from portd.target.snapshot.writers import WriterStatistics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from portd.kernel.batch import Batch
    from portd.model import Progress
    from portd.target.destination import Destination
    from portd.target.snapshot.writing import WriterOptions

LEAST_BATCH: Final = 8 * 1024  # bytes of a node's batch, however many nodes share a budget


class ClusterWriters:
    """Applies batches of one snapshot to a cluster; used as `portd.target.snapshot.writers.Writers` is.

    Args:
        destination: the target; its budget bounds queues and lanes of all nodes together.
        progress: ``snapshot`` counts keys, ``lanes`` is filled anew.
        options: see there; `writers` are shared among the nodes, one for each at the least.
        batch_bytes: of a batch.
        note: awaited with the number of the node and each batch that goes there.
    """

    def __init__(
        self,
        destination: Destination,
        progress: Progress,
        options: WriterOptions,
        batch_bytes: int,
        note: Callable[[int, Batch], Awaitable[None]] | None = None,
    ) -> None:
        cluster, budget = destination.cluster, destination.budget
        assert cluster is not None, "a server has writers of its own"
        count = len(cluster.nodes)
        each = max(1, options.writers // count)
        self._budget = budget
        self._note = note
        self._scatter = Scatter(
            cluster.topology.table, count, max(LEAST_BATCH, min(batch_bytes, 2 * batch_bytes // count))
        )
        self._queues = [BatchQueue(budget, progress.snapshot) for _ in cluster.nodes]
        self._states = progress.take_lanes(each * count)
        self._lanes: list[Lane] = []
        for node in cluster.nodes:
            here = replace(options, epoch=destination.node_epochs[node.number], run_id=node.run_id, writers=each)
            seats = Seats(each, options.seats)
            states = self._states[node.number * each : (node.number + 1) * each]
            queue = self._queues[node.number]
            self._lanes += [Lane(state, node.endpoint, queue, seats, destination.letters, here) for state in states]

    async def run(self) -> None:
        """See `Writers.run`."""
        async with TaskGroup() as group:
            for lane in self._lanes:
                group.create_task(lane.run(), name=lane.name)

    async def put(self, batch: Batch) -> None:
        """See `Writers.put`; whole keys wait until there are enough of them for their node."""
        if batch.kind == WHOLE:
            for number, part in self._scatter.add(batch):
                await self._give(number, part)
        else:
            await self._give(self._scatter.node_of(batch.key), batch)

    async def _give(self, number: int, batch: Batch) -> None:
        if self._note is not None:
            await self._note(number, batch)
        await self._queues[number].put(batch)

    async def flush(self) -> None:
        """See `Writers.flush`."""
        for number, part in self._scatter.rest():
            await self._give(number, part)
        for queue in self._queues:
            await queue.join()

    def close(self) -> None:
        """See `Writers.close`."""
        for queue in self._queues:
            queue.close()

    def discard(self) -> None:
        """See `Writers.discard`."""
        for queue in self._queues:
            queue.discard()
        for lane in self._lanes:
            lane.discard()
        self._budget.clear(QUEUE, *(lane.name for lane in self._lanes))

    def statistics(self) -> WriterStatistics:
        """See `Writers.statistics`; the queues of all nodes are told as one."""
        found = [queue.statistics() for queue in self._queues]
        return WriterStatistics(
            queue=QueueStatistics(
                ready=sum(each.ready for each in found),
                outstanding=sum(each.outstanding for each in found),
                bytes=found[0].bytes,  # of the budget that they share
                parked=sum(each.parked for each in found),
                waiting=sum(each.waiting for each in found),
                fences=tuple(fence for each in found for fence in each.fences),
            ),
            in_flight_bytes=tuple(state.in_flight_bytes for state in self._states),
        )
