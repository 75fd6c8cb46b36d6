"""Slots that move within a cluster that is the source: followed while it is written to, into a server and into a cluster."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.clusters import Cluster, differences
from tests.integration.cluster.load import LINKS, fill, streaming, until_applied
from tests.integration.cluster.moves import RoamingLoad
from tests.process import Portd

if TYPE_CHECKING:
    from tests.servers import Server

MOVING = (5, 77, 1234, 5400, 6000, 9999, 11000, 16000)


def test_slots_that_move_are_followed(cluster: Cluster, target: Server) -> None:
    """Slots go from shard to shard key by key, and back, while clients write to them: each command once, without a full sync."""
    fill(cluster)
    one, two, three = cluster.primaries
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with Portd(cluster.url, target) as portd, RoamingLoad(cluster, MOVING) as load:
        portd.until(streaming)
        load.run()
        for slot, into in ((5, two), (77, two), (6000, three), (16000, one), (5, three), (1234, two), (5, one)):
            cluster.move_slot(slot, into, until=load.run)
            load.run(10)
        load.stop()
        status = until_applied(portd, nodes)
        assert [each["full_syncs"] for each in status["links"]] == [{"first": 1}] * 3, portd.log()
        assert not any(each["dead_letters"] for each in status["links"]), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(target, cluster)
