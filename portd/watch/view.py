"""One link as those see it who watch it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portd.watch.pace import Pace
from portd.watch.track import Track

if TYPE_CHECKING:
    from portd.model import Progress


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A link, or what a command does instead.

    Attributes:
        name: of the link; "" where there is no other one to tell it from.
        progress: its counters, live.
        pace: its rates.
        track: what is remembered of it.
    """

    name: str
    progress: Progress
    pace: Pace
    track: Track

    @classmethod
    def of(cls, progress: Progress, name: str = "") -> View:
        """A view with rates of its own."""
        return cls(name, progress, Pace(progress), Track(progress))
