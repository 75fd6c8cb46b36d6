"""Figures over time, in fixed memory: a row a second for ten minutes and one every two minutes for a day, for small plots."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MINUTES_ROWS: Final = 600  # of a second each
DAY_ROWS: Final = 720
ROWS_PER_DAY_ROW: Final = 120  # so many seconds are one row of the day
MOST_POINTS: Final = 100  # that a reading has: each costs the event loop some microseconds when a page is made


class Span(StrEnum):
    """How far a plot goes back."""

    MINUTES = "minutes"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class HistoryReading:
    """Columns of equal length, oldest first. Where rows were merged, each value is the highest of its bucket.

    Attributes:
        at: unix times in seconds.
        columns: figures by name; whatever is below zero was not known.
    """

    at: list[float]
    columns: dict[str, list[float]]


class _Ring:
    """Rows of which the oldest goes when a new one comes. It grows to its size and holds nothing before."""

    def __init__(self, width: int, code: str, rows: int) -> None:
        self._rows = rows
        self._count = 0
        self._at: array[Any] = array("d")
        self._columns: list[array[Any]] = [array(code) for _ in range(width)]

    def append(self, at: float, values: Sequence[float]) -> None:
        place = self._count % self._rows
        for column, value in zip((self._at, *self._columns), (at, *values), strict=True):
            if len(column) < self._rows:
                column.append(value)
            else:
                column[place] = value
        self._count += 1

    def rows(self) -> tuple[list[float], list[list[float]]]:
        """Times and columns, oldest first."""
        oldest = self._count % self._rows if self._count > self._rows else 0
        at, *columns = ([*column[oldest:], *column[:oldest]] for column in (self._at, *self._columns))
        return at, columns

    def held_bytes(self) -> int:
        return sum(len(column) * column.itemsize for column in (self._at, *self._columns))


class History:
    """Rows a second apart, and the highest of each two minutes for a day.

    Args:
        columns: names of the figures.
        code: of `array`, for each figure: `q` keeps whole numbers exactly, `f` takes half as many bytes.
        rows: of the last minutes.
        day_rows: of the day.
    """

    def __init__(
        self, columns: tuple[str, ...], code: str = "q", rows: int = MINUTES_ROWS, day_rows: int = DAY_ROWS
    ) -> None:
        self._names = columns
        self._minutes = _Ring(len(columns), code, rows)
        self._day = _Ring(len(columns), code, day_rows)
        self._highest: tuple[float, ...] = ()  # of the rows that are not in the day yet
        self._merged = 0  # how many these are
        self._newest = 0.0

    def append(self, at: float, values: tuple[float, ...]) -> None:
        """Adds a row: *values* in the order of the columns; below zero for what is not known."""
        self._minutes.append(at, values)
        self._newest = at
        self._highest = tuple(map(max, self._highest, values)) if self._highest else values
        self._merged += 1
        if self._merged == ROWS_PER_DAY_ROW:
            self._day.append(at, self._highest)
            self._highest, self._merged = (), 0

    def read(self, span: Span = Span.MINUTES, points: int = MOST_POINTS) -> HistoryReading:
        """The rows of that span, merged so that at most *points* are left."""
        at, columns = (self._minutes if span is Span.MINUTES else self._day).rows()
        if span is Span.DAY and self._highest:
            at.append(self._newest)
            for column, value in zip(columns, self._highest, strict=True):
                column.append(value)
        step = max(1, -(-len(at) // points))
        starts = range(0, len(at), step)
        return HistoryReading(
            at=[at[min(start + step, len(at)) - 1] for start in starts],
            columns={
                name: [max(column[start : start + step]) for start in starts]
                for name, column in zip(self._names, columns, strict=True)
            },
        )

    def recent(self, name: str, seconds: float) -> list[tuple[float, float]]:
        """Times and known values of one column, as far back as that."""
        at, columns = self._minutes.rows()
        since = self._newest - seconds
        column = columns[self._names.index(name)]
        return [(moment, value) for moment, value in zip(at, column, strict=True) if moment >= since and value >= 0]

    def held_bytes(self) -> int:
        """Bytes of all rows."""
        return self._minutes.held_bytes() + self._day.held_bytes()
