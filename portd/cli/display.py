"""How far a sync is, for whoever watches: a bar on a terminal, a log line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

from portd.log import get_logger
from portd.memory.process import resident
from portd.model import Phase
from portd.units import human_bytes, human_seconds, human_short
from portd.watch.standing import look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import BarColumn
    from rich.progress import Progress as Bar

    from portd.model import Progress
    from portd.watch.pace import PaceReading
    from portd.watch.view import View

MOST_BAR, LEAST_BAR = 24, 4  # columns of a bar: it gives way to what is told beside it
STREAMING_FACTOR = 12  # progress lines are that much rarer once the stream is followed: it may be for weeks

log = get_logger("progress")


class Display(Protocol):
    """Shows a sync's progress; `update` comes about once a second, from the event loop."""

    def update(self) -> None:
        """Shows what is now."""

    def close(self) -> None:
        """Leaves the terminal as it was; may be called again."""


def make_display(views: Sequence[View], every_seconds: float) -> Display:
    """Bars when standard error is a terminal, log lines elsewhere."""
    return TerminalDisplay(views) if sys.stderr.isatty() else LogDisplay(views, every_seconds)


def state_line(views: Sequence[View]) -> str:
    """The state of all links in one line."""
    return "; ".join(_before(view, views) + one_line(view.progress, view.pace.read()) for view in views)


def _before(view: View, views: Sequence[View]) -> str:
    """Which link it is, where there are several."""
    return f"{view.name}: " if len(views) > 1 else ""


def one_line(progress: Progress, rates: PaceReading) -> str:
    """The state of a sync in one line."""
    standing, snapshot = look(progress), progress.snapshot
    phase, refused = standing.phase, _refused(progress)
    if phase in {Phase.SNAPSHOT, Phase.WAITING}:
        share = f"{rates.done:.0%}, " if rates.done is not None else ""
        left = f", {human_seconds(rates.eta_seconds)} left" if rates.eta_seconds is not None else ""
        return (
            f"{phase}: {share}{human_bytes(snapshot.bytes_decoded)}, {human_short(snapshot.keys_settled)} keys, "
            f"{human_short(rates.keys)}/s{left}{refused}"
        )
    if phase in {Phase.CATCHING_UP, Phase.STREAMING, Phase.DRAINING, Phase.PAUSED}:
        lag = lag_text(progress.lag_seconds, progress.lag_bytes)
        return f"{phase}: {lag}{human_short(rates.commands)} commands/s{refused}"
    outlook = progress.outlook
    if phase is Phase.STANDBY and outlook.backlog_bytes:
        refused += f", {human_bytes(max(0, outlook.backlog_bytes - outlook.backlog_behind_bytes))} of backlog left"
    return (
        f"{phase}: {standing.reason}{refused}"
        if phase in {Phase.CONNECTING, Phase.HELD, Phase.FAILED, Phase.STANDBY} and standing.reason
        else f"{phase}{refused}"
    )


def lag_text(seconds: float | None, behind: int | None) -> str:
    """The lag, and a comma; nothing where there is none to tell: a file is written, or read."""
    return "" if seconds is None or behind is None else f"lag {human_seconds(seconds)}, {human_bytes(behind)}, "


def _refused(progress: Progress) -> str:
    """What a server refuses at this moment."""
    return "".join(f", {side} refuses: {code}" for side, code, _ in progress.troubles.current())


class LogDisplay:
    """Log lines at an interval, rarer while streaming, and one whenever the phase of a link changes.

    Args:
        views: of the links.
        every_seconds: 0 logs phase changes only.
    """

    def __init__(self, views: Sequence[View], every_seconds: float) -> None:
        self._lines = [_LogLine(view, every_seconds, several=len(views) > 1) for view in views]

    def update(self) -> None:
        """Logs the lines that are due."""
        for line in self._lines:
            line.update()

    def close(self) -> None:
        """Nothing to clean up."""


class _LogLine:
    """The lines of one link."""

    def __init__(self, view: View, every_seconds: float, *, several: bool) -> None:
        self._progress = view.progress
        self._pace = view.pace
        self._named: dict[str, object] = {"link": view.name} if several else {}
        self._every = every_seconds
        self._phase: Phase | None = None
        self._last = time.monotonic()

    def update(self) -> None:
        """Logs a line if one is due."""
        phase = look(self._progress).phase
        factor = STREAMING_FACTOR if phase is Phase.STREAMING else 1
        due = self._every > 0 and phase is not Phase.STANDBY and time.monotonic() - self._last >= self._every * factor
        if phase is self._phase and not due:
            return
        self._phase, self._last = phase, time.monotonic()
        snapshot, stream, rates = self._progress.snapshot, self._progress.stream, self._pace.read()
        events: dict[str, object] = {**self._named, "phase": phase.value}
        if phase in {Phase.WAITING, Phase.SNAPSHOT}:
            events |= {"bytes": snapshot.bytes_decoded, "bytes_total": snapshot.bytes_total}
            events |= {"keys": snapshot.keys_settled, "keys_per_second": round(rates.keys)}
            events |= {"eta_seconds": None if rates.eta_seconds is None else round(rates.eta_seconds)}
        elif phase in {Phase.CATCHING_UP, Phase.STREAMING, Phase.PAUSED, Phase.DRAINING, Phase.STOPPED}:
            lag_bytes, lag = self._progress.lag_bytes, self._progress.lag_seconds
            events["offset"] = stream.applied_offset
            events |= {} if lag is None else {"lag_bytes": lag_bytes, "lag_seconds": round(lag, 3)}
            events["commands_per_second"] = round(rates.commands)
        log.info("progress", **events, rss_bytes=resident().rss_bytes)


class TerminalDisplay:
    """A live line for each link at the bottom of the terminal; log lines scroll above them.

    Args:
        views: of the links.
    """

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views
        self._column, self._bar = _build_bar()
        self._tasks = [self._bar.add_task("", total=None) for _ in views]
        self._bar.start()

    def update(self) -> None:
        """Draws the lines anew."""
        width, longest = self._bar.console.width, 0
        for view, task in zip(self._views, self._tasks, strict=True):
            rates = view.pace.read()
            share = rates.done if look(view.progress).phase in {Phase.WAITING, Phase.SNAPSHOT} else 1.0
            last = f", {human_bytes(resident().rss_bytes)} RSS" if view is self._views[-1] else ""
            text = fitting(f"{_before(view, self._views)}{one_line(view.progress, rates)}", last, width - LEAST_BAR - 1)
            longest = max(longest, len(text))
            self._bar.update(
                task,
                total=None if share is None else 1.0,
                completed=share or 0.0,
                description=text.replace("[", r"\["),
            )
        self._column.bar_width = max(LEAST_BAR, min(MOST_BAR, width - longest - 1))
        self._bar.refresh()

    def close(self) -> None:
        """Ends the live lines and leaves their last state on the terminal."""
        self._bar.stop()


def fitting(line: str, last: str, columns: int) -> str:
    """What fits beside a bar: the line, and *last* where there is room for all of it; what is cut off is told by its dots."""
    if len(line) + len(last) <= columns:
        return line + last
    return line if len(line) <= columns else line[: max(0, columns - 1)] + "…"


def _build_bar() -> tuple[BarColumn, Bar]:
    from rich.console import Console  # noqa: PLC0415 - 5 MB that a daemon does not need
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - the same

    # No refresh thread: the event loop redraws, and shows at once when it is stuck.
    column = BarColumn(bar_width=MOST_BAR)
    console = Console(stderr=True)
    return column, Progress(column, TextColumn("{task.description}"), console=console, auto_refresh=False)
