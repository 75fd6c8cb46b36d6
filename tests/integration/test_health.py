"""The container's health check, against a process that runs: it asks where the pages are."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.process import Portd
from tests.servers import PATIENCE_SECONDS, free_port

if TYPE_CHECKING:
    from tests.servers import Server


def health(address: str) -> subprocess.CompletedProcess[str]:
    """The check with that address in the environment."""
    return subprocess.run(
        [sys.executable, "-m", "portd.cli.health"],
        env={**os.environ, "PORTD_HTTP": address},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_it_asks_where_the_pages_are(source: Server, target: Server) -> None:
    """Another port, and every interface, are asked at the right place; a process that is gone is not alive."""
    port = free_port()
    with Portd(source, target, http=f"0.0.0.0:{port}") as portd:
        portd.http = f"127.0.0.1:{port}"
        portd.until(lambda status: status["phase"] == "streaming")
        for address in (f"0.0.0.0:{port}", f"127.0.0.1:{port}"):
            shown = health(address)
            assert (shown.returncode, shown.stderr) == (0, ""), shown
        portd.kill()
        shown = health(f"0.0.0.0:{port}")
        assert shown.returncode == 1
        assert f"http://127.0.0.1:{port}/livez" in shown.stderr


def test_without_pages_nobody_is_asked() -> None:
    """A container with http off is not killed for it."""
    shown = health("off")
    assert shown.returncode == 0
    assert "off" in shown.stdout
