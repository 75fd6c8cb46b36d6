"""What a source must not do to a target: write into other databases, over our own keys, or run what is no write."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import run
from tests.hostile import MARK, HostileSource
from tests.oracle.model import Entry, Snapshot
from tests.oracle.rdbwrite import encode
from tests.oracle.resp import pack
from tests.process import Portd
from tests.servers import find, wait_for_sync

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server

LEASE = "portd:checkpoint:default:lease"
OURS = b"portd:checkpoint:"


def client_of(server: Server, db: int = 0) -> Any:
    """A client, whose replies are what the command says."""
    return server.client(db=db)


def keys_of(server: Server, db: int = 0) -> set[bytes]:
    """Names in a database, portd's own left out."""
    return {name for name in client_of(server, db).keys("*") if not name.startswith(OURS)}


def replica_of(primary: Server, servers: ServerFactory, **config: int) -> Server:
    """A replica that is in step."""
    replica = servers(primary.binary, **config)
    client_of(replica).replicaof("127.0.0.1", primary.port)
    wait_for_sync(lambda: client_of(replica).info("replication")["master_link_status"] == "up")
    return replica


def in_step(replica: Server, primary: Server) -> None:
    """Waits until the replica has what the primary wrote."""
    end = client_of(primary).info("replication")["master_repl_offset"]
    wait_for_sync(lambda: client_of(replica).info("replication")["slave_repl_offset"] >= end)


# ---------------------------------------------------------------------------------------------------------- databases


@pytest.mark.parametrize("name", ["valkey", "redis7.0"])
def test_a_stream_that_begins_in_a_database_that_is_not_there(
    name: str, servers: ServerFactory, tmp_path: Path
) -> None:
    """A replica sends no SELECT of its own: what comes first belongs where the snapshot's AUX field says, or nowhere."""
    if find(name) is None:
        pytest.skip(f"needs {name}")
    primary, target = servers(find(name), databases=32), servers(databases=16)
    replica = replica_of(primary, servers, databases=32)
    source = client_of(primary, 20)
    source.set("h", 1)
    source.delete("h")
    in_step(replica, primary)
    letters = tmp_path / "letters.jsonl"
    with Portd(replica, target, dead_letters=letters) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        source.set("k", "x")
        in_step(replica, primary)
        portd.until_applied(replica)
        client_of(primary).set("a", "1")
        in_step(replica, primary)
        portd.until_applied(replica)
        assert keys_of(target) == {b"a"}
        portd.terminate()
        assert portd.wait() == os.EX_OK
        source.set("k", "y")  # the next start begins in that database
        in_step(replica, primary)
        portd.start()
        portd.until_applied(replica)
        assert keys_of(target) == {b"a"}
        assert client_of(target).get("a") == b"1"
    told = [json.loads(line) for line in letters.read_text().splitlines()]
    assert [(each["db"], each["command"], each["key"]) for each in told] == [(20, "SET", "k")] * 2


def test_a_recorded_stream_that_begins_in_a_database_that_is_not_there(servers: ServerFactory, tmp_path: Path) -> None:
    """`restore --then-follow` does as `sync` does."""
    target = servers(databases=16)
    snapshot, stream = tmp_path / "a.rdb", tmp_path / "a.stream"
    snapshot.write_bytes(with_aux([Entry(0, b"a", 0, b"1")], b"20"))
    stream.write_bytes(pack([b"SET", b"k", b"x"]) + pack([b"SELECT", b"0"]) + pack([b"SET", b"b", b"2"]))
    run("restore", snapshot, "--target", target.url, "--then-follow", stream)
    assert keys_of(target) == {b"a", b"b"}


def with_aux(entries: list[Entry], db: bytes) -> bytes:
    """A snapshot that says where the stream behind it begins; without a checksum."""
    name = b"repl-stream-db"
    plain = encode(Snapshot(False, 9, entries))
    aux = b"\xfa" + bytes([len(name)]) + name + bytes([len(db)]) + db
    return plain[:9] + aux + plain[9:-8] + bytes(8)


