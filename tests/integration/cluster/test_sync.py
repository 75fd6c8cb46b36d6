"""A standalone source into a cluster of three: everything arrives, each command once, whatever is killed."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from portd.kernel.slots import key_slot, slot_tag
from tests.clusters import Cluster, differences
from tests.commands import run
from tests.datasets import fill_every_encoding
from tests.process import Portd
from tests.servers import binaries, wait_for_sync
from tests.wire import Wire
from tests.writer import Writer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Binary, Server

NAMES = 200


class Load(Writer):
    """Writes to a source what shows a command that is missing or comes twice; a context manager.

    Args:
        source: is written to.
        seed: of what is written.
        pause: seconds between two pipelines.
    """

    def __init__(self, source: Server, seed: int = 1, pause: float = 0.002) -> None:
        super().__init__()
        self._source = source
        self._random = random.Random(seed)
        self._pause = pause

    def _write(self) -> None:
        with Wire(self._source) as wire:
            wire.many([("CONFIG", "SET", "repl-backlog-size", 256 << 20)])  # however slowly the machine follows
            while not self._stop.is_set():
                batch = [self._one() for _ in range(self._random.randint(1, 40))]
                if self._random.random() < 0.2:
                    batch = [("MULTI",), *batch, ("EXEC",)]
                wire.many(batch)
                self.commands += len(batch)
                time.sleep(self._pause)

    def _one(self) -> tuple[Any, ...]:
        number = self._random.randrange(NAMES)
        pairs = (word for each in range(3) for word in (f"m:{(number + each) % NAMES}", self.commands))
        choices: list[tuple[Any, ...]] = [
            ("RPUSH", f"list:{number}", self.commands),
            ("XADD", f"stream:{number}", "MAXLEN", "1000", "*", "n", self.commands),
            ("APPEND", f"text:{number}", "x"),
            ("MSET", *pairs),
            ("HINCRBY", f"hash:{number}", "n", 1),
            ("LPOP", f"list:{number}"),
            ("DEL", f"text:{number}", f"m:{number}", f"list:{number}") if number < 20 else ("INCR", "all"),
            ("INCR", f"counter:{number}"),
        ]
        return self._random.choice(choices)


def clusterable(binary: Binary) -> bool:
    """Versions of which clusters are tested: two of each family are enough."""
    return binary.at_least(redis=(6, 2), valkey=(9, 0))


@pytest.mark.parametrize("server", [each for each in binaries() if clusterable(each)], ids=lambda each: each.name)
def test_every_encoding_and_a_stream_arrive(server: Binary, servers: Any) -> None:
    """Into clusters of any version: the snapshot, keys in parts, function libraries, and what is written behind it."""
    source = servers(server)
    fill_every_encoding(source)
    client = source.client()
    for db in range(1, 16):
        source.client(db).flushdb()
    client.rpush("big:list", *range(200_000))
    client.set("big:text", os.urandom(3_000_000))
    client.hset("big:hash", mapping={f"f{number}": "v" * 20 for number in range(50_000)})
    with Cluster(server) as cluster, Portd(source, cluster.url) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        with Load(source) as load:
            wait_for_sync(lambda: load.commands > 3000)
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert not differences(source, cluster)


@pytest.mark.parametrize("kills", [3, pytest.param(12, marks=pytest.mark.deep)])
def test_killed_at_random_moments_each_command_is_applied_once(source: Server, cluster: Cluster, kills: int) -> None:
    """SIGKILL at any moment of the stream: the next start goes on, and every counter, list and stream is exact."""
    moments = random.Random(4)
    with Portd(source, cluster.url) as portd, Load(source) as load:
        portd.until(lambda status: status["phase"] == "streaming")
        for _ in range(kills):
            time.sleep(moments.random() * 0.7)
            portd.kill()
            portd.start()
            portd.until(lambda status: status["stream"]["transactions"] > 0)
        load.stop()
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        log = portd.log()
    assert log.count('event="full sync"') == 1
    assert not differences(source, cluster)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", [(), ("FORCE",), ("TAKEOVER",)], ids=["orderly", "force", "takeover"])
def test_failovers_of_the_target_are_followed(source: Server, how: tuple[str, ...]) -> None:
    """A replica of each shard is promoted under load: nothing is lost that it had, nothing comes twice."""
    with Cluster(replicas=1) as cluster, Portd(source, cluster.url) as portd, Load(source) as load:
        portd.until(lambda status: status["phase"] == "streaming")
        for replica in cluster.replicas:
            cluster.until_up()
            cluster.fail_over(replica, *how)
            time.sleep(0.3)
        load.stop()
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert not differences(source, cluster)


def test_a_primary_that_dies_is_replaced(source: Server) -> None:
    """A primary is killed: its slots wait for the replica, and go on there."""
    with Cluster(replicas=1) as cluster, Portd(source, cluster.url) as portd, Load(source, pause=0.02) as load:
        portd.until(lambda status: status["phase"] == "streaming")
        cluster.primaries[1].kill()
        wait_for_sync(lambda: cluster.replicas[1].info("replication")["role"] == "master")
        load.stop()
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert not differences(source, cluster)


def test_slots_that_move_are_waited_for(source: Server, cluster: Cluster) -> None:
    """While a slot moves nothing is written; behind it the stream goes on at the new owner, and each command is there once."""
    said: list[str] = []
    with Portd(source, cluster.url) as portd, Load(source) as load:
        portd.until(lambda status: status["phase"] == "streaming")

        def half() -> None:
            source.client().incr(f"{{counter:{len(said)}}}:new")  # the old owner has not got it: it says ASK
            portd.until(lambda status: "on their way" in json.dumps(status))
            said.append("held")

        for number in range(3):
            slot = key_slot(f"counter:{number}".encode())
            owner = cluster.owner(f"counter:{number}")
            into = next(node for node in cluster.primaries if node is not owner)
            cluster.move_slot(slot, into, until=half)
        load.stop()
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert said == ["held"] * 3
    assert not differences(source, cluster)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("command", [("FLUSHALL",), ("FLUSHDB", "ASYNC")], ids=["flushall", "flushdb"])
def test_a_flush_empties_every_node_once(source: Server, cluster: Cluster, command: tuple[str, ...]) -> None:
    """A flush in the stream is done by all nodes before anything behind it is, once each, however often portd is killed."""
    with Portd(source, cluster.url) as portd, Load(source) as load:
        portd.until(lambda status: status["phase"] == "streaming")
        for _ in range(3):
            with Wire(source) as wire:
                wire.many(
                    [
                        ("SET", "before", 1),
                        command,
                        ("INCR", "behind"),
                        ("MULTI",),
                        ("INCR", "behind"),
                        command,
                        ("INCR", "behind"),
                        ("EXEC",),
                    ]
                )
            portd.kill()
            portd.start()
            portd.until(lambda status: status["stream"]["transactions"] > 0)
        load.stop()
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1
    assert not differences(source, cluster)
    assert int(cluster.get("GET", "behind")) == 1


def test_function_libraries_go_to_every_node(source: Server, cluster: Cluster) -> None:
    """FUNCTION commands of the stream are done on each node."""
    code = "#!lua name=mylib\nredis.register_function('f', function() return 1 end)"
    with Portd(source, cluster.url) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        Cluster.call(source, "FUNCTION", "LOAD", code)
        Cluster.call(source, "FUNCTION", "LOAD", code.replace("mylib", "other").replace("'f'", "'g'"))
        Cluster.call(source, "FUNCTION", "DELETE", "other")
        portd.until_applied(source)
        assert not differences(source, cluster)


def test_what_cannot_be_cut_nor_copied_is_told(source: Server, cluster: Cluster) -> None:
    """Commands over several slots that are larger than a piece, and are not taken apart, have a code of their own."""
    with Portd(source, cluster.url) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        with Wire(source) as wire:
            wire.many(
                [
                    ("MSET", "a", 1, "b", 2, "c", 3, "d", 4),
                    ("DEL", "a", "b", "nothing"),
                    ("RENAME", "c", "e"),
                    ("RENAME", "{d}1", "{d}2"),
                ],
                errors=True,
            )
            wire.many([("SET", "{d}1", 1), ("RENAME", "{d}1", "{d}2"), ("MSETNX", "f", 1, "g", 2), ("SADD", "s", 1)])
            wire.call("SUNIONSTORE", "t", "s", *(f"nothing:{number}:{'x' * 100}" for number in range(3000)))
        portd.until_applied(source)
        portd.until(lambda status: status["stream"]["keys_owed"] == 0)
        status = portd.until_applied(source)
    assert status["dead_letters"] == {"cross_slot": 1}
    assert {key for _, key in cluster.contents()} == {b"d", b"e", b"{d}2", b"f", b"g", b"s"}


def test_another_database_is_refused(source: Server, cluster: Cluster) -> None:
    """Keys of other databases than 0 become dead letters; with --on-refusal stop the sync does not begin."""
    source.client(3).set("a", 1)
    source.client().set("b", 1)
    with Portd(source, cluster.url, on_refusal="stop") as portd:
        assert portd.wait() == os.EX_CONFIG, portd.log()
    with Portd(source, cluster.url) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        source.client(3).incr("a")
        source.client().incr("b")
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK
    with Portd(source, cluster.url) as portd:  # the database that is in effect is known again
        portd.until(lambda status: status["stream"]["following"])
        source.client(3).incr("a")
        portd.until_applied(source)
    assert {key for _, key in cluster.contents()} == {b"b"}
    assert cluster.get("GET", "b") == b"2"


def test_a_source_with_another_history_is_known_by_its_keys(source: Server, cluster: Cluster) -> None:
    """Another process at its address: its keys are looked for at the nodes that have them, and nothing is held."""
    client = source.client()
    for number in range(300):
        client.set(f"key:{number}", number)
    with Portd(source, cluster.url, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    for _ in range(2):  # what it was before is forgotten
        Cluster.call(source, "DEBUG", "CHANGE-REPL-ID")
    client.save()
    source.kill()
    source.start()
    with Portd(source, cluster.url, stop_after="caught-up") as portd:
        wait_for_sync(lambda: not portd.alive or "held: nothing" in portd.log())
        assert not portd.alive, portd.log()
        assert portd.wait() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1
    assert not differences(source, cluster)


def test_a_full_sync_removes_what_the_source_deleted(source: Server, cluster: Cluster) -> None:
    """Ghosts go from every node when a snapshot is taken again."""
    client = source.client()
    client.mset({f"key:{number}": number for number in range(30_000)})
    with Portd(source, cluster.url, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    client.delete(
        *(f"key:{number}" for number in range(0, 30_000, 20))
    )  # many more than are compared apart from each other
    Cluster.call(source, "DEBUG", "CHANGE-REPL-ID")
    with Portd(source, cluster.url, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    assert not differences(source, cluster)


def test_taking_over_ends_whoever_wrote_before(source: Server, cluster: Cluster) -> None:
    """Of two processes on one link only the later one goes on, and each command is there once."""
    with Portd(source, cluster.url) as first, Load(source) as load:
        first.until(lambda status: status["phase"] == "streaming")
        with Portd(source, cluster.url) as refused:
            assert refused.wait() == os.EX_TEMPFAIL
        for _ in range(3):
            first.signal(signal.SIGSTOP)
            with Portd(source, cluster.url, takeover=True) as second:
                second.until(lambda status: status["stream"]["transactions"] > 3)
                first.signal(signal.SIGCONT)
                assert first.wait() == os.EX_TEMPFAIL, first.log()
                second.until(lambda status: status["stream"]["transactions"] > 30)
                second.kill()
            first.start()
            first.until(lambda status: status["stream"]["transactions"] > 3)
        load.stop()
        first.until_applied(source)
    assert not differences(source, cluster)


def test_a_cluster_that_is_not_empty_is_refused(source: Server, cluster: Cluster) -> None:
    """Foreign data on any node keeps a sync from beginning."""
    cluster.get("SET", "foreign", 1)
    with Portd(source, cluster.url) as portd:
        assert portd.wait() == os.EX_CONFIG
        assert "is not empty" in portd.log()
    with Portd(source, cluster.url, existing="flush", stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    assert not list(cluster.contents())


def test_wrong_urls_are_told(source: Server, cluster: Cluster) -> None:
    """A node under a plain URL, and a server under a cluster's: each says what to write instead."""
    cases = [
        (source.url, cluster.primaries[0].url, "redis+cluster://"),
        (source.url, source.url.replace("redis://", "redis+cluster://"), "redis://host:port"),
        (cluster.primaries[0].url, source.url, "redis+cluster://"),
    ]
    for one, other, hint in cases:
        with Portd(one, other) as portd:
            assert portd.wait() == os.EX_CONFIG, portd.log()
            assert hint in portd.log()


