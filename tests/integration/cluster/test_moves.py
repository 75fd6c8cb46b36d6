"""Slots that move within a cluster that is the source: followed while it is written to, into a server and into a cluster."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from portd.kernel.slots import slot_tag
from portd.net.topology import read_written, slots_of
from tests.clusters import Cluster, differences
from tests.integration.cluster.load import LINKS, Loads, fill, streaming, until_applied
from tests.integration.cluster.moves import RoamingLoad, migrate
from tests.process import Portd
from tests.servers import Server, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

MOVING = (5, 77, 1234, 5400, 6000, 9999, 11000, 16000)


def drawn(target: Server | Cluster, link: str) -> set[int]:
    """The slots of a link, as the target has them."""
    key = f"portd:checkpoint:{link}" if isinstance(target, Server) else f"portd:checkpoint:{{{link}}}"
    with Wire(target if isinstance(target, Server) else target.owner(key)) as wire:
        told = wire.call("HGET", key, "slots") or b""
    return set(slots_of(read_written(told.decode().split())))


def url_of(target: Server | Cluster) -> str:
    """As portd takes it."""
    return target.url


def until_settled(portd: Portd, target: Server | Cluster, source: Cluster) -> None:
    """Every link has the slots that its node has, and no others."""
    owned = {node: set(slots_of(tuple(ranges))) for node, ranges in source.owners().items()}
    wanted = [owned.get(node, set()) for node in source.primaries]

    def settled() -> bool:
        assert portd.alive, portd.log()
        return [drawn(target, link) for link in LINKS] == wanted

    wait_for_sync(settled, dump=portd.log)


@pytest.fixture(params=["server", "cluster"])
def into(request: pytest.FixtureRequest) -> Iterator[Server | Cluster]:
    """A target."""
    with Server() if request.param == "server" else Cluster() as started:
        yield started


def test_slots_that_move_are_followed(cluster: Cluster, into: Server | Cluster) -> None:
    """Slots go from shard to shard key by key while clients write to them, and back: each command once, without a full sync."""
    fill(cluster)
    one, two, three = cluster.primaries
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with (
        Portd(cluster.url, url_of(into)) as portd,
        RoamingLoad(cluster, MOVING) as load,
        Loads(cluster) as loads,  # what is in flight for other slots when some come
    ):
        portd.until(streaming)
        load.run()
        for moves in [(5, two), (77, two), (1234, three)], [(6000, three)], [(16000, one)], [(5, one), (77, one)]:
            for slot, node in moves:
                cluster.move_slot(slot, node, until=load.run)
                load.run(10)
            until_settled(portd, into, cluster)
        load.stop()
        loads.stop()
        status = until_applied(portd, nodes)
        assert [each["full_syncs"] for each in status["links"]] == [{"first": 1}] * 3, portd.log()
        assert not any(each["dead_letters"] for each in status["links"]), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(into, cluster)


def test_a_slot_that_is_long_on_its_way_holds_nobody_up(cluster: Cluster, target: Server) -> None:
    """Half of its keys have gone: both nodes write to the slot and to others, and all of it comes to the target meanwhile."""
    fill(cluster)
    one, two, _ = cluster.primaries
    slot, nodes = 5, {LINKS[0]: one, LINKS[1]: two}
    tag = f"{{{slot_tag(slot)}}}"
    with Wire(one) as wire:
        wire.many([("SET", f"{tag}:{number}", number) for number in range(100)])
    with Portd(cluster.url, target) as portd:
        portd.until(streaming)

        def both_write() -> None:
            keys = cluster.call(one, "CLUSTER", "GETKEYSINSLOT", slot, 50)
            cluster.call(one, "MIGRATE", "127.0.0.1", two.port, "", 0, 60_000, "KEYS", *keys)
            for count in range(5):
                left = cluster.call(one, "CLUSTER", "GETKEYSINSLOT", slot, 50)
                with Wire(one) as giver, Wire(two) as taker:
                    giver.many([("APPEND", left[0], "old"), ("DEL", left[1]), ("INCR", f"{{{slot_tag(6)}}}")])
                    taker.many(
                        [("ASKING",), ("APPEND", keys[count], "new"), ("ASKING",), ("SET", f"{tag}:b{count}", "")]
                    )
                    taker.many([("INCR", f"{{{slot_tag(6000)}}}")])
                until_applied(portd, nodes)
            assert slot in drawn(target, LINKS[0]) & drawn(target, LINKS[1])

        cluster.move_slot(slot, two, until=both_write)
        until_settled(portd, target, cluster)
        until_applied(portd, nodes)
        assert portd.log().count('event="full sync"') == 3, portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(target, cluster)


def test_portd_may_be_killed_while_slots_move(cluster: Cluster, into: Server | Cluster) -> None:
    """Wherever SIGKILL comes, in a move or behind it, the next start goes on: each command once, and no shard is copied again."""
    fill(cluster)
    _, two, three = cluster.primaries
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with (
        Portd(cluster.url, url_of(into)) as portd,
        RoamingLoad(cluster, MOVING) as load,
    ):

        def kill() -> None:
            load.run(20)
            portd.kill()
            load.run(20)

        portd.until(streaming)
        for slot, node in (5, two), (77, three), (6000, three), (1234, two):
            cluster.move_slot(slot, node, until=kill)
            portd.start()
            load.run(20)
        portd.until(streaming)
        until_settled(portd, into, cluster)
        load.stop()
        status = until_applied(portd, nodes)
        assert not any(each["full_syncs"] for each in status["links"]), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(into, cluster)


def test_moves_faster_than_their_order_can_be_told(cluster: Cluster, target: Server) -> None:
    """Slots go round in a circle: links may have to be copied again, and nothing is lost."""
    fill(cluster)
    one, two, three = cluster.primaries
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with Portd(cluster.url, target) as portd, RoamingLoad(cluster, MOVING) as load:
        portd.until(streaming)
        for _ in range(2):
            for slot, node in (5, two), (6000, three), (16000, one), (5, three), (6000, one), (16000, two):
                cluster.move_slot(slot, node, until=load.run)
        load.stop()
        until_settled(portd, target, cluster)
        until_applied(portd, nodes)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(target, cluster)


def test_a_move_in_one_step(cluster: Cluster, into: Server | Cluster) -> None:
    """CLUSTER MIGRATESLOTS, of many slots at once: what the new owner says of them waits until the old one has removed its keys."""
    fill(cluster)
    one, two, three = cluster.primaries
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with (
        Portd(cluster.url, url_of(into)) as portd,
        RoamingLoad(cluster, MOVING) as load,
    ):
        portd.until(streaming)
        for node, first, last in ((two, 0, 100), (three, 5461, 7000), (three, 0, 50), (one, 40, 50)):
            load.run()
            migrate(cluster, node, (first, last))
            load.run()
        until_settled(portd, into, cluster)
        load.stop()
        status = until_applied(portd, nodes)
        assert [each["full_syncs"] for each in status["links"]] == [{"first": 1}] * 3, portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(into, cluster)


@pytest.mark.sampled(1)
def test_a_shard_that_joins_and_leaves(cluster: Cluster, into: Server | Cluster) -> None:
    """A primary without slots is read before it gets any, and takes what comes without a copy.

    When it has none any more it becomes a replica, and its stream ends: its link is over, and who took its last slot is copied.
    """
    fill(cluster)
    _, two, three = cluster.primaries
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with (
        cluster.joining() as fresh,
        Portd(cluster.url, url_of(into), memory_budget="48MiB") as portd,
        RoamingLoad(cluster, MOVING) as load,
    ):
        portd.until(lambda status: len(status["links"]) == 4 and streaming(status))
        for moves in [(5, fresh), (77, fresh), (6000, fresh)], [(5, two)]:
            for slot, node in moves:
                cluster.move_slot(slot, node, until=load.run)
            load.run(10)
            until_settled(portd, into, cluster)
        wait_for_sync(lambda: drawn(into, "default.16384") == {77, 6000})
        with load.turn:
            until_applied(portd, {**nodes, "default.16384": fresh})
            assert not differences(into, cluster)
        assert portd.log().count('event="full sync"') == 4, portd.log()
        for slot in 77, 6000:
            cluster.move_slot(slot, three, until=load.run)
        wait_for_sync(lambda: not drawn(into, "default.16384"))
        until_settled(portd, into, cluster)
        load.stop()
        until_applied(portd, nodes)
        assert portd.log().count('event="full sync"') <= 8, portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(into, cluster)
