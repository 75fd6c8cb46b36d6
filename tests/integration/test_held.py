"""A full sync that would empty or exchange the target by mistake waits for an operator; one that is right does not."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import urllib.error
from typing import TYPE_CHECKING, Any

import pytest

from tests.compare import assert_equal
from tests.datasets import fill_mixed, fill_strings
from tests.following import copy, forget_history, names
from tests.process import Portd
from tests.servers import PATIENCE_SECONDS, find, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server

KEYS = 2000


def held(portd: Portd) -> dict[str, Any]:
    """Waits until the sync is held; the status."""
    return portd.until(lambda status: status["phase"] == "held")


def write_others(source: Server, count: int, value: bytes = b"1") -> None:
    """So many other keys instead of all there were, in a history of their own."""
    client = source.client()
    client.flushall()
    if count:
        client.mset({b"other %d" % number: value for number in range(count)})
    forget_history(source)


def ctl(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`portd ctl` with these words."""
    return subprocess.run(
        [sys.executable, "-m", "portd", "ctl", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        env={**os.environ, **environment},
    )


def assert_shown(portd: Portd, reason: str) -> None:
    """Status, page, /readyz and metrics say that the sync is held, and why."""
    status = held(portd)
    assert status["held"]["reason"] == reason
    assert not status["ready"]
    with pytest.raises(urllib.error.HTTPError) as answer:
        portd.get("readyz")
    assert answer.value.code == 503
    assert reason in answer.value.read().decode()
    answer.value.close()
    page = portd.get("", accept="text/html")
    assert "portd ctl accept" in page
    assert reason in page
    metrics = portd.get("metrics")
    assert f'portd_held{{link="default",reason="{reason}"}} 1.0' in metrics
    assert 'portd_phase{link="default",phase="held"} 1.0' in metrics
    assert f"reason={reason}" in portd.log()


def test_a_source_that_lost_its_data_is_held_while_it_is_followed(source: Server, target: Server) -> None:
    """A source that is started again empty does not empty the target; with its data back, the sync goes on by itself."""
    fill_mixed(source, KEYS)
    source.client().save()
    file, kept = source.directory / "dump.rdb", source.directory / "kept.rdb"
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        before = names(target)
        source.kill()
        file.rename(kept)
        source.start()
        assert_shown(portd, "source-empty")
        assert not portd.status()["source"]["connected"]  # type: ignore[index]  # it listens
        assert names(target) == before
        assert source.client().info("replication")["connected_slaves"] == 0
        forks = source.client().info("stats")["total_forks"]
        looked = "total_connections_received"
        seen = source.client().info("stats")[looked]
        wait_for_sync(lambda: source.client().info("stats")[looked] > seen + 1)
        assert source.client().info("stats")["total_forks"] == forks
        source.kill()
        kept.rename(file)
        source.start()
        portd.until(lambda status: status["phase"] == "streaming")
        assert 'portd_held{link="default",reason="source-empty"} 0.0' in portd.get("metrics")
        assert portd.get("readyz")
        assert portd.terminate() == os.EX_OK
    assert_equal(source, target)


@pytest.mark.parametrize("keys", [0, 10, KEYS])
def test_another_source_is_held_until_it_is_accepted(servers: ServerFactory, keys: int, tmp_path: Path) -> None:
    """A start with another --source changes nothing, however many keys it has, until an operator says so."""
    first, second, target = servers(), servers(), servers()
    fill_strings(first, KEYS)
    if keys:
        fill_strings(second, keys, seed=5)
        second.client().set("only here", "1")
    copy(first, target)
    before = names(target)
    path = tmp_path / "control.sock"
    with Portd(second, target, control_socket=path) as portd:
        assert_shown(portd, "source-changed")
        words = portd.status()["held"]["words"]  # type: ignore[index]  # it listens
        assert f":{first.port}" in words
        assert f":{second.port}" in words
        assert names(target) == before
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        shown = ctl("accept", "--socket", str(path))
        assert (shown.returncode, shown.stderr) == (0, ""), shown
        assert "source-changed" in shown.stdout or "accepted" in shown.stdout
        assert f"uid={os.getuid()}" in portd.log()
        status = portd.until(lambda status: status["phase"] == "streaming")
        assert status["full_syncs"] == {"source-changed": 1}
        shown = ctl("accept", "--socket", str(path))
        assert shown.returncode == 1
        assert "nothing is held" in shown.stderr
        assert portd.terminate() == os.EX_OK
    assert not path.exists()
    assert_equal(second, target)


def test_the_flag_accepts_for_one_full_sync(servers: ServerFactory) -> None:
    """--accept-source lets the first full sync of a start go on; the next one is looked at again."""
    first, second, target = servers(), servers(), servers()
    fill_strings(first, KEYS)
    second.client().set("a", "1")
    copy(first, target)
    with Portd(second, target, accept_source=True) as portd:
        status = portd.until(lambda status: status["phase"] == "streaming")
        assert status["full_syncs"] == {"source-changed": 1}
        fill_strings(second, 100)
        portd.until_applied(second)
        second.restart()  # empty
        assert held(portd)["held"]["reason"] == "source-empty"
        assert len(names(target)) == 101
        portd.terminate()


def test_a_history_that_came_back_is_continued(servers: ServerFactory) -> None:
    """Held for another server at the address, the sync goes on without a copy when the one it followed is back."""
    binary = find("redis7.0") or find("valkey")
    source, target = servers(binary, appendonly="no"), servers()
    fill_strings(source, KEYS)
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK
        source.client().save()
        source.terminate()
        kept = (source.directory / "dump.rdb").rename(source.directory / "kept.rdb")
        source.start()
        portd.start()
        held(portd)
        source.terminate()
        kept.rename(source.directory / "dump.rdb")
        source.start()
        portd.until(lambda status: status["phase"] == "streaming")
        portd.terminate()
    assert_equal(source, target)


def test_too_many_deletions_wait_before_the_first_removal(source: Server, target: Server, tmp_path: Path) -> None:
    """Other keys in the same number: only the snapshot shows it. It is applied, nothing is removed, the stream waits."""
    fill_strings(source, KEYS)
    copy(source, target)
    before = names(target)
    write_others(source, KEYS)
    path = tmp_path / "control.sock"
    with Portd(source, target, control_socket=path) as portd:
        assert_shown(portd, "prune-limit")
        assert f"lacks {KEYS} keys of the target, which had {KEYS} before" in portd.status()["held"]["words"]  # type: ignore[index]
        assert names(target) >= before
        source.client().set("later", "1")
        assert names(target) >= before
        assert ctl("accept", "--socket", str(path)).returncode == 0
        portd.until(lambda status: status["phase"] == "streaming")
        portd.until_applied(source)
        portd.terminate()
    assert_equal(source, target)


@pytest.mark.parametrize(("keys", "others", "limit"), [(5, 100, 10), (5, 5, 100), (1, 20, 10)])
def test_new_keys_do_not_make_the_loss_smaller(
    source: Server, target: Server, keys: int, others: int, limit: int
) -> None:
    """What may go is a share of what the target had, not of what the snapshot has put beside it; never everything."""
    fill_strings(source, keys)
    copy(source, target)
    before = names(target)
    write_others(source, others)
    with Portd(source, target, prune_limit=limit) as portd:
        status = portd.until(lambda status: status["phase"] in {"held", "streaming"})
        assert status["phase"] == "held", portd.log()
        assert status["held"]["reason"] == "prune-limit"
        portd.terminate()
    assert names(target) >= before


def test_a_copy_that_was_broken_off_does_not_make_the_loss_smaller(source: Server, target: Server) -> None:
    """Begun again, a full sync still knows how many keys the target had before any of its own."""
    fill_strings(source, 100)
    copy(source, target)
    before = names(target)
    write_others(source, 95, b"x" * 1000)
    with Portd(source, target, max_target_bytes_per_second=20_000) as portd:
        portd.until(lambda status: status["snapshot"]["keys_applied"] > 0)
        portd.kill()
    source.client().mset({b"more %d" % number: b"x" for number in range(2000)})
    with Portd(source, target) as portd:
        status = portd.until(lambda status: status["phase"] in {"held", "streaming"})
        assert status["phase"] == "held", portd.log()
        assert "which had 100 before" in status["held"]["words"]
        portd.terminate()
    assert names(target) >= before


@pytest.mark.parametrize("prune", ["flush", "prune"])
def test_nothing_is_flushed_for_another_source(servers: ServerFactory, prune: str) -> None:
    """Also where everything is to go before each snapshot, it goes for the source that was followed."""
    first, second, target = servers(), servers(), servers()
    fill_strings(first, 500)
    copy(first, target)
    with Portd(second, target, prune=prune) as portd:
        held(portd)
        assert len(names(target)) == 500
        portd.terminate()
    assert len(names(target)) == 500


@pytest.mark.parametrize("part", ["before", "behind"])
@pytest.mark.parametrize(("stop_after", "code"), [("none", os.EX_OK), ("caught-up", os.EX_TEMPFAIL)])
def test_a_held_sync_ends_in_order(source: Server, target: Server, part: str, stop_after: str, code: int) -> None:
    """SIGTERM ends it: 0 for one that would have followed, 75 where an end was wanted that was not reached."""
    fill_strings(source, 500)
    copy(source, target)
    write_others(source, 0 if part == "before" else 500)
    with Portd(source, target, stop_after=stop_after) as portd:
        reason = held(portd)["held"]["reason"]
        assert reason == ("source-empty" if part == "before" else "prune-limit")
        assert portd.terminate() == code, portd.log()
        assert "stopped while held" in portd.log()
    assert len(names(target)) >= 500


def test_an_accepted_sync_that_was_broken_off_goes_on(servers: ServerFactory) -> None:
    """Killed inside of a snapshot that was accepted, the next start asks nobody again."""
    first, second, target = servers(), servers(), servers()
    fill_strings(first, 3 * KEYS)
    fill_strings(second, KEYS, 1000, seed=5)
    copy(first, target)
    slow = {"max_target_bytes_per_second": 300_000}
    with Portd(second, target, accept_source=True, **slow) as portd:
        portd.until(lambda status: status["snapshot"]["keys_applied"] > 0)
        portd.kill()
    copy(second, target)
    assert_equal(second, target)


# -- what is no mistake


@pytest.mark.parametrize("file", ["rdb", "aof"])
def test_a_source_that_restarts_with_its_data_is_not_held(servers: ServerFactory, file: str) -> None:
    """Process and, from an append-only file, history are other ones; the address and the keys are there."""
    source, target = servers(appendonly="yes" if file == "aof" else "no"), servers()
    fill_strings(source, KEYS)
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        wait_for_sync(lambda: source.info("persistence")["rdb_bgsave_in_progress"] == 0)
        source.client().save()
        source.kill()
        source.start()
        portd.until(lambda status: status["source"]["connects"] > 1 and status["phase"] == "streaming")
        assert "held" not in portd.log()
        portd.terminate()
    assert_equal(source, target)


def test_a_promoted_replica_is_not_held(servers: ServerFactory) -> None:
    """Another address and another process with the same history, and a new id for it: also when it cannot continue."""
    first, target = servers(), servers()
    second = servers(first.binary, repl_backlog_size="16kb")
    fill_strings(first, KEYS)
    second.client().replicaof("127.0.0.1", first.port)
    wait_for_sync(lambda: second.client().info("replication")["master_link_status"] == "up")
    copy(first, target)
    wait_for_sync(lambda: len(names(second)) == KEYS)
    second.client().replicaof("NO", "ONE")
    for number in range(100):
        second.client().set("more", b"x" * 2000)
        second.client().delete(f"key:{number}")
    log = copy(second, target)
    assert "full sync" in log
    assert "held" not in log
    assert_equal(second, target)


def test_deletions_below_the_limit_are_not_held(source: Server, target: Server) -> None:
    """A lost backlog and a few keys that went meanwhile: the usual full sync."""
    fill_strings(source, KEYS)
    copy(source, target)
    source.client().delete(*sorted(names(source))[: KEYS // 10])
    forget_history(source)
    log = copy(source, target)
    assert f"removed={KEYS // 10}" in log
    assert "held" not in log
    assert_equal(source, target)


def test_prune_limit_is_what_may_go(source: Server, target: Server) -> None:
    """With 60, half of the keys may go; all of them may not, even with 100."""
    fill_strings(source, KEYS)
    copy(source, target)
    source.client().delete(*sorted(names(source))[: KEYS // 2])
    forget_history(source)
    assert "held" not in copy(source, target, prune_limit=60)
    write_others(source, 0)
    with Portd(source, target, prune_limit=100) as portd:
        assert held(portd)["held"]["reason"] == "source-empty"
        portd.terminate()
    assert len(names(target)) == KEYS // 2


def test_a_link_beside_another_is_not_held_for_the_others_keys(servers: ServerFactory) -> None:
    """Where nothing is removed, since another link is there, few keys of ours are no reason."""
    first, second, target = servers(), servers(), servers()
    fill_strings(first, 10)
    fill_mixed(second, KEYS)
    copy(first, target, link="first")
    copy(second, target, link="second", existing="replace")
    forget_history(first)
    assert "held" not in copy(first, target, link="first")


def test_a_source_that_tells_nothing_is_known_by_history_and_address(servers: ServerFactory) -> None:
    """Without +info: the same address is not held, another one is; that one is empty is seen in its snapshot."""
    first, second, target = servers(), servers(), servers()
    for server in (first, second):
        with Wire(server) as wire:
            wire.call("ACL", "SETUSER", "reader", "on", ">secret", "+ping", "+replconf", "+psync")
    fill_strings(first, KEYS)
    urls = [f"redis://reader:secret@127.0.0.1:{server.port}" for server in (first, second)]
    with Portd(urls[0], target, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    forget_history(first)
    with Portd(urls[0], target, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    write_others(first, 0)
    with Portd(urls[0], target, full_sync=True) as portd:
        assert held(portd)["held"]["reason"] == "source-empty"
        assert portd.status()["full_syncs"] == {}  # type: ignore[index]  # it listens; what was looked at has not begun
        portd.terminate()
    with Portd(urls[1], target) as portd:
        assert held(portd)["held"]["reason"] == "source-changed"
        assert "secret" not in json.dumps(portd.status())
        portd.terminate()
    assert len(names(target)) == KEYS
