"""SIGHUP on a running sync."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING

from tests.process import Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server


def more_refused(portd: Portd, than: int) -> bool:
    """Another reload has failed."""
    return portd.log().count("reload failed") > than


def test_a_hangup_reloads_the_file(source: Server, target: Server, tmp_path: Path) -> None:
    """What can change changes, what cannot is named, a mistake changes nothing, and the sync goes on."""
    file = tmp_path / "portd.toml"
    file.write_text('writers = 2\nlog_level = "info"\n')
    with Portd(source, target, config=file) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        file.write_text('writers = 3\nlog_level = "info"\nmemtrace = 0.2\n')
        portd.signal(signal.SIGHUP)
        wait_for_sync(lambda: "needs_restart=writers" in portd.log(), dump=portd.log)
        wait_for_sync(lambda: "event=memtrace" in portd.log(), dump=portd.log)
        for mistake in ("writers = ", 'writers = "x"', 'memory_budget = "1KiB"', 'existing = "nope"'):
            refused = portd.log().count("reload failed")
            file.write_text(f'log_level = "debug"\n{mistake}\n')
            portd.signal(signal.SIGHUP)
            wait_for_sync(partial(more_refused, portd, refused), dump=portd.log)
        assert portd.log().count("event=reloaded") == 1
        source.client().set("a", "1")
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()


def test_a_hangup_without_a_file_stops(source: Server, target: Server) -> None:
    """A terminal that goes away ends the sync in order."""
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        portd.signal(signal.SIGHUP)
        assert portd.wait() == os.EX_OK, portd.log()
