"""Commands into databases that the target does not have."""

from __future__ import annotations

from typing import Any

import pytest

from tests.oracle.resp import pack
from tests.unit.stream_split.kit import BASE, refusals, split


@pytest.mark.parametrize("settings", [{"databases": 16}, {"lacking": frozenset({20, 16})}], ids=["count", "set"])
def test_commands_in_a_database_that_is_not_there_are_refused(settings: dict[str, Any]) -> None:
    """Neither they nor the SELECT go on, in any letter case; what is the same in every database does."""
    (piece,) = split(
        [b"select", b"20"], [b"SET", b"k", b"x"], [b"DEL", b"a", b"b"], [b"FLUSHDB"], [b"FLUSHALL"], [b"PUBLISH", b"c", b"m"],
        [b"EVAL", b"return 1", b"0"], [b"SWAPDB", b"1", b"2"], [b"SELECT", b"3"], [b"SET", b"k", b"y"],
        **settings,
    )  # fmt: skip
    assert piece.data == b"".join(
        pack(each.split()) for each in (b"FLUSHALL", b"PUBLISH c m", b"SWAPDB 1 2", b"SELECT 3", b"SET k y")
    )
    assert refusals(piece) == [("SET", 20, b"k"), ("DEL", 20, b"a"), ("FLUSHDB", 20, b""), ("EVAL", 20, b"")]
    assert (piece.refused, piece.filtered, piece.db) == (4, 1, 3)
    assert piece.databases == {1, 2, 3}
    assert piece.refusals[0].offset == BASE + 1 + len(pack([b"SELECT", b"20"]))


@pytest.mark.parametrize("swap", [b"swapdb 0 20", b"SWAPDB 20 0", b"SWAPDB 20 21"])
def test_a_swap_with_a_database_that_is_not_there_is_refused(swap: bytes) -> None:
    """It alone is; what follows is in the database that was selected before."""
    (piece,) = split([b"SET", b"a", b"1"], swap.split(), [b"SET", b"b", b"2"], databases=16)
    assert piece.data == pack([b"SET", b"a", b"1"]) + pack([b"SET", b"b", b"2"])
    assert refusals(piece) == [("SWAPDB", 0, b"")]
    assert not piece.swaps


def test_a_stream_that_begins_in_a_database_that_is_not_there() -> None:
    """As one that continues behind a checkpoint in it does."""
    (piece,) = split([b"SET", b"a", b"1"], [b"SELECT", b"0"], [b"SET", b"b", b"2"], db=20, databases=16)
    assert piece.data == pack([b"SELECT", b"0"]) + pack([b"SET", b"b", b"2"])
    assert refusals(piece) == [("SET", 20, b"a")]


def test_refusals_are_bounded_and_counted() -> None:
    """A million of them are not held."""
    (piece,) = split(*[[b"SET", b"k", b"v"]] * 5000, db=20, databases=16)
    assert (piece.refused, len(piece.refusals)) == (5000, 256)


@pytest.mark.parametrize("framed", [False, True])
def test_a_piece_may_end_before_a_refused_command(framed: bool) -> None:  # noqa: FBT001
    """What stands before it, or before the transaction that it is in, goes alone."""
    middle = [[b"SELECT", b"20"], [b"SET", b"k", b"x"]]
    if framed:
        middle = [[b"MULTI"], [b"SET", b"q", b"1"], *middle, [b"EXEC"]]
    pieces = split([b"SET", b"a", b"1"], *middle, [b"SELECT", b"0"], [b"SET", b"b", b"1"], databases=16, stops=True)
    assert not pieces[0].refusals
    assert pieces[0].data == pack([b"SET", b"a", b"1"])
    assert pieces[0].boundary
    assert refusals(pieces[1]) == [("SET", 20, b"k")]
    large = split(
        [b"SET", b"a", b"1"], [b"SELECT", b"20"], [b"SET", b"k", b"x" * 900], databases=16, stops=True, piece_bytes=256
    )
    assert not large[0].refusals
    assert large[1].refusals


def test_a_large_command_in_a_database_that_is_not_there() -> None:
    """No part of it goes on."""
    pieces = split([b"SET", b"k", b"v" * 4000], [b"SELECT", b"0"], db=20, databases=16, piece_bytes=256)
    assert b"".join(piece.data for piece in pieces) == pack([b"SELECT", b"0"])
    assert [each for piece in pieces for each in refusals(piece)] == [("SET", 20, b"k")]
    assert sum(piece.refused for piece in pieces) == 1
    assert not any(piece.part for piece in pieces)
