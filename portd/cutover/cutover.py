"""The cut-over from beginning to end; what it did is a `Report`.

Until the link is handed over, going back is to let writes go on, and nothing has happened. Behind that the target is as it was,
and nobody has written to it: going back is the same, and the sync has to be started again. Behind the operator's command
(``--then``) clients may have written to the target, and then there is no way back.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from portd.cutover.checks import check
from portd.cutover.doubt import Doubt
from portd.cutover.ends import Ends
from portd.cutover.everywhere import fence_of, fence_of_users
from portd.cutover.fences import LEASE_SECONDS
from portd.cutover.moving import move
from portd.cutover.proof import Proof
from portd.cutover.report import Report
from portd.cutover.servers import together, write_calls
from portd.cutover.writewatch import WriteWatch
from portd.errors import Interrupted, PortdError, first_cause
from portd.groups import TaskGroup
from portd.log import get_logger
from portd.net.control import keys_by_database
from portd.preflight.findings import Level
from portd.target.kept.importmode import SETTING as IMPORT_MODE
from portd.units import human_count

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from portd.config.settings import Settings
    from portd.cutover.fences import Fence
    from portd.cutover.options import Options
    from portd.cutover.shard import Shard
    from portd.cutover.sync import Sync
    from portd.net.endpoint import Endpoint

ASK_SECONDS: Final = 0.2  # between two looks at a sync that is not ready yet
PASSING: Final = frozenset({"sync.lag", "sync.expiries", "sync.refused", "sync.phase"})  # checks that are waited for
HAND_OVER_SECONDS: Final = 30.0  # at the least, for a link to end: it cannot be called back

log = get_logger("cutover")


class Cutover:
    """One cut-over.

    Args:
        settings: of the link, as the operator described it.
        options: how it is done.
        sync: the one that runs between the ends.
        primary: where the source's clients write; None: at the source.

    Attributes:
        report: what was done, at any time.
    """

    def __init__(self, settings: Settings, options: Options, sync: Sync, primary: Endpoint | None = None) -> None:
        self._settings = settings
        self._options = options
        self._sync = sync
        self._ends = Ends(settings, sync, primary)
        self._fence: Fence | None = None
        self._users: Fence | None = None  # who may not write at the end
        self._shards: list[Shard] = []
        self._writes: list[WriteWatch] = []
        self._step = ""  # that is under way while writes stand still
        self._awaited: list[str] = []  # whom it waits for
        self._ended = False  # the links were handed over
        self._done = False  # there is nothing to go back to
        source, target = self._ends.source.endpoint, self._ends.target.endpoint
        self.report = Report(settings.link, source.display, target.display, options.rehearse)
        self.report.stopped_by = "" if options.rehearse else options.stop.value

    async def run(self) -> Report:
        """Does it, or goes back; the report tells.

        Raises:
            PortdError: it could not begin: an end is not there, refuses, or settings are wrong.
        """
        report = self.report
        report.note_time("begun")
        try:
            await self._with_watches()
            report.outcome = "rehearsed" if self._options.rehearse else "done"
        except Exception as error:  # noqa: BLE001 - a bug must not leave the writes stopped either
            cause = first_cause(error)
            await self._go_back(cause)
            if not isinstance(cause, PortdError) or not (isinstance(cause, Doubt) or "stopped" in report.times):
                raise cause from None
        except asyncio.CancelledError:  # who cancels is a signal, and the report is its answer
            await self._go_back(Interrupted("it was interrupted"))
            report.exit_code = Interrupted.exit_code
        finally:
            for shard in self._shards:
                shard.close()
            for watch in self._writes:
                watch.close()
            report.note_time("ended")
        return report

    # -- before

    async def _with_watches(self) -> None:
        """Looks, begins to watch both ends, and does the rest while they are watched."""
        fence = await self._look()
        self._writes = [WriteWatch(node) for node in self._ends.target.nodes]
        await together(self._writes, lambda each: each.open(), "watch target")
        await together(self._shards, lambda each: each.watch(), "watch source")
        proof = Proof(self._settings, self._options, [each.stream for each in self._shards], self._writes)
        self.report.proof = proof.result
        try:
            async with TaskGroup() as group:
                tasks = [group.create_task(each.follow(), name="source watched") for each in self._shards]
                tasks += [group.create_task(each.run(), name="target watched") for each in self._writes]
                await proof.begin()
                self.report.note_time("compared")
                await proof.shrink()
                await self._until_ready()
                await self._check_places()
                if self._options.rehearse:
                    await self._rehearse(proof)
                else:
                    await self._stop(fence)
                    tasks.append(group.create_task(fence.keep(), name="writes stopped"))
                    await self._stand_still(proof, fence)
                for task in tasks:
                    task.cancel()
            if not self._options.rehearse:
                await self._finish(fence)
        finally:
            proof.close()

    async def _look(self) -> Fence:
        """Whether it may begin at all; what stops the writes.

        Raises:
            ConfigError: it cannot be done with these ends or settings.
            Doubt: the sync is not ready.
        """
        ends, options, report = self._ends, self._options, self.report
        shards = self._shards = await ends.open()
        if ends.source.topology is None:
            report.offsets = shards[0].told.offsets
        else:
            report.shards = {each.name: each.told for each in shards}
        report.servers = {place.name: place.shown() for place in ends.places}
        await self._until_ready()
        where = ends.writes_at, ends.fenced, ends.source.replicas
        fence = self._fence = fence_of(options, *where)
        self._users = fence_of_users(options, *where)
        what = await fence.prepare()
        if self._users is not None:
            what += f", then {await self._users.prepare()}"
        if not options.rehearse:
            report.stopped_by = what
        await together(shards, lambda each: each.begin(), "checkpoint")
        return fence

    async def _check_places(self) -> None:
        """Both ends are what they were at the beginning.

        Raises:
            Doubt: a server is another one, is no primary any more, or slots have moved.
        """
        await together(self._ends.places, lambda each: each.check(), "look")

    async def _until_ready(self) -> None:
        """Returns when every check says so.

        Raises:
            Doubt: one does not, for longer than it may.
        """
        until = time.monotonic() + self._options.wait_seconds
        while True:
            facts = await self._ends.facts()
            self.report.checks = check(facts, self._options)
            self._note_letters(facts.syncs)
            wrong = [each for each in self.report.checks if each.level is Level.ERROR]
            if not wrong:
                return
            if time.monotonic() >= until or any(each.subject not in PASSING for each in wrong):
                first = wrong[0]
                raise Doubt(f"{first.subject}: {first.what}; {first.why}", hint=first.action)
            await asyncio.sleep(ASK_SECONDS)

    def _note_letters(self, syncs: Mapping[str, Mapping[str, Any]]) -> None:
        """Dead letters of all links, as they are now."""
        total: Counter[str] = Counter()
        for each in self._shards:
            each.letters = syncs[each.name]["dead_letters"]
            total.update(each.letters)
        self.report.dead_letters = dict(total)

    async def _at_shards(self, act: Callable[[Shard], Awaitable[None]]) -> None:
        """Does something for all shards; those that are not done yet are known meanwhile, and where it was given up."""
        self._awaited = [each.where for each in self._shards if each.where]

        async def one(shard: Shard) -> None:
            await act(shard)
            if shard.where:
                self._awaited.remove(shard.where)

        await together(self._shards, one, self._step)

    # -- when nothing is stopped

    async def _rehearse(self, proof: Proof) -> None:
        """All but the stop: how long it would have taken."""
        report, begun = self.report, time.monotonic()
        with self._timed("drain"):
            await self._at_shards(lambda each: each.rehearse(self._sync, self._options.most_seconds))
        with self._timed("compare"):
            differing = await proof.touch()
        if differing:
            raise Doubt(f"{human_count(len(differing))} keys differ that nobody writes", hint="portd verify names them")
        seconds = time.monotonic() - begun
        report.notes.append(
            f"writes would have stood still for about {seconds:.2f} s, and for as long as the link takes to end"
        )

    # -- when writes are stopped

    async def _stop(self, fence: Fence) -> None:
        self.report.note_time("stopped")
        log.info("writes are stopped", source=fence.where, by=self._options.stop.value)
        with self._timed("stop"):
            await fence.stop()

    async def _stand_still(self, proof: Proof, fence: Fence) -> None:
        """From the stop to the end of the links.

        Raises:
            Doubt: something is not as it has to be, or it takes too long.
        """
        most = self._options.most_seconds
        try:
            async with asyncio.timeout(most):
                with self._timed("drain"):
                    await self._at_shards(lambda each: each.drain(self._sync, most))
                with self._timed("expiries"):
                    await self._until_swept()
                with self._timed("compare"):
                    await self._compare(proof, fence)
                looks = self._count_keys, self._check_sync, self._check_places
                await together(looks, lambda look: look(), "look")
        except TimeoutError:
            waits = f": {self._step} of {', '.join(self._awaited)}" if self._awaited else f": {self._step}"
            raise Doubt(
                f"writes stood still for {most:g} s and it was not done{waits}",
                hint="--most-seconds lets them wait for longer",
            ) from None
        with self._timed("end"):
            await self._end_links()
        await self._check_end()
        if fence.absolute:
            await self._check_still(fence)
        if self._users is not None:
            await self._users.stop()
        if self._ends.source.topology is not None:  # who was promoted before that may have been written to
            await self._ends.source.check()
        self.report.note_time("settled")
        offsets = {each.name: each.offset for each in self._shards}
        log.info("the target is complete", offsets=offsets, standstill_seconds=self.report.standstill)

    async def _until_swept(self) -> None:
        """Expiry times that were postponed at the last moment, by a lag that came when nobody looked, are set back."""
        while True:
            statuses = await self._sync.statuses()
            self._awaited = [
                each.where for each in self._shards if each.where and statuses[each.name]["expiries_to_correct"]
            ]
            if not any(each["expiries_to_correct"] for each in statuses.values()):
                return
            await asyncio.sleep(ASK_SECONDS)

    async def _compare(self, proof: Proof, fence: Fence) -> None:
        """Both ends are equal, at the offsets that the shards have behind it.

        Only a pause keeps the source itself from removing what expires. With another fence that comes to the target, too, and
        what is removed behind this look expires there by itself.

        Raises:
            Doubt: they differ, or something was written.
        """
        try:
            await proof.settle()
        finally:  # what was written explains what differs
            behind = await self._check_still(fence)
        if behind:
            self.report.removals = sum(each.removed for each in behind)
            await together(behind, lambda each: each.reach_again(self._sync, self._options.most_seconds), "drain")
            await proof.settle()

    async def _check_still(self, fence: Fence) -> list[Shard]:
        """Nothing was written; those shards from which the server has removed something by itself.

        Raises:
            Doubt: something was.
        """
        found = await together(self._shards, lambda each: each.check_still(absolute=fence.absolute), "still")
        return [each for each, removed in zip(self._shards, found, strict=True) if removed]

    async def _count_keys(self) -> None:
        places = self._ends.places
        for place, infos in zip(places, await together(places, lambda each: each.infos(), "count"), strict=True):
            keys: Counter[int] = Counter()
            for info in infos:
                keys.update(keys_by_database(info))
            self.report.keys[place.name] = {f"db{db}": count for db, count in sorted(keys.items())}

    async def _check_sync(self) -> None:
        """Raises: Doubt: it is not the sync that it was, or has refused something meanwhile."""
        statuses = await self._sync.statuses()
        for each in self._shards:
            status = statuses[each.name]
            if status["dead_letters"] != each.letters:
                raise each.doubt("commands became dead letters meanwhile", "the log of the sync names them")
            if status["held"] or status["failure"]:
                raise each.doubt(f"the sync: {status['failure'] or status['held']['words']}", "see its log")
            if status.get("paused") or not status["ready"]:  # it would not end, while the others do
                raise each.doubt(f"the sync is {status['phase']}, {status['reason']}", "see its log")

    async def _end_links(self) -> None:
        """The sync ends all links in order; there is no way to call them back.

        Raises:
            Doubt: one did not reach the end of its history.
        """
        self._ended = True
        answers = await self._sync.hand_over(max(self._options.most_seconds, HAND_OVER_SECONDS))
        for each in self._shards:
            each.check_handed_over(answers[each.name])

    async def _check_end(self) -> None:
        """The target is whole, nobody's, and expires keys by itself.

        Raises:
            Doubt: it is not.
        """
        looks = [each.check_end for each in self._shards] + [self._check_mode, self._check_places]
        await together(looks, lambda look: look(), "look")

    async def _check_mode(self) -> None:
        """Raises: Doubt: a server of the target does not expire keys by itself."""
        for where, mode in (await self._ends.setting(IMPORT_MODE)).items():
            if mode.get(IMPORT_MODE, "no") != "no":
                raise Doubt(
                    f"the target is in import mode still, at {where}: it expires nothing",
                    hint="does another link write into it? CONFIG SET import-mode no",
                )

    # -- behind it

    async def _finish(self, fence: Fence) -> None:
        """The clients move, by the operator's command; then it is over.

        Raises:
            Doubt: the command failed.
        """
        report, options = self.report, self._options
        if options.then:
            await fence.stay(options.then_seconds + LEASE_SECONDS)  # nobody renews it from here on
            await self._move(fence)
            await self._look_back()
        try:
            left = await fence.stay(options.keep_seconds)
        except Doubt as error:
            if not options.then:
                raise
            left = f"{error.args[0]}; the clients have moved"
        self._done = True
        report.left += [each for each in (left, await self._users.stay(0.0) if self._users is not None else "") if each]
        names = ", ".join(repr(each.checkpoint) for each in self._shards)
        one = len(self._shards) == 1
        which, them = (f"the checkpoint {names} is", "it") if one else (f"the checkpoints {names} are", "them")
        report.left.append(f"{which} in the target: delete {them} when nobody goes back")

    async def _move(self, fence: Fence) -> None:
        """The operator's command.

        Raises:
            Doubt: it failed.
        """
        report, options = self.report, self._options
        report.outcome = "done"
        report.note_time("moving")
        before = await self._write_calls()
        try:
            await move(options, report)
        except (Doubt, asyncio.CancelledError):
            if await self._written_to(before):
                self._done = True  # what clients have written there is nowhere else
                report.left.append("the target was written to: writes stay stopped at the source")
                report.left.append(await fence.stay(options.keep_seconds))
            raise
        report.note_time("moved")

    async def _look_back(self) -> None:
        """A node of the source that was promoted while the clients moved may have let some of them write: that is told."""
        if self._ends.source.topology is None:
            return
        try:
            await self._ends.source.check()
        except PortdError as error:
            log.warning("the source is not what it was", error=str(error.args[0]))
            self.report.left.append(f"{error.args[0]}: what clients have written there meanwhile is not in the target")

    async def _write_calls(self) -> list[Mapping[str, int] | None]:
        return [*await together(self._ends.target.nodes, write_calls, "ask target")]

    async def _written_to(self, before: list[Mapping[str, int] | None]) -> bool:
        """Whether clients have written to the target since; where that is not told, it counts as written.

        What expires there by itself is nobody's write.
        """
        try:
            return None in before or before != await self._write_calls()
        except PortdError as error:
            log.warning("whether the target was written to is not known", error=str(error.args[0]))
            return True

    async def _go_back(self, cause: BaseException) -> None:
        """Writes go on at the source, whatever it takes."""
        report = self.report
        report.doubt = str(cause.args[0]) if cause.args else type(cause).__name__
        report.hint = (cause.hint or "") if isinstance(cause, PortdError) else ""
        report.exit_code = Doubt.exit_code
        interrupted = isinstance(cause, Interrupted)
        if self._done:
            report.outcome = "in doubt"
            return
        await self._free()
        if "stopped" in report.times:
            report.note_time("freed")
            log.warning("rolled back", why=report.doubt, standstill_seconds=report.standstill)
        report.outcome = "interrupted" if interrupted else "rolled back" if "stopped" in report.times else "not begun"
        if self._ended:
            what = "the sync has" if self._ends.source.topology is None else "links of the sync have"
            report.left.append(f"{what} ended: start it again, it goes on from its checkpoint")

    async def _free(self) -> None:
        """Writes go on: users get their right back first, so that those who wait are not refused.

        A node that does not answer holds up its own clients only: the others do not wait until it is given up.
        """
        standing = [each for each in (self._users, self._fence) if each is not None and each.stands]
        tasks = []
        for fence in standing:
            tasks.append(asyncio.create_task(fence.free(), name=f"writes go on at {fence.where}"))
            await asyncio.wait(tasks, timeout=LEASE_SECONDS)
        for task, fence in zip(tasks, standing, strict=True):
            if not await task or fence.stands:
                self.report.left.append(f"writes may be stopped still: {fence.by_hand()}")

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Notes how long something takes."""
        begun, self._step, self._awaited = time.monotonic(), name, []
        try:
            yield
        finally:
            seconds = self.report.seconds
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - begun, 3)
