"""A cluster of three as source: a link for each shard into one server, through kills and failovers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from portd.kernel.slots import key_slot
from tests.clusters import Cluster, differences, port_with_bus
from tests.commands import run
from tests.integration.cluster.load import LINKS, Load, Loads, fill, streaming, until_applied
from tests.integration.cluster.moves import migrate
from tests.process import Links, Portd
from tests.proxy import Proxy
from tests.servers import Server, default_binary, wait_for_sync

if TYPE_CHECKING:
    from pathlib import Path

AGAIN = {"on_rules_change": "full-sync", "existing": "replace", "prune": "prune"}


def test_three_shards_are_one_copy(cluster: Cluster, target: Server) -> None:
    """Snapshots and streams of all shards arrive, each command once, through SIGKILL at any moment."""
    fill(cluster)
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with Portd(cluster.url, target) as portd, Loads(cluster) as loads:
        portd.until(streaming)
        for _ in range(3):
            loads.run()
            portd.kill()
            loads.run(10)
            portd.start()
            portd.until(streaming)
        loads.stop()
        status = until_applied(portd, nodes)
        assert [each["link"] for each in status["links"]] == list(LINKS)
        assert not any(each["dead_letters"] for each in status["links"])
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 3
    assert not differences(target, cluster)
    told = json.loads(run("status", "--target", target.url, "--json").out)
    assert [(each["link"], each["checkpoint"]["state"]) for each in told["links"]] == [
        (link, "stream") for link in LINKS
    ]
    first, names, *rows = run("status", "--target", target.url).out.decode().splitlines()
    assert first == f"default in {target.url}: 3 shards, 3 of them complete"
    assert names.split()[:2] == ["shard", "state"]
    assert [row.split()[:2] for row in rows] == [[link.removeprefix("default."), "complete"] for link in LINKS]
    assert all(cluster.url in row for row in rows)


@pytest.mark.deep
def test_comparisons_know_the_shards(cluster: Cluster, target: Server, tmp_path: Path) -> None:
    """Each link compares its own slots while writes go on, one link at a time; a key that differs is found by its link alone."""
    fill(cluster)
    other = cluster.primaries[1]
    with Portd(cluster.url, target, verify_every=0.3, spool_dir=tmp_path) as portd, Loads(cluster) as loads:
        status = portd.until(lambda status: all(sum(each["verify"]["runs"].values()) > 1 for each in status["links"]))
        assert not any(each["verify"]["runs"].keys() - {"equal", "undecided"} for each in status["links"]), portd.log()
        loads.stop()
        portd.until(lambda status: all(each["verify"]["result"] == "equal" for each in status["links"]))
        tag = next(f"{{t{number}}}" for number in range(60) if cluster.owner(f"{{t{number}}}") is other)
        target.client().set(f"{tag}:h", "differs")
        status = portd.until(lambda status: status["links"][1]["verify"]["result"] == "different")
        assert [each["verify"]["runs"].get("different", 0) > 0 for each in status["links"]] == [False, True, False]
        assert status["links"][1]["verify"]["keys"]["different"] == 1
        assert portd.terminate() == os.EX_OK, portd.log()


def test_a_flush_of_one_shard_removes_its_keys_only(cluster: Cluster, target: Server) -> None:
    """FLUSHALL at one primary is that of its slots in the target."""
    fill(cluster)
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with Portd(cluster.url, target) as portd:
        portd.until(streaming)
        Cluster.call(cluster.primaries[1], "FLUSHALL")
        until_applied(portd, nodes)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(target, cluster)
    assert target.client().dbsize() > 100


@pytest.mark.parametrize("how", [(), ("TAKEOVER",)], ids=["orderly", "takeover"])
def test_failovers_of_the_source_are_followed(target: Server, how: tuple[str, ...]) -> None:
    """A replica is promoted: its link goes on there, the others never notice, and counters are exact.

    Only a replica that had not everything costs a full sync: of its own shard.
    """
    with Cluster(replicas=1) as cluster:
        fill(cluster)
        nodes = dict(zip(LINKS, cluster.primaries, strict=True))
        with Portd(cluster.url, target) as portd, Loads(cluster) as loads:
            portd.until(streaming)
            loads.run()
            cluster.fail_over(cluster.replicas[1], *how)
            cluster.until_up()
            nodes[LINKS[1]] = cluster.replicas[1]
            with Load(cluster, cluster.replicas[1]) as load:
                wait_for_sync(lambda: load.commands > 50)
            loads.stop()
            status = until_applied(portd, nodes)
            syncs = [each["full_syncs"] for each in status["links"]]
            assert syncs == [
                {"first": 1},
                {"first": 1, **({"backlog": 1} if how and len(syncs[1]) > 1 else {})},
                {"first": 1},
            ]
            assert [each["source"]["connects"] > 1 for each in status["links"]] == [False, True, False]
            assert portd.terminate() == os.EX_OK, portd.log()
        assert not differences(target, cluster)


def test_a_start_while_a_slot_moves_is_refused(cluster: Cluster, target: Server) -> None:
    """69, with the slot; nothing is written. Behind the move it begins."""
    fill(cluster)
    slot = key_slot(b"{t1}")
    into = next(node for node in cluster.primaries if node is not cluster.owner("{t1}"))
    seen: list[str] = []

    def half() -> None:
        with Portd(cluster.url, target) as portd:
            assert portd.wait() == os.EX_UNAVAILABLE, portd.log()
            seen.append(portd.log())

    cluster.move_slot(slot, into, until=half)
    assert f"slots {slot} of the source are on their way to another node" in seen[0]
    assert not target.client().keys("*")
    with Portd(cluster.url, target, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    assert not differences(target, cluster)


def test_what_cannot_be_had_is_told(cluster: Cluster, source: Server, target: Server) -> None:
    """Another cluster as target, a server under a cluster's URL, a name that is too long: each says so with 78."""
    cases: list[tuple[str, str, dict[str, object], str]] = [
        (cluster.url, target.url.replace("redis://", "redis+cluster://"), {}, "the target is no cluster"),
        (cluster.url, target.url, {"existing": "flush"}, "existing flush cannot be had"),
        (source.url.replace("redis://", "redis+cluster://"), target.url, {}, "the source is no cluster"),
        (cluster.url, target.url, {"link": "l" * 63}, "too long"),
        (cluster.url, target.url, {"one_shard": True}, "which shard"),
        (cluster.url, target.url, {"add_prefix": "a:"}, "share_image"),
        (cluster.url, target.url, {"rename_prefix": "a:=b:", "share_image": True}, "one name of a:* and b:*"),
        (source.url, target.url, {"source_address_map": "a:1=b:2"}, "source_address_map is set"),
    ]
    for one, other, more, hint in cases:
        with Portd(one, other, **more) as portd:
            assert portd.wait() == os.EX_CONFIG, portd.log()
            assert hint in portd.log()


