"""Several links in one process: each goes its own way, and what ends one leaves the others alone."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

from tests.compare import compare
from tests.datasets import fill_mixed, fill_strings
from tests.integration.test_sync import IDLE_CONSUMER
from tests.process import Links, streaming
from tests.proxy import Proxy
from tests.servers import wait_for, wait_for_sync
from tests.traffic import LiveTraffic

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server

KEYS = 2000


def samples(portd: Links, series: str) -> dict[str, float]:
    """A series of `/metrics` by link."""
    found = re.findall(rf'^{series}{{.*link="([^"]*)".*}} (.*)$', portd.get("metrics"), re.MULTILINE)
    return {link: float(value) for link, value in found}


def equal(source: Server, target: Server) -> None:
    """Both ends are, but for consumers that only looked, which no server tells its replicas."""
    assert [line for line in compare(source, target) if not IDLE_CONSUMER.search(line)] == []


def _passed(traffic: tuple[LiveTraffic, ...], written: int) -> bool:
    return sum(each.commands for each in traffic) > written


async def test_two_links_with_faults_of_their_own(source: Server, target: Server, pair: tuple[Server, Server]) -> None:
    """Cuts and stalls at one end of one link are no news for the other; each counts its own, and both arrive."""
    other_source, other_target = pair
    for number, server in enumerate((source, other_source)):
        fill_mixed(server, KEYS, seed=number)
    async with Proxy(source.port) as from_eu, Proxy(other_target.port) as to_us:
        tables: dict[str, dict[str, object]] = {
            "eu": {"source": from_eu, "target": target},
            "us": {"source": other_source, "target": to_us},
        }
        with Links(tables) as portd:
            async with (
                LiveTraffic(source, rate=1500, seed=1) as eu,
                LiveTraffic(other_source, rate=1500, seed=2) as us,
            ):
                await asyncio.to_thread(portd.until, lambda status: status["ready"])
                for turn in range(4):
                    written = eu.commands + us.commands + 800
                    from_eu.cut()
                    if turn % 2:
                        to_us.cut()
                    await wait_for(partial(_passed, (eu, us), written))
                to_us.refuse()
                to_us.cut()
                await asyncio.to_thread(portd.until_link, "us", lambda status: not status["ready"])
                await asyncio.to_thread(portd.until_link, "eu", streaming)
                code, text = await asyncio.to_thread(portd.readyz)
                assert (code, "link us" in text, "link eu" in text) == (503, True, False), text
                await to_us.start()
            for name, server in (("eu", source), ("us", other_source)):
                await asyncio.to_thread(portd.until_link_applied, name, server)
            shown = await asyncio.to_thread(samples, portd, "portd_source_connects_total")
            assert shown["eu"] > 1
            assert shown["us"] == 1
            lanes = await asyncio.to_thread(samples, portd, "portd_stream_transactions_total")
            assert set(lanes) == {"eu", "us"}
            assert await asyncio.to_thread(portd.terminate) == os.EX_OK, portd.log()
            log = portd.log()
    await asyncio.to_thread(equal, source, target)
    await asyncio.to_thread(equal, other_source, other_target)
    lost = [line for line in log.splitlines() if "source lost" in line]
    assert lost
    assert all("link=eu" in line for line in lost), lost


def test_a_link_that_fails_for_good_leaves_the_other_alone(
    source: Server, target: Server, servers: ServerFactory
) -> None:
    """A wrong password is told everywhere and not tried again; its code is that of the process, which works on till told to stop."""
    locked, unused = servers(requirepass="hunter2"), servers()
    fill_strings(source, KEYS)
    tables: dict[str, dict[str, object]] = {
        "good": {"source": source, "target": target},
        "locked": {"source": f"redis://:wrong@127.0.0.1:{locked.port}", "target": unused},
    }
    with Links(tables) as portd:
        status = portd.until_link("locked", lambda status: bool(status["phase"] == "failed"))
        assert "WRONGPASS" in status["failure"]
        assert status["reason"] == status["failure"]
        portd.until_link("good", streaming)
        source.client().set("written", "later")
        portd.until_link_applied("good", source)
        assert target.client().get("written") == b"later"
        assert portd.readyz()[0] == 503
        assert "link locked: failed" in portd.readyz()[1]
        assert portd.get("livez") == "alive\n"
        assert samples(portd, "portd_ready") == {"good": 1, "locked": 0}
        assert 'portd_phase{link="locked",phase="failed"} 1.0' in portd.get("metrics")
        page = portd.get("", "text/html")
        assert "Link locked" in page
        assert "WRONGPASS" in page
        assert "wrong@" not in page + portd.log() + portd.get("metrics") + portd.get("status")
        assert portd.terminate() == os.EX_NOPERM, portd.log()
        (told,) = [line for line in portd.log().splitlines() if "link failed" in line]
        assert "link=locked" in told
        assert f"exit_code={os.EX_NOPERM}" in told
    equal(source, target)


def test_a_target_that_refuses_is_one_links_trouble(source: Server, target: Server, servers: ServerFactory) -> None:
    """A target that is not empty ends its link with 78; the other one reaches its end, and the process ends with 78."""
    foreign = servers()
    foreign.client().set("whose", "mine")
    fill_strings(source, KEYS)
    tables: dict[str, dict[str, object]] = {
        "refused": {"source": source, "target": foreign},
        "good": {"source": source, "target": target, "stop_after": "caught-up"},
    }
    with Links(tables) as portd:
        assert portd.wait() == os.EX_CONFIG, portd.log()
        assert "the first link that failed decides" in portd.log()
    assert foreign.client().dbsize() == 1
    equal(source, target)


def test_a_link_whose_end_is_not_there_yet_is_tried_again(
    source: Server, target: Server, servers: ServerFactory
) -> None:
    """One process with one link gives up at the first try; beside others it waits, says why, and begins when it can."""
    late = servers()
    late.terminate()
    other = servers()
    tables: dict[str, dict[str, object]] = {
        "good": {"source": source, "target": target},
        "late": {"source": late, "target": other},
    }
    with Links(tables) as portd:
        status = portd.until_link("late", lambda status: bool(status["failure"]))
        assert status["phase"] == "connecting"
        assert status["reason"].endswith("; it is tried again")
        portd.until_link("good", streaming)
        late.start()
        late.client().set("a", "1")
        status = portd.until_link("late", streaming)
        assert status["failure"] == ""
        portd.until_link_applied("late", late)
        assert other.client().get("a") == b"1"
        assert portd.terminate() == os.EX_OK, portd.log()


def test_links_can_share_a_target(source: Server, target: Server, pair: tuple[Server, Server]) -> None:
    """Two sources into one target: each has its checkpoint and lease there, and neither removes what is the other's."""
    other, _ = pair
    source.client().set("a", "1")
    other.client().set("b", "2")
    tables: dict[str, dict[str, object]] = {
        "eu": {"source": source, "target": target, "existing": "replace"},
        "us": {"source": other, "target": target, "existing": "replace"},
    }
    with Links(tables) as portd:
        portd.until(lambda status: bool(status["ready"]))
        for name, server in (("eu", source), ("us", other)):
            server.client().incr("counter" + name)
            portd.until_link_applied(name, server)
        portd.kill()
        source.client().incr("countereu")
        portd.start()
        portd.until(lambda status: bool(status["ready"]))
        portd.until_link_applied("eu", source)
        assert portd.terminate() == os.EX_OK, portd.log()
    client = target.client()
    assert [client.get(key) for key in ("a", "b", "countereu", "counterus")] == [b"1", b"2", b"2", b"1"]
    command = [sys.executable, "-m", "portd", "status", "--json", "--config"]
    with Links(tables) as portd:
        found = subprocess.run([*command, portd.file], capture_output=True, text=True, check=False)
        states = json.loads(found.stdout)["links"]
        assert [each["link"] for each in states] == ["eu", "us"]
        assert found.returncode == os.EX_OK
        portd.until(lambda status: bool(status["ready"]))
        asked = subprocess.run(
            [*command, portd.file, "--link", "us", "--ask", portd.http], capture_output=True, text=True, check=False
        )
        assert json.loads(asked.stdout)["process"]["link"] == "us"
        assert portd.terminate() == os.EX_OK


