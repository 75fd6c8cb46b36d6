"""Pieces: where they end, and what stands in them."""

from __future__ import annotations

import random
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from portd.errors import DecodeError
from portd.kernel.commandtable import CommandTable
from portd.kernel.stream import StreamSplitter
from tests.oracle.resp import Follower, Oracle, compare, drain, pack
from tests.unit.stream_split.kit import BASE, MUCH, split, starts

if TYPE_CHECKING:
    from collections.abc import Callable


WORKLOAD = [
    [b"SELECT", b"3"],
    [b"set", b"k", b"v"],
    [b"MULTI"],
    [b"INCR", b"n"],
    [b"SELECT", b"0"],
    [b"LPUSH", b"l", b"", b"\r\n$5\r\n*1\r\n"],
    [b"exec"],
    [b"PING"],
    [b"REPLCONF", b"getack", b"*"],
    [b"HSET", b"h", *[b"f", b"v"] * 30],
    [b"XADD", b"s", b"1-1", b"f", b"v" * 300],
    [b"MULTI"],
    [b"SETEX", b"k", b"10", b"v"],
    [b"publish", b"__sentinel__:hello", b"who"],
    [b"EXEC"],
    [b"publish", b"news", b"text"],
]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 16, 61, 100_000])
@pytest.mark.parametrize("piece_bytes", [64, 200, 4096])
def test_any_cut_of_the_input_gives_the_same_commands(step: int, piece_bytes: int) -> None:
    """Where the network cuts the stream makes no difference."""
    data = b"".join(pack(command) for command in WORKLOAD)
    expected = Oracle(BASE, -1, piece_bytes=piece_bytes).expect(data)
    follower = Follower(StreamSplitter(BASE, -1, piece_bytes=piece_bytes))
    for at in range(0, len(data), step):
        follower.feed(data[at : at + step])
    compare(expected, follower.outcome)
    assert follower.outcome.end_offset == BASE + len(data)


@pytest.mark.parametrize("max_bytes", [0, 1, 50, MUCH])
@pytest.mark.parametrize("max_commands", [0, 1, 3, MUCH])
def test_any_cap_gives_the_same_commands(max_bytes: int, max_commands: int) -> None:
    """Caps decide where pieces end, not what is in them."""
    data = b"".join(pack(command) for command in WORKLOAD)
    follower = Follower(StreamSplitter(BASE, -1), max_bytes, max_commands)
    follower.feed(data)
    compare(Oracle(BASE, -1).expect(data), follower.outcome)


def test_bytes_go_on_as_they_came() -> None:
    """Nothing is encoded anew: letter case and empty arguments stay, SELECT stays in."""
    commands = [
        [b"sElEcT", b"5"],
        [b"sEt", b"", b"\r\n"],
        [b"UNKNOWN.COMMAND"],
        [b"SET", b"k", b"v", b"PXAT", b"9", b"nx"],
    ]
    (piece,) = split(*commands, db=-1)
    assert piece.data == b"".join(pack(command) for command in commands)
    assert (piece.replies, piece.db, piece.boundary, piece.part, piece.filtered) == (4, 5, True, False, 0)
    assert len(piece) == len(piece.data)
    assert "replies=4" in repr(piece)


def test_offsets_name_first_bytes_and_end_offset_the_last() -> None:
    """Each command is told by the offset of its first byte; a piece ends at the offset of its last consumed byte."""
    commands = [[b"INCR", b"a"], [b"PING"], [b"INCR", b"bb"], [b"PING"]]
    (piece,) = split(*commands)
    sizes = [len(pack(command)) for command in commands]
    assert starts(piece) == [0, sizes[0] + sizes[1]]
    assert piece.end_offset == BASE + sum(sizes)
    assert piece.filtered == 2


def test_a_piece_of_dropped_commands_only_is_returned() -> None:
    """Offsets advance although there is nothing to apply."""
    (piece,) = split([b"PING"], [b"ping"])
    assert (piece.data, piece.replies, piece.offsets, piece.filtered) == (b"", 0, b"", 2)
    assert piece.boundary
    assert piece.end_offset == BASE + 28


