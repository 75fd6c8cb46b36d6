"""Slots of a source cluster that move again, or whose nodes fail over or die, before anybody has followed them; portd is killed between."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from portd.config.settings import Settings
from portd.kernel.slots import slot_tag
from portd.link.offsets import Offsets
from portd.net.topology import Node
from tests.clusters import Cluster, differences
from tests.integration.cluster.load import LINKS, fill, streaming, until_applied
from tests.integration.cluster.moves import RoamingLoad
from tests.integration.cluster.test_moves import MOVING, drawn, into, until_settled, url_of
from tests.process import Portd
from tests.relay import Relay, holding
from tests.servers import PATIENCE_SECONDS, Server, wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def come_unseen(portd: Portd, cluster: Cluster, source: Server, node: Server, keys: Sequence[str]) -> None:
    """Some keys go to a node whose history is lost then: its shard is copied, and what the snapshot has of the slot is left out."""
    portd.signal(signal.SIGSTOP)
    begin_move(cluster, source, node)
    carry(source, node, *keys)
    cluster.call(node, "DEBUG", "CHANGE-REPL-ID")
    cluster.call(node, "CLIENT", "KILL", "TYPE", "replica")
    portd.signal(signal.SIGCONT)
    portd.until(lambda status: sum(each["full_syncs"].get("backlog", 0) for each in status["links"]) == 1)
    portd.until(streaming)


@pytest.mark.sampled(1)
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


@pytest.mark.sampled(1)
def test_a_shard_that_is_seen_late_gets_several_slots(cluster: Cluster, into: Server | Cluster) -> None:
    """It is copied for the one that came first, while another one was about to come: that comes behind the copy, and nobody waits for ever."""
    fill(cluster)
    with (
        cluster.joining() as fresh,
        Portd(cluster.url, url_of(into), memory_budget="48MiB") as portd,
        RoamingLoad(cluster, MOVING) as load,
    ):
        load.run()
        for slot in MOVING:
            cluster.move_slot(slot, fresh)
        load.run()
        portd.until(lambda status: len(status["links"]) == 4 and streaming(status))
        until_settled(portd, into, cluster)
        load.stop()
        links = {each["link"] for each in portd.until(streaming)["links"]} - set(LINKS)
        status = until_applied(portd, {**dict(zip(LINKS, cluster.primaries, strict=True)), links.pop(): fresh})
        assert not any(each["dead_letters"] for each in status["links"]), portd.log()
        assert not differences(into, cluster), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()


def test_a_shard_is_copied_when_a_slot_is_about_to_come(cluster: Cluster, target: Server) -> None:
    """It waits for others because of slots that it has, not of one that it asked for and did not get before its history was lost."""
    fill(cluster)
    one, two, _ = cluster.primaries
    keys = [f"{TAG}:{number}" for number in range(40)]
    for key in keys:
        cluster.call(one, "RPUSH", key, key, "before")
    with Relay(target.port) as relay, Portd(cluster.url, f"redis://127.0.0.1:{relay.port}") as portd:
        portd.until(streaming)
        hold = relay.hold(holding(f"\r\n{SLOT} 5461-10921\r\n".encode()))  # the link has another slot
        begin_move(cluster, one, two)
        carry(one, two, *keys[:20])
        assert hold.caught.wait(PATIENCE_SECONDS), portd.log()
        cluster.call(two, "DEBUG", "CHANGE-REPL-ID")
        cluster.call(two, "CLIENT", "KILL", "TYPE", "replica")
        wait_for_sync(lambda: "source lost our place" in portd.log())
        cluster.move_slot(SLOT, two)
        cluster.call(two, "RPUSH", keys[0], "again")
        portd.until(streaming)
        until_settled(portd, target, cluster)
        until_applied(portd, dict(zip(LINKS, cluster.primaries, strict=True)))
        assert not differences(target, cluster)
        assert portd.terminate() == os.EX_OK, portd.log()


@pytest.mark.sampled(1)
def test_a_shard_is_copied_for_a_slot_that_came_meanwhile(cluster: Cluster, into: Server | Cluster) -> None:
    """Its snapshot had a part of the slot, which was left out: it is copied with the slot, at whatever node of the target that is."""
    fill(cluster)
    one, two, _ = cluster.primaries
    keys = [f"{TAG}:{number}" for number in range(40)]
    for key in keys:
        cluster.call(one, "RPUSH", key, key, "before")
    with Portd(cluster.url, url_of(into)) as portd:
        portd.until(streaming)
        come_unseen(portd, cluster, one, two, keys[:20])
        cluster.move_slot(SLOT, two)
        cluster.call(two, "RPUSH", keys[0], "again")
        until_settled(portd, into, cluster)
        portd.until(streaming)
        until_applied(portd, dict(zip(LINKS, cluster.primaries, strict=True)))
        assert not differences(into, cluster), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("killed", [True, False], ids=["killed", "stopped"])
def test_a_node_goes_before_it_was_read(cluster: Cluster, into: Server | Cluster, *, killed: bool) -> None:
    """It gave its slots to others and was taken out while portd did not look: those are copied, nobody waits for it, a restart neither."""
    fill(cluster)
    one, two, _ = cluster.primaries
    fresh = cluster.join()
    with Portd(cluster.url, url_of(into), memory_budget="48MiB", prune="prune") as portd:
        portd.until(lambda status: len(status["links"]) == 4 and streaming(status))
        keys = [f"{TAG}:{number}" for number in range(40)]
        for key in keys:
            cluster.call(one, "RPUSH", key, key, "before")
        cluster.move_slot(SLOT, fresh)
        wait_for_sync(lambda: SLOT in drawn(into, "default.16384") and SLOT not in drawn(into, LINKS[0]))
        if killed:
            portd.kill()
        else:
            portd.signal(signal.SIGSTOP)
        cluster.call(fresh, "DEL", *keys[:10])
        cluster.call(fresh, "RPUSH", keys[20], "there")
        cluster.move_slot(SLOT, two)
        cluster.call(two, "RPUSH", keys[21], "behind")
        cluster.leave(fresh)
        if killed:
            portd.start()
        else:
            portd.signal(signal.SIGCONT)
        wait_for_sync(lambda: "a shard is gone" in portd.log(), dump=portd.log)
        wait_for_sync(lambda: not drawn(into, "default.16384"))
        until_settled(portd, into, cluster)
        until_applied(portd, dict(zip(LINKS, cluster.primaries, strict=True)))
        assert not differences(into, cluster), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    with Portd(cluster.url, url_of(into)) as portd:
        status = portd.until(streaming)
        assert [each["link"] for each in status["links"]] == list(LINKS)
        assert not any(each["full_syncs"] for each in status["links"])


async def test_offsets_are_those_of_primaries(source: Server, target: Server) -> None:
    """One that follows another server, or has another history, is behind what the link's node wrote: nobody is told of it."""
    client = source.client()
    client.set("a", 1)
    target.replicate(source)
    wait_for_sync(lambda: target.info("replication").get("master_link_status") == "up")
    replid = client.info("replication")["master_replid"]
    offsets = Offsets(Settings(source=source.url, target=target.url).source_endpoint())
    nodes = {
        "primary": (Node("one", "127.0.0.1", source.port, ()), replid),
        "unknown": (Node("one", "127.0.0.1", source.port, ()), ""),
        "replica": (Node("two", "127.0.0.1", target.port, ()), replid),
        "another": (Node("one", "127.0.0.1", source.port, ()), "f" * 40),
    }
    try:
        found = await offsets.ask(dict, nodes)
    finally:
        await offsets.close()
    assert found.written.keys() == {"primary", "unknown"}


