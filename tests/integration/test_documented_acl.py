"""The permissions that docs/operations.md names are enough, on servers that check them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from portd.target.capabilities import NEEDED_COMMANDS, USEFUL_COMMANDS
from tests.compare import assert_equal
from tests.datasets import fill_every_encoding
from tests.permissions import documented
from tests.process import Portd

if TYPE_CHECKING:
    from tests.servers import Server


FASTER = {"client|list", "client|kill"}  # the document names them as what makes a snapshot faster


def test_the_documented_users_can_do_a_whole_sync(source: Server, target: Server) -> None:
    """With the two users of the document every encoding arrives, and the start misses no permission."""
    on_source, on_target = documented()
    for server, words in ((source, on_source), (target, on_target)):
        client: Any = server.client()
        client.execute_command(*words)
    fill_every_encoding(source)
    ends = [f"redis://portd:secret@127.0.0.1:{server.port}" for server in (source, target)]
    with Portd(ends[0], ends[1]) as portd:
        status = portd.until(lambda status: status["ready"])
        assert json.loads(portd.get("status"))["dead_letters"] == {}
        forbidden = set(status["target"]["info"]["forbidden"].split())
        assert forbidden & {*NEEDED_COMMANDS, *USEFUL_COMMANDS} == FASTER
        portd.terminate()
        assert portd.wait() == os.EX_OK, portd.log()
    assert_equal(source, target)
