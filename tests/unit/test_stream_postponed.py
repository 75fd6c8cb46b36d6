"""The stream splitter: expiry times before a horizon go on later."""

from __future__ import annotations

import pytest

from portd.kernel.stream import Piece, StreamSplitter
from tests.oracle.resp import drain, pack
from tests.unit.test_stream_rewrite import NOW, parse

SHIFT = 1 << 45
HORIZON = NOW + 10_000


def split(
    *commands: str | list[bytes], piece_bytes: int = 4096, shift: int = SHIFT, horizon: int = HORIZON
) -> list[Piece]:
    """Pieces of a stream received at NOW; ``+n`` is n ms behind NOW."""
    splitter = StreamSplitter(0, 0, piece_bytes=piece_bytes)
    splitter.postpone(horizon, shift)
    words = [command if isinstance(command, list) else fill(command) for command in commands]
    data = b"".join(pack(each) for each in words)
    pieces: list[Piece] = []
    fed = 0
    while fed < len(data):
        fed += splitter.feed(data[fed:], NOW)
        pieces += drain(splitter)
    assert splitter.statistics()["postponed"] == sum(piece.postponed for piece in pieces)
    return pieces


def fill(command: str) -> list[bytes]:
    """Arguments, with times in place of ``+n`` and of ``~n``, which is later by the shift."""
    words = []
    for word in command.split():
        at = NOW + int(word[1:]) + (SHIFT if word[0] == "~" else 0) if word[0] in "+~" else None
        words.append(word.encode() if at is None else b"%d" % at)
    return words


CHANGED = [
    ("SET k v PXAT +5000", "SET k v PXAT ~5000"),
    ("SET k v PXAT +-5000", "SET k v PXAT ~-5000"),
    ("set k v nx pxat +9999", "set k v nx PXAT ~9999"),
    ("PEXPIREAT k +5000", "PEXPIREAT k ~5000"),
    ("pexpireat k +-99", "PEXPIREAT k ~-99"),
    ("PEXPIREAT k +5000 GT", "PEXPIREAT k ~5000"),
    ("PEXPIREAT k +50000 GT", "PEXPIREAT k +50000"),
    ("RESTORE k +5000 v REPLACE ABSTTL", "RESTORE k ~5000 v REPLACE ABSTTL"),
    ("RESTORE-ASKING k +5000 v ABSTTL", "RESTORE k ~5000 v ABSTTL REPLACE"),
    # relative ones of old sources
    ("SETEX k 5 v", "SET k v PXAT ~5000"),
    ("PSETEX k 5000 v", "SET k v PXAT ~5000"),
    ("SET k v EX 5", "SET k v PXAT ~5000"),
    ("SET k v EX 50", "SET k v PXAT +50000"),
    ("EXPIRE k 5", "PEXPIREAT k ~5000"),
    ("PEXPIRE k 5000", "PEXPIREAT k ~5000"),
    ("GETEX k PX 5000", "PEXPIREAT k ~5000"),
    ("RESTORE k 5000 v", "RESTORE k ~5000 v ABSTTL"),
]
UNCHANGED = [
    "SET k v",
    "SET k PXAT",
    "SET k v KEEPTTL",
    "SET k v PXAT +10000",
    "set k v pxat +99999",
    "PEXPIREAT k +10000",
    "RESTORE k 0 v",
    "RESTORE k +10000 v ABSTTL",
    "PERSIST k",
    "HPEXPIREAT k +5000 FIELDS 1 f",
]


@pytest.mark.parametrize(("command", "wanted"), CHANGED)
def test_near_times_are_later_by_the_shift(command: str, wanted: str) -> None:
    """What would pass before the horizon is postponed, in all forms; conditions that were met at the source go."""
    (piece,) = split(command)
    assert parse(piece.data) == [fill(wanted)]
    assert piece.postponed == ("~" in wanted)
    assert piece.overdue == ("~-" in wanted)
    assert piece.replies == 1


@pytest.mark.parametrize("command", UNCHANGED)
def test_everything_else_goes_on_byte_for_byte(command: str) -> None:
    """Far times, no times, and times of hash fields."""
    (piece,) = split(command)
    assert parse(piece.data) == [fill(command)]
    assert (piece.postponed, piece.overdue) == (0, False)


@pytest.mark.parametrize("command", [command for command, _ in CHANGED if "+" in command and "ASKING" not in command])
def test_without_a_shift_nothing_is_touched(command: str) -> None:
    """Conditions stay, too."""
    (piece,) = split(command, shift=0)
    assert parse(piece.data) == [fill(command)]


def test_seconds_become_milliseconds() -> None:
    """EXPIREAT and EXAT, as sources up to 6.2 send them."""
    at = b"%d" % (NOW // 1000 + 5)
    (piece,) = split([b"EXPIREAT", b"k", at], [b"SET", b"k", b"v", b"EXAT", at], [b"EXPIREAT", b"k", at + b"0"])
    later = b"%d" % (NOW // 1000 * 1000 + 5000 + SHIFT)
    assert parse(piece.data) == [
        [b"PEXPIREAT", b"k", later],
        [b"SET", b"k", b"v", b"PXAT", later],
        [b"EXPIREAT", b"k", at + b"0"],
    ]
    assert piece.postponed == 2


def test_a_value_larger_than_a_piece_is_postponed_on_its_way() -> None:
    """The option behind it is reached when the value has gone."""
    value = b"v" * 1000
    pieces = split([b"SET", b"k", value, *fill("PXAT +5000")], "SET l w", piece_bytes=64)
    data = b"".join(piece.data for piece in pieces)
    assert parse(data) == [[b"SET", b"k", value, *fill("PXAT ~5000")], fill("SET l w")]
    assert sum(piece.postponed for piece in pieces) == 1


def test_a_transaction_that_is_put_back_is_counted_once() -> None:
    """A piece that ends before a MULTI gives back what it had counted of the transaction."""
    body = [f"SET key{number} v PXAT +5000" for number in range(8)]
    pieces = split("SET a b PXAT +1", "MULTI", *body, "EXEC", piece_bytes=256)
    assert sum(piece.postponed for piece in pieces) == 9


@pytest.mark.parametrize("command", ["RENAME a b", "renamenx a b", "COPY a b", "MOVE a 1", "SWAPDB 0 1"])
def test_commands_that_carry_an_expiry_elsewhere_are_told(command: str) -> None:
    """They go on as they came; a sweep that meets them is not through."""
    quiet, moved = split("SET a b"), split("SET a b", command)
    assert not quiet[0].moves
    assert moved[0].moves
    assert parse(moved[0].data)[1] == fill(command)
