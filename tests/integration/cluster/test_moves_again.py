"""Slots of a source cluster that move again, or whose nodes fail over or die, before anybody has followed them; portd is killed between."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from portd.kernel.slots import slot_tag
from tests.clusters import Cluster, differences
from tests.integration.cluster.load import LINKS, streaming, until_applied
from tests.integration.cluster.test_moves import drawn, into, until_settled, url_of
from tests.process import Portd
from tests.servers import Server, wait_for_sync

if TYPE_CHECKING:
    from tests.wire import Argument

__all__ = ["into"]
SLOT = 5
TAG = f"{{{slot_tag(SLOT)}}}"


def begin_move(cluster: Cluster, source: Server, node: Server) -> None:
    """The slot is on its way between two primaries."""
    cluster.call(node, "CLUSTER", "SETSLOT", SLOT, "IMPORTING", cluster.name(source))
    cluster.call(source, "CLUSTER", "SETSLOT", SLOT, "MIGRATING", cluster.name(node))


def carry(source: Server, node: Server, *keys: Argument) -> None:
    """Some keys go from one to the other."""
    Cluster.call(source, "MIGRATE", "127.0.0.1", node.port, "", 0, 60_000, "KEYS", *keys)


def test_a_slot_comes_back_while_portd_is_away(cluster: Cluster, into: Server | Cluster) -> None:
    """Both links have it when portd is killed; what its keys were at the other node meanwhile is refused by nobody, and does not stay."""
    one, two, _ = cluster.primaries
    keys = [f"{TAG}:{number}" for number in range(40)]
    for key in keys:
        cluster.call(one, "RPUSH", key, key, "before")
    with Portd(cluster.url, url_of(into)) as portd:
        portd.until(streaming)
        begin_move(cluster, one, two)
        carry(one, two, *keys[:20])
        wait_for_sync(lambda: SLOT in drawn(into, LINKS[1]))
        portd.kill()
        cluster.move_slot(SLOT, two)
        for key in keys:
            cluster.call(two, "RPUSH", key, "there")
        cluster.call(two, "DEL", keys[0], keys[-1])
        cluster.move_slot(SLOT, one)
        cluster.call(one, "RPUSH", keys[1], "again")
        portd.start()
        portd.until(streaming)
        until_settled(portd, into, cluster)
        status = until_applied(portd, dict(zip(LINKS, cluster.primaries, strict=True)))
        assert not any(each["dead_letters"] for each in status["links"]), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(into, cluster)