@pytest.mark.parametrize(
    "command",
    [
        [b"PING"],
        [b"REPLCONF", b"GETACK", b"*"],
        [b"REPLCONF"],
        [b"PUBLISH", b"__sentinel__:hello", b"x"],
        [b"spublish", b"__sentinel__:hello", b"x"],
        [b"SCRIPT", b"LOAD", b"return 1"],
        [b"script", b"flush"],
        [b"TRIMSLOTS", b"RANGES", b"1", b"0", b"5"],
        [b"CLUSTER", b"SYNCSLOTS", b"FINISH"],
        [b"DEBUG", b"SLEEP", b"0"],
        [b"MIGRATE", b"h", b"1", b"k", b"0", b"5"],
        [b"ASKING"],
        [b"CONFIG", b"SET", b"a", b"b"],
        [b"ACL", b"SETUSER", b"x"],
        [b"opinfo", b"x"],
        [b"FUNCTION", b"KILL"],
        [b"FUNCTION"],
        [b"MONITOR"],
        [b"watch", b"k"],
        [b"CLIENT", b"KILL", b"x"],
        [b"BGSAVE"],
        [b"keys", b"*"],
        [b"LATENCY", b"RESET"],
        [b"MODULE", b"LOAD", b"x"],
        [b"WAIT", b"1", b"0"],
        [b"EXEC"],
        [b"DISCARD"],
        [b"MULTI", b"x"],
    ],
    ids=lambda command: b" ".join(command[:2]).decode(),
)
def test_what_concerns_the_source_alone_is_dropped_and_counted(command: list[bytes]) -> None:
    """Noise, topology, settings and scripts of the source do not reach the target, even before any SELECT."""
    (piece,) = split(command, db=-1)
    assert (piece.data, piece.filtered) == (b"", 1)
    assert piece.getack == (command[1:2] == [b"GETACK"])


@pytest.mark.parametrize(
    "command",
    [
        [b"PUBLISH", b"__sentinel__:hell", b"x"],
        [b"PUBLISH", b"__sentinel__:hello!", b"x"],
        [b"PUBLISH"],
        [b"PINGX"],
        [b"SETEX", b"k", b"v"],
        [b"SET", b"k"],
        [b"EXPIRE", b"k"],
        [b"GETEX", b"k", b"PERSIST"],
        [b"RESTORE", b"k", b"0"],
        [b"FUNCTION", b"FLUSH"],
        [b"FUNCTION", b"DELETE", b"f"],
        [b"FUNCTION", b"restore", b"f"],
        [b"FUNCTION", b"LOAD", b"REPLACE", b"#!lua"],
        [b"MULTIX"],
        [b"x"],
        [b"x" * 512, b"y"],
    ],
    ids=lambda command: b" ".join(command)[:40].decode(),
)
def test_other_commands_are_not_mistaken_for_them(command: list[bytes]) -> None:
    """Names and first arguments are compared whole; forms that need nothing go on as they came."""
    (piece,) = split(command)
    assert (piece.data, piece.replies, piece.filtered) == (pack(command), 1, 0)


def test_multi_and_exec_are_dropped_and_never_cut_by_a_boundary() -> None:
    """A source transaction goes on without its frame; a checkpoint may stand before it and behind it only."""
    splitter = StreamSplitter(BASE, 0)
    splitter.feed(pack([b"MULTI"]) + pack([b"INCR", b"a"]), 0)
    (first,) = drain(splitter)
    assert (first.data, first.boundary) == (pack([b"INCR", b"a"]), False)
    inside = splitter.in_transaction
    splitter.feed(pack([b"INCR", b"b"]) + pack([b"EXEC"]), 0)
    (second,) = drain(splitter)
    assert (second.data, second.boundary, second.filtered) == (pack([b"INCR", b"b"]), True, 0)
    assert (inside, splitter.in_transaction) == (True, False)
    assert splitter.statistics()["transactions"] == 1
    assert splitter.statistics()["commands"] == 2


def test_what_stands_before_a_cut_transaction_goes_alone() -> None:
    """What can be committed is not held up by a transaction that has not come whole."""
    splitter = StreamSplitter(BASE, 0)
    splitter.feed(pack([b"INCR", b"a"]) + pack([b"MULTI"]) + pack([b"SELECT", b"7"]) + pack([b"PING"]), 0)
    first, second = drain(splitter)
    assert (first.data, first.boundary, first.db, first.filtered) == (pack([b"INCR", b"a"]), True, 0, 0)
    assert (second.data, second.boundary, second.db, second.filtered) == (pack([b"SELECT", b"7"]), False, 7, 1)


