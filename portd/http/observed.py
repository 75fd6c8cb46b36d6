"""Whom the pages ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from portd.memory.accounting import MemoryReport
    from portd.memory.heap import HeapRecorder
    from portd.watch.standing import Standing


class Observed(Protocol):
    """What a service tells about itself. Called on the event loop; none of it may wait."""

    def links(self) -> Sequence[str]:
        """The names of the links that it runs."""

    def status(self, link: str = "") -> dict[str, Any]:
        """Plain data for `/status` and the status page: `portd.http.status.describe` of that link, or of the only one;
        `portd.http.status.describe_all` of all where there are several and none is named.
        """  # noqa: D205

    def memory(self) -> MemoryReport:
        """Where the memory is now."""

    def heap(self) -> HeapRecorder:
        """What records heap profiles."""

    def standings(self) -> Mapping[str, Standing]:
        """Phase of each link, and whether its target may be read."""

    def alive(self) -> bool:
        """All parts that should run do run."""
