"""Two instances on one link by mistake: the second refuses, or takes over and the first stops writing."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from tests.compare import assert_equal
from tests.datasets import fill_strings
from tests.process import Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from tests.conftest import ServerFactory
    from tests.servers import Server

LEASE = "portd:checkpoint:default:lease"


def streaming(portd: Portd) -> None:
    """Waits until it follows the stream."""
    portd.until(lambda status: status["phase"] == "streaming")


def test_the_second_refuses_while_the_first_is_alive(source: Server, target: Server) -> None:
    """Exit code 75 and who has the link; the first goes on undisturbed."""
    with Portd(source, target) as first:
        streaming(first)
        with Portd(source, target) as second:
            assert second.wait() == os.EX_TEMPFAIL, second.log()
            assert f"process {first.process.pid} on" in second.log()
            assert "--takeover" in second.log()
        for _ in range(100):
            source.client().incr("counter")
        first.until_applied(source)
        assert first.terminate() == os.EX_OK
        assert target.client().exists(LEASE) == 0
    assert_equal(source, target)


def test_takeover_stops_the_first_and_doubles_nothing(source: Server, target: Server) -> None:
    """With --takeover the second continues; the first ends with 75 and says why; every INCR is applied once."""
    with Portd(source, target) as first:
        streaming(first)
        for _ in range(500):
            source.client().incr("counter")
        with Portd(source, target, takeover=True) as second:
            for _ in range(500):
                source.client().incr("counter")
            assert first.wait() == os.EX_TEMPFAIL
            assert "another portd" in first.log()
            streaming(second)
            second.until_applied(source)
            assert (second.status() or {})["full_syncs"] == {}
            second.terminate()
    assert target.client().get("counter") == b"1000"


def test_takeover_inside_of_a_snapshot(source: Server, target: Server) -> None:
    """The first, in the middle of its snapshot, writes nothing more: what the second copies is not disturbed."""
    fill_strings(source, 20_000, 1000)
    target.client().config_set("maxmemory", "8mb")
    with Portd(source, target) as first:
        first.until(lambda status: sum(lane["retries"] for lane in status["target"]["lanes"]) > 0)
        # A source that still sends to a frozen replica begins no other snapshot before its repl-timeout.
        wait_for_sync(lambda: source.info("replication")["slave0"]["state"] == "online")
        first.signal(signal.SIGSTOP)
        with Portd(source, target, takeover=True) as second:
            second.until(lambda status: status["phase"] in {"snapshot", "waiting"})
            source.client().flushall()
            source.client().set("only", "1")
            target.client().config_set("maxmemory", 0)
            streaming(second)
            second.until_applied(source)
            first.signal(signal.SIGCONT)
            assert first.wait() == os.EX_TEMPFAIL, first.log()
            second.terminate()
    assert_equal(source, target)


def starts_at_once(portd: Portd) -> None:
    """The next start takes the lease of the one that was killed."""
    portd.start()
    streaming(portd)
    assert "lease of a dead process" in portd.log()
    portd.terminate()


def test_a_killed_instance_blocks_nobody(source: Server, target: Server) -> None:
    """After kill -9 the next start does not wait for the lease to expire."""
    with Portd(source, target) as portd:
        streaming(portd)
        portd.kill()
        assert target.client().persist(LEASE)
        starts_at_once(portd)


def test_a_dead_instance_of_another_machine_is_found_out(source: Server, target: Server) -> None:
    """Where the process cannot be looked for, its connection and its silence tell; the lease need not expire."""
    with Portd(source, target) as portd:
        streaming(portd)
        portd.kill()
        target.client().hset(LEASE, "machine", "another one")
        target.client().pexpire(LEASE, 13_000)
        starts_at_once(portd)


def test_a_frozen_instance_loses_its_lease(source: Server, target: Server) -> None:
    """One that does not renew for 15 s is overtaken without a flag; when it wakes up it writes nothing and ends."""
    with Portd(source, target) as first:
        streaming(first)
        first.signal(signal.SIGSTOP)
        wait_for_sync(lambda: not target.client().exists(LEASE))
        with Portd(source, target) as second:
            streaming(second)
            source.client().incr("counter")
            second.until_applied(source)
            first.signal(signal.SIGCONT)
            assert first.wait() == os.EX_TEMPFAIL, first.log()
            source.client().incr("counter")
            second.until_applied(source)
            second.terminate()
    assert target.client().get("counter") == b"2"


def test_a_flush_through_the_stream_gives_no_lease_away(source: Server, target: Server) -> None:
    """FLUSHALL and SWAPDB of the source remove the lease; it is back within a moment, and the link goes on."""
    with Portd(source, target) as portd:
        streaming(portd)
        for command in ("flushall", "swapdb"):
            client = source.client()
            client.flushall() if command == "flushall" else client.swapdb(0, 1)
            client.incr("counter")
            portd.until_applied(source)
            wait_for_sync(lambda: target.client().exists(LEASE))
            with Portd(source, target) as second:
                assert second.wait() == os.EX_TEMPFAIL, second.log()
        portd.terminate()
    assert_equal(source, target)


def test_links_of_different_names_do_not_meet(servers: ServerFactory) -> None:
    """Two links into one target run side by side."""
    source, other, target = servers(), servers(), servers()
    source.client().set("a", "1")
    other.client().set("b", "1")
    with Portd(source, target, link="one") as one:
        streaming(one)
        with Portd(other, target, link="two", existing="replace") as two:
            streaming(two)
            assert one.alive
            two.terminate()
        one.terminate()
    assert target.client().exists("a", "b") == 2


def test_a_chain_of_links_with_one_name(servers: ServerFactory) -> None:
    """From A to B and from B to C, both called default: C gets B's lease with the data, and nobody is taken over."""
    a, b, c = servers(), servers(), servers()
    a.client().set("a", "1")
    with Portd(a, b) as first:
        streaming(first)
        with Portd(b, c) as second:
            streaming(second)
            for each in b.client().client_list():  # a new connection writes the lease anew, into B's stream
                if each["name"].startswith("portd-lease"):
                    b.client().client_kill_filter(_id=each["id"])
            a.client().incr("counter")
            first.until_applied(a)
            wait_for_sync(lambda: c.client().get("counter") == b"1")
            wait_for_sync(lambda: c.client().hget(LEASE, "pid") == str(second.process.pid).encode())
            with Portd(b, c) as third:
                assert third.wait() == os.EX_TEMPFAIL, third.log()
            assert first.alive
            assert second.alive, second.log()
            second.kill()
            second.start()
            streaming(second)
            second.terminate()
        first.terminate()
    assert c.client().get("a") == b"1"
