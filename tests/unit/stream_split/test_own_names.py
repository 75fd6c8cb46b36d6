"""Commands that name our own keys."""

from __future__ import annotations

import pytest

from portd.kernel.stream import StreamSplitter
from tests.oracle.resp import Follower, drain, pack
from tests.unit.stream_split.kit import BASE, split

OURS = b"portd:checkpoint:"


@pytest.mark.parametrize(
    "command",
    [
        b"SET portd:checkpoint:default:lease x",
        b"HSET portd:checkpoint:a b c",
        b"DEL portd:checkpoint:a portd:checkpoint:a:lease",
        b"PEXPIRE portd:checkpoint:a 5000",
        b"XGROUP CREATE portd:checkpoint:a g $",
        b"RENAME portd:checkpoint:a portd:checkpoint:b",
        b"EVAL script 1 portd:checkpoint:a argument",
        b"MSETEX 1 portd:checkpoint:a v EX 5",
        b"BITOP AND portd:checkpoint:a portd:checkpoint:b",
        b"X.UNKNOWN portd:checkpoint:a",
        b"SORT portd:checkpoint:a GET STORE STORE portd:checkpoint:b",
        b"COPY portd:checkpoint:a portd:checkpoint:b DB 1 REPLACE",
    ],
)
@pytest.mark.parametrize("step", [1, 50, 10_000])
def test_commands_on_our_names_are_filtered(command: bytes, step: int) -> None:
    """Whatever the command is, and wherever its bytes are cut; its neighbours go on."""
    one = pack([b"SET", b"portd", b"1"])
    data = one + pack(command.split()) + one + pack([b"SET", b"k", b"portd:checkpoint:a"])
    follower = Follower(StreamSplitter(BASE, 0, own=OURS))
    for at in range(0, len(data), step):
        follower.feed(data[at : at + step])
    assert follower.outcome.data == one + one + pack([b"SET", b"k", b"portd:checkpoint:a"])
    assert follower.outcome.filtered == 1
    assert follower.splitter.statistics()["own"] == 1


@pytest.mark.parametrize("db", [0, 7])
@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (b"DEL a portd:checkpoint:a b", b"UNLINK a b"),
        (b"unlink portd:checkpoint:a b", b"UNLINK b"),
        (b"MSET a 1 portd:checkpoint:a 2 b 3", b"MSET a 1 b 3"),
        (b"MSETNX portd:checkpoint:a portd:checkpoint:b b 3", b"MSETNX b 3"),
    ],
)
def test_our_names_among_others_are_left_out(command: bytes, wanted: bytes, db: int) -> None:
    """Where a command does the same to each of its keys; in any database, for SWAPDB and MOVE carry keys over."""
    (piece,) = split(command.split(), db=db, own=OURS, unlink=True)
    assert piece.data == pack(wanted.split())
    assert (piece.replies, piece.own, piece.filtered, piece.refused) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    "command",
    [
        b"RENAME a portd:checkpoint:a",
        b"RENAME portd:checkpoint:a a",
        b"COPY a portd:checkpoint:a",
        b"SUNIONSTORE a b portd:checkpoint:a",
        b"SORT a BY nosort STORE portd:checkpoint:a",
        b"SORT a GET STORE STORE portd:checkpoint:a",
        b"GEORADIUS a 1 2 3 m STOREDIST portd:checkpoint:a",
        b"ZUNIONSTORE a 2 b portd:checkpoint:a",
        b"EVAL script 2 a portd:checkpoint:a",
        b"BITOP NOT a portd:checkpoint:a",
        b"LMOVE portd:checkpoint:a b LEFT LEFT",
        b"JSON.MSET a $ 1 portd:checkpoint:a $ 1",
    ],
)
def test_commands_that_mix_our_names_with_others_are_refused(command: bytes) -> None:
    """What they would do to the other key cannot be told from the stream: a dead letter, not silence."""
    (piece,) = split(command.split(), own=OURS)
    assert (piece.data, piece.refused) == (b"", 1)


@pytest.mark.parametrize(
    "command",
    [
        b"SET a portd:checkpoint:a",
        b"HSET a portd:checkpoint:a 1",
        b"EVAL portd:checkpoint:a 1 a portd:checkpoint:b",
        b"MSET a portd:checkpoint:a",
        b"SADD a portd:checkpoint:a",
        b"SET portd:checkpoint 1",
        b"SET xportd:checkpoint:a 1",
        b"ZUNIONSTORE a 1 b portd:checkpoint:a",
        b"PUBLISH portd:checkpoint:a x",
    ],
)
def test_our_names_where_no_key_stands_are_anything(command: bytes) -> None:
    """Values, members and channels go on byte for byte."""
    (piece,) = split(command.split(), own=OURS)
    assert (piece.data, piece.own) == (pack(command.split()), 0)


@pytest.mark.parametrize("behind", [[], [[b"INCR", b"c"]]], ids=["last", "before others"])
def test_our_names_in_a_transaction_that_is_read_twice(behind: list[list[bytes]]) -> None:
    """A piece that goes back to before a transaction does not forget that our names stand in it."""
    splitter = StreamSplitter(BASE, 0, own=OURS)
    lease = [[b"INCR", b"b"], [b"SET", b"portd:checkpoint:a:lease", b"x"]]
    splitter.feed(b"".join(pack(each) for each in ([b"INCR", b"a"], [b"MULTI"], *lease, *behind)), 0)
    first, second = drain(splitter)
    assert first.data == pack([b"INCR", b"a"])
    assert second.data == b"".join(pack(each) for each in ([b"INCR", b"b"], *behind))
    assert (first.own, second.own) == (0, 1)


def test_a_large_command_on_a_name_of_ours_is_filtered() -> None:
    """No part of it goes on."""
    pieces = split([b"SET", b"portd:checkpoint:a", b"v" * 4000], [b"SET", b"k", b"v"], own=OURS, piece_bytes=256)
    assert b"".join(piece.data for piece in pieces) == pack([b"SET", b"k", b"v"])
    assert sum(piece.own for piece in pieces) == sum(piece.filtered for piece in pieces) == 1