async def test_what_was_received_of_another_stream_orders_nothing(source: Server, target: Server) -> None:
    """Behind a failover a link reads another stream, from further back: the same offset may be of something that is written later."""
    offsets = Offsets(Settings(source=source.url, target=target.url).source_endpoint())
    nodes = {"one": (Node("one", "127.0.0.1", source.port, ()), "")}
    try:
        before = await offsets.ask(lambda: {"one": (1, 500)}, nodes)
        assert offsets.find("one", (1, 400), {"one"}) is before
        assert offsets.find("one", (2, 400), {"one"}) is None
        again = await offsets.ask(lambda: {"one": (2, 400)}, nodes)
        assert offsets.find("one", (2, 400), {"one"}) is again
        offsets.forget({"one": (2, 100)})
        assert offsets.find("one", (1, 400), {"one"}) is None
        assert offsets.find("one", (2, 400), {"one"}) is again
        _, later = [await offsets.ask(lambda: {"one": (2, 400), "at rest": (1, 70)}, nodes) for _ in range(2)]
        offsets.forget({"one": (2, 450), "at rest": (1, 70)})  # what comes of that one has a higher offset
        assert offsets.find("one", (2, 400), {"one"}) is later
    finally:
        await offsets.close()


def test_keys_of_a_move_that_was_given_up_come_with_the_next_one(cluster: Cluster, into: Server | Cluster) -> None:
    """Nobody saw them there, and portd left them out, for the node had no claim to their slot when it was asked."""
    fill(cluster)
    one, two, _ = cluster.primaries
    keys = [f"{TAG}:{number}" for number in range(40)]
    for key in keys:
        cluster.call(one, "RPUSH", key, key, "before")
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with Portd(cluster.url, url_of(into)) as portd:
        portd.until(streaming)
        portd.signal(signal.SIGSTOP)
        begin_move(cluster, one, two)
        carry(one, two, *keys[:20])
        for node in one, two:
            cluster.call(node, "CLUSTER", "SETSLOT", SLOT, "STABLE")
        portd.signal(signal.SIGCONT)
        until_applied(portd, nodes)
        portd.kill()
        portd.start()
        portd.until(streaming)
        cluster.move_slot(SLOT, two)
        until_settled(portd, into, cluster)
        portd.until(streaming)
        until_applied(portd, nodes)
        assert not differences(into, cluster), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
