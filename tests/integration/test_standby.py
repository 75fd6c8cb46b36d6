"""Two processes on one link: one copies, the other one waits, knows whether it could take over, and does when it has to."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.clusters import Cluster, differences
from tests.compare import assert_equal
from tests.datasets import fill_strings
from tests.integration.test_held import ctl
from tests.process import Links, Notified, Portd
from tests.proxy import Proxy
from tests.servers import wait_for_sync
from tests.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server

LEASE = "portd:checkpoint:default:lease"
HOUR = 3_600_000


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[Notified]:
    """What listens in the place of systemd."""
    listener = Notified(tmp_path / "notify")
    yield listener
    listener.close()


def streaming(status: dict[str, Any]) -> bool:
    """It has the link, and has caught up."""
    return bool(status["phase"] == "streaming" and status["role"] == "holder")


def waits_for(holder: Portd) -> Callable[[dict[str, Any]], bool]:
    """It stands by while *holder* has the link, and has looked at both ends."""
    words = f"process {holder.process.pid} on "
    return lambda status: bool(
        status["phase"] == status["role"] == "standby"
        and status["standby"]["holder"].startswith(words)
        and status["source"]["outlook"]
    )


def standby(source: Server | str, target: Server | str, **options: object) -> Portd:
    """A process that waits where another one is first."""
    return Portd(source, target, standby=True, progress_seconds=0.2, **options)


def at(portd: Portd, event: str) -> float:
    """When a line with that event was logged last, unix time."""
    line = [line for line in portd.log().splitlines() if f"event={event}" in line or f'event="{event}"' in line][-1]
    found = re.search(r"ts=(\S+)", line)
    assert found is not None
    return datetime.fromisoformat(found[1]).timestamp()


def answer(portd: Portd, page: str) -> tuple[int, str]:
    """Code and text of a page."""
    try:
        return 200, portd.get(page)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Counting(Writer):
    """Writes INCRs and pushes dense numbers; a context manager, at the end of which nothing is on its way."""

    def __init__(self, source: Server) -> None:
        super().__init__()
        self._source = source
        self.written = 0

    def _write(self) -> None:
        client = self._source.client()
        while not self._stop.wait(0.002):
            pipe = client.pipeline(transaction=False)
            pipe.incr("counter")
            pipe.rpush("sequence", self.written)
            pipe.execute()
            self.written += 1

    def check(self, target: Server) -> None:
        """Nothing is lost or doubled there."""
        client = target.client()
        assert client.get("counter") == b"%d" % self.written
        assert list(map(int, client.lrange("sequence", 0, -1))) == list(range(self.written))


def test_an_orderly_stop_hands_over(source: Server, target: Server) -> None:
    """The standby goes on where the holder has ended, by a partial sync, and the holder that comes back waits for it."""
    with standby(source, target) as first, Counting(source) as load:
        first.until(streaming)
        with standby(source, target) as second:
            second.until(waits_for(first))
            assert first.terminate() == os.EX_OK, first.log()
            status = second.until(streaming)
            assert (status["full_syncs"], status["partial_syncs"], status["takeovers"]) == ({}, 1, 1)
            assert at(first, "stopping") <= at(second, "the link is free") <= at(second, "partial sync")
            print(f"from SIGTERM to the partial sync: {at(second, 'partial sync') - at(first, 'stopping'):.3f} s")
            first.start()
            first.until(waits_for(second))
            assert second.terminate() == os.EX_OK
            first.until(streaming)
            load.__exit__()
            first.until_applied(source)
    load.check(target)
    assert_equal(source, target)


def test_a_standby_says_what_it_is(source: Server, target: Server) -> None:
    """Page, /status, /readyz, /livez and metrics agree; the log is silent while it waits."""
    with standby(source, target) as first:
        first.until(streaming)
        assert 'portd_role{link="default",role="holder"} 1.0' in first.get("metrics")
        assert answer(first, "readyz") == answer(first, "readyz?role=any") == (200, "ready\n")
        with standby(source, target) as second:
            status = second.until(waits_for(first))
            words = f"process {first.process.pid} on"
            assert status["ready"] is False
            assert status["reason"].startswith(words)
            assert (status["standby"]["unfit"], status["standby"]["full_sync"]) == ("", "")
            assert status["source"]["outlook"]["backlog_bytes"] > 0
            assert status["stream"]["lag_seconds"] is None
            code, text = answer(second, "readyz")
            assert (code, text.startswith(f"not ready: standby, {words}")) == (503, True)
            assert answer(second, "readyz?role=any") == (200, "ready, standing by\n")
            assert answer(second, "readyz?role=nobody")[0] == 400
            assert answer(second, "livez")[0] == 200
            metrics = second.get("metrics")
            for name in ('role{link="default",role="standby"}', 'phase{link="default",phase="standby"}'):
                assert f"portd_{name} 1.0" in metrics
            for name in ("standby_unfit", "standby_full_sync", "takeovers_total", "ready"):
                assert f'portd_{name}{{link="default"}} 0.0' in metrics
            page = second.get("", accept="text/html")
            assert f"the link is held by</th><td>{words}" in page
            assert "left of the source&#x27;s backlog" in page or "left of the source's backlog" in page
            wait_for_sync(lambda: "phase=standby" in second.log())
            before = second.log()
            looks = target.info("commandstats")["cmdstat_pttl"]["calls"] + 3
            wait_for_sync(lambda: target.info("commandstats")["cmdstat_pttl"]["calls"] >= looks)
            assert second.log() == before
            assert len([each for each in source.client().client_list() if "S" in each["flags"]]) == 1


def test_a_killed_holder_is_replaced_at_once(source: Server, target: Server) -> None:
    """On the same machine its process id tells, however long the lease is."""
    with standby(source, target) as first, standby(source, target) as second, Counting(source) as load:
        wait_for_sync(lambda: roles(first, second) == {"holder", "standby"})
        for _ in range(4):
            holder, other = (first, second) if role(first) == "holder" else (second, first)
            other.until(waits_for(holder))
            holder.kill()
            target.client().pexpire(LEASE, HOUR)
            other.until(streaming)
            holder.start()
            holder.until(waits_for(other))
        load.__exit__()
        other.until_applied(source)
        assert other.status()["full_syncs"].get("backlog", 0) == 0  # type: ignore[index]
    load.check(target)


def role(portd: Portd) -> str:
    """What it says that it is."""
    status = portd.status()
    return str(status["role"]) if status else ""


def roles(*processes: Portd) -> set[str]:
    """What they say that they are."""
    return {role(each) for each in processes}


def test_a_frozen_holder_loses_the_link_and_waits_for_it(source: Server, target: Server) -> None:
    """Its lease runs out; when it wakes up it writes nothing, and becomes the standby of the one that took over."""
    with standby(source, target) as first, Counting(source) as load:
        first.until(streaming)
        with standby(source, target) as second:
            second.until(waits_for(first))
            first.signal(signal.SIGSTOP)
            second.until(streaming)
            first.signal(signal.SIGCONT)
            first.until(waits_for(second))
            assert 'event="standing by again"' in first.log()
            wait_for_sync(lambda: len([each for each in source.client().client_list() if "S" in each["flags"]]) == 1)
            second.kill()
            first.until(streaming)
            load.__exit__()
            first.until_applied(source)
    load.check(target)


async def test_a_holder_that_is_cut_off_writes_nothing_more(source: Server, target: Server) -> None:
    """Its way to the target is gone and the standby's is not: one of them has the link, and that is the standby."""
    async with Proxy(target.port) as proxy:
        with (
            standby(source, proxy.url, connect_seconds=2, silence_seconds=2) as first,
            Counting(source) as load,
        ):
            await asyncio.to_thread(first.until, streaming)
            with standby(source, target) as second:
                await asyncio.to_thread(second.until, waits_for(first))
                proxy.half_open()
                await asyncio.to_thread(second.until, streaming)
                # Without a renewal for 15 s nobody says any more that he has it.
                await asyncio.to_thread(first.until, lambda status: status["role"] != "holder")
                proxy.heal()
                await asyncio.to_thread(first.until, waits_for(second))
                await asyncio.to_thread(load.__exit__)
                await asyncio.to_thread(second.until_applied, source)
        load.check(target)


