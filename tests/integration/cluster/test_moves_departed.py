"""Primaries of a source cluster that have no slots any more: they stay, go, or come back with some."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.clusters import Cluster, differences
from tests.commands import run
from tests.integration.cluster.load import LINKS, fill, streaming, until_applied
from tests.integration.cluster.test_moves import drawn, into, until_settled, url_of
from tests.integration.cluster.test_moves_again import SLOT, TAG, begin_move, carry
from tests.process import Portd
from tests.servers import Server, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["into"]
FRESH = "default.16384"


def forks(node: Server) -> int:
    """How many snapshots a node has made."""
    return int(node.info("stats")["total_forks"])


def told(target: Server | Cluster, command: str, key: str) -> Any:
    """What the target says of a key."""
    return Cluster.call(target, command, key) if isinstance(target, Server) else target.get(command, key)


def test_a_shard_that_gave_all_away_gets_slots_again(into: Server | Cluster) -> None:
    """It is a primary still, and is read again when it has some."""
    with Cluster(cluster_allow_replica_migration="no") as cluster:
        one = cluster.primaries[0]
        with cluster.joining() as fresh, Portd(cluster.url, url_of(into), memory_budget="48MiB") as portd:
            portd.until(lambda status: len(status["links"]) == 4 and streaming(status))
            cluster.call(one, "RPUSH", f"{TAG}:a", 1)
            cluster.move_slot(SLOT, fresh)
            wait_for_sync(lambda: drawn(into, FRESH) == {SLOT}, dump=portd.log)
            cluster.move_slot(SLOT, one)
            wait_for_sync(lambda: not drawn(into, FRESH), dump=portd.log)
            until_settled(portd, into, cluster)
            cluster.move_slot(SLOT, fresh)
            cluster.call(fresh, "RPUSH", f"{TAG}:a", 2)
            wait_for_sync(lambda: told(into, "LLEN", f"{TAG}:a") == 2, dump=portd.log)
            assert not differences(into, cluster)
            assert portd.terminate() == os.EX_OK, portd.log()


def test_what_a_node_said_that_is_gone_does_not_come_behind_the_copies(
    cluster: Cluster, into: Server | Cluster, tmp_path: Path
) -> None:
    """The target lags: others are copied with the slots of that node, and its rest is not applied any more."""
    fill(cluster)
    one, two, _ = cluster.primaries
    fresh = cluster.join()
    path = tmp_path / "control"
    options: dict[str, object] = {"memory_budget": "48MiB", "prune": "prune", "control_socket": path}
    with Portd(cluster.url, url_of(into), **options) as portd:
        portd.until(lambda status: len(status["links"]) == 4 and streaming(status))
        cluster.call(one, "RPUSH", f"{TAG}:a", "before")
        cluster.move_slot(SLOT, fresh)
        wait_for_sync(lambda: drawn(into, FRESH) == {SLOT} and SLOT not in drawn(into, LINKS[0]))
        run("ctl", "limit", "--socket", path, "--link", FRESH, "--max-target-ops", 20)
        with Wire(fresh) as wire:
            for number in range(60):
                wire.many([("RPUSH", f"{TAG}:a", number * 100 + each) for each in range(20)])
        received = int(fresh.info("replication")["master_repl_offset"])
        portd.until(
            lambda status: any(
                each["link"] == FRESH and each["stream"]["read_offset"] >= received for each in status["links"]
            )
        )
        cluster.move_slot(SLOT, two)
        cluster.leave(fresh)
        wait_for_sync(lambda: "a shard is gone" in portd.log(), dump=portd.log)
        wait_for_sync(lambda: not drawn(into, FRESH), dump=portd.log)
        until_settled(portd, into, cluster)
        until_applied(portd, dict(zip(LINKS, cluster.primaries, strict=True)))
        found = differences(into, cluster)
        assert not found, f"{found[:10]}\n{portd.log()}"
        assert portd.terminate() == os.EX_OK, portd.log()


def test_a_copy_that_has_to_wait_costs_the_source_nothing(cluster: Cluster, target: Server, tmp_path: Path) -> None:
    """An operator asks for one while a slot is on its way: the source is asked for its snapshot when that has come."""
    fill(cluster)
    one, two, _ = cluster.primaries
    keys = [f"{TAG}:{number}" for number in range(40)]
    for key in keys:
        cluster.call(one, "RPUSH", key, key)
    path = tmp_path / "control"
    with Portd(cluster.url, target, control_socket=path) as portd:
        portd.until(streaming)
        begin_move(cluster, one, two)
        carry(one, two, *keys[:20])
        wait_for_sync(lambda: SLOT in drawn(target, LINKS[1]))
        before = forks(two)
        run("ctl", "full-sync", "--socket", path, "--link", LINKS[1], "--yes")
        portd.until(lambda status: "a full sync waits" in str(status["links"][1]["last_error"]))
        assert forks(two) == before
        cluster.move_slot(SLOT, two)
        portd.until(lambda status: status["links"][1]["full_syncs"].get("asked") == 1 and streaming(status))
        assert forks(two) == before + 1
        until_settled(portd, target, cluster)
        until_applied(portd, dict(zip(LINKS, cluster.primaries, strict=True)))
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(target, cluster)


@pytest.mark.parametrize("granted", [True, False], ids=["granted", "not granted"])
def test_a_user_that_may_not_ask_nodes(cluster: Cluster, target: Server, *, granted: bool) -> None:
    """A slot that moves ends the sync, unless somebody lets the user ask before that."""
    fill(cluster)
    one, two, _ = cluster.primaries
    rights = ("+ping", "+replconf", "+psync", "+cluster|slots", "+cluster|nodes")
    for node in cluster.primaries:
        Cluster.call(node, "ACL", "SETUSER", "copier", "reset", "on", ">hunter2", *rights)
    with Portd(cluster.url.replace("://", "://copier:hunter2@"), target) as portd:
        portd.until(streaming)
        wait_for_sync(lambda: "slots that move cannot be followed" in portd.log(), dump=portd.log)
        if granted:
            for node in cluster.primaries:
                Cluster.call(
                    node, "ACL", "SETUSER", "copier", "+info", "+cluster|getslotmigrations", "+cluster|countkeysinslot"
                )
            wait_for_sync(lambda: "slots that move can be followed again" in portd.log(), dump=portd.log)
        cluster.call(one, "SET", f"{TAG}:a", 1)
        cluster.move_slot(SLOT, two)
        if not granted:
            assert portd.wait() == os.EX_UNAVAILABLE, portd.log()
            assert f"slot {SLOT} of the source has moved" in portd.log()
            return
        until_settled(portd, target, cluster)
        until_applied(portd, dict(zip(LINKS, cluster.primaries, strict=True)))
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(target, cluster)
