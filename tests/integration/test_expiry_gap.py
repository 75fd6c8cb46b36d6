"""A key renewed at the last moment on the source must not die on a target that hears of it late."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from portd.target.kept.postponed import LINK_MS, shift_of
from tests.compare import assert_equal
from tests.process import Portd, streaming
from tests.proxy import Proxy
from tests.servers import Server, find, wait_for, wait_for_sync

if TYPE_CHECKING:
    from tests.conftest import ServerFactory

SHORT_MS = 600
LONG_MS = 100_000
OUTAGE_MS = 6000  # longer than it takes to hear of a key and be killed, on a busy machine, too
CHECKPOINT = "portd:checkpoint:default"
POSTPONING = [name for name in ("redis6.2", "redis8.6", "redis7.0", "valkey8.0") if find(name)]


@pytest.fixture(params=POSTPONING)
def plain_target(request: pytest.FixtureRequest, servers: ServerFactory) -> Server:
    """A target without import mode."""
    return servers(find(request.param))


@pytest.fixture
def old_target(servers: ServerFactory) -> Server:
    """One of them."""
    if not POSTPONING:
        pytest.skip("needs a server without import mode")
    return servers(find(POSTPONING[-1]))


def write_late_renewals(source: Server) -> None:
    """Keys whose first time passes before this returns, some renewed, some not."""
    client = source.client()
    with client.pipeline(transaction=False) as writes:
        for number in range(100):
            writes.set(f"renewed:{number}", "1", px=SHORT_MS)
            writes.pexpire(f"renewed:{number}", LONG_MS)
            writes.set(f"counted:{number}", "1", px=SHORT_MS)
            writes.incr(f"counted:{number}")
            writes.persist(f"counted:{number}")
            writes.set(f"renamed:{number}", "1", px=SHORT_MS)
            writes.rename(f"renamed:{number}", f"new name:{number}")
            writes.pexpire(f"new name:{number}", LONG_MS)
            writes.set(f"gone:{number}", "1", px=SHORT_MS)
        writes.execute()
    wait_for_sync(lambda: client.exists("gone:99") == 0)


def postponed_in(target: Server) -> list[bytes]:
    """Keys of the target whose expiry is centuries away."""
    client = target.client()
    return [key for key in client.scan_iter(count=1000) if client.pttl(key) > LINK_MS]


def renew_while_it_stands_still(portd: Portd, source: Server) -> None:
    """Keys run out and are renewed while nobody reads the stream; then it is applied."""
    portd.until(streaming)
    portd.signal(signal.SIGSTOP)
    write_late_renewals(source)
    portd.signal(signal.SIGCONT)
    portd.until_applied(source)


def test_a_renewal_that_arrives_late_finds_its_key(source: Server, target: Server) -> None:
    """Portd stands still while a key's first time passes; the renewal behind it still takes effect."""
    with Portd(source, target) as portd:
        renew_while_it_stands_still(portd, source)
        assert portd.terminate() == 0, portd.log()
    assert target.client().get("counted:0") == b"2"
    assert_equal(source, target)


def test_import_mode_ends_with_the_sync(source: Server, target: Server) -> None:
    """A target is not left in a mode in which it expires and evicts nothing."""
    with Portd(source, target) as portd:
        portd.until(streaming)
        assert target.client().config_get("import-mode") == {"import-mode": "yes"}
        target.restart()
        source.client().set("a", "1")
        portd.until_applied(source)
        assert target.client().config_get("import-mode") == {"import-mode": "yes"}
        portd.terminate()
    assert target.client().config_get("import-mode") == {"import-mode": "no"}


@pytest.mark.parametrize("signals", [1, 2])
def test_import_mode_ends_with_a_sync_that_is_cut_short(source: Server, target: Server, signals: int) -> None:
    """Neither a drain deadline nor a second signal leaves it, nor the lease."""
    with Portd(source, target, max_target_ops=50, drain_seconds=0.5 if signals == 1 else 60) as portd:
        portd.until(streaming)
        client = source.client()
        with client.pipeline(transaction=False) as pipe:
            for _ in range(2000):
                pipe.incr("n")
            pipe.execute()
        portd.until(lambda status: status["stream"]["lag_bytes"] > 10_000)
        for _ in range(signals):
            portd.signal(signal.SIGTERM)
            portd.until(lambda status: status["phase"] == "draining")
        portd.wait()
    assert target.client().config_get("import-mode") == {"import-mode": "no"}
    assert int(target.client().get("n") or 0) < 2000
    assert not target.client().exists(CHECKPOINT + ":lease")


