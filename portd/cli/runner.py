"""Runs a service on uvloop: signals, systemd, progress, and the exit code.

The first SIGTERM or SIGINT asks the service to drain, the second aborts it, a third kills the process. One that comes
after the end changes nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import uvloop

from portd.cli.display import make_display, state_line
from portd.cli.failures import report
from portd.cli.notify import Notifier
from portd.controlsocket import Refusal
from portd.errors import ConfigError, PortdError
from portd.log import configure, get_logger
from portd.memory.process import tune_malloc
from portd.model import Phase
from portd.watch.standing import look

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
    from types import FrameType

    from portd.cli.display import Display
    from portd.cli.reload import Changes, ConfigFile
    from portd.config.settings import Settings
    from portd.memory.accounting import MemoryReport
    from portd.watch.view import View

TICK_SECONDS = 0.5
STATUS_SECONDS = 5.0  # between two lines for `systemctl status`
RULES_SECONDS = (
    20.0  # an answer to `portd ctl reload` waits for narrower rules to be in force; then it says that they will be
)
READY_SECONDS = 10.0  # systemd is told "ready" by then at the latest: an end that is away is waited for, not failed

log = get_logger("cli")


class Runnable(Protocol):
    """What a service must offer to be run."""

    def views(self) -> Sequence[View]:
        """Its links, or what it does instead."""

    async def run(self) -> None:
        """Runs until the work is done or it was asked to stop; raises what ended it otherwise."""

    def request_stop(self) -> None:
        """Asks to drain and end; returns at once."""

    def memory(self) -> MemoryReport:
        """Where the memory is now."""

    def alive(self) -> bool:
        """All parts that should run do run."""

    def change(self, link: str, name: str, value: float) -> None:
        """Lets a setting of a link take effect; "" is the only one. Settings that it does not know are no concern of it."""

    def narrow(self, link: str, settings: Settings) -> list[Coroutine[Any, Any, Mapping[str, Any]]]:
        """What has narrower rules taken up, by each link that is meant; "" is the only one. None where they cannot change."""

    def settings_again(self) -> Sequence[str]:
        """Settings were read: what operators changed for the time until then is over. The links where that was so."""

    def reloads(self, read: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        """Takes what reads the settings again, for those who can be asked to."""


class Watched(Protocol):
    """What a service's settings must say about how it is watched."""

    @property
    def progress_seconds(self) -> float:
        """How often a progress line is logged where there is no terminal; 0 logs none."""

    @property
    def memtrace(self) -> float:
        """How often a line about memory is logged, in seconds; 0 logs none."""


def run_blocking(build: Callable[[], Runnable], settings: Watched, file: ConfigFile | None = None) -> int:
    """Builds a service inside of an event loop and runs it to its end.

    Args:
        build: makes the service; called on the loop.
        settings: progress_seconds and memtrace.
        file: read again at SIGHUP.

    Returns:
        The exit code.
    """
    tune_malloc()
    return uvloop.run(_supervise(build, settings, file))


async def _supervise(build: Callable[[], Runnable], settings: Watched, file: ConfigFile | None) -> int:
    task = asyncio.current_task()
    assert task is not None
    try:
        service = build()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported and becomes the exit code
        return report(error)
    supervisor = Supervisor(service, settings, task.cancel, file)
    supervisor.start()
    failure: BaseException | None = None
    try:
        await service.run()
    except asyncio.CancelledError:
        if supervisor.aborted_by is None:
            raise
        return 128 + supervisor.aborted_by
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - whatever it is becomes the exit code
        failure = error
    finally:
        supervisor.close()
    return os.EX_OK if failure is None else report(failure)  # behind the last that is shown of the sync


