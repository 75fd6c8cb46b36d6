"""The cut-over from beginning to end; what it did is a `Report`.

Until the link is handed over, going back is to let writes go on, and nothing has happened. Behind that the target is as it was,
and nobody has written to it: going back is the same, and the sync has to be started again. Behind the operator's command
(``--then``) clients may have written to the target, and then there is no way back.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from portd.config.choices import ExpiryGap
from portd.cutover.checks import Facts, check
from portd.cutover.doubt import Doubt
from portd.cutover.fences import LEASE_SECONDS, Acl, fence_of
from portd.cutover.moving import move
from portd.cutover.options import Stop
from portd.cutover.proof import Proof
from portd.cutover.report import Report
from portd.cutover.servers import ask_server, key_specs_of, read_setting, write_calls
from portd.cutover.streamwatch import StreamWatch
from portd.cutover.writewatch import WriteWatch
from portd.errors import ConfigError, Interrupted, PortdError, first_cause
from portd.groups import TaskGroup
from portd.log import get_logger
from portd.net.control import keys_by_database
from portd.net.identity import ServerIdentity
from portd.net.shapes import whole
from portd.preflight.findings import Level
from portd.target.kept.checkpoint import State, read_checkpoint
from portd.target.kept.importmode import SETTING as IMPORT_MODE
from portd.target.kept.lease import read_lease
from portd.units import human_count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from portd.config.settings import Settings
    from portd.cutover.fences import Fence
    from portd.cutover.options import Options
    from portd.cutover.sync import Sync
    from portd.net.endpoint import Endpoint
    from portd.target.kept.checkpoint import Checkpoint

ASK_SECONDS: Final = 0.2  # between two looks at a sync that is not ready yet
PASSING: Final = frozenset({"sync.lag", "sync.expiries", "sync.refused", "sync.phase"})  # checks that are waited for
HAND_OVER_SECONDS: Final = 30.0  # at the least, for a link to end: it cannot be called back

log = get_logger("cutover")


class Cutover:
    """One cut-over.

    Args:
        settings: of the link.
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
        self._source = settings.source_endpoint()
        self._target = settings.target_endpoint()
        self._writes_at = primary or self._source
        self._at_primary = primary is not None
        self._fence: Fence = fence_of(options, self._writes_at)
        self._users = Acl(self._writes_at, options.users) if options.users and options.stop is not Stop.ACL else None
        self._stream: StreamWatch | None = None
        self._writes: WriteWatch | None = None
        self._ended = False  # the link was handed over
        self._done = False  # there is nothing to go back to
        self._seen = 0, 0  # writes and removals in the stream when it was drained
        self._letters: Mapping[str, int] = {}
        self._processes: dict[str, str] = {}
        self.report = Report(settings.link, self._source.display, self._target.display, options.rehearse)
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
            for each in (self._stream, self._writes):
                if each is not None:
                    each.close()
            report.note_time("ended")
        return report

    # -- before

    async def _with_watches(self) -> None:
        """Looks, begins to watch both ends, and does the rest while they are watched."""
        start = await self._look()
        stream = self._stream = StreamWatch(
            self._source, self._settings.psync_command, await key_specs_of(self._source)
        )
        writes = self._writes = WriteWatch(self._target)
        await writes.open()
        await stream.connect(start)
        proof = Proof(self._settings, self._options, stream, writes)
        self.report.proof = proof.result
        try:
            async with TaskGroup() as group:
                tasks = [
                    group.create_task(stream.run(), name="source watched"),
                    group.create_task(writes.run(), name="target watched"),
                ]
                await proof.begin()
                self.report.note_time("compared")
                await proof.shrink()
                await self._until_ready()
                if self._options.rehearse:
                    await self._rehearse(proof, stream)
                else:
                    await self._stop()
                    tasks.append(group.create_task(self._fence.keep(), name="writes stopped"))
                    await self._stand_still(proof, stream)
                for task in tasks:
                    task.cancel()
            if not self._options.rehearse:
                await self._finish()
        finally:
            proof.close()

    async def _look(self) -> Checkpoint:
        """Whether it may begin at all; the target's checkpoint.

        Raises:
            ConfigError: it cannot be done with these ends or settings.
            Doubt: the sync is not ready.
        """
        settings = self._settings
        if self._source.seeds is not None or self._target.seeds is not None:
            raise ConfigError(
                "a cluster is not cut over by this command", hint="docs/guides/cut-over.md tells how it is done by hand"
            )
        if settings.expiry_gap is ExpiryGap.HOLD:
            raise ConfigError(
                "expiry_gap is hold: only an end by --stop-after caught-up sets expiry times back", hint="see the guide"
            )
        facts = await self._facts()
        urls = facts.sync["source"]["url"], facts.sync["target"]["url"]
        if urls != (self._source.display, self._target.display):
            raise ConfigError(
                f"the sync's ends are {urls[0]} and {urls[1]}", hint="give its own --source, --target and --link"
            )
        source, target = ServerIdentity.of(facts.source), ServerIdentity.of(facts.target)
        if source.run_id and source.run_id == target.run_id:
            raise ConfigError("source and target are the same server", hint="check both addresses")
        await self._look_at_primary(source, facts.source)
        report = self.report
        report.servers = {
            name: {"server": each.name, "run_id": each.run_id}
            for name, each in (("source", source), ("target", target))
        }
        self._processes = {"source": source.run_id, "target": target.run_id}
        await self._until_ready()
        what = await self._fence.prepare()
        if self._users is not None:
            what += f", then {await self._users.prepare()}"
        if not self._options.rehearse:
            report.stopped_by = what
        start = await read_checkpoint(self._target, settings.checkpoint_name())
        if start is None or start.state is not State.STREAM:
            raise Doubt("the target has no checkpoint of a stream", hint="portd status tells what it has")
        return start

    async def _look_at_primary(self, source: ServerIdentity, told: Mapping[str, str]) -> None:
        """Where the source's clients write.

        Raises:
            ConfigError: nobody says where that is, or it has another history.
        """
        if not self._at_primary:
            if source.role == "slave":
                raise ConfigError(
                    f"the source is a replica of {told.get('master_host')}:{told.get('master_port')}: its clients write there",
                    hint="say where they write: --primary URL",
                )
            return
        info = await ask_server(self._writes_at)
        if info.get("role") != "master" or info.get("master_replid") != told.get("master_replid"):
            raise ConfigError(
                f"{self._writes_at.display} is not the primary of the source",
                hint="both must have one history (master_replid)",
            )

    async def _facts(self) -> Facts:
        return Facts(
            await self._sync.status(), await ask_server(self._source), await ask_server(self._target),
            await read_setting(self._target, "maxmemory"),
        )  # fmt: skip

    async def _until_ready(self) -> None:
        """Returns when every check says so.

        Raises:
            Doubt: one does not, for longer than it may.
        """
        until = time.monotonic() + self._options.wait_seconds
        while True:
            facts = await self._facts()
            self.report.checks = check(facts, self._options)
            self._letters = self.report.dead_letters = dict(facts.sync["dead_letters"])
            wrong = [each for each in self.report.checks if each.level is Level.ERROR]
            if not wrong:
                return
            if time.monotonic() >= until or any(each.subject not in PASSING for each in wrong):
                first = wrong[0]
                raise Doubt(f"{first.subject}: {first.what}; {first.why}", hint=first.action)
            await asyncio.sleep(ASK_SECONDS)

    # -- when nothing is stopped

    async def _rehearse(self, proof: Proof, stream: StreamWatch) -> None:
        """All but the stop: how long it would have taken."""
        report, begun = self.report, time.monotonic()
        with self._timed("drain"):
            offset = await self._source_offset(stream)
            report.offsets["applied"] = await self._sync.drain(offset, self._options.most_seconds)
            await stream.reach(offset)
        with self._timed("compare"):
            differing = await proof.touch()
        if differing:
            raise Doubt(f"{human_count(len(differing))} keys differ that nobody writes", hint="portd verify names them")
        seconds = time.monotonic() - begun
        report.notes.append(
            f"writes would have stood still for about {seconds:.2f} s, and for as long as the link takes to end"
        )

    # -- when writes are stopped

    async def _stop(self) -> None:
        self.report.note_time("stopped")
        log.info("writes are stopped", source=self._writes_at.display, by=self._options.stop.value)
        with self._timed("stop"):
            await self._fence.stop()

    async def _stand_still(self, proof: Proof, stream: StreamWatch) -> None:
        """From the stop to the end of the link.

        Raises:
            Doubt: something is not as it has to be, or it takes too long.
        """
        most = self._options.most_seconds
        try:
            async with asyncio.timeout(most):
                offset = await self._drain(stream, most)
                with self._timed("expiries"):
                    await self._until_swept()
                with self._timed("compare"):
                    offset = await self._compare(proof, stream, offset)
                await self._count_keys()
                await self._check_sync()
        except TimeoutError:
            raise Doubt(
                f"writes stood still for {most:g} s and it was not done",
                hint="--most-seconds lets them wait for longer",
            ) from None
        with self._timed("end"):
            await self._end_link(offset)
        await self._check_end(offset)
        if self._fence.absolute:
            await self._check_still(stream)
        if self._users is not None:
            await self._users.stop()
        self.report.note_time("settled")
        log.info("the target is complete", offset=offset, standstill_seconds=self.report.standstill)

    async def _drain(self, stream: StreamWatch, seconds: float) -> int:
        """Waits until the target has what the source has written last; that offset."""
        offsets = self.report.offsets
        with self._timed("drain"):
            offset = await self._source_offset(stream)
            offsets["source"] = offset
            offsets["applied"] = await self._sync.drain(offset, seconds)
            await stream.reach(offset)
        self._seen = stream.touched.writes, stream.touched.removals
        offsets["last_write"] = min(stream.written, offset)
        return offset

    async def _until_swept(self) -> None:
        """Expiry times that were postponed at the last moment, by a lag that came when nobody looked, are set back."""
        while (await self._sync.status())["expiries_to_correct"]:  # noqa: ASYNC110 - the sync tells when it is asked
            await asyncio.sleep(ASK_SECONDS)

    async def _compare(self, proof: Proof, stream: StreamWatch, offset: int) -> int:
        """Both ends are equal; the offset at which they are.

        Only a pause keeps the source itself from removing what expires. With another fence that comes to the target, too, and
        what is removed behind this look expires there by itself.

        Raises:
            Doubt: they differ, or something was written.
        """
        try:
            await proof.settle()
        finally:  # what was written explains what differs
            latest, removed = await self._check_still(stream)
        if latest > offset and (removed or stream.touched.count):
            self.report.removals = removed
            await self._sync.drain(latest, self._options.most_seconds)
            await proof.settle()
            offset = latest
        return offset

    async def _check_still(self, stream: StreamWatch) -> tuple[int, int]:
        """Nothing was written since the drain; the source's offset now, and what the source has removed by itself.

        Raises:
            Doubt: something was.
        """
        latest = await self._source_offset(stream)
        await stream.reach(latest)
        writes, removals = self._seen
        written, removed = stream.touched.writes - writes, stream.touched.removals - removals
        if written and (self._fence.absolute or written != removed):
            raise Doubt(
                f"{human_count(written)} commands were written while writes stood still",
                hint="who writes there, and is he one of those who were stopped?",
            )
        return latest, removed

    async def _count_keys(self) -> None:
        for name, endpoint in (("source", self._source), ("target", self._target)):
            keys = keys_by_database(await ask_server(endpoint))
            self.report.keys[name] = {f"db{db}": count for db, count in keys.items()}

    async def _check_sync(self) -> None:
        """Raises: Doubt: it is not the sync that it was, or has refused something meanwhile."""
        status = await self._sync.status()
        if status["dead_letters"] != self._letters:
            raise Doubt("commands became dead letters meanwhile", hint="the log of the sync names them")
        if status["held"] or status["failure"]:
            raise Doubt(f"the sync: {status['failure'] or status['held']['words']}", hint="see its log")

    async def _end_link(self, offset: int) -> None:
        """The sync ends the link in order; there is no way to call it back.

        Raises:
            Doubt: it did not reach *offset*.
        """
        self._ended = True
        told = await self._sync.hand_over(max(self._options.most_seconds, HAND_OVER_SECONDS))
        self.report.offsets["handed_over"] = told["applied"]
        if not told["drained"] or told["applied"] < offset:
            raise Doubt(f"the link ended at offset {told['applied']}, before {offset}", hint="see the log of the sync")

    async def _check_end(self, offset: int) -> None:
        """The target is whole, nobody's, and expires keys by itself.

        Raises:
            Doubt: it is not.
        """
        name = self._settings.checkpoint_name()
        record, holder = await read_checkpoint(self._target, name), await read_lease(self._target, name)
        if record is None or record.state is not State.STREAM or record.position.offset < offset:
            raise Doubt(
                "the target's checkpoint does not say that it is complete", hint="portd status tells what it has"
            )
        self.report.offsets["checkpoint"] = record.position.offset
        self.report.offsets["replid"] = record.position.replid
        if record.postponed:
            raise Doubt(
                "expiry times in the target are postponed still",
                hint="portd sync --stop-after caught-up sets them back",
            )
        if holder is not None:
            raise Doubt(f"{holder} has the link", hint="a second portd stands by? stop it first")
        mode = await read_setting(self._target, IMPORT_MODE)
        if mode.get(IMPORT_MODE, "no") != "no":
            raise Doubt(
                "the target is in import mode still: it expires nothing",
                hint="does another link write into it? CONFIG SET import-mode no",
            )
        for end, endpoint in (("source", self._source), ("target", self._target)):
            if (await ask_server(endpoint)).get("run_id", "") != self._processes[end]:
                raise Doubt(f"the {end} was started again meanwhile", hint="run it again")

    async def _source_offset(self, stream: StreamWatch) -> int:
        """Where the history of the source ends now.

        Raises:
            Doubt: it has another history.
        """
        info = await ask_server(self._writes_at)
        offset = whole(info.get("master_repl_offset", ""))
        if info.get("master_replid") != stream.replid or offset is None:
            raise Doubt(
                "the source has another history than at the beginning",
                hint="it was promoted, or started again: run it again",
            )
        return offset

    # -- behind it

    async def _finish(self) -> None:
        """The clients move, by the operator's command; then it is over.

        Raises:
            Doubt: the command failed.
        """
        report, options = self.report, self._options
        if options.then:
            await self._fence.stay(options.then_seconds + LEASE_SECONDS)  # nobody renews it from here on
            await self._move()
        try:
            left = await self._fence.stay(options.keep_seconds)
        except Doubt as error:
            if not options.then:
                raise
            left = f"{error.args[0]}; the clients have moved"
        self._done = True
        report.left += [each for each in (left, await self._users.stay(0.0) if self._users is not None else "") if each]
        report.left.append(
            f"the checkpoint {self._settings.checkpoint_name()!r} is in the target: delete it when nobody goes back"
        )

    async def _move(self) -> None:
        """The operator's command.

        Raises:
            Doubt: it failed.
        """
        report, options = self.report, self._options
        report.outcome = "done"
        report.note_time("moving")
        before = await write_calls(self._target)
        try:
            await move(options, report)
        except (Doubt, asyncio.CancelledError):
            if await self._written_to(before):
                self._done = True  # what clients have written there is nowhere else
                report.left.append("the target was written to: writes stay stopped at the source")
                report.left.append(await self._fence.stay(options.keep_seconds))
            raise
        report.note_time("moved")

    async def _written_to(self, before: Mapping[str, int] | None) -> bool:
        """Whether clients have written to the target since; where that is not told, it counts as written.

        What expires there by itself is nobody's write.
        """
        try:
            return before is None or before != await write_calls(self._target)
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
        certain = True
        for fence in (self._users, self._fence):
            if fence is not None and fence.stands:
                certain = await fence.free() and certain
                if fence.stands:
                    report.left.append(f"writes may be stopped still: {fence.by_hand()}")
        if "stopped" in report.times:
            report.note_time("freed")
            log.warning("rolled back", why=report.doubt, certain=certain, standstill_seconds=report.standstill)
        report.outcome = "interrupted" if interrupted else "rolled back" if "stopped" in report.times else "not begun"
        if self._ended:
            report.left.append("the sync has ended: start it again, it goes on from its checkpoint")

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Notes how long something takes."""
        begun = time.monotonic()
        try:
            yield
        finally:
            seconds = self.report.seconds
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - begun, 3)
