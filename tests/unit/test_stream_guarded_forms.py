"""The stream splitter: what is left out, refused or spared is decided before a command is given another form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from portd.kernel.commandtable import CommandTable
from portd.kernel.forms import Forms, lacking
from tests.oracle.resp import drain, pack
from tests.unit.test_stream_forms import (
    FOUR,
    LARGE,
    OLD,
    ROWS,
    SEVEN,
    TEXT,
    becomes,
    dialect,
    payload,
    shown,
    splitter_for,
)
from tests.unit.test_stream_rewrite import NOW, parse, words

if TYPE_CHECKING:
    from portd.kernel.stream import Piece

OURS = b"portd:checkpoint:"
# What COMMAND of an old server tells, shortened: nothing of what came later.
OF_OLD = {b"set": True, b"del": True, b"eval": False, b"hset": True, b"rpoplpush": True, b"get": False, b"incr": True}


def pieces(
    *commands: list[bytes], release: tuple[str, tuple[int, ...]] = OLD, db: int = 0, **options: Any
) -> list[Piece]:
    """Of a stream for a target that says what its commands do."""
    splitter = splitter_for(release, **({"flags": OF_OLD} | options))
    rest = memoryview(b"".join(pack(each) for each in ([b"SELECT", b"%d" % db], *commands)))
    got: list[Piece] = []
    while rest:
        rest = rest[splitter.feed(rest, NOW) :]
        got += drain(splitter)
    return got


def written(got: list[Piece]) -> list[list[bytes]]:
    """Commands of pieces, without the SELECT at the beginning."""
    return [each for each in parse(b"".join(piece.data for piece in got)) if each[0] != b"SELECT"]


@pytest.mark.parametrize("flags", [OF_OLD, {}], ids=["told", "not told"])
@pytest.mark.parametrize(
    ("release", "given", "expected"), ROWS, ids=[f"{row[0][0]}{row[0][1]} {row[1]}" for row in ROWS]
)
def test_a_form_needs_no_listing(
    release: tuple[str, tuple[int, ...]], given: str, expected: list[str] | None, flags: dict[bytes, bool]
) -> None:
    """What the target's COMMAND does not list, and what it lists nothing at all of, takes its form all the same."""
    wanted = [words(given)] if expected is None else [words(line) for line in expected]
    splitter = splitter_for(release, flags=flags)
    assert shown(becomes(splitter, words(given), 1000)) == wanted
    assert splitter.statistics()["refused"] == 0


def test_the_table_knows_what_has_a_form() -> None:
    """A command of another form passes; one that has none and is not known is refused where COMMAND is not told."""
    forms = Forms(lacking("redis", (5, 0)), True, True)
    table = CommandTable({}, forms=forms)
    for name in (b"msetex", b"HGETDEL", b"DELIFEQ", b"LMOVE", b"COPY", b"HPEXPIRE"):
        assert table.decide(name) == "passed"
    assert table.decide(b"SPUBLISH") == "filtered"
    assert CommandTable({}).decide(b"SPUBLISH") == "passed"
    assert table.decide(b"NEW.COMMAND") == "refused"
    assert CommandTable(OF_OLD, forms=forms).decide(b"NEW.COMMAND") == "passed"


def test_what_has_no_form_goes_on_for_the_target_to_refuse() -> None:
    """It is a dead letter there, under its own name."""
    given = [words("XACKDEL s g KEEPREF"), words("GEOSEARCHSTORE d s FROMMEMBER m BYBOX 2 2 m")]
    (piece,) = pieces(*given)
    assert written([piece]) == given
    assert (piece.refused, piece.filtered) == (0, 0)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (b"MSETEX 2 a 1 b 2 EX 5", b"a"),
        (b"HGETDEL h FIELDS 1 f", b"h"),
        (b"HPEXPIREAT h 99 FIELDS 2 a b", b"h"),
        (b"DELIFEQ k v", b"k"),
        (b"LMOVE a b LEFT LEFT", b"a"),
        (b"FLUSHDB SYNC", b""),
        (b"XGROUP CREATECONSUMER s g c", b"s"),
        (b"SET k v KEEPTTL", b"k"),
    ],
)
def test_no_form_is_written_into_a_database_that_is_not_there(given: bytes, key: bytes) -> None:
    """The command is refused as it came, under its own name; nothing of it is counted as lost or moved."""
    (piece,) = pieces(given.split(), db=20, databases=16)
    assert piece.data == b""
    assert [(each.command, each.db, each.key) for each in piece.refusals] == [(given.split()[0].decode(), 20, key)]
    assert (piece.refused, piece.lost, piece.postponed) == (1, 0, 0)


