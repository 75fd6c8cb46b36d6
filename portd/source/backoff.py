"""How long to wait before trying again."""

from __future__ import annotations

import random


class Backoff:
    """Waits that double up to a limit, each shortened at random so that many instances do not come back together.

    Args:
        first_seconds: the first wait, at most.
        limit_seconds: the longest wait.
        jitter: the part of a wait that is left to chance, 0 to 1.
        chance: numbers in [0, 1), for tests.
    """

    def __init__(
        self,
        first_seconds: float = 0.2,
        limit_seconds: float = 30.0,
        *,
        jitter: float = 0.5,
        chance: random.Random | None = None,
    ) -> None:
        self._first = first_seconds
        self._limit = limit_seconds
        self._jitter = jitter
        self._random = chance or random.Random()  # noqa: S311 - not a secret
        self.attempts = 0  # waits since the last success

    def next_wait(self) -> float:
        """Seconds to wait now; the next answer is longer."""
        wait = min(self._limit, self._first * 2.0 ** min(self.attempts, 60))
        self.attempts += 1
        return wait * (1 - self._jitter * self._random.random())

    def reset(self) -> None:
        """It worked: the next wait is the first one again."""
        self.attempts = 0
