"""Slots of a source cluster that move while its nodes fail over or die for good, and while another process takes the link."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.clusters import Cluster, differences
from tests.clustertools import agreed, mend
from tests.integration.cluster.load import LINKS, fill, primaries, streaming, until_applied
from tests.integration.cluster.moves import RoamingLoad
from tests.integration.cluster.test_moves import MOVING, drawn, into, url_of
from tests.integration.cluster.test_moves_again import SLOT, TAG, begin_move, carry
from tests.process import Portd
from tests.servers import default_binary, wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

__all__ = ["into"]


@pytest.fixture
def pairs() -> Iterator[Cluster]:
    """Three primaries with a replica each."""
    with Cluster(replicas=1, repl_backlog_size="32mb", repl_ping_replica_period=1) as started:
        fill(started)
        yield started


def end_equal(portd: Portd, source: Cluster, into: Server | Cluster) -> None:
    """What the source has is in the target, when all is at rest."""
    ranges = {node: sorted(each) for node, each in source.owners().items()}

    def settled() -> bool:
        assert portd.alive, portd.log()
        found = [sorted(drawn(into, link)) for link in LINKS]
        wanted = [[slot for a, b in each for slot in range(a, b + 1)] for each in ranges.values()]
        return sorted(filter(None, found)) == sorted(wanted)

    wait_for_sync(settled, dump=portd.log)
    portd.until(streaming)
    status = until_applied(portd, primaries(source))
    assert not any(each["dead_letters"] for each in status["links"]), portd.log()
    found = differences(into, source)
    assert not found, f"{found[:10]}\n{portd.log()}"
    assert portd.terminate() == os.EX_OK, portd.log()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", ["", "FORCE", "TAKEOVER"])
def test_both_ends_of_a_move_fail_over(pairs: Cluster, into: Server | Cluster, how: str) -> None:
    """First the one that takes the slot, then the one that gives it; an operator mends the move."""
    one, two = pairs.primaries[:2]
    by_primary = dict(zip(pairs.primaries, pairs.replicas, strict=True))
    keys = [f"{TAG}:{number}" for number in range(40)]
    for key in keys:
        pairs.call(one, "RPUSH", key, key, "before")
    with Portd(pairs.url, url_of(into), prune_limit=100) as portd, RoamingLoad(pairs, MOVING) as load:
        portd.until(streaming)
        load.run()
        begin_move(pairs, one, two)
        carry(one, two, *keys[:20])
        pairs.fail_over(by_primary[two], *filter(None, [how]))
        load.run(20)
        pairs.fail_over(by_primary[one], *filter(None, [how]))
        load.run(20)
        mend(pairs, [SLOT])
        pairs.move_slot(SLOT, by_primary[two])
        load.run(20)
        load.stop()
        wait_for_sync(lambda: agreed(pairs))
        end_equal(portd, pairs, into)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("one_step", [False, True], ids=["key-by-key", "one-step"])
def test_a_node_dies_for_good_in_a_move_to_it(cluster: Cluster, into: Server | Cluster, *, one_step: bool) -> None:
    """What it had is lost in the source, and goes from the target; the slot is where it was, and the sync goes on."""
    if one_step and not default_binary().at_least(redis=(99,), valkey=(9, 0)):
        pytest.skip("needs CLUSTER MIGRATESLOTS")
    fill(cluster)
    one = cluster.primaries[0]
    keys = [f"{TAG}:{number}" for number in range(40)]
    for key in keys:
        cluster.call(one, "RPUSH", key, key, "before")
    fresh = cluster.join()
    with Portd(cluster.url, url_of(into), memory_budget="48MiB", prune_limit=100) as portd:
        portd.until(lambda status: len(status["links"]) == 4 and streaming(status))
        if one_step:
            cluster.call(one, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", SLOT, SLOT, "NODE", cluster.name(fresh))
        else:
            begin_move(cluster, one, fresh)
            carry(one, fresh, *keys[:20])
            wait_for_sync(lambda: SLOT in drawn(into, "default.16384"))
        cluster.leave(fresh)
        cluster.call(one, "CLUSTER", "SETSLOT", SLOT, "STABLE")
        wait_for_sync(lambda: agreed(cluster))
        cluster.call(one, "RPUSH", keys[-1], "behind")
        wait_for_sync(lambda: not drawn(into, "default.16384"), dump=portd.log)
        end_equal(portd, cluster, into)


@pytest.mark.sampled(1)
def test_a_standby_takes_over_in_a_move(cluster: Cluster, into: Server | Cluster) -> None:
    """The holder is killed when half of the keys have come: the other process goes on with the slots that stand in the target."""
    fill(cluster)
    one, two = cluster.primaries[:2]
    keys = [f"{TAG}:{number}" for number in range(40)]
    for key in keys:
        cluster.call(one, "RPUSH", key, key, "before")
    with (
        Portd(cluster.url, url_of(into), standby=True) as holder,
        RoamingLoad(cluster, MOVING) as load,
    ):
        holder.until(streaming)
        with Portd(cluster.url, url_of(into), standby=True) as other:
            other.until(lambda status: all(each["role"] == "standby" for each in status["links"]))
            begin_move(cluster, one, two)
            carry(one, two, *keys[:20])
            load.run(20)
            holder.kill()
            load.run(20)
            cluster.move_slot(SLOT, two)
            load.run(20)
            cluster.move_slot(SLOT, one)
            load.stop()
            other.until(lambda status: streaming(status) and all(each["role"] == "holder" for each in status["links"]))
            end_equal(other, cluster, into)


@pytest.mark.sampled(1)
def test_slots_move_while_replicas_are_read(pairs: Cluster, into: Server | Cluster) -> None:
    """And replicas take over meanwhile, without a word to their primaries."""
    by_primary = dict(zip(pairs.primaries, pairs.replicas, strict=True))
    one, two, three = pairs.primaries
    options: dict[str, object] = {"source_read_from": "replica", "prune_limit": 100}
    with Portd(pairs.url, url_of(into), **options) as portd, RoamingLoad(pairs, MOVING) as load:
        portd.until(streaming)
        for slot, node in (5, two), (6000, three):
            pairs.move_slot(slot, node, until=load.run)
        pairs.fail_over(by_primary[two], "TAKEOVER")
        pairs.until_up()
        wait_for_sync(lambda: agreed(pairs))
        for slot, node in (77, three), (5, one):
            pairs.move_slot(slot, node, until=load.run)
        load.stop()
        wait_for_sync(lambda: agreed(pairs))
        end_equal(portd, pairs, into)
