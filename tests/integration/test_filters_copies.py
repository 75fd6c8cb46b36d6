"""Keys that get their values from outside of the rules: copied from the source, so that the target is a filter applied afterwards."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from portd.preflight.findings import Level
from tests.integration.test_check import levels, look, one
from tests.integration.test_filters_stream import contents, filled, filtered, settled
from tests.process import Portd
from tests.proxy import Proxy
from tests.servers import wait_for_sync
from tests.wire import Wire
from tests.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Pair, ServerFactory
    from tests.servers import Server

OPTIONS: Final[dict[str, Any]] = {"include": "in:", "rename_prefix": ["in:=to:", "in:1=one:"], "map_db": "3=9"}
SHORT_MS: Final = 5000  # more than what the load gives keys to live, and much less than its other expiries
CHECKPOINT: Final = "portd:checkpoint:default"

# What moves values between keys of both kinds, and what writes them beside it; {n} is another number each time.
LOAD: Final = (
    "SET {o}:v {n}; RENAME {o}:v {i}:v",
    "APPEND {i}:v {n}",
    "INCRBY {o}:c {n}; COPY {o}:c {i}:c REPLACE; INCR {i}:c",
    "SADD {o}:s {n}; SMOVE {o}:s {i}:s {n}; SADD {i}:s x{n}",
    "RPUSH {o}:l {n} b c; RPOPLPUSH {o}:l {i}:l; LPUSH {i}:l {n}; LTRIM {i}:l 0 20",
    "SADD {j}:s {n}; SUNIONSTORE {i}:u {i}:s {j}:s {o}:s; SUNIONSTORE {j}:u {i}:u {i}:s",
    "RENAME {i}:u {j}:u; RENAME {j}:v {i}:v; RENAME {i}:v {p}:v",
    "DEL {i}:v {j}:u {o}:s; UNLINK {j}:v",
    "MULTI; INCR {i}:n; SET {o}:x {n}; RENAME {o}:x {i}:x; APPEND {i}:x y; APPEND {j}:x {n}; EXEC",
    "EVAL redis.call('SET',KEYS[1],ARGV[1])redis.call('RENAME',KEYS[1],KEYS[2])return(redis.call('INCR',KEYS[2])) 2 {o}:e {i}:e {n}",
    "PEXPIRE {i}:v 90000; PERSIST {i}:x; PEXPIRE {i}:c {n}",
    "SELECT 3; SET {i}:d {n}; SELECT 4; SET {i}:d {n}; MOVE {i}:d 3; SELECT 3; APPEND {i}:d {n}; MOVE {i}:d 4; SELECT 0",
    "ZADD {o}:z {n} a 3 b; ZUNIONSTORE {i}:z 2 {o}:z {i}:z; ZINCRBY {i}:z 1 a",
    "RPUSH {o}:q 3 1 {n}; SORT {o}:q STORE {i}:q; LTRIM {i}:q 0 5; RPUSH {i}:q {n}",
    "PFADD {o}:p {n}; PFMERGE {i}:p {o}:p; PFADD {i}:p a{n}; SET {o}:b {n}; BITOP NOT {i}:b {o}:b; APPEND {i}:b {n}",
    "MSET {i}:x {n} {o}:x {n} {j}:x {n}; INCRBY {j}:x {n}",
)


def place(db: int, key: bytes) -> tuple[int, bytes] | None:
    """Where OPTIONS put a key of the source."""
    if not key.startswith(b"in:") or db in {4, 9}:
        return None
    return 9 if db == 3 else db, b"one:" + key[4:] if key.startswith(b"in:1") else b"to:" + key[3:]


def come(portd: Portd, source: Server) -> dict[str, Any]:
    """The stream's counters once nothing is owed any more of what was written."""
    portd.until_applied(source)
    portd.until(lambda status: status["stream"]["keys_owed"] == 0)
    return settled(portd, source)


def run(wire: Wire, chance: random.Random, rows: int) -> None:
    """Some rows of the load. What is refused, for a type is another one or a command is not known, is none of ours."""
    for _ in range(rows):
        row = chance.choice(LOAD).replace("{n}", str(chance.randrange(1000)))
        wire.many([tuple(argv) for argv in filled(row, chance.randrange(12))], errors=True)


