"""Every alert of deploy/alerts.yml is seen firing once: a real portd in that trouble, watched by a real Prometheus.

The expressions are those of the file. Only the time for which they must hold is shorter.
"""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.clusters import Cluster
from tests.datasets import fill_strings
from tests.following import copy, forget_history
from tests.integration.cluster.test_sync import Load
from tests.integration.test_held import ctl
from tests.process import Links, Portd, streaming
from tests.prometheus import Prometheus, impatient_rules, needs_prometheus, shipped_rules
from tests.proxy import Proxy
from tests.servers import find, wait_for, wait_for_sync

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server

BALLAST_BYTES = 200 << 20
BALLAST = f'ballast = b"x" * {BALLAST_BYTES}\n'  # for the interpreter to hold from its start

SEEN = {
    "test_a_process_that_is_gone": ("PortdDown",),
    "test_a_link_that_is_taken_over": ("PortdFailed", "PortdLeaseLost"),
    "test_a_source_that_is_away": ("PortdSourceAway", "PortdNotStreaming"),
    "test_a_target_that_is_away": ("PortdTargetAway",),
    "test_a_node_that_is_left_behind": ("PortdTargetNodeAway",),
    "test_a_target_that_stands_still": (
        *("PortdLagHigh", "PortdLagGrowing", "PortdCheckpointOld"),
        *("PortdSpoolFilling", "PortdSpoolBlocked", "PortdOutputBuffer", "PortdBacklog"),
    ),
    "test_a_target_that_is_full": ("PortdRefused", "PortdTargetMemory"),
    "test_another_source": ("PortdHeld",),
    "test_a_link_that_is_paused": ("PortdPaused",),
    "test_a_target_that_differs": ("PortdDeadLetters", "PortdVerifyDifferent", "PortdFullSync", "PortdKeysPruned"),
    "test_keys_that_cannot_be_copied": ("PortdKeysOwed",),
    "test_a_standby_without_a_source": ("PortdStandbyUnfit", "PortdNoHolder"),
    "test_a_name_that_leads_to_two_targets": ("PortdTwoHolders",),
    "test_import_mode_that_is_switched_off": ("PortdImportModeLost",),
    "test_a_process_that_holds_more_than_it_knows": ("PortdMemoryAbovePlan",),
}

ELSEWHERE = {"PortdDown", "PortdNoHolder", "PortdTwoHolders"}  # what no process can tell by itself

pytestmark = needs_prometheus


def warned(portd: Portd | Links, link: str) -> set[str]:
    """What portd itself warns of, of a link and of the process."""
    found = json.loads(portd.get(f"status?link={link}"))["warnings"] + json.loads(portd.get("debug/memory"))["alarms"]
    return {each["alert"] for each in found}


def fires(
    request: pytest.FixtureRequest,
    prometheus: Prometheus,
    portd: Portd | Links,
    link: str = "default",
    passed: frozenset[str] = frozenset(),
) -> None:
    """Waits for the alerts of the test that asks; each says what it is about, and whose it is where it is a link's.

    What fires there is among what portd's own page warns of, but for what has passed meanwhile.
    """
    wanted = SEEN[request.node.name]
    seen = prometheus.until_firing(*wanted)
    if own := set(wanted) - ELSEWHERE - passed:
        wait_for_sync(lambda: own <= warned(portd, link), dump=lambda: f"{own}: {warned(portd, link)}")
    for name in wanted:
        notes = seen[name]["annotations"]
        assert notes["summary"]
        assert not any("error" in text or "{{" in text or "<no value>" in text for text in notes.values()), notes
        if name not in {"PortdDown", "PortdMemoryAbovePlan"}:
            assert seen[name]["labels"]["link"] == link
            assert link in notes["summary"]


def test_every_alert_is_among_those_seen() -> None:
    """A new alert is to be shown firing, too; and nothing but the patience of the rules differs from the file."""
    assert {name for names in SEEN.values() for name in names} == {rule["alert"] for rule in shipped_rules()}
    assert [rule["expr"] for rule in impatient_rules()] == [rule["expr"] for rule in shipped_rules()]


def test_a_process_that_is_gone(request: pytest.FixtureRequest, source: Server, target: Server) -> None:
    """Nobody answers any more."""
    with Portd(source, target) as portd, Prometheus(portd, rules=impatient_rules()) as prometheus:
        portd.until(streaming)
        portd.kill()
        fires(request, prometheus, portd)


