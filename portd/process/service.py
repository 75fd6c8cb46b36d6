"""The service: builds the links, serves the pages, runs them side by side, and ends in order.

What is replicated and how is in `portd.link.link`; what becomes of one link, in `portd.process.running`; what they have in
common, here: memory, disk, pages, control socket, the stop.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from portd.controlsocket import ControlSocket
from portd.errors import ConfigError, InternalError, Interrupted
from portd.groups import TaskGroup
from portd.link.handover import Handovers
from portd.log import get_logger
from portd.memory.accounting import Accounting
from portd.memory.heap import OWNER as HEAP_OWNER
from portd.memory.heap import HeapRecorder
from portd.memory.plan import plan_memory
from portd.process.orders import Orders
from portd.process.running import RunningLink, shard_watches
from portd.spool import DiskRoom
from portd.target.kept.neighbours import Neighbours
from portd.watch.history import Span
from portd.watch.loopwatch import LoopWatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from portd.config.settings import Settings
    from portd.http.server import HttpServer
    from portd.link.conflicts import Conflicts
    from portd.memory.accounting import MemoryReport
    from portd.watch.history import HistoryReading
    from portd.watch.standing import Standing
    from portd.watch.view import View

log = get_logger("service")


class Service:
    """One or several links from start to stop; what the command line runs and the HTTP pages ask.

    Args:
        links: what each of them is to do. What belongs to the process is the same in all.

    Attributes:
        orders: carries out what operators ask through the control socket.
        divides: it ends since a source has shards that no link reads: it is to be divided anew.
    """

    def __init__(self, *links: Settings) -> None:
        self._settings = settings = links[0]
        self._accounting = Accounting()
        cgroup = self._accounting.cgroup
        limit = cgroup.limit() if cgroup else None
        self._plans = [plan_memory(each, limit, len(links)) for each in links]
        self._accounting.ceiling_bytes = self._plans[0].ceiling_bytes
        self._heap = HeapRecorder(self._accounting.ledger.readings)
        self._links: list[RunningLink] = []
        self._build(links)
        self._conflicts = self._make_conflicts()
        self._by_name = {each.name: each for each in self._links}
        self._loop_watch = LoopWatch([each.progress for each in self._links])
        self._accounting.pipelines = lambda: {each.name: each.link.report.reading() for each in self._links}
        self._accounting.samplers += [each.view.track.sample for each in self._links]
        self._failures: list[RunningLink] = []  # in the order in which they failed
        self._http = self._make_http()
        path = settings.control_path(alone=len(links) == 1)
        self.orders = Orders(self._links, self.status)
        self._control = ControlSocket(path, self.orders.commands()) if path is not None else None
        self._tasks: list[asyncio.Task[None]] = []
        self.divides = False

    def _build(self, links: Sequence[Settings]) -> None:
        """Makes every link, or none: what one has made goes with the mistake of another."""
        room = DiskRoom(self._settings.spool_max_bytes, len(links))
        watches = shard_watches(links)
        for watch in watches.values():
            if isinstance(watch, Handovers):
                watch.on_strangers = self._divide_anew
        turn, neighbours = asyncio.Lock(), Neighbours()
        try:
            for each, plan in zip(links, self._plans, strict=True):
                made = RunningLink(each, plan, room, turn, neighbours, watches.get(each.link), alone=len(links) == 1)
                self._links.append(made)
        except BaseException:
            for done in self._links:
                done.close()
            raise

    def _make_conflicts(self) -> Conflicts | None:
        """Who looks for keys that two links write; None where no two can."""
        if len(self._links) == 1:
            return None
        from portd.link.conflicts import Conflicts, Writer  # noqa: PLC0415 - a single link does without

        found = Conflicts([Writer.of(each.settings, each.progress) for each in self._links])
        return found if found.pairs else None

    async def run(self) -> None:
        """Replicates until all links have ended or were asked to stop.

        Raises:
            Exception: what ended the link that failed first, or `Interrupted` where one was stopped before it had reached
                what its `stop_after` says.
        """
        if self._tasks:
            raise InternalError("the service runs already")
        for each, plan in zip(self._links, self._plans, strict=True):
            log.info("memory plan", **self._named(each), **plan.shown())
        try:
            if self._http is not None:
                await self._http.start()
                log.info("pages", url=self._http.url)
            if self._control is not None:
                await self._control.start()
            self._accounting.settle()
            self._loop_watch.start()  # nobody waits for the loop before
            if self._settings.heap_profile:
                self._heap.keep()
            self._register()
            self._accounting.start()
            async with TaskGroup() as group:
                self._tasks = [
                    group.create_task(self._run_link(each), name=f"link {each.name}") for each in self._links
                ]
                watches = [
                    group.create_task(self._watch_stop(each, task), name=f"stop {each.name}")
                    for each, task in zip(self._links, self._tasks, strict=True)
                ]
                if self._conflicts is not None:
                    watches.append(group.create_task(self._conflicts.keep(), name="conflicts"))
                await asyncio.wait(self._tasks)
                for watch in watches:
                    watch.cancel()
            if self._control is not None:
                await self._control.finish()
            self._tell_end()
        finally:
            self._loop_watch.close()
            held = self._loop_watch.state
            log.info(
                "event loop",
                longest_block_seconds=round(held.longest_seconds, 4),
                own=round(held.longest_own_seconds, 4),
            )
            self._accounting.close()
            self._heap.close()
            for each in self._links:
                each.close()
            if self._control is not None:
                self._control.close()
            if self._http is not None:
                self._http.close()

    async def _run_link(self, link: RunningLink) -> None:
        """One link to its end, which is the process's business only when the others have ended, too."""
        try:
            await link.run()
        finally:
            if link.error is not None:
                self._failures.append(link)
            link.close()

    def _divide_anew(self, shards: int) -> bool:
        """A source has so many shards that no link reads: ends all links in order, if there is room for more; whether it is."""
        cgroup = self._accounting.cgroup
        try:
            for each in self._links:
                plan_memory(each.settings, cgroup.limit() if cgroup else None, len(self._links) + shards)
        except ConfigError as error:
            log.warning(
                "a shard of the source is new, and there is no memory for its link: slots that move to it end the sync",
                error=str(error.args[0]), hint=error.hint,
            )  # fmt: skip
            return False
        self.divides = True
        self.request_stop()
        return True

    def _tell_end(self) -> None:
        """All have ended.

        Raises:
            Exception: of the one that failed first; see `run`.
        """
        if self.divides:
            self._failures = [each for each in self._failures if not isinstance(each.error, Interrupted)]
            self.divides = not self._failures
        if not self._failures:
            return
        first = self._failures[0]
        if len(self._links) > 1:
            log.warning("the first link that failed decides the exit code", link=first.name, failed=len(self._failures))
        assert first.error is not None
        raise first.error

    async def _watch_stop(self, link: RunningLink, task: asyncio.Task[None]) -> None:
        """Once a link was asked to stop, it has `drain_seconds` left."""
        await link.stop.wait()
        link.progress.stopping = True
        begun = time.monotonic()
        await asyncio.wait({task}, timeout=self._settings.drain_seconds)
        if not task.done():
            log.warning(
                "drain deadline passed", **self._named(link), seconds=round(time.monotonic() - begun, 1),
                hint="what was not applied is sent again by the source after the next start",
            )  # fmt: skip
            link.late = True
            task.cancel()

    def _named(self, link: RunningLink) -> dict[str, str]:
        """Which link a line of the log is about, where there are several."""
        return {"link": link.name} if len(self._links) > 1 else {}

    def _register(self) -> None:
        """Names who holds memory."""
        ledger = self._accounting.ledger
        for each in self._links:
            each.register(ledger)
        ledger.register(HEAP_OWNER, self._heap.held_bytes)
        if self._http is not None:
            ledger.register("http", self._http.held_bytes)

    def request_stop(self) -> None:
        """Asks to apply what was read, to checkpoint and to end; returns at once."""
        for each in self._links:
            each.request_stop()

    def change(self, link: str, name: str, value: float) -> None:
        """Lets a setting of a link take effect, and of all shards where its source is a cluster; "" is the only one."""
        for each in self._links:
            if link in {"", each.name, each.settings.described}:
                each.change(name, value)

    def narrow(self, link: str, settings: Settings) -> list[Coroutine[Any, Any, Mapping[str, Any]]]:
        """What has narrower rules taken up, for a link or each of its shards; see `RunningLink.narrow`."""
        return [each.narrow(settings) for each in self._links if link in {"", each.name, each.settings.described}]

    def reloads(self, read: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        """Takes what reads the settings again, for operators who ask through the control socket."""
        self.orders.read_again = read

    def settings_again(self) -> Sequence[str]:
        """Settings were read: what operators changed for the time until then is over. The links where that was so."""
        return [each.name for each in self._links if each.settings_again()]

    def links(self) -> Sequence[str]:
        """The names of the links."""
        return tuple(self._by_name)

    def views(self) -> Sequence[View]:
        """Every link, for those who watch."""
        return tuple(each.view for each in self._links)

    def status(self, link: str = "") -> dict[str, Any]:
        """Plain data for ``/status`` and the status page: of one link, or of all where there are several."""
        from portd.http.status import describe, describe_all  # noqa: PLC0415 - aiohttp's neighbourhood, not wanted with --http off

        loop = self._loop_watch.state
        if link or len(self._links) == 1:
            found = self._by_name[link] if link else self._links[0]
            return describe(found.view, found.settings, loop)
        return describe_all([describe(each.view, each.settings, loop) for each in self._links])

    def memory(self, span: Span = Span.MINUTES) -> MemoryReport:
        """Where the memory is now, and was over that span."""
        return self._accounting.report(span)

    def history(self, link: str = "", span: Span = Span.MINUTES) -> HistoryReading:
        """Lag, rates and spool of one link over that span; "" is the only one."""
        return (self._by_name[link] if link else self._links[0]).view.track.history.read(span)

    def heap(self) -> HeapRecorder:
        """What records heap profiles."""
        return self._heap

    def standings(self) -> dict[str, Standing]:
        """Phase of each link, and whether its target may be read."""
        return {each.name: each.standing() for each in self._links if not each.left}

    def alive(self) -> bool:
        """It runs: a link that has ended or failed while others go on is no reason to start the process again."""
        return not self._tasks or not all(task.done() for task in self._tasks)

    def _make_http(self) -> HttpServer | None:
        address = self._settings.http_address()
        if address is None:
            return None
        from portd.http.server import HttpServer  # noqa: PLC0415 - saves megabytes and time with --http off
        from portd.watch.metrics import LinkSources, Sources, build_registry  # noqa: PLC0415 - the same

        accounting = self._accounting
        registry = build_registry(
            Sources(
                links=[
                    LinkSources(
                        view=each.view,
                        source=each.settings.source_endpoint().display,
                        target=each.settings.target_endpoint().display,
                        pipeline=each.link.report.reading,
                        decoder=each.link.report.decoder_counters,
                    )
                    for each in self._links
                ],
                owners=accounting.ledger.readings,
                cgroup=lambda: accounting.cgroup.read() if accounting.cgroup else None,
                loop=self._loop_watch.state,
                ceiling_bytes=accounting.ceiling_bytes,
            )
        )
        settings = self._settings
        return HttpServer(self, registry, address, redact_keys=settings.redact_keys, hosts=settings.http_names())
