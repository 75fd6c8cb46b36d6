"""Keys that are owed to the target: held out of the stream from one command to a copy, whenever that comes."""

from __future__ import annotations

import copy
import pickle
import random
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portd.feed.owed import Copied, Key, OwedKeys, Refused
from portd.kernel.mapping import Mapping
from portd.kernel.rules import Rules
from portd.kernel.slots import key_slot
from portd.kernel.stream import Piece, StreamSplitter
from portd.target.stream.group import MOST_COPIES, Group
from tests.oracle.resp import pack
from tests.unit.stream_split.kit import BASE, MUCH
from tests.unit.stream_split.test_projection import commands_of

IN: Final = Rules([b"i"])


@dataclass
class Feed:
    """A splitter and what is owed, as `StreamFeed` has them."""

    settings: dict[str, Any] = field(default_factory=lambda: {"rules": IN})
    owed: OwedKeys = field(default_factory=OwedKeys)

    def __post_init__(self) -> None:
        self.begin(BASE, 0, "")

    def begin(self, offset: int, db: int, owed: str) -> None:
        """Goes back to behind *offset*."""
        self.splitter = StreamSplitter(offset, db, owes=True, owed=owed, **self.settings)
        self.owed.begin(self.splitter, lambda: StreamSplitter(0, -1, **self.settings))

    def feed(self, *commands: bytes) -> int:
        """Feeds commands; the offset behind them as far as all was fed."""
        data = b"".join(pack(each.split()) for each in commands)
        assert self.splitter.feed(data, 0) == len(data)
        return len(data)

    def piece(self) -> Piece | None:
        """The next one."""
        if (piece := self.owed.next_piece()) is not None:
            return piece
        piece = self.splitter.next_piece(MUCH, MUCH)
        if piece is None:
            return self.owed.next_piece()
        if piece.owed:
            self.owed.look()
        return piece

    def pieces(self) -> list[Piece]:
        """All that can be had."""
        found = []
        while (piece := self.piece()) is not None:
            found.append(piece)
        return found


def data_of(pieces: list[Piece]) -> list[bytes]:
    """Their commands, with spaces between words."""
    return [b" ".join(each) for each in commands_of(b"".join(piece.data for piece in pieces))]


def keys_of(text: str) -> set[Key]:
    """What a record tells."""
    return {(int(db), bytes.fromhex(name)) for db, _, name in (each.partition(":") for each in text.split())}


@pytest.mark.parametrize(
    ("command", "owed"),
    [
        (b"RENAME o i", {b"i"}),
        (b"RENAMENX o i", {b"i"}),
        (b"COPY o i REPLACE", {b"i"}),
        (b"SMOVE o i m", {b"i"}),
        (b"LMOVE o i LEFT LEFT", {b"i"}),
        (b"RPOPLPUSH o i", {b"i"}),
        (b"SUNIONSTORE i i2 o", {b"i"}),
        (b"ZUNIONSTORE i 2 i2 o", {b"i"}),
        (b"BITOP OR i i2 o", {b"i"}),
        (b"PFMERGE i o", {b"i"}),
        (b"SORT o STORE i", {b"i"}),
        (b"SORT i BY w_* STORE i2", {b"i2"}),
        (b"GEORADIUS o 1 1 1 m STORE i", {b"i"}),
        (b"ZRANGESTORE i o 0 -1", {b"i"}),
        (b"EVAL x 4 i o i2 o2", {b"i", b"i2"}),
    ],
)
def test_what_needs_a_value_from_outside_makes_keys_owed(command: bytes, owed: set[bytes]) -> None:
    """Those that it writes; it is left out, and no dead letter."""
    feed = Feed()
    feed.feed(command, b"SET i3 1")
    (piece,) = feed.pieces()
    assert commands_of(piece.data) == [[b"SET", b"i3", b"1"]]
    assert (piece.filtered, piece.by_copy, piece.refused) == (1, 1, 0)
    assert keys_of(piece.owed) == {(0, key) for key in owed}
    assert set(feed.owed.questions(9)) == {(0, key) for key in owed}


