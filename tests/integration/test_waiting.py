"""Errors of the target that pass: each one is produced by a real server, waited out, and nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.compare import assert_equal
from tests.datasets import fill_strings
from tests.process import Portd
from tests.servers import free_port, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server

WRITES = 300


class Trouble:
    """A state of the target in which it refuses writes."""

    def __init__(self, target: Server, directory: Path) -> None:
        self.target = target
        self.client: Any = target.client()
        self.directory = directory

    def begin(self, code: str) -> None:
        """Makes the target refuse with *code*."""
        getattr(self, f"begin_{code.lower()}")()

    def end(self, code: str) -> None:
        """Lets it take writes again."""
        getattr(self, f"end_{code.lower()}")()

    def begin_oom(self) -> None:
        """Memory is used up."""
        self.client.config_set("maxmemory", 1)

    def end_oom(self) -> None:
        """There is memory again."""
        self.client.config_set("maxmemory", 0)

    def begin_noreplicas(self) -> None:
        """A replica that is not there has to acknowledge."""
        self.client.config_set("min-replicas-to-write", 1)

    def end_noreplicas(self) -> None:
        """It does not have to."""
        self.client.config_set("min-replicas-to-write", 0)

    def begin_misconf(self) -> None:
        """The last snapshot on disk failed."""
        self.directory.rmdir()
        self.client.config_set("save", "3600 1")
        self.client.config_set("stop-writes-on-bgsave-error", "yes")
        self.client.bgsave()
        wait_for_sync(lambda: self.target.info("persistence")["rdb_last_bgsave_status"] == "err")

    def end_misconf(self) -> None:
        """Somebody decides to live with that."""
        self.client.config_set("stop-writes-on-bgsave-error", "no")

    def begin_readonly(self) -> None:
        """Somebody made it a replica."""
        self.client.replicaof("127.0.0.1", free_port())

    def end_readonly(self) -> None:
        """And a primary again."""
        self.client.replicaof("NO", "ONE")

    def begin_masterdown(self) -> None:
        """A replica that answers nothing while it has no primary."""
        self.client.config_set("replica-serve-stale-data", "no")
        self.begin_readonly()

    end_masterdown = end_readonly

    def begin_busy(self) -> None:
        """A script runs and runs."""
        self.client.config_set("busy-reply-threshold", 50)

        def run() -> None:
            with Wire(self.target) as wire, contextlib.suppress(redis.ResponseError):
                wire.call("EVAL", "while true do end", "0")

        self.script = threading.Thread(target=run)
        self.script.start()

    def end_busy(self) -> None:
        """Somebody kills it."""
        self.client.script_kill()
        self.script.join()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("code", ["OOM", "NOREPLICAS", "MISCONF", "READONLY", "MASTERDOWN", "BUSY"])
def test_errors_that_pass_are_waited_out(code: str, source: Server, servers: ServerFactory, tmp_path: Path) -> None:
    """The code is shown while it lasts; then everything is there once, in order, and no dead letter was written."""
    directory = tmp_path / "target"
    directory.mkdir()
    target = servers(dir=str(directory))
    trouble = Trouble(target, directory)
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        trouble.begin(code)
        for _ in range(WRITES):
            source.client().incr("counter")
            source.client().rpush("list", "x")
        portd.until(lambda status: code in status["last_error"])
        before = portd.status() or {}
        trouble.end(code)
        portd.until_applied(source)
        after = portd.status() or {}
        assert before["stream"]["lag_bytes"] > 0
        assert after["dead_letters"] == {}
        assert after["full_syncs"] == {"first": 1}, portd.log()
        told = [line for line in portd.log().splitlines() if "level=warning" in line and code in line.upper()]
        assert [line for line in told if "part=refusals" not in line] == []  # once a minute, however often it is tried
        assert told
        assert portd.terminate() == os.EX_OK, portd.log()
    assert target.client().get("counter") == b"%d" % WRITES
    assert target.client().llen("list") == WRITES
    assert_equal(source, target)


def test_a_loading_target_is_waited_for(source: Server, servers: ServerFactory) -> None:
    """The target restarts and loads for seconds: portd continues from the checkpoint it finds then."""
    target = servers()
    fill_strings(source, 3000)
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        source.client().incr("counter")
        portd.until_applied(source)
        target.client().save()
        source.client().incr("counter")
        portd.until_applied(source)
        target.config |= {"key-load-delay": 500, "loading-process-events-interval-bytes": 1024}
        target.restart(crash=True)
        source.client().incr("counter")
        portd.until_applied(source)
        assert (portd.status() or {})["full_syncs"] == {"first": 1}, portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert target.client().get("counter") == b"3"
    assert_equal(source, target)


@pytest.mark.parametrize("code", ["OOM", "NOREPLICAS", "MISCONF"])
def test_a_first_start_waits_too(code: str, source: Server, servers: ServerFactory, tmp_path: Path) -> None:
    """A snapshot into a target that refuses writes for a while arrives whole, with one full sync."""
    directory = tmp_path / "target"
    directory.mkdir()
    target = servers(dir=str(directory))
    fill_strings(source, 5000, 1000)
    trouble = Trouble(target, directory)
    with Portd(source, target, writers=2) as portd:
        portd.until(lambda status: status["phase"] in {"snapshot", "streaming"})
        trouble.begin(code)
        source.client().incr("counter")
        portd.until(lambda status: code in status["last_error"])
        trouble.end(code)
        portd.until_applied(source)
        assert (portd.status() or {})["dead_letters"] == {}
        assert portd.terminate() == os.EX_OK, portd.log()
    assert_equal(source, target)
