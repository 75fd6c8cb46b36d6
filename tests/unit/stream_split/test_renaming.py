"""Names in the target: in every place where a key can stand, whatever becomes of the command, wherever it is cut."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portd.kernel.commandtable import CommandTable
from portd.kernel.forms import Forms
from portd.kernel.keyspecs import KNOWN, USES
from portd.kernel.keytable import TABLE
from portd.kernel.mapping import Mapping
from portd.kernel.stream import StreamSplitter
from tests.oracle.resp import Follower, pack
from tests.unit.stream_split.kit import BASE, split
from tests.unit.stream_split.test_projection import commands_of

MAPPING: Final = Mapping({b"k:": b"much longer than that:", b"gone:": b"", b"k:s": b"s"}, added=b"")
NAMES: Final = [b"k:1", b"k:s2", b"gone:3", b"gone:", b"other", b"k", b""]
OPTIONS: Final = (
    b"STORE STOREDIST DB REPLACE BY GET LIMIT COUNT WEIGHTS AGGREGATE KEYS STREAMS GROUP LEFT RIGHT CREATE 0 1 2 3 x PX EX NX"
).split()
SKIPPED: Final = {b"MIGRATE", b"XREADGROUP"}  # the first one is not for a target, the second waits
NOT_KEY: Final = USES["not_key"]


def renamed(argv: list[bytes], mapping: Mapping) -> list[bytes]:
    """A command with its keys renamed, by the places that the table tells."""
    places = dict(KNOWN.places(argv) or ())
    return [mapping.renamed(each) if at in places else each for at, each in enumerate(argv)]


def followed(data: bytes, step: int, **settings: Any) -> Follower:
    """What a splitter makes of bytes that come in steps."""
    follower = Follower(StreamSplitter(BASE, 0, **settings))
    for at in range(0, len(data), step):
        follower.feed(data[at : at + step], 1000)
    return follower


def names_with_keys() -> list[bytes]:
    """Those of commands that have keys."""
    return [
        name.encode() for text, names in TABLE.items() for name in names.split()
        if text not in ("none", "database", "channel") and name.encode() not in SKIPPED
    ]  # fmt: skip


@st.composite
def command(draw: st.DrawFn) -> list[bytes]:
    """Any command that has keys, with words behind it that fit by chance."""
    name, bar, sub = draw(st.sampled_from(names_with_keys())).partition(b"|")
    words = draw(st.lists(st.sampled_from(NAMES + OPTIONS), min_size=1, max_size=8))
    return [name, *([sub] if bar else []), *words]


def fits(argv: list[bytes]) -> bool:
    """Whether the arguments say where the keys are. A copy onto itself is none that a server has sent: rules leave it out."""
    if argv[0] == b"COPY" and len(argv) > 2 and argv[1] == argv[2]:
        return False
    try:
        return KNOWN.places(argv) is not None
    except ValueError:
        return False


@settings(deadline=None, max_examples=300)
@given(st.lists(command().filter(fits), min_size=1, max_size=6), st.integers(1, 80))
def test_keys_are_renamed_wherever_they_stand(commands: list[list[bytes]], step: int) -> None:
    """What goes on is what would go on without a mapping, with other keys; the way back makes it what it was."""
    data = b"".join(map(pack, commands))
    table = CommandTable({argv[0]: True for argv in commands})
    plain, mapped = followed(data, step, commands=table), followed(data, step, commands=table, mapping=MAPPING)
    refused = {each.offset for piece in mapped.pieces for each in piece.refusals}
    kept = [
        argv
        for argv, at in zip(commands_of(plain.outcome.data), plain.outcome.offsets, strict=True)
        if at not in refused
    ]
    assert commands_of(mapped.outcome.data) == [renamed(argv, MAPPING) for argv in kept]
    assert all(each.code == "cross_rule" for piece in mapped.pieces for each in piece.refusals if each.offset not in
               {one.offset for other in plain.pieces for one in other.refusals})  # fmt: skip


def test_what_is_no_key_keeps_its_name() -> None:
    """A cursor that has a slot, as a channel has, is none."""
    (piece,) = split([b"CLUSTERSCAN", b"k:1"], mapping=MAPPING)
    assert commands_of(piece.data) in ([], [[b"CLUSTERSCAN", b"k:1"]])


@pytest.mark.parametrize(
    "argv",
    [
        b"SORT k:1 LIMIT 0 1 STORE k:2",
        b"GEORADIUS k:1 1 2 3 m STORE k:2",
        b"BITOP NOT k:1 k:2",
        b"XGROUP CREATE k:1 k:g $",
        b"EVAL k:x 2 k:1 k:2 k:3",
        b"LMPOP 2 k:1 k:2 LEFT",
    ],
)
def test_places_that_depend_on_other_arguments(argv: bytes) -> None:
    """Destinations behind a word, keys behind their number, a subcommand's."""
    (piece,) = split(argv.split(), mapping=MAPPING)
    assert commands_of(piece.data) == [renamed(argv.split(), MAPPING)]
    assert renamed(argv.split(), MAPPING) != argv.split()


LARGE: Final = b"x" * 300


