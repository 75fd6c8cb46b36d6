"""The watch over the event loop: sees what holds it, and tells computing from waiting."""

from __future__ import annotations

import asyncio
import time

from portd.model import LoopState, Progress, Work
from portd.watch.loopwatch import CLOSE_SECONDS, LoopWatch

HELD_SECONDS = 0.06


async def _watched(progress: Progress, block: float, *, busy: bool) -> LoopState:
    """Holds the loop once while it is watched; what was seen."""
    calm = Progress(work=Work.FOLLOWING)
    calm.stream.caught_up = True
    watch = LoopWatch([calm, progress])
    watch.start()
    watch.start()
    try:
        end = time.perf_counter() + block
        while busy and time.perf_counter() < end:
            pass
        if not busy:
            time.sleep(block)  # noqa: ASYNC251 - the block that is to be seen
        fired = asyncio.Event()
        asyncio.get_running_loop().call_later(0, fired.set)
        await fired.wait()
    finally:
        watch.close()
        watch.close()
    return watch.state


async def test_what_holds_the_loop_is_seen() -> None:
    """A block shows with its length, short of the gap between two looks."""
    progress = Progress(work=Work.COPYING)
    seen = await _watched(progress, HELD_SECONDS, busy=True)
    assert seen.longest_seconds >= HELD_SECONDS - 2 * CLOSE_SECONDS
    assert seen.recent_seconds == seen.longest_seconds
    assert seen.longest_at > 0


async def test_waiting_is_told_from_computing() -> None:
    """A wait that holds the loop counts as held, and not as own work: a core that others have is not our doing."""
    progress = Progress(work=Work.COPYING)
    seen = await _watched(progress, HELD_SECONDS, busy=False)
    assert seen.longest_seconds >= HELD_SECONDS - 2 * CLOSE_SECONDS
    assert seen.longest_own_seconds < HELD_SECONDS / 2
