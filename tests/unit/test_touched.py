"""Which keys a stream touches: none may be missed, whatever command writes it."""

from __future__ import annotations

import struct

import pytest

from portd.errors import InternalError
from portd.kernel.keyspecs import KeySpecs
from portd.kernel.stream import StreamSplitter
from portd.kernel.touched import Touched
from portd.net.resp import request


def names(touched: Touched) -> set[tuple[int, bytes]]:
    """Databases and keys, taken."""
    return {(struct.unpack_from("<I", name)[0], name[4:]) for name in touched.take()}


def noted(*commands: bytes, db: int = 0) -> Touched:
    """All of them in one piece."""
    touched = Touched()
    touched.note(b"".join(commands), db)
    return touched


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (("SET", "a", "1"), {b"a"}),
        (("set", "a", "1", "PX", "5"), {b"a"}),
        (("MSET", "a", "1", "b", "2"), {b"a", b"b"}),
        (("DEL", "a", "b", "c"), {b"a", b"b", b"c"}),
        (("UNLINK", "a"), {b"a"}),
        (("RENAME", "a", "b"), {b"a", b"b"}),
        (("LMOVE", "a", "b", "LEFT", "RIGHT"), {b"a", b"b"}),
        (("SUNIONSTORE", "to", "from", "other"), {b"to"}),
        (("ZUNIONSTORE", "to", "2", "x", "y"), {b"to"}),
        (("BITOP", "AND", "to", "x", "y"), {b"to"}),
        (("SORT", "list", "LIMIT", "0", "1", "STORE", "to"), {b"to"}),
        (("EVAL", "return 1", "2", "a", "b", "c"), {b"a", b"b"}),
        (("XGROUP", "CREATE", "s", "g", "0"), {b"s"}),
        (("XACK", "s", "g", "1-1"), {b"s"}),
        (("GETEX", "a", "PERSIST"), {b"a"}),
        (("PFCOUNT", "a", "b"), {b"a", b"b"}),
        (("PING",), set()),
        (("PUBLISH", "channel", "a"), set()),
        (("MULTI",), set()),
    ],
)
def test_keys_of_commands(words: tuple[str, ...], keys: set[bytes]) -> None:
    """What a command writes is named; what it only reads is not."""
    touched = noted(request(*words))
    assert names(touched) == {(0, key) for key in keys}
    assert touched.writes == bool(keys)
    assert (touched.lost, touched.unknown, touched.everything) == (False, set(), False)


def test_databases() -> None:
    """SELECT counts from where it stands, and a key that goes elsewhere is named in both."""
    touched = Touched()
    db = touched.note(request("SET", "a", "1") + request("SELECT", 7) + request("SET", "b", "1"), 3)
    assert db == 7
    touched.note(
        request("MOVE", "c", "9") + request("COPY", "d", "e", "DB", "11", "REPLACE") + request("COPY", "f", "g"), db
    )
    assert names(touched) == {
        *((3, b"a"), (7, b"b"), (7, b"c"), (9, b"c"), (7, b"e"), (11, b"e"), (7, b"g")),
    }


def test_what_concerns_more_than_keys() -> None:
    """Flushes and swaps concern all, libraries none, and a name that nobody knows is told."""
    assert noted(request("FLUSHALL")).everything
    assert noted(request("FLUSHDB", "ASYNC")).everything
    assert noted(request("SWAPDB", "0", "1")).everything
    functions = noted(request("FUNCTION", "LOAD", "REPLACE", "#!lua"))
    assert functions.functions
    assert not functions.everything
    assert noted(request("graph.write", "a", "b")).unknown == {b"GRAPH.WRITE"}
    known = Touched(KeySpecs({b"GRAPH.WRITE": "1 RW update"}))
    known.note(request("graph.write", "a", "b"), 0)
    assert names(known) == {(0, b"a")}
    assert not known.unknown


def test_removals_are_told_apart() -> None:
    """What a server removes by itself can be known from what clients write."""
    touched = noted(request("SET", "a", "1"), request("DEL", "a"), request("UNLINK", "b"), request("PING"))
    assert (touched.writes, touched.removals) == (3, 2)


def test_a_bound_on_names() -> None:
    """More names than are held are told, not dropped in silence; those that are there already are no more."""
    touched = Touched(most=3)
    for name in "abcabc":
        touched.note(request("SET", name, "1"), 0)
    assert touched.count == 3
    touched.take()
    for name in "defg":
        touched.note(request("SET", name, "1"), 0)
    assert touched.lost
    assert touched.count == 3


def _pieces(command: bytes) -> Touched:
    """As a splitter with small pieces hands it out."""
    touched, splitter, db = Touched(), StreamSplitter(0, 0, piece_bytes=1024), 0
    data = command + request("SET", "after", "1")
    while data or command:
        taken = splitter.feed(data, 1)
        data = data[taken:]
        while (piece := splitter.next_piece(1024, 100)) is not None:
            db = touched.note(piece.data, db, piece.part)
        if not data:
            break
    return touched


def test_a_command_larger_than_a_piece() -> None:
    """Its keys at the beginning are found; keys behind what is at hand are told to be lost."""
    touched = _pieces(request("SET", "big", b"*1\r\n$1\r\n" * 2000))
    assert names(touched) == {(0, b"big"), (0, b"after")}
    assert not touched.lost
    touched = _pieces(request("DEL", *(f"key:{number}" for number in range(500))))
    assert touched.lost
    assert (0, b"after") in names(touched)
    touched = _pieces(request("RPUSH", "list", *("x" * 100 for _ in range(100))))
    assert names(touched) == {(0, b"list"), (0, b"after")}
    assert not touched.lost


@pytest.mark.parametrize("data", [b"+OK\r\n", b"*2\r\n$3\r\nSET\r\n", b"*x\r\n", b"*1\r\n$9\r\nSET\r\n", b"*"])
def test_what_is_no_piece(data: bytes) -> None:
    """Bytes that are no whole commands are a bug, never a key that is missed."""
    with pytest.raises(InternalError):
        Touched().note(data, 0)