class Load(Writer):
    """Writes all the time, over a connection of its own."""

    def __init__(self, server: Server, seed: int) -> None:
        super().__init__()
        self._server, self._chance = server, random.Random(seed)

    def _write(self) -> None:
        while not self._stop.is_set():
            try:
                with Wire(self._server) as wire:
                    while not self._stop.is_set():
                        run(wire, self._chance, 5)
                        time.sleep(0.002)
            except OSError:  # the server ended all connections: it goes on over another one
                time.sleep(0.01)


def replica_of(source: Server, servers: ServerFactory) -> Server:
    """A native replica of the source, of its kind."""
    replica = servers(source.binary)
    replica.replicate(source)
    return replica


def expiring(server: Server) -> bool:
    """A key is about to expire, or has just done so."""
    with Wire(server) as wire:
        for db in (0, 3, 4):
            wire.call("SELECT", db)
            size, keys = wire.many([("DBSIZE",), ("KEYS", "*")])
            if len(keys) != size:  # it has expired, and its DEL is not written
                return True
            if any(0 <= left < SHORT_MS for left in wire.many([("PTTL", key) for key in keys])):
                return True
    return False


def reached(replica: Server, end: int) -> None:
    """Waits until a replica has an offset."""
    wait_for_sync(lambda: int(replica.client().info("replication")["master_repl_offset"]) >= end)


def equal(portd: Portd, source: Server, target: Server, replica: Server | None = None) -> dict[str, Any]:
    """What a filter leaves of a replica is what the target has; the stream's counters."""
    wait_for_sync(lambda: not expiring(source))  # their DELs are written then
    stream = come(portd, source)
    if replica is not None:
        end = int(source.client().info("replication")["master_repl_offset"])
        reached(replica, end)
    wanted, got = filtered(replica or source, place), contents(target)
    assert {key: value[:3] for key, value in got.items()} == {key: value[:3] for key, value in wanted.items()}
    assert stream["commands_failed"] == 0
    return stream


@pytest.mark.deep
def test_load_under_kills_is_a_filter_behind_a_replica(source: Server, target: Server, servers: ServerFactory) -> None:
    """Random commands over keys of both kinds, from several writers, with a process that is killed again and again."""
    replica = replica_of(source, servers)
    chance = random.Random(11)
    copied = 0
    with Portd(source, target, exclude_db=4, **OPTIONS) as portd:
        portd.until(lambda status: status["ready"])
        for round_ in range(4):
            with Load(source, round_), Load(source, 100 + round_):
                for _ in range(3):
                    time.sleep(chance.random() * 1.5)
                    portd.kill()
                    portd.start()
                portd.until(lambda status: status["stream"]["keys_copied"] > 5)
            copied += equal(portd, source, target, replica)["keys_copied"]
        assert portd.status()["dead_letters"] == {}  # type: ignore[index]
    assert copied > 20
    assert target.client().hget(CHECKPOINT, "version") == b"2"


def test_copies_between_all_versions(matrix: Pair) -> None:
    """Whatever the source tells of its offset, and whatever form the target takes a value in."""
    source, target = matrix
    with Portd(source, target, exclude_db=4, **OPTIONS) as portd:
        portd.until(lambda status: status["ready"])
        with Wire(source) as wire:
            run(wire, random.Random(3), 150)
        stream = equal(portd, source, target)
    assert stream["keys_copied"] > 5


def test_a_replica_as_the_source(servers: ServerFactory, target: Server) -> None:
    """Its offsets are those of its primary, and a copy is of its offset."""
    primary, source = servers(), servers()
    source.replicate(primary)
    with Portd(source, target, exclude_db=4, **OPTIONS) as portd:
        portd.until(lambda status: status["ready"])
        for seed in range(3):
            with Load(primary, seed), Load(primary, 10 + seed):
                time.sleep(1.0)
            end = int(primary.client().info("replication")["master_repl_offset"])
            reached(source, end)
            stream = equal(portd, source, target)
        assert stream["keys_copied"] > 5


async def test_a_replica_far_away_as_the_source(servers: ServerFactory, target: Server) -> None:
    """That a key is gone is believed however long the replica takes to say so again."""
    primary, source = servers(), servers()
    source.replicate(primary)
    async with Proxy(source.port) as proxy:
        with Portd(proxy.url, target, **OPTIONS) as portd, Wire(primary) as wire:
            await asyncio.to_thread(portd.until, lambda status: status["ready"])
            wire.many([("SET", "in:1", "old"), ("SET", "out:1", "new")])
            await asyncio.to_thread(wait_for_sync, lambda: target.client().get("one:") == b"old")
            proxy.to_client.delay = 1.5
            wire.many([("RENAME", "out:1", "in:1"), ("DEL", "in:1")])
            await asyncio.to_thread(portd.until, lambda status: status["stream"]["keys_owed"] == 1)
            stream = (await asyncio.to_thread(portd.until, lambda status: status["stream"]["keys_owed"] == 0))["stream"]
            assert (stream["keys_copied"], stream["commands_failed"]) == (1, 0)
            assert target.client().get("one:") is None