def test_a_kill_between_two_nodes_of_a_flush(source: Server, cluster: Cluster) -> None:
    """Of what concerns all nodes, some have done it when portd is killed: the others do it at the next start, and nobody twice."""
    code = "#!lua name=mylib\nredis.register_function('f', function() return 1 end)"
    keys = [f"key:{number}" for number in range(300)]
    client = source.client()
    client.mset(dict.fromkeys(keys, 1))
    with Portd(source, cluster.url, connect_seconds=2) as portd:
        for command in (("FLUSHALL",), ("FUNCTION", "LOAD", code), ("FUNCTION", "DELETE", "mylib")):
            portd.until(lambda status: status["stream"]["following"])
            portd.until_applied(source)
            first, _, last = cluster.primaries  # they do it in this order
            cluster.call(last, "CLIENT", "PAUSE", 100_000, "WRITE")  # it answers what it is asked
            with Wire(source) as wire:
                wire.call(*command)
            marker = f"portd:checkpoint:default:{{{slot_tag(0)}}}:barrier"
            home = cluster.owner("portd:checkpoint:{default}")
            name = "portd:checkpoint:{default}:barrier" if home is first else marker
            wait_for_sync(functools.partial(Cluster.call, first, "EXISTS", name))
            portd.kill()
            cluster.call(last, "CLIENT", "UNPAUSE")
            client.mset(dict.fromkeys(keys, 1))
            portd.start()
        status = portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
    assert not status["dead_letters"], status["dead_letters"]
    assert not differences(source, cluster)


