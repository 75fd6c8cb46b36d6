"""A primary of a target cluster that is away, or does not take what it is sent: its slots wait, and no others do."""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING, Any

import pytest

from portd.kernel.slots import key_slot
from tests.clusters import Cluster, differences
from tests.integration.cluster.test_clusters import memory_peak
from tests.integration.cluster.test_sync import Load
from tests.process import Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.conftest import ServerFactory
    from tests.servers import Server

SPARSE: dict[str, Any] = {"cluster_require_full_coverage": False, "appendonly": True, "appendfsync": "always"}
HASTY = {"connect_seconds": 2}
PAGE = 8000  # bytes of a value that fills windows


@pytest.fixture
def sparse() -> Iterator[Cluster]:
    """Three primaries that go on when one of them is away, and forget nothing when they are killed."""
    with Cluster(**SPARSE) as started:
        yield started


def streaming(status: Mapping[str, Any]) -> bool:
    """It has caught up."""
    return bool(status["phase"] == "streaming")


def key_of(cluster: Cluster, node: Server, name: str = "key") -> str:
    """A key that lies on a node."""
    first, last = next(iter(cluster.owners()[node]))
    return next(f"{name}:{n}" for n in range(1000) if first <= key_slot(f"{name}:{n}".encode()) <= last)


def arrives(node: Server, source: Server, key: str, portd: Portd) -> None:
    """A write of a key comes to its node."""
    value = source.client().incr(key)
    wait_for_sync(lambda: int(Cluster.call(node, "GET", key) or 0) == value, dump=portd.log)


