"""Rules in the stream, on real servers: the target is what a filter behind a plain replica would have left."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.process import Portd
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Pair, ServerFactory
    from tests.servers import Server

# One key pair for each row of the table in docs/filters.md: {i} is taken, {o} is not, {j} and {p} are others of them.
EXACT: Final = (
    "SET {i} 1; SET {o} 1",
    "SET {i} 1; SET {o} 1; SET {j} 2; DEL {i} {o}",
    "SET {i} 1; SET {o} 1; UNLINK {o} {i} {j}",
    "MSET {i} 1 {o} 2 {j} 3 {p} 4",
    "MSETNX {i} 1 {o} 2 {j} 3",
    "SET {i} 1; SET {o} 2; RENAME {i} {o}",
    "SET {i} 1 EX 1000; RENAME {i} {j}",
    "SET {i} 1; RENAMENX {i} {o}",
    "SADD {i} a b c; SADD {o} d; SMOVE {i} {o} a",
    "RPUSH {i} a b c; LMOVE {i} {o} LEFT RIGHT; LMOVE {i} {o} RIGHT LEFT",
    "RPUSH {i} a b c; RPOPLPUSH {i} {o}",
    "RPUSH {i} a b c; RPOPLPUSH {i} {j}",
    "SADD {i} a b; SADD {o} c; SUNIONSTORE {p} {i} {o}",
    "SADD {i} a b; SADD {j} b c; SINTERSTORE {j} {i} {j}",
    "ZADD {i} 1 a 2 b; ZUNIONSTORE {o} 2 {i} {p}; ZUNIONSTORE {j} 1 {i} WEIGHTS 3",
    "SET {i} abc; SET {o} xyz; BITOP OR {p} {i} {o}; BITOP NOT {j} {i}",
    "PFADD {i} a b; PFADD {o} c; PFCOUNT {i} {o}; PFMERGE {o} {i}; PFMERGE {j} {i}",
    "RPUSH {i} 3 1 2; SORT {i} STORE {o}; SORT {i} STORE {j}",
    "SET {i} 1; COPY {i} {o}; COPY {i} {j}",
    "GEOADD {i} 13 38 a; GEORADIUS {i} 13 38 9 km STORE {o}; GEORADIUS {i} 13 38 9 km STORE {j}",
    "XADD {i} 1-1 f v; XGROUP CREATE {i} g 0; XREADGROUP GROUP g c STREAMS {i} >; XADD {o} 1-1 f v",
    "MULTI; SET {i} 1; SET {o} 1; INCR {i}; RPUSH {p} a; EXEC",
    "EVAL redis.call('SET',KEYS[1],1)redis.call('SET',KEYS[2],2)return(redis.call('INCR',KEYS[1])) 2 {i} {o}",
    "SET {i} 1 PX 100000; PEXPIRE {i} 200000; PERSIST {i}; SET {o} 1 PX 100000",
    "SETEX {i} 1000 v; EXPIRE {i} 500; GETEX {i} PERSIST",
    "HSET {i} f v; HSET {o} f v; HDEL {i} f; HSET {i} g w",
    "SELECT 3; SET {i} 3; SET {o} 3; SELECT 0",
    "SELECT 3; SET {i} 3; MOVE {i} 4; SELECT 0",
)
# The same of those that need a value from outside of the rules: it is copied from the source.
CROSSING: Final = (
    "SET {o} 1; RENAME {o} {i}",
    "SADD {o} a b; SADD {i} c; SMOVE {o} {i} a",
    "RPUSH {o} a b; LMOVE {o} {i} LEFT LEFT",
    "SADD {o} a; SADD {j} b; SUNIONSTORE {i} {o} {j}",
    "SET {o} 1; COPY {o} {i}",
    "RPUSH {o} 2 1; SORT {o} STORE {i}",
    "PFADD {o} a; PFMERGE {i} {o}",
    "SET {o} a; BITOP NOT {i} {o}",
    "SET {o} 1 EX 1000; RENAMENX {o} {i}; APPEND {i} x; SET {j} 1",
    "SADD {o} a; ZADD {j} 5 b; ZUNIONSTORE {i} 2 {o} {j} WEIGHTS 2 3; ZADD {i} 1 z",
    "GEOADD {o} 13 38 a; GEORADIUS {o} 13 38 9 km STORE {i}",
    "SET {o} 1; RENAME {o} {i}; RENAME {i} {j}; INCR {j}; DEL {i}",
    "SADD {o} a; SUNIONSTORE {i} {o}; SUNIONSTORE {j} {i}; SMOVE {j} {p} a",
    "RPUSH {i} 2 1 3; SET in:w_1 5; SORT {i} BY in:w_* GET # STORE {j}; RPUSH {j} 9",
    "MULTI; SET {o} 1; RENAME {o} {i}; INCR {i}; RENAME {i} {j}; EXEC; INCR {j}",
    "SELECT 4; SET {i} 4; COPY {i} {j} DB 3; MOVE {i} 3; SELECT 3; APPEND {i} x; SELECT 0",
    "XADD {o} 1-1 f v; XGROUP CREATE {o} g 0; XREADGROUP GROUP g c STREAMS {o} >; RENAME {o} {i}; XACK {i} g 1-1",
    "HSET {o} f v; RENAME {o} {i}; HSET {i} g w; DEL {i}; HSET {i} h x",
)


def filled(row: str, number: int) -> list[list[str]]:
    """The commands of a row."""
    keys = {"i": f"in:{number}:a", "j": f"in:{number}:b", "o": f"out:{number}:a", "p": f"out:{number}:b"}
    return [each.format(**keys).split() for each in row.split("; ")]


def value_of(wire: Wire, key: bytes) -> Any:
    """The type of a key, and what it holds, in a form that compares."""
    kind = wire.call("TYPE", key)
    question = {
        b"string": ("GET", key), b"list": ("LRANGE", key, 0, -1), b"set": ("SMEMBERS", key),
        b"zset": ("ZRANGE", key, 0, -1, "WITHSCORES"), b"hash": ("HGETALL", key), b"stream": ("XRANGE", key, "-", "+"),
    }[kind]  # fmt: skip
    value = wire.call(*question)
    groups = wire.call("XINFO", "GROUPS", key) if kind == b"stream" else None
    return kind, sorted(value) if kind == b"set" else value, wire.call("TTL", key) > 0, str(groups)


def contents(server: Server, databases: int = 16) -> dict[tuple[int, bytes], Any]:
    """All keys of a server but ours, by database and name."""
    found = {}
    with Wire(server) as wire:
        for db in range(databases):
            wire.call("SELECT", db)
            for key in wire.call("KEYS", "*"):
                if not key.startswith(b"portd:"):
                    found[db, key] = value_of(wire, key)
    return found


def filtered(source: Server, place: Callable[[int, bytes], tuple[int, bytes] | None]) -> dict[tuple[int, bytes], Any]:
    """What a filter, applied afterwards, leaves of the source."""
    return {to: value for (db, key), value in contents(source).items() if (to := place(db, key)) is not None}


def write(source: Server, rows: tuple[str, ...], begin: int = 0) -> None:
    """Runs rows at the source."""
    with Wire(source) as wire:
        for number, row in enumerate(rows, begin):
            for argv in filled(row, number):
                (answer,) = wire.many([argv], errors=True)
                assert not isinstance(answer, Exception) or "unknown" in str(answer), (argv, answer)


def adds_up(stream: dict[str, Any]) -> bool:
    """Every command that was read is accounted for."""
    return bool(
        stream["commands_read"] == sum(stream[f"commands_{what}"] for what in ("applied", "filtered", "failed"))
    )


def settled(portd: Portd, source: Server) -> dict[str, Any]:
    """The stream's counters once all that was written is applied; they add up."""
    portd.until_applied(source)
    portd.until(lambda status: status["stream"]["keys_owed"] == 0)
    stream = portd.until(lambda status: adds_up(status["stream"]))["stream"]  # a PING may just be read
    return dict(stream)


