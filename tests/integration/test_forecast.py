"""The forecast against real sources: what it tells while nothing is read, and what it does where it may not ask."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from tests.datasets import fill_strings
from tests.process import Portd
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.conftest import ServerFactory
    from tests.servers import Binary

MIB = 1 << 20

FULL = ("output_bytes", "backlog_behind_bytes")


def test_a_source_that_is_not_read_is_warned_of_in_time(binary: Binary, servers: ServerFactory) -> None:
    """Its output buffer, limits and backlog are in /status and /metrics, and the log warns before the link is lost."""
    source, target = servers(binary, client_output_buffer_limit="replica 256mb 24mb 60"), servers()
    with Portd(source, target, spool_dir="off", memory_budget="9MiB") as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        target.signal(signal.SIGSTOP)
        fill_strings(source, 40_000, 1000)
        # Both are asked for in one breath, but what we have read is known some moments later.
        status = portd.until(
            lambda status: (
                min(
                    (status["source"]["outlook"] or {"output_bytes": 0, "backlog_behind_bytes": 0})[name]
                    for name in FULL
                )
                > 24 * MIB
            )
        )
        outlook = status["source"]["outlook"]
        limits = outlook["output_hard_bytes"], outlook["output_soft_bytes"], outlook["output_soft_seconds"]
        assert limits == (256 * MIB, 24 * MIB, 60)
        assert 0 < round(outlook["seconds_left"], 6) <= 60  # a difference of clocks is added to it
        assert outlook["backlog_bytes"] > 0
        assert "the source may drop our connection" in portd.log()
        assert 'portd_source_link_left_seconds{link="default"} ' in portd.get("metrics")
        target.signal(signal.SIGCONT)
        portd.until_applied(source)
        after = portd.until(lambda status: status["source"]["outlook"]["output_bytes"] < MIB)
        assert after["source"]["connects"] == 1
        assert portd.terminate() == os.EX_OK


def test_a_user_who_may_not_ask_loses_nothing_else(servers: ServerFactory) -> None:
    """With +psync +replconf +ping alone there is no forecast: one line for each thing refused, no warning, no loss."""
    source, target = servers(), servers()
    with Wire(source) as wire:
        wire.call("ACL", "SETUSER", "reader", "on", ">secret", "+ping", "+replconf", "+psync")
    url = f"redis://reader:secret@127.0.0.1:{source.port}"
    with Portd(url, target) as portd:
        portd.until(lambda _: "CLIENT LIST" in portd.log())
        status = portd.status()
        assert status is not None
        assert status["source"]["connected"]
        assert status["source"]["losses"] == {}
        assert portd.log().count("source does not let us ask") <= 3
        assert "level=warning" not in portd.log()
        assert portd.terminate() == os.EX_OK
