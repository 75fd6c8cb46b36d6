"""Slots of a source cluster that move in one step, where its servers say so in their streams (Redis 8.4, ``CLUSTER MIGRATION``)."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from portd.kernel.slots import slot_tag
from tests.clusters import Cluster, differences
from tests.integration.cluster.load import LINKS, Loads, fill, streaming, until_applied
from tests.integration.cluster.moves import RoamingLoad, migrate, until_moved
from tests.integration.cluster.test_moves import MOVING, drawn, until_settled, url_of
from tests.process import Portd
from tests.servers import Binary, Server, binaries, default_binary, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOT = 5
TAG = f"{{{slot_tag(SLOT)}}}"


def newest() -> Binary:
    """A server that has such moves; skips the test where there is none."""
    found = next((each for each in binaries() if each.at_least(redis=(8, 4))), None)
    if found is None:
        pytest.skip("needs CLUSTER MIGRATION of Redis 8.4")
    return found


@pytest.fixture
def source() -> Iterator[Cluster]:
    """Three primaries with keys of all types, also with values that do not move as one payload."""
    with Cluster(newest()) as started:
        fill(started)
        for slot in MOVING:
            tag = f"{{{slot_tag(slot)}}}"
            with Wire(started.owner(tag)) as wire:
                wire.many(
                    [
                        ("RPUSH", f"{tag}:large:list", *range(700)),
                        ("SADD", f"{tag}:large:set", *(f"m{n}" for n in range(700))),
                        ("ZADD", f"{tag}:large:zset", *(word for n in range(700) for word in (n, f"m{n}"))),
                        ("HSET", f"{tag}:large:hash", *(word for n in range(700) for word in (f"f{n}", n))),
                        ("HSET", f"{tag}:fields", "one", 1, "two", 2),
                        ("HEXPIRE", f"{tag}:fields", 100_000, "FIELDS", 1, "one"),
                        *(("XADD", f"{tag}:large:stream", f"1-{n}", "n", n) for n in range(1, 700)),
                        ("XGROUP", "CREATE", f"{tag}:large:stream", "group", "1-5"),
                        ("XREADGROUP", "GROUP", "group", "me", "COUNT", 3, "STREAMS", f"{tag}:large:stream", ">"),
                    ]
                )
        yield started


@pytest.fixture(params=["server", "cluster", "same"])
def into(request: pytest.FixtureRequest) -> Iterator[Server | Cluster]:
    """A target: of the default kind, or a cluster of the source's."""
    binary = newest() if request.param == "same" else default_binary()
    with Server(binary) if request.param == "server" else Cluster(binary) as started:
        yield started


def end_equal(portd: Portd, source: Cluster, into: Server | Cluster, *, copied: bool = False) -> None:
    """Every command came once: no shard was copied again, unless *copied*, nothing was refused, and both ends are equal."""
    until_settled(portd, into, source)
    portd.until(streaming)
    status = until_applied(portd, dict(zip(LINKS, source.primaries, strict=True)))
    assert not any(each["dead_letters"] for each in status["links"]), portd.log()
    if not copied:
        assert portd.log().count('event="full sync"') == len(LINKS), portd.log()
    assert portd.terminate() == os.EX_OK, portd.log()
    found = unlike(source, into)
    assert not found, f"{found[:10]}\n{portd.log()}"


def unlike(source: Cluster, into: Server | Cluster) -> list[str]:
    """What differs. The digest of a hash whose fields expire is another one in each family of servers: these are read."""
    found = [each for each in differences(into, source) if ":fields'" not in each]
    for slot in MOVING:
        key = f"{{{slot_tag(slot)}}}:fields"
        one, other = source.owner(key), into if isinstance(into, Server) else into.owner(key)
        told = []
        for node in one, other:
            with Wire(node) as wire:
                told.append(
                    wire.many(
                        [("HGETALL", key), ("HPEXPIRETIME", key, "FIELDS", 2, "one", "two"), ("PEXPIRETIME", key)]
                    )
                )
        told = [[sorted(each) if isinstance(each, list) else each for each in answers] for answers in told]
        if told[0] != told[1]:
            found.append(f"{key}: {told[0]} in the source, {told[1]} in the target")
    return found


