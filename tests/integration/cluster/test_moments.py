"""What comes between two steps of a sync into a cluster: moves of slots, nodes that go back, transactions that come in parts."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from portd.config.settings import Settings
from portd.errors import TargetBusy
from portd.kernel.slots import key_slot, slot_tag
from portd.target.kept.directory import Directory
from tests.clusters import Cluster, differences
from tests.integration.test_held import ctl
from tests.process import Portd, streaming
from tests.servers import wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server


def test_a_flush_that_comes_again_spares_what_is_behind_it(source: Server, cluster: Cluster) -> None:
    """A node is restored from before a FLUSHALL: it does that once more, the others, which have what follows, do not."""
    client = source.client()
    keys = [f"key:{number}" for number in range(300)]
    client.mset(dict.fromkeys(keys, 1))
    home = cluster.owner("portd:checkpoint:{default}")
    node = next(each for each in cluster.primaries if each is not home)
    with Portd(source, cluster.url) as portd:
        portd.until(streaming)
        portd.until_applied(source)
        Cluster.call(node, "SAVE")
        client.flushall()
        for key in keys[:200]:
            client.incr(key)
        portd.until_applied(source)
        wait_for_sync(lambda: not markers(cluster))  # the floor is behind it
        node.restart(crash=True)
        cluster.until_up()
        for key in keys[100:]:
            client.incr(key)
        wait_for_sync(lambda: "went back" in portd.log(), dump=portd.log)
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
    assert not differences(source, cluster)


def test_markers_go_when_all_is_recorded(source: Server, cluster: Cluster) -> None:
    """A marker stands for records that a flush took, until they are written: it does not outlive that, however the sync ends."""
    with Portd(source, cluster.url) as portd:
        portd.until(streaming)
        for kill in (False, True):
            source.client().flushall()
            source.client().incr("a")
            wait_for_sync(lambda: cluster.get("GET", "a") == b"1")
            if kill:
                portd.kill()
            else:
                assert portd.terminate() == os.EX_OK, portd.log()
                assert not markers(cluster)
            portd.start()
            portd.until(lambda status: status["stream"]["following"])
        source.client().incr("a")
        portd.until_applied(source)
        wait_for_sync(lambda: not markers(cluster), dump=portd.log)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(source, cluster)


def markers(cluster: Cluster) -> list[bytes]:
    """Keys that say which command for all nodes one has done."""
    found: list[bytes] = []
    for node in cluster.primaries:
        client: Any = node.client()
        found += client.keys("portd:checkpoint:*:barrier")
    return found


@pytest.mark.parametrize("options", [{"include_slots": "0-16383"}, {}], ids=["slot-by-slot", "whole-nodes"])
def test_a_flush_waits_for_slots_that_move(source: Server, cluster: Cluster, options: dict[str, str]) -> None:
    """Some keys of a slot are at the new owner already when a FLUSHALL comes by: none of them is left."""
    client = source.client()
    with Portd(source, cluster.url, **options) as portd:
        portd.until(streaming)
        client.mset({f"{{x}}{number}": number for number in range(40)})
        portd.until_applied(source)
        owner = cluster.owner("{x}")
        into = next(each for each in cluster.primaries if each is not owner)

        def half() -> None:
            for number in range(20):
                Cluster.call(owner, "MIGRATE", "127.0.0.1", into.port, f"{{x}}{number}", 0, 60_000)
            client.flushall()
            client.set("{y}", 1)
            time.sleep(3)

        cluster.move_slot(key_slot(b"{x}"), into, until=half)
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
    assert not differences(source, cluster)


def test_a_slot_that_moves_during_a_full_sync(source: Server, cluster: Cluster) -> None:
    """The snapshot brought no key of it: the records of all slots are written at the owners, by a full sync more if need be."""
    source.client().mset({f"key:{number}": number for number in range(2000)})
    taken = {key_slot(f"key:{number}".encode()) for number in range(2000)}
    slot = next(each for each in range(100, 16384) if each not in taken)  # not the first of a node
    with Portd(source, cluster.url, max_target_ops=500) as portd:
        portd.until(lambda status: status["snapshot"]["keys_applied"] > 200)
        owner = cluster.owner(f"{{{slot_tag(slot)}}}")
        cluster.move_slot(slot, next(each for each in cluster.primaries if each is not owner))
        portd.until(streaming)
        source.client().set(f"{{{slot_tag(slot)}}}", 1)
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(source, cluster)


def test_a_transaction_that_comes_in_parts_is_one(source: Server, cluster: Cluster) -> None:
    """Its bytes come in several reads: a reader of the target sees all of it, or nothing."""
    stop, torn = threading.Event(), list[Any]()

    def look() -> None:
        with Wire(cluster.owner("{x}")) as wire:
            while not stop.is_set():
                first, last = wire.call("MGET", "{x}first", "{x}last")
                if first != last:
                    torn.append((first, last))

    with Portd(source, cluster.url) as portd:
        portd.until(streaming)
        reader = threading.Thread(target=look)
        reader.start()
        try:
            portd.signal(signal.SIGSTOP)
            for turn in range(100):
                with Wire(source) as wire:
                    inner = [("SET", f"{{x}}{number}", "x" * 60) for number in range(1500)]
                    wire.many([("MULTI",), ("SET", "{x}first", turn), *inner, ("SET", "{x}last", turn), ("EXEC",)])
            portd.signal(signal.SIGCONT)
            portd.until_applied(source)
        finally:
            stop.set()
            reader.join()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not torn, torn[:5]
    assert not differences(source, cluster)


def test_a_slow_flush_behind_a_library(source: Server, cluster: Cluster) -> None:
    """The marker of what all nodes have done is due to go while one is asked about its keys: the answers are not mixed up."""
    client = source.client()
    client.mset({f"key:{number}": number for number in range(300)})
    home = cluster.owner("portd:checkpoint:{default}")
    slow = next(each for each in reversed(cluster.primaries) if each is not home)
    with Portd(source, cluster.url, include_slots="0-16383") as portd:
        portd.until(streaming)
        for number in range(3):
            code = f"#!lua name=lib{number}\nredis.register_function('f{number}', function() return 1 end)"
            Cluster.call(source, "FUNCTION", "LOAD", code)
            wait_for_sync(lambda: markers(cluster))
            slow.signal(signal.SIGSTOP)
            with Wire(source) as wire:
                wire.many([("FLUSHALL",), ("SET", "a", number)])
            time.sleep(1.2)  # the floor is written once a second; a node that is silent for longer is taken for dead
            slow.signal(signal.SIGCONT)
            portd.until_applied(source)
            wait_for_sync(lambda: not markers(cluster))
        assert portd.terminate() == os.EX_OK, portd.log()
        assert "is not there" not in portd.log(), portd.log()
    assert not differences(source, cluster)


def test_a_slot_that_moves_while_a_removal_is_held(source: Server, cluster: Cluster, tmp_path: Path) -> None:
    """Ghosts of it are at another node when an operator lets them go: the full sync starts over, and they go."""
    client = source.client()
    client.mset({f"key:{number}": number for number in range(1000)})
    with Portd(source, cluster.url, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    client.delete(*(f"key:{number}" for number in range(900)))
    Cluster.call(source, "DEBUG", "CHANGE-REPL-ID")
    path = tmp_path / "control"
    with Portd(source, cluster.url, control_socket=path) as portd:
        portd.until(lambda status: status["phase"] == "held")
        owner = cluster.owner("key:1")
        cluster.move_slot(key_slot(b"key:1"), next(each for each in cluster.primaries if each is not owner))
        told = ctl("accept", "--socket", str(path))
        assert told.returncode == os.EX_OK, told.stderr
        portd.until(streaming)
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(source, cluster)


def test_a_link_is_forgotten_whole_or_not(source: Server, cluster: Cluster) -> None:
    """Records that a node does not let go of are no success, and the checkpoint stays until they are gone."""
    with Portd(source, cluster.url, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    slot = 100
    owner = cluster.owner(f"{{{slot_tag(slot)}}}")
    into = next(each for each in cluster.primaries if each is not owner)
    settings = Settings(source=source.url, target=cluster.url)

    async def forget(*, meanwhile: bool) -> None:
        async with Directory(settings, "a test") as there:
            if meanwhile:
                await asyncio.to_thread(cluster.move_slot, slot, into)
            await there.forget("default")

    with pytest.raises(TargetBusy, match="MOVED"):
        asyncio.run(forget(meanwhile=True))
    assert cluster.get("EXISTS", "portd:checkpoint:{default}") == 1
    asyncio.run(forget(meanwhile=False))
    assert cluster.get("EXISTS", "portd:checkpoint:{default}") == 0
    clients: list[Any] = [node.client() for node in cluster.primaries]
    assert all(key.endswith(b":epoch") for client in clients for key in client.keys("*"))


def test_a_slot_that_moves_between_two_nodes_of_a_command(source: Server, cluster: Cluster) -> None:
    """Its new owner gets the key that says what the old one has done, and has not done it: it does."""
    code = "#!lua name=mylib\nredis.register_function('f', function() return 1 end)"
    with Portd(source, cluster.url, connect_seconds=2) as portd:
        portd.until(streaming)
        portd.until_applied(source)
        first, _, last = cluster.primaries  # they do it in this order; the second one has the link's hash
        last.signal(signal.SIGSTOP)
        Cluster.call(source, "FUNCTION", "LOAD", code)
        name = f"portd:checkpoint:default:{{{slot_tag(0)}}}:barrier"
        wait_for_sync(lambda: Cluster.call(first, "EXISTS", name))
        portd.kill()
        last.signal(signal.SIGCONT)
        cluster.until_up()
        cluster.move_slot(key_slot(name.encode()), last)
        portd.start()
        portd.until(streaming)
        status = portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(source, cluster)
    assert not status["dead_letters"], status["dead_letters"]