@pytest.mark.parametrize("db", [b"abc", b"", b"99999999999999999999", b"1.5"])
def test_an_aux_field_that_is_no_database(db: bytes, servers: ServerFactory, tmp_path: Path) -> None:
    """Nothing is known then: a stream that selects one goes on, one that does not is an error with its place."""
    target = servers()
    snapshot, stream = tmp_path / "a.rdb", tmp_path / "a.stream"
    snapshot.write_bytes(with_aux([Entry(0, b"a", 0, b"1")], db))
    stream.write_bytes(pack([b"SELECT", b"3"]) + pack([b"SET", b"b", b"2"]))
    run("restore", snapshot, "--target", target.url, "--then-follow", stream)
    assert keys_of(target, 3) == {b"b"}
    stream.write_bytes(pack([b"SET", b"c", b"2"]))
    ended = run(
        "restore",
        snapshot,
        "--target",
        target.url,
        "--then-follow",
        stream,
        "--existing",
        "replace",
        expect=os.EX_DATAERR,
    )
    assert "no database is known" in ended.err
    assert "Traceback" not in ended.err
    assert keys_of(target) == {b"a"}
    with HostileSource(snapshot.read_bytes() + MARK) as source:
        out = tmp_path / "out"
        ended = run("dump", "--source", source.url, "-o", out)
    assert out.read_bytes() == snapshot.read_bytes()


def test_keys_of_databases_that_are_not_there_are_dead_letters(servers: ServerFactory, tmp_path: Path) -> None:
    """Everything else is copied and followed, with one fork; `check` says it before."""
    source, target = servers(databases=32), servers(databases=16)
    for db in (0, 15, 16, 31):
        client_of(source, db).mset({f"k{number}": "v" for number in range(500)})
        client_of(source, db).rpush("big", *range(20_000))
        client_of(source, db).hset("h", "f", "v")
    letters = tmp_path / "letters.jsonl"
    assert "database 31" in run("check", "--source", source.url, "--target", target.url, expect=None).out.decode()
    with Portd(source, target, dead_letters=letters) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        client_of(source, 31).set("k1", "w")
        client_of(source, 15).set("k1", "w")
        client_of(source).swapdb(0, 20)
        client_of(source, 3).set("k", "w")
        status = portd.until_applied(source)
        assert status["snapshot"]["keys_failed"] == 2 * 502
        assert status["snapshot"]["keys_applied"] == 2 * 502
        assert status["full_syncs"] == {"first": 1}
    assert {db for db in range(16) if keys_of(target, db)} == {0, 3, 15}
    assert client_of(target, 15).get("k1") == b"w"
    assert len(keys_of(target)) == 502
    assert len({(each["db"], each["key"]) for each in map(json.loads, letters.read_text().splitlines())}) > 2 * 502
    told = {(each["db"], each["command"]) for each in map(json.loads, letters.read_text().splitlines())}
    assert {(16, "string"), (31, "string"), (31, "SET"), (0, "SWAPDB")} <= told


def test_the_policy_to_stop_knows_before_the_snapshot(servers: ServerFactory) -> None:
    """78, and the source did not fork; where it does not tell, the first such key ends the sync, and one fork is all."""
    source, target = servers(databases=32), servers(databases=16)
    client_of(source, 20).set("k", "v")
    client_of(source).set("a", "1")
    with Portd(source, target, on_refusal="stop") as portd:
        assert portd.wait() == os.EX_CONFIG, portd.log()
        assert "database 20, the target has only 16" in portd.log()
    assert client_of(source).info("stats")["sync_full"] == 0
    client_of(source).acl_setuser("least", enabled=True, passwords=["+pw"], commands=["+ping", "+replconf", "+psync"])
    with Portd(f"redis://least:pw@127.0.0.1:{source.port}", target, on_refusal="stop") as portd:
        assert portd.wait() == os.EX_DATAERR, portd.log()
        assert "db 20, key 'k'" in portd.log()
    assert client_of(source).info("stats")["sync_full"] == 1