def test_a_user_may_do_little_more_than_of_one_server(cluster: Cluster, target: Server) -> None:
    """The documented permissions are enough; without the map's commands a start is refused with 77. Nothing is logged of the password."""
    fill(cluster)
    url = cluster.url.replace("://", "://copier:hunter2@")

    def allow(*words: str) -> None:
        for node in cluster.primaries:
            Cluster.call(
                node, "ACL", "SETUSER", "copier", "reset", "on", ">hunter2", "+ping", "+replconf", "+psync", *words
            )

    allow("+cluster|slots")
    with Portd(url, target, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_NOPERM, portd.log()
    allow("+cluster|slots", "+cluster|nodes")
    with Portd(url, target, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
        assert "hunter2" not in portd.log()
    assert not differences(target, cluster)


@pytest.mark.skipif(not default_binary().at_least(redis=(99,), valkey=(9, 0)), reason="needs CLUSTER MIGRATESLOTS")
def test_a_shard_that_goes_to_a_new_node_is_followed(target: Server) -> None:
    """All slots of a primary become those of a node without any, in one step: the link copies the shard from there.

    The old one stays a primary, without slots, and keeps its connections: nothing but the map tells.
    """
    stays = Cluster(cluster_allow_replica_migration="no")
    fresh = Server(stays.binary, cluster_enabled=True, cluster_node_timeout=1500)
    fresh.port = port_with_bus()
    with stays as cluster, fresh, Portd(stays.url, target) as portd:
        fill(cluster)
        portd.until(streaming)
        cluster.call(fresh, "CLUSTER", "MEET", "127.0.0.1", cluster.primaries[0].port)
        cluster.replicas.append(fresh)
        wait_for_sync(lambda: all(len(cluster.known(node)) == 4 for node in (*cluster.primaries, fresh)))
        wait_for_sync(lambda: b"cluster_state:ok" in cluster.call(fresh, "CLUSTER", "INFO"))
        (ranges,) = cluster.owners()[cluster.primaries[1]]
        migrate(cluster, fresh, ranges)
        cluster.call(fresh, "SET", own_key(cluster, fresh), 1)
        nodes = dict(zip(LINKS, (cluster.primaries[0], fresh, cluster.primaries[2]), strict=True))
        portd.until(lambda status: sum(status["links"][1]["full_syncs"].values()) == 2 and streaming(status))
        until_applied(portd, nodes)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert not differences(target, cluster)


def own_key(cluster: Cluster, node: Server) -> str:
    """A name in the slots of a node."""
    return next(f"new:{number}" for number in range(10_000) if cluster.owner(f"new:{number}") is node)


def test_a_limit_can_change_for_all_shards(cluster: Cluster, target: Server) -> None:
    """SIGHUP: what the file says of the link that was described is so for each of its shards."""
    tables: dict[str, dict[str, object]] = {"all": {"source": cluster.url, "target": target}}
    with Links(tables) as portd:
        portd.until(streaming)
        portd.write({"all": {**tables["all"], "max_target_ops": 777}})
        portd.signal(signal.SIGHUP)
        wait_for_sync(lambda: "changed=all.max_target_ops" in portd.log(), dump=portd.log)
        found = re.findall(
            r'^portd_target_limit_rate_ops{.*link="([^"]*)".*} 777.0$', portd.get("metrics"), re.MULTILINE
        )
        assert found == ["all.0", "all.5461", "all.10922"]
        assert portd.terminate() == os.EX_OK


async def test_announced_addresses_are_mapped(cluster: Cluster, target: Server) -> None:
    """Connections go to what source_address_map has for an announced address."""
    fill(cluster)
    async with Proxy(cluster.primaries[2].port) as proxy:
        pairs = f"127.0.0.1:{cluster.primaries[2].port}=127.0.0.1:{proxy.port}"
        with Portd(cluster.url, target, source_address_map=pairs, stop_after="caught-up") as portd:
            assert await asyncio.to_thread(portd.wait) == os.EX_OK, portd.log()
        assert proxy.to_client.forwarded > 1000
    assert not await asyncio.to_thread(differences, target, cluster)
