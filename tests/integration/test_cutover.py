"""`portd cutover` of live pairs: what is written arrives, what is in doubt goes back, and says why."""

from __future__ import annotations

import hmac
import json
import os
import signal
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.compare import assert_equal
from tests.cutovers import USER, CutOver, Writers, cut_over, python, streaming
from tests.datasets import fill_mixed
from tests.integration.test_held import ctl
from tests.process import Portd
from tests.servers import find, wait_for_sync

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server

KEYS = 1000


def server(servers: ServerFactory, name: str) -> Server:
    """A server of that kind; the test is skipped where there is none."""
    binary = find(name)
    if binary is None:
        pytest.skip(f"no {name}")
    return servers(binary)


def import_mode(target: Server) -> str:
    """Of a Valkey that has it; "no" elsewhere."""
    client: Any = target.client()
    return str((client.config_get("import-mode") or {}).get("import-mode", "no"))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("here", "there"), [("valkey9.1", "valkey9.1"), ("redis7.0", "valkey9.1"), ("redis6.2", "redis7.0")]
)
def test_a_live_pair(servers: ServerFactory, tmp_path: Path, here: str, there: str) -> None:
    """Under writes the target gets all that was acknowledged; clients wait, and are refused when it is done; the link ends in order."""
    source, target = server(servers, here), server(servers, there)
    fill_mixed(source, KEYS)
    path = tmp_path / "socket"
    key = tmp_path / "key"
    key.write_text("a secret\n")
    # Where near expiry times are postponed, they come back as two seconds from then at the earliest.
    expiring = target.binary.valkey
    with (
        Portd(source, target, control_socket=path, spool_dir=tmp_path) as portd,
        Writers(source, expiring=expiring) as writers,
    ):
        streaming(portd)
        assert writers.moved()
        report = cut_over(source, target, path, fence_user=USER, keep_paused=0, sign_key=key)
        assert portd.wait() == os.EX_OK, portd.log()
        writers.end()
        assert len(writers.refused) == 4, "who waited was told"
        assert all("NOPERM" in each or "permission" in each.lower() for each in writers.refused)
        writers.assert_all_in(target)
        assert_equal(source, target)
    assert report["outcome"] == "done"
    assert report["proof"]["equal"] >= KEYS // 2
    assert report["proof"]["source_digest"] == report["proof"]["target_digest"] != ""
    assert report["proof"]["foreign"] == "seen"
    offsets = report["offsets"]
    assert offsets["checkpoint"] >= offsets["source"] >= offsets["last_write"] > 0
    assert 0 < report["standstill_seconds"] < 60
    assert set(report["seconds"]) == {"stop", "drain", "expiries", "compare", "end"}
    assert import_mode(target) == "no"
    inside = {name: value for name, value in report.items() if name not in {"digest", "signature"}}
    told = json.dumps(inside, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert report["signature"] == "hmac-sha256:" + hmac.new(b"a secret", told, sha256).hexdigest()


def test_a_rehearsal_changes_nothing(source: Server, target: Server, tmp_path: Path) -> None:
    """All but the stop: no client waits, the sync goes on, and the real one works behind it."""
    fill_mixed(source, KEYS)
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, spool_dir=tmp_path) as portd, Writers(source) as writers:
        streaming(portd)
        report = cut_over(source, target, path, rehearse=True)
        assert report["outcome"] == "rehearsed"
        assert "stopped" not in report["times"]
        assert "would have stood still" in report["notes"][0]
        pauses = source.info("commandstats")["cmdstat_client|pause"]
        assert pauses["calls"] == pauses.get("failed_calls", 0) + pauses.get("rejected_calls", 0) == 1, "only tried"
        assert not writers.refused
        assert writers.moved()
        streaming(portd)
        assert cut_over(source, target, path, fence_user=USER)["outcome"] == "done"
        source.client().client_unpause()
        writers.end()
        writers.assert_all_in(target)


def test_clients_wait_as_long_as_it_is_said(source: Server, target: Server, tmp_path: Path) -> None:
    """Behind a success the pause stays, without anybody to renew it."""
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, spool_dir=tmp_path) as portd:
        streaming(portd)
        report = cut_over(source, target, path, keep_paused=600)
        assert "600 s" in report["left"][0]
        waiting = source.client(socket_timeout=0.3, retry=Retry(NoBackoff(), 0))
        with pytest.raises(redis.TimeoutError):
            waiting.set("late", "1")
        source.client().client_unpause()
        source.client().set("later", "1")


# ------------------------------------------------------------------------------------------------------ doubts before


