"""Rules in the stream: what goes on is what a filter behind a plain replica would have left."""

from __future__ import annotations

import copy
import struct
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portd.errors import DecodeError
from portd.kernel.commandtable import CommandTable
from portd.kernel.mapping import Mapping
from portd.kernel.rules import Rules
from portd.kernel.stream import Piece, StreamSplitter
from tests.oracle.resp import Follower, drain, pack, parse_one
from tests.unit.stream_split.kit import BASE, refusals, split

IN: Final = Rules([b"i"])
CROSSES: Final = "cross_rule"


def commands_of(data: bytes) -> list[list[bytes]]:
    """Bytes as lists of arguments."""
    found, at = [], 0
    while at < len(data):
        one = parse_one(data, at, 1 << 30)
        assert one is not None
        found.append(one[0])
        at = one[1]
    return found


def one(command: bytes, **settings: Any) -> Piece:
    """The piece of one command."""
    settings.setdefault("rules", IN)
    (piece,) = split(command.split(), unlink=True, **settings)
    return piece


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (b"SET i1 v", b"SET i1 v"),
        (b"DEL i1 o1 i2", b"UNLINK i1 i2"),
        (b"UNLINK o1 i2", b"UNLINK i2"),
        (b"MSET i1 a o1 b i2 c", b"MSET i1 a i2 c"),
        (b"MSETNX o1 b i2 c", b"MSETNX i2 c"),
        (b"JSON.MSET i1 $ 1 o1 $ 2", b"JSON.MSET i1 $ 1"),
        (b"MSETEX 2 o1 a i1 b KEEPTTL", b"MSETEX 1 i1 b KEEPTTL"),
        (b"MSETEX 2 i1 a o1 b EX 5", b"MSETEX 1 i1 a PXAT 5000"),
        (b"RENAME i1 o1", b"UNLINK i1"),
        (b"RENAMENX i1 o1", b"UNLINK i1"),
        (b"SMOVE i1 o1 m", b"SREM i1 m"),
        (b"LMOVE i1 o1 LEFT RIGHT", b"LPOP i1"),
        (b"lmove i1 o1 right left", b"RPOP i1"),
        (b"RPOPLPUSH i1 o1", b"RPOP i1"),
        (b"BRPOPLPUSH i1 o1 0", b"RPOP i1"),
        (b"SUNIONSTORE i1 i2 i3", b"SUNIONSTORE i1 i2 i3"),
        (b"SORT i1 BY nosort STORE i2", b"SORT i1 BY nosort STORE i2"),
        (b"EVAL x 2 i1 i2 o", b"EVAL x 2 i1 i2 o"),
        (b"XGROUP CREATE i1 o1 $", b"XGROUP CREATE i1 o1 $"),
        (b"PUBLISH o1 m", b"PUBLISH o1 m"),
    ],
)
def test_what_is_taken_goes_on(command: bytes, wanted: bytes) -> None:
    """All of a command, its keys that are taken, or the half that takes something away from one."""
    piece = one(command)
    assert commands_of(piece.data) == [wanted.split()]
    assert (piece.replies, piece.filtered, piece.refused) == (1, 0, 0)
    assert piece.projected == (wanted.split()[1:] != command.split()[1:])


@pytest.mark.parametrize(
    "command",
    [
        b"SET o1 v",
        b"DEL o1 o2",
        b"MSET o1 a o2 b",
        b"RENAME o1 o2",
        b"COPY i1 o1",
        b"SUNIONSTORE o1 i1 i2",
        b"BITOP AND o1 i1 i2",
        b"PFMERGE o1 i1",
        b"PFCOUNT i1 o1",
        b"SORT i1 STORE o1",
        b"GEORADIUS i1 1 1 1 m STORE o1",
        b"ZRANGESTORE o1 i1 0 -1",
        b"XGROUP CREATE o1 i1 $",
        b"EVAL x 1 o1 i1",
    ],
)
def test_what_would_change_nothing_is_filtered(command: bytes) -> None:
    """Of what is taken; it is counted by its reason."""
    piece = one(command)
    assert piece.data == b""
    assert (piece.filtered, piece.by_key, piece.refused, piece.projected) == (1, 1, 0, 0)
    assert not piece.names


