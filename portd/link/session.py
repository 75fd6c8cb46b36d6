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
from portd.groups import TaskGroup
from portd.link.copying import Copying
from portd.link.following import Following, sweeper_of
from portd.link.gate import Stopped
from portd.link.glimpse import Glimpse
from portd.link.inflow import StreamStart
from portd.log import get_logger
from portd.model import Work
from portd.scheduling import bulk_work
from portd.source.info import ask_branch
from portd.source.keeper import HistoryLost
from portd.target.kept.postponed import Postponed

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.kernel.snapshot import CurrentKey
    from portd.link.following import Beside
    from portd.link.gate import Gate
    from portd.link.inflow import Inflow
    from portd.link.membership import Membership
    from portd.link.reaching import Reaching
    from portd.link.ruling import Ruling
    from portd.memory.plan import MemoryPlan
    from portd.model import Progress
    from portd.target.destination import Destination
    from portd.target.kept.checkpoint import Checkpoint

log = get_logger("sync")


class Anew(Exception):
    """An operator wants everything copied anew: the session is over."""


class Session:
    """Runs one session.

    Args:
        plan: how much memory each part has.
        progress: counters.
        gate: where a full sync waits for an operator.
        destination: the target's side.
        inflow: the source's side; it is connected.
        checkpoint: where a partial sync continues; None for a full one.
        reaching: told while the stream is followed.
        ruling: the same.
        member: of a shard of a source cluster; None for other sources.

    Attributes:
        work: what the target's side does now: a snapshot, the stream, or nothing yet.
        largest: keys of a snapshot that is over.
        reached: what `stop_after` asks for is done.
    """

    def __init__(
        self,
        plan: MemoryPlan,
        progress: Progress,
        gate: Gate,
        destination: Destination,
        inflow: Inflow,
        checkpoint: Checkpoint | None,
        reaching: Reaching,
        ruling: Ruling,
        member: Membership | None = None,
    ) -> None:
        self.work: Copying | Following | None = None
        self.largest: list[CurrentKey] = []
        self.reached = False
        self._plan = plan
        self._progress = progress
        self._gate = gate
        self._into = destination
        self._inflow = inflow
        self._checkpoint = checkpoint
        self._reaching = reaching
        self._ruling = ruling
        self._member = member
        self._border = None if member is None else member.border

    @property
    def replid(self) -> str:
        """Of the history that is followed."""
        return self._inflow.replid

    async def run(
        self, stop: asyncio.Event, anew: asyncio.Event, on_copied: Callable[[], None], beside: Beside | None
    ) -> None:
        """Replicates until told to stop, or until ``stop_after`` is reached.

        Args:
            stop: set when it is to end in order.
            anew: set when it is to end for a full sync.
            on_copied: called when a snapshot is applied and its checkpoint written.
            beside: see `Following.run`.

        Raises:
            HistoryLost: the source begins another full sync.
            Stopped: a stop came before there was a stream to end with, or while nothing may be written.
            Anew: see there.
            PortdError: an end failed in a way that needs a new session, or an operator.
        """
        receiver = self._inflow.receiver
        if self._member is not None:
            self._member.rests.clear()
        try:
            async with TaskGroup() as group:
                inflow = group.create_task(self._inflow.run(), name="receiver")
                apply = group.create_task(self._apply(stop, on_copied, beside), name="apply")
                watch = group.create_task(self._watch_stop(stop), name="stop")
                order = group.create_task(self._watch_anew(anew), name="full sync")
                await apply
                for task in (inflow, watch, order):
                    task.cancel()
        except BaseExceptionGroup as group:
            cause = first_cause(group)
            if not isinstance(cause, HistoryLost):  # then it is connected, and the next session's
                receiver.close()
            raise cause from None
        except asyncio.CancelledError:
            receiver.close()
            raise
        finally:
            if self._member is not None:
                self._member.rests.set()
        receiver.close()

    async def _watch_stop(self, stop: asyncio.Event) -> None:
        """A stop ends the input; what is in the spool is still applied, unless an operator wants nothing written.

        A snapshot cannot be kept half.
        """
        await stop.wait()
        if not isinstance(self.work, Following) or self._progress.limit.paused_since:
            raise Stopped
        self._inflow.end()

    async def _watch_anew(self, anew: asyncio.Event) -> None:
        await anew.wait()
        raise Anew

    async def _apply(self, stop: asyncio.Event, on_copied: Callable[[], None], beside: Beside | None) -> None:
        """The target's side."""
        into, known = self._into, self._checkpoint
        if known is None:
            start = await self._copy()
            into = into.behind_checkpoint()
            if self._border is not None:
                self._border.reset(blurred=self._progress.snapshot.filtered.get("slot", 0) > 0)
            on_copied()
        else:
            if self._border is not None:
                self._border.reset(blurred=known.blurred)
            start = StreamStart(self._inflow.spool.cursor, known, known.time_ms / 1000, await self._branch(known))
        if into.settings.stop_after is StopAfter.SNAPSHOT:
            if known is not None:
                log.info("snapshot was applied by an earlier start", offset=known.position.offset)
            sweeper = sweeper_of(into, self._progress, Postponed(there=start.checkpoint.postponed))
            await sweeper.finish(start.checkpoint.epoch)
            self.reached = True
            return
        following = self.work = Following(self._progress, into, self._inflow, start, self._border)
        with self._progress.doing(Work.FOLLOWING):
            if stop.is_set():
                self._inflow.end()
            with self._reaching.following(following.reach), self._ruling.followed_by(following.narrow):
                self.reached = await following.run(beside)

    async def _branch(self, known: Checkpoint) -> int | None:
        """Where the history that a cluster's slots are of has gone on under another id; None where it has not.

        The source was asked to go on from their floor: it does not know that some of them have more.
        """
        before, now = known.position.replid, self._inflow.replid
        if self._into.cluster is None or before == now:
            return None
        return await ask_branch(self._inflow.endpoint, before, now)

    async def _copy(self) -> StreamStart:
        """The snapshot of a full sync.

        Raises:
            HeldBack: it has to wait.
        """
        with bulk_work(), self._progress.doing(Work.COPYING):
            await self._examine()
            copying = self.work = Copying(self._plan, self._progress, self._gate, self._into, self._inflow)
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
