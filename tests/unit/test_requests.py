"""Commands inside bytes that were sent: which one is which, what its key is, and the bytes without it."""

from __future__ import annotations

import struct

import pytest

from portd.kernel.requests import Command, find, head, of_keys, singles, split, without
from portd.net.resp import request

COMMANDS = [
    request("SET", "a", "1"),
    request("select", "3"),
    request("RPUSH", "list", "$3\r\nx\r\n", "*2\r\n"),
    request("PING"),
    request("SELECT", "many"),
    request("HSET", "\xff", "f", ""),
]
DATA = b"".join(COMMANDS)


def offsets(*numbers: int) -> bytes:
    """Offsets as a piece has them."""
    return struct.pack(f"={len(numbers)}Q", *numbers)


def test_finds_commands_by_number() -> None:
    """Name, key, extent and database of those that are wanted; a SELECT counts from itself on."""
    found = find(DATA, [0, 1, 2, 3, 5], 7)
    assert [(each.name, each.key, each.db, each.keys) for each in found] == [
        (b"SET", b"a", 7, 1),
        (b"SELECT", b"", 3, 0),
        (b"RPUSH", b"list", 3, 1),
        (b"PING", b"", 3, 0),
        (b"HSET", "\xff".encode(), 3, 1),
    ]
    assert [DATA[each.start : each.end] for each in found] == [COMMANDS[n] for n in (0, 1, 2, 3, 5)]
    assert [each.title for each in find(DATA, [2])] == ["RPUSH"]
    assert find(DATA, [2], -1)[0].db == 3
    assert find(DATA, []) == []


def test_says_how_many_commands_there_are() -> None:
    """A number behind the last one is an error that tells their count; so are numbers in disorder."""
    with pytest.raises(IndexError) as caught:
        find(DATA, [6])
    assert caught.value.args == (6,)
    for numbers in ([2, 1], [-1]):
        with pytest.raises(ValueError, match="ascend"):
            find(DATA, numbers)


@pytest.mark.parametrize(
    "data",
    [b"PING\r\n", b"*x\r\n", b"*1\r\n+OK\r\n", b"*1\r\n$01\r\nx\r\n", b"*99999999999\r\n", b"*-1\r\n"],
)
def test_what_is_no_request_is_an_error(data: bytes) -> None:
    """Bytes that no server would take are never read as a command."""
    with pytest.raises(ValueError, match="RESP"):
        split(data)


def test_a_cut_command_is_never_read_beyond_its_end() -> None:
    """At every byte, commands that are whole are told, and of the one that is cut what is there."""
    ends = [sum(map(len, COMMANDS[:n])) for n in range(len(COMMANDS) + 1)]
    for size in range(len(DATA)):
        whole = sum(end <= size for end in ends) - 1
        assert len(split(DATA[:size])) == whole
    assert (head(DATA[:10]).name, head(DATA[:13]).name, head(DATA[:20]).key) == (b"", b"SET", b"a")
    assert split(b"*3\r\n$3\r\nSET\r\n$99999999999999999\r\nx") == []


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("EVAL", "return 1", 2, "k", "l", "a"), b"k"),
        (("EVALSHA", "sha", 0, "a"), b""),
        (("FCALL", "f", 1, "k"), b"k"),
        (("ZUNIONSTORE", "to", 2, "a", "b"), b"to"),
        (("ZUNION", 2, "a", "b"), b"a"),
        (("LMPOP", 1, "k", "LEFT"), b"k"),
        (("BLMPOP", 0, 1, "k", "LEFT"), b"k"),
        (("SINTERCARD", 2, "a", "b"), b"a"),
        (("MSETEX", 1, "k", "v"), b"k"),
        (("XGROUP", "CREATE", "k", "g", "0"), b"k"),
        (("BITOP", "AND", "to", "a"), b"to"),
        (("OBJECT", "FREQ", "k"), b"k"),
        (("MEMORY", "USAGE", "k"), b"k"),
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", "k", ">"), b"k"),
        (("MIGRATE", "host", 1, "k", 0, 1), b"k"),
        (("MIGRATE", "host", 1, "", 0, 1, "KEYS", "k", "l"), b"k"),
        (("MSETNX", "a", 1, "b", 2), b"a"),
        (("FUNCTION", "LOAD", "code"), b""),
        (("SWAPDB", 0, 1), b""),
        (("EVAL", "s", "many", "k"), b""),
        (("EVAL", "s"), b""),
        (("nobody.knows", "k"), b"k"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_first_keys(arguments: tuple[str | int, ...], key: bytes) -> None:
    """A letter names the key of a command, wherever that stands among the arguments."""
    assert head(request(*arguments)).key == key


def test_commands_of_keys() -> None:
    """All commands of the keys in their order, and how many."""
    data, count = of_keys(DATA + COMMANDS[0] + COMMANDS[2], {b"a", b"list"})
    assert (data, count) == (COMMANDS[0] + COMMANDS[2] + COMMANDS[0] + COMMANDS[2], 4)
    assert of_keys(DATA, set()) == (b"", 0)


def test_an_mset_in_pieces() -> None:
    """Every pair becomes a SET, whatever bytes it is of."""
    pairs = ("a", "1", "", "\r\n", "*3\r\n", "")
    data = COMMANDS[0] + request("MSET", *pairs)
    expected = b"".join(request("SET", *pairs[at : at + 2]) for at in range(0, 6, 2))
    assert singles(data, split(data)[1]) == (expected, 3)
    with pytest.raises(ValueError, match="RESP"):
        singles(b"", split(data)[1])


@pytest.mark.parametrize(
    ("of", "gone", "left"),
    [
        ((1, 2, 3, 4, 5, 6), [], [0, 1, 2, 3, 4, 5]),
        ((1, 2, 3, 4, 5, 6), [0], [1, 2, 3, 4, 5]),
        ((1, 2, 3, 4, 5, 6), [1, 2, 5], [0, 3, 4]),
        ((1, 2, 3, 4, 5, 6), [0, 1, 2, 3, 4, 5], []),
        ((1, 2, 2, 4, 4, 6), [1], [0, 3, 4, 5]),
        ((1, 2, 2, 4, 4, 4), [2, 5], [0]),
        ((1, 2, 2, 4, 4, 6), [1, 2, 5], [0, 3, 4]),
    ],
)
def test_leaves_commands_out(of: tuple[int, ...], gone: list[int], left: list[int]) -> None:
    """What is left is byte for byte as it was; commands of one offset go together, on either side."""
    found = without(DATA, offsets(*of), gone)
    assert found == (b"".join(COMMANDS[n] for n in left), offsets(*(of[n] for n in left)))


def test_leaves_nothing_out_that_is_not_there() -> None:
    """Numbers without a command are an error, never a read beyond the end."""
    for numbers in ([6], [-1], [2**40]):
        with pytest.raises(IndexError):
            without(DATA, offsets(1, 2, 3, 4, 5, 6), numbers)
    with pytest.raises(IndexError):
        without(COMMANDS[0], offsets(1, 2), [1])


def test_commands_are_not_made() -> None:
    """A command is always one of some bytes."""
    with pytest.raises(TypeError):
        Command()
