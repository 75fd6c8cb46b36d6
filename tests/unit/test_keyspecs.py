"""Where keys stand, what becomes of them, and their slots: what needs no server."""

from __future__ import annotations

import pytest

from portd.kernel.commandtable import CommandTable
from portd.kernel.keyspecs import KNOWN, USES, KeySpecs
from portd.kernel.keytable import TABLE
from portd.kernel.slots import key_slot
from portd.net.commands import key_specs, writes
from tests.unit.stream_split.kit import refusals, split


def places(command: str, specs: KeySpecs = KNOWN) -> list[tuple[int, str]] | None:
    """Keys of a command with words for what becomes of them."""
    found = specs.places([word.encode() for word in command.split(" ")])
    return found if found is None else [(at, " ".join(w for w, bit in USES.items() if use & bit)) for at, use in found]


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("set k v", [(1, "OW update")]),
        ("SET k v NX get", [(1, "RW access update")]),
        ("SET k get", [(1, "OW update")]),
        ("BITFIELD k GET u8 0 OVERFLOW SAT GET u8 8", [(1, "RO access")]),
        ("BITFIELD k GET u8 0 SET u8 8 1", [(1, "RW access update")]),
        ("MSET a 1 b 2", [(1, "OW update"), (3, "OW update")]),
        ("DEL a b", [(1, "RM delete"), (2, "RM delete")]),
        ("RENAME a b", [(1, "RW access delete"), (2, "OW update")]),
        ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", [(1, "OW update"), (3, "RO access"), (4, "RO access")]),
        ("SORT k BY store GET store LIMIT 0 store", [(1, "RO access")]),
        ("SORT k GET STORE STORE a STORE b", [(1, "RO access"), (7, "OW update")]),
        ("GEORADIUS k 0 0 1 m STORE d", [(1, "RO access"), (7, "OW update")]),
        ("XREAD COUNT 2 STREAMS a b 0 0", [(4, "RO access"), (5, "RO access")]),
        ("XREADGROUP GROUP STREAMS STREAMS STREAMS a >", [(5, "RO access")]),
        ("EVAL s 0 a b", []),
        ("FCALL f 1 a b", [(3, "RW access update")]),
        ("MSETEX 2 a 1 b 2 EX 5", [(2, "OW update"), (4, "OW update")]),
        ("XGROUP CREATE k g 0", [(2, "RW insert")]),
        ("xgroup destroy k g", [(2, "RW delete")]),
        ("XGROUP HELP", []),
        ("MIGRATE h 1 k 0 1 AUTH KEYS", [(3, "RW access delete")]),
        ("MIGRATE h 1  0 1 AUTH KEYS KEYS a b", [(9, "RW access delete"), (10, "RW access delete")]),
        ("PFMERGE d", [(1, "RW access insert")]),
        ("SPUBLISH c m", []),
        ("FLUSHDB", []),
        ("XGROUP INVENTED k", None),
        ("XGROUP", None),
        ("invented.command k", None),
    ],
)
def test_where_keys_stand(command: str, wanted: list[tuple[int, str]] | None) -> None:
    """Options, words that are values, counts and subcommands decide as they do in servers; what is not known is said."""
    assert places(command) == wanted


@pytest.mark.parametrize(
    "command",
    [
        "SET",
        "EVAL s 2 a",
        "EVAL s -1 a",
        "EVAL s many a",
        "EVAL s",
        "RENAME a",
        "ZUNIONSTORE d 1",
        "MIGRATE h 1",
    ],
)
def test_arguments_that_do_not_say_where_keys_are(command: str) -> None:
    """They are refused, never guessed: a filter would pass what it must not."""
    with pytest.raises(ValueError, match="where its keys are"):
        places(command)


