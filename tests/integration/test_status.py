"""`portd status`: what the target says about a link, with and without a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.process import Portd
from tests.servers import PATIENCE_SECONDS

if TYPE_CHECKING:
    from tests.servers import Server


def status(target: Server, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the command."""
    command = [sys.executable, "-m", "portd", "status", "--target", target.url, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


def test_checkpoint_and_holder_are_told(source: Server, target: Server) -> None:
    """Position, state and holder come from the target; the process adds phase and lag when it is asked."""
    assert status(target).returncode == 1
    with Portd(source, target, link="mine") as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        source.client().set("a", "1")
        portd.until_applied(source)
        shown = status(target, "--link", "mine", "--json", "--ask", portd.http)
        assert shown.returncode == os.EX_OK, shown.stderr
        found: dict[str, Any] = json.loads(shown.stdout)
        assert found["checkpoint"]["state"] == "stream"
        assert found["checkpoint"]["replid"] == source.info("replication")["master_replid"]
        assert found["holder"]["pid"] == portd.process.pid
        assert found["process"]["phase"] == "streaming"
        roles = {end: found["process"][end]["info"]["role"] for end in ("source", "target")}
        assert roles == {"source": "primary", "target": "primary"}
        assert "role=master" not in portd.log()
        text = status(target, "--link", "mine", "--ask", portd.http).stdout
        assert f"process {portd.process.pid} on" in text
        assert "streaming" in text
        portd.terminate()
    shown = status(target, "--link", "mine")
    assert (shown.returncode, "held by          nobody" in shown.stdout) == (os.EX_OK, True), shown.stdout


def test_what_is_not_there_is_said(target: Server) -> None:
    """No target: 69. No process at --ask: 69. No checkpoint: 1, and what that means."""
    assert "full sync" in status(target).stdout
    assert status(target, "--ask", "127.0.0.1:1").returncode == os.EX_UNAVAILABLE
    target.kill()
    shown = status(target)
    assert (shown.returncode, "Traceback" in shown.stderr) == (os.EX_UNAVAILABLE, False)
