"""The ledger of owners: who holds how many bytes, now and at the most.

An owner is a name and a function that says what it holds; nothing is counted on the hot path. Peaks come from samples,
once a second, unless an owner counts its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portd.watch.readings import OwnerReading

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class _Entry:
    held: Callable[[], int]
    peak: Callable[[], tuple[int, float]] | None
    limit: int
    peak_bytes: int = 0
    peak_at: float = 0.0


class Ledger:
    """Owners by name, in the order they were registered."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], _Entry] = {}  # by link and owner

    def register(
        self,
        owner: str,
        held: Callable[[], int],
        *,
        peak: Callable[[], tuple[int, float]] | None = None,
        limit: int = 0,
        link: str = "",
    ) -> None:
        """Adds an owner, or replaces the one of that name while keeping its peak.

        Args:
            owner: name to show.
            held: bytes held now; called from the event loop, must be cheap and must not fail.
            peak: most bytes ever held and when (unix seconds, 0 where the owner does not know), where it counts that itself;
                otherwise samples decide.
            limit: bytes it may hold; 0 is unlimited.
            link: whose it is; "" for what belongs to the process.
        """
        entry = _Entry(held, peak, limit)
        if previous := self._entries.get((link, owner)):
            entry.peak_bytes, entry.peak_at = previous.peak_bytes, previous.peak_at
        self._entries[link, owner] = entry

    def forget(self, owner: str, link: str = "") -> None:
        """Takes an owner out; unknown names are fine."""
        self._entries.pop((link, owner), None)

    def readings(self) -> list[OwnerReading]:
        """Every owner now; peaks are brought up to date on the way."""
        now = time.time()
        found = []
        for (link, owner), entry in self._entries.items():
            held = entry.held()
            highest, when = (held, now) if entry.peak is None else entry.peak()
            if highest > entry.peak_bytes:
                entry.peak_bytes, entry.peak_at = highest, when or now
            found.append(OwnerReading(owner, held, entry.peak_bytes, entry.peak_at, entry.limit, link))
        return found
