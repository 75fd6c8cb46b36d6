"""Commands of the newest server into every older one: what has another form arrives, in the stream and from a file."""

from __future__ import annotations

import os
import re
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from portd.kernel.commandtable import CommandTable
from portd.kernel.forms import Forms, lacking
from portd.kernel.stream import StreamSplitter
from tests.commands import run
from tests.compare import LOSSES, compare
from tests.oracle.resp import drain
from tests.process import Portd
from tests.servers import Binary, Server, binaries, wait_for_sync
from tests.traffic import Workload
from tests.wire import Wire, pack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Pair, ServerFactory

FAR = 4_000_000_000_000
# Written by clients at the source, in this order.
TRAFFIC = f"""
SET float 1.5 PXAT {FAR}
INCRBYFLOAT float 1
SET short 123456789 PXAT {FAR}
SET short 1 KEEPTTL
SET got old
SET got new GET
SET got newer GET PXAT {FAR}
SET fresh v NX GET
SET eq a
SET eq b IFEQ a
SET eq c IFEQ b PXAT {FAR}
SET gone v
DELIFEQ gone v
MSETEX 2 m1 a m2 b
MSETEX 2 m3 a m4 b PXAT {FAR}
MSETEX 2 m3 c m4 d XX KEEPTTL
RPUSH list 1 2 3 4 5 6 7 8 9
LPOP list 2
RPOP list 3
RPUSH emptied 1 2
LPOP emptied 5
LMOVE list other LEFT LEFT
LMOVE list other RIGHT LEFT
LMOVE list other LEFT RIGHT
LMOVE list list LEFT RIGHT
RPUSH single x
PEXPIREAT single {FAR}
LMOVE single single LEFT RIGHT
RPUSH queue a b
BLMOVE queue done RIGHT RIGHT 1
COPY list copied
COPY float copied REPLACE
COPY list elsewhere DB 3
PEXPIREAT list {FAR} NX
PEXPIREAT list {FAR + 5000} GT
PEXPIREAT float {FAR - 5000} LT
XADD stream MAXLEN ~ 100 1-1 a b
XADD stream NOMKSTREAM 2-1 a b
XADD stream MAXLEN ~ 100 LIMIT 50 3-1 a b
XADD stream MINID = 2 4-1 a b
XADD stream MINID = 9 5-1 a b
XADD stream MINID = 2 6-1 a b
XADD stream 7-1 a b
XADD stream 8-1 a b
XADD stream 9-1 a b
XTRIM stream MINID = 7-1
XTRIM stream MAXLEN ~ 100 LIMIT 20
XGROUP CREATE stream group 0
XREADGROUP GROUP group one COUNT 2 STREAMS stream >
XGROUP CREATECONSUMER stream group idle
XSETID stream 99-1 ENTRIESADDED 50 MAXDELETEDID 6-1
XADD claims 1-1 a b
XADD claims 2-1 a b
XGROUP CREATE claims group 0
XREADGROUP GROUP group one COUNT 2 STREAMS claims >
XDEL claims 1-1
XCLAIM claims group two 0 1-1 2-1
XADD autoclaims 1-1 a b
XGROUP CREATE autoclaims group 0
XREADGROUP GROUP group one COUNT 2 STREAMS autoclaims >
XDEL autoclaims 1-1
XAUTOCLAIM autoclaims group one 0 0
HSET hash a 1 b 2 c 3 d 4
HPEXPIREAT hash {FAR} FIELDS 1 a
HINCRBY hash a 5
HSETEX hash PXAT {FAR} FIELDS 2 b 1 e 2
HSETEX hash KEEPTTL FIELDS 2 a 2 new 1
HSETEX hash FNX FIELDS 1 f 9
HGETEX hash PXAT {FAR} FIELDS 1 c
HPERSIST hash FIELDS 1 e
HGETDEL hash FIELDS 2 d f
ZADD zset 1 a 2 b 3 c 4 d 5 e
ZADD zset GT CH 5 a
ZADD zset GT 1 b 9 c 7 new
ZADD zset LT XX 1 d 99 e 1 absent
ZADD zset GT INCR 5 a
ZMPOP 1 zset MIN COUNT 1
ZPOPMAX zset
ZADD zset 1.5 a 2 b 3 c
ZRANGESTORE ranged zset 1 -1
ZRANGESTORE reversed zset 0 1 REV
ZRANGESTORE scored zset (2 +inf BYSCORE LIMIT 0 1
ZADD lex 0 a 0 b 0 c 0 d
ZRANGESTORE worded lex [b (d BYLEX
ZDIFFSTORE differing 2 zset ranged
SADD members b
ZDIFFSTORE lex 3 lex members worded
GEOADD geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania 2.35 48.85 Paris
GEOSEARCHSTORE near geo FROMLONLAT 15 37 BYRADIUS 400 km ASC COUNT 1
GEOSEARCHSTORE distances geo FROMMEMBER Palermo BYRADIUS 4000 km STOREDIST
SET near2 v
GEOSEARCHSTORE near2 nothing FROMLONLAT 15 37 BYRADIUS 400 km
SPUBLISH channel message
SELECT 5
SET five 5
FLUSHDB SYNC
SET five again
"""


