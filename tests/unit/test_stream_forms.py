"""The stream splitter: commands that the target does not know go on in the form that it knows."""

from __future__ import annotations

from typing import Any

import pytest

from portd.kernel.commandtable import CommandTable
from portd.kernel.crc64 import crc64
from portd.kernel.forms import FORMS, NONE, Forms, lacking
from portd.kernel.snapshot import Dialect
from portd.kernel.stream import StreamSplitter
from tests.oracle.resp import drain, pack
from tests.unit.test_stream_rewrite import NOW, parse, words

LARGE = b"v" * 3000
BEFORE, BEHIND = [b"INCR", b"before"], [b"INCR", b"behind"]
OLD, SEVEN, VALKEY_8, NEW = ("redis", (5, 0)), ("redis", (7, 0)), ("valkey", (8, 0)), ("valkey", (9, 1))
FOUR, SEVEN_4, SIX = ("redis", (4, 0)), ("redis", (7, 4)), ("redis", (6, 0))
REDIS_8_6 = ("redis", (8, 6, 3))

# Release of the target, command, commands that it becomes; * stands for the text of a script.
ROWS = [
    (NEW, "XADD s MAXLEN = 5 LIMIT 10 1-1 f v", ["XADD s MAXLEN = 5 1-1 f v"]),
    (NEW, "xadd s nomkstream minid = 5 limit 10 1-1 f v", ["XADD s nomkstream minid = 5 1-1 f v"]),
    (NEW, "XADD s MAXLEN 5 LIMIT 10 1-1 f v", ["XADD s MAXLEN 5 1-1 f v"]),
    (NEW, "XADD s MAXLEN ~ 5 LIMIT 10 1-1 f v", None),
    (NEW, "XADD s 1-1 LIMIT 10", None),
    (NEW, "XTRIM s MAXLEN = 5 LIMIT 10", ["XTRIM s MAXLEN = 5"]),
    (NEW, "XTRIM s MINID = 5-1", None),
    (NEW, "XADD s KEEPREF MAXLEN = 5 1-1 f v", ["XADD s MAXLEN = 5 1-1 f v"]),
    (NEW, "XADD s DELREF MAXLEN = 5 1-1 f v", ["XADD s 1-1 f v", "EVAL * 1 s MAXLEN 5 DELREF 0"]),
    (NEW, "XADD s ACKED NOMKSTREAM MINID 5 LIMIT 0 1-1 f v", ["XADD s 1-1 f v", "EVAL * 1 s MINID 5 ACKED 0"]),
    (OLD, "XADD s MINID = 5 DELREF 9-1 f v", ["XADD s 9-1 f v", "EVAL * 1 s MINID 5 DELREF 0"]),
    (NEW, "XADD s DELREF 1-1 f v", ["XADD s 1-1 f v"]),
    (NEW, "XTRIM s ACKED MAXLEN = 5", ["EVAL * 1 s MAXLEN 5 ACKED 0"]),
    (REDIS_8_6, "XADD s DELREF MAXLEN = 5 1-1 f v", None),
    (REDIS_8_6, "XADD s DELREF MAXLEN = 5 LIMIT 3 1-1 f v", ["XADD s DELREF MAXLEN = 5 1-1 f v"]),
    (NEW, "XADD s IDMP p i 1-1 f v", ["XADD s 1-1 f v"]),
    (NEW, "XADD s IDMP p i * f v", []),
    (NEW, "XADD s IDMPAUTO p KEEPREF MAXLEN = 5 LIMIT 7 1-1 f v", ["XADD s MAXLEN = 5 1-1 f v"]),
    (NEW, "XADD s 1-1 IDMP p", None),
    (NEW, "XADD s * f v", None),
    (OLD, "XADD s IDMP p i MINID = 5 9-1 f v", ["EVAL * 1 s 5", "XADD s 9-1 f v"]),
    (REDIS_8_6, "XADD s IDMP p i 1-1 f v", ["XADD s 1-1 f v", "EVAL * 1 s p i 1-1"]),
    (
        REDIS_8_6,
        "XADD s ACKED IDMP p i MAXLEN = 5 1-1 f v g w",
        ["XADD s ACKED MAXLEN = 5 1-1 f v g w", "EVAL * 1 s p i 1-1"],
    ),
    (REDIS_8_6, "XADD s IDMPAUTO p 1-1 f v", ["XADD s 1-1 f v"]),
    (REDIS_8_6, "XADD s IDMPAUTO p * f v", []),
    (NEW, "XCFGSET s IDMP-DURATION 5", []),
    (NEW, "XIDMPRECORD s p i 1-1", []),
    (REDIS_8_6, "XCFGSET s IDMP-DURATION 5", None),
    (REDIS_8_6, "XIDMPRECORD s p i 1-1", None),
    (NEW, "XACKDEL s g IDS 1 1-1", ["XACK s g 1-1", "XDEL s 1-1"]),
    (NEW, "XACKDEL s g KEEPREF IDS 2 1-1 2-1", ["EVAL * 1 s g KEEPREF IDS 2 1-1 2-1"]),
    (NEW, "XACKDEL s g ACKED IDS 1 1-1", ["EVAL * 1 s g ACKED IDS 1 1-1"]),
    (REDIS_8_6, "XACKDEL s g ACKED IDS 1 1-1", None),
    (NEW, "BITOP ONE d a", ["BITOP OR d a"]),
    (NEW, "BITOP ONE d a d", ["BITOP XOR d a d"]),
    (NEW, "BITOP ONE d a b c", ["EVAL * 4 d a b c ONE"]),
    (NEW, "BITOP DIFF d a b c", ["BITOP OR d b c", "BITOP AND d d a", "BITOP XOR d d a"]),
    (NEW, "BITOP DIFF1 d a b c", ["BITOP OR d a b c", "BITOP XOR d d a"]),
    (NEW, "BITOP ANDOR d a b", ["BITOP OR d b", "BITOP AND d d a"]),
    (NEW, "BITOP DIFF d a d", ["EVAL * 3 d a d DIFF"]),
    (NEW, "BITOP XOR d a b", None),
    (REDIS_8_6, "BITOP DIFF d a b", None),
    (OLD, "XADD s NOMKSTREAM MAXLEN ~ 5 LIMIT 10 1-1 f v", ["XADD s MAXLEN ~ 5 1-1 f v"]),
    (OLD, "XADD s NOMKSTREAM MINID = 5 9-1 f v", ["EVAL * 1 s 5", "XADD s 9-1 f v"]),
    (OLD, "XADD s MINID = 5-7 5-6 f v", ["XADD s MAXLEN = 0 5-6 f v"]),
    (OLD, "XADD s MINID = 05-7 10-6 f v", ["EVAL * 1 s 05-7", "XADD s 10-6 f v"]),
    (OLD, "XTRIM s MINID ~ 5 LIMIT 3", ["EVAL * 1 s 5"]),
    (OLD, "XSETID s 9-1 ENTRIESADDED 5 MAXDELETEDID 1-1", ["XSETID s 9-1"]),
    (OLD, "XSETID s 9-1", None),
    (SEVEN, "XSETID s 9-1 ENTRIESADDED 5 MAXDELETEDID 1-1", None),
    (OLD, "XGROUP CREATECONSUMER s g c", ["XREADGROUP GROUP g c COUNT 1 STREAMS s 0"]),
    (OLD, "XGROUP DELCONSUMER s g c", None),
    (OLD, "XGROUP SETID s g 5-0 ENTRIESREAD 7", ["XGROUP SETID s g 5-0"]),
    (NEW, "XDELEX s KEEPREF IDS 2 1-1 2-1", ["XDEL s 1-1 2-1"]),
    (NEW, "XDELEX s IDS 1 1-1", ["XDEL s 1-1"]),
    (NEW, "XDELEX s ACKED IDS 1 1-1", ["EVAL * 1 s ACKED IDS 1 1-1"]),
    (OLD, "XCLAIM s g c 0 1-1 FORCE JUSTID", ["EVAL * 1 s g c 0 1-1 FORCE JUSTID"]),
    (SEVEN, "XCLAIM s g c 0 1-1 FORCE JUSTID", None),
    (OLD, "SET k v KEEPTTL", ["EVAL * 1 k v KEEPTTL"]),
    (SIX, "SET k v KEEPTTL", None),
    (SIX, "SET k v KEEPTTL GET XX", ["SET k v KEEPTTL"]),
    (SIX, "SET k v GET PXAT +500", ["SET k v PX 500", "PEXPIREAT k +500"]),
    (OLD, "SET k v NX", None),
    (OLD, "SET k v GET GIBBERISH", None),
    (SEVEN, "SET k v IFEQ PXAT", ["SET k v"]),
    (SEVEN, "SET k v IFEQ old PXAT +500", ["SET k v PXAT +500"]),
    (SEVEN, "SET k v IFEQ old EX 5", ["SET k v PXAT +5000"]),
    (SEVEN, "SET k v GET PXAT +500", None),
    (NEW, "SET k v IFEQ old", None),
    (NEW, "SET k v IFDNE 12ab GET", ["SET k v"]),
    (NEW, "DELEX k IFEQ v", ["DEL k"]),
    (VALKEY_8, "DELIFEQ k v", ["DEL k"]),
    (NEW, "DELIFEQ k v", None),
    (SEVEN, "MSETEX 2 a 1 b 2", ["MSET a 1 b 2"]),
    (SEVEN, "MSETEX 2 a 1 b 2 NX EX 5", ["MSET a 1 b 2", "PEXPIREAT a +5000", "PEXPIREAT b +5000"]),
    (SEVEN, "MSETEX 2 a PX b 2 XX KEEPTTL", ["SET a PX KEEPTTL", "SET b 2 KEEPTTL"]),
    (OLD, "MSETEX 1 a 1 KEEPTTL", ["EVAL * 0 1 a 1 KEEPTTL"]),
    (OLD, "MSETEX 1 a 1 PXAT +5", ["MSET a 1", "PEXPIREAT a +5"]),
    (SEVEN, "MSETEX 3 a 1", None),
    (NEW, "MSETEX 1 a 1 XX EX 5", ["MSETEX 1 a 1 PXAT +5000"]),
    (NEW, "MSETEX 1 a 1 PXAT +5", None),
    (OLD, "COPY a b", ["EVAL * 2 a b"]),
    (OLD, "COPY a b DB 3 REPLACE", ["EVAL * 2 a b DB 3 REPLACE"]),
    (SEVEN, "COPY a b", None),
    (OLD, "PEXPIREAT k 99 GT", ["PEXPIREAT k 99"]),
    (OLD, "EXPIREAT k 99 NX", ["PEXPIREAT k 99000"]),
    (OLD, "EXPIRE k 5 XX", ["PEXPIREAT k +5000"]),
    (SEVEN, "PEXPIREAT k 99 GT", None),
    (OLD, "FLUSHALL SYNC", ["FLUSHALL"]),
    (OLD, "flushdb sync", ["FLUSHDB"]),
    (OLD, "FLUSHDB ASYNC", None),
    (OLD, "LPOP l 3", ["LTRIM l 3 -1"]),
    (OLD, "RPOP l 3", ["LTRIM l 0 -4"]),
    (OLD, "LPOP l", None),
    (SEVEN, "LPOP l 3", None),
    (OLD, "LMOVE a b RIGHT LEFT", ["RPOPLPUSH a b"]),
    (OLD, "LMOVE a b LEFT LEFT", ["EVAL * 2 a b LEFT LEFT"]),
    (SEVEN, "HSETEX h PXAT 99 FIELDS 2 a 1 b 2", ["HSET h a 1 b 2"]),
    (SEVEN, "HSETEX h FNX FIELDS 1 a 1", ["HSET h a 1"]),
    (SEVEN, "HSETEX h KEEPTTL FIELDS 1 a 1", ["HSET h a 1"]),
    (SEVEN_4, "HSETEX h FXX EX 5 FIELDS 2 a 1 b 2", ["HSET h a 1 b 2", "HPEXPIREAT h +5000 FIELDS 2 a b"]),
    (SEVEN_4, "HSETEX h KEEPTTL FIELDS 1 a 1", ["EVAL * 1 h KEEPTTL FIELDS 1 a 1"]),
    (NEW, "HSETEX h FIELDS 2 a 1 b 2 PXAT 99", ["HSETEX h PXAT 99 FIELDS 2 a 1 b 2"]),
    (NEW, "HSETEX h FXX FIELDS 1 a 1 KEEPTTL", ["HSETEX h FXX KEEPTTL FIELDS 1 a 1"]),
    (NEW, "HSETEX h PXAT 99 FIELDS 1 a 1", None),
    (NEW, "HSETEX h PXAT 99 FIELDS 3 a 1", None),
    (REDIS_8_6, "HSETEX h FIELDS 2 a 1 b 2 PXAT 99", None),
    (SEVEN_4, "HSETEX h FIELDS 2 a 1 b 2 PXAT 99", ["HSET h a 1 b 2", "HPEXPIREAT h 99 FIELDS 2 a b"]),
    (SEVEN_4, "HSETEX h FIELDS 1 a 1 KEEPTTL", ["EVAL * 1 h KEEPTTL FIELDS 1 a 1"]),
    (SEVEN, "HSETEX h FNX FIELDS 1 a 1 PXAT 99", ["HSET h a 1"]),
    (NEW, "HPEXPIREAT h 99 FIELDS 2 a b NX", ["HPEXPIREAT h 99 NX FIELDS 2 a b"]),
    (NEW, "HPEXPIREAT h 99 NX FIELDS 2 a b", None),
    (REDIS_8_6, "HPEXPIREAT h 99 FIELDS 2 a b NX", None),
    (SEVEN, "HPEXPIREAT h 99 FIELDS 2 a b", []),
    (SEVEN, "HEXPIRE h 99 NX FIELDS 2 a b", []),
    (SEVEN, "HPERSIST h FIELDS 1 a", []),
    (SEVEN, "HGETDEL h FIELDS 2 a b", ["HDEL h a b"]),
    (OLD, "ZADD z GT CH 5 a", ["ZADD z CH 5 a"]),
    (OLD, "ZADD z XX LT INCR 5 a", ["ZADD z XX INCR 5 a"]),
    (OLD, "ZADD z GT CH 5 a 6 b", ["EVAL * 1 z GT CH 5 a 6 b"]),
    (OLD, "ZADD z NX 5 gt", None),
    (FOUR, "ZPOPMIN z", ["ZREMRANGEBYRANK z 0 0"]),
    (FOUR, "ZPOPMIN z 3", ["ZREMRANGEBYRANK z 0 2"]),
    (FOUR, "ZPOPMAX z 3", ["ZREMRANGEBYRANK z -3 -1"]),
    (OLD, "ZPOPMAX z 3", None),
    (OLD, "ZRANGESTORE d s 0 -1", ["EVAL * 2 d s 0 -1"]),
    (OLD, "ZDIFFSTORE d 2 a b", ["EVAL * 1 d 2 a b"]),
    (
        OLD,
        "GEOSEARCHSTORE d s FROMLONLAT 15 37 BYRADIUS 200 km DESC COUNT 3 STOREDIST",
        ["DEL d", "GEORADIUS s 15 37 200 km DESC COUNT 3 STOREDIST d"],
    ),
    (OLD, "GEOSEARCHSTORE d d FROMMEMBER m BYRADIUS 2 m", ["GEORADIUSBYMEMBER d m 2 m STORE d"]),
    (OLD, "GEOSEARCHSTORE d s FROMMEMBER m BYBOX 2 2 m", None),
    (OLD, "GEOSEARCHSTORE d s FROMMEMBER m BYRADIUS 2 m COUNT 2 ANY", None),
    (OLD, "SPUBLISH c m", []),
    (SEVEN, "SPUBLISH c m", None),
]
# What streams of other targets do not know of who sent a message: a digest, or all of it.
UNRECORDED = {
    (NEW, "XADD s IDMP p i 1-1 f v"), (NEW, "XADD s IDMPAUTO p KEEPREF MAXLEN = 5 LIMIT 7 1-1 f v"),
    (OLD, "XADD s IDMP p i MINID = 5 9-1 f v"), (REDIS_8_6, "XADD s IDMPAUTO p 1-1 f v"),
    (NEW, "XCFGSET s IDMP-DURATION 5"), (NEW, "XIDMPRECORD s p i 1-1"),
}  # fmt: skip
# Lost with them, of hash fields.
LOST = {
    "HSETEX h FNX FIELDS 1 a 1 PXAT 99": 1,
    "HSETEX h PXAT 99 FIELDS 2 a 1 b 2": 2,
    "HPEXPIREAT h 99 FIELDS 2 a b": 2,
    "HEXPIRE h 99 NX FIELDS 2 a b": 2,
}


