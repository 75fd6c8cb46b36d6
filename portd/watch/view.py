"""One link as those see it who watch it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portd.watch.pace import Pace

if TYPE_CHECKING:
    from portd.model import Progress


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A link, or what a command does instead.

    Attributes:
        name: of the link; "" where there is no other one to tell it from.
        progress: its counters, live.
        pace: its rates.
    """

    name: str
    progress: Progress
    pace: Pace

    @classmethod
    def of(cls, progress: Progress, name: str = "") -> View:
        """A view with rates of its own."""
        return cls(name, progress, Pace(progress))
