"""What the kernel knows of keys, against what servers say of the same commands."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portd.kernel.keyspecs import KNOWN, USES, KeySpecs
from portd.kernel.slots import SLOTS, key_slot
from tests.keytable import BY_HAND, PATH, contained, merged, read, tells_uses, told, written
from tests.oracle.strategies import effort
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.conftest import ServerFactory
    from tests.servers import Binary

FUZZ = effort(40)

KEYS: Final = st.sampled_from([b"a", b"b", b"{t}c", b"", b"\r\n$1\r\n", b"k" * 70])
# Arguments of commands whose keys are found by words or counts; ``k`` is any key, ``v`` anything, also one of the words.
SHAPES: Final = [
    "ZUNIONSTORE k 2 k k", "ZINTERSTORE k 3 k k k WEIGHTS 1 2 3", "ZDIFFSTORE k 1 k", "ZUNION 2 k k WITHSCORES",
    "ZINTER 1 k", "ZDIFF 2 k k", "ZINTERCARD 2 k k LIMIT 1", "SINTERCARD 2 k k LIMIT 2", "LMPOP 2 k k LEFT",
    "ZMPOP 1 k MIN COUNT 2", "BLMPOP 0 2 k k RIGHT", "BZMPOP 0 1 k MAX", "MSETEX 2 k v k v EX 9", "EVAL v 2 k k v v",
    "EVAL v 0 v", "EVALSHA v 1 k", "EVAL_RO v 1 k", "EVALSHA_RO v 1 k", "FCALL v 1 k v", "FCALL_RO v 2 k k",
    "XREAD COUNT 1 STREAMS k k 0 0", "XREAD BLOCK 1 STREAMS k 0", "XREADGROUP GROUP g v COUNT 2 STREAMS k k > >",
    "SORT k", "SORT k BY v LIMIT 0 1 GET v GET v ASC STORE k", "SORT k STORE k ALPHA", "SORT k STORE k STORE k",
    "SORT_RO k BY v GET v", "GEORADIUS k 0 0 1 m COUNT 1 STORE k", "GEORADIUS k 0 0 1 m STOREDIST k ASC",
    "GEORADIUSBYMEMBER k m 1 m STORE k", "GEORADIUSBYMEMBER k m 1 km COUNT 2", "GEORADIUS_RO k 0 0 1 m",
    "MIGRATE h 1 k 0 1", "MIGRATE h 1 x 0 1 COPY AUTH v", "MIGRATE h 1 EMPTY 0 1 COPY KEYS k k", "SET k v", "SET k v GET PX 5", "SET k v EX 5 XX",
    "BITFIELD k GET u8 0", "BITFIELD k GET u8 0 SET u8 0 1", "BITFIELD k OVERFLOW FAIL INCRBY u8 0 1", "MSET k v k v",
    "MSETNX k v", "DEL k k k", "UNLINK k", "BITOP AND k k k", "SINTERSTORE k k k", "PFMERGE k k k", "PFCOUNT k k",
    "COPY k k", "RENAME k k", "LMOVE k k LEFT LEFT", "SMOVE k k m", "XGROUP CREATE k g 0", "XGROUP SETID k g 0",
    "XGROUP DESTROY k g", "XGROUP DELCONSUMER k g c", "BLPOP k k 0", "GETEX k EX 1", "RESTORE k 0 v", "LCS k k",
    "GEOSEARCHSTORE k k FROMMEMBER m BYRADIUS 1 m", "ZRANGESTORE k k 0 1", "GETDEL k", "MOVE k 1", "XADD k * f v",
]  # fmt: skip
# Before 7.0 the functions of servers look for words where none can stand, and know less of subcommands.
SINCE_7: Final = {"XGROUP"}
# GETKEYS of these looks at the name behind STORE as at an option, or takes the first STORE, where they execute the last.
STORING: Final = {"SORT", "GEORADIUS", "GEORADIUSBYMEMBER"}
UNTOLD: Final = {"PFDEBUG"}  # before 7.0
VALUES: Final = st.sampled_from([b"v", b"x*->y", b"GET", b"BY", b"STREAMS", b"KEYS", b"LIMIT", b"w" * 70])
WORDS: Final = st.sampled_from(
    [
        b"0",
        b"1",
        b"2",
        b"3",
        b"-1",
        b"a",
        b"b",
        b"c",
        b"store",
        b"STREAMS",
        b"get",
        b"by",
        b"limit",
        b"CREATE",
        b"keys",
        b"x",
    ]
)


@st.composite
def shaped(draw: st.DrawFn, names: frozenset[str]) -> tuple[bytes, ...]:
    """A command that servers would execute, as far as its arguments go."""
    words = draw(st.sampled_from([shape for shape in SHAPES if shape.split()[0] in names])).split()
    return tuple(
        draw(KEYS) if word == "k" else draw(VALUES) if word == "v" else b"" if word == "EMPTY" else word.encode()
        for word in words
    )


@st.composite
def random_command(draw: st.DrawFn, names: frozenset[str]) -> tuple[bytes, ...]:
    """A name, and words behind it that make sense by chance."""
    return (draw(st.sampled_from(sorted(names))).encode(), *draw(st.lists(WORDS, min_size=1, max_size=7)))


def ours(command: tuple[bytes, ...]) -> Counter[tuple[bytes, int]] | None:
    """What the kernel says; None when it says that arguments do not fit, or that nobody knows the subcommand."""
    try:
        places = KNOWN.places(command)
    except ValueError:
        return None
    return None if places is None else Counter((command[index], use) for index, use in places)


def check(wire: Wire, commands: list[tuple[bytes, ...]], *, flags: bool, exact: bool) -> None:
    """Compares the keys of commands.

    Args:
        wire: to a server.
        commands: what is compared.
        flags: the server tells what becomes of keys.
        exact: what it refuses must not fit here, either.
    """
    question = "GETKEYSANDFLAGS" if flags else "GETKEYS"
    replies = wire.many([("COMMAND", question, *command) for command in commands], errors=True)
    for command, reply in zip(commands, replies, strict=True):
        found = ours(command)
        where = (command, reply, found)
        if not isinstance(reply, list):
            if "no key arguments" in str(reply) or (exact and "Invalid arguments" in str(reply)):
                assert not found, where
        elif found is None and not exact and not reply:
            continue  # fewer arguments than the count says: a server names no key then
        elif flags and command[0].decode() not in BY_HAND:
            assert found == Counter((key, sum(USES[use.decode()] for use in uses)) for key, uses in reply), where
        else:
            assert found is not None, where
            assert sorted(key for key, _ in found.elements()) == sorted(key[0] if flags else key for key in reply), (
                where
            )


def test_keys_are_where_servers_say(binary: Binary, servers: ServerFactory) -> None:
    """Whatever stands in the arguments: the keys, and what becomes of them, are what the server's own code says."""
    server = servers(binary)
    since_7 = tells_uses(binary)
    with Wire(server) as wire:
        names = frozenset(row[0].decode().upper() for row in wire.call("COMMAND"))
        plain = names - STORING
        known = names - (frozenset() if since_7 else SINCE_7)

        @given(st.lists(shaped(known), min_size=20, max_size=20))
        @FUZZ
        def of_shape(commands: list[tuple[bytes, ...]]) -> None:
            check(wire, commands, flags=since_7, exact=True)

        @given(st.lists(random_command(plain), min_size=20, max_size=20))
        @FUZZ
        def of_chance(commands: list[tuple[bytes, ...]]) -> None:
            check(wire, commands, flags=since_7, exact=False)

        of_shape()
        if since_7:
            of_chance()