def splitter_for(
    release: tuple[str, tuple[int, ...]],
    *,
    flags: dict[bytes, bool] | None = None,
    scripts: bool = True,
    claims: bool = True,
    dialect: Dialect | None = None,
    **options: Any,
) -> StreamSplitter:
    """For a target of a release; without UNLINK, with scripts, of a new source."""
    family, version = release
    valkey = family == "valkey"
    forms = Forms(lacking(family, version), scripts, claims)
    table = CommandTable(flags, forms=forms, dialect=dialect)
    return StreamSplitter(
        0,
        0,
        pxat=valkey or version >= (6, 2),
        entries_read=valkey or version >= (7, 0),
        commands=table,
        **options,
    )


def becomes(splitter: StreamSplitter, command: list[bytes], step: int) -> list[list[bytes]]:
    """What a command between two others turns into; what must hold of every form is checked on the way."""
    raw = pack(BEFORE) + pack(command) + pack(BEHIND)
    out, offsets, fed = b"", [], 0
    while fed < len(raw):
        fed += splitter.feed(raw[fed : fed + step], NOW)
        for piece in drain(splitter):
            out += piece.data
            offsets += memoryview(piece.offsets).cast("Q").tolist()
            assert piece.replies == len(piece.offsets) // 8
    first = len(pack(BEFORE)) + 1
    commands = parse(out)
    assert commands[0] == BEFORE
    assert commands[-1] == BEHIND
    assert offsets == [1, *[first] * (len(commands) - 2), first + len(pack(command))]
    assert splitter.offset == len(raw)
    assert splitter.statistics()["commands"] == 3
    return commands[1:-1]