def test_a_file_with_more_databases_is_restored_as_far_as_it_fits(servers: ServerFactory, tmp_path: Path) -> None:
    """Whatever stands first in it; the rest is told."""
    target, file, letters = servers(databases=2), tmp_path / "a.rdb", tmp_path / "letters.jsonl"
    strings = [Entry(db, b"k%d" % number, 0, b"v") for db in (5, 0, 9, 1) for number in range(3000)]
    file.write_bytes(encode(Snapshot(False, 9, strings)))
    run("restore", file, "--target", target.url, "--dead-letters", letters)
    assert [client_of(target, db).dbsize() for db in (0, 1)] == [3000, 3000]
    assert 5 in {json.loads(line)["db"] for line in letters.read_text().splitlines()}


def test_a_target_that_does_not_tell_its_databases(servers: ServerFactory) -> None:
    """Where CONFIG is forbidden, SELECT itself is asked."""
    source, target = servers(databases=32), servers(databases=16)
    client_of(target).acl_setuser(
        "porter", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all", "-config"]
    )
    client_of(source, 20).set("k", "v")
    client_of(source).set("a", "1")
    with Portd(source, f"redis://porter:pw@127.0.0.1:{target.port}") as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        client_of(source, 20).set("k", "w")
        client_of(source, 12).set("k", "w")
        portd.until_applied(source)
    assert keys_of(target) == {b"a"}
    assert keys_of(target, 12) == {b"k"}


# --------------------------------------------------------------------------------------------------------- names of ours


def test_a_source_with_keys_named_like_ours(servers: ServerFactory) -> None:
    """Snapshot and stream leave them out, whatever type they are; the link lives on, and so does the next start."""
    source, target = servers(), servers()
    client = client_of(source)
    client.set(LEASE, "x")
    client.rpush("portd:checkpoint:default", "x")
    client.set("portd:checkpoint:default:epoch", "x")
    client.hset("portd:checkpoint:other", "f", "v")
    client.set("a", "1")
    assert "source.names" in run("check", "--source", source.url, "--target", target.url, expect=None).out.decode()
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        client.set(LEASE, "y")
        client.rename(LEASE, "b")
        client.mset({"c": "1", LEASE: "z"})
        client.delete("c", "portd:checkpoint:default")
        with client.pipeline(transaction=True) as transaction:
            transaction.set(LEASE, "w").set("d", "1").expire(LEASE, 1)
            transaction.execute()
        client_of(source, 7).set(LEASE, "v")
        client.execute_command("SELECT", 0)
        client_of(source, 7).move(LEASE, 0)
        client.swapdb(0, 7)
        client.swapdb(0, 7)
        client.set("e", "1")
        status = portd.until_applied(source)
        assert status["phase"] == "streaming"
        assert 'portd_own_names_total{link="default",phase="snapshot"} 4.0' in portd.get("metrics", "text/plain")
        assert "named like those of portd" in portd.log()
        assert "STREAM" not in status["dead_letters"]
        portd.terminate()
        assert portd.wait() == os.EX_OK, portd.log()
        client.set("f", "1")
        portd.start()
        portd.until_applied(source)
        assert client_of(target).type("portd:checkpoint:default") == b"hash"
        assert client_of(target).type(LEASE) == b"hash"
    assert keys_of(target) == {b"a", b"d", b"e", b"f"}
    assert keys_of(target, 7) == set()
    assert not client_of(target).exists("portd:checkpoint:other")


@pytest.mark.parametrize("keys", [4000, 200_000], ids=["held", "passed on"])
def test_names_of_ours_at_the_end_of_a_large_command(keys: int, source: Server, target: Server) -> None:
    """A command larger than what is looked at once is a dead letter as a whole, in a transaction as well; nothing of it is applied."""
    client = client_of(source)
    many: dict[str, str] = {f"{number:099d}": "v" for number in range(keys)}
    with Portd(source, target, memory_budget="16MiB") as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        with client.pipeline(transaction=True) as transaction:
            transaction.incr("before").mset({**many, LEASE: "x"}).incr("behind").execute()
        client.delete(*many, "portd:checkpoint:default")
        client.incr("later")
        status = portd.until_applied(source)
        assert status["dead_letters"] == {"unsupported": 2}, portd.log()
        assert status["phase"] == "streaming"
        assert client_of(target).type(LEASE) == client_of(target).type("portd:checkpoint:default") == b"hash"
        assert portd.terminate() == os.EX_OK, portd.log()
        client.incr("later")
        portd.start()
        portd.until_applied(source)
    assert keys_of(target) == {b"before", b"behind", b"later"}
    assert client_of(target).mget("before", "behind", "later") == [b"1", b"1", b"2"]