@pytest.mark.parametrize(
    "command",
    [
        b"RENAME o1 i1",
        b"COPY o1 i1 REPLACE",
        b"SMOVE o1 i1 m",
        b"LMOVE o1 i1 LEFT LEFT",
        b"SUNIONSTORE i1 i2 o1",
        b"ZUNIONSTORE i1 2 i2 o1",
        b"BITOP OR i1 i2 o1",
        b"PFMERGE i1 o1",
        b"SORT o1 STORE i1",
        b"SORT i1 BY w_* STORE i2",
        b"SORT i1 GET d_* STORE i2",
        b"LMPOP 2 i1 o1 LEFT",
        b"EVAL x 2 i1 o1",
        b"EVAL x 0",
        b"NOBODY.KNOWS i1",
    ],
)
def test_what_cannot_be_told_is_a_dead_letter(command: bytes) -> None:
    """It needs a value that is not in the target, or nobody knows what its keys are."""
    piece = one(command)
    assert piece.data == b""
    assert (piece.refused, piece.crossing, piece.filtered) == (1, 1, 0)
    assert [each.code for each in piece.refusals] == [CROSSES]


def test_databases_are_taken_or_not() -> None:
    """What is in one that is not is filtered, with its SELECT; a MOVE goes by both."""
    data = [b"SET a 1", b"SELECT 1", b"SET a 2", b"SELECT 2", b"MOVE a 1", b"MOVE a 0", b"SELECT 1", b"MOVE a 2"]
    (piece,) = split(*(each.split() for each in data), unlink=True, rules=Rules(without=[1]))
    wanted = [b"SET a 1", b"SELECT 2", b"UNLINK a", b"MOVE a 0"]
    assert commands_of(piece.data) == [each.split() for each in wanted]
    assert (piece.by_database, piece.by_key, piece.projected, piece.crossing) == (1, 0, 1, 1)
    assert piece.db == 1


def test_databases_have_other_numbers() -> None:
    """In SELECT, MOVE, COPY and SWAPDB, and in what the piece needs; the piece's own is the source's."""
    data = [b"SELECT 1", b"MOVE a 0", b"COPY a b DB 2", b"SWAPDB 1 2"]
    (piece,) = split(*(each.split() for each in data), mapping=Mapping(databases={0: 5, 1: 4, 5: 0, 4: 1}))
    wanted = [b"SELECT 4", b"MOVE a 5", b"COPY a b DB 2", b"SWAPDB 4 2"]
    assert commands_of(piece.data) == [each.split() for each in wanted]
    assert (piece.db, piece.databases) == (1, frozenset({2, 4}))


def test_all_databases_may_be_one() -> None:
    """A move between two of them changes nothing; a copy under another name does."""
    data = [b"SELECT 1", b"MOVE a 0", b"COPY a a DB 2", b"COPY a b DB 2"]
    (piece,) = split(*(each.split() for each in data), mapping=Mapping(all_to=3))
    assert commands_of(piece.data) == [each.split() for each in (b"SELECT 3", b"COPY a b DB 3")]
    assert piece.by_database == 2


def test_a_database_that_gave_its_place_away_is_not_written() -> None:
    """Another one goes where it would, and nobody said that they may share it."""
    (piece,) = split([b"SET", b"a", b"1"], db=3, mapping=Mapping(databases={0: 3}), blocked=frozenset({3}))
    assert piece.data == b""
    assert refusals(piece) == [("SET", 3, b"a")]
    assert piece.crossing == 1


@pytest.mark.parametrize(
    ("commands", "settings"),
    [
        ([b"SWAPDB 0 1"], {"rules": IN}),
        ([b"SWAPDB 0 1"], {"rules": Rules(without=[1])}),
        ([b"SWAPDB 0 1"], {"mapping": Mapping(all_to=0)}),
        ([b"SWAPDB 0 1"], {"mapping": Mapping(added=b"x:")}),
        ([b"SWAPDB 0 1"], {"mapping": Mapping(databases={0: 2})}),
    ],
)
def test_a_swap_that_cannot_be_followed_is_a_clear_end(commands: list[bytes], settings: dict[str, Any]) -> None:
    """What is before it goes on."""
    splitter = StreamSplitter(BASE, 0, **settings)
    splitter.feed(b"".join(pack(each.split()) for each in [b"PUBLISH a b", *(commands)]), 0)
    with pytest.raises(DecodeError, match="cannot be followed"):
        drain(splitter)
    assert splitter.offset == BASE + len(pack([b"PUBLISH", b"a", b"b"]))