def test_a_key_that_differs(source: Server, target: Server, tmp_path: Path) -> None:
    """What somebody has changed in the target is found before anything is stopped, and named."""
    fill_mixed(source, KEYS)
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, spool_dir=tmp_path) as portd, Writers(source) as writers:
        streaming(portd)
        target.client().set("injected", "1")
        report = cut_over(source, target, path, expect=1)
        assert report["outcome"] == "not begun"
        assert "injected" in report["doubt"]
        assert "stopped" not in report["times"]
        assert writers.moved()
        assert portd.alive


def test_dead_letters(source: Server, target: Server, tmp_path: Path) -> None:
    """What the target refused is a doubt until somebody says that he knows."""
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, spool_dir=tmp_path) as portd:
        streaming(portd)
        target.client().rpush("clash", "1")
        source.client().incr("clash")
        portd.until(lambda status: bool(status["dead_letters"]))
        assert "dead-letters" in cut_over(source, target, path, expect=1)["doubt"]
        source.client().delete("clash")
        portd.until_applied(source)
        report = cut_over(source, target, path, accept_dead_letters=True)
        assert report["outcome"] == "done"
        assert sum(report["dead_letters"].values()) == 1


def test_a_target_that_is_about_to_be_full(source: Server, target: Server, tmp_path: Path) -> None:
    """Clients that move would be refused there."""
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, spool_dir=tmp_path) as portd:
        streaming(portd)
        client = target.client()
        client.config_set("maxmemory", int(target.info("memory")["used_memory"] * 1.05))
        assert "target.memory" in cut_over(source, target, path, expect=1)["doubt"]
        assert portd.alive


def test_a_lag_that_is_too_large(source: Server, target: Server, tmp_path: Path) -> None:
    """Writes would stand still for as long."""
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, spool_dir=tmp_path, max_target_ops=20) as portd:
        streaming(portd)
        with Writers(source):
            portd.until(lambda status: (status["stream"]["lag_seconds"] or 0) > 1.5)
            report = cut_over(source, target, path, expect=1, wait_seconds=0.5)
        assert report["doubt"].startswith(("sync.lag", "sync.phase"))
        assert "stopped" not in report["times"]
        portd.kill()


def test_nobody_listens(source: Server, target: Server, tmp_path: Path) -> None:
    """Without a sync there is nothing to cut over."""
    assert cut_over(source, target, tmp_path / "none", expect=os.EX_UNAVAILABLE) == {}


def test_another_pair_of_ends(servers: ServerFactory, source: Server, target: Server, tmp_path: Path) -> None:
    """Ends that are not those of the sync are a mistake."""
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, spool_dir=tmp_path) as portd:
        streaming(portd)
        assert cut_over(source, servers(), path, expect=os.EX_CONFIG) == {}
        assert portd.alive


def test_a_user_who_may_not_pause(source: Server, target: Server, tmp_path: Path) -> None:
    """What is not allowed is found out before anything is stopped, and named."""
    path = tmp_path / "socket"
    client: Any = source.client()
    client.execute_command("ACL", "SETUSER", "few", "on", ">secret", "~*", "+@all", "-client|pause")
    few = source.url.replace("redis://", "redis://few:secret@")
    with Portd(source, target, control_socket=path, spool_dir=tmp_path) as portd:
        streaming(portd)
        with CutOver(few, target, path) as running:
            assert running.end(os.EX_NOPERM) == {}
            assert "+client|pause" in running.log()
        assert portd.alive


# --------------------------------------------------------------------------------------------- doubts while all stands still


def _doubt_while_stopped(
    source: Server, target: Server, tmp_path: Path, portd: Portd, stop: str, **options: object
) -> dict[str, Any]:
    """A cut-over whose command to stop the writes does something else; the report. The other command was run."""
    resumed = tmp_path / "resumed"
    report = cut_over(
        source, target, tmp_path / "socket", expect=1,
        stop_writes="command", stop_command=stop, resume_command=f"touch {resumed}", **options,
    )  # fmt: skip
    assert resumed.exists(), "rolled back"
    assert report["outcome"] == "rolled back"
    assert report["doubt"]
    del portd
    return report


@pytest.fixture
def pair(source: Server, target: Server, tmp_path: Path) -> Any:
    """A sync that streams."""
    fill_mixed(source, KEYS)
    with Portd(source, target, control_socket=tmp_path / "socket", spool_dir=tmp_path) as portd:
        streaming(portd)
        yield portd


def test_a_foreign_write_to_the_target_at_the_last_moment(
    source: Server, target: Server, tmp_path: Path, pair: Portd
) -> None:
    """The target itself tells that somebody writes to it: that key is looked at again, and differs."""
    stop = python(f'import redis; redis.Redis(unix_socket_path="{target.path}").set("injected", 1)')
    report = _doubt_while_stopped(source, target, tmp_path, pair, stop)
    assert "injected" in report["doubt"]
    assert pair.alive


