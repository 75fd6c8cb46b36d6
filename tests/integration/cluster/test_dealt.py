"""Clusters whose slots were dealt out one by one, as test suites and old tools do: each slot is a range of its own."""

from __future__ import annotations

import os

import pytest

from portd.kernel.slots import slot_tag
from tests.clusters import Cluster, differences
from tests.faults.clusters import ends_of, has_all, is_settled
from tests.integration.cluster.load import streaming
from tests.integration.cluster.moves import RoamingLoad
from tests.process import Portd
from tests.wire import Wire

MOVING = (6, 78, 1236)  # of the first node


@pytest.mark.deep
def test_from_a_cluster_with_a_range_for_each_slot_into_another() -> None:
    """Both maps have 16,384 ranges: synced, followed while slots move, and gone on with behind a kill."""
    with Cluster(dealt=True, replicas=1) as source, Cluster(dealt=True) as target:
        for node in source.primaries:  # a client that asks for the owner of each key has megabytes to read each time
            slot = source.owners()[node][100][0]
            with Wire(node) as wire:
                wire.many([("SET", f"{{{slot_tag(slot)}}}:{number}", number) for number in range(100)])
        with Portd(source.url, target.url) as portd, RoamingLoad(source, MOVING) as load:
            portd.until(streaming)
            load.run(10)
            for slot, into in zip(MOVING, (1, 2, 1), strict=True):
                source.move_slot(slot, source.primaries[into], until=load.run)
            portd.until(lambda status: is_settled(source, status))
            portd.kill()
            portd.start()
            load.run(10)
            target.move_slot(MOVING[0], target.primaries[1], until=load.run)
            load.stop()
            ends = ends_of(source)
            status = portd.until(lambda status: is_settled(source, status) and has_all(ends, status))
            assert [each["full_syncs"] for each in status["links"]] == [{}] * 3, portd.log()
            assert not any(any(each["dead_letters"].values()) for each in status["links"]), portd.log()
            assert portd.terminate() == os.EX_OK, portd.log()
        assert not differences(source, target)