def slow_down(cluster: Cluster, microseconds: int) -> None:
    """Moves take so long for each key."""
    for node in cluster.primaries:
        cluster.call(node, "CONFIG", "SET", "rdb-key-save-delay", microseconds)


def test_slots_move_while_they_are_written(source: Cluster, into: Server | Cluster) -> None:
    """Several at once, there and back: what the new owner says of them waits until the old one has none of their keys."""
    one, two, three = source.primaries
    with Portd(source.url, url_of(into)) as portd, RoamingLoad(source, MOVING) as load, Loads(source) as loads:
        portd.until(streaming)
        for node, *ranges in (
            (two, (0, 100), (1234, 1234)),
            (three, (5461, 7000)),
            (three, (0, 50)),
            (one, (40, 50), (5, 5), (6000, 6000)),
        ):
            load.run()
            migrate(source, node, *ranges)
            load.run()
        load.stop()
        loads.stop()
        end_equal(portd, source, into)


def test_a_slot_goes_to_and_fro_before_anybody_follows(source: Cluster, into: Server | Cluster) -> None:
    """All of it is in the streams when portd looks again, or starts again: each life of the slot ends before the next one begins."""
    one, two, three = source.primaries
    with Portd(source.url, url_of(into)) as portd, RoamingLoad(source, MOVING) as load:
        portd.until(streaming)
        for number, nodes in enumerate(((two, one), (two, one, two), (three, one, two, one), (two, three))):
            load.run(30)
            portd.signal(signal.SIGSTOP) if number % 2 else portd.kill()
            for node in nodes:
                migrate(source, node, (SLOT, SLOT))
                load.run(30)
            portd.signal(signal.SIGCONT) if number % 2 else portd.start()
            load.run(30)
        load.stop()
        until_settled(portd, into, source)
        end_equal(portd, source, into, copied=True)
        assert portd.log().count("copied again") == 0, portd.log()


def test_a_slot_goes_to_and_fro_at_once(source: Cluster, into: Server | Cluster) -> None:
    """While portd follows, as fast as the servers can."""
    one, two, three = source.primaries
    with Portd(source.url, url_of(into)) as portd, RoamingLoad(source, MOVING) as load:
        portd.until(streaming)
        load.run()
        for node in (two, one, two, three, one, three, two, one, two):
            migrate(source, node, (SLOT, SLOT), (77, 77))
        load.run()
        load.stop()
        end_equal(portd, source, into, copied=True)


def test_portd_is_killed_in_the_middle(source: Cluster, into: Server | Cluster) -> None:
    """Wherever SIGKILL comes, the next start goes on, and no shard is copied again."""
    one, two, three = source.primaries
    with Portd(source.url, url_of(into)) as portd, RoamingLoad(source, MOVING) as load:
        portd.until(streaming)
        slow_down(source, 20_000)
        for number, (slot, node) in enumerate(((5, two), (6000, three), (5, one), (77, three), (5, two))):
            source.begin_move(node, (slot, slot))
            load.run(5 + 20 * number)
            portd.kill()
            if number % 2:
                until_moved(source, node, (slot, slot))
            portd.start()
            load.run(20)
            until_moved(source, node, (slot, slot))
        slow_down(source, 0)
        load.stop()
        end_equal(portd, source, into, copied=True)
        assert portd.log().count("copied again") == 0, portd.log()


def test_moves_that_fail_and_begin_once_more(source: Cluster, into: Server | Cluster) -> None:
    """What an import brought goes again, and comes again; one that is cancelled leaves nothing behind."""
    one, two, _ = source.primaries
    with Portd(source.url, url_of(into)) as portd, RoamingLoad(source, MOVING) as load:
        portd.until(streaming)
        slow_down(source, 20_000)
        for stopped in (False, True):
            portd.signal(signal.SIGSTOP) if stopped else None
            load.run(20)
            source.begin_move(two, (SLOT, SLOT), (77, 77))
            load.run(30)
            source.call(two, "CLUSTER", "MIGRATION", "CANCEL", "ALL")
            load.run(20)
            source.begin_move(two, (SLOT, SLOT), (77, 77))
            load.run(30)
            fail_attempts(source, one)
            slow_down(source, 0)
            until_moved(source, two, (SLOT, SLOT), (77, 77))
            portd.signal(signal.SIGCONT) if stopped else None
            load.run(20)
            migrate(source, one, (SLOT, SLOT), (77, 77))
            slow_down(source, 20_000)
        slow_down(source, 0)
        load.stop()
        end_equal(portd, source, into)