@contextmanager
def away(source: Server) -> Iterator[None]:
    """The source takes no further connections; those that are there stay."""
    client: Any = source.client()
    before = client.config_get("maxclients")["maxclients"]
    client.config_set("maxclients", 1)
    try:
        yield
    finally:
        client.config_set("maxclients", before)


def test_a_kill_between_the_command_and_the_copy_loses_nothing(source: Server, target: Server) -> None:
    """The names stand in the checkpoint; what was left out for the keys meanwhile is in the copies."""
    with Portd(source, target, exclude_db=4, **OPTIONS) as portd, Wire(source) as wire:
        portd.until(lambda status: status["ready"])
        with away(source):
            for argv in filled(
                "SET {o} 1; RENAME {o} {i}; APPEND {i} x; RENAME {i} {j}; SET {i} 7; EXPIRE {i} 1000", 1
            ):
                wire.call(*argv)
            portd.until(lambda status: status["stream"]["keys_owed"] == 2)
            portd.kill()
            checkpoint: Any = target.client().hgetall(CHECKPOINT)
            assert checkpoint[b"version"] == b"3"
            names = {bytes.fromhex(each.partition(":")[2]) for each in checkpoint[b"owed"].decode().split()}
            assert names == {b"in:1:a", b"in:1:b"}
            assert target.client().keys("one:*") == []
        wire.call("APPEND", "in:1:b", "y")
        portd.start()
        stream = equal(portd, source, target)
        assert stream["keys_copied"] == 2
        assert target.client().get("one::b") == b"1xy"
        assert b"owed" not in target.client().hgetall(CHECKPOINT)
        assert "wrong" not in portd.log()


def test_a_source_that_is_away_is_asked_again(source: Server, target: Server) -> None:
    """The stream goes on meanwhile; the target has not caught up before it has the key."""
    with Portd(source, target, exclude_db=4, **OPTIONS) as portd, Wire(source) as wire:
        portd.until(lambda status: status["ready"])
        with away(source):
            for argv in filled("SET {o} 1; RENAME {o} {i}; SET {j} 1", 2):
                wire.call(*argv)
            portd.until(lambda status: status["stream"]["keys_owed"] == 1)
            wait_for_sync(lambda: target.client().get("to:2:b") == b"1")
            wait_for_sync(lambda: "keys cannot be copied from the source now" in portd.log())
        equal(portd, source, target)
        assert "keys are copied from the source" in portd.log()
        metrics = portd.get("metrics", accept="text/plain")
    assert 'portd_stream_keys_copied_total{link="default"} 1.0' in metrics
    assert 'portd_stream_owed_keys{link="default"} 0.0' in metrics
    assert 'portd_stream_commands_filtered_total{link="default",reason="copy"} 1.0' in metrics


async def test_a_failover_between_the_command_and_the_copy_loses_nothing(
    servers: ServerFactory, target: Server
) -> None:
    """What the old source owed, the new one has: under another id, at offsets that go on."""
    old, new = servers(), servers()
    new.replicate(old)
    async with Proxy(old.port) as proxy:
        with Portd(proxy.url, target, exclude_db=4, **OPTIONS) as portd:
            await asyncio.to_thread(portd.until, lambda status: status["ready"])
            with Load(old, 5), away(old):
                await asyncio.to_thread(portd.until, lambda status: status["stream"]["keys_owed"] > 1)
            reached(new, int(old.client().info("replication")["master_repl_offset"]))
            with away(old):  # for the proxy's next connections, too
                new.client().replicaof("NO", "ONE")
                proxy.upstream = ("127.0.0.1", new.port)
                proxy.cut()
            with Load(new, 6):
                await asyncio.to_thread(portd.until, lambda status: status["partial_syncs"] == 1 and status["ready"])
            stream = await asyncio.to_thread(equal, portd, new, target)
            assert stream["keys_copied"] > 1
            status = portd.status()
            assert status is not None
            assert status["full_syncs"] == {"first": 1}