def shown(commands: list[list[bytes]]) -> list[list[bytes]]:
    """Commands without the texts of scripts."""
    return [[command[0], b"*", *command[2:]] if command[0] == b"EVAL" else command for command in commands]


@pytest.mark.parametrize(
    ("release", "given", "expected"), ROWS, ids=[f"{row[0][0]}{row[0][1]} {row[1]}" for row in ROWS]
)
def test_commands_take_the_form_that_the_target_knows(
    release: tuple[str, tuple[int, ...]], given: str, expected: list[str] | None
) -> None:
    """However the bytes are cut: the same commands, at the offset of the one they come from, counted as one."""
    command = words(given)
    wanted = [command] if expected is None else [words(line) for line in expected]
    for step in range(1, len(pack(command)) + 1):
        splitter = splitter_for(release)
        assert shown(becomes(splitter, command, step)) == wanted
        statistics = splitter.statistics()
        assert statistics["lost"] == LOST.get(given, 0)
        assert statistics["unrecorded"] == ((release, given) in UNRECORDED)
        assert statistics["filtered"] == (not wanted)


LARGE_ROWS = [
    (NEW, [b"XADD", b"s", b"MAXLEN", b"=", b"5", b"LIMIT", b"3", b"1-1", b"f", LARGE], [[b"XADD", b"s", b"MAXLEN", b"=", b"5", b"1-1", b"f", LARGE]]),
    (OLD, [b"XADD", b"s", b"MINID", b"=", b"5", b"9-1", b"f", LARGE], [[b"EVAL", b"*", b"1", b"s", b"5"], [b"XADD", b"s", b"9-1", b"f", LARGE]]),
    (OLD, [b"XADD", b"s", b"DELREF", b"MAXLEN", b"=", b"5", b"9-1", b"f", LARGE], [[b"EVAL", b"*", b"1", b"s", b"MAXLEN", b"5", b"DELREF", b"1"], [b"XADD", b"s", b"9-1", b"f", LARGE]]),
    (OLD, [b"XADD", b"s", b"ACKED", b"MINID", b"5", b"4-1", b"f", LARGE], [[b"XADD", b"s", b"ACKED", b"MINID", b"5", b"4-1", b"f", LARGE]]),
    (REDIS_8_6, [b"XADD", b"s", b"IDMP", b"p", b"i", b"9-1", b"f", LARGE], [[b"XADD", b"s", b"9-1", b"f", LARGE]]),
    (OLD, [b"XADD", b"s", b"IDMP", b"p", b"i", b"*", b"f", LARGE], []),
    (NEW, [b"XACKDEL", b"s", b"g", b"IDS", b"2", b"9-1", LARGE], [[b"EVAL", b"*", b"1", b"s", b"g", b"IDS", b"2", b"9-1", LARGE]]),
    (OLD, [b"SET", b"k", LARGE, b"KEEPTTL"], [[b"EVAL", b"*", b"1", b"k", LARGE, b"KEEPTTL"]]),
    (OLD, [b"SET", b"k", LARGE], [[b"SET", b"k", LARGE]]),
    (SEVEN, [b"MSETEX", b"1", b"k", LARGE, b"PXAT", b"9"], [[b"EVAL", b"*", b"0", b"1", b"k", LARGE, b"PXAT", b"9"]]),
    (SEVEN, [b"HSETEX", b"h", b"PXAT", b"9", b"FIELDS", b"1", b"f", LARGE], [[b"HSET", b"h", b"f", LARGE]]),
    (SEVEN_4, [b"HSETEX", b"h", b"PXAT", b"9", b"FIELDS", b"1", b"f", LARGE], [[b"EVAL", b"*", b"1", b"h", b"PXAT", b"9", b"FIELDS", b"1", b"f", LARGE]]),
    (NEW, [b"HSETEX", b"h", b"PXAT", b"9", b"FIELDS", b"1", b"f", LARGE], [[b"HSETEX", b"h", b"PXAT", b"9", b"FIELDS", b"1", b"f", LARGE]]),
    (NEW, [b"HSETEX", b"h", b"FIELDS", b"1", b"f", LARGE, b"PXAT", b"9"], [[b"HSETEX", b"h", b"FIELDS", b"1", b"f", LARGE, b"PXAT", b"9"]]),
    (NEW, [b"HPEXPIREAT", b"h", b"9", b"FIELDS", b"1", LARGE], [[b"HPEXPIREAT", b"h", b"9", b"FIELDS", b"1", LARGE]]),
    (SEVEN, [b"HGETDEL", b"h", b"FIELDS", b"1", LARGE], [[b"HDEL", b"h", LARGE]]),
    (SEVEN, [b"HPEXPIREAT", b"h", b"9", b"FIELDS", b"1", LARGE], []),
    (OLD, [b"COPY", b"a", LARGE], [[b"EVAL", b"*", b"2", b"a", LARGE]]),
    (OLD, [b"ZADD", b"z", b"GT", b"1", b"m", b"2", LARGE], [[b"EVAL", b"*", b"1", b"z", b"GT", b"1", b"m", b"2", LARGE]]),
    (OLD, [b"ZADD", b"z", b"GT", b"1", LARGE], [[b"ZADD", b"z", b"1", LARGE]]),
]  # fmt: skip