def test_writes_that_go_on(source: Server, target: Server, tmp_path: Path, pair: Portd) -> None:
    """A stop that stops nobody is seen in the stream."""
    with Writers(source) as writers:
        report = _doubt_while_stopped(source, target, tmp_path, pair, "true")
        assert "written while writes stood still" in report["doubt"]
        assert writers.moved()
    assert pair.alive


def test_the_source_restarts(source: Server, target: Server, tmp_path: Path, pair: Portd) -> None:
    """Nobody knows what a source that went away has written last."""
    report = _doubt_while_stopped(source, target, tmp_path, pair, f"kill -9 {source.pid}")
    assert "source" in report["doubt"] or source.url.rpartition("//")[2] in report["doubt"]


def test_the_sync_is_killed(source: Server, target: Server, tmp_path: Path, pair: Portd) -> None:
    """Without it nothing is drained."""
    report = _doubt_while_stopped(source, target, tmp_path, pair, f"kill -9 {pair.process.pid}")
    assert "sync" in report["doubt"]


def test_a_stop_that_fails(source: Server, target: Server, tmp_path: Path, pair: Portd) -> None:
    """Whether it has stopped anything is not known: it is undone."""
    report = _doubt_while_stopped(source, target, tmp_path, pair, "exit 3")
    assert "ended with 3" in report["doubt"]
    assert pair.alive


@pytest.mark.sampled(1)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_it_is_ended_while_writes_stand_still(source: Server, target: Server, tmp_path: Path, number: int) -> None:
    """Told to stop, it lets writes go on and says so; killed, the pause that nobody renews ends by itself."""
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, spool_dir=tmp_path, max_target_ops=50) as portd:
        streaming(portd)
        assert ctl("verify", "--wait", "--socket", str(path)).returncode == os.EX_OK
        pipeline = source.client().pipeline(transaction=False)
        for each in range(5000):
            pipeline.set(f"slow:{each}", "1")
        pipeline.execute()
        with CutOver(source, target, path, proof="changes", lag_seconds=3600, most_seconds=600) as running:
            running.until("writes are stopped")
            wait_for_sync(lambda: _is_paused(source), dump=running.log)
            running.process.send_signal(number)
            if number == signal.SIGKILL:
                running.process.wait()
            else:
                report = running.end(os.EX_TEMPFAIL)
                assert report["outcome"] == "interrupted"
                assert report["standstill_seconds"] > 0
        source.client().set("free", "1")  # however long a client waits, it does not wait for ever
        assert not _is_paused(source)
        assert portd.alive
        portd.kill()


def _is_paused(server: Server) -> bool:
    """Writes wait there (redis-py would wait with them)."""
    client = server.client(socket_timeout=0.2, retry=Retry(NoBackoff(), 0))
    try:
        client.delete("nobody has this")
    except redis.TimeoutError:
        return True
    return False


def test_an_interrupt(source: Server, target: Server, tmp_path: Path, pair: Portd) -> None:
    """SIGTERM while the writes are stopped lets them go on, and the exit code says that it was interrupted."""
    resumed = tmp_path / "resumed"
    with CutOver(
        source, target, tmp_path / "socket",
        stop_writes="command", stop_command="sleep 60", resume_command=f"touch {resumed}",
    ) as running:  # fmt: skip
        running.until("writes are stopped")
        running.process.send_signal(signal.SIGTERM)
        report = running.end(os.EX_TEMPFAIL)
    assert report["outcome"] == "interrupted"
    assert resumed.exists()
    assert pair.alive


# --------------------------------------------------------------------------------------------- other ways to stop writes


def rules(server: Server) -> list[bytes]:
    """Users as the server lists them."""
    client: Any = server.client()
    return sorted(client.execute_command("ACL", "LIST"))


@pytest.mark.deep
def test_users_lose_the_right_to_write(servers: ServerFactory, tmp_path: Path) -> None:
    """With acl clients get errors at once; rolled back, the users are what they were, to the letter."""
    source, target = server(servers, "redis7.0"), server(servers, "valkey9.1")
    fill_mixed(source, KEYS)
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, spool_dir=tmp_path) as portd:
        streaming(portd)
        with Writers(source) as writers:
            assert writers.moved()
            before = rules(source)
            other: Any = source.client()
            other.execute_command("ACL", "SETUSER", "other", "on", "nopass", "~*", "+@all")
            report = cut_over(source, target, path, expect=1, stop_writes="acl", fence_user="other")
            assert "written while writes stood still" in report["doubt"]
            assert [each for each in rules(source) if b" other " not in each] == before
            assert any(b"other" in each and b"+@all" in each and b"-@write" not in each for each in rules(source))
            assert writers.moved()
            report = cut_over(source, target, path, stop_writes="acl", fence_user=USER)
            writers.end()
            assert len(writers.refused) == 4
            writers.assert_all_in(target)
        assert report["outcome"] == "done"
        assert any(f"user {USER} ".encode() in each and b"-@write" in each for each in rules(source))
        assert_equal(source, target)


