"""How long to wait before trying again."""

from __future__ import annotations

import random
from typing import Final

FIRST_SECONDS: Final = 0.05
LIMIT_SECONDS: Final = 5.0


class Backoff:
    """Doubling waits with jitter, so that the writers of one target do not come back all at once.

    Args:
        first: the first wait, seconds.
        limit: the longest wait, seconds.
    """

    def __init__(self, first: float = FIRST_SECONDS, limit: float = LIMIT_SECONDS) -> None:
        self._first = first
        self._limit = limit
        self._next = first

    def next(self) -> float:
        """Seconds to wait now: between half and the whole of the current step; the next step is twice as long."""
        step = self._next
        self._next = min(self._limit, step * 2)
        return step * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, protects nothing

    def reset(self) -> None:
        """Something worked: begin again with the first wait."""
        self._next = self._first