@pytest.mark.parametrize("step", [1, 100, 10_000])
@pytest.mark.parametrize(
    ("release", "given", "expected"), LARGE_ROWS, ids=[b" ".join(row[1][:2]).decode() for row in LARGE_ROWS]
)
def test_large_commands_take_it_too(
    release: tuple[str, tuple[int, ...]], given: list[bytes], expected: list[list[bytes]], step: int
) -> None:
    """What decides stands at the beginning, so a command larger than a piece is never held for it."""
    assert shown(becomes(splitter_for(release, piece_bytes=1024), given, step)) == expected


def test_without_scripts_only_plain_forms_are_used() -> None:
    """What a script would have to do goes on as it came, for the target to refuse by its own name."""
    for release, given, expected in ROWS:
        if expected and any(line.startswith("EVAL") for line in expected):
            commands = becomes(splitter_for(release, scripts=False), words(given), 1000)
            recorded = release == REDIS_8_6 and ["XADD", b"XIDMPRECORD s p i 1-1".split()]
            assert commands == [words(given)] or [commands[0][0].decode(), commands[1]] == recorded


def test_a_key_that_valkey_takes_for_an_option_is_spared_hsetex() -> None:
    """It looks for FIELDS from the key on: HSETEX of a key of that name is refused there."""
    splitter = splitter_for(NEW, dialect=dialect((9, 1), 80, valkey=True))
    wanted = ["HSET Fields a 1", "HPEXPIREAT Fields 99 FIELDS 1 a"]
    assert becomes(splitter, words("HSETEX Fields PXAT 99 FIELDS 1 a 1"), 1000) == [words(line) for line in wanted]