def test_commands_are_left_out_by_name() -> None:
    """In any letter case, and counted by that; those that others depend on cannot be."""
    table = CommandTable(left=frozenset({b"expire", b"PUBLISH"}))
    (piece,) = split([b"SET", b"a", b"1"], [b"Expire", b"a", b"5"], [b"publish", b"a", b"b"], commands=table)
    assert commands_of(piece.data) == [[b"SET", b"a", b"1"]]
    assert (piece.filtered, piece.by_name) == (2, 2)
    with pytest.raises(ValueError, match="depend on it"):
        CommandTable(left=frozenset({b"select"}))


def test_a_flush_under_rules_is_alone_in_its_piece() -> None:
    """And says what is to be cleared; inside of a transaction it is a dead letter."""
    data = [b"SET i 1", b"FLUSHDB", b"SET i 2", b"FLUSHALL ASYNC", b"MULTI", b"SET i 3", b"FLUSHDB", b"EXEC"]
    pieces = split(*(each.split() for each in data), db=2, rules=IN)
    assert [(piece.clears, piece.replies, piece.projected, piece.crossing) for piece in pieces] == [
        (None, 1, 0, 0),
        (2, 0, 1, 0),
        (None, 1, 0, 0),
        (-1, 0, 1, 0),
        (None, 1, 0, 1),
    ]


def test_a_flush_goes_on_where_rules_cover_all_of_it() -> None:
    """One database with all its names, under whatever number; one that is not taken is filtered."""
    data = [b"FLUSHDB", b"SELECT 1", b"FLUSHDB", b"FLUSHALL"]
    pieces = split(*(each.split() for each in data), rules=Rules(without=[1, 7]), mapping=Mapping(databases={0: 7}))
    assert commands_of(pieces[0].data) == [[b"FLUSHDB"]]
    assert pieces[0].by_database == 1
    assert pieces[1].clears == -1
    (piece,) = split([b"FLUSHDB"], mapping=Mapping(all_to=7))
    assert piece.crossing == 1


def test_the_text_of_a_script_is_kept_whatever_its_keys_are() -> None:
    """Another one may be run by its digest."""
    piece = one(b"EVAL text 1 o1")
    assert piece.bodies == (b"text",)


# ------------------------------------------------------------------------------------------------- large commands


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_large_commands_on_many_keys_are_taken_apart(step: int) -> None:
    """Each key that is taken becomes a command of its own."""
    many = [b"%c%04d" % (b"io"[n % 2], n) for n in range(40)]
    values = [word for key in many for word in (key, key * 5)]
    data = (
        pack([b"DEL", *many])
        + pack([b"MSET", *values])
        + pack([b"DEL", *many[1::2]])
        + pack([b"SET", b"i", b"x" * 200])
    )
    follower = Follower(StreamSplitter(BASE, 0, piece_bytes=64, rules=IN))
    for at in range(0, len(data), step):
        follower.feed(data[at : at + step])
    wanted = (
        [[b"DEL", key] for key in many[::2]]
        + [[b"SET", key, key * 5] for key in many[::2]]
        + [[b"SET", b"i", b"x" * 200]]
    )
    assert commands_of(follower.outcome.data) == wanted
    assert sum(piece.projected for piece in follower.pieces) == 2
    assert sum(piece.by_key for piece in follower.pieces) == 1
    assert sum(piece.replies for piece in follower.pieces) == len(wanted)
    assert follower.splitter.statistics()["commands"] == 4


