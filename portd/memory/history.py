"""The last minutes of a few byte counts, in fixed memory: one row a second, for a small plot."""

from __future__ import annotations

from array import array
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HistoryReading:
    """Columns of equal length, oldest first. Where rows were merged, each value is the highest of its bucket.

    Attributes:
        at: unix times in seconds.
        columns: bytes by name.
    """

    at: list[float]
    columns: dict[str, list[int]]


class History:
    """A ring of rows.

    Args:
        columns: names of the byte counts.
        rows: rows kept; the oldest goes when a new one comes.
    """

    def __init__(self, columns: tuple[str, ...], rows: int = 600) -> None:
        self._rows = rows
        self._count = 0
        self._at = array("d", bytes(8 * rows))
        self._columns = {name: array("q", bytes(8 * rows)) for name in columns}

    def append(self, at: float, values: tuple[int, ...]) -> None:
        """Adds a row: *values* in the order of the columns."""
        place = self._count % self._rows
        self._at[place] = at
        for column, value in zip(self._columns.values(), values, strict=True):
            column[place] = value
        self._count += 1

    def __len__(self) -> int:
        return min(self._count, self._rows)

    def read(self, points: int = 150) -> HistoryReading:
        """The rows, merged so that at most *points* are left."""
        kept = len(self)
        order = [place % self._rows for place in range(self._count - kept, self._count)]
        step = max(1, -(-kept // points))
        buckets = [order[start : start + step] for start in range(0, kept, step)]
        return HistoryReading(
            at=[self._at[bucket[-1]] for bucket in buckets],
            columns={
                name: [max(column[place] for place in bucket) for bucket in buckets]
                for name, column in self._columns.items()
            },
        )