def test_a_link_that_is_taken_over(request: pytest.FixtureRequest, servers: ServerFactory) -> None:
    """One of two links goes to another portd: it stands failed, and its lease is not renewed."""
    source, target = servers(), servers()
    tables = {"eu": {"source": source, "target": target}, "us": {"source": servers(), "target": servers()}}
    with Links(tables) as portd, Prometheus(portd, rules=impatient_rules()) as prometheus:
        portd.until_link("eu", streaming)
        with Portd(source, target, link="eu", takeover=True) as other:
            other.until(streaming)
            fires(request, prometheus, portd, "eu")


def test_a_source_that_is_away(request: pytest.FixtureRequest, source: Server, target: Server) -> None:
    """The source ends, and does not come back."""
    with Portd(source, target) as portd, Prometheus(portd, rules=impatient_rules()) as prometheus:
        portd.until(streaming)
        source.kill()
        fires(request, prometheus, portd)


def test_a_target_that_is_away(request: pytest.FixtureRequest, source: Server, target: Server) -> None:
    """The target ends, and does not come back."""
    with Portd(source, target) as portd, Prometheus(portd, rules=impatient_rules()) as prometheus:
        portd.until(streaming)
        target.kill()
        fires(request, prometheus, portd)


def test_a_node_that_is_left_behind(request: pytest.FixtureRequest, source: Server) -> None:
    """A primary of a target cluster ends, the others go on: all of them do not count as away."""
    with (
        Cluster(cluster_require_full_coverage=False) as cluster,
        Portd(source, cluster.url) as portd,
        Prometheus(portd, rules=impatient_rules()) as prometheus,
    ):
        portd.until(streaming)
        cluster.primaries[1].kill()
        with Load(source):
            fires(request, prometheus, portd)
            assert "PortdTargetAway" not in prometheus.firing()


def test_a_target_that_stands_still(request: pytest.FixtureRequest, servers: ServerFactory) -> None:
    """It answers nothing while the source writes more than the spool takes: what comes of it is told before the link breaks."""
    source = servers(repl_backlog_size="1mb", client_output_buffer_limit="replica 256mb 8mb 300")
    target = servers()
    with (
        Portd(source, target, spool_max_bytes="16MiB", memory_budget="9MiB") as portd,
        Prometheus(portd, rules=impatient_rules()) as prometheus,
    ):
        portd.until(streaming)
        target.signal(signal.SIGSTOP)
        fill_strings(source, 60_000, 1000)
        fires(request, prometheus, portd)


def test_a_target_that_is_full(request: pytest.FixtureRequest, source: Server, target: Server) -> None:
    """It says OOM to each try."""
    with Portd(source, target) as portd, Prometheus(portd, rules=impatient_rules()) as prometheus:
        portd.until(streaming)
        client = target.client()
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 100_000)
        source.client().set("k", "v")
        fires(request, prometheus, portd)


def test_another_source(request: pytest.FixtureRequest, servers: ServerFactory) -> None:
    """A full sync from a server that was not followed before waits."""
    first, second, target = servers(), servers(), servers()
    for each in (first, second):
        fill_strings(each, 100)
    copy(first, target)
    with Portd(second, target) as portd, Prometheus(portd, rules=impatient_rules()) as prometheus:
        fires(request, prometheus, portd)


def test_a_link_that_is_paused(request: pytest.FixtureRequest, source: Server, target: Server, tmp_path: Path) -> None:
    """An operator's pause is told of, for the case that he forgets it; `tests/unit/test_alerts.py` has what is not told then."""
    path = tmp_path / "socket"
    with (
        Portd(source, target, control_socket=path) as portd,
        Prometheus(portd, rules=impatient_rules()) as prometheus,
    ):
        portd.until(streaming)
        assert ctl("pause", "--socket", str(path)).returncode == 0
        fires(request, prometheus, portd)


def test_a_target_that_differs(request: pytest.FixtureRequest, source: Server, target: Server) -> None:
    """Somebody else writes there: a command is refused, a comparison fails, and a full sync removes what is too much."""
    fill_strings(source, 100)
    with (
        Portd(source, target, verify_every=1, prune_limit=50) as portd,
        Prometheus(portd, rules=impatient_rules()) as prometheus,
    ):
        portd.until(streaming)
        target.client().set("list", "no list")
        source.client().rpush("list", "a")
        portd.until(lambda status: bool(status["dead_letters"]))
        target.client().set("ghost", "1")
        prometheus.until_firing("PortdDeadLetters", "PortdVerifyDifferent")
        wait_for_sync(lambda: "PortdVerifyDifferent" in warned(portd, "default"))
        forget_history(source)
        source.client().client_kill_filter(_type="replica")
        portd.until(lambda status: status["keys_pruned"] > 0)
        fires(request, prometheus, portd, passed=frozenset({"PortdVerifyDifferent"}))  # what differed is gone


