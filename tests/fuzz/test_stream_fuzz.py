"""The stream splitter against the oracle: made-up streams, cut anywhere, and broken ones."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portd.kernel.stream import StreamSplitter
from tests.oracle.resp import Follower, Oracle, compare, pack

BASE = 77
MUCH = 1 << 30

argument = st.one_of(
    st.binary(max_size=12), st.binary(max_size=12), st.sampled_from([b"", b"\r\n", b"*1\r\n", b"v" * 90, b"w" * 400])
)
number = st.one_of(st.integers(1, 10**6), st.sampled_from([0, -1, 2**63 - 1, 10**30])).map(lambda n: b"%d" % n)
option = st.sampled_from([b"NX", b"xx", b"GET", b"KEEPTTL", b"IFEQ"])
unit = st.sampled_from([b"EX", b"px", b"PXAT", b"exat"])


def name(*names: bytes) -> st.SearchStrategy[bytes]:
    """One of *names*, in any letter case."""
    return st.sampled_from([each for given in names for each in (given, given.lower(), given.title())])


def command(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """A command of fixed arguments."""
    return st.tuples(*parts).map(list)


def with_tail(
    head: st.SearchStrategy[list[bytes]], tail: st.SearchStrategy[list[bytes]]
) -> st.SearchStrategy[list[bytes]]:
    """A command of fixed arguments and others."""
    return st.tuples(head, tail).map(lambda both: both[0] + both[1])


commands = st.one_of(
    command(name(b"SET"), argument, argument),
    with_tail(command(name(b"SET"), argument, argument, unit, number), st.lists(option, max_size=2)),
    with_tail(command(name(b"SET"), argument, argument), st.lists(st.one_of(option, unit, number), max_size=4)),
    command(name(b"SETEX", b"PSETEX"), argument, number, argument),
    with_tail(command(name(b"EXPIRE", b"PEXPIRE", b"HEXPIRE", b"HPEXPIRE"), argument, number), st.lists(argument, max_size=3)),
    command(name(b"GETEX"), argument, unit, number),
    with_tail(
        command(name(b"RESTORE", b"RESTORE-ASKING"), argument, number, argument),
        st.lists(st.sampled_from([b"REPLACE", b"absttl", b"ABSTTL", b"FREQ", b"7"]), max_size=3),
    ),
    with_tail(command(name(b"FUNCTION"), st.sampled_from([b"LOAD", b"load", b"FLUSH"])), st.lists(argument, max_size=2)),
    with_tail(
        command(name(b"XGROUP"), name(b"CREATE", b"SETID"), argument, argument, argument),
        st.lists(st.one_of(name(b"MKSTREAM", b"ENTRIESREAD"), number), max_size=4),
    ),
    with_tail(command(name(b"PUBLISH", b"SPUBLISH"), st.sampled_from([b"__sentinel__:hello", b"news"])), st.lists(argument, max_size=2)),
    with_tail(command(name(b"PING", b"REPLCONF", b"SCRIPT", b"CLUSTER")), st.lists(st.one_of(argument, st.just(b"GETACK")), max_size=2)),
    command(name(b"SELECT"), st.integers(0, 20).map(lambda db: b"%d" % db)),
    command(name(b"SWAPDB"), st.just(b"0"), st.just(b"1")),
    command(name(b"MULTI")),
    command(name(b"EXEC")),
    with_tail(command(name(b"DEL")), st.lists(argument, max_size=30)),
    with_tail(command(st.sampled_from([b"SADD", b"x", b"MODULE.COMMAND-OF-LENGTH"])), st.lists(argument, max_size=30)),
)  # fmt: skip


def framed(stream: list[list[bytes]]) -> list[list[bytes]]:
    """The stream without MULTI in a transaction or EXEC outside of one, mostly."""
    out, inside = [], False
    for each in stream:
        frame = each[0].upper()
        if frame in (b"MULTI", b"EXEC"):
            if (frame == b"MULTI") == inside:
                continue
            inside = not inside
        out.append(each)
    return out


@dataclass(frozen=True)
class Way:
    """How a stream is fed and asked for."""

    piece_bytes: int
    max_argument: int
    pxat: bool
    entries_read: bool
    unlink: bool
    db: int
    step: int
    max_bytes: int
    max_commands: int
    excluded: list[int]  # which of the commands


ways = st.builds(
    Way,
    piece_bytes=st.sampled_from([64, 100, 300, 4096]),
    max_argument=st.sampled_from([300, MUCH]),
    pxat=st.booleans(),
    entries_read=st.booleans(),
    unlink=st.booleans(),
    db=st.sampled_from([0, 0, 0, -1]),
    step=st.sampled_from([1, 2, 17, 100, 5000]),
    max_bytes=st.sampled_from([1, 100, MUCH]),
    max_commands=st.sampled_from([1, 4, MUCH]),
    excluded=st.lists(st.integers(0, 40), max_size=3),
)


def check(data: bytes, way: Way) -> None:
    """Feeds *data* in the given way and compares with the oracle."""
    every = Oracle(BASE, 0, piece_bytes=way.piece_bytes).expect(data).offsets
    excluded = {every[i] for i in way.excluded if i < len(every)}
    names = ("pxat", "entries_read", "unlink", "piece_bytes", "max_argument")
    options: dict[str, Any] = {name: getattr(way, name) for name in names}
    oracle = Oracle(
        BASE,
        way.db,
        excluded=excluded,
        now_ms=lambda offset: 10_000 + (offset - BASE - 1) // way.step,
        **options,
    )
    splitter = StreamSplitter(BASE, way.db, **options)
    for offset in excluded:
        splitter.exclude(offset)
    follower = Follower(splitter, way.max_bytes, way.max_commands)
    for i, at in enumerate(range(0, len(data), way.step)):
        follower.feed(data[at : at + way.step], 10_000 + i)
    compare(oracle.expect(data), follower.outcome)
    assert follower.peak < 6 * way.piece_bytes + 32 * 1024


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(commands, max_size=25).map(framed), ways)
def test_streams_are_split_as_the_oracle_says(stream: list[list[bytes]], way: Way) -> None:
    """Data, offsets, databases, counters and boundaries agree for any stream, cut anywhere, under any caps."""
    check(b"".join(pack(each) for each in stream), way)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(commands, min_size=1, max_size=12), ways)
def test_unframed_transactions_are_found(stream: list[list[bytes]], way: Way) -> None:
    """MULTI inside a transaction and EXEC outside of one end the stream where they stand."""
    check(b"".join(pack(each) for each in stream), way)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=300), ways)
def test_noise_is_an_error_or_incomplete(data: bytes, way: Way) -> None:
    """Bytes that are no stream never crash the splitter."""
    check(data, way)
    check(b"*" + data, way)


SOUP = b"0123456789*$\r\n-+ :aZ\x00\xff"


def mutate(rng: random.Random, data: bytes) -> bytes:
    """*data* with a few bytes changed, removed, added, moved or cut."""
    broken = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(broken) or 1)
        kind = rng.randrange(6)
        if kind == 0:
            broken[at : at + 1] = bytes([rng.choice(SOUP)])
        elif kind == 1:
            del broken[at : at + rng.randint(1, 4)]
        elif kind == 2:
            broken[at:at] = bytes(rng.choice(SOUP) for _ in range(rng.randint(1, 4)))
        elif kind == 3:
            del broken[at:]
        elif kind == 4:
            broken[at:at] = broken[at : at + rng.randint(1, 60)]
        else:
            broken[at : at + 1] = bytes([broken[at] ^ (1 << rng.randrange(8))]) if broken else b""
    return bytes(broken)


@pytest.mark.parametrize("seed", range(8))
def test_broken_streams_end_in_a_typed_error(seed: int) -> None:
    """A mutated or truncated stream gives what stands before the damage and then a DecodeError, in bounded memory."""
    rng = random.Random(seed)
    plain = [
        [b"SELECT", b"1"],
        [b"SET", b"key", b"value", b"EX", b"10"],
        [b"MULTI"],
        [b"SETEX", b"k", b"5", b"v" * 100],
        [b"RESTORE", b"k", b"5", b"p" * 200, b"REPLACE"],
        [b"EXEC"],
        [b"PING"],
        [b"HSET", b"h", *[b"f", b"v"] * 10],
        [b"PEXPIRE", b"k", b"100"],
        [b"FUNCTION", b"LOAD", b"#!lua name=x"],
        [b"DEL", b"k"],
        [b"XGROUP", b"SETID", b"k", b"g", b"1-1", b"ENTRIESREAD", b"7"],
        [b"REPLCONF", b"GETACK", b"*"],
    ]
    whole = b"".join(pack(each) for each in plain)
    for _ in range(150):
        way = Way(
            piece_bytes=rng.choice([64, 128, 4096]),
            max_argument=rng.choice([150, MUCH]),
            pxat=rng.random() < 0.7,
            entries_read=rng.random() < 0.5,
            unlink=rng.random() < 0.5,
            db=0,
            step=rng.choice([1, 31, 5000]),
            max_bytes=rng.choice([1, MUCH]),
            max_commands=rng.choice([1, MUCH]),
            excluded=[],
        )
        check(mutate(rng, whole), way)