@pytest.mark.deep
def test_a_chain_of_links_of_one_name(servers: ServerFactory) -> None:
    """The target of one is the source of the next: its checkpoints stay there, and the position goes on all the same."""
    first, second, third = servers(), servers(), servers()
    client_of(first).mset({f"k{number}": "v" for number in range(100)})
    with Portd(first, second) as one:
        one.until(lambda status: status["phase"] == "streaming")
        with Portd(second, third) as two:
            two.until(lambda status: status["phase"] == "streaming")
            for number in range(2000):
                client_of(first).incr(f"n{number % 7}")
            one.until_applied(first)
            status = two.until_applied(second)
            assert status["stream"]["commands_failed"] == 0
            assert status["stream"]["commands_filtered"] > 0
        assert sum(int(client_of(third).get(f"n{number}") or 0) for number in range(7)) == 2000
    held = client_of(third).hgetall("portd:checkpoint:default")
    assert held[b"replid"].decode() == client_of(second).info("replication")["master_replid"]


def test_files_with_keys_named_like_ours(servers: ServerFactory, tmp_path: Path) -> None:
    """`restore` leaves them out too, of a snapshot and of commands."""
    target = servers()
    file, commands = tmp_path / "a.rdb", tmp_path / "a.aof"
    file.write_bytes(encode(Snapshot(False, 9, [Entry(0, LEASE.encode(), 0, b"x"), Entry(0, b"a", 0, b"1")])))
    commands.write_bytes(
        pack([b"SELECT", b"0"]) + pack([b"SET", b"portd:checkpoint:restore", b"x"]) + pack([b"SET", b"b", b"1"])
    )
    run("restore", file, "--target", target.url)
    run("restore", commands, "--target", target.url, "--existing", "replace")
    assert client_of(target).keys("*") == [b"b", b"a"] or set(client_of(target).keys("*")) == {b"a", b"b"}


@pytest.mark.parametrize("name", ["portd:checkpoint:default", LEASE, "portd:checkpoint:default:epoch"])
def test_a_key_of_ours_of_another_type(name: str, source: Server, target: Server) -> None:
    """Somebody wrote it into the target: the message says which one to delete."""
    client_of(target).set(name, "x")
    with Portd(source, target) as portd:
        assert portd.wait() == os.EX_UNAVAILABLE, portd.log()
        assert f"delete the key {name!r}" in portd.log()


# ------------------------------------------------------------------------------------------------------ what goes on at all


def test_only_writes_reach_the_target(servers: ServerFactory) -> None:
    """What a source was made to replicate beside them is counted and named, and not executed."""
    source, target = servers(enable_debug_command="yes"), servers()
    client = client_of(source)
    noise = (
        ("BGSAVE",), ("BGREWRITEAOF",), ("LATENCY", "RESET"), ("SLOWLOG", "RESET"), ("KEYS", "*"), ("MODULE", "LOAD", "/x"),
        ("SAVE",), ("WAIT", "1", "0"), ("FUNCTION", "KILL"), ("CLIENT", "KILL", "TYPE", "normal"), ("MONITOR",), ("GET", "a"),
        ("SHUTDOWN", "NOSAVE"), ("REPLICAOF", "NO", "ONE"),
    )  # fmt: skip
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        client_of(target).config_resetstat()
        saved = client_of(target).lastsave()
        for words in noise:
            client.execute_command("DEBUG", "REPLICATE", *words)
        client.execute_command("DEBUG", "REPLICATE", "BLPOP", "l", "0")
        client.set("a", "1")
        status = portd.until_applied(source)
        executed = set(client_of(target).info("commandstats"))
        for words in noise:
            assert not {name for name in executed if name.split("|")[0] == f"cmdstat_{words[0].lower()}"} - {
                "cmdstat_client|setname", "cmdstat_client|id", "cmdstat_client|list", "cmdstat_client|setinfo",
                "cmdstat_client|import-source",
            }, words  # fmt: skip
            assert f"command={words[0]}" in portd.log(), words
        assert "cmdstat_blpop" not in executed
        assert client_of(target).lastsave() == saved
        assert status["stream"]["commands_filtered"] >= len(noise)
        assert status["dead_letters"] == {"unsupported": 1}
    assert keys_of(target) == {b"a"}