def targets() -> list[Binary]:
    """Every server at hand from Redis 4.0 on."""
    return [binary for binary in binaries() if binary.version >= (4, 0, 0)]


@pytest.fixture(params=targets(), ids=lambda binary: binary.name)
def older(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that traffic of the newest one goes to."""
    with Server(request.param, databases=16) as server:
        yield server


@pytest.fixture
def newest() -> Iterator[Server]:
    """The newest server at hand; it must know all the commands."""
    if not binaries()[0].at_least(valkey=(9, 1)):
        pytest.skip("takes Valkey 9.1 as the source")
    with Server(binaries()[0], databases=16, appendonly=True) as server:
        yield server


def write(source: Server, lines: str = TRAFFIC) -> None:
    """Runs commands one after the other."""
    client: Any = source.client(single_connection_client=True)
    for line in lines.strip().splitlines():
        client.execute_command(*line.split(), keys=[])


def differences(source: Server, target: Server) -> list[str]:
    """What differs, without what an old server has no place for."""
    return [line for line in compare(source, target) if not LOSSES.search(line)]


def test_every_command_with_another_form_arrives_in_the_stream(newest: Server, older: Server) -> None:
    """Nothing is refused, and both ends are equal."""
    with Portd(newest, older) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        write(newest)
        status = portd.until_applied(newest)
        assert status["dead_letters"] == {}, portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert differences(newest, older) == []


def test_every_command_with_another_form_arrives_from_an_append_only_file(newest: Server, older: Server) -> None:
    """A file is no other stream than a link."""
    write(newest)
    (file,) = newest.directory.glob("appendonlydir/*.incr.aof")
    ended = run("restore", file, "--target", older.url)
    assert "refused" not in ended.err, ended.err
    assert differences(newest, older) == []


def write_all(source: Server) -> None:
    """What can be written to any server, and whatever of the newest one's commands this one knows."""
    workload = Workload(source.binary, seed=source.binary.version[0], swapdb=True, flushdb=True)
    with Wire(source) as wire:
        wire.many(workload.setup(), errors=True)
        for _ in range(600):
            wire.many(workload.next(), errors=True)
        relative = not source.binary.at_least(redis=(7, 0), valkey=(0,))  # it sends some times as seconds from now
        kinds = ("expiring", "hash", "string", "list", "set", "zset") if relative else ("expiring",)
        for db in workload.databases:  # a time that is about to pass while they are compared is no difference
            wire.call("SELECT", db)
            for key in (f"live:{kind}:{number}" for kind in kinds for number in range(60)):
                if wire.call("PTTL", key) != -1:  # what has expired is deleted by this, if it was not yet
                    wire.call("PEXPIREAT", key, FAR)
        wire.call("SELECT", 0)
        wire.many([line.split() for line in TRAFFIC.strip().splitlines()], errors=True)


def test_what_any_server_writes_arrives_in_any_other(matrix: Pair, servers: ServerFactory) -> None:
    """Nothing is refused and the target has what a replica has, whichever two servers they are."""
    source, target = matrix
    replica = servers(source.binary)
    follower: Any = replica.client()
    follower.execute_command("SLAVEOF", "127.0.0.1", source.port)  # as the oldest call it
    wait_for_sync(lambda: replica.info("replication")["master_link_status"] == "up")
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        write_all(source)
        status = portd.until_applied(source)
        end = source.info("replication")["master_repl_offset"]
        wait_for_sync(lambda: replica.info("replication")["slave_repl_offset"] >= end)
        assert status["dead_letters"] == {}, portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    if source.binary.version < (4, 0, 0):  # it has no digests of single keys
        run("verify", "--source", source.url, "--target", target.url)
        return
    found = differences(source, target)
    if found:  # consumers that read nothing, before 7.0: what the source does not tell its replicas
        told = differences(replica, target)
        found = [line for line in found if line in told]
    if not source.binary.at_least(redis=(7, 0), valkey=(0,)):  # as the test of claimed messages says
        found = [line for line in found if "claims" not in line]
    assert found == []


# What sources newer than any server at hand send; the state it makes follows.
NEWER = """
SET ne a
SET ne b IFNE x
SET ne c IFDNE 0123456789abcdef GET
SET digest a
SET digest b IFDEQ e6c632b61e964e1f
SET gone x
DELEX gone IFEQ x
MSETEX 2 r1 a r2 b EX 10000
MSETEX 1 r1 c KEEPTTL
XADD s KEEPREF MAXLEN = 5 LIMIT 3 1-1 a b
XADD s KEEPREF 2-1 a b
XADD s 3-1 a b
XTRIM s MAXLEN = 4 LIMIT 2 KEEPREF
XDELEX s KEEPREF IDS 1 1-1
XDELEX s IDS 1 2-1
"""


def test_commands_newer_than_any_server_at_hand_arrive(older: Server, tmp_path: Path) -> None:
    """Recorded streams of newer servers have the same forms."""
    file = tmp_path / "stream"
    commands = [["SELECT", "0"], *(line.split() for line in NEWER.strip().splitlines())]
    file.write_bytes(b"".join(pack(*command) for command in commands))
    ended = run("restore", file, "--target", older.url)
    assert "refused" not in ended.err, ended.err
    client: Any = older.client()
    assert client.mget("ne", "digest", "gone", "r1", "r2") == [b"c", b"b", None, b"c", b"b"]
    assert client.ttl("r1") > 9000
    assert client.ttl("r2") > 9000
    assert [entry[0] for entry in client.xrange("s")] == [b"3-1"]


LIBRARY = "#!lua name=lib\nredis.register_function('f', function() return 1 end)"


def fill_and_restore(source: Server) -> None:
    """RESTORE at the source, of every kind of value in small and large, with and without an expiry."""
    client: Any = source.client()
    client.mset({"text": "v", "number": 7, "large": "x" * 600_000})
    client.rpush("list", *range(50))
    client.rpush("nodes", *(f"{n}" * 50 for n in range(2000)))
    client.sadd("ints", 1, 2, 3)
    client.sadd("words", "a", "b")
    client.sadd("many", *range(2000, 4000), "x")
    client.hset("hash", mapping={"a": 1, "b": 2})
    client.hset("table", mapping={f"f{n}": "v" * 20 for n in range(800)})
    client.hset("fields", mapping={"a": 1, "b": 2})
    client.execute_command("HPEXPIREAT", "fields", FAR, "FIELDS", 1, "a")
    client.zadd("zset", {"a": 1.5, "b": 2})
    client.zadd("scores", {f"m{n}": n / 3 for n in range(600)})
    client.xadd("stream", {"a": "b"}, id="1-1")
    client.xgroup_create("stream", "group", "0")
    client.xreadgroup("group", "one", {"stream": ">"})
    for number, key in enumerate(client.keys("*")):
        payload = client.dump(key)
        assert payload is not None
        ttl = ((), (10_000_000,), (FAR, "ABSTTL"))[number % 3]
        for name in (b"1:" + key, b"2:" + key):
            first = client.execute_command("RESTORE", name, ttl[0] if ttl else 0, payload, *ttl[1:])
            again = client.execute_command("RESTORE", name, ttl[0] if ttl else 0, payload, "REPLACE", *ttl[1:])
            assert first == again == b"OK"


def test_restore_in_the_stream_arrives_in_older_servers(newest: Server, older: Server) -> None:
    """The payload's version is the target's, and encodings that it does not know are written with commands."""
    with Portd(newest, older) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        fill_and_restore(newest)
        if older.binary.at_least(redis=(7, 0), valkey=(7, 2)):
            client: Any = newest.client()
            client.function_load(LIBRARY)
            libraries = client.execute_command("FUNCTION", "DUMP")
            client.function_flush()
            client.execute_command("FUNCTION", "RESTORE", libraries)
        status = portd.until_applied(newest)
        assert status["dead_letters"] == {}, portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert differences(newest, older) == []


def test_what_older_servers_have_no_place_for_is_counted(newest: Server) -> None:
    """Fields of hashes are kept, and live for ever; the operator is told how many."""
    binary = next((each for each in targets() if not each.at_least(redis=(7, 4), valkey=(9, 0))), None)
    if binary is None:
        pytest.skip("takes a server without expiry times of hash fields")
    with Server(binary) as target, Portd(newest, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        client: Any = newest.client()
        client.hset("h", mapping={"a": 1, "b": 2, "c": 3})
        client.execute_command("HPEXPIREAT", "h", FAR, "FIELDS", 2, "a", "b")
        client.execute_command("HSETEX", "h", "PXAT", FAR, "FIELDS", 1, "d", 4)
        status = portd.until_applied(newest)
        assert status["attributes_dropped"] == {"field-ttl": 3}
        assert target.client().hgetall("h") == {b"a": b"1", b"b": b"2", b"c": b"3", b"d": b"4"}


SOURCE_7 = """
XADD s 1-1 a b
XADD s 2-1 a b
XGROUP CREATE s g 0
XREADGROUP GROUP g one COUNT 2 STREAMS s >
XDEL s 1-1
XCLAIM s g two 0 1-1 2-1
"""


def test_a_claimed_message_that_was_deleted_is_as_at_the_source(servers: ServerFactory) -> None:
    """It stays pending where the source leaves it, and goes where the source removes it; the target is older than 7.0."""
    binary = next((each for each in targets() if not each.at_least(redis=(7, 0), valkey=(0,))), None)
    if binary is None:
        pytest.skip("takes a server older than Redis 7.0")
    for other in (binary, binaries()[0]):
        source, target = servers(other), servers(binary)
        with Portd(source, target) as portd:
            portd.until(lambda status: status["phase"] == "streaming")
            write(source, SOURCE_7)
            portd.until_applied(source)
            assert portd.terminate() == os.EX_OK, portd.log()
        client: Any = target.client()
        pending = client.xpending("s", "g")["pending"]
        assert pending == (2 if other == binary else 1)
        assert differences(source, target) == []


def test_newer_servers_forget_a_claimed_message_that_was_deleted(servers: ServerFactory) -> None:
    """No command can leave it pending there: the target has what a replica of its release has of an older source."""
    binary = next((each for each in targets() if not each.at_least(redis=(7, 0), valkey=(0,))), None)
    newer = binaries()[0]
    if binary is None or not newer.at_least(redis=(7, 0), valkey=(0,)):
        pytest.skip("takes a server older than Redis 7.0 and a newer one")
    source, target, replica = servers(binary), servers(newer), servers(newer)
    replica.replicate(source)
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        write(source, SOURCE_7)
        assert portd.until_applied(source)["dead_letters"] == {}
        end = source.info("replication")["master_repl_offset"]
        wait_for_sync(lambda: replica.info("replication").get("slave_repl_offset", 0) >= end)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert [server.client().xpending("s", "g")["pending"] for server in (source, target, replica)] == [2, 1, 1]


def test_the_forms_of_redis_4_do_what_the_commands_do(newest: Server, servers: ServerFactory) -> None:
    """What goes to a Redis 4.0 makes the same values on the oldest server at hand, without anything newer than 4.0."""
    binary = next((each for each in reversed(targets()) if not each.valkey), None)
    if binary is None:
        pytest.skip("takes a Redis")
    lines = [line for line in TRAFFIC.strip().splitlines() if not re.match(r"X|\w+ (stream|claims|autoclaims)", line)]
    write(newest, "\n".join(lines))
    (file,) = newest.directory.glob("appendonlydir/*.incr.aof")
    table = CommandTable(forms=Forms(lacking("redis", (4, 0)), True, False))
    splitter = StreamSplitter(0, 0, pxat=False, entries_read=False, unlink=True, commands=table)
    splitter.feed(file.read_bytes(), 0)
    (piece,) = drain(splitter)
    assert not re.search(rb"\nPXAT\r|ABSTTL|\nZPOP", piece.data)
    target = servers(binary, databases=16)
    with closing(Wire(target)) as wire:
        wire.load([(piece.data, piece.replies)])
    assert differences(newest, target) == []


def test_targets_older_than_redis_4_are_refused_before_anything_is_done(servers: ServerFactory) -> None:
    """`check` says it, and `sync` ends with the code of a setting that cannot work."""
    binary = next((each for each in binaries() if each.version < (4, 0, 0)), None)
    if binary is None:
        pytest.skip("takes a Redis older than 4.0")
    source, target = servers(binaries()[0]), servers(binary)
    checked = run("check", "--source", source.url, "--target", target.url, expect=os.EX_CONFIG)
    assert "portd writes to Redis 4.0 or newer" in checked.out.decode() + checked.err
    with Portd(source, target) as portd:
        assert portd.wait() == os.EX_CONFIG
        assert "portd writes to Redis 4.0 or newer" in portd.log()
    assert source.info("stats")["sync_full"] == 0
    with Portd(target, source, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, "as a source it is welcome"


# Written by clients of Redis 8.6, in this order; the target is compared with the source, which is Redis 8.6, too.
OF_REDIS_8 = f"""
XADD idmp IDMP one 1 * a b
XADD idmp IDMP one 1 * a b
XADD idmp IDMP one 2 * a b
XADD idmp IDMPAUTO two * a b
XADD idmp IDMPAUTO two * a b
XADD idmp KEEPREF IDMP one 3 MAXLEN ~ 100 LIMIT 50 * a b
XADD idmp NOMKSTREAM IDMP one 4 MINID = 1 * a b
XADD idmp IDMP one 5 MAXLEN = 0 * a b
XADD idmp IDMP one 6 * a b
XCFGSET idmp IDMP-DURATION 50 IDMP-MAXSIZE 10
XADD idmp IDMP one 7 * a b
COPY idmp idmp2
SET ne a
SET ne b IFNE x
SET ne c IFDNE 0123456789abcdef GET
SET ne d IFEQ c PXAT {FAR}
SET gone x
DELEX gone IFEQ x
SET gone2 x
DELEX gone2
MSETEX 2 r1 a r2 b PXAT {FAR}
MSETEX 2 r1 c r2 d XX KEEPTTL
MSETEX 2 r3 a r4 b NX
HSET hash a 1 b 2 c 3 d 4
HSETEX hash PXAT {FAR} FIELDS 2 b 1 e 2
HSETEX hash FXX KEEPTTL FIELDS 1 b 2
HSETEX hash FNX FIELDS 1 f 9
HGETEX hash PXAT {FAR} FIELDS 1 c
HGETEX hash PERSIST FIELDS 1 c
HGETDEL hash FIELDS 2 d f
HSETEX hash EXAT 1 FIELDS 1 a 1
HSETEX hash FIELDS 2 g 1 h 2 PXAT {FAR}
HSETEX hash FXX FIELDS 1 g 3 KEEPTTL
HSETEX hash FIELDS 1 i 3 FNX
HPEXPIREAT hash {FAR} FIELDS 2 i e NX
HPEXPIREAT hash {FAR} FIELDS 1 b XX
HSET fields a 1 b 2
HSETEX fields PXAT {FAR} FIELDS 1 c 1
HSETEX fields KEEPTTL FIELDS 1 c 2
HPEXPIREAT fields {FAR} FIELDS 1 a
SET b1 abcdefgh
SET b2 bc
SET b3 xyzxyz
SET b4 0
BITOP DIFF d1 b1 b2 b3
BITOP DIFF1 d2 b1 b2 b3
BITOP ANDOR d3 b1 b2 b3
BITOP ONE d4 b1 b2
BITOP ONE d5 b1 b2 b3 b4
BITOP ONE d6 b1
BITOP ONE d6 nothing b1
BITOP DIFF b2 b2 b3
BITOP DIFF1 d7 nothing b3
BITOP DIFF d8 b3 nothing
BITOP ANDOR b3 b1 b3
BITOP ONE b4 b1 b3 b4
BITOP DIFF d8 nothing nothing2
XADD q 1-1 a b
XADD q 2-1 a b
XADD q 3-1 a b
XADD q 4-1 a b
XADD q 5-1 a b
XADD q 6-1 a b
XADD q 7-1 a b
XADD q 8-1 a b
XGROUP CREATE q g 0
XGROUP CREATE q h 0
XREADGROUP GROUP g c COUNT 6 STREAMS q >
XREADGROUP GROUP h c COUNT 5 STREAMS q >
XACKDEL q g IDS 1 1-1
XACKDEL q g KEEPREF IDS 3 8-1 2-1 99-1
XACKDEL q g DELREF IDS 2 3-1 99-1
XACKDEL q g ACKED IDS 2 4-1 5-1
XACKDEL q h ACKED IDS 1 4-1
XDELEX q ACKED IDS 3 5-1 6-1 7
XDELEX q DELREF IDS 2 5-1 77-1
XDELEX q KEEPREF IDS 1 6-1
XREADGROUP GROUP g c2 CLAIM 0 COUNT 4 STREAMS q >
XADD p 1-1 a b
XADD p 2-1 a b
XADD p 3-1 a b
XADD p 4-1 a b
XADD p 5-1 a b
XADD p 6-1 a b
XADD p 7-1 a b
XGROUP CREATE p g 0
XGROUP CREATE p h 0
XREADGROUP GROUP g c COUNT 6 STREAMS p >
XREADGROUP GROUP h c COUNT 5 STREAMS p >
XACK p g 1-1 3-1 5-1
XACK p h 1-1 2-1 3-1 5-1
XTRIM p MAXLEN 5 ACKED
XADD p ACKED MAXLEN = 5 8-1 a b
XTRIM p MINID 4-1 DELREF
XADD p DELREF MAXLEN ~ 3 LIMIT 0 9-1 a b
XADD p MAXLEN 3 DELREF 10-1 a b
XADD p NOMKSTREAM ACKED MINID = 9 11-1 a b
XADD p DELREF 12-1 a b
XTRIM p MAXLEN = 2 DELREF LIMIT 0
XADD fresh DELREF MAXLEN = 1 1-1 a b
XADD fresh ACKED MAXLEN = 1 2-1 a b
XADD emptied 1-1 a b
XTRIM emptied MAXLEN = 0 DELREF
"""


@pytest.fixture
def redis_8() -> Iterator[Server]:
    """A source that has what came with Redis 8.2 to 8.6."""
    binary = next((each for each in binaries() if each.at_least(redis=(8, 6))), None)
    if binary is None:
        pytest.skip("takes Redis 8.6 as the source")
    with Server(binary, databases=16, appendonly=True) as server:
        yield server


def test_every_command_of_redis_8_6_arrives_in_the_stream(redis_8: Server, older: Server) -> None:
    """Messages of idempotent producers, deletions by reference and new operations on bits: nothing is refused."""
    with Portd(redis_8, older) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        write_what_it_takes(redis_8, OF_REDIS_8)
        status = portd.until_applied(redis_8)
        assert status["dead_letters"] == {}, portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert differences(redis_8, older) == []


def test_every_command_of_redis_8_6_arrives_from_an_append_only_file(redis_8: Server, older: Server) -> None:
    """A file has the same."""
    write_what_it_takes(redis_8, OF_REDIS_8)
    (file,) = redis_8.directory.glob("appendonlydir/*.incr.aof")
    ended = run("restore", file, "--target", older.url)
    assert "refused" not in ended.err, ended.err
    assert differences(redis_8, older) == []


def fill_streams(source: Server, entries: int) -> None:
    """Streams with producers, settings of their own, and a pending message that was deleted: a small one, and one of many entries."""
    client: Any = source.client()
    for name, count in (("small", 3), ("large", entries)):
        pipeline = client.pipeline(transaction=False)
        for number in range(count):
            pipeline.xadd(name, {"field": f"{number:040}"}, id=f"{number + 1}-1")
        pipeline.execute()
        client.execute_command("XCFGSET", name, "IDMP-DURATION", 5000, "IDMP-MAXSIZE", 7)
        for iid in ("one", "two", "gone"):
            added = client.execute_command("XADD", name, "IDMP", "producer", iid, "*", "a", "b")
        client.xdel(name, added)
        client.xgroup_create(name, "group", "0")
        client.xreadgroup("group", "consumer", {name: ">"}, count=3)
        client.xdel(name, "2-1")


def test_restored_streams_keep_what_no_command_carries(redis_8: Server, older: Server) -> None:
    """RESTORE in the stream: who produced messages has no place in older servers, which is no reason to refuse the value."""
    with Portd(redis_8, older) as portd:
        fill_streams(redis_8, 20_000)
        portd.until(lambda status: status["phase"] == "streaming")
        with Wire(redis_8) as wire:
            for name in ("small", "large"):
                assert wire.call("RESTORE", f"{name}2", FAR, wire.call("DUMP", name), "ABSTTL") == b"OK"
        status = portd.until_applied(redis_8)
        assert all(code == "unsupported" for code in status["dead_letters"]), portd.log()
    assert [line for line in differences(redis_8, older) if "2'" in line.partition(":")[0]] == []


def test_a_large_stream_takes_its_producers_along(redis_8: Server) -> None:
    """Of an element at a time, too: a message that is sent again is known to the target."""
    fill_streams(redis_8, 60_000)
    with Server(redis_8.binary) as target, Portd(redis_8, target) as portd:
        status = portd.until(lambda status: status["phase"] == "streaming")
        assert status["dead_letters"] == {"ERR": 1}, portd.log()  # a pending entry whose message was deleted
        clients: list[Any] = [target.client(), redis_8.client()]
        for name in ("small", "large"):
            again = [each.execute_command("XADD", name, "IDMP", "producer", "two", "*", "c", "d") for each in clients]
            assert again[0] == again[1]
            with Wire(target) as wire:
                told = wire.call("XINFO", "STREAM", name)
            settings = dict(zip(told[::2], told[1::2], strict=True))
            assert (settings[b"idmp-duration"], settings[b"idmp-maxsize"]) == (5000, 7)


@pytest.mark.parametrize("named", ["valkey9.1", "redis8.6"])
def test_pending_entries_that_no_command_makes_are_told(named: str) -> None:
    """Of a stream too large for RESTORE: what was trimmed is counted, what was deleted is a dead letter; what is there is pending."""
    binary = next((each for each in binaries() if each.name == named), None)
    if binary is None:
        pytest.skip(f"takes {named}")
    with Server(binary) as source, Server(binary) as target:
        client: Any = source.client()
        pipeline = client.pipeline(transaction=False)
        for number in range(60_000):
            pipeline.xadd("s", {"field": f"{number:040}"}, id=f"{number + 1}-1")
        pipeline.execute()
        client.xgroup_create("s", "g", "0")
        client.xreadgroup("g", "one", {"s": ">"}, count=10)
        client.xtrim("s", minid="4-1", approximate=False)
        client.xdel("s", "7-1")
        with Portd(source, target) as portd:
            status = portd.until(lambda status: status["phase"] == "streaming")
            assert status["attributes_dropped"] == {"stream-meta": 3}, portd.log()
            assert status["dead_letters"] == {"ERR": 1}, portd.log()
            assert "message 7-1 was deleted" in portd.log()
        pending = [each["message_id"] for each in target.client().xpending_range("s", "g", "-", "+", 20)]
        assert pending == [b"4-1", b"5-1", b"6-1", b"8-1", b"9-1", b"10-1"]


def test_a_hash_called_as_an_option_keeps_its_times(redis_8: Server, older: Server) -> None:
    """Valkey refuses HSETEX of a key called ``fields``, which snapshots may have."""
    client: Any = redis_8.client()
    for name in ("fields", "FIELDS", "field"):
        client.hset(name, mapping={"a": 1, "b": 2})
        client.execute_command("HPEXPIREAT", name, FAR, "FIELDS", 1, "a")
    with Portd(redis_8, older) as portd:
        status = portd.until(lambda status: status["phase"] == "streaming")
        assert status["dead_letters"] == {}, portd.log()
    assert differences(redis_8, older) == []


def write_what_it_takes(source: Server, lines: str) -> None:
    """Runs commands one after the other; some are refused by the source itself, as a client sees it."""
    with Wire(source) as wire:
        wire.many([line.split() for line in lines.strip().splitlines()], errors=True)