def test_the_same_without_import_mode(source: Server, plain_target: Server) -> None:
    """A lagging stream postpones what has become due, and a sweep sets the rest back while portd runs."""
    with Portd(source, plain_target) as portd:
        renew_while_it_stands_still(portd, source)
        status = portd.until(lambda status: not status["expiries_to_correct"])
        assert status["stream"]["expiries_postponed"] >= 100
        assert postponed_in(plain_target) == []
        assert portd.terminate() == 0, portd.log()
    assert plain_target.client().get("counted:0") == b"2"
    assert plain_target.client().hget(CHECKPOINT, "postponed") == b"0"
    assert_equal(source, plain_target)


def test_the_gap_is_there_when_it_is_not_closed(source: Server, old_target: Server) -> None:
    """With the setting off the same renewals are lost: what the other tests show is not an accident."""
    with Portd(source, old_target, expiry_gap="off") as portd:
        renew_while_it_stands_still(portd, source)
        portd.terminate()
    assert source.client().exists("renewed:0") == 1
    assert old_target.client().exists("renewed:0") == 0
    assert old_target.client().get("counted:0") == b"1"


class LateSnapshot:
    """A snapshot that is held back on its way until the expiry times in it have passed."""

    def __init__(self, source: Server) -> None:
        self.source = source
        self.client = source.client()
        self.due = [f"{name}:{number}" for name in ("string", "list", "gone", "moved") for number in range(50)] + [
            "big"
        ]
        for number in range(50):
            for name in ("string", "gone", "moved"):
                self.client.set(f"{name}:{number}", "v")
            self.client.rpush(f"list:{number}", "v")
            self.client.set(f"kept:{number}", "v", px=LONG_MS)
        self.client.hset("big", mapping={f"field {number}": "v" * 100 for number in range(20_000)})

    async def run(self, proxy: Proxy) -> None:
        """Lets the snapshot be made, and brings writes about that a replica hears of too late."""
        await wait_for(lambda: "slave0" in self.client.info("replication"))
        proxy.to_client.stall()
        due_at = time.time() + 8.0  # only what the source does itself has to be done by then
        due_ms = int(due_at * 1000)
        with self.client.pipeline(transaction=False) as writes:
            for name in self.due:
                writes.pexpireat(name, due_ms)
            writes.config_set("repl-diskless-sync-delay", 0)
            writes.execute()
        await wait_for(self.is_snapshot_made)
        with self.client.pipeline(transaction=False) as writes:
            for number in range(50):
                writes.pexpire(f"string:{number}", LONG_MS)
                writes.pexpire(f"list:{number}", LONG_MS)
                writes.set(f"list new:{number}", "v", pxat=due_ms)
                writes.rename(f"moved:{number}", f"there:{number}")
                writes.persist(f"there:{number}")
            writes.pexpire("big", LONG_MS)
            writes.execute()
        await wait_for(lambda: time.time() > due_at + 0.2 and not self.client.exists("gone:49"))

    def is_snapshot_made(self) -> bool:
        """The source has forked."""
        return bool(self.client.info("stats")["sync_full"] == 1 and self.client.info("stats")["total_forks"] == 1)


@pytest.fixture
def late(servers: ServerFactory) -> LateSnapshot:
    """On a source that waits with its snapshot until it is told."""
    return LateSnapshot(servers(repl_diskless_sync_delay=3600))


