"""What tests of full syncs do with a source, a target and a sync between them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.process import Portd
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.servers import Server


def copy(source: Server | str, target: Server, **options: object) -> str:
    """A sync until it has caught up; its log."""
    with Portd(source, target, stop_after="caught-up", **options) as portd:
        assert portd.wait() == os.EX_OK, portd.log()
        return portd.log()


def forget_history(source: Server) -> None:
    """The source does not know any more where we are, as after a long outage."""
    with Wire(source) as wire:
        wire.call("DEBUG", "CHANGE-REPL-ID")


def names(server: Server) -> set[bytes]:
    """All keys of a server but ours."""
    return {key for key in server.client().scan_iter(count=1000) if not key.startswith(b"portd:")}