@pytest.mark.parametrize("renames", [False, True], ids=["same-names", "renamed"])
def test_every_row_is_a_filter_applied_afterwards(
    source: Server,
    target: Server,
    tmp_path: Path,
    renames: bool,  # noqa: FBT001
) -> None:
    """Equal to the last byte, counted by what became of it, and no dead letter: also where values come from outside of the rules."""
    source.client().set("in:before", "1")
    letters = tmp_path / "letters"
    options: dict[str, Any] = {"include": "in:", "dead_letters": letters}
    if renames:
        options |= {"rename_prefix": ["in:=to:", "in:1=one:"], "map_db": "3=9"}

    def place(db: int, key: bytes) -> tuple[int, bytes] | None:
        if not key.startswith(b"in:") or (renames and db == 9):
            return None
        if not renames:
            return db, key
        name = b"one:" + key[4:] if key.startswith(b"in:1") else b"to:" + key[3:]
        return 9 if db == 3 else db, name

    with Portd(source, target, **options) as portd:
        portd.until(lambda status: status["ready"])
        write(source, EXACT)
        stream = settled(portd, source)
        assert contents(target) == filtered(source, place)
        assert stream["commands_failed"] == 0
        assert stream["commands_left"]["key"] > 20
        assert stream["commands_left"]["copy"] == stream["keys_copied"] == 0
        assert stream["commands_projected"] >= 8
        write(source, CROSSING, 100)
        stream = settled(portd, source)
        assert contents(target) == filtered(source, place)
        assert stream["commands_failed"] == 0
        assert stream["keys_copied"] >= len(CROSSING)
        metrics = portd.get("metrics", accept="text/plain")
    for reason in ("key", "copy"):
        line = f'portd_stream_commands_filtered_total{{link="default",reason="{reason}"}} '
        assert f"{line}{float(stream['commands_left'][reason])}" in metrics
    assert not letters.exists() or not letters.read_text()