@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize(
    ("command", "fate"),
    [
        ([b"SUNIONSTORE", b"i", *[b"i%04d" % n for n in range(30)]], "passed"),
        ([b"SUNIONSTORE", b"o", *[b"o%04d" % n for n in range(30)]], "filtered"),
        ([b"ZUNIONSTORE", b"i", b"20", *[b"i%04d" % n for n in range(20)], b"WEIGHTS", *[b"1"] * 20], "passed"),
        ([b"SUNIONSTORE", b"i", *[b"i%04d" % n for n in range(30)], b"o"], "mixed"),
        ([b"SUNIONSTORE", b"o", *[b"o%04d" % n for n in range(30)], b"i"], "filtered"),
        ([b"EVAL", b"x", b"20", *[b"o%04d" % n for n in range(19)], b"i"], "mixed"),
        ([b"RPUSH", b"i", *[b"o%04d" % n for n in range(30)]], "passed"),
        ([b"RPUSH", b"o", *[b"i%04d" % n for n in range(30)]], "filtered"),
        ([b"SORT", b"i", b"BY", b"x" * 100, b"STORE", b"i2"], "refused"),
        ([b"SET", b"i" * 200, b"v"], "refused"),
    ],
    ids=lambda each: each[0].decode() if isinstance(each, list) else each if isinstance(each, str) else None,
)
def test_keys_of_large_commands_are_looked_at_as_they_come(command: list[bytes], fate: str, step: int) -> None:
    """One that is otherwise than the first makes it a mixed one, which is refused when it comes again."""
    data = pack(command)
    follower = Follower(StreamSplitter(BASE, 0, piece_bytes=64, rules=IN))
    for at in range(0, len(data), step):
        follower.feed(data[at : at + step])
    pieces = follower.pieces
    assert any(piece.mixed for piece in pieces) == (fate == "mixed")
    if fate == "mixed":
        again = Follower(StreamSplitter(BASE, 0, piece_bytes=64, rules=IN, mixed=frozenset({BASE + 1})))
        again.feed(data)
        pieces, fate = again.pieces, "refused"
    assert b"".join(piece.data for piece in pieces) == (data if fate == "passed" else b"")
    assert sum(piece.by_key for piece in pieces) == (fate == "filtered")
    assert sum(piece.crossing for piece in pieces) == (fate == "refused")


# ------------------------------------------------------------------------- against a filter that is applied afterwards

KEYS: Final = [b"i1", b"i2", b"o1", b"o2"]
WORDS: Final = [b"a", b"b", b"c"]
Values = dict[bytes, Any]


def run(values: Values, argv: list[bytes]) -> None:  # noqa: PLR0912 - a branch for each command
    """One command on a model of sets, lists and strings; types never clash."""
    name, *words = argv
    match name:
        case b"SADD":
            values.setdefault(words[0], set()).update(words[1:])
        case b"SREM":
            values.get(words[0], set()).difference_update(words[1:])
        case b"DEL" | b"UNLINK":
            for key in words:
                values.pop(key, None)
        case b"MSET" | b"SET" | b"MSETNX":
            values.update((key, {value}) for key, value in zip(words[::2], words[1::2], strict=True))
        case b"RENAME":
            if words[0] in values:
                values[words[1]] = values.pop(words[0])
        case b"COPY":
            if words[0] in values:
                values[words[1]] = set(values[words[0]])
        case b"SMOVE":
            if words[2] in values.get(words[0], set()):
                values[words[0]].discard(words[2])
                values.setdefault(words[1], set()).add(words[2])
        case b"SUNIONSTORE":
            values[words[0]] = set().union(*(values.get(key, set()) for key in words[1:]))
        case _:
            raise AssertionError(name)
    for key in [key for key, value in values.items() if not value]:
        del values[key]


@st.composite
def command(draw: st.DrawFn) -> list[bytes]:  # noqa: PLR0911 - one for each command
    """A command with keys of both kinds."""
    key, word = st.sampled_from(KEYS), st.sampled_from(WORDS)
    match draw(st.sampled_from([b"SADD", b"DEL", b"MSET", b"RENAME", b"COPY", b"SMOVE", b"SUNIONSTORE", b"SREM"])):
        case (b"SADD" | b"SREM") as name:
            return [name, draw(key), *draw(st.lists(word, min_size=1, max_size=2))]
        case b"DEL":
            return [b"DEL", *draw(st.lists(key, min_size=1, max_size=20))]
        case b"MSET":
            pairs = draw(st.lists(st.tuples(key, word), min_size=1, max_size=20))
            return [b"MSET", *(each for pair in pairs for each in pair)]
        case b"COPY":
            one, two = draw(st.permutations(KEYS))[:2]
            return [b"COPY", one, two, b"REPLACE"]
        case b"RENAME":
            return [b"RENAME", *draw(st.permutations(KEYS))[:2]]
        case b"SMOVE":
            return [b"SMOVE", *draw(st.permutations(KEYS))[:2], draw(word)]
        case name:
            return [name, *draw(st.lists(key, min_size=2, max_size=20))]