def test_a_target_that_was_away_changes_no_roles(servers: ServerFactory) -> None:
    """It is gone for both: when it is back, the holder has it as before, with what its spool has kept."""
    source, target = servers(), servers(appendonly=True, appendfsync="always")
    with standby(source, target) as first, Counting(source) as load:
        first.until(streaming)
        with standby(source, target) as second:
            second.until(waits_for(first))
            target.kill()
            second.until(lambda status: status["standby"]["unfit"] != "")
            target.start()
            first.until(streaming)
            second.until(lambda status: waits_for(first)(status) and status["standby"]["unfit"] == "")
            load.__exit__()
            first.until_applied(source)
            assert (first.status() or {})["takeovers"] == (second.status() or {})["takeovers"] == 0
    load.check(target)


def test_one_of_two_standbys_takes_over(source: Server, target: Server) -> None:
    """The other one waits for it then."""
    with standby(source, target) as first, Counting(source) as load:
        first.until(streaming)
        with standby(source, target) as second, standby(source, target) as third:
            second.until(waits_for(first))
            third.until(waits_for(first))
            first.terminate()
            wait_for_sync(lambda: roles(second, third) == {"holder", "standby"})
            winner, other = (second, third) if role(second) == "holder" else (third, second)
            other.until(waits_for(winner))
            winner.kill()
            other.until(streaming)
            load.__exit__()
            other.until_applied(source)
    load.check(target)


