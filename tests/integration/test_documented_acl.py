"""The permissions that docs/operations.md names are enough, on servers that check them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from portd.target.capabilities import NEEDED_COMMANDS, USEFUL_COMMANDS
from tests.compare import assert_equal
from tests.datasets import fill_every_encoding
from tests.permissions import ENDS_CONNECTIONS, documented
from tests.process import Portd

if TYPE_CHECKING:
    from tests.servers import Server


@pytest.mark.parametrize("more", [(), ENDS_CONNECTIONS], ids=["least", "more"])
def test_the_documented_users_can_do_a_whole_sync(source: Server, target: Server, more: tuple[str, ...]) -> None:
    """With the two users of the document every encoding arrives; the start misses what the document tells to add, if at all."""
    on_source, on_target = documented()
    assert set(on_target).isdisjoint(ENDS_CONNECTIONS)
    for server, words in ((source, on_source), (target, [*on_target, *more])):
        client: Any = server.client()
        client.execute_command(*words)
    fill_every_encoding(source)
    ends = [f"redis://portd:secret@127.0.0.1:{server.port}" for server in (source, target)]
    with Portd(ends[0], ends[1]) as portd:
        status = portd.until(lambda status: status["ready"])
        assert json.loads(portd.get("status"))["dead_letters"] == {}
        forbidden = set(status["target"]["info"]["forbidden"].split())
        missing = forbidden & {*NEEDED_COMMANDS, *USEFUL_COMMANDS}
        assert missing == {word[1:] for word in ENDS_CONNECTIONS if word not in more}
        portd.terminate()
        assert portd.wait() == os.EX_OK, portd.log()
    assert_equal(source, target)
