"""A link while the process runs: what is its own, and what becomes of it when it fails.

Links leave one another alone. Where a process has one, whatever ends it ends the process. Where there are several, an error
that may pass has the link tried again; one that will not lets it stand failed while the others go on.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from structlog.contextvars import bind_contextvars

from portd.config.choices import StopAfter
from portd.config.rules import choice_of
from portd.config.rulesettings import RULES
from portd.controlsocket import Refusal
from portd.errors import REDACTED, Interrupted, PortdError, TargetError, first_cause, printable
from portd.groups import TaskGroup
from portd.link.handover import Handovers
from portd.link.link import Link
from portd.log import get_logger
from portd.model import Progress
from portd.net.backoff import Backoff
from portd.source.forecast import Forecast
from portd.source.shards import ShardWatch
from portd.target.kept.checkpoint import IMAGES_SUFFIX
from portd.target.kept.directory import Directory
from portd.target.kept.leftover import find_leftover
from portd.target.limiter import LIMITS
from portd.verify.schedule import Schedule
from portd.watch.pace import Pace
from portd.watch.standing import look
from portd.watch.track import Track
from portd.watch.view import View

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from portd.config.settings import Settings
    from portd.memory.ledger import Ledger
    from portd.memory.plan import MemoryPlan
    from portd.spool import DiskRoom
    from portd.target.kept.neighbours import Neighbours
    from portd.watch.standing import Standing

AGAIN_SECONDS: Final = 60.0  # longest wait before a link is tried again

T = TypeVar("T")

log = get_logger("service")


class RunningLink:
    """One link from the start of the process to its own end.

    Args:
        settings: of the link, at its start.
        plan: its part of the memory.
        room: on disk, with the others.
        turn: see `Schedule`.
        neighbours: see `portd.link.ruling.Ruling`.
        watch: of the slots of its source; None where that is no cluster.
        alone: the process has no other link.

    Attributes:
        name: of the link.
        progress: its counters.
        link: what replicates.
        view: for those who watch.
        error: what has ended it before it was to end; None otherwise.
        stop: set when it is to end in order.
        over: set when nothing more is done, and the lease is given back where that was possible.
        late: it was to end in order, and the time for that has passed.
        schedule: of the comparisons of both ends.
        limits: what the settings say of the load of the target, with what was read anew.
    """

    def __init__(
        self,
        settings: Settings,
        plan: MemoryPlan,
        room: DiskRoom,
        turn: asyncio.Lock,
        neighbours: Neighbours,
        watch: ShardWatch | Handovers | None = None,
        *,
        alone: bool,
    ) -> None:
        self.name = settings.link
        self.progress = Progress()
        self.error: BaseException | None = None
        self._alone = alone
        self._plan = plan
        self.stop, self.over = asyncio.Event(), asyncio.Event()
        self.late = False
        self._watch = watch
        self.schedule = Schedule(settings, self.progress, turn)
        self.limits = {name: int(getattr(settings, name)) for name in sorted(LIMITS)}
        self.link = Link(settings, plan, self.progress, self.stop, self.schedule.run, room, neighbours)
        if isinstance(watch, Handovers):
            watch.join(self.name, self.link, self.progress)
        self.view = View(self.name, self.progress, Pace(self.progress), Track(self.progress, self.link.report.spool))
        self._forecast = Forecast(self.link.read_now, self.progress)

    @property
    def settings(self) -> Settings:
        """Of the link, with the rules that are in force."""
        return self.link.ruling.settings

    @property
    def left(self) -> bool:
        """It was of a shard that has no slots any more."""
        return self.link.member is not None and self.link.member.left

    async def run(self) -> None:
        """Replicates until the link has reached its end, was told to stop, or has failed; `error` tells then.

        Cancelling it ends it at once.
        """
        if not self._alone:
            bind_contextvars(link=self.name)  # of this task, and of what it starts
        try:
            async with TaskGroup() as group:
                beside = [group.create_task(self._forecast.run(), name="forecast")]
                if isinstance(self._watch, Handovers):
                    await self._watch.find()
                    beside.append(group.create_task(self._watch.keep(self.name), name="slots"))
                elif self._watch is not None:
                    guard = self._watch.guard(self.name, self.link.follow)
                    beside.append(group.create_task(guard, name="slots"))
                await self._replicate()
                for task in beside:
                    task.cancel()
            if self.left:
                await self._forget()
            else:
                self._check_reached()
            self._end("")
            if not self._alone:
                log.info("link ended", reached=self.link.reached)
        except asyncio.CancelledError:
            self._end("" if self.stop.is_set() else "it was aborted")
            if self.stop.is_set():
                self._end_late()
            raise
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - whatever it is, it is one link's and becomes its end
            self._fail(first_cause(error))
        finally:
            self.over.set()

    def request_stop(self) -> None:
        """Asks to apply what was read, to checkpoint and to end; returns at once."""
        self.stop.set()

    async def _replicate(self) -> None:
        """Until the link ends; again and again where it does not end for good, and others run beside it."""
        backoff = Backoff(1.0, AGAIN_SECONDS)
        progress = self.progress
        while True:
            done = progress.stream.transactions
            try:
                await self.link.run()
            except PortdError as error:
                if self._alone or not error.retriable:
                    raise
                if progress.stream.transactions > done:
                    backoff.reset()
                progress.failure = str(error.args[0])
                progress.errors.note(progress.failure)
                wait = backoff.next_wait()
                log.warning(
                    "link is tried again", error=progress.failure, hint=error.hint, retry_seconds=round(wait, 1)
                )
                try:
                    async with asyncio.timeout(wait):
                        await self.stop.wait()
                except TimeoutError:
                    continue
            return

    async def _forget(self) -> None:
        """Nobody goes on with the link: its slots are other links' by now."""
        settings = self.settings
        try:
            async with Directory(settings, "removing what a shard without slots has left") as there:
                await there.forget(self.name)
                await there.call("HDEL", settings.checkpoint_key + IMAGES_SUFFIX, self.name)
        except TargetError as error:
            log.warning(
                "a checkpoint without slots stays in the target", key=settings.checkpoint_name(), error=str(error)
            )
        log.info("the shard has no slots any more: its link is over")

    def _fail(self, error: BaseException) -> None:
        """The link has ended before it was to."""
        self.error = error
        progress = self.progress
        if isinstance(error, Interrupted):
            self._end("")
            return
        known = isinstance(error, PortdError)
        self._end(str(error.args[0]) if known and error.args else f"{type(error).__name__}: {error}")
        if not (self._alone and progress.last_error):
            progress.errors.note(str(error))
        if self._alone:
            return  # who runs the process says so
        tell = log.error if known else partial(log.error, exc_info=error)
        hint, code = (error.hint, error.exit_code) if isinstance(error, PortdError) else (None, os.EX_SOFTWARE)
        tell("link failed", error=progress.failure, hint=hint, exit_code=code, others="go on")

    def _end(self, failure: str) -> None:
        """Nothing more is done."""
        self.progress.failure, self.progress.ended = failure, True

    def _check_reached(self) -> None:
        """A stop is an answer to a sync that goes on for ever, not to one that was to reach something.

        Raises:
            Interrupted: it has not.
        """
        wanted = self.settings.stop_after
        if wanted is not StopAfter.NONE and not self.link.reached:
            what = "the snapshot was applied" if wanted is StopAfter.SNAPSHOT else "the target had caught up"
            follows = self.progress.stream.following
            hint = "it goes on from the target's checkpoint" if follows else "a snapshot that is not whole begins anew"
            raise Interrupted(f"stopped before {what}", hint=f"start it again: {hint}")

    def _end_late(self) -> None:
        """The time to drain is over."""
        try:
            self._check_reached()
        except Interrupted as error:
            self.error = error

    def standing(self) -> Standing:
        """Phase, and whether the target may be read."""
        return look(self.progress)

    def register(self, ledger: Ledger) -> None:
        """Names who holds memory."""
        settings = self.settings
        self.link.report.register(ledger, self._plan, settings.writers, self.name)
        ledger.register("verification", self.schedule.held_bytes, link=self.name)
        ledger.register("history", self.view.track.history.held_bytes, link=self.name)

    def change(self, name: str, value: float) -> None:
        """Lets a setting take effect that can: another time between two comparisons, or a limit on the load of the target."""
        if name == "verify_every":
            self.schedule.change(value)
        else:
            self.limits[name] = int(value)
            self.link.limiter.change_setting(name, int(value))

    def limit_for_now(self, limits: Mapping[str, int]) -> None:
        """Other limits than the settings say, until these are read again."""
        for name, value in limits.items():
            self.link.limiter.change_setting(name, value)
        now = self.progress.limit
        told = {"max_target_ops": now.ops_per_second, "max_target_bytes_per_second": now.bytes_per_second}
        now.temporary = told != self.limits

    def settings_again(self) -> bool:
        """Limits are those of the settings again, which were read anew; whether that changes any."""
        was = self.progress.limit.temporary
        self.limit_for_now(self.limits)
        return was

    async def unless_over(self, wanted: Awaitable[T]) -> T:
        """Waits for something that the link brings.

        Raises:
            Refusal: it has ended first.
        """

        async def brought() -> T:
            return await wanted

        work = asyncio.create_task(brought(), name="what the link brings")
        over = asyncio.create_task(self.over.wait(), name="the link's end")
        try:
            await asyncio.wait({work, over}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise Refusal("the link has ended before that", "see the log")
        finally:
            work.cancel()
            over.cancel()

    async def narrow(self, settings: Settings) -> Mapping[str, Any]:
        """Has narrower rules taken up as soon as the stream is followed; when they are, and what stays in the target.

        Args:
            settings: of the link as the operator describes it, with the rules.

        Raises:
            ConfigError: see `portd.link.ruling.Ruling.narrow`.
            TargetError: the target cannot be asked whether they may be.
            Refusal: the link has ended.
        """
        now, ruling = self.settings, self.link.ruling
        names = [name for name in RULES if name != "include_slots" or now.described == self.name]
        before = ruling.newest
        narrower = await ruling.narrow(replace(now, **{name: getattr(settings, name) for name in names}))
        offset = await self.unless_over(narrower.taken)
        self.schedule.settings = ruling.settings
        try:
            was = choice_of(replace(before, include_slots=narrower.settings.include_slots) if now.shard_of else before)
            left = await find_leftover(now, was, narrower.choice)
        except TargetError as error:
            log.warning("the target does not tell which keys the rules do not take any more", error=str(error))
            return {"link": self.name, "offset": offset, "left": None, "some": []}
        shown = [f"db {db} {REDACTED if now.redact_keys else printable(name)}" for db, name in left.named]
        log.warning(
            "keys that the rules do not take any more stay in the target", link=self.name, keys=left.count, some=shown
        )
        return {"link": self.name, "offset": offset, "left": left.count, "some": shown}

    def close(self) -> None:
        """Ends connections and removes files; idempotent."""
        self.link.close()


def shard_watches(links: Sequence[Settings]) -> dict[str, ShardWatch | Handovers]:
    """Who looks whether slots of a source cluster move, by link: one for all links that were made of one."""
    found: dict[str, ShardWatch | Handovers] = {}
    described: dict[str, Handovers] = {}
    for each in links:
        if each.shard_of:
            found[each.link] = described.setdefault(each.shard_of, Handovers(each))
        elif each.source_endpoint().seeds is not None:
            found[each.link] = ShardWatch([each])
    return found
