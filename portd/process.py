"""The service: builds the parts, serves the pages, runs the replication, and ends in order.

What is replicated and how is in `portd.link.link`; what runs when, here.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from portd.config.choices import StopAfter
from portd.controlsocket import ControlSocket, Refusal
from portd.errors import InternalError, Interrupted
from portd.link.link import Link
from portd.log import get_logger
from portd.memory.accounting import Accounting
from portd.memory.heap import OWNER as HEAP_OWNER
from portd.memory.heap import HeapRecorder
from portd.memory.plan import plan_memory
from portd.model import Phase, Progress
from portd.source.forecast import Forecast
from portd.verify.schedule import Schedule
from portd.watch.loopwatch import LoopWatch
from portd.watch.pace import Pace
from portd.watch.standing import look

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portd.config.settings import Settings
    from portd.http.server import HttpServer
    from portd.memory.accounting import MemoryReport
    from portd.watch.standing import Standing

log = get_logger("service")


class Service:
    """One sync from start to stop; what the command line runs and the HTTP pages ask.

    Args:
        settings: what to do.

    Attributes:
        progress: counters, live.
    """

    def __init__(self, settings: Settings) -> None:
        self.progress = Progress()
        self._settings = settings
        self._accounting = Accounting()
        cgroup = self._accounting.cgroup
        self._plan = plan_memory(settings, cgroup.limit() if cgroup else None)
        self._accounting.ceiling_bytes = self._plan.ceiling_bytes
        self._heap = HeapRecorder(self._accounting.ledger.readings)
        self._pace = Pace(self.progress)
        self._loop_watch = LoopWatch(self.progress)
        self._stop = asyncio.Event()
        self._schedule = Schedule(settings, self.progress)
        self._link = Link(settings, self._plan, self.progress, self._stop, self._schedule.run)
        self._accounting.pipeline = self._link.reading
        self._forecast = Forecast(settings.source_endpoint(), self.progress)
        self._http = self._make_http()
        path = settings.control_path()
        self._control = ControlSocket(path, {"accept": self._accept}) if path is not None else None
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Replicates until it is done or was asked to stop.

        Raises:
            ExceptionGroup: of the errors that ended it.
            Interrupted: it was stopped before it had reached what `stop_after` says.
        """
        if self._task is not None:
            raise InternalError("the service runs already")
        log.info("memory plan", **self._plan.shown())
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
            self._link.register(self._accounting.ledger)
            self._accounting.ledger.register(HEAP_OWNER, self._heap.held_bytes)
            self._accounting.ledger.register("verification", self._schedule.held_bytes)
            if self._http is not None:
                self._accounting.ledger.register("http", self._http.held_bytes)
            self._accounting.start()
            async with asyncio.TaskGroup() as group:
                self._task = group.create_task(self._link.run(), name="replication")
                forecast = group.create_task(self._forecast.run(), name="forecast")
                await self._watch_stop(self._task)
                forecast.cancel()
            self.progress.phase = Phase.STOPPED
            self._check_reached()
        except Interrupted:
            raise
        except BaseException as error:
            self.progress.phase = Phase.FAILED
            if not isinstance(error, asyncio.CancelledError):
                self.progress.last_error = self.progress.last_error or str(error)
            raise
        finally:
            self._loop_watch.close()
            held = self.progress.loop
            log.info(
                "event loop",
                longest_block_seconds=round(held.longest_seconds, 4),
                own=round(held.longest_own_seconds, 4),
            )
            self._accounting.close()
            self._heap.close()
            self._link.close()
            if self._control is not None:
                self._control.close()
            if self._http is not None:
                self._http.close()

    async def _watch_stop(self, task: asyncio.Task[None]) -> None:
        """Returns when *task* is over; once a stop was asked for, it has `drain_seconds` left."""
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return
            self.progress.stopping = True
            begun = time.monotonic()
            await asyncio.wait({task}, timeout=self._settings.drain_seconds)
            if not task.done():
                log.warning(
                    "drain deadline passed", seconds=round(time.monotonic() - begun, 1),
                    hint="what was not applied is sent again by the source after the next start",
                )  # fmt: skip
                task.cancel()
        finally:
            stopped.cancel()

    def _check_reached(self) -> None:
        """A stop is an answer to a sync that goes on for ever, not to one that was to reach something.

        Raises:
            Interrupted: it has not.
        """
        wanted = self._settings.stop_after
        if wanted is not StopAfter.NONE and not self._link.reached:
            what = "the snapshot was applied" if wanted is StopAfter.SNAPSHOT else "the target had caught up"
            follows = self.progress.stream.following
            hint = "it goes on from the target's checkpoint" if follows else "a snapshot that is not whole begins anew"
            raise Interrupted(f"stopped before {what}", hint=f"start it again: {hint}")

    def request_stop(self) -> None:
        """Asks to apply what was read, to checkpoint and to end; returns at once."""
        self._stop.set()

    def verify_every(self, seconds: float) -> None:
        """Another time between two comparisons of the ends; 0 for none."""
        self._schedule.change(seconds)

    def limit(self, name: str, value: int) -> None:
        """Lets a limit on the load of the target take effect; *name* is that of the setting."""
        self._link.limiter.change_setting(name, value)

    def _accept(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG002 - it takes none
        """An operator lets a held sync go on.

        Raises:
            Refusal: none is held.
        """
        held = self._link.gate.accept()
        if held is None:
            phase = look(self.progress).phase.value
            raise Refusal(f"nothing is held: the sync is {phase}", "a word in advance is the flag --accept-source")
        return {"link": self._settings.link, "reason": held.reason, "text": f"accepted, the sync goes on: {held.words}"}

    def status(self) -> dict[str, Any]:
        """Plain data for ``/status`` and the status page."""
        from portd.http.status import describe  # noqa: PLC0415 - aiohttp's neighbourhood, not wanted with --http off

        return describe(self.progress, self._pace, self._settings)

    def memory(self) -> MemoryReport:
        """Where the memory is now."""
        return self._accounting.report()

    def heap(self) -> HeapRecorder:
        """What records heap profiles."""
        return self._heap

    def standing(self) -> Standing:
        """Phase, and whether the target may be read."""
        return look(self.progress)

    def alive(self) -> bool:
        """The replication runs."""
        return self._task is None or not self._task.done()

    def _make_http(self) -> HttpServer | None:
        address = self._settings.http_address()
        if address is None:
            return None
        from portd.http.server import HttpServer  # noqa: PLC0415 - saves megabytes and time with --http off
        from portd.watch.metrics import Sources, build_registry  # noqa: PLC0415 - the same

        accounting = self._accounting
        registry = build_registry(
            Sources(
                progress=self.progress,
                pipeline=self._link.reading,
                owners=accounting.ledger.readings,
                cgroup=lambda: accounting.cgroup.read() if accounting.cgroup else None,
                decoder=self._link.decoder_counters,
            )
        )
        settings = self._settings
        return HttpServer(self, registry, address, redact_keys=settings.redact_keys, hosts=settings.http_names())