def test_a_claim_of_an_older_source_stays_one() -> None:
    """Before 7.0 a source leaves a deleted message pending when it is claimed, and so must the target."""
    claim = words("XCLAIM s g c 0 1-1 FORCE JUSTID")
    assert becomes(splitter_for(OLD, claims=False), claim, 1000) == [claim]


def test_a_command_in_another_form_can_be_left_out() -> None:
    """A refused one is excluded by its offset, all that it became together."""
    splitter = splitter_for(SEVEN)
    raw = pack(BEFORE) + pack(words("MSETEX 2 a 1 b 2 EX 5")) + pack(BEHIND)
    splitter.exclude(len(pack(BEFORE)) + 1)
    splitter.feed(raw, NOW)
    (piece,) = drain(splitter)
    assert parse(piece.data) == [BEFORE, BEHIND]
    assert splitter.statistics()["excluded"] == 1


@pytest.mark.parametrize(
    ("release", "given", "expected"),
    [
        (NEW, "MSETEX 2 a 1 b 2 PXAT +5", ["MSETEX 2 a 1 b 2 PXAT +10005"]),
        (SEVEN, "MSETEX 2 a 1 b 2 PXAT +5", ["MSET a 1 b 2", "PEXPIREAT a +10005", "PEXPIREAT b +10005"]),
        (SEVEN, "SET k v IFEQ x PXAT +5", ["SET k v PXAT +10005"]),
        (NEW, "MSETEX 2 a 1 b 2 PXAT +5000", None),
    ],
)
def test_expiries_of_other_forms_are_postponed(
    release: tuple[str, tuple[int, ...]], given: str, expected: list[str] | None
) -> None:
    """A near expiry goes on later whatever form its command has, once for each key."""
    splitter = splitter_for(release)
    splitter.postpone(NOW + 1000, 10_000)
    wanted = [words(given)] if expected is None else [words(line) for line in expected]
    assert becomes(splitter, words(given), 1000) == wanted
    postponed = 0 if expected is None else 1 + given.startswith("MSETEX")
    assert splitter.statistics()["postponed"] == postponed


