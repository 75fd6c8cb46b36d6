"""From one cluster into another: a link for each shard of the source, each with the records of its own slots."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.cluster import RedisCluster

from portd.kernel.slots import key_slot, slot_tag
from tests.clusters import Cluster, differences
from tests.integration.cluster.load import LINKS, Load, Loads, fill, primaries, streaming, until_applied
from tests.process import Portd
from tests.servers import Server, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBRARY = "#!lua name=mylib\nredis.register_function('f', function() return 1 end)"
AGAIN = {"on_rules_change": "full-sync", "existing": "replace", "prune": "prune"}


@pytest.fixture
def into() -> Iterator[Cluster]:
    """Two empty primaries: slots of the second of three shards lie on both."""
    with Cluster(primaries=2) as started:
        yield started


def records(cluster: Cluster) -> dict[str, list[int]]:
    """Slots of the records that each link has."""
    found: dict[str, list[int]] = {}
    for node in cluster.owners():
        client: Any = node.client()
        for key in client.scan_iter(match="portd:checkpoint:*", count=1000):
            if match := re.fullmatch(rb"portd:checkpoint:([^{}]+):\{\d+\}", key):
                found.setdefault(match[1].decode(), []).append(key_slot(key))
    return found


def test_each_shard_has_its_own_slots(cluster: Cluster, into: Cluster) -> None:
    """Snapshots and streams of all shards arrive, each command once, through SIGKILL at any moment."""
    fill(cluster)
    with Wire(cluster.owner("big")) as wire:
        wire.call("RPUSH", "big", *range(100_000))
        wire.call("APPEND", "{big}text", "x" * 3_000_000)
    moments = random.Random(7)
    with Portd(cluster.url, into.url) as portd, Loads(cluster) as loads:
        portd.until(streaming)
        for _ in range(4):
            loads.run(10)
            time.sleep(moments.random() * 0.5)
            portd.kill()
            loads.run(10)
            portd.start()
            portd.until(streaming)
        loads.stop()
        status = until_applied(portd, primaries(cluster))
        assert [each["link"] for each in status["links"]] == list(LINKS)
        assert not any(each["dead_letters"] for each in status["links"])
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 3
    assert not differences(cluster, into)
    assert {link: (min(slots), max(slots), len(slots)) for link, slots in records(into).items()} == {
        "default.0": (0, 5460, 5461),
        "default.5461": (5461, 10921, 5461),
        "default.10922": (10922, 16383, 5462),
    }
    words = [sys.executable, "-m", "portd", "status", "--target", into.url, "--json"]
    told = subprocess.run(words, capture_output=True, text=True, check=True)
    assert [(each["link"], each["checkpoint"]["state"]) for each in json.loads(told.stdout)["links"]] == [
        (link, "stream") for link in LINKS
    ]


def test_a_flush_of_one_shard_empties_its_slots(cluster: Cluster, into: Cluster) -> None:
    """FLUSHALL at one primary is that of its slots, once, whenever portd is killed; others go on meanwhile."""
    fill(cluster)
    with Portd(cluster.url, into.url) as portd, Loads(cluster) as loads:
        portd.until(streaming)
        for command in (("FLUSHALL",), ("FLUSHDB", "ASYNC"), ("FLUSHALL",)):
            loads.run(10)
            Cluster.call(cluster.primaries[1], *command)
            portd.kill()
            portd.start()
            portd.until(streaming)
        loads.stop()
        status = until_applied(portd, primaries(cluster))
        assert not any(each["dead_letters"] for each in status["links"])
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 3
    assert not differences(cluster, into)


def test_a_kill_between_two_nodes_of_a_flush(cluster: Cluster, into: Cluster) -> None:
    """One node has emptied the slots of a shard when portd is killed: the next start empties the other, and no key of what follows."""
    fill(cluster)
    with Portd(cluster.url, into.url, connect_seconds=2) as portd:
        portd.until(streaming)
        until_applied(portd, primaries(cluster))
        first, last = into.primaries
        Cluster.call(last, "CLIENT", "PAUSE", 100_000, "WRITE")  # it answers what it is asked
        lost = [key for key in shard_keys(cluster, 1) if 5461 <= key_slot(key) <= 8191]
        Cluster.call(cluster.primaries[1], "FLUSHALL")
        wait_for_sync(lambda: not any(Cluster.call(first, "EXISTS", key) for key in lost), dump=portd.log)
        portd.kill()
        Cluster.call(last, "CLIENT", "UNPAUSE")
        with Load(cluster, cluster.primaries[1]) as load:
            wait_for_sync(lambda: load.commands > 20)
        portd.start()
        portd.until(streaming)
        until_applied(portd, primaries(cluster))
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 3, portd.log()
    assert lost
    assert not differences(cluster, into)


def is_primary(node: Server) -> bool:
    """It says so."""
    return bool(node.info("replication")["role"] == "master")


def shard_keys(cluster: Cluster, number: int) -> list[bytes]:
    """All keys of a primary."""
    client: Any = cluster.primaries[number].client()
    return list(client.keys("*"))


def test_libraries_of_every_shard_are_loaded_once(cluster: Cluster, into: Cluster) -> None:
    """An operator loads a library at each primary, replaces and deletes it there: every node of the target has the same, and no dead letters."""
    with Portd(cluster.url, into.url) as portd:
        portd.until(streaming)
        for command in (
            ("LOAD", LIBRARY),
            ("LOAD", "REPLACE", LIBRARY.replace("1", "2")),
            ("LOAD", LIBRARY.replace("mylib", "other").replace("'f'", "'g'")),
            ("DELETE", "other"),
        ):
            for node in cluster.primaries:
                Cluster.call(node, "FUNCTION", *command)
        status = until_applied(portd, primaries(cluster))
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not any(each["dead_letters"] for each in status["links"]), [each["dead_letters"] for each in status["links"]]
    assert not differences(cluster, into)
    assert b"mylib" in repr(Cluster.call(into.primaries[0], "FUNCTION", "LIST")).encode()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", [(), ("FORCE",), ("TAKEOVER",)], ids=["orderly", "force", "takeover"])
def test_failovers_of_both_sides_are_followed(how: tuple[str, ...]) -> None:
    """A replica of each shard is promoted under load, at the source and at the target: nothing is lost, nothing comes twice."""
    with Cluster(replicas=1) as source, Cluster(primaries=2, replicas=1) as target:
        fill(source)
        with Portd(source.url, target.url) as portd, Loads(source) as loads:
            portd.until(streaming)
            for cluster, replica in [(each, node) for each in (source, target) for node in each.replicas]:
                cluster.until_up()
                loads.run(10)
                cluster.fail_over(replica, *how)
            loads.run(20)
            loads.stop()
            source.until_up()
            status = until_applied(portd, primaries(source))
            if not how:
                assert [each["full_syncs"] for each in status["links"]] == [{"first": 1}] * 3
            assert portd.terminate() == os.EX_OK, portd.log()
        assert not differences(source, target)


def test_primaries_that_die_are_replaced() -> None:
    """One of each side is killed: its slots wait for the replica and go on there, also of a portd that is killed then."""
    with Cluster(replicas=1) as source, Cluster(replicas=1) as target:  # of two primaries none could vote
        fill(source)
        with Portd(source.url, target.url) as portd, Loads(source) as loads:
            portd.until(streaming)
            loads.run(20)
            for cluster in (target, source):
                cluster.primaries[1].kill()
                wait_for_sync(functools.partial(is_primary, cluster.replicas[1]))
                portd.kill()
                portd.start()
            loads.run(20)
            loads.stop()
            portd.until(streaming)
            until_applied(portd, primaries(source))
            assert portd.terminate() == os.EX_OK, portd.log()
        assert not differences(source, target)


def test_one_shard_alone_is_copied_again(cluster: Cluster, into: Cluster) -> None:
    """A primary that lost its history is copied again: its ghosts go, nothing of other slots does."""
    fill(cluster)
    with Portd(cluster.url, into.url, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    gone = sorted(shard_keys(cluster, 1))[:5]
    others = next(f"foreign:{n}" for n in range(1000) if key_slot(f"foreign:{n}".encode()) < 5461)
    ghost = next(f"foreign:{n}" for n in range(1000) if 5461 <= key_slot(f"foreign:{n}".encode()) < 10922)
    into.get("SET", others, 1)
    into.get("SET", ghost, 1)
    for key in gone:
        cluster.get("DEL", key)
    Cluster.call(cluster.primaries[1], "DEBUG", "CHANGE-REPL-ID")
    with Portd(cluster.url, into.url) as portd, Loads(cluster) as loads:
        status = portd.until(streaming)
        assert [each["full_syncs"] for each in status["links"]] == [{}, {"backlog": 1}, {}]
        loads.run(10)
        loads.stop()
        until_applied(portd, primaries(cluster))
        assert portd.terminate() == os.EX_OK, portd.log()
    assert into.get("DEL", others) == 1
    assert not differences(cluster, into)


def test_a_marker_of_another_history_keeps_nothing_back(source: Server, cluster: Cluster) -> None:
    """What a node did at a higher position of the history before does not stand for what comes: a flush is a flush."""
    client = source.client()
    client.set("a", 1)
    with Portd(source, cluster.url, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    tags = [f"{{{slot_tag(first)}}}" for first in (0, 5461, 10922)]
    for name in ("{default}:barrier", *(f"default:{tag}:barrier" for tag in tags)):
        cluster.get("SET", f"portd:checkpoint:{name}", f"old 0:{1 << 40}")
    Cluster.call(source, "DEBUG", "CHANGE-REPL-ID")
    with Portd(source, cluster.url) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        client.flushall()
        client.set("b", 1)
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(source, cluster)


def test_a_client_of_clusters_works_on_both_sides(cluster: Cluster, into: Cluster) -> None:
    """redis-py writes at the source and reads at the target during the snapshot, the stream, a kill of portd and a flush of one shard."""
    with (
        RedisCluster("127.0.0.1", cluster.primaries[0].port) as writer,
        RedisCluster("127.0.0.1", into.primaries[0].port) as reader,
    ):
        fill(cluster)
        with Portd(cluster.url, into.url) as portd:
            written = 0

            def write() -> None:
                nonlocal written
                for _ in range(200):
                    written += 1
                    key = f"key:{written % 500}"
                    writer.rpush(key, written)
                    writer.incr("counter")
                    writer.mset_nonatomic({f"m:{written}": written, f"n:{written}": written})
                    seen = reader.lrange(key, 0, -1)
                    assert seen == sorted(set(seen), key=int), (key, seen)  # each once, in their order

            write()
            portd.until(streaming)
            for _ in range(2):
                write()
                portd.kill()
                write()
                portd.start()
            portd.until(streaming)
            Cluster.call(cluster.primaries[1], "FLUSHALL")
            write()
            until_applied(portd, primaries(cluster))
            assert reader.get("counter") == writer.get("counter")
            assert portd.terminate() == os.EX_OK, portd.log()
        assert not differences(cluster, into)


def test_memory_and_connections_are_bounded(cluster: Cluster, into: Cluster) -> None:
    """Three shards are copied and followed in the memory of one link; each has the connections to the target that are told."""
    for node in cluster.primaries:
        tag = next(f"{{t{n}}}" for n in range(1000) if cluster.owner(f"{{t{n}}}") is node)
        with Wire(node) as wire:
            for number in range(40):
                wire.call("RPUSH", f"{tag}{number}", *(f"{number}:{each}:" + "x" * 100 for each in range(10_000)))
    with Portd(cluster.url, into.url, writers=4) as portd, Loads(cluster) as loads:
        most = 0
        while not streaming(portd.until(lambda status: bool(status["links"]))):
            most = max(most, connections(into))
        loads.run(50)
        told = connections(into)
        loads.stop()
        until_applied(portd, primaries(cluster))
        peak = memory_peak(portd)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert most <= 3 * (4 + 4)
    assert (
        told <= 4 + 3 * 2
    )  # a link one for each node that has slots of its shard; one for its lease, one now and then
    assert peak < 100 << 20, peak
    assert not differences(cluster, into)


def connections(cluster: Cluster) -> int:
    """Ours to a target."""
    return sum(Cluster.call(node, "CLIENT", "LIST").count(b"name=portd-") for node in cluster.primaries)


def memory_peak(portd: Portd) -> int:
    """Highest resident set of the process so far, in bytes; proc(5), status."""
    told = Path(f"/proc/{portd.process.pid}/status").read_text()
    return int(told.partition("VmHWM:")[2].split()[0]) * 1024


def test_a_shard_that_came_back_empty_is_held(cluster: Cluster, into: Cluster) -> None:
    """A primary lost its data: its link waits for an operator, and the target keeps what it has. The others go on."""
    fill(cluster)
    with Portd(cluster.url, into.url) as portd:
        portd.until(streaming)
        until_applied(portd, primaries(cluster))
        before = len(list(into.contents()))
        cluster.primaries[1].restart(crash=True)
        cluster.until_up()
        status = portd.until(lambda status: status["links"][1]["held"] is not None)
        assert [each["phase"] for each in status["links"]] == ["streaming", "held", "streaming"]
        cluster.get("SET", next(key for key in ("a", "b", "c") if cluster.owner(key) is not cluster.primaries[1]), 1)
        wait_for_sync(lambda: len(list(into.contents())) == before + 1, dump=portd.log)
        assert portd.terminate() == os.EX_OK, portd.log()


def test_taking_over_ends_whoever_wrote_before(cluster: Cluster, into: Cluster) -> None:
    """Of two processes only the later one goes on with any shard, and each command is there once."""
    fill(cluster)
    with Portd(cluster.url, into.url) as first, Loads(cluster) as loads:
        first.until(streaming)
        with Portd(cluster.url, into.url) as refused:
            assert refused.wait() == os.EX_TEMPFAIL, refused.log()
        first.signal(signal.SIGSTOP)
        with Portd(cluster.url, into.url, takeover=True) as second:
            second.until(streaming)
            loads.run(10)
            first.signal(signal.SIGCONT)
            assert first.wait() == os.EX_TEMPFAIL, first.log()
            loads.run(10)
            loads.stop()
            status = until_applied(second, primaries(cluster))
            assert not any(each["full_syncs"] for each in status["links"])
            assert second.terminate() == os.EX_OK, second.log()
    assert not differences(cluster, into)


def test_a_start_says_what_may_make_copies(cluster: Cluster, source: Server) -> None:
    """How often commands of several keys were called that cannot be cut by slot; of a source without any nothing is said."""
    source.client().set("one", 1)
    words = "commands in use may have keys in several slots"
    with Portd(source, cluster.url, stop_after="snapshot") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
        assert words not in portd.log()
    client = source.client()
    client.rename("one", "other")
    client.rename("other", "one")
    client.mset({"a": 1, "b": 2})
    with Portd(source, cluster.url, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
        assert words in portd.log()
        assert "rename (2): 2 of" in portd.log()
