"""Limits the load on the target: bytes and commands per second, one pair of token buckets for all who write.

Whoever is about to send takes what it costs first, and waits its turn where the buckets are in debt. A cost larger than a
bucket is let through once there is no debt, and those behind it wait for what it owes: batches are not cut for the
limit's sake, and the average holds all the same. Without a limit nothing is counted.

An operator's pause is here, too, since all who write come by: nobody gets a turn until it is over. What was sent before is
answered, and the lease, the checkpoint's owner and connections are kept.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from portd.log import get_logger
from portd.model import TargetLimit

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.model import StreamProgress

_log = get_logger("target")

LIMITS: Final = frozenset({"max_target_bytes_per_second", "max_target_ops"})  # settings, integers
BURST_SECONDS: Final = 0.1  # of the rate may be saved up while nobody writes
SHARE_SECONDS: Final = 0.1  # of the rate goes into one transaction of the stream, so that the target gets an even load
MIN_SHARE_BYTES: Final = 16 * 1024  # but not less than this: the frame of a transaction costs 400 bytes by itself
MIN_SHARE_OPS: Final = 64
MIN_WAIT_SECONDS: Final = 0.001  # the resolution of the loop's timers
WATCH_SECONDS: Final = 5.0  # the lag is compared over this time


class _Bucket:
    """Tokens of one kind; a level below 0 is a debt."""

    __slots__ = ("_at", "level", "rate")

    def __init__(self) -> None:
        self.rate = 0  # tokens per second; 0 without a limit
        self.level = 0.0
        self._at = 0.0  # when the level was right, in seconds of `time.monotonic`

    def change(self, rate: int, now: float) -> None:
        """Sets the rate; a debt costs no more seconds than it did."""
        self.refill(now)
        if not (rate and self.rate):
            self.level = 0.0
        elif rate < self.rate:
            self.level *= rate / self.rate
        self.rate = rate
        self._at = now

    def refill(self, now: float) -> None:
        """Adds what the time since the last call brought."""
        if self.rate:
            self.level = min(self.rate * BURST_SECONDS, self.level + (now - self._at) * self.rate)
            self._at = now

    def take(self, tokens: int) -> None:
        """Takes tokens, on credit where they are not there."""
        if self.rate:
            self.level -= tokens

    def wait(self) -> float:
        """Seconds until there is no debt."""
        return -self.level / self.rate if self.rate and self.level < 0 else 0.0


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody who waits for its turn."""

    size: int
    ops: int
    turn: asyncio.Future[None]


