"""How long to wait before trying again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self


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

    @classmethod
    def quick(cls) -> Self:
        """For a server that asks for a moment's patience: waits of up to 50 ms at first and 5 s in the end."""
        return cls(0.05, 5.0)

    def next_wait(self) -> float:
        """Seconds to wait now; the next answer is longer."""
        wait = min(self._limit, self._first * 2.0 ** min(self.attempts, 60))
        self.attempts += 1
        return wait * (1 - self._jitter * self._random.random())

    def reset(self) -> None:
        """It worked: the next wait is the first one again."""
        self.attempts = 0
