"""What a lane takes from the queue next: batches for one load, or chunks of a big key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.pipeline import QueueClosed, Run
from portd.target.groupsize import GroupSize
from portd.target.snapshot.load import Load

if TYPE_CHECKING:
    from portd.kernel.batch import Batch
    from portd.model import LaneState
    from portd.pipeline import BatchQueue
    from portd.target.snapshot.seats import Seats

GROUP_COMMANDS: Final = 4096  # in one load at the most; each may add hundreds of elements


class Intake:
    """Gathers the loads of one lane.

    Args:
        name: of the lane.
        state: counters that operators see.
        queue: where batches come from.
        seats: a lane has one while it takes batches.
        window_bytes: no load is larger, unless one batch is.

    Attributes:
        size: of loads; whoever sends them notes what they cost.
        run: chunks of a big key that are served to their end before anything else; None when there are none.
    """

    def __init__(self, name: str, state: LaneState, queue: BatchQueue, seats: Seats, window_bytes: int) -> None:
        self.size = GroupSize(window_bytes, GROUP_COMMANDS)
        self.run: Run | None = None
        self._name = name
        self._state = state
        self._queue = queue
        self._seats = seats
        self._seated = False
        self._next: Batch | None = None  # taken, for the load behind it

    async def gather(self, *, far: bool) -> Load | None:
        """The next load; None at the end.

        Args:
            far: the target is: it is given as much as is at hand, a near one one batch at a time.
        """
        while True:
            if self.run is not None:
                self.stand()
                if (load := await self._gather_run(self.run)) is not None:
                    return load
                self.run = None
            item = await self._take()
            if item is None:
                return None
            if not isinstance(item, Run):
                return self._gather_batches(item, far=far)
            self.run = item

    def take_part(self, run: Run) -> Load:
        """The next part of a command, which is at hand."""
        load = Load(run.db, ordered=True)
        load.add(self._queue.take(run, self._name))
        return self._taken(load)

    def stand(self) -> None:
        """Gives the seat back."""
        if self._seated:
            self._seated = False
            self._seats.give()

    def discard(self) -> None:
        """Lets go of what was taken."""
        self.run = self._next = None

    async def _take(self) -> Batch | Run | None:
        """The next item of the queue; None at the end.

        Only taking needs a seat: what was taken goes its way, however many seats there are.
        """
        if self._next is not None:
            batch, self._next = self._next, None
            return batch
        if self._seats.crowded:
            self.stand()
        if not self._seated:
            await self._seats.take()
            self._seated = True
        try:
            return await self._queue.get(self._name)
        except QueueClosed:
            return None

    def _gather_batches(self, batch: Batch, *, far: bool) -> Load:
        """A load that begins with *batch*."""
        load = Load(batch.db)
        load.add(batch)
        size, commands = len(batch), batch.replies
        while far and not load.deliveries[0].asks_existence and size < self.size.bytes:
            following = self._queue.get_now(self._name)
            if isinstance(following, Run):
                self.run = following
            if following is None or isinstance(following, Run):
                break
            if following.db != load.db or commands + following.replies > self.size.commands:
                self._next = following
                break
            load.add(following)
            if load.deliveries[-1].asks_existence:
                load.deliveries.pop()
                self._next = following
                break
            size += len(following)
            commands += following.replies
        return self._taken(load)

    async def _gather_run(self, run: Run) -> Load | None:
        """Chunks of a big key, waiting for the first; None at the end of the run."""
        batch = await run.peek()
        if batch is None:
            return None
        load = Load(run.db, ordered=True)
        most, size, commands = self.size, 0, 0
        while True:
            load.add(self._queue.take(run, self._name))
            size += len(batch)
            commands += batch.replies
            following = run.peek_now()
            if batch.part or following is None or following.part:
                break
            if size + len(following) > most.bytes or commands + following.replies > most.commands:
                break
            batch = following
        return self._taken(load)

    def _taken(self, load: Load) -> Load:
        """Counts a load that is on its way from now on."""
        self._state.in_flight_bytes += load.size
        self._state.in_flight_batches += len(load.deliveries)
        return load
