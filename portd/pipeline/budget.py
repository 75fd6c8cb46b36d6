"""The byte budget: one number that bounds what the pipeline holds, and who holds it.

Who waits for room waits here; what is done with the bytes is the business of their owners. Not safe across threads.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OwnerStatistics:
    """What one owner holds.

    Attributes:
        now: bytes held.
        peak: most bytes ever held.
        peak_at: when that was, unix seconds; 0 when nothing was ever held.
    """

    now: int
    peak: int
    peak_at: float


@dataclass(frozen=True, slots=True)
class BudgetStatistics:
    """A moment of the budget.

    Attributes:
        limit: bytes that may be held.
        used: bytes held; above the limit only for a single item larger than it.
        peak: most bytes ever held.
        peak_at: when that was, unix seconds.
        waiting: callers that wait for room.
        waiting_bytes: bytes they want.
        owners: by name.
    """

    limit: int
    used: int
    peak: int
    peak_at: float
    waiting: int
    waiting_bytes: int
    owners: dict[str, OwnerStatistics]


@dataclass(slots=True)
class _Account:
    """Bytes of one owner, or of all."""

    now: int = 0
    peak: int = 0
    peak_at: float = 0.0  # time.time()

    def add(self, size: int) -> None:
        self.now += size
        if self.now > self.peak:
            self.peak = self.now
            self.peak_at = time.time()


@dataclass(slots=True, eq=False)
class _Waiter:
    owner: str
    size: int
    room: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class ByteBudget:
    """Lets bytes in while their sum stays within a limit, first come first served.

    An item larger than the limit is let in alone, once everything else is released, so that a limit that is too small
    for one item slows the pipeline down instead of stopping it.

    Args:
        limit: bytes, at least 1.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("the limit of a budget is at least one byte")
        self.limit = limit
        self._total = _Account()
        self._owners: dict[str, _Account] = {}
        self._waiters: deque[_Waiter] = deque()

    @property
    def used(self) -> int:
        """Bytes held by all owners."""
        return self._total.now

    @property
    def waiting(self) -> int:
        """Callers that wait for room."""
        return len(self._waiters)

    def held(self, owner: str) -> int:
        """Bytes held by one owner."""
        account = self._owners.get(owner)
        return account.now if account is not None else 0

    def peak(self, owner: str) -> tuple[int, float]:
        """Most bytes ever held by one owner, and when, unix seconds."""
        account = self._owners.get(owner)
        return (account.peak, account.peak_at) if account is not None else (0, 0.0)

    def try_acquire(self, owner: str, size: int) -> bool:
        """Takes *size* bytes if there is room and nobody waits; tells whether it did."""
        if self._waiters or not self._fits(size):
            return False
        self._take(owner, size)
        return True

    async def acquire(self, owner: str, size: int) -> None:
        """Takes *size* bytes for *owner*, after all who asked before.

        Cancelling the wait takes nothing, also when room was granted in the same turn of the loop.
        """
        if self.try_acquire(owner, size):
            return
        waiter = _Waiter(owner, size)
        self._waiters.append(waiter)
        try:
            await waiter.room
        except asyncio.CancelledError:
            if waiter.room.done() and not waiter.room.cancelled():
                self.release(owner, size)
            else:
                self._waiters.remove(waiter)
                self._admit()
            raise

    def release(self, owner: str, size: int) -> None:
        """Gives *size* bytes of *owner* back.

        Raises:
            ValueError: the owner does not hold that many.
        """
        self._reduce(owner, size)
        self._total.now -= size
        self._admit()

    def move(self, giver: str, taker: str, size: int) -> None:
        """Hands *size* held bytes from one owner to another.

        Raises:
            ValueError: the giver does not hold that many.
        """
        self._reduce(giver, size)
        self._account(taker).add(size)

    def clear(self, *owners: str) -> None:
        """Takes back what these owners hold: they are gone, as after a snapshot that could not be finished. Peaks stay."""
        for owner in owners:
            if account := self._owners.get(owner):
                self._total.now -= account.now
                account.now = 0
        self._admit()

    def statistics(self) -> BudgetStatistics:
        """Who holds what now, and the peaks."""
        return BudgetStatistics(
            limit=self.limit,
            used=self._total.now,
            peak=self._total.peak,
            peak_at=self._total.peak_at,
            waiting=len(self._waiters),
            waiting_bytes=sum(waiter.size for waiter in self._waiters),
            owners={
                name: OwnerStatistics(account.now, account.peak, account.peak_at)
                for name, account in self._owners.items()
            },
        )

    def _fits(self, size: int) -> bool:
        return self._total.now + size <= self.limit or self._total.now == 0

    def _account(self, owner: str) -> _Account:
        account = self._owners.get(owner)
        if account is None:
            account = self._owners[owner] = _Account()
        return account

    def _take(self, owner: str, size: int) -> None:
        self._total.add(size)
        self._account(owner).add(size)

    def _reduce(self, owner: str, size: int) -> None:
        account = self._owners.get(owner)
        if account is None or size > account.now or size < 0:
            raise ValueError(f"{owner} does not hold {size} bytes of the budget")
        account.now -= size

    def _admit(self) -> None:
        """Lets in, in order, those who now fit; a cancelled waiter removes itself when it wakes."""
        while self._waiters:
            waiter = self._waiters[0]
            if waiter.room.cancelled():
                return  # its own removal calls this again
            if not self._fits(waiter.size):
                return
            self._waiters.popleft()
            self._take(waiter.owner, waiter.size)
            waiter.room.set_result(None)