def test_a_standby_with_other_rules_is_refused(source: Server, target: Server) -> None:
    """At its start, as without a holder; one whose rules may change says what taking over would cost."""
    fill_strings(source, 10)
    with Portd(source, target) as first:
        first.until(streaming)
        with standby(source, target, exclude="other:") as second:
            assert second.wait() == os.EX_CONFIG, second.log()
            assert "other rules" in second.log()
        with standby(source, target, exclude="other:", on_rules_change="full-sync") as second:
            status = second.until(waits_for(first))
            assert status["standby"]["full_sync"].startswith("the rules are others")
            assert 'portd_standby_full_sync{link="default"} 1.0' in second.get("metrics")
        assert first.alive


@pytest.mark.deep
def test_a_holder_that_begins_with_other_rules_is_noticed(source: Server, target: Server) -> None:
    """The standby was right when it came, and is not any more: it says so, and leaves the link alone."""
    fill_strings(source, 10)
    with Portd(source, target) as first:
        first.until(streaming)
        with standby(source, target) as second:
            second.until(waits_for(first))
            second.signal(signal.SIGSTOP)  # it would take the link between the two
            first.terminate()
            with Portd(source, target, exclude="other:", on_rules_change="full-sync") as third:
                third.until(streaming)
                second.signal(signal.SIGCONT)
                second.until(lambda status: "other rules" in (status["standby"] or {}).get("unfit", ""))
                code, text = answer(second, "readyz?role=any")
                assert code == 503
                assert "could not be taken over" in text
                assert 'portd_standby_unfit{link="default"} 1.0' in second.get("metrics")
                assert 'event="the link could not be taken over"' in second.log()
                third.kill()
                second.until(lambda status: status["standby"]["holder"] == "")
                third.start()
                third.until(streaming)


def test_a_standby_with_another_source_is_noticed(servers: ServerFactory) -> None:
    """It does not take over, whatever becomes of the holder."""
    source, other, target = servers(), servers(), servers()
    fill_strings(source, 10)
    fill_strings(other, 10)
    with Portd(source, target) as first:
        first.until(streaming)
        with standby(other, target) as second:
            second.until(lambda status: "is not the server" in (status["standby"] or {}).get("unfit", ""))
            first.kill()
            source.client().incr("counter")
            assert answer(second, "readyz?role=any")[0] == 503
            first.start()
            first.until(streaming)
            first.until_applied(source)
            assert role(second) == "standby"


def test_a_source_that_is_away_is_waited_for(source: Server, target: Server) -> None:
    """Holder and source are gone together: the standby does not end, and takes the link when the source is back."""
    with standby(source, target) as first:
        first.until(streaming)
        with standby(source, target) as second:
            second.until(waits_for(first))
            source.kill()
            second.until(lambda status: status["standby"]["unfit"] != "")
            first.kill()
            source.start()
            second.until(streaming)
            source.client().incr("counter")
            second.until_applied(source)
    assert target.client().get("counter") == b"1"