def test_the_copy_of_another_form_moves_expiries() -> None:
    """COPY by a script may take a postponed expiry along, as COPY does."""
    splitter = splitter_for(OLD)
    splitter.feed(pack(words("COPY a b")), NOW)
    (piece,) = drain(splitter)
    assert piece.moves


def test_unknown_forms_are_refused() -> None:
    """A name that is not in the table is a mistake of the caller."""
    with pytest.raises(ValueError, match="no such form: SET EVERYTHING"):
        Forms({"SET EVERYTHING"}, True, True)


def test_the_newest_releases_lack_only_what_the_other_family_has() -> None:
    """A release lacks the forms that came later, or never; each form is known somewhere."""
    assert lacking("valkey", (9, 1, 2)) & lacking("redis", (8, 6, 3)) == frozenset()
    assert lacking("redis", (8, 6, 1)) - lacking("redis", (8, 6, 2)) == {"idempotent producers of streams"}
    assert lacking("redis", (4, 0, 0)) == {form.name for form in FORMS}
    assert {form.name for form in FORMS if form.becomes == NONE} >= {"GEOSEARCHSTORE BYPOLYGON"}


# ------------------------------------------------------------------------------------------------------------ payloads


def dialect(version: tuple[int, int], rdb: int, *, valkey: bool = False) -> Dialect:
    """A target."""
    return Dialect(
        valkey=valkey,
        rdb_version=rdb,
        footer=rdb,
        server_version=version,
        mset=True,
        modules=frozenset(),
        commands=frozenset({"unlink"}),
        maxmemory_policy="",
    )