def fail_attempts(cluster: Cluster, giver: Server) -> None:
    """Connections of a move are lost, and the taker begins once more."""

    def lost() -> bool:
        clients = giver.client().client_list()
        ids = [each["id"] for each in clients if each["cmd"] == "cluster|syncslots"]
        with Wire(giver) as wire:
            wire.many([("CLIENT", "KILL", "ID", each) for each in ids], errors=True)
        return any(int(each["retries"]) for node in cluster.primaries for each in cluster.moves(node))

    wait_for_sync(lost)


def test_keys_that_go_late(source: Cluster, into: Server | Cluster) -> None:
    """Writes of the old owner are paused, so its keys are there still; nobody counts them. The new owner writes meanwhile."""
    one, two, _ = source.primaries
    with Portd(source.url, url_of(into)) as portd, RoamingLoad(source, (SLOT,)) as load:
        portd.until(streaming)
        load.run()
        with load.turn:
            source.call(one, "CLIENT", "PAUSE", 3000, "WRITE")
            migrate(source, two, (SLOT, SLOT), (4321, 4321))
        source.call(two, "SET", f"{{{slot_tag(4321)}}}:new", 1)
        time.sleep(1.0)
        portd.kill()
        portd.start()
        load.run()
        load.stop()
        end_equal(portd, source, into, copied=True)


def test_a_shard_is_copied_while_slots_move(source: Cluster, into: Server | Cluster) -> None:
    """Snapshots that have keys on their way, of the giver or the taker: nothing is there twice, and nothing is missing."""
    one, two, three = source.primaries
    for node in source.primaries:
        tag = next(f"{{t{n}}}" for n in range(10_000) if source.owner(f"{{t{n}}}") is node)
        for number in range(20):
            source.call(node, "SET", f"{tag}:bulk:{number}", bytes(300_000))
    with (
        Portd(source.url, url_of(into), max_target_bytes_per_second="8MiB", prune_limit=100) as portd,
        RoamingLoad(source, MOVING) as load,
    ):
        slow_down(source, 10_000)
        source.begin_move(two, (16000, 16000))  # in the first snapshots
        until_moved(source, two, (16000, 16000))
        portd.until(streaming)
        migrate(source, two, (SLOT, SLOT))
        for node in (two, three):
            load.run(20)
            source.begin_move(three if node is two else one, (SLOT, SLOT))
            load.run(20)
            source.call(node, "DEBUG", "CHANGE-REPL-ID")
            source.call(node, "CLIENT", "KILL", "TYPE", "replica")
            load.run(50)
            until_moved(source, three if node is two else one, (SLOT, SLOT))
            portd.until(streaming)
        slow_down(source, 0)
        load.stop()
        end_equal(portd, source, into, copied=True)


def test_permissions_of_the_docs_suffice(source: Cluster, target: Server) -> None:
    """Our user at the source may do what is written there, and nothing else."""
    granted = (
        "+ping +replconf +psync +info +dbsize +cluster|slots +cluster|nodes +cluster|migration +cluster|countkeysinslot"
    )
    for node in source.nodes:
        source.call(node, "ACL", "SETUSER", "portd", "on", ">secret", "resetchannels", "-@all", *granted.split())
    one, two, _ = source.primaries
    url = source.url.replace("://", "://portd:secret@")
    with Portd(url, target.url) as portd, RoamingLoad(source, MOVING) as load:
        portd.until(streaming)
        load.run(20)
        migrate(source, two, (SLOT, SLOT), (77, 77))
        load.run(20)
        portd.kill()
        migrate(source, one, (SLOT, SLOT))
        portd.start()
        load.run(20)
        load.stop()
        end_equal(portd, source, target, copied=True)
        assert "cannot be followed" not in portd.log()


