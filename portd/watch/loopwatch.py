"""How long the event loop was ever held: ACKs to the source, `/metrics` and signals wait for as long.

A timer that fires late says that something held the loop. It is set anew each time, closely while a snapshot or a backlog
passes, widely otherwise; what it finds is in `LoopWatch.state`. A block is seen for what is left of it when the timer is
due, so that the true one may be longer by the gap.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from portd.model import LoopState, Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.model import Progress

CLOSE_SECONDS: Final = 0.004
WIDE_SECONDS: Final = 0.1
RECENT_SECONDS: Final = 60.0
BACKLOG_BYTES: Final = 1 << 20  # that wait to be applied: more is watched closely


class LoopWatch:
    """Watches the running loop from `start` to `close`.

    Args:
        links: their phases tell how closely to look.

    Attributes:
        state: what was found.
    """

    def __init__(self, links: Sequence[Progress]) -> None:
        self.state = LoopState()
        self._links = links
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # perf_counter
        self._cpu = 0.0  # of this thread, when the timer was set
        self._turned_at = 0.0  # perf_counter; when the figures of a minute were put aside
        self._current = 0.0  # the longest block of this minute
        self._before = 0.0  # and of the one before

    def start(self) -> None:
        """Begins to watch; idempotent."""
        if self._timer is None:
            self._turned_at = time.perf_counter()
            self._set(asyncio.get_running_loop())

    def close(self) -> None:
        """Stops; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        gap = CLOSE_SECONDS if any(map(_busy, self._links)) else WIDE_SECONDS
        self._cpu = time.thread_time()
        self._due = time.perf_counter() + gap
        self._timer = loop.call_later(gap, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.perf_counter()
        self._note(now, now - self._due, time.thread_time() - self._cpu)
        self._set(loop)

    def _note(self, now: float, late: float, used: float) -> None:
        """Takes the lateness of the timer, and the CPU seconds of this thread since it was set."""
        state = self.state
        if now - self._turned_at >= RECENT_SECONDS:
            self._turned_at, self._before, self._current = now, self._current, 0.0
        self._current = max(self._current, late)
        state.recent_seconds = max(self._current, self._before)
        state.longest_own_seconds = max(state.longest_own_seconds, min(late, used))
        if late > state.longest_seconds:
            state.longest_seconds, state.longest_at = late, time.time()


def _busy(progress: Progress) -> bool:
    """A snapshot or a backlog passes, or a link begins."""
    if progress.ended or progress.held is not None or progress.preparing:
        return False
    stream = progress.stream
    follows = progress.work is Work.FOLLOWING and stream.caught_up
    return not follows or stream.read_offset - stream.applied_offset > BACKLOG_BYTES