def burst(source: Server, key: str, megabytes: int) -> None:
    """More for one key than a node's window holds."""
    with source.client().pipeline(transaction=False) as pipe:
        for number in range(megabytes * 125):
            pipe.append(key, f"{number:08}" * (PAGE // 8))
            if number % 50 == 49:
                pipe.delete(key)
        pipe.execute()


def is_exact(status: Mapping[str, Any]) -> bool:
    """Every command that was read is counted once, and nothing is on its way."""
    stream = status["stream"]
    counted = stream["commands_applied"] + stream["commands_filtered"] + stream["commands_failed"]
    return bool(stream["commands_read"] == counted)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_others_go_on(source: Server, sparse: Cluster, how: str, number: int) -> None:
    """What others get arrives while one is away, more than windows hold comes for that one, and it has all of it in the end."""
    away = sparse.primaries[number]
    keys = {node: key_of(sparse, node) for node in sparse.primaries}
    big = key_of(sparse, away, "big")
    others = [node for node in sparse.primaries if node is not away]
    with Portd(source, sparse.url, **HASTY) as portd:
        portd.until(streaming)
        for node, key in keys.items():
            arrives(node, source, key, portd)
        away.signal(signal.SIGSTOP) if how == "stopped" else away.kill()
        with Load(source) as load:
            wait_for_sync(lambda: load.commands > 1000)
            source.client().incr(keys[away])
            burst(source, big, 8)
            for node in others:
                arrives(node, source, keys[node], portd)
            told = portd.until(lambda status: bool(status["target"]["nodes_away"]))
            wait_for_sync(lambda: load.commands > 3000)
        if how == "stopped":
            away.signal(signal.SIGCONT)
        else:
            away.start()
        portd.until_applied(source)
        status = portd.until(streaming)
        assert [each["address"] for each in told["target"]["nodes_away"]] == [f"127.0.0.1:{away.port}"]
        assert status["target"]["nodes_away"] == []
        portd.until(is_exact)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
    assert not differences(source, sparse)


def test_a_node_that_is_killed_and_portd_with_it(source: Server, sparse: Cluster) -> None:
    """Portd is killed while a node is away: a start needs all nodes, and each slot goes on from what it has."""
    away = sparse.primaries[1]
    keys = {node: key_of(sparse, node) for node in sparse.primaries}
    big = key_of(sparse, away, "big")
    with Portd(source, sparse.url, **HASTY) as portd, Load(source) as load:
        portd.until(streaming)
        for _ in range(2):
            away.kill()
            burst(source, big, 3)
            for node, key in keys.items():
                if node is not away:
                    arrives(node, source, key, portd)
            portd.kill()
            away.start()
            sparse.until_up()
            portd.start()
            portd.until(lambda status: status["stream"]["transactions"] > 0)
        load.stop()
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
    assert not differences(source, sparse)


def test_a_flush_waits_for_all(source: Server, sparse: Cluster) -> None:
    """FLUSHALL while a node is away: nothing behind it is done before that is back; then it is done once."""
    away = sparse.primaries[1]
    keys = {node: key_of(sparse, node) for node in sparse.primaries}
    with Portd(source, sparse.url, **HASTY) as portd:
        portd.until(streaming)
        for node, key in keys.items():
            arrives(node, source, key, portd)
        away.kill()
        portd.until(lambda status: bool(status["target"]["nodes_away"]))
        for node, key in keys.items():
            if node is not away:
                arrives(node, source, key, portd)
        source.client().flushall()
        for key in keys.values():
            source.client().incr(key)
        offset = int(source.client().info("replication")["master_repl_offset"])
        portd.until(lambda status: status["stream"]["read_offset"] >= offset)
        assert int(Cluster.call(sparse.primaries[0], "GET", keys[sparse.primaries[0]])) == 2
        assert portd.readyz()[0] == 503
        assert f"127.0.0.1:{away.port}" in portd.readyz()[1]
        away.start()
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(source, sparse)


def test_what_a_node_refuses_for_now_is_its_own_trouble(source: Server, sparse: Cluster) -> None:
    """A node that is out of memory is left behind while it refuses, and catches up."""
    full = sparse.primaries[2]
    keys = {node: key_of(sparse, node) for node in sparse.primaries}
    big = key_of(sparse, full, "big")
    with Portd(source, sparse.url, **HASTY) as portd:
        portd.until(streaming)
        Cluster.call(full, "CONFIG", "SET", "maxmemory", "1")
        source.client().incr(keys[full])
        burst(source, big, 4)
        for node, key in keys.items():
            if node is not full:
                arrives(node, source, key, portd)
        status = portd.until(lambda status: bool(status["target"]["nodes_away"]))
        assert "OOM" in status["target"]["nodes_away"][0]["reason"]
        Cluster.call(full, "CONFIG", "SET", "maxmemory", "0")
        portd.until_applied(source)
        assert portd.until(streaming)["target"]["nodes_away"] == []
        portd.until(is_exact)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(source, sparse)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("number", [0, 1])
def test_a_replica_takes_over(source: Server, number: int) -> None:
    """The others go on until the replica of a primary that died is promoted; then its slots go on there."""
    with Cluster(replicas=1, **SPARSE) as cluster, Portd(source, cluster.url, **HASTY) as portd:
        away = cluster.primaries[number]
        keys = {node: key_of(cluster, node) for node in cluster.primaries}
        portd.until(streaming)
        for node, key in keys.items():
            arrives(node, source, key, portd)
        with Load(source, pause=0.02) as load:
            away.kill()
            for node, key in keys.items():
                if node is not away:
                    arrives(node, source, key, portd)
            wait_for_sync(lambda: cluster.replicas[number].info("replication")["role"] == "master")
            arrives(cluster.replicas[number], source, keys[away], portd)
            wait_for_sync(lambda: load.commands > 500)
        portd.until_applied(source)
        assert portd.until(streaming)["target"]["nodes_away"] == []
        assert portd.terminate() == os.EX_OK, portd.log()
        assert not differences(source, cluster)


def test_an_outage_is_bounded_in_memory(source: Server, sparse: Cluster) -> None:
    """Far more than windows hold comes for a node that stands still: the spool takes it, and memory stays where it was."""
    away = sparse.primaries[1]
    keys = {node: key_of(sparse, node) for node in sparse.primaries}
    big = key_of(sparse, away, "big")
    with Portd(source, sparse.url, memory_budget="32MiB", **HASTY) as portd:
        portd.until(streaming)
        away.signal(signal.SIGSTOP)
        for _ in range(6):
            burst(source, big, 10)
            for node, key in keys.items():
                if node is not away:
                    arrives(node, source, key, portd)
        status = portd.until(lambda status: bool(status["target"]["nodes_away"]))
        assert status["stream"]["lag_bytes"] > 55 << 20
        away.signal(signal.SIGCONT)
        portd.until_applied(source)
        portd.until(is_exact)
        peak = memory_peak(portd)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert peak < 110 << 20, peak
    assert not differences(source, sparse)


def test_others_get_theirs_while_one_catches_up(source: Server, sparse: Cluster) -> None:
    """What a node missed takes long to be brought to it: what comes for the others meanwhile does not wait for the end of that."""
    away = sparse.primaries[1]
    keys = {node: key_of(sparse, node) for node in sparse.primaries}
    big = key_of(sparse, away, "big")
    with Portd(source, sparse.url, max_target_bytes_per_second="2MiB", **HASTY) as portd:
        portd.until(streaming)
        away.signal(signal.SIGSTOP)
        burst(source, big, 24)
        offset = int(source.client().info("replication")["master_repl_offset"])
        portd.until(
            lambda status: status["stream"]["decoded_offset"] >= offset and bool(status["target"]["nodes_away"])
        )
        away.signal(signal.SIGCONT)
        for _ in range(2):
            for node, key in keys.items():
                if node is not away:
                    arrives(node, source, key, portd)
        status = portd.status()
        assert status is not None
        assert status["target"]["nodes_away"], portd.log()
        portd.until_applied(source)
        portd.until(is_exact)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(source, sparse)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("room", [1 << 20, 8 << 20], ids=["little", "some"])
def test_a_spool_that_is_full_makes_all_wait(source: Server, sparse: Cluster, room: int) -> None:
    """When the spool has no room for what a node misses, nothing of it is let go of: all wait, and go on when it is back."""
    away = sparse.primaries[1]
    big = key_of(sparse, away, "big")
    source.client().config_set("repl-backlog-size", 256 << 20)
    with Portd(source, sparse.url, memory_budget="32MiB", spool_max_bytes=room, **HASTY) as portd:
        portd.until(streaming)
        away.signal(signal.SIGSTOP)
        burst(source, big, 30)
        portd.until(lambda status: bool(status["target"]["nodes_away"]))
        wait_for_sync(
            lambda: 'portd_spool_full{link="default"} 1' in portd.get("metrics", "text/plain"), dump=portd.log
        )
        away.signal(signal.SIGCONT)
        portd.until_applied(source)
        portd.until(is_exact)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
        assert "session ended" not in portd.log()
    assert not differences(source, sparse)


def test_random_outages(source: Server, sparse: Cluster) -> None:
    """Nodes stand still, die and come back in any order, portd is killed now and then: each slot has each command once."""
    moments = random.Random(11)
    with Portd(source, sparse.url, **HASTY) as portd, Load(source) as load:
        portd.until(streaming)
        for turn in range(10):
            away = moments.choice(sparse.primaries)
            stopped = moments.random() < 0.5
            goal = load.commands + moments.randrange(50, 800)
            away.signal(signal.SIGSTOP) if stopped else away.kill()
            wait_for_sync(lambda goal=goal: load.commands > goal)  # type: ignore[misc]
            killed = moments.random() < 0.3
            if killed:
                portd.kill()
            away.signal(signal.SIGCONT) if stopped else away.start()
            if killed:
                sparse.until_up()
                portd.start()
                portd.until(lambda status: status["stream"]["transactions"] > 0)
            elif moments.random() < 0.5:
                goal = load.commands + 200
                wait_for_sync(lambda goal=goal: load.commands > goal)  # type: ignore[misc]
            if turn % 3 == 2:
                sparse.until_up()
                source.client().flushall() if turn % 2 else source.client().function_load("#!lua name=mylib\nredis.register_function('f', function() return 1 end)", replace=True)  # fmt: skip
        load.stop()
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
    assert not differences(source, sparse)


def test_a_node_is_another_process_before_the_first_copy_begins(servers: ServerFactory) -> None:
    """While the source has not begun its snapshot a node of the target is started again: it is looked at once more."""
    source = servers(repl_diskless_sync_delay=3600)
    source.client().set("a", 1)
    with Cluster() as target, Portd(source, target.url) as portd:
        wait_for_sync(lambda: source.info("replication")["connected_slaves"] == 1)
        target.primaries[2].restart()
        target.until_up()
        source.client().config_set("repl-diskless-sync-delay", 0)
        portd.until(lambda status: bool(status["phase"] == "streaming"))
        portd.until_applied(source)
        assert not differences(source, target)