@pytest.mark.deep
@pytest.mark.parametrize("here", ["redis5.0", "redis7.0"])
def test_replicas_that_nobody_has(servers: ServerFactory, tmp_path: Path, here: str) -> None:
    """Any server since 2.8 can be told to refuse writes; rolled back, its settings are what they were."""
    source, target = server(servers, here), server(servers, "valkey9.1")
    fill_mixed(source, KEYS)
    path = tmp_path / "socket"
    client = source.client()
    with Portd(source, target, control_socket=path, spool_dir=tmp_path) as portd:
        streaming(portd)
        before = client.config_get("min-replicas-*")
        with Writers(source) as writers:
            assert writers.moved()
            report = cut_over(source, target, path, expect=1, stop_writes="replicas", then="exit 7")
            assert "ended with 7" in report["doubt"]
            assert client.config_get("min-replicas-*") == before
        assert any("started again" in each or "start it again" in each for each in report["left"])
        assert portd.wait() == os.EX_OK
        portd.start()
        streaming(portd)
        start = {key: int(client.get(key) or 0) for key in client.scan_iter("counter:*")}
        with Writers(source) as writers:
            assert writers.moved()
            report = cut_over(source, target, path, stop_writes="replicas")
            writers.end()
            assert all("NOREPLICAS" in each or "replicas" in each.lower() for each in writers.refused)
            assert len(writers.refused) == 4
            there = target.client()
            for key, count in writers.acknowledged.items():
                assert int(there.get(key) or 0) == count + start.get(key.encode(), 0)
        assert report["outcome"] == "done"


def test_an_old_source_cannot_pause_writes_alone(servers: ServerFactory, tmp_path: Path) -> None:
    """CLIENT PAUSE without WRITE would keep INFO waiting, too: it is refused, and other ways are named."""
    source, target = server(servers, "redis5.0"), server(servers, "valkey9.1")
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, spool_dir=tmp_path) as portd:
        streaming(portd)
        with CutOver(source, target, path) as running:
            assert running.end(os.EX_CONFIG) == {}
            assert "--stop-writes" in running.log()
        source.client().set("a", "1")


@pytest.mark.deep
def test_a_replica_as_source(servers: ServerFactory, tmp_path: Path) -> None:
    """Its clients write to its primary: there they are stopped."""
    primary, source, target = servers(), servers(), servers()
    fill_mixed(primary, KEYS)
    source.replicate(primary)
    wait_for_sync(lambda: source.info("replication")["master_link_status"] == "up")
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path, spool_dir=tmp_path) as portd, Writers(primary) as writers:
        streaming(portd)
        assert cut_over(source, target, path, expect=os.EX_CONFIG) == {}
        assert writers.moved()
        report = cut_over(source, target, path, primary=primary.url, fence_user=USER, keep_paused=0)
        writers.end()
        assert report["outcome"] == "done"
        writers.assert_all_in(target)
        assert_equal(primary, target)


# ------------------------------------------------------------------------------------------------------- moving clients


def test_the_command_that_moves_the_clients(source: Server, target: Server, tmp_path: Path, pair: Portd) -> None:
    """It gets the report while writes are still stopped, and its success ends the cut-over."""
    told = tmp_path / "told"
    report = cut_over(source, target, tmp_path / "socket", then=f"cat > {told}", keep_paused=0)
    assert report["outcome"] == "done"
    assert json.loads(told.read_text())["offsets"] == report["offsets"]
    assert report["times"]["settled"] <= report["times"]["moving"] <= report["times"]["moved"]
    assert pair.wait() == os.EX_OK


def test_a_move_that_fails(source: Server, target: Server, tmp_path: Path, pair: Portd) -> None:
    """Before anybody has written to the target it is rolled back; the sync goes on with its next start."""
    report = cut_over(source, target, tmp_path / "socket", expect=1, then="exit 4")
    assert report["outcome"] == "rolled back"
    assert not _is_paused(source)
    source.client().set("behind it", "1")
    assert pair.wait() == os.EX_OK
    pair.start()
    pair.until_applied(source)
    assert_equal(source, target)
    assert pair.status()["full_syncs"] == {}  # type: ignore[index]


def test_a_move_that_fails_half_way(source: Server, target: Server, tmp_path: Path, pair: Portd) -> None:
    """Clients have written to the target: there is no way back, writes stay stopped, and it says so."""
    write = python(f'import redis; redis.Redis(unix_socket_path="{target.path}").set("moved", 1)')
    report = cut_over(source, target, tmp_path / "socket", expect=1, then=f"{write}; exit 4", keep_paused=600)
    assert report["outcome"] == "in doubt"
    assert any("was written to" in each for each in report["left"])
    assert _is_paused(source)
    source.client().client_unpause()
    assert not pair.alive or pair.wait() == os.EX_OK
