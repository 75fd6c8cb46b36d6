"""Whom the pages ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from portd.watch.history import Span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from portd.memory.accounting import MemoryReport
    from portd.memory.heap import HeapRecorder
    from portd.watch.history import HistoryReading
    from portd.watch.standing import Standing


class Observed(Protocol):
    """What a service tells about itself. Called on the event loop; none of it may wait."""

    def links(self) -> Sequence[str]:
        """The names of the links that it runs."""

    def status(self, link: str = "") -> dict[str, Any]:
        """Plain data for `/status` and the status page: `portd.http.status.describe` of that link, or of the only one;
        `portd.http.status.describe_all` of all where there are several and none is named.
        """  # noqa: D205

    def memory(self, span: Span = Span.MINUTES) -> MemoryReport:
        """Where the memory is now, and was over that span."""

    def history(self, link: str = "", span: Span = Span.MINUTES) -> HistoryReading:
        """Lag, rates and spool of one link over that span; "" is the only one."""

    def heap(self) -> HeapRecorder:
        """What records heap profiles."""

    def standings(self) -> Mapping[str, Standing]:
        """Phase of each link, and whether its target may be read."""

    def alive(self) -> bool:
        """All parts that should run do run."""
