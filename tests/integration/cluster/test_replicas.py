"""A cluster as source whose primaries are spared: replicas are read, through kills and failovers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.clusters import Cluster, differences
from tests.integration.cluster.load import LINKS, Loads, fill, streaming, until_applied
from tests.process import Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from tests.servers import Binary, Server


def announced(cluster: Cluster, count: int) -> bool:
    """Every shard tells of so many replicas, which it does once something was written to them."""
    entries = cluster.call(cluster.primaries[0], "CLUSTER", "SLOTS")
    return all(len(entry) == 3 + count for entry in entries)


def read(cluster: Cluster, status: dict[str, Any]) -> list[Server | None]:
    """The nodes that links read, by their number; None for one that reads none."""
    nodes = {f"127.0.0.1:{node.port}": node for node in cluster.nodes}
    return [nodes.get(each["source"]["read_from"].partition(" ")[2]) for each in status["links"]]


def followers(node: Server) -> int:
    """Connections that get a node's stream."""
    return int(node.info("replication")["connected_slaves"])


def full_syncs(status: dict[str, Any]) -> list[dict[str, int]]:
    """Of each link."""
    return [each["full_syncs"] for each in status["links"]]


ONCE = [{"first": 1}] * len(LINKS)


def test_replicas_are_read_and_primaries_are_spared(binary: Binary, target: Server) -> None:
    """Snapshot and stream of each shard come from its replica; the primary has one follower, as before. Behind a restart as well."""
    with Cluster(binary, replicas=1) as cluster:
        fill(cluster)
        wait_for_sync(lambda: announced(cluster, 1))
        nodes = dict(zip(LINKS, cluster.primaries, strict=True))
        with Portd(cluster.url, target, source_read_from="replica") as portd, Loads(cluster) as loads:
            status = portd.until(streaming)
            assert read(cluster, status) == cluster.replicas
            assert [followers(node) for node in cluster.nodes] == [1] * len(cluster.nodes)
            loads.run()
            portd.kill()
            loads.run(10)
            portd.start()
            portd.until(streaming)
            loads.stop()
            status = until_applied(portd, nodes)
            assert read(cluster, status) == cluster.replicas
            assert portd.terminate() == os.EX_OK, portd.log()
            assert portd.log().count('event="full sync"') == len(LINKS)
        assert not differences(target, cluster)


def test_another_replica_goes_on_where_one_was_killed(target: Server) -> None:
    """In the middle of the load; nothing is copied again. Without any, the link says so and waits, and goes on when one is back."""
    with Cluster(replicas=2) as cluster:
        fill(cluster)
        wait_for_sync(lambda: announced(cluster, 2))
        nodes = dict(zip(LINKS, cluster.primaries, strict=True))
        with Portd(cluster.url, target, source_read_from="replica") as portd, Loads(cluster) as loads:
            first = read(cluster, portd.until(streaming))[1]
            assert first is not None
            loads.run()
            first.kill()
            status = portd.until(lambda status: read(cluster, status)[1] not in {None, first} and streaming(status))
            second = read(cluster, status)[1]
            assert second in cluster.replicas
            loads.run()
            second.kill()
            wait_for_sync(lambda: "no replica of the shard" in portd.log(), dump=portd.log)
            loads.run()
            second.start()
            portd.until(lambda status: streaming(status) and status["links"][1]["source"]["connects"] >= 3)
            loads.stop()
            status = until_applied(portd, nodes)
            assert full_syncs(status)[::2] == ONCE[::2]
            assert portd.terminate() == os.EX_OK, portd.log()
        assert not differences(target, cluster)


def test_the_primary_is_read_where_no_replica_is_left(target: Server) -> None:
    """With prefer-replica; nothing is copied again. A shard that never had one is read at its primary, too."""
    with Cluster(replicas=1) as cluster:
        fill(cluster)
        wait_for_sync(lambda: announced(cluster, 1))
        cluster.replicas[2].kill()
        wait_for_sync(lambda: len(cluster.call(cluster.primaries[0], "CLUSTER", "SLOTS")[2]) == 3)
        nodes = dict(zip(LINKS, cluster.primaries, strict=True))
        with Portd(cluster.url, target, source_read_from="prefer-replica") as portd, Loads(cluster) as loads:
            status = portd.until(streaming)
            assert read(cluster, status) == [*cluster.replicas[:2], cluster.primaries[2]]
            loads.run()
            cluster.replicas[0].kill()
            portd.until(lambda status: read(cluster, status)[0] is cluster.primaries[0] and streaming(status))
            loads.stop()
            status = until_applied(portd, nodes)
            assert full_syncs(status) == ONCE
            assert portd.terminate() == os.EX_OK, portd.log()
        assert not differences(target, cluster)


@pytest.mark.parametrize("wanted", ["replica", "prefer-replica"])
def test_a_replica_that_is_promoted_is_left(target: Server, wanted: str) -> None:
    """Another one of its shard is read then, be it the one that was the primary. In an orderly failover nothing is copied again."""
    with Cluster(replicas=1) as cluster:
        fill(cluster)
        wait_for_sync(lambda: announced(cluster, 1))
        nodes = dict(zip(LINKS, cluster.primaries, strict=True))
        with Portd(cluster.url, target, source_read_from=wanted) as portd, Loads(cluster) as loads:
            portd.until(streaming)
            loads.run()
            cluster.fail_over(cluster.replicas[1])
            cluster.until_up()
            nodes[LINKS[1]] = cluster.replicas[1]
            left = cluster.primaries[1] if wanted == "replica" else None
            portd.until(
                lambda status: (
                    streaming(status)
                    and status["links"][1]["source"]["connects"] > 1
                    and (left is None or read(cluster, status)[1] is left)
                )
            )
            loads.run()
            loads.stop()
            status = until_applied(portd, nodes)
            assert full_syncs(status) == ONCE
            assert portd.terminate() == os.EX_OK, portd.log()
        assert not differences(target, cluster)


def test_without_replicas_a_start_waits_with_words(cluster: Cluster, target: Server) -> None:
    """The process goes on, and says what is missing; nothing was written."""
    fill(cluster)
    with Portd(cluster.url, target, source_read_from="replica") as portd:
        portd.until(lambda status: all("no replica" in each["last_error"] for each in status["links"]))
        assert target.client().dbsize() == 0 or not target.client().keys("s:*")
        assert portd.terminate() == os.EX_OK, portd.log()