class Limiter:
    """Lets bytes and commands through no faster than the limits, in the order of asking.

    Args:
        state: the limits as they are now and what they cost, for operators; kept up to date.
        bytes_per_second: sent to the target; 0 for no limit.
        ops_per_second: commands, or keys where a command writes several; 0 for no limit.
    """

    def __init__(self, state: TargetLimit | None = None, *, bytes_per_second: int = 0, ops_per_second: int = 0) -> None:
        self.state = state or TargetLimit()
        self._bytes = _Bucket()
        self._ops = _Bucket()
        self._waiters: deque[_Waiter] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._going = asyncio.Event()  # not paused
        self._going.set()
        self.change(bytes_per_second=bytes_per_second, ops_per_second=ops_per_second)

    @classmethod
    def of(cls, settings: Settings, state: TargetLimit) -> Self:
        """With the limits of the settings."""
        return cls(state, bytes_per_second=settings.max_target_bytes_per_second, ops_per_second=settings.max_target_ops)

    @property
    def limited(self) -> bool:
        """There is a limit."""
        return bool(self._bytes.rate or self._ops.rate)

    def change(self, *, bytes_per_second: int | None = None, ops_per_second: int | None = None) -> None:
        """Sets limits, at once and for those who wait as well; None leaves one as it is."""
        now = time.monotonic()
        if bytes_per_second is not None:
            self._bytes.change(bytes_per_second, now)
        if ops_per_second is not None:
            self._ops.change(ops_per_second, now)
        self.state.bytes_per_second, self.state.ops_per_second = self._bytes.rate, self._ops.rate
        if self._waiters:
            self._serve()

    def change_setting(self, name: str, value: int) -> None:
        """Sets the limit that the setting *name* is about."""
        if name == "max_target_ops":
            self.change(ops_per_second=value)
        else:
            self.change(bytes_per_second=value)

    def pause(self) -> bool:
        """Nobody gets a turn from now on; False when that was so already."""
        if self.state.paused_since:
            return False
        self._note_waiting()  # what is waited for from now on is no limit's doing
        self.state.waiting_since = 0.0
        self.state.paused_since = time.time()
        self._going.clear()
        return True

    def resume(self) -> bool:
        """It goes on; False when it was not paused."""
        if not self.state.paused_since:
            return False
        self.state.paused_since = 0.0
        self.state.waiting_since = time.monotonic() if self._waiters else 0.0
        self._going.set()
        self._serve()
        return True

    async def going(self) -> None:
        """Waits while it is paused: for those who write what counts for no limit."""
        while self.state.paused_since:
            await self._going.wait()

    async def take(self, size: int, ops: int) -> None:
        """Takes what is about to be sent, waiting for its turn; at once without a limit, unless it is paused.

        Cancelling it takes nothing.

        Args:
            size: bytes.
            ops: commands.
        """
        if self.state.paused_since:
            await self.going()
        if not self.limited:
            return
        self._refill()
        if not self._waiters and not self._wait():
            self._charge(size, ops)
            return
        waiter = _Waiter(size, ops, asyncio.get_running_loop().create_future())
        if not self._waiters:
            self.state.waiting_since = time.monotonic()
        self._waiters.append(waiter)
        self.state.waiting = len(self._waiters)
        self._schedule()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            self._give_up(waiter)
            raise

    def share(self) -> tuple[int, int]:
        """Bytes and commands that a transaction should have at most, for an even load; 0 without a limit."""
        size, ops = int(self._bytes.rate * SHARE_SECONDS), int(self._ops.rate * SHARE_SECONDS)
        return max(MIN_SHARE_BYTES, size) if self._bytes.rate else 0, max(MIN_SHARE_OPS, ops) if self._ops.rate else 0

    # -- inside

    def _refill(self) -> None:
        now = time.monotonic()
        self._bytes.refill(now)
        self._ops.refill(now)

    def _wait(self) -> float:
        return max(self._bytes.wait(), self._ops.wait())

    def _charge(self, size: int, ops: int) -> None:
        self._bytes.take(size)
        self._ops.take(ops)

    def _give_up(self, waiter: _Waiter) -> None:
        """A waiter was cancelled: before its turn, or between its turn and its awakening."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        else:
            self._charge(-waiter.size, -waiter.ops)
        self._serve()

    def _serve(self) -> None:
        """Gives those their turn who need not wait any more."""
        self._refill()
        while self._waiters and not self.state.paused_since and not self._wait():
            waiter = self._waiters.popleft()
            if waiter.turn.done():  # cancelled, and not told yet
                self._waiters.appendleft(waiter)
                break
            self._charge(waiter.size, waiter.ops)
            waiter.turn.set_result(None)
        self._note_waiting()
        self._schedule()

    def _note_waiting(self) -> None:
        """Counts the time in which somebody waited."""
        state, now = self.state, time.monotonic()
        if state.waiting_since:
            state.waited_seconds += now - state.waiting_since
            state.waiting_since = now if self._waiters else 0.0
        state.waiting = len(self._waiters)

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiters and not self.state.paused_since:
            delay = max(MIN_WAIT_SECONDS, self._wait())
            self._timer = asyncio.get_running_loop().call_later(delay, self._serve)


class LagWatch:
    """Says it once when a limit lets the stream through no faster than the source writes it.

    Args:
        limiter: whose limit it is.
        stream: offsets.
    """

    def __init__(self, limiter: Limiter, stream: StreamProgress) -> None:
        self._limiter = limiter
        self._stream = stream
        self._limits = (0, 0)
        self._warned = False
        self._begin()

    def look(self, *, caught_up: bool) -> None:
        """Compares now and then; to be called whenever something was applied."""
        state = self._limiter.state
        limits = (state.bytes_per_second, state.ops_per_second)
        if caught_up or not self._limiter.limited or limits != self._limits:
            self._limits = limits
            self._warned = False
            self._begin()
            return
        seconds = time.monotonic() - self._at
        if seconds < WATCH_SECONDS:
            return
        waited = state.waited_seconds - self._waited
        if not self._warned and waited > seconds / 2 and self._lag() >= self._lag_before:
            self._warned = True
            _log.warning(
                "the limit on the target is below what the source writes: the lag grows",
                lag_bytes=self._lag(),
                read_bytes_per_second=round((self._stream.read_offset - self._read) / seconds),
                applied_bytes_per_second=round((self._stream.applied_offset - self._applied) / seconds),
                max_target_bytes_per_second=limits[0],
                max_target_ops=limits[1],
                hint="raise the limit in the file of --config and send SIGHUP",
            )
        self._begin()

    def _begin(self) -> None:
        self._at = time.monotonic()
        self._waited = self._limiter.state.waited_seconds
        self._read, self._applied = self._stream.read_offset, self._stream.applied_offset
        self._lag_before = max(1, self._lag())

    def _lag(self) -> int:
        return self._stream.read_offset - self._stream.applied_offset