def test_slots_of_the_target_move_in_one_step(cluster: Cluster) -> None:
    """Each slot goes with its record: what is in flight when it goes is sent again where the record says that it is not there."""
    fill(cluster)
    with (
        Cluster(newest()) as target,
        Portd(cluster.url, target.url) as portd,
        RoamingLoad(cluster, MOVING) as load,
        Loads(cluster) as loads,
    ):
        portd.until(streaming)
        one, two, three = target.primaries
        moves: list[tuple[Server, list[tuple[int, int]]]] = [
            (two, [(0, 100), (1234, 1234)]),
            (three, [(5400, 5400)]),
            (one, [(5461, 7000), (9999, 9999)]),
            (three, [(5, 5), (77, 77)]),
            (two, [(11000, 11000), (16000, 16000), (5, 5)]),
        ]
        for number, (node, ranges) in enumerate(moves):
            load.run(30)
            slow_down(target, 2000 * (number % 3))
            target.begin_move(node, *ranges)
            load.run(30)
            if number % 2:
                portd.kill()
                portd.start()
            slow_down(target, 0)
            until_moved(target, node, *ranges)
            load.run(30)
        load.stop()
        loads.stop()
        portd.until(streaming)
        status = until_applied(portd, dict(zip(LINKS, cluster.primaries, strict=True)))
        assert not any(each["dead_letters"] for each in status["links"]), portd.log()
        assert portd.log().count("copied again") == 0, portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
        found = differences(target, cluster)
        assert not found, f"{found[:10]}\n{portd.log()}"
        for slot in MOVING:
            records = [
                key
                for key in target.call(target.owner(f"{{{slot_tag(slot)}}}"), "CLUSTER", "GETKEYSINSLOT", slot, 10_000)
                if key.startswith(b"portd:checkpoint:")
            ]
            assert records, f"slot {slot} went without its record"


@pytest.mark.parametrize("who", ["giver", "taker"])
@pytest.mark.parametrize("how", ["", "TAKEOVER"])
def test_an_end_fails_over_in_the_middle(into: Server | Cluster, who: str, how: str) -> None:
    """The move is given up by the servers, or made by those that were promoted; each write that they kept is there once."""
    with Cluster(newest(), replicas=1, repl_backlog_size="32mb", repl_ping_replica_period=1) as source:
        fill(source)
        one, two, _ = source.primaries
        for number in range(40):
            source.call(one, "RPUSH", f"{TAG}:{number}", number)
        replica = dict(zip(source.primaries, source.replicas, strict=True))[one if who == "giver" else two]
        with Portd(source.url, url_of(into), prune_limit=100) as portd, RoamingLoad(source, MOVING) as load:
            portd.until(streaming)
            slow_down(source, 20_000)
            load.run()
            source.begin_move(two, (SLOT, SLOT))
            load.run(20)
            source.fail_over(replica, *filter(None, [how]))
            load.run(20)
            for node in source.nodes:
                with Wire(node) as wire:
                    wire.many([("CONFIG", "SET", "rdb-key-save-delay", 0)])
            wait_for_sync(source.moves_are_over)
            load.run(50)
            load.stop()
            source.until_up()
            nodes = {
                link: each for each in source.owners() for link in LINKS if set_of(source, each) == drawn(into, link)
            }

            def settled() -> bool:
                assert portd.alive, portd.log()
                nodes.clear()
                nodes.update(
                    {
                        link: each
                        for each in source.owners()
                        for link in LINKS
                        if set_of(source, each) == drawn(into, link)
                    }
                )
                return len(nodes) == len(LINKS)

            wait_for_sync(settled)
            portd.until(streaming)
            status = until_applied(portd, nodes)
            assert not any(each["dead_letters"] for each in status["links"]), portd.log()
            assert portd.terminate() == os.EX_OK, portd.log()
            found = unlike(source, into)
            assert not found, f"{found[:10]}\n{portd.log()}"


def set_of(cluster: Cluster, node: Server) -> set[int]:
    """The slots of a node."""
    return {slot for first, last in cluster.owners().get(node, ()) for slot in range(first, last + 1)}