def test_a_backlog_that_does_not_reach_back_is_told_before(servers: ServerFactory) -> None:
    """The holder stands still while the source writes: a partial sync is not possible any more, and the standby knows."""
    source, target = servers(repl_backlog_size="16kb"), servers()
    with standby(source, target) as first:
        first.until(streaming)
        with standby(source, target) as second:
            second.until(waits_for(first))
            first.signal(signal.SIGSTOP)
            source.client().set("large", "x" * 1_000_000)
            target.client().pexpire(LEASE, HOUR)  # it has all the time
            second.until(lambda status: "backlog" in status["standby"]["full_sync"])
            page = second.get("", accept="text/html")
            assert (
                "a full sync: the source&#x27;s backlog does not reach back" in page
                or "a full sync: the source's" in page
            )


def test_links_of_one_process_have_roles_of_their_own(servers: ServerFactory) -> None:
    """Each link is taken by itself; the other one goes on where it is."""
    sources, target = (servers(), servers()), servers()
    tables = {
        name: {"source": source, "target": target, "standby": True, "existing": "replace"}
        for name, source in zip(("eu", "us"), sources, strict=True)
    }
    alone = {"existing": "replace", "link": "eu", "standby": True}
    with Portd(sources[0], target, **alone) as eu:
        eu.until(streaming)
        with Links(tables) as both:
            both.until_link("us", streaming)
            both.until_link("eu", waits_for(eu))
            code, text = answer(both, "readyz")
            assert code == 503
            assert text.startswith("not ready: link eu: standby, ")
            assert answer(both, "readyz?role=any") == (200, "ready, standing by\n")
            eu.terminate()
            both.until_link("eu", streaming)
            assert both.of("us")["takeovers"] == 0


def test_a_cluster_is_handed_over(source: Server) -> None:
    """The link into a cluster has one lease, too."""
    with Cluster() as cluster, standby(source, cluster.url) as first, Counting(source) as load:
        first.until(streaming)
        with standby(source, cluster.url) as second:
            second.until(waits_for(first))
            first.terminate()
            assert second.until(streaming)["full_syncs"] == {}
            first.start()
            first.until(waits_for(second))
            second.kill()
            first.until(streaming)
            load.__exit__()
            first.until_applied(source)
            first.terminate()
        assert not differences(source, cluster)


def test_systemd_is_told_that_it_stands_by(
    source: Server, target: Server, monkeypatch: pytest.MonkeyPatch, notified: Notified
) -> None:
    """READY=1, for it does what it is to do; STATUS says for whom it waits."""
    with Portd(source, target) as first:
        first.until(streaming)
        monkeypatch.setenv("NOTIFY_SOCKET", notified.address)
        with standby(source, target) as second:
            second.until(waits_for(first))
            notified.until("READY=1")
            told = notified.until("STATUS=standby: ")
            assert told.startswith(f"STATUS=standby: process {first.process.pid} on ")
            second.signal(signal.SIGTERM)
            notified.until("STOPPING=1")
            assert second.wait() == os.EX_OK, second.log()
            assert streaming(first.until(streaming))


def test_status_of_the_command_line_tells_the_role(source: Server, target: Server) -> None:
    """`portd status --ask` says what the asked process is."""
    with Portd(source, target) as first:
        first.until(streaming)
        with standby(source, target) as second:
            second.until(waits_for(first))
            words = ["status", "--target", target.url, "--ask", second.http, "--json"]
            done = subprocess.run([sys.executable, "-m", "portd", *words], capture_output=True, text=True, check=True)
            told = json.loads(done.stdout)
            assert told["process"]["role"] == "standby"


def test_what_is_for_the_holder_is_refused_by_the_standby(source: Server, target: Server, tmp_path: Path) -> None:
    """It says who has the link; its state it tells."""
    path = tmp_path / "socket"
    with Portd(source, target) as first:
        first.until(streaming)
        with standby(source, target, control_socket=path) as second:
            second.until(waits_for(first))
            for command in ("pause", "handover", "verify"):
                shown = ctl(command, "--socket", str(path))
                assert shown.returncode == 1
                assert f"it stands by: process {first.process.pid} on" in shown.stdout + shown.stderr
            shown = ctl("status", "--socket", str(path))
            assert "role             standby" in shown.stdout
        assert first.alive
