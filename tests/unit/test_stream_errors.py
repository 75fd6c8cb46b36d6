"""The stream splitter: what is not a replication stream ends in a typed error with the offset."""

from __future__ import annotations

import time
from typing import Any

import pytest

from portd.errors import DecodeError, LimitExceeded
from portd.kernel.stream import Piece, StreamSplitter
from tests.oracle.resp import drain, pack

BASE = 5000
GOOD = pack([b"SET", b"k", b"v"])
MUCH = 1 << 30

BAD = {
    # bytes, where the error is in them, its class, what it says
    "line of spaces": (b"  \r\n", 0, DecodeError, "unexpected byte where a command"),
    "lone carriage return": (b"\rx", 0, DecodeError, "unexpected byte where a command"),
    "inline": (b"PING\r\n", 0, DecodeError, "unexpected byte where a command"),
    "reply": (b"+OK\r\n", 0, DecodeError, "unexpected byte where a command"),
    "no argument": (b"*1\r\nPING\r\n", 4, DecodeError, "unexpected byte where an argument"),
    "no count": (b"*\r\n", 0, DecodeError, "malformed length"),
    "negative zero": (b"*-0\r\n", 0, DecodeError, "malformed length"),
    "negative nothing": (b"*-\r\n", 0, DecodeError, "malformed length"),
    "negative letter": (b"*-1x\r\n", 0, DecodeError, "malformed length"),
    "signed count": (b"*+1\r\n", 0, DecodeError, "malformed length"),
    "leading zero in a count": (b"*01\r\n$4\r\nPING\r\n", 0, DecodeError, "malformed length"),
    "leading zero in a length": (b"*1\r\n$04\r\nPING\r\n", 4, DecodeError, "malformed length"),
    "no length": (b"*1\r\n$\r\n", 4, DecodeError, "malformed length"),
    "nil argument": (b"*1\r\n$-1\r\n", 4, DecodeError, "malformed length"),
    "letter in a length": (b"*1\r\n$4x\r\n", 4, DecodeError, "malformed length"),
    "bare line feed": (b"*1\r\n$4\nPING\r\n", 4, DecodeError, "malformed length"),
    "bare carriage return": (b"*1\r\n$4\rPING\r\n", 4, DecodeError, "malformed length"),
    "longer than announced": (b"*2\r\n$4\r\nINCR\r\n$1\r\nkk\r\n", 19, DecodeError, "does not end where"),
    "shorter than announced": (b"*1\r\n$5\r\nINCR\r\n*1\r\n", 13, DecodeError, "does not end where"),
    "too many arguments": (b"*2147483648\r\n", 0, LimitExceeded, "more arguments"),
    "endless count": (b"*" + b"9" * 20, 0, LimitExceeded, "more arguments"),
    "argument too large": (b"*2\r\n$3\r\nDEL\r\n$536870913\r\n", 13, LimitExceeded, "larger than the limit"),
    "endless length": (b"*1\r\n$" + b"1" * 20, 4, LimitExceeded, "larger than the limit"),
    "endless zeros": (b"*1\r\n$" + b"0" * 20, 4, LimitExceeded, "larger than the limit"),
    "absurd name": (b"*1\r\n$513\r\n", 0, LimitExceeded, "name longer"),
    "SELECT of nothing": (pack([b"SELECT"]), 0, DecodeError, "malformed SELECT"),
    "SELECT of a word": (pack([b"SELECT", b"x"]), 0, DecodeError, "malformed SELECT"),
    "SELECT below": (pack([b"SELECT", b"-1"]), 0, DecodeError, "malformed SELECT"),
    "SELECT beyond": (pack([b"SELECT", b"2147483648"]), 0, DecodeError, "malformed SELECT"),
    "SELECT of much": (pack([b"SELECT", b"1" * 100]), 0, DecodeError, "malformed SELECT"),
    "SELECT of two": (pack([b"SELECT", b"1", b"2"]), 0, DecodeError, "malformed SELECT"),
    "expiry that is no number": (pack([b"EXPIRE", b"k", b"x"]), 27, DecodeError, "not a number"),
    "expiry that is empty": (pack([b"SETEX", b"k", b"", b"v"]), 26, DecodeError, "not a number"),
    "expiry that is a sign": (pack([b"SET", b"k", b"v", b"EX", b"-"]), 39, DecodeError, "not a number"),
    "expiry that is long": (pack([b"PEXPIRE", b"k", b"1" * 65]), 24, DecodeError, "not a number"),
    "TTL that is no number": (pack([b"RESTORE", b"k", b"1.5", b"v"]), 28, DecodeError, "not a number"),
    "GETEX that is unknown": (pack([b"GETEX", b"k", b"XX", b"1"]), 26, DecodeError, "not a number"),
}


