"""Whom the pages ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from portd.memory.accounting import MemoryReport
    from portd.memory.heap import HeapRecorder
    from portd.watch.standing import Standing


class Observed(Protocol):
    """What a service tells about itself. Called on the event loop; none of it may wait."""

    def status(self) -> dict[str, Any]:
        """Plain data for `/status` and the status page: see `portd.http.status.describe`."""

    def memory(self) -> MemoryReport:
        """Where the memory is now."""

    def heap(self) -> HeapRecorder:
        """What records heap profiles."""

    def standing(self) -> Standing:
        """Phase, and whether the target may be read."""

    def alive(self) -> bool:
        """All parts that should run do run."""
