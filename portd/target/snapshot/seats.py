"""How many lanes take batches at a time: no more than keep the target busy, as long as that is what bounds the sync.

In every turn of its loop the target reads a piece of what each connection has sent, and executes it: a PING of another
client waits for all of them. One connection that always has something to read keeps a target as busy as several do; of
lanes that wait for each transaction's answer, two are needed. More are of use where the distance bounds the sync, not the
target; then a window is full and its bytes spend their time on the way. Runs of big keys have a lane each and need no
seat.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

DECIDE_SECONDS: Final = 0.2  # between two changes
NEAR_SECONDS: Final = 0.005  # a target this near is never bound by the distance


class Seats:
    """Who may take batches from the queue.

    Args:
        lanes: most seats that there may be.
        first: seats to begin with, and the fewest.

    Attributes:
        count: seats that there are now.
    """

    def __init__(self, lanes: int, first: int = 1) -> None:
        self.count = self._first = min(lanes, first)
        self._lanes = lanes
        self._taken = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._since = time.monotonic()
        self._seconds = 0.0  # sum of what was noted since then
        self._noted = 0
        self._full = False

    @property
    def crowded(self) -> bool:
        """More seats are taken than there are: who has one should give it back."""
        return self._taken > self.count

    async def take(self) -> None:
        """Takes a seat, waiting for one; cancelling it takes none."""
        if self._taken < self.count and not self._waiters:
            self._taken += 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.cancelled():
                self.give()
            raise

    def give(self) -> None:
        """Gives a seat back."""
        self._taken -= 1
        self._offer()

    def note(self, seconds: float, round_trip: float, *, full: bool) -> None:
        """Takes how a load fared, and changes the count now and then.

        Args:
            seconds: from sending it to its last reply.
            round_trip: what a command takes that needs not wait.
            full: the lane had to wait for room in its window.
        """
        self._seconds += seconds
        self._noted += 1
        self._full |= full
        now = time.monotonic()
        if now - self._since < DECIDE_SECONDS:
            return
        usual = self._seconds / self._noted
        if round_trip > NEAR_SECONDS and self._full and usual < 2 * round_trip:
            self.count = min(self._lanes, self.count + 1)
        elif usual > 4 * round_trip:
            self.count = max(self._first, self.count - 1)
        self._since, self._seconds, self._noted, self._full = now, 0.0, 0, False
        self._offer()

    def _offer(self) -> None:
        while self._waiters and self._taken < self.count:
            waiter = self._waiters.popleft()
            if not waiter.cancelled():
                self._taken += 1
                waiter.set_result(None)
