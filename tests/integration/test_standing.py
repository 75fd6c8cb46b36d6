"""Phase, readiness, lag and exit code of a sync say what is so, on every page alike, while ends come and go."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.datasets import fill_big_hash, fill_strings
from tests.following import copy, forget_history
from tests.process import Portd
from tests.proxy import Proxy
from tests.servers import PATIENCE_SECONDS, free_port, wait_for_sync

if TYPE_CHECKING:
    from tests.conftest import ServerFactory
    from tests.servers import Server


def samples(portd: Portd) -> dict[str, float]:
    """All series of /metrics, without the label that all of one link have."""
    text = re.sub(r'\{link="default"\}|link="default",|,link="default"', "", portd.get("metrics"))
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def agreed(portd: Portd) -> dict[str, Any]:
    """/status, when /readyz and /metrics say the same as it; what changes between two questions is asked for again."""

    def same() -> dict[str, Any] | None:
        status, shown, (code, text) = portd.status(), samples(portd), portd.readyz()
        if status is None:
            return None
        known = status["stream"]["lag_seconds"] is not None
        agree = (
            (code == 200) == (shown["portd_ready"] == 1) == status["ready"]
            and shown[f'portd_phase{{phase="{status["phase"]}"}}'] == 1
            and ("portd_lag_seconds" in shown) == ("portd_lag_bytes" in shown) == known
            and (status["ready"] or status["reason"] in text)
        )
        return status if agree else None

    found = wait_for_sync(same, dump=lambda: f"{portd.status()} {portd.readyz()}")
    assert found is not None
    return found


def test_lag_is_not_known_in_a_snapshot(source: Server, target: Server) -> None:
    """Until the snapshot is applied nobody knows the lag: it is absent, and the sync is not ready."""
    fill_strings(source, 20_000, 1000)
    with Portd(source, target, max_target_bytes_per_second="4MiB") as portd:
        portd.until(lambda status: status["phase"] == "snapshot")
        status = agreed(portd)
        if status["phase"] == "snapshot":
            assert (status["ready"], status["stream"]["lag_seconds"], status["stream"]["lag_bytes"]) == (
                False,
                None,
                None,
            )
        portd.until(lambda status: status["phase"] == "streaming")
        status = agreed(portd)
        assert (status["ready"], status["reason"]) == (True, "")
        assert status["stream"]["lag_seconds"] is not None
        portd.terminate()


@pytest.mark.parametrize("end", ["source", "target"])
def test_a_sync_without_one_end_is_not_ready(end: str, source: Server, target: Server) -> None:
    """Which end is gone is said; the lag is unknown without the source, and grows without the target."""
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        gone = {"source": source, "target": target}[end]
        source.client().set("a", "1")
        portd.until_applied(source)
        gone.client().save()
        gone.kill()
        portd.until(lambda status: status["phase"] == "connecting")
        status = agreed(portd)
        assert (status["ready"], status["reason"]) == (False, f"the {end} is not connected")
        if end == "source":
            assert (status["stream"]["lag_seconds"], status["stream"]["lag_bytes"]) == (None, None)
        else:
            end_offset = source.client().set("b", "1") and int(source.info("replication")["master_repl_offset"])
            status = portd.until(lambda status: status["stream"]["read_offset"] >= end_offset)
            assert status["stream"]["lag_bytes"] > 0
            portd.until(lambda status: (status["stream"]["lag_seconds"] or 0) > 0)
        gone.start()
        portd.until(lambda status: status["phase"] == "streaming")
        assert agreed(portd)["ready"]


async def test_a_target_that_hangs_is_not_connected(source: Server, target: Server) -> None:
    """Its kernel accepts connections for it; it is there once it has answered."""
    async with Proxy(target.port) as proxy:
        with Portd(source, proxy.url) as portd:
            await asyncio.to_thread(portd.until, lambda status: status["phase"] == "streaming")
            before = (portd.status() or {})["target"]["lanes"][0]["connects"]
            target.signal(signal.SIGSTOP)
            proxy.cut()
            status = await asyncio.to_thread(
                portd.until, lambda status: status["target"]["lanes"][0]["connects"] > before
            )
            assert (status["ready"], status["reason"]) == (False, "the target is not connected")
            target.signal(signal.SIGCONT)
            await asyncio.to_thread(portd.until, lambda status: status["ready"])
            assert await asyncio.to_thread(portd.terminate) == os.EX_OK, portd.log()


def test_a_target_whose_keys_are_removed_is_not_away(source: Server, target: Server) -> None:
    """Between the last key of a snapshot and the first command behind it nothing is sent by lanes, which is no loss."""
    fill_strings(source, 3000)
    copy(source, target)
    source.client().delete(*source.client().keys("*")[:1000])
    forget_history(source)
    seen: list[dict[str, Any]] = []

    def streams(status: dict[str, Any]) -> bool:
        seen.append(status)
        return bool(status["phase"] == "streaming")

    with Portd(source, target, max_target_ops=1000, prune_limit=50) as portd:
        portd.until(streams)
        assert portd.terminate() == os.EX_OK, portd.log()
    applied = [each for each in seen if each["phase"] == "snapshot" and each["snapshot"]["keys_settled"] == 2000]
    assert {each["reason"] for each in applied} == {"the snapshot is not applied yet"}


def test_counters_never_fall(source: Server, target: Server) -> None:
    """A second full sync in one process goes on counting; what is shown of the snapshot begins anew."""
    fill_strings(source, 3000)
    fill_big_hash(source, b"big", 20_000)
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        before = samples(portd)
        client: Any = source.client()
        client.execute_command("DEBUG", "CHANGE-REPL-ID")
        client.client_kill_filter(_type="replica")
        portd.until(lambda status: status["full_syncs"].get("backlog") == 1 and status["phase"] == "streaming")
        after, status = samples(portd), portd.status() or {}
        names = [name for name in before if re.search(r"^portd_\w+_total\b", name)]
        assert [name for name in names if after[name] < before[name]] == []
        read = "portd_snapshot_keys_read_total"
        assert after[read] == before[read] + status["snapshot"]["keys_read"]
        assert status["snapshot"]["keys_read"] == 3001
        lane = 'portd_lane_connects_total{lane="0"}'
        assert after[lane] > before[lane]
        portd.terminate()


@pytest.mark.parametrize("wanted", ["snapshot", "caught-up"])
def test_a_stop_before_what_was_asked_for_is_no_success(wanted: str, source: Server, target: Server) -> None:
    """With `stop_after`, a SIGTERM inside of the snapshot is 75; `status` says that the target is not complete."""
    fill_strings(source, 20_000, 1000)
    with Portd(source, target, stop_after=wanted, max_target_bytes_per_second="1MiB") as portd:
        portd.until(lambda status: status["phase"] == "snapshot" and status["snapshot"]["keys_applied"] > 0)
        assert status_code(target) == os.EX_TEMPFAIL
        assert portd.terminate() == os.EX_TEMPFAIL, portd.log()
        assert "the next start begins it anew" in portd.log()
        assert "goes on from the target's checkpoint" not in portd.log()
    assert status_code(target) == os.EX_TEMPFAIL


def test_a_stop_is_what_was_asked_for_of_a_sync_without_an_end(source: Server, target: Server) -> None:
    """Without `stop_after`, the same SIGTERM is 0, and the log says that the snapshot starts over."""
    fill_strings(source, 20_000, 1000)
    with Portd(source, target, max_target_bytes_per_second="1MiB") as portd:
        portd.until(lambda status: status["phase"] == "snapshot" and status["snapshot"]["keys_applied"] > 0)
        assert portd.terminate() == os.EX_OK
        assert "the target is not complete; the next start begins it anew" in portd.log()


def test_a_stop_while_catching_up_is_no_success(source: Server, target: Server) -> None:
    """With the snapshot applied and the stream behind it not, `caught-up` is not reached."""
    fill_strings(source, 2000, 1000)
    with Portd(source, target, stop_after="caught-up", max_target_bytes_per_second="1MiB", drain_seconds=1) as portd:
        portd.until(lambda status: status["phase"] == "snapshot")
        pipe = source.client().pipeline(transaction=False)
        for number in range(1000):
            pipe.set(f"behind:{number}", b"x" * 10_000)
        pipe.execute()
        portd.until(lambda _: "snapshot applied" in portd.log())
        target.client().config_set("maxmemory", 1)
        assert portd.terminate() == os.EX_TEMPFAIL, portd.log()


def status_code(target: Server) -> int:
    """What `portd status` ends with."""
    command = [sys.executable, "-m", "portd", "status", "--target", target.url, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    json.loads(done.stdout)
    return done.returncode


def test_refusals_that_pass_are_counted_named_and_shown(source: Server, target: Server) -> None:
    """A target out of memory is said once in the log, counted by code in the metrics, and a badge on the page."""
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        target.client().config_set("maxmemory", 1)
        source.client().set("a", "1")
        status = portd.until(lambda status: status["refusals"]["total"].get("target OOM", 0) >= 4)
        (now,) = status["refusals"]["now"]
        assert (now["side"], now["code"]) == ("target", "OOM")
        assert samples(portd)['portd_refusals_total{code="OOM",side="target"}'] >= 4
        assert "target refuses: OOM" in portd.get("", accept="text/html")
        told = re.findall(r"level=warning part=refusals .*", portd.log())
        assert len(told) == 1
        assert "side=target code=OOM" in told[0]
        target.client().config_set("maxmemory", 0)
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()


def test_refusals_in_a_snapshot_are_the_same(source: Server, target: Server) -> None:
    """The lanes tell theirs in the same place."""
    fill_strings(source, 5000, 1000)
    target.client().config_set("maxmemory", "3mb")
    with Portd(source, target) as portd:
        status = portd.until(lambda status: status["refusals"]["total"].get("target OOM", 0) >= 2)
        assert status["refusals"]["now"][0]["code"] == "OOM"
        target.client().config_set("maxmemory", 0)
        portd.until(lambda status: status["phase"] == "streaming")
        assert portd.terminate() == os.EX_OK, portd.log()


def test_the_total_knows_all_databases(source: Server, target: Server) -> None:
    """A diskless snapshot tells its databases one after the other; the share counts keys applied, of all of them."""
    for db in range(4):
        fill_strings(source, 5000, 1000, db=db)
    with Portd(source, target, max_target_bytes_per_second="2MiB") as portd:
        status = portd.until(lambda status: status["snapshot"]["keys_applied"] > 0)
        snapshot = status["snapshot"]
        assert snapshot["keys_total"] == 20_000
        assert snapshot["bytes_total"] is None
        assert snapshot["done"] == pytest.approx(snapshot["keys_settled"] / 20_000, abs=0.2)
        assert samples(portd)["portd_snapshot_source_keys"] == 20_000
        target.client().config_set("maxmemory", 1)  # nothing more is applied, whatever is decoded
        portd.until(lambda status: status["refusals"]["now"] != [])
        status = portd.until(lambda status: status["snapshot"]["keys_read"] > status["snapshot"]["keys_settled"])
        assert status["snapshot"]["done"] <= status["snapshot"]["keys_settled"] / 20_000 + 0.01
        portd.kill()


def test_a_share_of_a_known_size_is_applied(servers: ServerFactory) -> None:
    """A snapshot that fits into queue and lanes is decoded at once; done is what the target has of it."""
    source, target = servers(repl_diskless_sync=False), servers()
    fill_strings(source, 10_000, 1000)
    with Portd(source, target, max_target_bytes_per_second="1MiB") as portd:
        snapshot = portd.until(lambda status: status["snapshot"]["keys_applied"] > 0)["snapshot"]
        assert snapshot["bytes_total"] > 0
        assert snapshot["done"] == pytest.approx(snapshot["keys_settled"] / 10_000, abs=0.2)
        portd.kill()


@pytest.mark.parametrize(("options", "code"), [({}, os.EX_OK), ({"stop_after": "snapshot"}, os.EX_TEMPFAIL)])
def test_a_stop_while_the_source_prepares_ends_at_once(
    options: dict[str, object], code: int, servers: ServerFactory
) -> None:
    """A source takes its time to fork: nothing is to be drained, so nobody waits for it."""
    source, target = servers(repl_diskless_sync=True, repl_diskless_sync_delay=3600), servers()
    with Portd(source, target, drain_seconds=3600, **options) as portd:
        portd.until(lambda _: source.info("replication").get("slave0", {}).get("state") == "wait_bgsave")
        assert portd.terminate() == code, portd.log()


def test_a_source_that_refuses_is_shown_as_well(source: Server, target: Server) -> None:
    """A source without a link to its own primary is said once, and named on the page."""
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        source.client().replicaof("127.0.0.1", free_port())
        source.client().client_kill_filter(_type="replica")
        status = portd.until(lambda status: status["refusals"]["total"].get("source NOMASTERLINK", 0) >= 2)
        assert (status["ready"], status["reason"]) == (False, "the source is not connected")
        assert portd.log().count("side=source code=NOMASTERLINK") == 1
        assert "source refuses: NOMASTERLINK" in portd.get("", accept="text/html")
        source.client().replicaof("NO", "ONE")
        portd.until(lambda status: status["phase"] == "streaming")
        assert portd.terminate() == os.EX_OK, portd.log()


def test_a_full_sync_that_follows_is_not_ready_at_once(servers: ServerFactory) -> None:
    """From the moment at which the source answers with a full sync, what the target has is not what it will be."""
    source, target = servers(repl_diskless_sync=True, repl_diskless_sync_delay=1), servers()
    fill_strings(source, 3000)
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        client: Any = source.client()
        client.execute_command("DEBUG", "CHANGE-REPL-ID")
        client.client_kill_filter(_type="replica")
        portd.until(lambda status: status["phase"] == "waiting")
        seen: list[dict[str, Any]] = []

        def streams(status: dict[str, Any]) -> bool:
            seen.append(status)
            return bool(status["phase"] == "streaming")

        portd.until(streams)
        order = ["waiting", "snapshot", "catching-up", "streaming"]
        phases = [
            status["phase"] for status in seen if status["phase"] != "connecting"
        ]  # new connections to the target
        assert phases == sorted(phases, key=order.index)
        for status in seen:
            assert status["ready"] == (status["phase"] in {"catching-up", "streaming"})
            assert (status["stream"]["lag_seconds"] is not None) <= status["ready"], status
        assert seen[-1]["full_syncs"] == {"first": 1, "backlog": 1}
        portd.terminate()


def test_a_start_that_is_refused_for_now_says_what_helps(source: Server, target: Server) -> None:
    """A target that is full at the start ends it, as one that is away does: 69, with the code and a hint."""
    target.client().config_set("maxmemory", 1)
    with Portd(source, target) as portd:
        assert portd.wait() == os.EX_UNAVAILABLE, portd.log()
        assert re.search(r'error="the target refuses the lease for now: OOM[^"]*" hint="it passes when ', portd.log())