def test_a_lone_multi_is_not_a_piece() -> None:
    """MULTI alone would be a piece that nothing can be done with."""
    splitter = StreamSplitter(BASE, 0)
    splitter.feed(pack([b"MULTI"]), 0)
    assert drain(splitter) == []
    splitter.feed(pack([b"EXEC"]), 0)
    (piece,) = drain(splitter)
    assert (piece.data, piece.boundary, piece.end_offset) == (b"", True, BASE + 29)


def test_a_full_piece_takes_the_exec_that_is_next() -> None:
    """A piece cut by a cap right before EXEC still ends where a checkpoint may stand."""
    splitter = StreamSplitter(BASE, 0)
    splitter.feed(b"".join(pack(each) for each in ([b"MULTI"], [b"INCR", b"a"], [b"EXEC"], [b"INCR", b"b"])), 0)
    piece = splitter.next_piece(MUCH, 1)
    assert piece is not None
    assert (piece.replies, piece.boundary) == (1, True)


def test_caps_are_met_at_the_first_command_boundary() -> None:
    """A piece holds at most max_commands, and max_bytes with the command that reaches it."""
    splitter = StreamSplitter(BASE, 0, piece_bytes=1000)
    one = pack([b"SET", b"key", b"v" * 30])
    splitter.feed(one * 100, 0)
    for max_bytes, max_commands, expected in (
        (1, 100, 1),
        (len(one) + 1, 100, 2),
        (MUCH, 3, 3),
        (MUCH, MUCH, 1000 // len(one) + 1),
    ):
        piece = splitter.next_piece(max_bytes, max_commands)
        assert piece is not None
        assert piece.data == one * expected


def test_databases_are_followed() -> None:
    """The database after a piece is the one selected last, also inside of transactions; SWAPDB does not select."""
    (piece,) = split([b"SELECT", b"15"], [b"MULTI"], [b"SELECT", b"2"], [b"EXEC"], [b"SWAPDB", b"2", b"1"])
    assert piece.db == 2
    assert piece.swaps
    (piece,) = split([b"SELECT", b"2"])
    assert not piece.swaps


def test_flags_belong_to_one_piece() -> None:
    """swaps, getack and filtered count from the piece before."""
    splitter = StreamSplitter(BASE, 0)
    for command in ([b"SWAPDB", b"0", b"1"], [b"REPLCONF", b"GETACK", b"*"], [b"INCR", b"a"]):
        splitter.feed(pack(command), 0)
    splitter.next_piece(1, 1)
    second = splitter.next_piece(MUCH, MUCH)
    assert second is not None
    assert (second.swaps, second.getack, second.filtered) == (False, True, 1)
    splitter.feed(pack([b"INCR", b"a"]), 0)
    (third,) = drain(splitter)
    assert (third.swaps, third.getack, third.filtered) == (False, False, 0)


def test_a_command_without_a_database_is_an_error() -> None:
    """Without a known database nothing may be applied: it could land in the wrong one."""
    splitter = StreamSplitter(BASE, -1)
    splitter.feed(pack([b"PING"]) + pack([b"MULTI"]) + pack([b"SET", b"k", b"v"]), 0)
    assert splitter.next_piece(MUCH, MUCH) is not None
    with pytest.raises(DecodeError, match="before any SELECT") as caught:
        drain(splitter)
    assert caught.value.offset == BASE + 14 + 15 + 1


def test_excluded_commands_are_left_out() -> None:
    """A command that was refused for good is dropped, and counted neither as applied nor as filtered."""
    commands = [[b"INCR", b"a"], [b"SETEX", b"k", b"1", b"v"], [b"MULTI"], [b"INCR", b"c"], [b"EXEC"], [b"INCR", b"d"]]
    at = [BASE + 1 + sum(len(pack(each)) for each in commands[:i]) for i in range(len(commands))]
    splitter = StreamSplitter(BASE, 0)
    for offset in (at[3], at[1], at[2], at[4], at[0] + 1):  # a frame is dropped anyhow, a middle byte is nobody's
        splitter.exclude(offset)
    splitter.feed(b"".join(pack(each) for each in commands), 0)
    (piece,) = drain(splitter)
    assert piece.data == pack([b"INCR", b"a"]) + pack([b"INCR", b"d"])
    assert (piece.replies, piece.filtered, piece.boundary) == (2, 0, True)
    assert splitter.statistics()["excluded"] == 2
    assert splitter.statistics()["commands"] == 4


def test_an_excluded_offset_that_has_passed_is_forgotten() -> None:
    """The caller may exclude what it has just been given, before it goes back with a new splitter."""
    splitter = StreamSplitter(BASE, 0)
    splitter.feed(pack([b"INCR", b"a"]) * 2, 0)
    assert len(drain(splitter)) == 1
    splitter.exclude(BASE + 1)
    splitter.feed(pack([b"INCR", b"a"]), 0)
    assert drain(splitter)[0].replies == 1


def test_a_select_cannot_be_excluded() -> None:
    """Commands behind a SELECT that was left out would land in another database."""
    splitter = StreamSplitter(BASE, 0)
    splitter.exclude(BASE + 1)
    splitter.feed(pack([b"SELECT", b"99"]), 0)
    with pytest.raises(DecodeError, match="SELECT was refused"):
        drain(splitter)


def test_many_exclusions_are_found() -> None:
    """Exclusions told in any order are all met."""
    one = pack([b"INCR", b"a"])
    splitter = StreamSplitter(BASE, 0)
    odd = [BASE + 1 + i * len(one) for i in range(1, 200, 2)]
    for offset in odd[::3] + odd[1::3] + odd[2::3]:
        splitter.exclude(offset)
    splitter.feed(one * 200, 0)
    (piece,) = drain(splitter)
    assert starts(piece) == [i * len(one) for i in range(0, 200, 2)]


def test_feed_takes_what_fits_and_goes_on() -> None:
    """A full window takes nothing until a piece was taken; no byte is lost."""
    one = pack([b"SET", b"k", b"v" * 20])
    data = memoryview(one * 1000)
    splitter = StreamSplitter(BASE, 0, piece_bytes=256)
    fed = splitter.feed(data, 0)
    assert fed == splitter.statistics()["window_capacity"]
    assert splitter.feed(data[fed:], 0) == 0
    pieces = drain(splitter)
    while fed < len(data):
        fed += splitter.feed(data[fed:], 0)
        pieces += drain(splitter)
    assert b"".join(piece.data for piece in pieces) == bytes(data)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_taken(kind: type) -> None:
    """Spool chunks are memoryviews; anything contiguous will do, empty ones included."""
    splitter = StreamSplitter(BASE, 0)
    assert splitter.feed(kind(b""), 0) == 0
    assert splitter.feed(kind(pack([b"INCR", b"a"])), 0) == 21
    with pytest.raises((TypeError, BufferError)):
        splitter.feed("text", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "settings"), [((-1, 0), {}), ((0, 0), {"piece_bytes": 63}), ((0, 0), {"max_argument": -1})]
)
def test_impossible_settings_are_refused(arguments: tuple[int, int], settings: dict[str, Any]) -> None:
    """Nonsense is a ValueError at once."""
    with pytest.raises(ValueError, match="must not be negative"):
        StreamSplitter(*arguments, **settings)