async def test_keys_that_cannot_be_copied(request: pytest.FixtureRequest, source: Server, target: Server) -> None:
    """What the rules leave out is renamed to what they take, and the source takes no connections any more."""
    source.client().set("b:1", "from outside")
    async with Proxy(source.port) as proxy:
        with Portd(proxy.url, target, include="a:") as portd:
            await asyncio.to_thread(portd.until, streaming)
            proxy.refuse()
            source.client().rename("b:1", "a:1")

            def watch() -> None:
                with Prometheus(portd, rules=impatient_rules()) as prometheus:
                    fires(request, prometheus, portd)

            await asyncio.to_thread(watch)
            await proxy.start()
            await wait_for(lambda: target.client().get("a:1") == b"from outside", dump=portd.log)


def waits(status: dict[str, Any]) -> bool:
    """It stands by, and has looked at both ends."""
    return bool(status["phase"] == "standby" and status["standby"]["holder"] and status["source"]["outlook"])


def test_a_standby_is_no_trouble(source: Server, target: Server) -> None:
    """While it waits for a link that streams, nothing fires."""
    with Portd(source, target) as portd:
        portd.until(streaming)  # the one of both that has the link
        with (
            Portd(source, target, standby=True) as standby,
            Prometheus(portd, standby, rules=impatient_rules()) as prometheus,
        ):
            standby.until(waits)
            often = 'min(count_over_time(portd_role{role="standby"}[1m])) > 20'  # longer than any rule waits
            wait_for_sync(lambda: prometheus.query(often), dump=lambda: str(prometheus.query("portd_role")))
            wait_for_sync(lambda: prometheus.query('sum(portd_phase{phase="standby"}) == 1'))
            assert prometheus.firing() == {}


def test_a_standby_without_a_source(request: pytest.FixtureRequest, source: Server, target: Server) -> None:
    """It could not take over, says so, and does not when the other one is gone."""
    with Portd(source, target) as portd:
        portd.until(streaming)
        with Portd(source, target, standby=True) as standby:
            standby.until(waits)
            with Prometheus(portd, standby, rules=impatient_rules()) as prometheus:
                source.kill()
                portd.kill()
                fires(request, prometheus, standby)
            assert standby.alive


async def test_a_name_that_leads_to_two_targets(request: pytest.FixtureRequest, servers: ServerFactory) -> None:
    """An address has moved to another server, and who is connected to the first one stays there."""
    source, first, second = servers(), servers(), servers()
    async with Proxy(first.port) as proxy:
        with Portd(source, proxy.url) as portd:
            await asyncio.to_thread(portd.until, streaming)
            with Portd(source, proxy.url, standby=True) as other:
                await asyncio.to_thread(other.until, waits)
                proxy.upstream = ("127.0.0.1", second.port)
                other.kill()
                other.start()
                await asyncio.to_thread(other.until, streaming)

                def watch() -> None:
                    with Prometheus(portd, other, rules=impatient_rules()) as prometheus:
                        fires(request, prometheus, portd)

                await asyncio.to_thread(watch)


@pytest.mark.skipif(find("valkey9.1") is None, reason="needs a server with import mode")
def test_import_mode_that_is_switched_off(request: pytest.FixtureRequest, servers: ServerFactory) -> None:
    """Somebody else ends it."""
    source, target = servers(), servers(find("valkey9.1"))
    with Portd(source, target) as portd, Prometheus(portd, rules=impatient_rules()) as prometheus:
        portd.until(streaming)
        target.client().config_set("import-mode", "no")
        fires(request, prometheus, portd)


def test_a_process_that_holds_more_than_it_knows(
    request: pytest.FixtureRequest, source: Server, target: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that no plan knows of."""
    (tmp_path / "sitecustomize.py").write_text(BALLAST)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Portd(source, target) as portd, Prometheus(portd, rules=impatient_rules()) as prometheus:
        portd.until(streaming)
        fires(request, prometheus, portd)