def test_rules_between_all_versions(matrix: Pair) -> None:
    """Whatever form the source sends a command in, and whatever the target makes of it."""
    source, target = matrix
    names = {"include": "in:", "rename_prefix": "in:=to:", "map_db": "3=9"}

    def place(db: int, key: bytes) -> tuple[int, bytes] | None:
        return (9 if db == 3 else db, b"to:" + key[3:]) if key.startswith(b"in:") and db != 9 else None

    with Portd(source, target, **names) as portd:
        portd.until(lambda status: status["ready"])
        write(source, EXACT)
        write(source, CROSSING, 100)
        settled(portd, source)
        wanted, got = filtered(source, place), contents(target)
        assert {key: value[:3] for key, value in got.items()} == {key: value[:3] for key, value in wanted.items()}
        assert portd.status()["dead_letters"] == {}  # type: ignore[index]


def test_databases_are_chosen_and_mapped(source: Server, target: Server) -> None:
    """One that is not taken is left alone, another goes elsewhere; MOVE and COPY go by both; the target keeps what it had."""
    target.client(db=1).set("theirs", "1")
    with Portd(source, target, exclude_db=1, map_db=["0=5", "2=6"], existing="replace") as portd:
        portd.until(lambda status: status["ready"])
        with Wire(source) as wire:
            for line in (
                "SET a 1", "SELECT 1", "SET a 2", "SET b 2", "SELECT 2", "SET c 3", "SET d 3", "MOVE c 0", "MOVE d 1",
                "SELECT 0", "SET e 4", "COPY e f DB 2", "SELECT 1", "FLUSHDB", "SELECT 2", "SET g 5", "SWAPDB 0 2", "SET h 6",
            ):  # fmt: skip
                wire.call(*line.split())
        stream = settled(portd, source)
        assert stream["commands_left"] == {"key": 0, "db": 3, "command": 0, "copy": 0}
        moved = {0: 5, 2: 6}
        wanted = filtered(source, lambda db, key: (moved[db], key) if db in moved else None)
        assert contents(target) == wanted | {(1, b"theirs"): value_of_one(target, 1, b"theirs")}
        assert stream["commands_failed"] == 0


def value_of_one(server: Server, db: int, key: bytes) -> Any:
    """What one key holds."""
    with Wire(server) as wire:
        wire.call("SELECT", db)
        return value_of(wire, key)