def test_a_target_whose_commands_are_hidden(servers: ServerFactory) -> None:
    """The build knows which of the usual ones write; a name that it does not know is a dead letter."""
    source, target = servers(enable_debug_command="yes"), servers()
    client_of(target).acl_setuser(
        "porter", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all", "-command"]
    )
    with Portd(source, f"redis://porter:pw@127.0.0.1:{target.port}") as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        client_of(source).execute_command("DEBUG", "REPLICATE", "NO.SUCH", "k")
        client_of(source).execute_command("DEBUG", "REPLICATE", "BGSAVE")
        client_of(source).hset("h", "f", "v")
        status = portd.until_applied(source)
        assert status["dead_letters"] == {"unsupported": 1}
    assert client_of(target).hgetall("h") == {b"f": b"v"}


@pytest.mark.parametrize("options", [{}, {"skip_messages": True}], ids=["passed", "skipped"])
def test_messages_go_on_where_they_are_wanted(options: dict[str, bool], source: Server, target: Server) -> None:
    """The setting `skip_messages`."""
    heard = client_of(target).pubsub()
    heard.subscribe("news")
    with Portd(source, target, **options) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        client_of(source).publish("news", "hello")
        client_of(source).set("a", "1")
        portd.until_applied(source)
    messages = []
    while (message := heard.get_message(timeout=0.2)) is not None:
        messages.append(message["data"])
    assert (b"hello" in messages) is not bool(options)


def test_what_replicas_pass_over(target: Server) -> None:
    """Empty lines, counts of nothing, MULTI in a transaction and EXEC outside of one end no sync; every byte is counted."""
    stream = b"".join(
        (
            b"\n", pack([b"SELECT", b"0"]), b"\r\n", pack([b"SET", b"a", b"1"]), b"*0\r\n", pack([b"EXEC"]), b"*-1\r\n",
            pack([b"MULTI"]), b"\n*0\r\n", pack([b"MULTI"]), pack([b"SET", b"b", b"1"]), pack([b"EXEC"]), pack([b"DISCARD"]),
            pack([b"MULTI"]), pack([b"SET", b"gone", b"1"]), pack([b"DISCARD"]), pack([b"SET", b"c", b"1"]), b"\r\n",
        )
    )  # fmt: skip
    with HostileSource(encode(Snapshot(False, 9, [])) + MARK + stream) as source, Portd(source.url, target) as portd:
        portd.until(lambda status: status["stream"]["checkpointed_offset"] == len(stream))
        assert keys_of(target) == {b"a", b"b", b"c"}


@pytest.mark.parametrize("prune", ["auto", "prune", "flush"])
def test_another_server_at_the_targets_address_is_not_overwritten(servers: ServerFactory, prune: str) -> None:
    """What the start refuses, data without our checkpoint, is refused while it runs: the sync waits for the right target."""
    source, target, other = servers(), servers(), servers()
    client_of(source).mset({f"key {number}": "1" for number in range(100)})
    client_of(other).mset({"key 1": "precious", "mine": "precious"})
    client_of(other).save()
    other.terminate()
    with Portd(source, target, prune=prune) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        portd.until_applied(source)
        client_of(target).save()
        target.terminate()
        other.port = target.port
        other.start()
        client_of(source).set("key 1", "2")
        wait_for_sync(lambda: "is not empty" in portd.log())
        assert portd.alive
        assert client_of(other).mget("key 1", "mine") == [b"precious", b"precious"]
        assert not {name for name in keys_of(other) if name.startswith(b"key ")} - {b"key 1"}
        other.terminate()
        target.start()
        portd.until_applied(source)
        assert client_of(target).get("key 1") == b"2"
