"""The stream splitter: commands that do not go on as they came."""

from __future__ import annotations

from typing import Any

import pytest

from portd.kernel.stream import StreamSplitter
from tests.oracle.resp import NEVER, drain, pack

NOW = 1_700_000_000_000


def rewritten(
    *commands: list[bytes], now_ms: int = NOW, piece_bytes: int = 4096, step: int = 4096, **forms: Any
) -> list[list[bytes]]:
    """What a stream turns into, as lists of arguments."""
    splitter = StreamSplitter(0, 0, piece_bytes=piece_bytes, **forms)
    data = b"".join(pack(command) for command in commands)
    out = b""
    fed = 0
    while fed < len(data):
        fed += splitter.feed(data[fed : fed + step], now_ms)
        pieces = drain(splitter)
        out += b"".join(piece.data for piece in pieces)
    return parse(out)


def parse(data: bytes) -> list[list[bytes]]:
    """Commands of canonical RESP."""
    commands = []
    while data:
        head, data = data.split(b"\r\n", 1)
        command = []
        for _ in range(int(head[1:])):
            size, data = data.split(b"\r\n", 1)
            command.append(data[: int(size[1:])])
            data = data[int(size[1:]) + 2 :]
        commands.append(command)
    return commands


def ms(relative: int) -> bytes:
    """An absolute time."""
    return b"%d" % (NOW + relative)


EXACT = [
    ("SETEX k 100 v", "SET k v PXAT +100000"),
    ("setex k 100 v", "SET k v PXAT +100000"),
    ("PSETEX k 100 v", "SET k v PXAT +100"),
    ("SET k v EX 100", "SET k v PXAT +100000"),
    ("SET k v px 100 NX", "SET k v PXAT +100 NX"),
    ("set k v XX GET ex 007", "set k v XX GET PXAT +7000"),
    ("SET k v ex +5", "SET k v PXAT +5000"),
    ("SET k v IFEQ EX PX 5", "SET k v IFEQ EX PXAT +5"),
    ("EXPIRE k 100", "PEXPIREAT k +100000"),
    ("pexpire k 100 GT", "PEXPIREAT k +100 GT"),
    ("EXPIRE k -1", "PEXPIREAT k +-1000"),
    ("GETEX k EX 10", "PEXPIREAT k +10000"),
    ("GETEX k px 10", "PEXPIREAT k +10"),
    ("GETEX k EXAT 10", "PEXPIREAT k 10000"),
    ("GETEX k PXAT 10", "PEXPIREAT k 10"),
    ("HEXPIRE h 5 NX FIELDS 1 f", "HPEXPIREAT h +5000 NX FIELDS 1 f"),
    ("HPEXPIRE h 5 FIELDS 1 f", "HPEXPIREAT h +5 FIELDS 1 f"),
    ("RESTORE k 100 payload", "RESTORE k +100 payload ABSTTL"),
    ("restore k 100 payload replace IDLETIME 7", "RESTORE k +100 payload replace IDLETIME 7 ABSTTL"),
    ("RESTORE-ASKING k 100 payload REPLACE", "RESTORE k +100 payload REPLACE REPLACE ABSTTL"),
    ("RESTORE-ASKING k 100 payload absttl", "RESTORE k 100 payload absttl REPLACE"),
    ("restore-asking k 0 payload", "RESTORE k 0 payload REPLACE"),
    ("FUNCTION LOAD code", "FUNCTION LOAD REPLACE code"),
    ("function load code", "FUNCTION load REPLACE code"),
]
UNCHANGED = [
    "SET k v",
    "SET k v NX",
    "SET k v KEEPTTL GET",
    "SET k v PXAT 99",
    "SET k v EXAT 99",
    "SET EX PX",
    "PEXPIREAT k 99",
    "EXPIREAT k 99",
    "HPEXPIREAT h 99 FIELDS 1 f",
    "GETEX k",
    "GETEX k PERSIST",
    "restore k 0 payload REPLACE",
    "RESTORE k 99 payload ABSTTL",
    "RESTORE k 99 payload REPLACE absttl IDLETIME 1",
    "FUNCTION LOAD REPLACE code",
    "FUNCTION DELETE lib",
    "HSETEX h PXAT 99 FIELDS 1 f v",
]
LATE = [
    ("SET k v EX 100 NX", ["SET k v EX 100 NX", "PEXPIREAT k +100000"]),
    ("SET k v PXAT 1700000000500", ["SET k v PX 500", "PEXPIREAT k +500"]),
    ("SET k v EXAT 5", ["SET k v PX 1", "PEXPIREAT k 5000"]),
    ("SETEX k 100 v", ["SETEX k 100 v", "PEXPIREAT k +100000"]),
    ("psetex k 100 v", ["psetex k 100 v", "PEXPIREAT k +100"]),
    ("RESTORE k 100 payload REPLACE", ["RESTORE k 100 payload REPLACE", "PEXPIREAT k +100"]),
    ("RESTORE k 100 payload ABSTTL", ["RESTORE k 100 payload ABSTTL"]),
    ("EXPIRE k 100", ["PEXPIREAT k +100000"]),
    ("GETEX k EX 10", ["PEXPIREAT k +10000"]),
    ("SET k v NX", ["SET k v NX"]),
]


