"""A clock for tests: time passes when it is told to."""

from __future__ import annotations


class Clock:
    """Seconds.

    Attributes:
        now: what it shows.
    """

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now