@pytest.mark.parametrize(
    ("command", "left", "owed"),
    [
        (b"SET i 2", b"", {b"i"}),
        (b"DEL i i2", b"DEL i2", {b"i"}),
        (b"MSET i 1 i2 2", b"MSET i2 2", {b"i"}),
        (b"RENAME i2 i", b"DEL i2", {b"i"}),
        (b"RENAME i i2", b"", {b"i", b"i2"}),
        (b"RENAME i o", b"", {b"i"}),
        (b"SUNIONSTORE i2 i i3", b"", {b"i", b"i2"}),
        (b"SUNIONSTORE i i2 i3", b"", {b"i"}),
        (b"EVAL x 3 i i2 o", b"", {b"i", b"i2"}),
        (b"FLUSHDB", b"", {b"i"}),
        (b"SORT i2 BY w_* STORE i3", b"", {b"i", b"i3"}),
    ],
)
def test_an_owed_key_is_one_that_is_not_taken(command: bytes, left: bytes, owed: set[bytes]) -> None:
    """What only changes it is left out; what reads it to write another one makes that one owed, too."""
    feed = Feed()
    feed.feed(b"RENAME o i", command)
    pieces = feed.pieces()
    assert data_of(pieces) == ([left] if left else [])
    assert keys_of(pieces[-1].owed) == {(0, key) for key in owed}
    assert sum(piece.refused for piece in pieces) == 0


def test_databases_cross_as_names_do() -> None:
    """MOVE and COPY between them; an owed key of one is none of another, and a swap takes it along."""
    feed = Feed({"rules": Rules(without=[7])})
    feed.feed(b"SELECT 7", b"MOVE a 1", b"COPY a b DB 2", b"SELECT 1", b"SET a 1", b"MOVE a 3", b"SELECT 2", b"SET a 1")
    (piece,) = feed.pieces()
    assert data_of([piece]) == [b"SELECT 1", b"SELECT 2", b"SET a 1"]
    assert keys_of(piece.owed) == {(1, b"a"), (2, b"b"), (3, b"a")}
    feed.feed(b"SWAPDB 1 2")
    (piece,) = feed.pieces()
    assert keys_of(piece.owed) == {(2, b"a"), (1, b"b"), (3, b"a")}


def test_a_copy_stands_where_the_source_had_it() -> None:
    """What is in it is left out, and what follows goes on; it has the names of the target."""
    feed = Feed({"rules": IN, "mapping": Mapping({b"i": b"t"}, databases={0: 5, 5: 0})})
    end = BASE + feed.feed(b"RENAME o i", b"SET i 2", b"SET i 3")
    feed.feed(b"SET i2 1", b"SET i 4")
    feed.owed.look()
    first = feed.splitter.next_piece(MUCH, 1)  # up to the first command that goes on
    assert first is not None
    feed.owed.look()
    assert feed.owed.questions(9) == [(0, b"i")]
    feed.owed.answer({(0, b"i"): Copied(end, b"payload", 77)})
    pieces = [first, *feed.pieces()]
    assert [piece.settles for piece in pieces] == [False, True, False]
    assert data_of(pieces) == [b"SET t2 1", b"SELECT 5", b"RESTORE t 77 payload REPLACE ABSTTL", b"SET t 4"]
    settled = pieces[1]
    assert (settled.copied, settled.boundary, settled.owed, settled.end_offset) == (True, True, "", first.end_offset)


def test_what_comes_too_late_is_asked_for_again_and_nothing_goes_on_meanwhile() -> None:
    """The second answer is good, however fast the key is written."""
    feed = Feed()
    early = BASE + feed.feed(b"RENAME o i", b"SET i 1")
    feed.feed(b"SET i 2")
    feed.pieces()
    feed.owed.questions(9)
    feed.owed.answer({(0, b"i"): Copied(early, b"1")})
    assert feed.owed.next_piece() is None
    assert feed.owed.wanted.is_set()
    assert feed.owed.questions(9) == [(0, b"i")]
    asked_at = feed.splitter.offset
    feed.feed(b"SET i2 1", b"SET i 3", b"SET i2 2")
    assert data_of(feed.pieces()) == [b"SET i2 1"]
    waited = [feed.owed.waits]
    feed.owed.answer({(0, b"i"): Copied(asked_at + len(pack([b"SET", b"i2", b"1"])), b"2")})
    assert [*waited, feed.owed.waits] == [True, False]
    assert data_of(feed.pieces()) == [b"SELECT 0", b"RESTORE i 0 2 REPLACE", b"SET i 3", b"SET i2 2"]


