"""Sources that send scripts instead of what they did: the target has every text that an EVALSHA needs, whatever happens."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import run
from tests.process import Portd, streaming
from tests.servers import Server, find, wait_for_sync

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory

TWICE = "redis.call('incr', KEYS[1]) return redis.call('incr', KEYS[1])"
OLD = [name for name in ("redis3.2", "redis5.0", "redis6.2") if find(name) is not None]
WITHOUT_SCRIPT = (
    "ACL SETUSER portd on >secret ~* &* +@write +@transaction +publish +select +info +hget +hgetall +exists +llen +scan"
    " +config|get +command +eval +evalsha"
)
pytestmark = pytest.mark.skipif(not OLD, reason="no source here that sends scripts")


@pytest.fixture(params=OLD)
def old(request: pytest.FixtureRequest, servers: ServerFactory) -> Server:
    """A source that sends scripts."""
    return sending_scripts(request.param, servers)


def sending_scripts(name: str, servers: ServerFactory) -> Server:
    """A server of this kind, told to send scripts where it has a choice.

    One without an append-only file forgets within a second of its last replica's end what its replicas were sent
    (replication.c:replicationCron), and sends the texts again.
    """
    more = {} if name == "redis3.2" else {"lua_replicate_commands": "no"}
    return servers(find(name), appendonly="yes", **more)


@pytest.fixture
def one(servers: ServerFactory) -> Server:
    """The newest of such sources."""
    return sending_scripts(OLD[-1], servers)


def strings(server: Server) -> dict[Any, Any]:
    """All keys, which are strings here; the comparison for others needs commands that the oldest servers lack."""
    client: Any = server.client()
    return {key: client.get(key) for key in client.scan_iter() if not key.startswith(b"portd:")}


def equal(portd: Portd, source: Server, target: Server) -> dict[str, Any]:
    """Everything arrived and nothing was refused; the status."""
    status = portd.until_applied(source)
    assert strings(source) == strings(target)
    assert status["dead_letters"] == {}, portd.log()
    return status


def run_once(portd: Portd, source: Server) -> str:
    """A script that the source was given while portd followed, and that has run once at both ends; its digest."""
    portd.until(streaming)
    client = source.client()
    digest: str = client.script_load(TWICE)
    client.evalsha(digest, 1, "a")
    portd.until_applied(source)
    return digest


def forget(target: Server) -> None:
    """Somebody flushes the scripts of the target."""
    target.client().script_flush()


@pytest.mark.parametrize("name", ["valkey9.1", "redis7.0", "redis6.2", "redis5.0"])
def test_what_runs_by_its_digest_arrives(name: str, old: Server, servers: ServerFactory) -> None:
    """Alone, in transactions, after the target forgot its scripts and after the source did, and with a new text."""
    if find(name) is None or (binary := find(name)) is None:
        pytest.skip("no such target here")
    target = servers(binary)
    client = old.client()
    digest = client.script_load(TWICE)
    client.evalsha(digest, 1, "early")
    with Portd(old, target) as portd:
        portd.until(streaming)
        client.evalsha(digest, 1, "a")
        portd.until_applied(old)
        forget(target)
        client.evalsha(digest.upper(), 1, "a")
        with client.pipeline(transaction=True) as pipe:
            pipe.evalsha(digest, 1, "b").incr("c").evalsha(digest, 1, "b").execute()
        portd.until_applied(old)
        client.script_flush()
        client.eval(TWICE, 1, "a")
        client.evalsha(digest, 1, "a")
        forget(target)
        client.evalsha(digest, 1, "a")
        status = equal(portd, old, target)
        assert target.client().get("a") == b"10"
        assert sum(status["full_syncs"].values()) == 1


def test_a_target_that_was_restarted_is_given_them_again(one: Server, servers: ServerFactory) -> None:
    """Newer servers do not save scripts."""
    target = servers(appendonly="yes", appendfsync="always")
    client = one.client()
    with Portd(one, target) as portd:
        digest = run_once(portd, one)
        target.restart()
        client.evalsha(digest, 1, "a")
        status = equal(portd, one, target)
        assert sum(status["full_syncs"].values()) == 1


def test_texts_survive_a_restart(one: Server, target: Server, tmp_path: Path) -> None:
    """A portd that is started anew knows what an earlier one saw, also when that one was killed."""
    client = one.client()
    with Portd(one, target, spool_dir=tmp_path) as portd:
        digest = run_once(portd, one)
        portd.kill()
        forget(target)
        client.evalsha(digest, 1, "a")
        portd.start()
        status = equal(portd, one, target)
        assert status["full_syncs"] == {}
        assert [path.stat().st_mode & 0o777 for path in tmp_path.glob("portd-scripts-*")] == [0o600, 0o600]


def test_a_target_that_has_them_is_enough(one: Server, target: Server, tmp_path: Path) -> None:
    """Without what an earlier portd kept, the target is asked; no full sync where it knows the text."""
    client = one.client()
    with Portd(one, target, spool_dir=tmp_path) as portd:
        digest = run_once(portd, one)
        portd.kill()
        for path in tmp_path.glob("portd-scripts-*"):
            path.unlink()
        client.evalsha(digest, 1, "a")
        portd.start()
        assert equal(portd, one, target)["full_syncs"] == {}


def test_a_text_that_nobody_knows_costs_a_full_sync(one: Server, target: Server) -> None:
    """It has its own reason in the counter, and nothing else of the stream is lost or applied twice."""
    client = one.client()
    with Portd(one, target, spool_dir="off") as portd:
        digest = run_once(portd, one)
        portd.kill()
        forget(target)
        with client.pipeline(transaction=True) as pipe:
            pipe.incr("c")
            pipe.evalsha(digest, 1, "a")
            pipe.incr("c")
            pipe.execute()
        portd.start()
        portd.until(lambda status: status["full_syncs"] == {"script": 1})
        portd.until(streaming)
        client.evalsha(digest, 1, "a")
        equal(portd, one, target)
        assert 'portd_full_syncs_total{link="default",reason="script"} 1.0' in portd.get("metrics")


@pytest.mark.parametrize("name", [name for name in OLD if name != "redis3.2"])
def test_what_a_replica_has_cached_comes_with_its_snapshot(name: str, servers: ServerFactory, target: Server) -> None:
    """A primary takes for known what its replica was sent: whoever follows the replica finds it behind its keys."""
    primary, replica = sending_scripts(name, servers), sending_scripts(name, servers)
    client = primary.client()
    replica.replicate(primary)
    wait_for_sync(lambda: replica.info("replication")["master_link_status"] == "up")
    digest = client.script_load(TWICE)
    client.evalsha(digest, 1, "a")
    wait_for_sync(lambda: replica.client().get("a") == b"2")
    with Portd(replica, target) as portd:
        portd.until(streaming)
        assert target.client().script_exists(digest) == [True]
        forget(target)
        client.evalsha(digest, 1, "a")
        wait_for_sync(lambda: replica.client().get("a") == b"4")
        assert equal(portd, replica, target)["full_syncs"] == {"first": 1}


def test_clients_that_move_find_their_scripts(one: Server, target: Server) -> None:
    """SCRIPT LOAD and FLUSH reach the target as they reach a replica, whatever else the source sends."""
    client, there = one.client(), target.client()
    early = client.script_load("return 1")
    with Portd(one, target) as portd:
        portd.until(streaming)
        assert there.script_exists(early) == [True]
        late = client.script_load("return 2")
        client.set("k", "v")
        portd.until_applied(one)
        wait_for_sync(lambda: there.script_exists(early, late) == [True, True])
        client.script_flush()
        client.set("k", "w")
        portd.until_applied(one)
        wait_for_sync(lambda: there.script_exists(early, late) == [False, False])
        equal(portd, one, target)


def test_large_transactions_bring_their_scripts(one: Server, target: Server) -> None:
    """A transaction that is passed on as it comes finds every text in front of what needs it."""
    client = one.client()
    with Portd(one, target) as portd:
        digest = run_once(portd, one)
        forget(target)
        with client.pipeline(transaction=True) as pipe:
            for number in range(6):
                pipe.set(f"large{number}", b"x" * 900_000)
                pipe.evalsha(digest, 1, "a")
                pipe.eval(f"return redis.call('set', KEYS[1], ARGV[1] .. '{number}')", 1, "b", b"y" * 400_000)
            pipe.execute()
        equal(portd, one, target)
        assert target.client().get("a") == b"14"


def test_a_user_without_script_says_what_is_missing(one: Server, target: Server) -> None:
    """What cannot be done exactly is not tried: the message names the permission. Snapshots of scripts do not matter."""
    there: Any = target.client()
    there.execute_command(
        *WITHOUT_SCRIPT.split(),
    )
    client = one.client()
    digest = client.script_load(TWICE)
    with Portd(one, f"redis://portd:secret@127.0.0.1:{target.port}") as portd:
        portd.until(streaming)
        client.script_load("return 1")
        client.set("k", "v")
        equal(portd, one, target)
        client.evalsha(digest, 1, "a")
        client.evalsha(digest, 1, "a")
        assert portd.wait() == os.EX_NOPERM
        assert "+script" in portd.log()
        assert "dead" not in portd.log()


def test_files_bring_their_scripts(one: Server, target: Server, servers: ServerFactory, tmp_path: Path) -> None:
    """A recorded stream runs what the snapshot in front of it had cached; without it there is an error, no dead letter."""
    del servers
    client = one.client()
    digest = client.script_load(TWICE)
    digest_raw = digest.encode() if isinstance(digest, str) else digest
    dump, stream = tmp_path / "dump.rdb", tmp_path / "stream.aof"
    run("dump", "--source", one.url, "-o", dump)
    stream.write_bytes(b"*4\r\n$7\r\nEVALSHA\r\n$40\r\n" + digest_raw + b"\r\n$1\r\n1\r\n$1\r\na\r\n")
    both = tmp_path / "both.aof"
    both.write_bytes(dump.read_bytes() + stream.read_bytes())
    refused = run("restore", stream, "--target", target.url, expect=os.EX_UNAVAILABLE)
    assert "by its SHA1" in refused.err
    assert not target.client().exists("a")
    run("restore", both, "--target", target.url)
    assert target.client().get("a") == b"2"


def test_texts_that_are_too_large_to_be_kept(one: Server, target: Server) -> None:
    """The target has them; once it has not, a full sync brings them, inside of transactions too."""
    client: Any = one.client()
    text = f"--{'x' * 200_000}\n{TWICE}"
    with Portd(one, target) as portd:
        portd.until(streaming)
        digest = client.script_load(text)
        client.eval(text, 1, "a")
        with client.pipeline(transaction=True) as pipe:
            pipe.incr("c").evalsha(digest, 1, "a").incr("c").execute()
        assert sum(equal(portd, one, target)["full_syncs"].values()) == 1
        forget(target)
        with client.pipeline(transaction=True) as pipe:
            pipe.incr("c").evalsha(digest, 1, "a").incr("c").execute()
        portd.until(lambda status: status["full_syncs"].get("script") == 1)
        portd.until(streaming)
        client.evalsha(digest, 1, "a")
        equal(portd, one, target)
        assert target.client().get("a") == b"8"