GROUPS = [
    ("XGROUP SETID s g 5-0 ENTRIESREAD 7", "XGROUP SETID s g 5-0"),
    ("xgroup setid s g $ entriesread -1", "XGROUP setid s g $"),
    ("XGROUP CREATE s g 0 ENTRIESREAD 7", "XGROUP CREATE s g 0"),
    ("XGROUP CREATE s g 0 MKSTREAM ENTRIESREAD 7", "XGROUP CREATE s g 0 MKSTREAM"),
    ("XGROUP CREATE s g 0 entriesread 7 mkstream", "XGROUP CREATE s g 0 MKSTREAM"),
]
OTHER_GROUPS = [
    "XGROUP SETID s g 5-0",
    "XGROUP CREATE s g 0",
    "XGROUP CREATE s g 0 MKSTREAM",
    "XGROUP CREATE s g 0 MKSTREAM mkstream",
    "XGROUP CREATECONSUMER s g c",
    "XGROUP DELCONSUMER s g c",
    "XGROUP DESTROY s g",
]


def words(text: str) -> list[bytes]:
    """Arguments of a command written with spaces; ``+n`` is n ms after NOW."""
    return [ms(int(word[1:])) if word[0] == "+" else word.encode() for word in text.split()]


@pytest.mark.parametrize(("given", "expected"), EXACT, ids=[given for given, _ in EXACT])
def test_relative_expiries_become_absolute(given: str, expected: str) -> None:
    """A lag between source and target must not lengthen a life; what a name is short of is added."""
    assert rewritten(given.encode().split()) == [words(expected)]


@pytest.mark.parametrize("given", UNCHANGED)
def test_absolute_forms_go_on_as_they_came(given: str) -> None:
    """What needs no change is not touched."""
    command = given.encode().split()
    assert rewritten(command) == [command]


@pytest.mark.parametrize(("given", "expected"), LATE, ids=[given for given, _ in LATE])
def test_a_target_without_pxat_is_told_behind_the_command(given: str, expected: list[str]) -> None:
    """Servers before 6.2 know PEXPIREAT but not PXAT."""
    assert rewritten(given.encode().split(), pxat=False) == [words(each) for each in expected]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 11, 4096])
@pytest.mark.parametrize(("given", "expected"), GROUPS, ids=[given for given, _ in GROUPS])
def test_entries_read_is_left_out_for_targets_that_refuse_it(given: str, expected: str, step: int) -> None:
    """Before 7.0 the whole command would be refused, and with it the group's position; its neighbours are not touched."""
    stream = [[b"INCR", b"a"], given.encode().split(), [b"INCR", b"b"]]
    assert rewritten(*stream, step=step) == stream
    assert rewritten(*stream, step=step, entries_read=False) == [stream[0], expected.encode().split(), stream[2]]


@pytest.mark.parametrize("given", OTHER_GROUPS)
def test_groups_without_entries_read_go_on_as_they_came(given: str) -> None:
    """Nothing else is taken for it, not even an option that is there twice."""
    command = given.encode().split()
    assert rewritten(command, entries_read=False) == [command]


DELETIONS = [
    ("DEL k", "UNLINK k"),
    ("del k", "UNLINK k"),
    ("DEL a b c d e f g h i j k l", "UNLINK a b c d e f g h i j k l"),
    ("DEL", "UNLINK"),
    ("UNLINK k", "UNLINK k"),
    ("DELEX k", "DELEX k"),
    ("HDEL h f", "HDEL h f"),
    ("SREM s DEL", "SREM s DEL"),
]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 11, 4096])
@pytest.mark.parametrize(("given", "expected"), DELETIONS, ids=[given for given, _ in DELETIONS])
def test_what_is_deleted_is_unlinked_where_that_is_allowed(given: str, expected: str, step: int) -> None:
    """A big key must not hold the target up; a target that does not take UNLINK is sent what the source sent."""
    stream = [[b"INCR", b"a"], given.encode().split(), [b"PING"], given.encode().split(), [b"INCR", b"b"]]
    without_ping = [each for each in stream if each != [b"PING"]]
    unlinked = [expected.encode().split() if each[0] != b"INCR" else each for each in without_ping]
    assert rewritten(*stream, step=step) == without_ping
    assert rewritten(*stream, step=step, unlink=True) == unlinked