def _narrowed(link: str, task: asyncio.Task[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What is known of a link that has narrower rules: that they are in force, or why not."""
    if not task.done():
        return {"link": link, "offset": None}
    if (error := task.exception()) is not None:
        if not isinstance(error, PortdError | Refusal):
            raise error
        log.warning("the rules are not taken up", link=link, error=str(error.args[0]), hint=error.hint)
        return {"link": link, "error": str(error.args[0]), "hint": error.hint or ""}
    return task.result()


def _rules_text(told: Mapping[str, Any]) -> str:
    """The same for people."""
    of_link = f"of {told['link']} " if told["link"] else ""
    if "error" in told:
        return f"the rules {of_link}stay: {told['error']}"
    if told["offset"] is None:
        return f"the narrower rules {of_link}are taken up when the stream is followed; the log tells when"
    stays = (
        f"{told['left']} keys of the target are not taken any more, and stay"
        if told["left"]
        else "no key of the target is left over"
    )
    some = f": {', '.join(told['some'])}{' ...' if told['left'] > len(told['some']) else ''}" if told["left"] else ""
    return f"the narrower rules {of_link}are in force from offset {told['offset']} on; {stays}{some}"


def _reload_text(told: Mapping[str, Sequence[str]]) -> str:
    """What came of reading the file again, for people."""
    words = {
        "changed": "changed: {}",
        "needs_restart": "takes effect at the next start: {}",
        "overridden": "a flag or variable wins over the file: {}",
        "limits_back": "limits are those of the settings again, of {}",
        "rules": "{}",
    }
    found = [words[name].format(", ".join(names)) for name, names in told.items() if names]
    return "; ".join(found) or "nothing has changed"


def _pass_over(number: int, _frame: FrameType | None) -> None:
    """A signal to a process that has ended but for its exit: code and cleaning up stay; the next one kills it."""
    signal.signal(number, signal.SIG_DFL)


class Supervisor:
    """Signals, ticks and notifications around one running service.

    Args:
        service: what runs.
        settings: progress_seconds and memtrace.
        abort: ends the service now, without draining.
        file: read again at SIGHUP; without one, SIGHUP is a terminal that went away, and stops the service.

    Attributes:
        aborted_by: the signal that aborted the service, None if none did.
    """

    def __init__(
        self, service: Runnable, settings: Watched, abort: Callable[[], object], file: ConfigFile | None = None
    ) -> None:
        self.aborted_by: int | None = None
        self._service = service
        self._abort = abort
        self._memtrace = settings.memtrace
        self._file = file
        self._one_reload = asyncio.Lock()
        self._reading: set[asyncio.Task[Any]] = set()
        if file is not None:
            service.reloads(self.reload)
        self._views = service.views()
        self._display: Display = make_display(self._views, settings.progress_seconds)
        self._notifier = Notifier()
        self._signals = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._traces = 0
        self._traced: MemoryReport | None = None  # at the last trace
        self._status_at = 0.0
        self._started = 0.0

    def start(self) -> None:
        """Takes over signals and begins to tick."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        self._started = loop.time()
        self._every("tick", TICK_SECONDS, self._tick)
        if self._notifier.watchdog_seconds:
            self._every("watchdog", self._notifier.watchdog_seconds / 3, self._feed_watchdog)
        if self._memtrace:
            self._every("memtrace", self._memtrace, self._trace_memory)

    def close(self) -> None:
        """Gives signals back and stops ticking; may be called again."""
        loop = asyncio.get_running_loop()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in self._reading:
            task.cancel()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
            if self.aborted_by is None:
                signal.signal(number, _pass_over)
        self._display.update()
        self._display.close()
        self._notifier.stopping()

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        name = signal.Signals(number).name
        if self._signals == 1:
            log.info("stopping", signal=name, hint="the same signal again aborts")
            self._notifier.stopping()
            self._service.request_stop()
        else:
            log.warning("aborting", signal=name)
            self.aborted_by = number
            loop = asyncio.get_running_loop()
            for other in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(other)  # the next one has its default effect, should aborting hang
                signal.signal(other, signal.SIG_DFL)
            self._abort()

    def _on_hangup(self) -> None:
        """Reads the configuration file again."""
        if self._file is None:
            if not self._signals:
                self._on_signal(signal.SIGHUP)
            return
        task = asyncio.get_running_loop().create_task(self._reload_quietly(), name="reload")
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _reload_quietly(self) -> None:
        """As `reload`; the log says what is wrong."""
        with suppress(ConfigError):
            await self.reload()

    async def reload(self) -> Mapping[str, Any]:
        """Reads the configuration file again, one at a time; what changed, and ``text`` that says so.

        Raises:
            ConfigError: something is wrong with it; nothing was changed, and the log says so.
        """
        task = asyncio.create_task(
            self._reload(), name="reload"
        )  # whoever asked may go away; what was begun is finished
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)
        return await asyncio.shield(task)

    async def _reload(self) -> Mapping[str, Any]:
        async with self._one_reload:
            return await self._read_file()

    async def _read_file(self) -> Mapping[str, Any]:
        file = self._file
        assert file is not None, "nobody asks without one"
        try:
            changes = file.reread()
        except ConfigError as error:
            log.warning("reload failed", error=str(error.args[0]), hint=error.hint)
            raise
        for name, value in changes.live.items():
            self._apply(name, value)
        back = self._service.settings_again()
        rules = await self._narrow(file, changes)
        told = {
            "changed": list(changes.live),
            "needs_restart": changes.restart,
            "overridden": changes.hidden,
            "limits_back": list(back),
            "rules": [_rules_text(each) for each in rules],
        }
        log.info(
            "reloaded", file=str(file.path), changed=" ".join(changes.live) or "nothing",
            needs_restart=" ".join(changes.restart), overridden=" ".join(changes.hidden),
            **({"limits_back": " ".join(back)} if back else {}),
        )  # fmt: skip
        answer: dict[str, Any] = {"file": str(file.path), **told, "narrower": rules, "text": _reload_text(told)}
        if refused := [each for each in rules if "error" in each]:
            answer |= {"ok": False, "error": _rules_text(refused[0]), "hint": refused[0]["hint"]}
        return answer

    async def _narrow(self, file: ConfigFile, changes: Changes) -> list[Mapping[str, Any]]:
        """Has narrower rules taken up; what is known of that after some seconds, link by link."""
        found: list[Mapping[str, Any]] = []
        for name, settings in changes.narrower.items():
            tasks = [asyncio.create_task(work, name="rules") for work in self._service.narrow(name, settings)]
            self._reading.update(tasks)
            for task in tasks:
                task.add_done_callback(self._reading.discard)
            await asyncio.wait(tasks, timeout=RULES_SECONDS)
            told = [_narrowed(name, task) for task in tasks]
            if not all("error" in each for each in told):
                file.follow(name, settings)
            found += told
        return found

    def _apply(self, name: str, value: Any) -> None:
        """Lets a setting take effect."""
        if name == "log_level":
            configure(self._file.log_format if self._file else "auto", value)
        elif name == "memtrace":
            self._memtrace = value
            if (timer := self._timers.pop("memtrace", None)) is not None:
                timer.cancel()
            if value:
                self._every("memtrace", value, self._trace_memory)
        elif name == "progress_seconds":
            self._display.close()
            self._display = make_display(self._views, value)
        else:
            link, _, setting = name.rpartition(".")
            self._service.change(link, setting, value)

    def _every(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        """Calls *action* now and then, from a timer: nothing to cancel but the timer."""

        def again() -> None:
            self._timers[name] = asyncio.get_running_loop().call_later(seconds, again)
            action()

        self._timers[name] = asyncio.get_running_loop().call_later(seconds, again)

    def _tick(self) -> None:
        now = asyncio.get_running_loop().time()
        self._display.update()
        begun = all(look(view.progress).phase is not Phase.STARTING for view in self._views)
        if begun or now - self._started >= READY_SECONDS:
            self._notifier.ready()
        if now - self._status_at >= STATUS_SECONDS:
            self._status_at = now
            self._notifier.status(state_line(self._views))

    def _feed_watchdog(self) -> None:
        if self._service.alive():
            self._notifier.alive()

    def _trace_memory(self) -> None:
        """One line in the spirit of Go's gctrace."""
        self._traces += 1
        memory = self._service.memory()
        before, self._traced = self._traced, memory
        pause = memory.gc.pause_seconds - (before.gc.pause_seconds if before else 0.0)
        several = len(self._views) > 1
        owners = {
            (f"{reading.link}_" if several and reading.link else "")
            + reading.owner.replace(" ", "_"): reading.held_bytes
            for reading in memory.owners
        }
        log.info(
            "memtrace",
            number=self._traces,
            uptime_seconds=round(time.time() - min(view.progress.started_at for view in self._views), 1),
            rss_before=before.rss_bytes if before else memory.rss_bytes,
            rss_bytes=memory.rss_bytes,
            peak_bytes=memory.rss_peak_bytes,
            ceiling_bytes=memory.ceiling_bytes,
            interpreter=memory.interpreter_bytes,
            free=memory.free_bytes,
            unexplained=memory.unexplained_bytes,
            **owners,
            spool_disk=memory.spool_disk_bytes,
            collections=memory.gc.runs,
            gc_ms=round(pause * 1000, 2),
            gc_longest_ms=round(memory.gc.longest_seconds * 1000, 2),
            python_blocks=memory.heaps.python_blocks,
        )