@pytest.mark.parametrize(
    "given",
    [
        b"MSETEX 2 portd:checkpoint:a 1 portd:checkpoint:b 2 EX 5",
        b"HGETDEL portd:checkpoint:a FIELDS 1 f",
        b"HPEXPIREAT portd:checkpoint:a 99 FIELDS 2 a b",
        b"HSETEX portd:checkpoint:a EX 5 FIELDS 1 a b",
        b"DELIFEQ portd:checkpoint:a v",
        b"DELEX portd:checkpoint:a",
        b"LMOVE portd:checkpoint:a portd:checkpoint:b LEFT LEFT",
        b"COPY portd:checkpoint:a portd:checkpoint:b",
        b"SET portd:checkpoint:a v KEEPTTL",
        b"ZDIFFSTORE portd:checkpoint:a 1 portd:checkpoint:b",
        b"XADD portd:checkpoint:a MAXLEN = 5 LIMIT 10 1-1 f v",
        b"XGROUP CREATECONSUMER portd:checkpoint:a g c",
    ],
)
def test_no_form_is_written_to_names_of_ours(given: bytes) -> None:
    """They are filtered as commands that every target knows are."""
    (piece,) = pieces(given.split(), [b"INCR", b"a"], own=OURS)
    assert written([piece]) == [[b"INCR", b"a"]]
    assert (piece.own, piece.filtered, piece.refused, piece.lost) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    "given",
    [
        [b"HGETDEL", OURS + b"a", b"FIELDS", b"1", LARGE],
        [b"HSETEX", OURS + b"a", b"EX", b"5", b"FIELDS", b"1", b"f", LARGE],
        [b"SET", OURS + b"a", LARGE, b"KEEPTTL"],
        [b"ZADD", OURS + b"a", b"GT", b"1", LARGE],
        [b"XADD", OURS + b"a", b"MAXLEN", b"=", b"5", b"LIMIT", b"3", b"1-1", b"f", LARGE],
    ],
    ids=lambda given: given[0].decode(),
)
def test_no_large_form_is_written_to_names_of_ours(given: list[bytes]) -> None:
    """No part of it goes on."""
    got = pieces(given, [b"INCR", b"a"], own=OURS, piece_bytes=1024)
    assert written(got) == [[b"INCR", b"a"]]
    assert sum(piece.own for piece in got) == sum(piece.filtered for piece in got) == 1
    assert sum(piece.refused + piece.lost for piece in got) == 0


@pytest.mark.parametrize(
    "given",
    [
        b"MSETEX 2 a 1 portd:checkpoint:b 2 EX 5",
        b"LMOVE a portd:checkpoint:b RIGHT LEFT",
        b"COPY a portd:checkpoint:b",
        b"ZDIFFSTORE a 2 b portd:checkpoint:b",
        b"GEOSEARCHSTORE portd:checkpoint:d s FROMMEMBER m BYRADIUS 2 m",
    ],
)
def test_a_form_that_would_mix_our_names_with_others_is_refused(given: bytes) -> None:
    """A dead letter, before anything of the form is written; one that is larger than a piece, too."""
    (piece,) = pieces(given.split(), own=OURS)
    assert (written([piece]), piece.refused, piece.own, piece.moves) == ([], 1, 0, given.startswith(b"COPY"))
    large = [b"MSETEX", b"2", OURS + b"a", b"1", b"b", LARGE]
    got = pieces(large, release=SEVEN, own=OURS, piece_bytes=1024)
    assert (written(got), sum(piece.refused for piece in got)) == ([], 1)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("MSETEX 1 k portd:checkpoint:a", ["MSET k portd:checkpoint:a"]),
        ("HGETDEL k FIELDS 1 portd:checkpoint:a", ["HDEL k portd:checkpoint:a"]),
        ("DELIFEQ k portd:checkpoint:a", ["UNLINK k"]),
        ("DEL a portd:checkpoint:a b", ["UNLINK a b"]),
        ("UNLINK portd:checkpoint:a b", ["UNLINK b"]),
        ("MSET a 1 portd:checkpoint:a 2", ["MSET a 1"]),
        ("DEL a b", ["UNLINK a b"]),
    ],
)
def test_forms_and_names_of_ours_side_by_side(given: str, wanted: list[str]) -> None:
    """Our prefix in a value changes no form; a command that is spared of our keys takes its form with the others."""
    (piece,) = pieces(words(given), own=OURS, unlink=True)
    assert written([piece]) == [words(line) for line in wanted]
    assert piece.own == (given.split(maxsplit=1)[0] in ("DEL", "UNLINK", "MSET") and "portd" in given)


