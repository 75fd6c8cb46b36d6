"""How long Python's cyclic garbage collector holds the loop: every run of it is a pause."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GcReading:
    """Pauses since the watch began.

    Attributes:
        runs: how many.
        pause_seconds: their sum.
        longest_seconds: the longest one.
        longest_at: when that was, unix seconds; 0 for never.
        collected: objects it freed.
    """

    runs: int = 0
    pause_seconds: float = 0.0
    longest_seconds: float = 0.0
    longest_at: float = 0.0
    collected: int = 0


class GcWatch:
    """Times the collector's runs from `start` to `close`."""

    def __init__(self) -> None:
        self._begun = 0.0
        self._runs = 0
        self._pauses = 0.0
        self._longest = 0.0
        self._longest_at = 0.0
        self._collected = 0

    def start(self) -> None:
        """Begins; idempotent."""
        if self._note not in gc.callbacks:
            gc.callbacks.append(self._note)

    def close(self) -> None:
        """Ends; idempotent."""
        if self._note in gc.callbacks:
            gc.callbacks.remove(self._note)

    def read(self) -> GcReading:
        """Pauses so far."""
        return GcReading(self._runs, self._pauses, self._longest, self._longest_at, self._collected)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._begun = time.perf_counter()
            return
        pause = time.perf_counter() - self._begun
        self._runs += 1
        self._pauses += pause
        self._collected += info["collected"]
        if pause > self._longest:
            self._longest, self._longest_at = pause, time.time()