def test_a_word_is_for_the_link_that_it_names(
    source: Server, target: Server, pair: tuple[Server, Server], tmp_path: Path
) -> None:
    """`portd ctl accept` needs a name where there are several links, and lets that one go on."""
    other, other_target = pair
    fill_strings(source, 100)
    fill_strings(other, 100)
    tables: dict[str, dict[str, object]] = {
        "eu": {"source": source, "target": target},
        "us": {"source": other, "target": other_target},
    }
    socket = tmp_path / "portd.sock"

    def ctl(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "portd", "ctl", "accept", *words]
        environment = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    with Links(tables, control_socket=socket) as portd:
        portd.until(lambda status: bool(status["ready"]))
        other.kill()
        other.start()  # without its data
        portd.until_link("us", lambda status: bool(status["phase"] == "held"))
        assert samples(portd, "portd_ready") == {"eu": 1, "us": 0}
        assert "several links: eu, us" in ctl().stderr
        assert "no link named" in ctl("--link", "asia").stderr
        assert "nothing is held" in ctl("--link", "eu").stderr
        assert ctl("--link", "us").returncode == 0
        portd.until_link("us", streaming)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert target.client().dbsize() > 100
    assert other_target.client().dbsize() < 100


def test_a_hangup_changes_one_link(source: Server, target: Server, pair: tuple[Server, Server]) -> None:
    """A limit in one table takes effect for that link; a table more needs a restart and is told."""
    tables: dict[str, dict[str, object]] = {
        "eu": {"source": source, "target": target},
        "us": {"source": pair[0], "target": pair[1]},
    }
    with Links(tables) as portd:
        portd.until(lambda status: bool(status["ready"]))
        portd.write({**tables, "eu": {**tables["eu"], "max_target_ops": 777}, "asia": tables["us"]})
        portd.signal(signal.SIGHUP)
        wait_for_sync(lambda: "changed=eu.max_target_ops" in portd.log(), dump=portd.log)
        assert 'needs_restart="asia.link asia.source asia.target"' in portd.log()
        assert samples(portd, "portd_target_limit_rate_ops") == {"eu": 777, "us": 0}
        assert portd.terminate() == os.EX_OK