def test_deletions_keep_their_offsets_databases_and_transactions() -> None:
    """The other name changes nothing of what is known about a command, nor where a piece may end."""
    commands = [[b"MULTI"], [b"DEL", b"a"], [b"DEL", b"b"], [b"EXEC"], [b"DEL", b"c"], [b"MULTI"], [b"DEL", b"d"]]
    data = [pack(each) for each in commands]
    splitter = StreamSplitter(0, 3, unlink=True)
    splitter.exclude(1 + len(b"".join(data[:2])))
    splitter.feed(b"".join(data), 0)
    piece = splitter.next_piece(1 << 20, 1 << 20)  # ends before the open transaction
    assert piece is not None
    assert piece.data == pack([b"UNLINK", b"a"]) + pack([b"UNLINK", b"c"])
    assert memoryview(piece.offsets).cast("Q").tolist() == [1 + len(data[0]), 1 + len(b"".join(data[:4]))]
    assert (piece.end_offset, piece.boundary, piece.db) == (len(b"".join(data[:5])), True, 3)
    splitter.feed(pack([b"EXEC"]), 0)
    (piece,) = drain(splitter)
    assert (piece.data, piece.boundary) == (pack([b"UNLINK", b"d"]), True)
    assert splitter.statistics()["commands"] == 4
    assert splitter.statistics()["excluded"] == 1


def test_two_commands_for_one_share_its_offset() -> None:
    """Every reply can be traced to the source's command, also where that became two."""
    splitter = StreamSplitter(0, 0, pxat=False)
    splitter.feed(pack([b"INCR", b"n"]) + pack([b"SETEX", b"k", b"1", b"v"]), NOW)
    (piece,) = drain(splitter)
    assert piece.replies == 3
    assert memoryview(piece.offsets).cast("Q").tolist() == [1, 22, 22]
    assert splitter.statistics()["commands"] == 2


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_the_time_is_that_of_the_first_byte(step: int) -> None:
    """A command counts from when its first byte was received, however late the rest comes."""
    command = pack([b"SET", b"k", b"v", b"EX", b"1"])
    splitter = StreamSplitter(0, 0)
    out = b""
    data = command * 3
    for number, at in enumerate(range(0, len(data), step)):
        splitter.feed(data[at : at + step], NOW + 1000 * number)
        out += b"".join(piece.data for piece in drain(splitter))
    times = [int(argv[4]) for argv in parse(out)]
    assert times == [NOW + 1000 + 1000 * (i * len(command) // step) for i in range(3)]


def test_times_are_kept_while_bytes_wait() -> None:
    """Feeds that pile up before a piece is taken keep their own times."""
    command = pack([b"EXPIRE", b"k", b"1"])
    splitter = StreamSplitter(0, 0)
    for number in range(50):
        splitter.feed(command, NOW + number)
    first = splitter.next_piece(1, 1)
    assert first is not None
    rest = drain(splitter)
    times = [int(argv[2]) for argv in parse(first.data + b"".join(piece.data for piece in rest))]
    assert times == [NOW + 1000 + number for number in range(50)]


def test_more_times_than_are_kept_fall_back_to_an_earlier_one() -> None:
    """Memory stays bounded however many feeds wait; a time is never later than the true one."""
    command = pack([b"EXPIRE", b"k", b"1"])
    splitter = StreamSplitter(0, 0)
    for number in range(200):
        splitter.feed(command, NOW + number)
    times = [int(argv[2]) - NOW - 1000 for argv in parse(b"".join(piece.data for piece in drain(splitter)))]
    assert times[:64] == list(range(64))
    assert times[64:] == [63] * 136


@pytest.mark.parametrize("number", [b"9223372036854775807", b"9" * 40, b"9223372036854775"])
@pytest.mark.parametrize("command", [b"EXPIRE", b"PEXPIRE"])
def test_absurd_expiries_do_not_overflow(command: bytes, number: bytes) -> None:
    """A time beyond all times stays a valid one in the far future."""
    ((_, _, at),) = rewritten([command, b"k", number])
    assert NOW + 9_000_000_000_000_000 <= int(at) <= NEVER + NOW


def test_a_time_before_the_epoch_is_the_first_millisecond() -> None:
    """0 would mean "no expiry" to RESTORE and is refused by SET."""
    assert rewritten([b"PEXPIRE", b"k", b"-" + b"9" * 30]) == [[b"PEXPIREAT", b"k", b"1"]]


def test_rewriting_keeps_neighbours_in_order() -> None:
    """Runs before, between and behind rewritten and dropped commands arrive whole and in order."""
    stream, expected = [], []
    for i in range(300):
        plain = [b"SET", b"k%d" % i, b"v" * (i % 50)]
        stream += [plain, [b"PING"], [b"SETEX", b"s%d" % i, b"1", b"x"], [b"MULTI"], plain, [b"EXEC"]]
        expected += [plain, [b"SET", b"s%d" % i, b"x", b"PXAT", ms(1000)], plain]
    assert rewritten(*stream, piece_bytes=256) == expected
