"""What became of a group whose EXEC was not answered: the record alone tells, by its offset and by the keys that are owed there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from portd.errors import TargetError, TargetLost
from portd.model import Position
from portd.target.kept.checkpoint import OWING_VERSION, VERSION, Checkpoint
from portd.target.stream.group import Counts
from portd.target.stream.strand import Strand

if TYPE_CHECKING:
    from portd.target.stream.group import PieceSource

AT = Position("a" * 40, 100)
KEY = "0:6b"


def strand_of(owed: str) -> Strand:
    """One whose record is in the target."""
    strand = Strand("record", Checkpoint(position=AT, owed=owed), cast("PieceSource", None))
    strand.claimed(replace(strand.record, epoch=strand.writer))
    return strand


def test_a_copy_is_recognised_at_the_offset_of_what_stands_before_it() -> None:
    """The record says the same offset before and behind it: the names tell which."""
    strand = strand_of(KEY)
    copied = strand.expect(100, 0, Counts(), 0.0, "")
    strand.attempt(copied)
    assert strand.resolve(strand.record) is None
    assert strand.resolve(replace(strand.record, owed="")) is copied
    strand.confirm(copied)
    assert strand.record.owed == ""


def test_a_target_that_lost_a_copy_went_back() -> None:
    """The key is owed again there, and the sync begins anew from what the record says."""
    strand = strand_of("")
    with pytest.raises(TargetLost, match="went back"):
        strand.resolve(replace(strand.record, owed=KEY))


def told(checkpoint: Checkpoint) -> list[bytes]:
    """As HGETALL answers."""
    return [str(each).encode() for each in checkpoint.fields()]


def test_a_record_with_owed_keys_has_another_layout() -> None:
    """An older portd refuses it; without any it is as ever."""
    plain, owing = Checkpoint(position=AT), Checkpoint(position=AT, owed=f"{KEY} 3:00ff")
    assert plain.fields()[1] == VERSION
    assert "owed" not in plain.fields()
    assert owing.fields()[1] == OWING_VERSION
    for each in (plain, owing):
        read: Any = Checkpoint.parse(told(each))
        assert read.owed == each.owed


@pytest.mark.parametrize("text", ["0:zz", "x:6b", "6b", "-1:6b"])
def test_owed_keys_that_cannot_be_read_are_an_error(text: str) -> None:
    """Not a guess, and not a traceback."""
    with pytest.raises(TargetError, match="cannot be read"):
        Checkpoint.parse(told(Checkpoint(position=AT, owed=text)))
