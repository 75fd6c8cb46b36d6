"""The stream splitter: commands larger than a piece go on in parts, in bounded memory."""

from __future__ import annotations

import hashlib
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from portd.kernel.stream import StreamSplitter
from tests.oracle.resp import Follower, Oracle, compare, drain, pack

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW = 1_700_000_000_000
PIECE = 256
LARGE = b"v" * 1000

COMMANDS = [
    [b"SET", b"k", LARGE],
    [b"SET", b"k", LARGE, b"NX", b"ex", b"10"],
    [b"SET", b"k", LARGE, b"PXAT", b"1700000000500"],
    [b"SET", LARGE, b"v", b"PX", b"10"],
    [b"SET", b"k", LARGE, b"IFEQ", LARGE, b"PX", b"10"],
    [b"SETEX", b"k", b"10", LARGE],
    [b"PSETEX", LARGE, b"10", LARGE],
    [b"EXPIRE", LARGE, b"10"],
    [b"HPEXPIRE", b"h", b"10", b"FIELDS", b"2", LARGE, LARGE],
    [b"GETEX", LARGE, b"EX", b"10"],
    [b"RESTORE", b"k", b"10", LARGE],
    [b"RESTORE", b"k", b"10", LARGE, b"REPLACE", b"absttl"],
    [b"RESTORE", b"k", b"0", LARGE, b"REPLACE"],
    [b"RESTORE-ASKING", b"k", b"10", LARGE, b"REPLACE"],
    [b"RESTORE", LARGE, b"10", LARGE],
    [b"FUNCTION", b"LOAD", LARGE],
    [b"function", LARGE, LARGE],
    [b"XGROUP", b"SETID", LARGE, b"g", b"5-0", b"ENTRIESREAD", b"7"],
    [b"XGROUP", b"CREATE", LARGE, LARGE, b"0", b"ENTRIESREAD", b"7", b"MKSTREAM"],
    [b"XGROUP", b"CREATE", LARGE, b"g", b"0", b"MKSTREAM"],
    [b"XGROUP", LARGE, b"s", b"g", b"0", b"ENTRIESREAD", LARGE],
    [b"PUBLISH", b"__sentinel__:hello", LARGE],
    [b"PUBLISH", b"news", LARGE],
    [b"PUBLISH", LARGE, b"x"],
    [b"PING", LARGE],
    [b"REPLCONF", b"GETACK", LARGE],
    [b"SCRIPT", b"LOAD", LARGE],
    [b"SADD", b"s", *[b"%d" % i for i in range(500)]],
    [b"DEL", *[b""] * 500],
    [b"del", LARGE, b"k"],
]


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("step", [1, 13, 100_000])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: b" ".join(each[:18] for each in command[:3]).decode())
def test_large_commands_become_what_small_ones_do(command: list[bytes], step: int, older: bool) -> None:  # noqa: FBT001
    """A command's size decides in how many parts it goes, not what it means; its neighbours are not touched."""
    data = pack([b"INCR", b"a"]) + pack([b"MULTI"]) + pack(command) + pack([b"EXEC"]) + pack([b"INCR", b"b"])
    oracle = Oracle(
        0, 0, piece_bytes=PIECE, pxat=not older, entries_read=not older, unlink=not older, now_ms=lambda _: NOW
    )
    expected = oracle.expect(data)
    follower = Follower(
        StreamSplitter(0, 0, piece_bytes=PIECE, pxat=not older, entries_read=not older, unlink=not older)
    )
    for at in range(0, len(data), step):
        follower.feed(data[at : at + step], NOW)
    compare(expected, follower.outcome)
    assert follower.outcome.end_offset == len(data)


