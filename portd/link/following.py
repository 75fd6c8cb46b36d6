"""The target's side of the stream: applies what comes behind a snapshot, or behind the checkpoint of an earlier start."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from portd.config.choices import StopAfter
from portd.errors import first_cause
from portd.feed.owed import MOST_COPY_BYTES, OwedKeys
from portd.feed.stream import StreamFeed
from portd.groups import TaskGroup
from portd.link.catchup import CatchUp
from portd.link.keycopies import KeyCopies
from portd.log import get_logger
from portd.model import Position
from portd.target.kept.checkpoint import IMPORTS_SUFFIX, Checkpoint
from portd.target.kept.postponed import Horizon, Postponed, Sweeper, shift_of
from portd.target.stream.applier import Applier
from portd.target.stream.applying import ApplierOptions
from portd.target.stream.scripts import Scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import TypeAlias

    from portd.config.rules import Choice
    from portd.config.settings import Settings
    from portd.feed.border import SlotBorder
    from portd.link.inflow import Inflow, StreamStart
    from portd.link.ruling import Narrower
    from portd.model import Progress
    from portd.target.capabilities import StreamForms
    from portd.target.cluster.applier import ClusterApplier
    from portd.target.destination import Destination

    Beside: TypeAlias = Callable[[], Coroutine[None, None, None]]

log = get_logger("sync")


class Following:
    """Follows the stream; exists while it is followed.

    Args:
        progress: counters.
        destination: what it is applied to.
        inflow: where it comes from.
        start: where it begins.
        border: where it waits for other shards of its source; None: it has none.
    """

    def __init__(
        self,
        progress: Progress,
        destination: Destination,
        inflow: Inflow,
        start: StreamStart,
        border: SlotBorder | None = None,
    ) -> None:
        self._border = border
        self._progress = progress
        self._into = into = destination
        self._choice = into.choice
        self._inflow = inflow
        self._caught_up = asyncio.Event()  # once
        settings = into.settings
        self._owed = OwedKeys(min(MOST_COPY_BYTES, into.budget.limit // 2), parted=into.cluster is not None)
        self._feed = StreamFeed(
            inflow.spool,
            progress.stream,
            index=start.index,
            offset=start.checkpoint.position.offset,
            db=start.checkpoint.db,
            max_argument=into.capabilities.proto_max_bulk_bytes,
            forms=self._forms(settings, into.choice),
            horizon=Horizon(into.shift_ms, start.since, always=into.holds),
            copies=self._owed,
            owed=start.checkpoint.owed,
            border=border,
        )
        options = ApplierOptions(
            epoch=into.epoch,
            choice=into.choice,
            prefix=settings.checkpoint_key,
            unlink="unlink" in into.capabilities.commands,
            limiter=into.limiter,
            ages=into.postpones,
            connection=into.connection,
            beside=into.lease.restated,
            scripts=Scripts.of(into.scripts, into.capabilities),
            others=(settings.checkpoint_key + IMPORTS_SUFFIX,),
            branch=start.branch,
        )
        known = self._followed(start.checkpoint)
        self._replid = inflow.replid
        self._applier: Applier | ClusterApplier
        if into.cluster is None:
            self._applier = Applier(into.endpoint, self._feed, known, into.key, progress, into.letters, options)
        else:
            self._applier = cluster = _cluster_applier(into, self._feed, known, progress, options)
            inflow.needed = lambda: cluster.behind
        self._applier.on_getack = inflow.receiver.acknowledge_now
        self._sweeper = sweeper_of(into, progress, self._applier.postponed)
        inflow.on_again = self._on_again

    async def run(self, beside: Beside | None) -> bool:
        """Applies it until its end; whether the target had caught up.

        Args:
            beside: runs from when the target has caught up; cancelled when the stream ends.

        Raises:
            PortdError: the target failed, or the stream is wrong.
        """
        applier, into = self._applier, self._into
        self._progress.stream.caught_up = False
        try:
            async with TaskGroup() as group:
                group.create_task(applier.run(), name="applier")
                tasks = [group.create_task(self._watch_caught_up(), name="caught up")]
                if not into.holds:
                    sweep = self._sweeper.follow(
                        applier.caught_up, self._feed.lagging, lambda: applier.checkpoint.position.offset
                    )
                    tasks.append(group.create_task(sweep, name="expiries"))
                copies = KeyCopies(
                    self._inflow.endpoint,
                    self._owed,
                    lambda: self._inflow.replid,
                    self._progress.source_info,
                    lambda: self._choice,
                )
                tasks.append(group.create_task(copies.run(), name="copies of keys"))
                if beside is not None:
                    tasks.append(group.create_task(self._run_beside(beside), name="beside the stream"))
                await self._inflow.ended.wait()
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        log.info("stream ended", offset=self._progress.stream.checkpointed_offset)
        if owed := self._progress.stream.keys_owed:
            log.warning("keys are still to be copied from the source: the next start does it", keys=owed)
        if not into.holds or into.settings.stop_after is not StopAfter.NONE:
            await self._sweeper.finish(applier.checkpoint.epoch)
        return self._caught_up.is_set()

    def _forms(self, settings: Settings, choice: Choice) -> StreamForms:
        """What becomes of commands, by the rules of these settings."""
        into = self._into
        return into.capabilities.stream_forms(
            self._progress.source_info,
            own=settings.checkpoint_key,
            publish=not settings.skip_messages,
            stops=into.letters.stops,
            choice=choice,
            left=settings.exclude_command,
            owes=True,
            parted=into.cluster is not None,
            border=None if self._border is None else self._border.kernel,
        )

    def narrow(self, narrower: Narrower, taken: Callable[[int], None]) -> None:
        """Has narrower rules taken up between two transactions; returns at once.

        Args:
            narrower: they.
            taken: told the offset from which on they are in force.
        """

        def adopt(offset: int) -> None:
            self._feed.change(self._forms(narrower.settings, narrower.choice))
            self._choice = narrower.choice
            if self._border is not None and narrower.choice.blurs:
                self._border.blurred = True
            taken(offset)

        self._applier.narrow(narrower.choice, adopt)

    async def reach(self, offset: int) -> None:
        """Waits until the target has everything up to *offset*."""
        await self._applier.reach(offset)

    def _on_again(self, lost_at: float) -> None:
        """The source is connected again, perhaps with another id for the history: it was promoted."""
        replid = self._inflow.replid
        if replid != self._replid:
            self._replid = replid
            self._applier.adopt(replid)
        self._owed.forget()
        self._feed.lag(lost_at)

    def _followed(self, known: Checkpoint) -> Checkpoint:
        """The checkpoint with what the source is by now: it continued that history, whatever its name was then."""
        info, position, replid = self._progress.source_info, known.position, self._inflow.replid
        before = known.source_replid2 if replid == position.replid else position.replid
        return replace(
            known,
            position=Position(replid, position.offset),
            rules=self._choice.digest,  # it may be narrower than the one by which it was made so far
            source_run_id=info.get("run_id", known.source_run_id),
            source_replid2=info.get("replid2", before),
            source_address=self._inflow.endpoint.display,
        )

    async def _watch_caught_up(self) -> None:
        """Says when the target has caught up; ends the input where that is all that is wanted."""
        inflow, stream = self._inflow, self._progress.stream
        catching_up = CatchUp(inflow.endpoint, inflow.spool, stream, self._applier, inflow.linked, inflow.relinked)
        while True:
            inflow.relinked.clear()
            source_offset = await catching_up.wait()
            if inflow.relinked.is_set():
                continue
            stream.caught_up_at = stream.caught_up_at or time.time()
            stream.caught_up = True
            self._caught_up.set()
            told = "unknown" if source_offset is None else source_offset
            log.info("caught up", offset=stream.applied_offset, source_offset=told)
            if self._into.settings.stop_after is StopAfter.CAUGHT_UP:
                inflow.end()
            await inflow.relinked.wait()

    async def _run_beside(self, work: Beside) -> None:
        await self._caught_up.wait()
        await work()

    # -- what the pages show

    def feed_bytes(self) -> int:
        """What the splitter holds."""
        return self._feed.owned_bytes()

    def applier_bytes(self) -> int:
        """What is sent, and what grows behind it."""
        statistics = self._applier.statistics()
        return statistics.in_flight_bytes + statistics.growing_bytes


def sweeper_of(into: Destination, progress: Progress, postponed: Postponed) -> Sweeper:
    """What sets postponed expiries back."""
    shift_ms = shift_of(into.settings.link)
    return Sweeper(into.endpoint, into.key, into.epoch, shift_ms, postponed, progress, into.connection, into.limiter)


def _cluster_applier(
    into: Destination, feed: StreamFeed, start: Checkpoint, progress: Progress, options: ApplierOptions
) -> ClusterApplier:
    """What applies the stream to the slots of a cluster."""
    from portd.target.cluster.applier import ClusterApplier  # noqa: PLC0415 - only clusters need it

    return ClusterApplier(into, feed, start, progress, options)
