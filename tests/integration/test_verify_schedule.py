"""A sync that compares both ends by itself, on real servers."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.datasets import fill_mixed
from tests.process import Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server


def sample(portd: Portd, series: str) -> float:
    """A sample of `/metrics`."""
    lines = portd.get("metrics").splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{series} "))


def runs(status: dict[str, Any], result: str) -> int:
    """How many comparisons ended so."""
    return int(status["verify"]["runs"].get(result, 0))


@pytest.mark.parametrize("method", ["scan", "psync"])
def test_differences_are_counted_and_named(source: Server, target: Server, tmp_path: Path, method: str) -> None:
    """Runs repeat by themselves; equal ends are equal, planted differences are told everywhere, and the sync goes on."""
    fill_mixed(source, 300)
    with Portd(source, target, verify_every=0.3, verify_method=method, spool_dir=tmp_path) as portd:
        status = portd.until(lambda status: runs(status, "equal") >= 2)
        assert status["verify"]["keys"]["equal"] > 200
        client = target.client()
        client.set("only:target", "1")
        source.client().mset({"value": "here", "lost": "1"})
        portd.until_applied(source)
        client.delete("lost")
        client.set("value", "there")
        status = portd.until(lambda status: runs(status, "different") >= 1)
        found = status["verify"]["keys"]
        assert (found["missing"], found["extra"], found["different"]) == (1, 1, 1), portd.log()
        assert status["verify"]["seconds"] > 0 or status["verify"]["running"]
        assert sample(portd, 'portd_verify_keys{link="default",outcome="missing"}') == 1
        assert sample(portd, 'portd_verify_last_result{link="default",result="different"}') == 1
        assert "only:target" in portd.log()
        assert "Comparison of both ends" in portd.get("", "text/html")
        source.client().set("value", "again")
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not [each for each in tmp_path.rglob("*") if each.is_file()], "nothing stays on disk"


def test_a_target_that_lags_is_no_difference(source: Server, target: Server, tmp_path: Path) -> None:
    """A target that stands still for longer than a key may settle is waited for."""
    with Portd(source, target, verify_every=1, spool_dir=tmp_path) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        client: Any = target.client()
        client.execute_command("CLIENT", "PAUSE", 6000, "WRITE")
        source.client().mset({f"late:{number}": "1" for number in range(50)})
        status = portd.until(lambda status: sum(status["verify"]["runs"].values()) >= 1)
        assert status["verify"]["runs"] == {"equal": 1}, portd.log()
        assert status["verify"]["keys"]["equal"] == 50
        assert portd.terminate() == os.EX_OK, portd.log()


def test_a_hangup_begins_and_ends_comparing(source: Server, target: Server, tmp_path: Path) -> None:
    """The time between two runs can be changed while the sync runs."""
    file = tmp_path / "portd.toml"
    file.write_text("verify_every = 0\n")
    with Portd(source, target, config=file, spool_dir=tmp_path) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        file.write_text("verify_every = 0.1\n")
        portd.signal(signal.SIGHUP)
        portd.until(lambda status: runs(status, "equal") >= 2)
        file.write_text("verify_every = 86400\n")
        portd.signal(signal.SIGHUP)
        wait_for_sync(lambda: portd.log().count("event=reloaded") == 2, dump=portd.log)
        assert portd.terminate() == os.EX_OK, portd.log()


def test_a_comparison_that_fails_does_not_end_the_sync(source: Server, target: Server, tmp_path: Path) -> None:
    """What keeps the ends from being compared is told, counted, and tried again."""
    client: Any = source.client()
    client.execute_command("ACL", "SETUSER", "few", "on", ">secret", "+ping", "+replconf", "+psync", "+info")
    url = source.url.replace("redis://", "redis://few:secret@")
    client.set("a", "1")
    with Portd(url, target, verify_every=0.2, spool_dir=tmp_path) as portd:
        status = portd.until(lambda status: runs(status, "failed") >= 2)
        assert "scan" in status["verify"]["error"].lower()
        client.set("a", "2")
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
