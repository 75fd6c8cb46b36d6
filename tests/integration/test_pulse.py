"""What is told of the target while it is written to, on real servers: memory, round trips, commits, checkpoint, lease."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from tests.process import Links, Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from tests.conftest import ServerFactory
    from tests.servers import Server


def sample(portd: Portd, series: str, link: str = "default") -> float | None:
    """A sample without further labels; None where there is none."""
    lines = portd.get("metrics").splitlines()
    begin = f'portd_{series}{{link="{link}"}} '
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(begin)), None)


def test_the_target_is_asked_for_as_long_as_it_is_there(source: Server, target: Server) -> None:
    """Memory and its limit are the target's own; away, it tells nothing, and nothing is told of it; back, it tells again."""
    target.client().config_set("maxmemory", 300_000_000)
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        wait_for_sync(lambda: sample(portd, "target_memory_limit_bytes") == 300_000_000)
        used = sample(portd, "target_memory_bytes")
        assert used is not None
        assert 0.5 < used / int(target.info("memory")["used_memory"]) < 2
        assert (sample(portd, "target_round_trip_seconds_count") or 0) >= 1
        target.kill()
        wait_for_sync(lambda: sample(portd, "target_memory_bytes") is None)
        assert sample(portd, "target_memory_limit_bytes") is None
        target.start()
        wait_for_sync(lambda: sample(portd, "target_memory_limit_bytes") == 0)


def test_commits_are_timed_and_the_checkpoint_has_its_time(source: Server, target: Server) -> None:
    """Each transaction of the stream is one of the histogram, and moves the time of the checkpoint on."""
    begun = time.time()
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        before = sample(portd, "checkpoint_timestamp_seconds") or 0
        assert before >= begun
        for number in range(5):
            source.client().set("k", number)
            portd.until_applied(source)
        text = portd.get("metrics")
        transactions = sample(portd, "stream_transactions_total")
        assert sample(portd, "commit_seconds_count") == transactions
        assert 'portd_commit_seconds_bucket{le="+Inf",link="default"}' in text
        assert (sample(portd, "checkpoint_timestamp_seconds") or 0) > before
        assert portd.terminate() == os.EX_OK


def test_a_lease_that_was_given_back_is_not_lost(servers: ServerFactory) -> None:
    """A link that has ended in order holds none, which is no reason to alert anybody; one that runs renews its own."""
    ends, goes_on = {"source": servers(), "target": servers(), "stop_after": "caught-up"}, {
        "source": servers(), "target": servers(),
    }  # fmt: skip
    with Links({"ends": ends, "goes-on": goes_on}) as portd:
        portd.until_link("ends", lambda status: status["phase"] == "stopped")
        assert sample(portd, "lease_renewed_timestamp_seconds", "ends") == 0
        portd.until_link("goes-on", lambda status: status["phase"] == "streaming")
        first = sample(portd, "lease_renewed_timestamp_seconds", "goes-on") or 0
        assert first > 0
        wait_for_sync(lambda: (sample(portd, "lease_renewed_timestamp_seconds", "goes-on") or 0) > first)