def test_a_copy_waits_for_the_end_of_a_transaction() -> None:
    """It cannot stand inside."""
    feed = Feed()
    feed.feed(b"MULTI", b"RENAME o i", b"SET i2 1")
    end = (
        BASE + feed.feed(b"EXEC") + len(b"".join(pack(each.split()) for each in (b"MULTI", b"RENAME o i", b"SET i2 1")))
    )
    (piece,) = feed.pieces()
    assert piece.boundary
    feed.owed.questions(9)
    feed.owed.answer({(0, b"i"): Copied(end, None)})
    assert data_of(feed.pieces()) == [b"SELECT 0", b"DEL i"]


def test_a_transaction_that_goes_back_owes_nothing() -> None:
    """A piece that ends before its MULTI does not tell of what is inside."""
    feed = Feed()
    feed.feed(b"SET i 1", b"MULTI", b"RENAME o i")
    piece = feed.piece()
    assert piece is not None
    assert (piece.owed, piece.replies) == ("", 1)
    feed.feed(b"EXEC")
    piece = feed.piece()
    assert piece is not None
    assert keys_of(piece.owed) == {(0, b"i")}


def test_a_large_value_comes_in_parts() -> None:
    """No checkpoint may stand before the last one."""
    feed = Feed({"rules": IN, "piece_bytes": 64})
    end = BASE + feed.feed(b"RENAME o i")
    feed.pieces()
    feed.owed.answer({(0, b"i"): Copied(end, b"x" * 1000, 5)})
    pieces = feed.pieces()
    assert len(pieces) > 5
    assert [piece.boundary for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert [piece.copied for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert {bool(piece.owed) for piece in pieces[:-1]} == {True}
    assert data_of(pieces) == [b"SELECT 0", b"RESTORE i 5 %b REPLACE ABSTTL" % (b"x" * 1000)]


def test_a_key_that_cannot_be_copied_is_a_dead_letter() -> None:
    """Named as in the target, and the source's name beside it; what follows goes on."""
    feed = Feed({"rules": IN, "mapping": Mapping({b"i": b"t"})})
    feed.feed(b"RENAME o i", b"SET i2 1")
    feed.pieces()
    feed.owed.answer({(0, b"i"): Refused("DUMP", "key: too large")})
    feed.feed(b"SET i 1")
    first, second = feed.pieces()
    (letter,) = first.refusals
    assert (letter.code, letter.command, letter.key, letter.source_key) == ("not_copied", "DUMP", b"t", b"i")
    assert (first.copied, first.refused, first.owed) == (False, 0, "")
    assert data_of([second]) == [b"SET t 1"]


def test_names_are_bounded() -> None:
    """What is beyond that is a dead letter at once, with a code of its own."""
    feed = Feed()
    feed.feed(*[b"RENAME o i%d" % number for number in range(1025)])
    pieces = feed.pieces()
    letters = [letter for piece in pieces for letter in piece.refusals]
    assert [(each.code, each.key) for each in letters] == [("not_copied", b"i1024")]
    assert len(keys_of(pieces[-1].owed)) == 1024
    feed = Feed()
    feed.feed(*[b"RENAME o i%d%b" % (number, b"x" * 4000) for number in range(9)])
    assert sum(piece.refused for piece in feed.pieces()) == 1


def test_nothing_is_owed_where_nobody_can_be_asked() -> None:
    """A dead letter, as without: of the key that differs from then on, which need not be the command's first one."""
    splitter = StreamSplitter(BASE, 0, rules=IN)
    for command in (b"RENAME o i", b"SUNIONSTORE i i2 o", b"SORT o STORE i", b"COPY o i DB 2", b"EVAL x 2 o i"):
        splitter.feed(pack(command.split()), 0)
    piece = splitter.next_piece(MUCH, MUCH)
    assert piece is not None
    assert [(each.code, each.key) for each in piece.refusals] == [("cross_rule", b"i")] * 5
    assert [each.db for each in piece.refusals] == [0, 0, 0, 2, 0]


def test_a_record_that_cannot_be_read_is_an_error() -> None:
    """Not a guess."""
    with pytest.raises(ValueError, match="hex"):
        StreamSplitter(BASE, 0, rules=IN, owes=True, owed="0:zz")


def test_copies_have_transactions_of_their_own() -> None:
    """So many at once as their offsets tell apart."""
    feed = Feed()
    keys = [b"i%d" % number for number in range(MOST_COPIES + 3)]
    end = BASE + feed.feed(b"SET i 1", *(b"RENAME o %b" % key for key in keys))
    group = Group(0)
    for piece in feed.pieces():
        group.add(piece, 1.0)
    feed.owed.answer({(0, key): Copied(end, b"1") for key in keys})
    for piece in feed.pieces():
        group.add(piece, 1.0)
    found = []
    while group.pieces:
        first, group = group.split()
        numbers = list(range(first.commands))
        found.append((first.settles, first.counts.copied, len({each.offset for each in first.locate(numbers)})))
        assert first.end_offset == end
    assert found == [(False, 0, 1), (True, MOST_COPIES, MOST_COPIES), (True, 3, 3)]


# ------------------------------------------------------------------------- against a filter that is applied afterwards

KEYS: Final = [b"i1", b"i2", b"i3", b"o1", b"o2"]
WORDS: Final = [b"a", b"b", b"c"]
Values = dict[Key, frozenset[bytes]]


class Model:
    """Sets in two databases; what a source has, or a target."""

    def __init__(self) -> None:
        self.values: Values = {}
        self.db = 0

    def run(self, argv: list[bytes]) -> None:  # noqa: PLR0912 - a branch for each command
        """One command."""
        name, *words = argv
        of, db = self.values, self.db
        match name:
            case b"SADD":
                of[db, words[0]] = of.get((db, words[0]), frozenset()) | set(words[1:])
            case b"SREM":
                of[db, words[0]] = of.get((db, words[0]), frozenset()) - set(words[1:])
            case b"DEL" | b"UNLINK":
                for key in words:
                    of.pop((db, key), None)
            case b"MSET":
                of.update(((db, key), frozenset({value})) for key, value in zip(words[::2], words[1::2], strict=True))
            case b"RENAME":
                of[db, words[1]] = of.pop((db, words[0]), of.get((db, words[1]), frozenset()))
            case b"COPY":
                of[db, words[1]] = of.get((db, words[0]), of.get((db, words[1]), frozenset()))
            case b"SMOVE":
                if words[2] in of.get((db, words[0]), frozenset()):
                    of[db, words[0]] -= {words[2]}
                    of[db, words[1]] = of.get((db, words[1]), frozenset()) | {words[2]}
            case b"SUNIONSTORE":
                of[db, words[0]] = frozenset().union(*(of.get((db, key), frozenset()) for key in words[1:]))
            case b"MOVE":
                there = (int(words[1]), words[0])
                if there not in of and (db, words[0]) in of:
                    of[there] = of.pop((db, words[0]))
            case b"FLUSHDB":
                self.values = {key: value for key, value in of.items() if key[0] != db}
            case b"SELECT":
                self.db = int(words[0])
            case b"RESTORE":
                of[db, words[0]] = pickle.loads(words[2])
            case b"MULTI" | b"EXEC" | b"PING":
                pass
            case _:
                raise AssertionError(name)
        self.values = {each: value for each, value in self.values.items() if value}

    def taken(self) -> Values:
        """What a filter leaves."""
        return {key: value for key, value in self.values.items() if key[1].startswith(b"i")}


key = st.sampled_from(KEYS)
simple = st.one_of(
    st.tuples(st.sampled_from([b"SADD", b"SREM"]), key, st.sampled_from(WORDS)),
    st.tuples(st.just(b"DEL"), key, key),
    st.tuples(st.sampled_from([b"RENAME", b"COPY"]), key, key).filter(lambda each: each[1] != each[2]),
    st.tuples(st.just(b"SMOVE"), key, key, st.sampled_from(WORDS)),
    st.tuples(st.just(b"SUNIONSTORE"), key, key, key),
    st.tuples(st.just(b"MSET"), key, st.sampled_from(WORDS), key, st.sampled_from(WORDS)),
    st.tuples(st.just(b"MOVE"), key, st.sampled_from([b"0", b"1"])),
    st.tuples(st.just(b"SELECT"), st.sampled_from([b"0", b"1"])),
    st.tuples(st.just(b"PING")),
    st.tuples(st.just(b"FLUSHDB")),
)
inner = simple.filter(lambda each: each[0] != b"FLUSHDB")  # inside of a transaction it is a dead letter
units = st.lists(
    st.one_of(simple.map(lambda each: [each]), st.lists(inner, min_size=1, max_size=4).map(lambda each: [(b"MULTI",), *each, (b"EXEC",)])),
    max_size=40,
)  # fmt: skip


def propagated(model: Model, argv: tuple[bytes, ...]) -> bool:
    """A source sends what changed something."""
    if argv[0] in {b"SELECT", b"MULTI", b"EXEC", b"PING", b"FLUSHDB"}:
        return True
    if argv[0] == b"MOVE" and int(argv[2]) == model.db:
        return False
    before = dict(model.values)
    if argv[0] in {b"RENAME", b"COPY", b"MOVE"} and (model.db, argv[1]) not in before:
        return False
    after = copy.deepcopy(model)
    after.run(list(argv))
    return argv[0] in {b"RENAME", b"COPY", b"SUNIONSTORE", b"MSET"} or after.values != before


@settings(max_examples=200, deadline=None)
@given(units, st.integers(0, 1 << 32))
def test_a_target_is_a_filter_applied_afterwards(transactions: list[list[tuple[bytes, ...]]], seed: int) -> None:
    """Whatever is written, whenever copies are made and told, and however often the feed goes back."""
    source, stream, chance = Model(), b"", random.Random(seed)
    states: dict[int, Values] = {BASE: {}}  # what the source had at each offset between transactions
    for unit in transactions:
        for argv in unit:
            if propagated(source, argv):
                stream += pack(list(argv))
                source.run(list(argv))
        states[BASE + len(stream)] = dict(source.values)
    offsets = sorted(states)
    feed, fed, record, target = Feed(), 0, (BASE, 0, ""), Model()
    waiting: list[Piece] = []
    asked: list[Key] | None = None
    told = BASE

    def commit() -> None:
        nonlocal record, waiting
        for piece in waiting:
            if piece.clears is not None:
                target.values = {each: value for each, value in target.values.items() if each[0] != piece.clears}
            if piece.settles:
                before = target.db
            for argv in commands_of(piece.data):
                target.run(argv)
            if piece.settles:
                target.db = before
        waiting = []

    for _ in range(10_000):
        if done := fed == len(stream) and record[0] == BASE + len(stream) and not record[2]:
            break
        action = chance.choices(["feed", "split", "ask", "answer", "rewind"], [3, 6, 3, 4, 1])[0]
        if action == "feed":
            fed += feed.splitter.feed(stream[fed : fed + chance.randint(1, 200)], 0)
        elif action == "split":
            if (piece := feed.piece()) is not None:
                waiting.append(piece)
                if piece.boundary:
                    commit()
                    record = piece.end_offset, piece.db, piece.owed
                    feed.owed.release(piece.end_offset, piece.owed)
        elif action == "ask" and asked is None:
            asked = feed.owed.questions(2)
            told = max(told, feed.splitter.offset, BASE + fed)
        elif action == "answer" and asked is not None:
            told = chance.choice([each for each in offsets if each >= told][:4])
            found = {
                each: Copied(told, pickle.dumps(states[told][each]) if each in states[told] else None) for each in asked
            }
            feed.owed.answer(found)
            asked = None
        elif action == "rewind":
            waiting = []
            feed.begin(*record)
            fed = record[0] - BASE
            target.db = record[1]
    assert done
    assert target.taken() == source.taken()
    assert all(each[1].startswith(b"i") for each in target.values)


PARTED: Final = {"parted": True}


@pytest.mark.parametrize(
    ("command", "goes_on", "owed"),
    [
        ("RENAME a b", ["DEL a"], {b"b"}),
        ("RENAME {a}1 {a}2", ["RENAME {a}1 {a}2"], set()),
        ("SMOVE a b m", ["SREM a m", "SADD b m"], set()),
        ("LMOVE a b RIGHT LEFT", ["RPOP a"], {b"b"}),
        ("RPOPLPUSH a b", ["RPOP a"], {b"b"}),
        ("COPY a b REPLACE", [], {b"b"}),
        ("COPY {a} a", ["COPY {a} a"], set()),
        ("SUNIONSTORE a {a} {a}2", ["SUNIONSTORE a {a} {a}2"], set()),
        ("SUNIONSTORE b a a", [], {b"b"}),
        ("ZUNIONSTORE b 2 a a", [], {b"b"}),
        ("BITOP NOT b a", [], {b"b"}),
        ("PFMERGE b a", [], {b"b"}),
        ("PFCOUNT a b", [], set()),
        ("SORT a STORE b", [], {b"b"}),
        ("SORT a BY w_* STORE {a}2", [], {b"{a}2"}),
        ("GEORADIUS a 1 1 1 m STORE b", [], {b"b"}),
        ("GEOSEARCHSTORE b a FROMMEMBER x BYRADIUS 1 m", [], {b"b"}),
        ("JSON.MSET a $ 1 b $ 2", [], {b"a", b"b"}),
        ("EVAL x 2 a b", [], {b"a", b"b"}),
        ("MSET a 1 b 2", ["MSET a 1 b 2"], set()),  # it is cut later
        ("MSETEX 2 a 1 b 2 NX", ["MSETEX 2 a 1 b 2 NX"], set()),
        ("DEL a b", ["DEL a b"], set()),
        ("SET a 1", ["SET a 1"], set()),
    ],
)
def test_commands_over_slots_make_keys_owed(command: str, goes_on: list[str], owed: set[bytes]) -> None:
    """In a cluster: those that they write, but for what is taken away, and for what is cut by key."""
    feed = Feed(PARTED, OwedKeys(parted=True))
    feed.feed(command.encode(), b"SET x 1")
    (piece,) = feed.pieces()
    assert data_of([piece]) == [each.encode() for each in [*goes_on, "SET x 1"]]
    assert {key: slot for _, key, slot in piece.owing} == {(0, name): key_slot(name) for name in owed}
    assert {offset for offset, *_ in piece.owing} <= {BASE + 1}
    assert piece.refused == 0
    assert set(feed.owed.questions(9)) == {(0, name) for name in owed}


def test_slots_are_those_of_new_names() -> None:
    """Keys that have one slot in the source part under their names in the target, and others meet."""
    mapping = Mapping(renamed={b"{x}b": b"b", b"c": b"{x}c"})
    feed = Feed({"parted": True, "mapping": mapping}, OwedKeys(parted=True))
    feed.feed(b"RENAME {x}a {x}b", b"COPY {x}a c")
    (piece,) = feed.pieces()
    assert data_of([piece]) == [b"DEL {x}a", b"COPY {x}a {x}c"]
    assert [(key, slot) for _, key, slot in piece.owing] == [((0, b"{x}b"), key_slot(b"b"))]


def test_a_transaction_that_goes_back_owes_once() -> None:
    """A piece that ends before its MULTI tells of the keys in it when they come again."""
    feed = Feed(PARTED, OwedKeys(parted=True))
    feed.feed(b"SET x 1", b"MULTI", b"RENAME a b")
    before = feed.splitter.next_piece(MUCH, MUCH)
    assert before is not None
    assert (data_of([before]), before.owing) == ([b"SET x 1"], ())
    feed.feed(b"INCR c", b"EXEC")
    (piece,) = feed.pieces()
    assert data_of([piece]) == [b"DEL a", b"INCR c"]
    assert [key for _, key, _ in piece.owing] == [(0, b"b")]


def test_a_copy_of_a_cluster_is_behind_all_that_is_there() -> None:
    """Its commands have the offset behind its place; which key it settles is told with it, and no text of what is owed."""
    feed = Feed(PARTED, OwedKeys(parted=True))
    end = BASE + feed.feed(b"RENAME a b")
    feed.pieces()
    feed.owed.answer({(0, b"b"): Copied(end, None)})
    (piece,) = feed.pieces()
    assert (piece.settles, piece.settled, piece.end_offset, piece.owed) == (True, ((0, b"b"), key_slot(b"b")), end, "")
    assert set(memoryview(piece.offsets).cast("Q")) == {end + 1}


def test_copies_from_before_what_some_slots_have_are_no_good() -> None:
    """Behind a restart, keys stay owed up to where the furthest slot is; what is owed is asked for anew then."""
    feed = Feed({"parted": True, "copied_since": BASE + 1000}, OwedKeys(parted=True))
    feed.begin(BASE, 0, "0:62")
    assert feed.owed.questions(9) == [(0, b"b")]
    feed.owed.answer({(0, b"b"): Copied(BASE + 999, None)})
    assert feed.owed.questions(9) == [(0, b"b")]
    feed.owed.answer({(0, b"b"): Copied(BASE + 1000, None)})
    assert feed.owed.questions(9) == []
    feed.begin(BASE, 0, "0:62")
    assert feed.owed.questions(9) == [(0, b"b")]
    assert feed.owed.held_bytes == 0