def test_links_share_one_budget(source: Server, target: Server, pair: tuple[Server, Server]) -> None:
    """The parts of all links add up to the budget; every owner says whose it is; the process stays below its ceiling."""
    fill_strings(source, 20_000, 200)
    fill_strings(pair[0], 20_000, 200)
    tables: dict[str, dict[str, object]] = {
        "eu": {"source": source, "target": target},
        "us": {"source": pair[0], "target": pair[1]},
    }
    with Links(tables) as portd:
        portd.until(lambda status: bool(status["ready"]))
        memory = json.loads(portd.get("debug/memory"))
        owners = {(each["link"], each["owner"]): each["limit_bytes"] for each in memory["owners"]}
        parts = sum(owners[link, owner] for link in tables for owner in ("spool", "decoder", "queue"))
        assert parts == 32 << 20
        assert ("", "http") in owners
        assert memory["rss_peak_bytes"] <= memory["ceiling_bytes"] <= 100_000_000
        assert portd.terminate() == os.EX_OK
    equal(source, target)
    equal(*pair)


def test_too_many_links_are_refused(source: Server, target: Server, pair: tuple[Server, Server]) -> None:
    """78, with the number that fits, before any server is asked."""
    ends: dict[str, object] = {"source": source, "target": target}
    with Links({f"l{number}": ends for number in range(4)}, memory_budget="9MiB") as portd:
        assert portd.wait() == os.EX_CONFIG
        assert "3 such links would fit" in portd.log()