def test_commands_are_left_out(source: Server, target: Server) -> None:
    """By name, and counted."""
    with Portd(source, target, exclude_command=["expire", "PEXPIREAT", "flushall"]) as portd:
        portd.until(lambda status: status["ready"])
        source.client().set("a", "1")
        source.client().expire("a", 1000)
        source.client().flushall()
        source.client().set("b", "1")
        stream = settled(portd, source)
    assert stream["commands_left"]["command"] == 2
    assert {key for _, key in contents(target)} == {b"a", b"b"}
    assert target.client().ttl("a") == -1


@pytest.mark.parametrize("command", ["FLUSHDB", "FLUSHALL"])
def test_a_flush_removes_what_rules_cover(source: Server, target: Server, command: str) -> None:
    """Under their names and in their databases; what else is in the target stays, and what comes behind is kept."""
    for db in (0, 1):
        target.client(db=db).mset({"theirs": "1", "in:theirs": "1", "other": "1"})
        source.client(db=db).mset({f"in:{number}": "x" for number in range(3000)} | {"other": "1"})
    with Portd(source, target, include="in:", rename_prefix="in:=to:") as portd:
        portd.until(lambda status: status["ready"])
        with Wire(source) as wire:
            wire.call(command)
        source.client().mset({"in:new": "1", "other": "2"})
        stream = settled(portd, source)
        assert (stream["commands_failed"], stream["commands_projected"]) == (0, 2)
    left = {0: {b"to:new"}, 1: set() if command == "FLUSHALL" else {b"to:%d" % number for number in range(3000)}}
    for db, names in left.items():
        assert {key for at, key in contents(target) if at == db} == names | {b"theirs", b"in:theirs", b"other"}


def test_a_flush_survives_being_killed(source: Server, target: Server) -> None:
    """Begun again by the next process, it ends as if nothing had happened, and nothing behind it is lost or done twice."""
    source.client().mset({f"in:{number}": "x" for number in range(20_000)})
    target.client().set("theirs", "1")
    options: dict[str, Any] = {"include": "in:", "max_target_ops": 4000}
    with Portd(source, target, include="in:") as portd:
        portd.until(lambda status: status["ready"])
    with Portd(source, target, **options) as portd:
        portd.until(lambda status: status["ready"])
        source.client().flushdb()
        source.client().incr("in:count")
        portd.until(lambda _: target.client().dbsize() < 19_000)
        portd.kill()
    assert target.client().get("in:count") is None
    with Portd(source, target, include="in:") as portd:
        portd.until_applied(source)
    assert {key for _, key in contents(target)} == {b"theirs", b"in:count"}
    assert target.client().get("in:count") == b"1"


def test_a_restart_goes_on_in_the_right_database(source: Server, target: Server) -> None:
    """The record has the source's database; what is behind it is written where that goes."""
    options: dict[str, Any] = {"map_db": ["0=3", "1=4"], "exclude_db": 2}
    source.client(db=1).set("a", "1")
    with Portd(source, target, **options) as portd:
        portd.until(lambda status: status["ready"])
        with Wire(source) as wire:
            for line in ("SELECT 1", "INCR n", "SELECT 2", "INCR n", "SELECT 1", "INCR n"):
                wire.call(*line.split())
            settled(portd, source)
            portd.kill()
            wire.call("INCR", "n")
            portd.start()
            settled(portd, source)
            wire.call("SELECT", 2)
            wire.call("INCR", "n")
            settled(portd, source)
            portd.kill()
            wire.call("INCR", "n")
            wire.call("SELECT", 0)
            wire.call("INCR", "n")
            portd.start()
            settled(portd, source)
    assert (target.client(db=4).get("n"), target.client(db=3).get("n")) == (b"3", b"1")
    assert {db for db, _ in contents(target)} == {3, 4}


