"""`portd ctl` on running syncs: what each command does, and what keeps it from being done."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from tests.compare import assert_equal
from tests.datasets import fill_strings
from tests.integration.test_held import ctl
from tests.process import Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.servers import Server


def streaming(status: dict[str, Any]) -> bool:
    """It has caught up."""
    return bool(status["phase"] == "streaming")


def asked(path: Path, *words: str, expect: int = 0) -> dict[str, Any]:
    """The answer to a command, as JSON."""
    shown = ctl(*words, "--socket", str(path), "--json")
    assert shown.returncode == expect, (shown.stdout, shown.stderr)
    answer: dict[str, Any] = json.loads(shown.stdout)
    return answer


def of_link(path: Path, *words: str, expect: int = 0) -> dict[str, Any]:
    """The same of a process with one link: what is said of that one."""
    (found,) = asked(path, *words, expect=expect)["links"]
    assert isinstance(found, dict)
    return found


def told(path: Path, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """The answer in words."""
    shown = ctl(*words, "--socket", str(path))
    assert shown.returncode == expect, (shown.stdout, shown.stderr)
    return shown


def test_status_and_position(source: Server, target: Server, tmp_path: Path) -> None:
    """What the page knows is told through the socket, and where both ends are."""
    fill_strings(source, 100)
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path) as portd:
        portd.until(streaming)
        found = of_link(path, "status")
        assert found["process"]["phase"] == "streaming"
        assert "settings" not in found["process"]
        text = told(path, "status").stdout
        assert "phase            streaming" in text
        assert "ready            yes" in text
        source.client().set("a", "1")
        portd.until_applied(source)
        found = of_link(path, "position")
        assert found["replid"] == source.client().info("replication")["master_replid"]
        assert found["source"] >= found["received"] >= found["applied"] == found["checkpointed"] > 0
        assert "control command" not in portd.log(), "who only asks is not logged"


def test_a_pause_writes_nothing_and_loses_nothing(source: Server, target: Server, tmp_path: Path) -> None:
    """While it is paused the target stands still, the source is read on, and everybody who looks sees it."""
    fill_strings(source, 100)
    path = tmp_path / "socket"
    with Portd(source, target, control_socket=path) as portd:
        portd.until(streaming)
        assert of_link(path, "pause")["changed"]
        assert not of_link(path, "pause")["changed"]
        assert f"uid={os.getuid()}" in portd.log()
        before = target.client().dbsize()
        for number in range(200):
            source.client().set(f"more:{number}", "x" * 100)
        end = int(source.client().info("replication")["master_repl_offset"])
        status = portd.until(lambda status: status["stream"]["read_offset"] >= end)
        assert status["phase"] == "paused"
        assert status["stream"]["lag_bytes"] > 200 * 100
        assert not status["ready"]
        assert target.client().dbsize() == before
        assert "portd ctl resume" in portd.get("", accept="text/html")
        assert 'portd_paused{link="default"} 1.0' in portd.get("metrics")
        refused = told(path, "drain", expect=1)
        assert "paused" in refused.stderr
        assert of_link(path, "resume")["changed"]
        assert of_link(path, "drain")["applied"] >= end
        portd.until(streaming)
        assert 'portd_paused{link="default"} 0.0' in portd.get("metrics")
        assert_equal(source, target)
        assert portd.terminate() == os.EX_OK