def test_a_payload_for_a_name_of_ours_is_filtered() -> None:
    """RESTORE of a value that would be written anew, as of one that goes on as it came; others get the target's version."""
    target = dialect((7, 0), 10)
    commands = [[b"RESTORE", key, b"0", payload(TEXT, 80)] for key in (OURS + b"a", b"k")]
    (piece,) = pieces(*commands, release=SEVEN, dialect=target, own=OURS)
    assert written([piece]) == [[b"RESTORE", b"k", b"0", payload(TEXT, 10)]]
    assert (piece.own, piece.filtered, piece.refused) == (1, 1, 0)
    (piece,) = pieces(*commands, release=SEVEN, dialect=target, db=20, databases=16)
    assert (piece.data, [each.key for each in piece.refusals]) == (b"", [OURS + b"a", b"k"])


@pytest.mark.parametrize("given", ["FLUSHALL", "FLUSHALL SYNC", "FLUSHDB SYNC", "FLUSHDB ASYNC"])
def test_a_flush_in_another_form_restates_our_keys(given: str) -> None:
    """It removes them from the target as one that goes on as it came does."""
    (piece,) = pieces(words(given))
    assert piece.swaps
    assert written([piece])[0][0] == words(given)[0]


def test_a_piece_ends_before_what_is_refused_among_forms() -> None:
    """What stands before it goes alone, in its form; the forms behind it come later."""
    got = pieces(
        words("HGETDEL h FIELDS 1 a"), [b"SELECT", b"20"], words("HGETDEL h FIELDS 1 b"), databases=16, stops=True
    )
    assert written(got[:1]) == [words("HDEL h a")]
    assert (got[0].refused, got[1].refused) == (0, 1)


def test_a_transaction_that_goes_back_is_counted_once() -> None:
    """What forms lost and postponed in a transaction is told with it, not with what stands before it."""
    splitter = splitter_for(SEVEN, flags=OF_OLD, own=OURS, databases=16)
    data = b"".join(
        pack(words(line))
        for line in (
            "INCR a",
            "MULTI",
            "HPEXPIREAT h 99 FIELDS 2 a b",
            "SET portd:checkpoint:a v",
            "HGETDEL h FIELDS 1 a",
        )
    )
    splitter.feed(data, NOW)
    before, behind = drain(splitter)
    assert (before.data, before.lost, before.own) == (pack(words("INCR a")), 0, 0)
    assert (behind.data, behind.lost, behind.own, behind.filtered) == (pack(words("HDEL h a")), 2, 1, 2)
    statistics = splitter.statistics()
    assert (statistics["commands"], statistics["lost"], statistics["own"]) == (4, 2, 1)


def test_a_discarded_form_leaves_nothing() -> None:
    """Neither its commands nor what it lost."""
    (piece,) = pieces(*(words(line) for line in ("MULTI", "HSETEX h PX 9 FIELDS 1 a 1", "DISCARD", "INCR a")))
    assert written([piece]) == [words("INCR a")]
    assert (piece.lost, piece.replies) == (0, 2)


def test_waiting_commands_stay_refused_where_a_form_writes_one() -> None:
    """XREADGROUP of the stream is a dead letter; the one that makes a consumer is ours."""
    (piece,) = pieces(words("XREADGROUP GROUP g c STREAMS s >"), words("XGROUP CREATECONSUMER s g c"))
    assert written([piece]) == [words("XREADGROUP GROUP g c COUNT 1 STREAMS s 0")]
    assert [each.command for each in piece.refusals] == ["XREADGROUP"]


def test_messages_that_are_left_out_stay_so_on_targets_of_any_age() -> None:
    """SPUBLISH goes nowhere where nobody can have subscribed, or messages are not wanted."""
    message = [b"SPUBLISH", b"c", b"m"]
    for release in (FOUR, SEVEN):
        (piece,) = pieces(message, release=release)
        assert written([piece]) == ([message] if release is SEVEN else [])


def test_libraries_are_deleted_only_where_there_can_be_some() -> None:
    """FUNCTION FLUSH and DELETE go nowhere on targets without functions; what would make a library is refused there."""
    deletions = [words("FUNCTION FLUSH SYNC"), words("function delete lib")]
    load = [b"FUNCTION", b"LOAD", b"#!lua name=lib"]
    for release in (FOUR, SEVEN):
        (piece,) = pieces(*deletions, load, release=release)
        assert written([piece])[:-1] == (deletions if release is SEVEN else [])
        assert written([piece])[-1][:2] == load[:2]