def outcome(data: bytes, step: int, **settings: Any) -> tuple[list[Piece], DecodeError | None]:
    """Pieces and the error that *data* gives when it is fed *step* bytes at a time."""
    splitter = StreamSplitter(BASE, 0, **settings)
    pieces: list[Piece] = []
    try:
        for at in range(0, len(data), step):
            splitter.feed(data[at : at + step], 0)
            while (piece := splitter.next_piece(MUCH, MUCH)) is not None:
                pieces.append(piece)
    except DecodeError as error:
        return pieces, error
    return pieces, None


@pytest.mark.parametrize("step", [1, 9, 10_000])
@pytest.mark.parametrize("name", BAD)
def test_wrong_bytes_end_in_an_error_that_says_where(name: str, step: int) -> None:
    """Class, message, offset and database are those of the first wrong byte; commands before it are handed out."""
    data, where, kind, message = BAD[name]
    pieces, error = outcome(GOOD * 3 + data + GOOD, step)
    assert error is not None
    assert type(error) is kind
    assert message in str(error)
    assert error.offset == BASE + 1 + 3 * len(GOOD) + where
    assert error.db == 0
    assert error.hint
    assert b"".join(piece.data for piece in pieces) == GOOD * 3


def test_the_error_stays() -> None:
    """A splitter that met an error does not go on behind it, whatever is fed."""
    splitter = StreamSplitter(BASE, 0)
    splitter.feed(b"x" + GOOD, 0)
    for _ in range(3):
        with pytest.raises(DecodeError):
            splitter.next_piece(MUCH, MUCH)
        splitter.feed(GOOD, 0)


def test_the_limit_of_an_argument_can_be_set() -> None:
    """max_argument is the largest size believed."""
    command = pack([b"SET", b"k", b"v" * 100])
    assert outcome(command, 10_000, max_argument=100)[1] is None
    assert isinstance(outcome(command, 10_000, max_argument=99)[1], LimitExceeded)


@pytest.mark.parametrize("step", [1, 100, 10_000])
def test_an_error_inside_of_a_large_command_is_met_in_its_middle(step: int) -> None:
    """Parts before the wrong byte may have gone on; the offset is that of the wrong byte."""
    good = b"*4\r\n$4\r\nHSET\r\n$1\r\nh\r\n$1000\r\n" + b"f" * 1000
    for tail, where in ((b"xx$1\r\nv\r\n", 0), (b"\r\n*1\r\n", 2), (b"\r\n$x\r\n", 2)):
        pieces, error = outcome(GOOD + good + tail, step, piece_bytes=256)
        assert error is not None
        assert error.offset == BASE + 1 + len(GOOD) + len(good) + where
        assert (GOOD + good + b"\r\n").startswith(b"".join(piece.data for piece in pieces))
        assert not pieces[-1].boundary


def test_announced_sizes_allocate_nothing() -> None:
    """The largest lengths believed are only numbers until bytes come."""
    splitter = StreamSplitter(BASE, 0, max_argument=(1 << 63) - 1)
    before = splitter.statistics()["owned_bytes"]
    splitter.feed(b"*2147483647\r\n$3\r\nDEL\r\n$1152921504606846976\r\n" + b"x" * 1000, 0)
    drain(splitter)
    assert splitter.statistics()["owned_bytes"] <= before + 8192


def test_dribbled_commands_cost_linear_time() -> None:
    """A command of many arguments that comes byte by byte is scanned once, not once per byte."""
    command = pack([b"MULTI"]) + pack([b"DEL", *[b"k"] * 30_000])
    began = time.thread_time()
    pieces, error = outcome(command, 1)
    assert error is None
    assert pieces[-1].replies == 1
    assert time.thread_time() - began < 5.0