@settings(deadline=None)
@given(st.lists(command(), max_size=12), st.integers(1, 200), st.booleans())
def test_what_goes_on_is_a_filter_applied_afterwards(commands: list[list[bytes]], step: int, renames: bool) -> None:  # noqa: FBT001
    """Wherever bytes and pieces are cut; the keys of what crosses rules are copied, as the letter says."""
    mapping = Mapping({b"i": b"target:"}) if renames else None
    source: Values = {}
    states: dict[int, Values] = {}
    data = b""
    for argv in commands:
        run(source, argv)
        states[BASE + 1 + len(data)] = copy.deepcopy(source)
        data += pack(argv)
    mixed: frozenset[int] = frozenset()
    while True:  # until no piece tells of another mixed command
        follower = Follower(StreamSplitter(BASE, 0, piece_bytes=64, rules=IN, mapping=mapping, mixed=mixed))
        for at in range(0, len(data), step):
            follower.feed(data[at : at + step])
        found = {piece.mixed for piece in follower.pieces if piece.mixed}
        if not found:
            break
        mixed |= found
    written = commands_of(follower.outcome.data)
    offsets = [at for piece in follower.pieces for at in struct.unpack(f"={piece.replies}Q", piece.offsets)]
    events: list[tuple[int, list[bytes] | None]] = list(zip(offsets, written, strict=True))
    events += [(each.offset, None) for piece in follower.pieces for each in piece.refusals]
    target: Values = {}
    argv_at = dict(zip(states, commands, strict=True))
    for offset, told in sorted(events, key=lambda each: each[0]):
        if told is None:
            name, *words = argv_at[offset]
            key = words[0] if name == b"SUNIONSTORE" else words[1]
            target.pop(mapping.renamed(key) if mapping else key, None)
            if key in states[offset]:
                target[mapping.renamed(key) if mapping else key] = set(states[offset][key])
        else:
            run(target, told)
    taken = {key: value for key, value in source.items() if IN.takes(key)}
    assert target == {mapping.renamed(key) if mapping else key: value for key, value in taken.items()}
    replies, filtered = len(written), sum(piece.filtered for piece in follower.pieces)
    assert filtered == sum(piece.by_key for piece in follower.pieces)
    assert follower.splitter.statistics()["commands"] == len(commands)
    assert len(set(offsets)) + filtered + len(events) - replies == len(commands)


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (b"COPY ia:1 ib:1", b""),
        (b"COPY ia:1 ib:1 REPLACE", b""),
        (b"COPY ia:1 ib:1 DB 1", b""),
        (b"COPY ia:1 ia:1 DB 1", b""),
        (b"COPY ia:1 x:1", b""),
        (b"COPY ib:1 ia:2", b"COPY x:1 x:2"),
        (b"COPY ia:1 ib:11", b"COPY x:1 x:11"),
        (b"COPY ia: ib:", b""),
        (b"COPY i ib:", b"COPY i x:"),
        (b"COPY ia:1 ib:1 DB 2", b"COPY x:1 x:1 DB 2"),
    ],
)
def test_a_key_is_not_copied_to_where_it_is(command: bytes, wanted: bytes) -> None:
    """Of two names that become one in the target a COPY has nothing to do, and a target refuses it."""
    mapping = Mapping({b"ia:": b"x:", b"ib:": b"x:"}, databases={0: 7, 1: 7})
    piece = one(command, mapping=mapping, rules=None)
    assert commands_of(piece.data) == ([wanted.split()] if wanted else [])
    assert (piece.refused, piece.filtered) == (0, int(not wanted))


def test_what_would_be_ours_is_not_copied() -> None:
    """A key of which a rename would make one of ours is not in the target: what has that name there is ours."""
    mapping = Mapping({b"x:": b""}, own=b"portd:")
    for command in (b"COPY x:portd:1 a", b"COPY x:portd:1 a DB 1", b"COPY a x:portd:1", b"MOVE x:portd:1 1"):
        piece = one(command, mapping=mapping, rules=None, own=b"portd:")
        assert (piece.data, piece.refused) == (b"", 1)


def test_a_large_key_does_not_pass_between_databases() -> None:
    """A MOVE or COPY of which the keys cannot be looked at may be from, or to, a database that is not taken."""
    for database, command in ((b"0", b"MOVE %b 5"), (b"0", b"COPY %b a DB 5"), (b"5", b"MOVE %b 0")):
        splitter = StreamSplitter(BASE, 0, rules=Rules(without=[5]), piece_bytes=64)
        splitter.feed(pack([b"SELECT", database]) + pack((command % (b"k" * 200)).split()), 0)
        pieces: list[Piece] = []
        while (piece := splitter.next_piece(1 << 20, 100)) is not None:
            pieces.append(piece)
        assert sum(piece.refused for piece in pieces) == 1
        assert b"k" not in b"".join(piece.data for piece in pieces)
