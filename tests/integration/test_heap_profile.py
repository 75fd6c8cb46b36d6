"""Heap profiles of a sync that runs: the real command, the real tool, and what the sync notices of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.compare import assert_equal
from tests.datasets import fill_big_hash
from tests.process import Portd
from tests.servers import PATIENCE_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

MIB = 1 << 20
FORMS = ("debug=1", "format=flame")


def copying(status: dict[str, dict[str, int]]) -> bool:
    """The snapshot is under way, or already over on a fast machine."""
    return status["snapshot"]["bytes_decoded"] > MIB


@pytest.mark.deep
def test_a_profile_does_not_hold_up_the_link(source: Server, target: Server) -> None:
    """While profiles are taken at full speed, ACKs go on every second and memory stays what it was."""
    fill_big_hash(source, b"big", 800_000)
    with Portd(source, target) as portd:
        portd.until(copying)
        before = json.loads(portd.get("debug/memory"))
        profiles: list[str] = []
        taker = threading.Thread(
            target=lambda: profiles.extend(
                portd.get(f"debug/memory/heap?seconds=1&{form}", method="POST") for form in FORMS
            )
        )
        taker.start()
        silent = 0.0
        while taker.is_alive():
            status = portd.status()
            assert status is not None
            silent = max(silent, status["source"]["last_sent_seconds_ago"])
            time.sleep(0.05)
        taker.join()
        assert len(profiles) == len(FORMS)
        assert "portd." in profiles[0]
        assert "<svg" in profiles[1]
        assert silent < 3  # one a second; the source gives up after 60
        after = json.loads(portd.get("debug/memory"))
        assert after["rss_peak_bytes"] < after["ceiling_bytes"]
        assert after["interpreter_bytes"] < before["interpreter_bytes"] + 4 * MIB
        portd.until(lambda status: status["phase"] == "streaming")
        assert portd.terminate() == os.EX_OK
    assert_equal(source, target)


@pytest.mark.skipif(shutil.which("go") is None, reason="no go here")
@pytest.mark.parametrize("kept", ["no", "yes"])
def test_go_fetches_it(kept: str, source: Server, target: Server, tmp_path: Path) -> None:
    """`go tool pprof` with the address of a running portd shows what was recorded, with and without a kept recording."""
    fill_big_hash(source, b"big", 300_000)
    environment = {**os.environ, "PPROF_TMPDIR": str(tmp_path)}
    portd = Portd(source, target)
    if kept == "yes":
        portd.command.append("--heap-profile")
    with portd:
        portd.until(lambda status: status["phase"] == "streaming")
        url = f"http://{portd.http}/debug/memory/heap"
        if kept == "no":
            urllib.request.urlopen(f"{url}?seconds=1", data=b"", timeout=PATIENCE_SECONDS).close()
        words = ["go", "tool", "pprof", "-inuse_space", "-top", url]
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=PATIENCE_SECONDS, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "Type: inuse_space" in done.stdout
        assert portd.terminate() == os.EX_OK