def payload(body: bytes, rdb: int, *, checksum: bool = True) -> bytes:
    """As DUMP writes it."""
    body += rdb.to_bytes(2, "little")
    return body + (crc64(body).to_bytes(8, "little") if checksum else bytes(8))


TEXT = b"\x00\x0bhello world"  # a string
LISTPACK = b"\x10\x0d" + bytes.fromhex("0d0000000200816102816202ff")  # a hash: a b
LARGE_TEXT = b"\x00\x80" + (3000).to_bytes(4, "big") + LARGE

PAYLOADS = [
    (dialect((7, 0), 10), payload(TEXT, 11), payload(TEXT, 10)),
    (dialect((7, 0), 10), payload(TEXT, 80), payload(TEXT, 10)),
    (dialect((7, 0), 10), payload(TEXT, 9), payload(TEXT, 9)),
    (dialect((7, 0), 10), payload(TEXT, 10, checksum=False), payload(TEXT, 10)),
    (dialect((8, 0), 11, valkey=True), payload(TEXT, 11), payload(TEXT, 11)),
    (dialect((9, 0), 80, valkey=True), payload(TEXT, 12), payload(TEXT, 80)),
    (dialect((7, 0), 10), payload(LARGE_TEXT, 11), payload(LARGE_TEXT, 10)),
    (dialect((7, 0), 10), payload(LARGE_TEXT, 9), payload(LARGE_TEXT, 9)),
    (dialect((7, 0), 10), b"short", b"short"),
]