def test_the_table_is_what_servers_tell(binary: Binary, servers: ServerFactory) -> None:
    """What the script makes of this server and of the table that is there is that table."""
    assert written(merged([(binary, told(servers(binary)))])) == PATH.read_text(encoding="utf-8")


def test_every_command_of_a_server_is_known(binary: Binary, servers: ServerFactory) -> None:
    """None is left whose keys nobody knows."""
    with Wire(servers(binary)) as wire:
        names = [row[0] for row in wire.call("COMMAND")]
    assert [name for name in names if not KNOWN.knows(name)] == []


def test_what_a_server_tells_makes_a_command_known(binary: Binary, servers: ServerFactory) -> None:
    """Its own COMMAND, under names that the table does not have, says the same as the table, of any version."""
    table = read()
    tells = {name: text for name, text in told(servers(binary)).items() if name not in UNTOLD}
    specs = KeySpecs({b"m." + name.encode(): text for name, text in tells.items()})
    compared = 0
    for name in tells:
        if "|" in name or contained(name, table):
            continue
        for size in range(1, 8):
            command = (name.encode(), *[b"2"] * size)
            try:
                wanted, found = KNOWN.places(command), specs.places((b"m." + command[0], *command[1:]))
            except ValueError:
                continue
            assert [at for at, _ in found or ()] == [at for at, _ in wanted or ()], command
            assert KNOWN.places((b"m." + command[0], *command[1:])) is None
            compared += 1
    assert compared > 500


KEY = st.binary(max_size=20) | st.lists(st.sampled_from([b"{", b"}", b"a", b"b"]), max_size=9).map(b"".join)


@pytest.mark.parametrize("size", [0, 100_000])
def test_slots_are_those_of_a_cluster(binary: Binary, servers: ServerFactory, size: int) -> None:
    """The slot of any key, tagged in any way, is what CLUSTER KEYSLOT says."""
    with Wire(servers(binary, cluster_enabled=True)) as wire:

        @given(st.lists(KEY, min_size=20, max_size=20))
        @FUZZ
        def one(keys: list[bytes]) -> None:
            names = [b"x" * size + key for key in keys]
            found = [key_slot(name) for name in names]
            assert found == wire.many([("CLUSTER", "KEYSLOT", name) for name in names])
            assert all(0 <= slot < SLOTS for slot in found)

        one()
