"""What goes on at all: by what the target tells, and the scripts it needs."""

from __future__ import annotations

import pytest

from portd.kernel.commandtable import CommandTable
from portd.kernel.stream import StreamSplitter
from tests.oracle.resp import pack
from tests.unit.stream_split.kit import BASE, refusals, split


def test_what_a_target_tells_decides() -> None:
    """Module commands that it flags as writing pass, those that it does not are filtered and named."""
    table = CommandTable({b"json.set": True, b"json.get": False, b"get": False, b"a.name-longer-than-16-bytes": True})
    (piece,) = split(
        [b"JSON.SET", b"k", b"$", b"1"], [b"json.get", b"k"], [b"NOT.THERE", b"k"], [b"GET", b"k"],
        [b"A.Name-Longer-Than-16-Bytes", b"k"],
        commands=table,
    )  # fmt: skip
    assert piece.data == (
        pack([b"JSON.SET", b"k", b"$", b"1"])
        + pack([b"NOT.THERE", b"k"])
        + pack([b"A.Name-Longer-Than-16-Bytes", b"k"])
    )
    assert piece.names == {"JSON.GET", "GET"}
    assert piece.filtered == 2


def test_a_target_that_tells_nothing() -> None:
    """The build's own lists decide; a name that is in none is a dead letter, for it could do anything."""
    table = CommandTable({})
    (piece,) = split([b"HSET", b"k", b"f", b"v"], [b"KEYS", b"*"], [b"NOT.KNOWN", b"k"], commands=table)
    assert piece.data == pack([b"HSET", b"k", b"f", b"v"])
    assert piece.names == {"KEYS"}
    assert refusals(piece) == [("NOT.KNOWN", 0, b"k")]


@pytest.mark.parametrize("name", [b"BLPOP", b"bzpopmin", b"XREADGROUP"])
def test_commands_that_wait_are_refused(name: bytes) -> None:
    """Servers send what they did, so that one in a stream was put there."""
    (piece,) = split([name, b"k", b"0"])
    assert (piece.data, piece.refused) == (b"", 1)


def test_messages_may_be_left_out() -> None:
    """PUBLISH goes on only where that is wanted."""
    message = [b"PUBLISH", b"c", b"m"]
    assert split(message)[0].data == pack(message)
    assert split(message, commands=CommandTable(publish=False))[0].data == b""
    assert split([b"spublish", *message[1:]], commands=CommandTable({b"publish": True}, publish=False))[0].data == b""


TEXT = b"return redis.call('incr', KEYS[1])"

DIGEST = b"0123456789ABCDEF0123456789ABCDEF01234567"


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_scripts_are_noted_however_they_are_cut(step: int) -> None:
    """EVAL and EVALSHA go on as they came; SCRIPT is dropped; each piece says what it brings and what it needs."""
    commands = [
        [b"EVAL", TEXT, b"1", b"k"],
        [b"eval", TEXT, b"1", b"k"],
        [b"EvalSha", DIGEST, b"1", b"k"],
        [b"SCRIPT", b"load", b"return 1"],
        [b"SCRIPT", b"KILL"],
        [b"EVALSHA", b"short", b"0"],
        [b"EVAL", b"large", b"1", b"k", b"v" * 3000],
        [b"EVAL", b"x" * 3000, b"0"],
        [b"script", b"FLUSH", b"ASYNC"],
    ]
    data = b"".join(map(pack, commands))
    splitter = StreamSplitter(BASE, 0, piece_bytes=1000)
    pieces = []
    for at in range(0, len(data), step):
        rest = memoryview(data)[at : at + step]
        while True:
            rest = rest[splitter.feed(rest, 0) :]
            if (piece := splitter.next_piece(10_000, 1000)) is not None:
                pieces.append(piece)
            elif not rest:
                break
    assert {body for piece in pieces for body in piece.bodies} == {TEXT, b"return 1", b"large"}
    assert {body for piece in pieces for body in piece.loaded} == {b"return 1"}
    assert {digest for piece in pieces for digest in piece.digests} == {DIGEST.lower()}
    assert [piece.flushed for piece in pieces if piece.flushed] == [True]
    assert sum(piece.filtered for piece in pieces) == 3
    passed = [command for command in commands if command[0].upper() != b"SCRIPT"]
    assert b"".join(piece.data for piece in pieces) == b"".join(map(pack, passed))


def test_a_piece_ends_when_it_needs_many_scripts() -> None:
    """What has to go in front of it is bounded; scripts that are named again do not count again."""
    digests = [b"%040x" % number for number in range(100)]
    same = split(*[[b"EVALSHA", digests[0], b"0"] for _ in range(100)])
    assert len(same) == 1
    pieces = split(*[[b"EVALSHA", digest, b"0"] for digest in digests])
    assert [len(piece.digests) for piece in pieces] == [32, 32, 32, 4]
    assert [digest for piece in pieces for digest in sorted(piece.digests)] == digests