@pytest.mark.parametrize("table", [lambda: None, lambda: CommandTable({b"get": False})], ids=["any", "of the target"])
def test_buffers_are_visible_to_tracemalloc_and_freed(table: Callable[[], CommandTable | None]) -> None:
    """Owned bytes are allocated where /debug/memory sees them, are as many as said, and go with the splitter."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        splitter = StreamSplitter(BASE, 0, commands=table())
        splitter.feed(pack([b"SET", b"k", b"v"]) * 9 + pack([b"PING"]) + pack([b"SETEX", b"k", b"9", b"v"]), 0)
        assert len(drain(splitter)) == 1
        owned = splitter.statistics()["owned_bytes"]
        assert abs(tracemalloc.get_traced_memory()[0] - before - owned) < 8192
        del splitter
        assert tracemalloc.get_traced_memory()[0] - before < 4096
    finally:
        tracemalloc.stop()


NOTHINGS = [b"\n", b"\r\n", b"*0\r\n", b"*-1\r\n", b"*-9999\r\n", b"\n\r\n*0\r\n"]


@pytest.mark.parametrize("step", [1, 3, 10_000])
@pytest.mark.parametrize("nothing", NOTHINGS, ids=repr)
def test_what_is_no_command_is_passed_over(nothing: bytes, step: int) -> None:
    """Before, between, behind and inside of transactions, as replicas do it; the bytes count as part of the stream."""
    first, second = pack([b"INCR", b"a"]), pack([b"INCR", b"b"])
    data = nothing.join([b"", first, pack([b"MULTI"]), first, second, pack([b"EXEC"]), second, b""])
    follower = Follower(StreamSplitter(BASE, 0))
    for at in range(0, len(data), step):
        follower.feed(data[at : at + step])
    got = follower.outcome
    assert (got.error, got.end_offset, got.filtered) == (-1, BASE + len(data), 0)
    assert got.data == first + first + second + second
    assert got.offsets[0] == BASE + 1 + len(nothing)


@pytest.mark.parametrize(
    ("stream", "wanted", "names"),
    [
        ("MULTI | SET a 1 | MULTI | SET b 2 | EXEC | SET c 3", ["SET a 1", "SET b 2", "SET c 3"], {"MULTI"}),
        ("SET a 1 | EXEC | SET b 2", ["SET a 1", "SET b 2"], {"EXEC"}),
        ("SET a 1 | DISCARD | SET b 2", ["SET a 1", "SET b 2"], {"DISCARD"}),
        ("SET a 1 | MULTI | SET b 2 | GET x | DISCARD | SET c 3", ["SET a 1", "SET c 3"], {"DISCARD", "GET"}),
        ("MULTI | SET b 2 | DISCARD | EXEC | SET c 3", ["SET c 3"], {"DISCARD", "EXEC"}),
        ("MULTI x | SET b 2 | EXEC | SET c 3", ["SET b 2", "SET c 3"], {"MULTI", "EXEC"}),
        ("WATCH a | MULTI | WATCH b | SET b 2 | EXEC", ["SET b 2"], {"WATCH"}),
    ],
)
def test_transactions_that_no_server_sends(stream: str, wanted: list[str], names: set[str]) -> None:
    """What is there twice or alone is passed over and named; what was discarded is not applied."""
    commands = [word.encode().split() for word in stream.split(" | ")]
    (piece,) = split(*commands)
    assert piece.data == b"".join(pack(each.encode().split()) for each in wanted)
    assert piece.names == names
    assert piece.boundary
    assert piece.end_offset == BASE + sum(len(pack(each)) for each in commands)
    assert piece.replies == len(wanted)


def test_oddities_may_be_cut_anywhere() -> None:
    """What no server sends, in any mixture and with a cut at any byte, is passed over as it is in one piece."""
    chooser = random.Random(13)
    odd = [b"\n", b"\r\n", b"*0\r\n", b"*-23\r\n"]
    odd += [pack(word.split()) for word in (b"MULTI", b"EXEC", b"PING", b"INCR a", b"SELECT 1", b"SCRIPT FLUSH")]
    for _ in range(20):
        data = b"".join(chooser.choices(odd, k=10)) + pack([b"EXEC"]) + pack([b"INCR", b"b"])
        whole = Follower(StreamSplitter(BASE, 0))
        whole.feed(data)
        wanted = whole.outcome
        assert (wanted.error, wanted.end_offset) == (-1, BASE + len(data))
        for cut in range(1, len(data)):
            follower = Follower(StreamSplitter(BASE, 0))
            follower.feed(data[:cut])
            follower.feed(data[cut:])
            got = follower.outcome
            assert (got.error, got.end_offset, got.data) == (-1, wanted.end_offset, wanted.data)


def test_a_discard_behind_what_has_gone_on_is_an_error() -> None:
    """What was handed out cannot be taken back; read again from the beginning, the transaction is left out."""
    splitter = StreamSplitter(BASE, 0)
    splitter.feed(pack([b"MULTI"]) + pack([b"INCR", b"a"]), 0)
    assert splitter.next_piece(MUCH, MUCH) is not None
    splitter.feed(pack([b"DISCARD"]), 0)
    with pytest.raises(DecodeError, match="DISCARD"):
        splitter.next_piece(MUCH, MUCH)