def test_a_swap_that_cannot_be_followed_stops(source: Server, target: Server) -> None:
    """With the way out; nothing behind it is applied, and a start with it goes on from a new snapshot."""
    source.client().set("in:a", "1")
    with Portd(source, target, include="in:") as portd:
        portd.until(lambda status: status["ready"])
        source.client().swapdb(0, 1)
        source.client().set("in:b", "2")
        assert portd.wait() == os.EX_DATAERR
        assert "cannot be followed" in portd.log()
        assert "--full-sync" in portd.log()
    assert {key for _, key in contents(target)} == {b"in:a"}


def test_large_commands_are_taken_apart(source: Server, target: Server) -> None:
    """Those that are larger than what is ever held: each key of them by itself."""
    with Portd(source, target, include="in:", add_prefix="far:") as portd:
        portd.until(lambda status: status["ready"])
        source.client().mset({f"{'in' if n % 2 else 'out'}:{n}": "x" * 2000 for n in range(1000)})
        source.client().set("in:big", "y" * 3_000_000)
        source.client().rpush("in:list", *(f"out:{n}" * 20 for n in range(3000)))
        source.client().delete(*(f"{'in' if n % 3 else 'out'}:{n}" for n in range(40_000)))
        stream = settled(portd, source)
        assert stream["commands_failed"] == 0
    assert contents(target) == filtered(source, lambda db, key: (db, b"far:" + key) if key.startswith(b"in:") else None)


def test_all_databases_into_one(servers: ServerFactory) -> None:
    """Keys of several become those of one, moves among them change nothing."""
    source, target = servers(), servers(databases=1)
    with Portd(source, target, all_dbs_to=0) as portd:
        portd.until(lambda status: status["ready"])
        with Wire(source) as wire:
            for line in (
                "SET a 1",
                "SELECT 1",
                "SET b 2",
                "MOVE b 7",
                "SELECT 7",
                "COPY b c DB 3",
                "INCR b",
                "SELECT 12",
                "SET d 1",
            ):
                wire.call(*line.split())
        stream = settled(portd, source)
        assert stream["commands_failed"] == 0
    assert {key: value[1] for (_, key), value in contents(target, 1).items()} == {
        b"a": b"1", b"b": b"3", b"c": b"2", b"d": b"1"
    }  # fmt: skip


LOAD: Final = (
    "INCR {i}:n; INCR {o}:n; RPUSH {i}:l {n}; LPOP {i}:l; APPEND {j}:a x; DEL {o}:n {j}:none",
    "MULTI; INCR {i}:n; RPUSH {o}:l {n}; RPUSH {j}:l {n}; INCR {o}:n; EXEC; LMOVE {j}:l {o}:l LEFT RIGHT",
    "SELECT 3; INCR {i}:n; SADD {i}:s {n}; SADD {o}:s {n}; SMOVE {i}:s {o}:s {n}; MOVE {i}:n 4; SELECT 0",
    "MSET {i}:x {n} {o}:x {n} {j}:x {n}; RENAME {i}:x {j}:x; SUNIONSTORE {o}:s {i}:s; INCRBY {j}:n {n}",
)


def test_nothing_is_lost_or_done_twice_by_kills(source: Server, target: Server) -> None:
    """Split, halved and renamed commands in many databases, with a process that is killed again and again."""
    chance = random.Random(7)
    options: dict[str, Any] = {
        "include": "in:",
        "rename_prefix": ["in:=to:", "in:1=one:"],
        "map_db": "3=9",
        "exclude_db": 4,
    }

    def place(db: int, key: bytes) -> tuple[int, bytes] | None:
        if not key.startswith(b"in:") or db in {4, 9}:
            return None
        return 9 if db == 3 else db, b"one:" + key[4:] if key.startswith(b"in:1") else b"to:" + key[3:]

    with Portd(source, target, **options) as portd, Wire(source) as wire:
        portd.until(lambda status: status["ready"])
        for number in range(6):
            for count in range(400):
                if number == 3 and count == 100:
                    wire.call("FLUSHALL")
                row = chance.choice(LOAD).replace("{n}", str(count))
                wire.many([tuple(argv) for argv in filled(row, chance.randrange(20))], errors=True)
                if count == 200 or (number == 3 and count in {101, 110}):
                    portd.kill()
                    portd.start()
        settled(portd, source)
    assert contents(target) == filtered(source, place)