def test_slots_of_a_command() -> None:
    """One slot for each hash tag; a channel has one, too."""
    assert KNOWN.slots([b"MSET", b"{a}1", b"v", b"x{a}{b}", b"v"]) == frozenset({key_slot(b"a")})
    assert KNOWN.slots([b"SPUBLISH", b"c{a}", b"m"]) == frozenset({key_slot(b"a")})
    assert KNOWN.slots([b"PUBLISH", b"c", b"m"]) == frozenset()
    assert KNOWN.slots([b"invented.command", b"k"]) is None


@pytest.mark.parametrize(
    ("key", "slot"),
    [(b"", 0), (b"123456789", 12739), (b"foo{}{bar}", 8363), (b"foo{{bar}}zap", 4015), (b"{", 4092)],
)
def test_slots_of_keys(key: bytes, slot: int) -> None:
    """CRC-16/XMODEM of the first tag that is not empty, else of the whole name; figures of CLUSTER KEYSLOT."""
    assert key_slot(key) == slot


ROW: list[object] = [b"mod.put", -3, [b"write", b"module"], 1, -1, 2]
WHERE = [b"type", b"keyword", b"spec", [b"keyword", b"into", b"startfrom", 2]]
COUNTED = [b"type", b"keynum", b"spec", [b"keynumidx", 0, b"firstkey", 1, b"keystep", 2]]
SPEC: list[object] = [b"flags", [b"OW", b"update"], b"begin_search", WHERE, b"find_keys", COUNTED]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (ROW, "1:-1/2 RW access update"),
        ([*ROW[:3], 2, 4, 1], "2:2 RW access update"),
        ([*ROW[:2], [b"readonly"], 0, 0, 0], "none"),
        ([*ROW[:2], [b"write", b"movablekeys"], 1, 1, 1], None),
        ([*ROW, [], [], [SPEC], []], "INTO@2#/2 OW update"),
        ([*ROW, [], [], [[b"flags", [b"RW", b"incomplete"], *SPEC[2:]]], []], None),
        ([*ROW, [], [], [[b"flags", [], b"begin_search", [b"type", b"unknown", b"spec", []], *SPEC[4:]]], []], None),
        ([*ROW, [], [], [b"an answer of another kind"], []], None),
    ],
)
def test_rows_of_commands(row: list[object], text: str | None) -> None:
    """What a server tells in a row, of any version; a row that does not tell all leaves its command unknown."""
    assert key_specs([row]) == ({} if text is None else {b"MOD.PUT": text})
    assert writes(row) == (b"write" in row[2])  # type: ignore[operator]


def test_a_server_tells_of_its_modules() -> None:
    """A command that nobody knew is known then; what the table has, and what cannot be read, stays as it was."""
    told = {
        b"mod.put": "INTO@2#/2 OW update",
        b"mod.wild": "1 of everything",
        b"GET": "2 RM delete",
        b"mod.all": "none",
    }
    specs = KeySpecs(told)
    assert places("MOD.PUT x INTO 2 a 1 b 2", specs) == [(4, "OW update"), (6, "OW update")]
    assert (specs.knows(b"Mod.Put"), specs.knows(b"mod.wild"), KNOWN.knows(b"mod.put")) == (True, False, False)
    assert (places("GET k", specs), places("mod.all x", specs)) == ([(1, "RO access")], [])


def test_the_stream_uses_what_a_server_tells() -> None:
    """A key of ours in a module's command is found where the target says that it stands."""
    told = KeySpecs({b"mod.copy": "2 OW update"})
    command = [b"mod.copy", b"portd:other", b"portd:mine:a"]
    (piece,) = split(command, own=b"portd:mine:", commands=CommandTable(keys=told))
    assert (piece.data, piece.own) == (b"", 1)
    (piece,) = split(command, own=b"portd:mine:")
    assert (piece.own, refusals(piece)) == (0, [])


def test_every_text_of_the_table_is_read() -> None:
    """All names of the table are known, each once."""
    names = [name for text in TABLE.values() for name in text.split()]
    assert len(names) == len(set(names))
    assert all(KNOWN.knows(name.encode()) for name in names)