def test_a_sync_into_a_cluster_compares_by_itself(source: Server, cluster: Cluster, tmp_path: Path) -> None:
    """Both ends are equal; a key that differs is found on its node, and named."""
    source.client().mset({f"key:{number}": number for number in range(200)})
    with Portd(source, cluster.url, verify_every=0.3, spool_dir=tmp_path) as portd:
        portd.until(lambda status: status["verify"]["runs"].get("equal", 0) > 0)
        cluster.get("SET", "extra", 1)
        portd.until(lambda status: status["verify"]["runs"].get("different", 0) > 0)
        assert "key='extra'" in portd.log(), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()


def test_slots_that_have_what_the_source_lost(source: Server, servers: ServerFactory, cluster: Cluster) -> None:
    """Behind a failover that lost writes, a start from the floor is given the new history: these slots would miss as much of it."""
    replica = servers()
    replica.client().replicaof("127.0.0.1", str(source.port))
    wait_for_sync(lambda: replica.info("replication")["master_link_status"] == "up")
    with Portd(source, cluster.url) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        source.client().incr("counter")
        portd.until_applied(source)
        wait_for_sync(lambda: replica.client().get("counter") == b"1")
        replica.client().replicaof("NO", "ONE")
        floor = int(replica.info("replication")["second_repl_offset"]) - 1
        for _ in range(50):
            source.client().incr("counter")
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
    cluster.get("HSET", "portd:checkpoint:{default}", "offset", floor)  # as if it had been killed before it wrote that
    for _ in range(50):
        replica.client().decr("counter")
    with Portd(replica, cluster.url, accept_source=True) as portd:
        portd.until_applied(replica)
        assert "the source lost in a failover" in portd.log(), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(replica, cluster)


def test_a_full_sync_of_which_one_node_knows_nothing(source: Server, cluster: Cluster, tmp_path: Path) -> None:
    """A replica that lacks the last writes takes the place of the node that has the link's hash, and portd is killed: it is copied again."""
    path, lists = tmp_path / "control", [f"list:{number}" for number in range(200)]
    key = "portd:checkpoint:{default}"
    with Portd(source, cluster.url, control_socket=path, max_target_bytes_per_second="512KiB") as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        had = cluster.get("DUMP", key)
        pipe = source.client().pipeline(transaction=False)
        for number in range(3000):
            pipe.rpush(lists[number % len(lists)], b"x" * 1000)
        pipe.execute()
        run("ctl", "full-sync", "--socket", path, "--yes")
        portd.until(lambda status: status["phase"] == "snapshot" and status["snapshot"]["keys_applied"] > 0)
        portd.kill()
        assert cluster.get("HGET", key, "state") == b"snapshot"
        cluster.get("RESTORE", key, 0, had, "REPLACE")  # what a replica would have
    with Portd(source, cluster.url) as portd:
        portd.until_applied(source)
        portd.until(lambda status: status["phase"] == "streaming")
        assert "a part of a snapshot" in portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(source, cluster)