def test_a_full_sync_owes_nothing(source: Server, target: Server) -> None:
    """Its snapshot brings what the keys hold."""
    with Portd(source, target, exclude_db=4, **OPTIONS) as portd, Wire(source) as wire:
        portd.until(lambda status: status["ready"])
        with away(source):
            for argv in filled("SET {o} 1; RENAME {o} {i}", 3):
                wire.call(*argv)
            portd.until(lambda status: status["stream"]["keys_owed"] == 1)
            portd.kill()
    with Portd(source, target, exclude_db=4, full_sync=True, **OPTIONS) as portd:
        portd.until(lambda status: status["ready"])
        assert equal(portd, source, target)["keys_copied"] == 0


def test_what_cannot_be_copied_is_a_dead_letter(source: Server, target: Server, tmp_path: Path) -> None:
    """With its own code and the name of the key; what is written later goes on."""
    letters = tmp_path / "letters"
    with Portd(source, target, exclude_db=4, dead_letters=letters, **OPTIONS) as portd, Wire(source) as wire:
        portd.until(lambda status: status["ready"])
        wire.call("SET", "out:big", random.Random(1).randbytes(9 << 20))
        wire.call("RENAME", "out:big", "in:big")
        portd.until(lambda status: status["dead_letters"].get("not_copied") == 1)
        wire.call("SET", "in:big", "small")
        stream = settled(portd, source)
        assert target.client().get("to:big") == b"small"
        assert (stream["commands_failed"], stream["keys_copied"]) == (0, 0)
    (told,) = [json.loads(line) for line in letters.read_text().splitlines()]
    wanted = {"code": "not_copied", "key": "to:big", "source_key": "in:big", "command": "DUMP"}
    assert {name: told[name] for name in wanted} == wanted
    assert "larger than" in told["reply"]


def test_large_values_come_in_parts(source: Server, target: Server) -> None:
    """Below the bound, but larger than what goes into one transaction."""
    with Portd(source, target, exclude_db=4, **OPTIONS) as portd, Wire(source) as wire:
        portd.until(lambda status: status["ready"])
        for number, size in enumerate((100_000, 300_000, 1 << 20, 3 << 20)):
            wire.call("SET", f"out:{number}", random.Random(number).randbytes(size))
            wire.call("RENAME", f"out:{number}", f"in:{number}x")
            wire.call("APPEND", f"in:{number}x", "end")
        assert equal(portd, source, target)["keys_copied"] == 4


def test_copies_make_room_for_others_while_the_stream_rests(source: Server, target: Server) -> None:
    """What is in the target is held no longer, whether or not the source writes anything behind it."""
    client: Any = source.client()
    client.config_set("repl-ping-replica-period", 3600)
    with Portd(source, target, **OPTIONS) as portd, Wire(source) as wire:
        portd.until(lambda status: status["ready"])
        names = [(f"out:{number}", f"in:v{number}") for number in range(5)]
        for number, (name, _) in enumerate(names):
            wire.call("SET", name, random.Random(number).randbytes(3 << 20))
        wire.many([("MULTI",), *(("RENAME", *each) for each in names), ("EXEC",)])
        stream = come(portd, source)
        assert (stream["keys_copied"], len(target.client().keys("to:*"))) == (5, 5)


def test_a_source_that_does_not_let_us_copy(source: Server, target: Server, tmp_path: Path) -> None:
    """Dead letters; `check` says beforehand what is missing, and how to mend it."""
    user: Any = source.client()
    user.execute_command("ACL", "SETUSER", "few", "on", ">secret", "+ping", "+replconf", "+psync", "+info")
    url = f"redis://few:secret@127.0.0.1:{source.port}"
    letters = tmp_path / "letters"
    with Portd(url, target, exclude_db=4, dead_letters=letters, **OPTIONS) as portd, Wire(source) as wire:
        portd.until(lambda status: status["ready"])
        for argv in filled("SET {o} 1; COPY {o} {i}; COPY {o} {j}", 2):
            wire.call(*argv)
        portd.until(lambda status: status["dead_letters"].get("not_copied", 0) == 2)
        assert settled(portd, source)["keys_owed"] == 0
    told = [json.loads(line) for line in letters.read_text().splitlines()]
    assert {each["key"] for each in told} == {"to:2:a", "to:2:b"}
    assert all("NOPERM" in each["reply"] for each in told)


