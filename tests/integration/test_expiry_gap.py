"""A key renewed at the last moment on the source must not die on a target that hears of it late."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.compare import assert_equal
from tests.process import Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from tests.servers import Server

SHORT_MS = 400


def test_a_renewal_that_arrives_late_finds_its_key(source: Server, target: Server) -> None:
    """Portd stands still while a key's first time passes; the renewal behind it still takes effect."""
    client = source.client()
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        portd.signal(signal.SIGSTOP)
        for number in range(100):
            client.set(f"renewed:{number}", "1", px=SHORT_MS)
            client.pexpire(f"renewed:{number}", 100_000)
            client.set(f"counted:{number}", "1", px=SHORT_MS)
            client.incr(f"counted:{number}")
            client.persist(f"counted:{number}")
            client.set(f"gone:{number}", "1", px=SHORT_MS)
        wait_for_sync(lambda: client.exists("gone:99") == 0)
        portd.signal(signal.SIGCONT)
        portd.until_applied(source)
        assert portd.terminate() == 0, portd.log()
    assert target.client().get("counted:0") == b"2"
    assert_equal(source, target)


def test_import_mode_ends_with_the_sync(source: Server, target: Server) -> None:
    """A target is not left in a mode in which it expires and evicts nothing."""
    with Portd(source, target) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        assert target.client().config_get("import-mode") == {"import-mode": "yes"}
        target.restart()
        source.client().set("a", "1")
        portd.until_applied(source)
        assert target.client().config_get("import-mode") == {"import-mode": "yes"}
        portd.terminate()
    assert target.client().config_get("import-mode") == {"import-mode": "no"}