@pytest.mark.parametrize("options", [b"", b"REPLACE", b"REPLACE IDLETIME 7"])
@pytest.mark.parametrize("number", range(len(PAYLOADS)))
def test_a_payload_gets_the_version_of_the_target(number: int, options: bytes) -> None:
    """In RESTORE and FUNCTION RESTORE, small and large, cut anywhere; what the target takes is not touched."""
    target, given, expected = PAYLOADS[number]
    for front, behind in (([b"RESTORE", b"k", b"0"], options.split()), ([b"FUNCTION", b"RESTORE"], [b"FLUSH"])):
        for step in (*range(1, 40), 1000, 5000):
            splitter = splitter_for(SEVEN, dialect=target, piece_bytes=1024)
            assert becomes(splitter, [*front, given, *behind], step) == [[*front, expected, *behind]]


def test_a_payload_with_a_relative_expiry_gets_both() -> None:
    """The footer and the expiry are rewritten in one go."""
    splitter = splitter_for(SEVEN, dialect=dialect((7, 0), 10))
    given = [b"RESTORE-ASKING", b"k", b"5", payload(TEXT, 80), b"REPLACE"]
    assert becomes(splitter, given, 7) == [
        [b"RESTORE", b"k", *words("+5"), payload(TEXT, 10), b"REPLACE", b"REPLACE", b"ABSTTL"]
    ]


@pytest.mark.parametrize(("options", "at"), [(b"", "+5"), (b"REPLACE", "+5"), (b"ABSTTL FREQ 3", "5")])
def test_a_value_in_an_unknown_encoding_is_made_by_commands(options: bytes, at: str) -> None:
    """Redis 6.2 knows no hash in a listpack."""
    for step in (1, 7, 1000):
        splitter = splitter_for(("redis", (6, 2)), dialect=dialect((6, 2), 9))
        given = [b"RESTORE", b"k", b"5", payload(LISTPACK, 10), *options.split()]
        assert becomes(splitter, given, step) == [
            [b"UNLINK", b"k"],
            [b"HSET", b"k", b"a", b"b"],
            [b"PEXPIREAT", b"k", *words(at)],
        ]


def test_a_value_that_the_target_cannot_hold_is_left_to_it() -> None:
    """An array has no other form; the target says so itself."""
    splitter = splitter_for(SEVEN, dialect=dialect((7, 0), 10))
    given = [b"RESTORE", b"k", b"0", payload(b"\x1c\x01\x00", 14)]
    assert becomes(splitter, given, 1000)[0][:2] == [b"RESTORE", b"k"]


@pytest.mark.parametrize("body", [TEXT, LARGE_TEXT])
@pytest.mark.parametrize(
    ("ttl", "options", "at"),
    [
        (b"0", b"", None),
        (b"0", b"REPLACE ABSTTL", None),
        (b"5", b"", "+5"),
        (b"5", b"REPLACE", "+5"),
        (b"5", b"ABSTTL", "5"),
        (b"5", b"REPLACE ABSTTL IDLETIME 9", "5"),
        (b"5", b"absttl FREQ 9", "5"),
    ],
)
def test_redis_4_gets_restore_without_absttl(body: bytes, ttl: bytes, options: bytes, at: str | None) -> None:
    """ABSTTL came with 5.0, so the expiry follows; the key cannot be without REPLACE, since RESTORE worked at the source."""
    for step in (1, 50, 10_000):
        splitter = splitter_for(FOUR, dialect=dialect((4, 0), 8), piece_bytes=1024)
        commands = becomes(splitter, [b"RESTORE", b"k", ttl, payload(body, 9), *options.split()], step)
        expected = [[b"RESTORE", b"k", b"0", payload(body, 8), b"REPLACE"]]
        assert commands == expected + ([[b"PEXPIREAT", b"k", *words(at)]] if at else [])