async def test_check_names_what_is_missing(source: Server, target: Server) -> None:
    """Only where there are rules; with the permissions that it names nothing is."""
    user: Any = source.client()
    user.execute_command("ACL", "SETUSER", "few", "on", ">secret", "+ping", "+replconf", "+psync", "+info")
    few = {"source": f"redis://few:secret@127.0.0.1:{source.port}", "include": ["in:"]}
    found = one(await look(source, target, **few), "source.permissions.copying")
    assert found.level is Level.WARNING
    assert "DUMP" in found.what
    words = [each for each in found.action.split() if each.startswith(("+", "~"))]
    user.execute_command("ACL", "SETUSER", "few", *(each.strip("(),") for each in words))
    assert one(await look(source, target, **few), "source.permissions.copying").level is Level.OK
    assert levels(await look(source, target), "source.permissions.copying") == set()


def test_hot_keys_are_copied(source: Server, target: Server) -> None:
    """One that is written faster than an answer comes is copied all the same, for nothing is left out while it is asked again."""
    over = threading.Event()

    def write_always() -> None:
        with Wire(source) as wire:
            while not over.is_set():
                wire.many([("APPEND", "in:hot", "x")] * 50)

    def copied_again(portd: Portd) -> None:
        before = portd.status()["stream"]["keys_copied"]  # type: ignore[index]
        source.client().copy("out:hot", "in:hot", replace=True)
        portd.until(lambda status: status["stream"]["keys_copied"] > before)

    source.client().set("out:hot", "")
    with Portd(source, target, include="in:") as portd:
        portd.until(lambda status: status["ready"])
        writer = threading.Thread(target=write_always)
        writer.start()
        try:
            for _ in range(5):
                copied_again(portd)
        finally:
            over.set()
            writer.join()
        come(portd, source)
        assert target.client().get("in:hot") == source.client().get("in:hot")


@pytest.mark.parametrize("stop", ["terminate", "caught-up"])
def test_an_end_in_order_leaves_no_key_behind(source: Server, target: Server, stop: str) -> None:
    """Caught up means that no key is owed; what is, when a stop comes, the next start copies."""
    options = {"stop_after": "caught-up"} if stop == "caught-up" else {}
    with Portd(source, target, include="in:") as portd:
        portd.until(lambda status: status["ready"])
        portd.terminate()
    with Wire(source) as wire:
        for number in range(50):
            wire.many([("SET", "out:1", number), ("RENAME", "out:1", f"in:{number}")])
    with Portd(source, target, include="in:", **options) as portd:
        if stop == "terminate":
            portd.until(lambda status: status["stream"]["following"])
            portd.terminate()
            portd.start()
            come(portd, source)
        else:
            assert portd.wait() == 0, portd.log()
    assert contents(target) == contents(source)


@pytest.mark.parametrize(
    "rules",
    [{"all_dbs_to": 4}, {"map_db": ["0=4", "1=4"], "map_db_many": True}, {"rename_prefix": ["ia:=x:", "ib:=x:"]}],
)
def test_a_key_that_went_elsewhere_is_not_removed_from_where_both_go(
    rules: dict[str, Any], source: Server, target: Server
) -> None:
    """Of names that become one, one that is gone at the source takes nothing away that another one has brought."""
    db = 0 if "rename_prefix" in rules else 4
    with Portd(source, target, include="i", **rules) as portd, Wire(source) as wire:
        portd.until(lambda status: status["ready"])
        there: tuple[tuple[str, ...], ...] = (("RENAME", "ia:1", "ib:1"), ("RENAME", "ib:1", "ia:1"))
        if db:
            there = (("MOVE", "ia:1", "1"), ("SELECT", "1"), ("MOVE", "ia:1", "0"))
        wire.many([("SET", "o", "v"), ("MULTI",), ("RENAME", "o", "ia:1"), *there, ("EXEC",)])
        come(portd, source)
        client = target.client(db=db)
        assert client.get("ia:1" if db else "x:1") == b"v"
        again = ("SELECT 0", "SET o w", "MULTI", "RENAME o ia:2", "DEL ia:2")
        other = ("SELECT 1", "SET ia:2 n") if db else ("SET ib:2 n",)
        wire.many([each.split() for each in (*again, *other, "EXEC")])
        come(portd, source)
        assert client.get("ia:2" if db else "x:2") == b"n"
        wire.many([each.split() for each in ("SELECT 1", "DEL ia:2", "SELECT 0", "DEL ib:2", *again, "EXEC")])
        come(portd, source)
        assert client.get("ia:2" if db else "x:2") is None