@pytest.mark.parametrize("step", [1, 13, 100_000])
@pytest.mark.parametrize(
    "argv",
    [
        [b"SET", b"k:1", LARGE],
        [b"SET", b"k:" + LARGE, b"v"],
        [b"SET", b"k:" + LARGE, LARGE, b"PX", b"5"],
        [b"DEL", *NAMES[:3] * 30],
        [b"MSET", *[each for name in NAMES * 9 for each in (name, b"k:v")]],
        [b"ZUNIONSTORE", b"k:d", b"40", *[b"k:%d" % n for n in range(40)], b"WEIGHTS", *[b"1"] * 40],
        [b"EVAL", LARGE, b"2", b"k:1", b"gone:2", b"k:3"],
        [b"RPUSH", b"k:1", *[b"k:2"] * 60],
        [b"BITOP", b"AND", *NAMES[:2] * 40],
        [b"RESTORE", b"k:1", b"5", LARGE],
    ],
    ids=lambda argv: argv[0].decode(),
)
def test_keys_of_large_commands_are_renamed(argv: list[bytes], step: int) -> None:
    """Though only a part of one is at hand at a time; commands that were put behind it are no exception."""
    data = pack(argv) + pack([b"SET", b"k:9", b"1"])
    for pxat in (True, False):
        plain = followed(data, step, piece_bytes=64, pxat=pxat)
        mapped = followed(data, step, piece_bytes=64, pxat=pxat, mapping=MAPPING)
        wanted = [renamed(each, MAPPING) for each in commands_of(plain.outcome.data)]
        assert commands_of(mapped.outcome.data) == wanted
        assert mapped.outcome.offsets == plain.outcome.offsets
        assert any(piece.part for piece in mapped.pieces)


@pytest.mark.parametrize(
    ("lacking", "command", "wanted"),
    [
        ({"MSETEX"}, b"MSETEX 2 k:1 a k:2 b PX 5", b"MSET L1 a L2 b|PEXPIREAT L1 5|PEXPIREAT L2 5"),
        ({"MSETEX", "SET KEEPTTL"}, b"MSETEX 2 k:1 a k:2 b KEEPTTL", b"EVAL S 0 2 L1 a L2 b KEEPTTL"),
        ({"ZDIFFSTORE"}, b"ZDIFFSTORE k:d 2 k:1 k:2", b"EVAL S 1 Ld 2 L1 L2"),
        ({"COPY"}, b"COPY k:1 k:2 DB 1 REPLACE", b"EVAL S 2 L1 L2 DB 6 REPLACE"),
        ({"LMOVE"}, b"LMOVE k:1 k:2 LEFT LEFT", b"EVAL S 2 L1 L2 LEFT LEFT"),
        ({"XACKDEL"}, b"XACKDEL k:1 g ACKED IDS 1 1-1", b"EVAL S 1 L1 g ACKED IDS 1 1-1"),
        (
            {"BITOP DIFF, DIFF1, ANDOR and ONE"},
            b"BITOP ONE k:1 k:2 k:3 k:1",
            b"EVAL S 4 L1 L2 L3 L1 ONE",
        ),
        ({"LMOVE"}, b"LMOVE k:1 k:2 RIGHT LEFT", b"RPOPLPUSH L1 L2"),
    ],
)
def test_keys_in_other_forms_are_renamed(lacking: set[str], command: bytes, wanted: bytes) -> None:
    """Those that scripts of ours have among their arguments, too."""
    table = CommandTable(forms=Forms(lacking, True, False))
    (piece,) = split(
        command.split(), commands=table, mapping=Mapping({b"k:": b"L"}, databases={1: 6, 6: 1}), unlink=True
    )
    found = [[b"S" if len(each) > 60 else each for each in argv] for argv in commands_of(piece.data)]
    assert found == [each.split() for each in wanted.split(b"|")]


@pytest.mark.parametrize("step", [1, 50, 100_000])
def test_large_forms_are_renamed(step: int) -> None:
    """A script of ours that is larger than a piece, with keys among its arguments."""
    pairs = [word for n in range(10) for word in (b"k:%d" % n, b"v" * 100)]
    table = CommandTable(forms=Forms({"MSETEX", "SET KEEPTTL"}, True, False))
    follower = followed(pack([b"MSETEX", b"10", *pairs]), step, piece_bytes=512, commands=table, mapping=MAPPING)
    (argv,) = commands_of(follower.outcome.data)
    assert argv[:1] + argv[2:4] == [b"EVAL", b"0", b"10"]
    assert argv[4:] == [MAPPING.renamed(word) for word in pairs]
    assert len(follower.pieces) > 2


def test_a_name_that_would_be_ours_is_refused() -> None:
    """What is taken away from its beginning leaves one of ours; a name of ours itself is filtered, as ever."""
    mapping = Mapping({b"x:": b""}, own=b"portd:")
    (piece,) = split(
        [b"SET", b"x:portd:1", b"v"], [b"SET", b"portd:1", b"v"], [b"SET", b"x:1", b"v"], mapping=mapping, own=b"portd:"
    )  # fmt: skip
    assert commands_of(piece.data) == [[b"SET", b"1", b"v"]]
    assert (piece.refused, piece.own, piece.crossing) == (1, 1, 0)


def test_pieces_stay_small() -> None:
    """Names that become much longer make no piece larger than it may be."""
    data = b"".join(pack([b"DEL", b"k:%d" % n]) for n in range(5000))
    follower = followed(data, 100_000, piece_bytes=4096, mapping=Mapping({b"k:": b"x" * 500}))
    assert max(len(piece.data) for piece in follower.pieces) <= 2 * 4096
    assert len(commands_of(follower.outcome.data)) == 5000