def test_parts_are_marked_until_the_last() -> None:
    """Every part but the last says that its command goes on; no checkpoint may stand in between."""
    command = pack([b"SET", b"k", b"v" * 2000])
    splitter = StreamSplitter(0, 0, piece_bytes=PIECE)
    pieces = []
    for at in range(0, len(command), 500):
        splitter.feed(command[at : at + 500], 0)
        pieces += drain(splitter)
    assert b"".join(piece.data for piece in pieces) == command
    assert [piece.part for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert [piece.boundary for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert [piece.replies for piece in pieces] == [0] * (len(pieces) - 1) + [1]
    assert pieces[-1].offsets == (1).to_bytes(8, "little")
    assert max(map(len, pieces)) <= PIECE


def test_a_large_command_gets_pieces_of_its_own() -> None:
    """What stands before a large command can be applied without it."""
    splitter = StreamSplitter(0, 0, piece_bytes=PIECE)
    splitter.feed(pack([b"INCR", b"a"]) + pack([b"MULTI"]) + pack([b"SET", b"k", LARGE])[:300], 0)
    pieces = drain(splitter)
    assert [(piece.replies, piece.boundary, piece.part) for piece in pieces[:2]] == [(1, True, False), (0, False, True)]
    assert splitter.in_transaction


def test_dropped_parts_are_no_parts() -> None:
    """Of a large command that is left out there is nothing to send on, and no place for a checkpoint inside."""
    splitter = StreamSplitter(0, 0, piece_bytes=PIECE)
    splitter.exclude(1)
    command = pack([b"SET", b"k", LARGE])
    splitter.feed(command[:600], 0)
    for piece in drain(splitter):
        assert (piece.data, piece.part, piece.boundary) == (b"", False, False)
    splitter.feed(command[600:], 0)
    assert drain(splitter)[-1].boundary
    assert splitter.statistics()["excluded"] == 1


def test_large_arguments_do_not_dribble() -> None:
    """Parts of one large argument are worth sending, however small the reads are."""
    splitter = StreamSplitter(0, 0)
    data = pack([b"SET", b"k", b"v" * 1_000_000])
    pieces = []
    for at in range(0, len(data), 1000):
        splitter.feed(data[at : at + 1000], 0)
        pieces += drain(splitter)
    assert len(pieces) < 70


def test_a_key_too_large_to_keep_leaves_its_expiry_relative_and_is_counted() -> None:
    """Only a key larger than a piece makes the late form impossible; that is not silent."""
    splitter = StreamSplitter(0, 0, piece_bytes=PIECE, pxat=False)
    data = pack([b"SETEX", LARGE, b"10", b"v"])
    splitter.feed(data, NOW)
    assert b"".join(piece.data for piece in drain(splitter)) == data
    assert splitter.statistics()["relative_kept"] == 1


def stream(parts: Iterable[bytes], splitter: StreamSplitter) -> tuple[str, str, int, int]:
    """Feeds *parts*; digests of what went in and came out, replies, and the most bytes owned."""
    given, got, replies, peak = hashlib.blake2b(), hashlib.blake2b(), 0, 0
    for part in parts:
        given.update(part)
        view = memoryview(part)
        while view:
            view = view[splitter.feed(view, NOW) :]
            while (piece := splitter.next_piece(1 << 20, 1 << 20)) is not None:
                got.update(piece.data)
                replies += piece.replies
                peak = max(peak, splitter.statistics()["owned_bytes"])
    return given.hexdigest(), got.hexdigest(), replies, peak


def many(first: bytes, unit: bytes, times: int, last: bytes) -> Iterable[bytes]:
    """A long stream in parts of about a quarter of a MiB."""
    yield first
    block = max(1, (1 << 18) // len(unit))
    whole = unit * block
    for _ in range(times // block):
        yield whole
    yield unit * (times % block)
    yield last


MIB = 1 << 20
HUGE = {
    "a SET of 512 MiB": (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (512 * MIB), b"v" * 1024, 512 * 1024, b"\r\n"),
    "an argument of 400 MiB": (
        b"*4\r\n$4\r\nHSET\r\n$1\r\nh\r\n$%d\r\n" % (400 * MIB), b"f" * 1024, 400 * 1024, b"\r\n$1\r\nv\r\n",
    ),
    "ten million arguments": (b"*10000002\r\n$4\r\nSADD\r\n$1\r\ns\r\n", b"$4\r\nabcd\r\n", 10_000_000, b""),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_huge_commands_pass_in_bounded_memory(name: str) -> None:
    """No command is ever held: not a huge value, not a huge field, not a huge number of arguments."""
    splitter = StreamSplitter(0, 0)
    tracemalloc.start()
    try:
        given, got, replies, owned = stream(many(*HUGE[name]), splitter)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert given == got
    assert replies == 1
    assert owned < 2 * MIB
    assert peak < 4 * MIB


def test_owned_bytes_stay_bounded_by_the_piece_size() -> None:
    """Edited commands and kept keys of the largest small kind do not make buffers grow beyond a few pieces."""
    piece_bytes = 64 * 1024
    splitter = StreamSplitter(0, 0, piece_bytes=piece_bytes, pxat=False)
    command = pack([b"SETEX", b"k" * (piece_bytes - 100), b"10", b"v"])
    _, _, replies, peak = stream([command] * 50, splitter)
    assert replies == 100
    assert peak < 8 * piece_bytes


OURS = b"portd:x"
FILLING = [b"%06d" % number for number in range(100)]


@pytest.mark.parametrize("step", [1, 100, 100_000])
@pytest.mark.parametrize(
    ("command", "told"),
    [
        ([b"MSET", *FILLING, OURS, b"v"], True),
        ([b"MSET", *FILLING, b"a", OURS], False),
        ([b"MSET", OURS, b"v", *FILLING], True),
        ([b"DEL", *FILLING, OURS + b"y"], True),
        ([b"DEL", *FILLING, b"portd:"], False),
        ([b"SADD", b"s", *FILLING, OURS], False),
        ([b"RENAME", LARGE, OURS], True),
        ([b"JSON.MSET", *FILLING[:99], OURS, b"$", b"1"], True),
        ([b"MSETEX", b"51", *FILLING, OURS, b"v"], True),
        ([b"EVAL", LARGE, b"1", OURS], True),
        ([b"SORT", b"l", b"BY", LARGE, b"STORE", OURS], True),
        ([b"GETEX", OURS, LARGE], None),
    ],
    ids=lambda each: each[0].decode() if isinstance(each, list) else None,
)
def test_names_of_ours_in_later_parts_of_a_large_command(command: list[bytes], told: bool | None, step: int) -> None:  # noqa: FBT001
    """They are found where the key stands; told of the command, the next splitter leaves it out and names it."""
    before, behind = pack([b"INCR", b"a"]), pack([b"INCR", b"b"])
    data = before + pack(command) + behind

    def run(mixed: frozenset[int]) -> tuple[set[int], StreamSplitter, list[str], bytes]:
        splitter = StreamSplitter(0, 0, piece_bytes=PIECE, own=OURS, mixed=mixed)
        pieces = []
        for at in range(0, len(data), step):
            rest = data[at : at + step]
            while rest:
                rest = rest[splitter.feed(rest, NOW) :]
                pieces += drain(splitter)
        refusals = [refusal.command for piece in pieces for refusal in piece.refusals]
        return {piece.mixed for piece in pieces} - {0}, splitter, refusals, b"".join(piece.data for piece in pieces)

    found, splitter, refusals, _ = run(frozenset())
    if told is None or refusals:  # all of it was at hand at the beginning
        assert not found
        return
    assert found == ({len(before) + 1} if told else set())
    found, splitter, refusals, passed = run(frozenset(found))
    assert not found
    assert refusals == ([command[0].decode()] if told else [])
    assert splitter.statistics()["refused"] == told
    assert not told or passed == before + behind