async def test_keys_of_a_snapshot_outlive_it(late: LateSnapshot, plain_target: Server) -> None:
    """Keys of all ways to write one that were renewed behind the snapshot are there, and those that expired are not."""
    async with Proxy(late.source.port) as proxy:
        with Portd(proxy.url, plain_target) as portd:
            await late.run(proxy)
            proxy.to_client.flow()
            status = await asyncio.to_thread(portd.until, lambda status: streaming(status) and status["stream"])
            snapshot = status["snapshot"]
            assert snapshot["keys_postponed"] > 200
            assert snapshot["keys_expired"] == 0
            assert snapshot["keys_read"] == snapshot["keys_applied"] + snapshot["keys_filtered"]
            await asyncio.to_thread(portd.until, lambda status: not status["expiries_to_correct"])
            assert postponed_in(plain_target) == []
            assert await asyncio.to_thread(portd.terminate) == os.EX_OK, portd.log()
    assert plain_target.client().exists("gone:0") == 0
    assert_equal(late.source, plain_target)


async def test_a_killed_portd_is_corrected_by_the_next(late: LateSnapshot, old_target: Server) -> None:
    """Kill -9 while expiries are postponed: the next start finds the flag in the checkpoint and sets them back."""
    async with Proxy(late.source.port) as proxy:
        with Portd(proxy.url, old_target) as portd:
            await late.run(proxy)
            proxy.to_client.flow()
            client = old_target.client()
            await wait_for(lambda: client.hget(CHECKPOINT, "state") == b"stream")
            portd.kill()
            assert client.hget(CHECKPOINT, "postponed") == b"1"
            assert postponed_in(old_target)
            client.rename("kept:0", "kept by another name")
            client.rename("kept by another name", "kept:0")
            portd.start()
            await asyncio.to_thread(
                portd.until, lambda status: status["expiries_corrected"] and not status["expiries_to_correct"]
            )
            assert await asyncio.to_thread(portd.terminate) == os.EX_OK, portd.log()
    assert_equal(late.source, old_target)


@pytest.mark.parametrize("when", ["snapshot", "caught-up"])
def test_a_sync_that_ends_leaves_nothing_postponed(when: str, source: Server, plain_target: Server) -> None:
    """Every end in order sets expiries back and says so in the checkpoint."""
    client = source.client()
    for number in range(500):
        client.set(f"key:{number}", "v", px=LONG_MS + number)
    with Portd(source, plain_target, stop_after=when) as portd:
        assert portd.wait() == os.EX_OK, portd.log()
        assert "closed_by=postpone" in portd.log()
    assert plain_target.client().hget(CHECKPOINT, "postponed") == b"0"
    assert_equal(source, plain_target)


def test_nothing_is_swept_when_nothing_was_postponed(source: Server, old_target: Server) -> None:
    """Expiries that are far away, and none at all, cost the target no sweep."""
    client = source.client()
    client.set("far", "v", ex=7 * 86400)
    client.set("never", "v")
    with Portd(source, old_target, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
        assert "set back" not in portd.log()
    assert_equal(source, old_target)


def test_links_tell_their_postponed_expiries_apart() -> None:
    """Two links into one target do not set back what the other one needs; sums are exact in Lua."""
    shifts = {shift_of(name) for name in ("default", "a", "b", "c", "other")}
    assert len(shifts) == 5
    assert all(shift % LINK_MS == 0 and shift + LINK_MS < 2**53 for shift in shifts)


def test_held_expiries_survive_an_outage(source: Server, old_target: Server) -> None:
    """With hold, a key that is in the target already outlives a portd that is away while the source renews it."""
    client = source.client()
    with Portd(source, old_target, expiry_gap="hold") as portd:
        portd.until(streaming)
        client.set("renewed", "v", px=OUTAGE_MS)
        client.set("gone", "v", px=OUTAGE_MS)
        portd.until_applied(source)
        portd.kill()
        client.pexpire("renewed", LONG_MS)
        wait_for_sync(lambda: not client.exists("gone"))
        portd.start()
        portd.until(streaming)
        portd.until_applied(source)
        assert len(postponed_in(old_target)) == 1
        assert portd.terminate() == os.EX_OK, portd.log()
        assert len(postponed_in(old_target)) == 1, "a restart is no end"
    with Portd(source, old_target, expiry_gap="hold", stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    assert postponed_in(old_target) == []
    assert_equal(source, old_target)
