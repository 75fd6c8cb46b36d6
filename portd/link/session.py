"""One session: follows one history of the source, from a full or partial sync until the history is lost.

Two sides, with the spool between them: one keeps the connection to the source, making it again as often as it breaks; the other
applies the snapshot, then the stream. Neither waits for the other, and a broken connection is no news for the target's side.
"""

from __future__ import annotations

import asyncio
from traceback import clear_frames
from typing import TYPE_CHECKING

from portd.config.choices import StopAfter
from portd.errors import first_cause
from portd.link.copying import Copied, Copying
from portd.link.following import Following, sweeper_of
from portd.link.gate import Stopped
from portd.link.glimpse import Glimpse
from portd.log import get_logger
from portd.model import Work
from portd.scheduling import bulk_work
from portd.source.keeper import HistoryLost
from portd.target.kept.postponed import Postponed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from portd.kernel.snapshot import CurrentKey
    from portd.link.destination import Destination
    from portd.link.gate import Gate
    from portd.link.inflow import Inflow
    from portd.memory.plan import MemoryPlan
    from portd.model import Progress
    from portd.pipeline import ByteBudget
    from portd.source.handshake import Transfer
    from portd.target.kept.checkpoint import Checkpoint
    from portd.target.stream.scriptbook import ScriptBook

log = get_logger("sync")


class Session:
    """Runs one session.

    Args:
        plan: how much memory each part has.
        progress: counters.
        budget: bounds queue and lanes.
        scripts: texts that the source may call by their SHA1.
        gate: where a full sync waits for an operator.
        beside: runs while the stream is followed, from when it has caught up; cancelled when that ends.
        destination: the target's side.
        inflow: the source's side.
        transfer: what the source agreed to; it is connected.
        checkpoint: where a partial sync continues; None for a full one.

    Attributes:
        work: what the target's side does now: a snapshot, the stream, or nothing yet.
        largest: keys of a snapshot that is over.
        reached: what `stop_after` asks for is done.
    """

    def __init__(
        self,
        plan: MemoryPlan,
        progress: Progress,
        budget: ByteBudget,
        scripts: ScriptBook,
        gate: Gate,
        beside: Callable[[], Coroutine[None, None, None]] | None,
        destination: Destination,
        inflow: Inflow,
        transfer: Transfer,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.work: Copying | Following | None = None
        self.largest: list[CurrentKey] = []
        self.reached = False
        self._plan = plan
        self._progress = progress
        self._budget = budget
        self._scripts = scripts
        self._gate = gate
        self._beside = beside
        self._into = destination
        self._inflow = inflow
        self._transfer = transfer
        self._checkpoint = checkpoint

    async def run(self, stop: asyncio.Event, on_copied: Callable[[], None]) -> None:
        """Replicates until told to stop, or until ``stop_after`` is reached.

        Args:
            stop: set when it is to end in order.
            on_copied: called when a snapshot is applied and its checkpoint written.

        Raises:
            HistoryLost: the source begins another full sync.
            Stopped: a stop came before there was a stream to end with.
            PortdError: an end failed in a way that needs a new session, or an operator.
        """
        receiver = self._inflow.receiver
        try:
            async with asyncio.TaskGroup() as group:
                inflow = group.create_task(self._inflow.run(), name="receiver")
                apply = group.create_task(self._apply(stop, on_copied), name="apply")
                watch = group.create_task(self._watch_stop(stop), name="stop")
                await apply
                for task in (inflow, watch):
                    task.cancel()
        except BaseExceptionGroup as group:
            cause = first_cause(group)
            if not isinstance(cause, HistoryLost):  # then it is connected, and the next session's
                receiver.close()
            raise cause from None
        except asyncio.CancelledError:
            receiver.close()
            raise
        receiver.close()

    async def _watch_stop(self, stop: asyncio.Event) -> None:
        """A stop ends the input; what is in the spool is still applied. A snapshot cannot be kept half."""
        await stop.wait()
        if not isinstance(self.work, Following):
            raise Stopped
        self._inflow.end()

    async def _apply(self, stop: asyncio.Event, on_copied: Callable[[], None]) -> None:
        """The target's side."""
        into, known, copied = self._into, self._checkpoint, None
        if known is None:
            copied = await self._copy()
            known = copied.checkpoint
            on_copied()
        epoch = into.epoch if copied is None else into.epoch.successor
        if into.settings.stop_after is StopAfter.SNAPSHOT:
            if copied is None:
                log.info("snapshot was applied by an earlier start", offset=known.position.offset)
            sweeper = sweeper_of(into, self._progress, epoch, Postponed(there=known.postponed))
            await sweeper.finish(known.epoch)
            self.reached = True
            return
        index, since = (
            (self._inflow.spool.cursor, known.time_ms / 1000) if copied is None else (copied.index, copied.since)
        )
        following = Following(
            self._progress, self._scripts, self._beside, into, self._inflow, known, index=index, since=since, epoch=epoch
        )  # fmt: skip
        self.work = following
        with self._progress.doing(Work.FOLLOWING):
            if stop.is_set():
                self._inflow.end()
            self.reached = await following.run()

    async def _copy(self) -> Copied:
        """The snapshot of a full sync.

        Raises:
            HeldBack: it has to wait.
        """
        with bulk_work(), self._progress.doing(Work.COPYING):
            await self._examine()
            copying = Copying(
                self._plan, self._progress, self._budget, self._scripts, self._gate, self._into, self._inflow, self._transfer
            )  # fmt: skip
            self.work = copying
            try:
                return await copying.run()
            except BaseException as error:
                clear_frames(
                    error.__traceback__
                )  # they hold the buffers of a try that failed, until the collector comes by
                raise
            finally:
                self.largest = copying.largest
                copying.close()
                self.work = None

    async def _examine(self) -> None:
        """Where the source has left a doubt whether it is the one that was followed, its snapshot has to tell.

        Raises:
            HeldBack: the full sync has to wait.
        """
        if self._gate.doubtful:
            spool, capabilities = self._inflow.spool, self._into.capabilities
            glimpse = Glimpse(spool, capabilities.dialect(), self._plan.spool_bytes // 4, self._into.choice)
            self._gate.examine(await glimpse.read(self._into.endpoint))
