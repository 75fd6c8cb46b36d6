"""What a part says about itself reaches whoever shows it: no field is lost in between."""

from __future__ import annotations

from dataclasses import fields

import pytest

from portd.kernel.snapshot import CurrentKey
from portd.model import LaneState
from portd.pipeline import FenceStatistics
from portd.spool.statistics import SpoolStatistics
from portd.watch.readings import FenceReading, KeyReading, LaneReading, SpoolReading, reading_of

POSITIONS = {"written", "cursor", "released"}  # indexes of the spool's own
ORDER = {"number"}  # of the queue's own
RENAMED = {"index", "connection"}  # a lane's number, and what its connection says
COUNTED = {"replies", "errors", "retries"}  # shown from `Progress.lanes`


def names(kind: type) -> set[str]:
    """Of the fields of a dataclass or a named tuple."""
    return set(getattr(kind, "_fields", ())) or {each.name for each in fields(kind)}


@pytest.mark.parametrize(
    ("part", "reading", "kept"),
    [
        (SpoolStatistics, SpoolReading, POSITIONS),
        (FenceStatistics, FenceReading, ORDER),
        (LaneState, LaneReading, RENAMED | COUNTED),
    ],
)
def test_every_field_is_passed_on(part: type, reading: type, kept: set[str]) -> None:
    """A figure that is added to a part is in its reading, or is named here as one that is not shown."""
    assert names(part) - names(reading) == kept


def test_a_reading_takes_every_field_by_its_name() -> None:
    """What blocks the spool is in its reading; a field that the part does not have is an error, not a default."""
    values = {each.name: f"<{each.name}>" for each in fields(SpoolStatistics)}
    found = reading_of(SpoolReading, SpoolStatistics(**values))  # type: ignore[arg-type]
    assert found == SpoolReading(**{each.name: f"<{each.name}>" for each in fields(SpoolReading)})  # type: ignore[arg-type]
    assert found.blocked == "<blocked>"
    with pytest.raises(AttributeError):
        reading_of(KeyReading, found)
    assert names(KeyReading) <= {name for name in dir(CurrentKey) if not name.startswith("_")}
