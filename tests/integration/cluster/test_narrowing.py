"""Rules that take less, taken up by a running sync into a cluster, or from one: at one place of the stream for each slot."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from portd.kernel.slots import key_slot
from tests.clusters import Cluster
from tests.integration.cluster.load import LINKS, until_applied
from tests.integration.cluster.load import streaming as all_streaming
from tests.integration.test_ctl import asked, told
from tests.process import Portd, streaming
from tests.servers import Server, wait_for_sync
from tests.wire import Wire
from tests.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAGS = tuple(f"{{t{number}}}" for number in range(24))
MOST_WRITES = 400  # of each tag in a second


@pytest.fixture(params=["server", "cluster"])
def into(request: pytest.FixtureRequest) -> Iterator[Server | Cluster]:
    """A target."""
    with Server() if request.param == "server" else Cluster() as started:
        yield started


class Load(Writer):
    """Transactions that change two keys of each kind, and of each tag, for as long as it is entered."""

    def __init__(self, source: Server | Cluster) -> None:
        super().__init__()
        self._source = source
        self.rounds = 0

    def _write(self) -> None:
        source = self._source
        wires = {tag: Wire(source if isinstance(source, Server) else source.owner(tag)) for tag in TAGS}
        while not self._stop.is_set():
            for tag in TAGS:
                inner = [("INCR", f"{kind}:{tag}{which}") for which in "xy" for kind in "ab"]
                wires[tag].many([("MULTI",), *inner, ("EXEC",)])
            self.rounds += 1
            time.sleep(1 / MOST_WRITES)
        for wire in wires.values():
            wire.close()

    def run(self, rounds: int) -> None:
        """Until so many more were written."""
        goal = self.rounds + rounds
        wait_for_sync(lambda: self.rounds >= goal)


def counters(end: Server | Cluster, tag: str) -> dict[str, int]:
    """The keys of a tag."""
    names = [f"{kind}:{tag}{which}" for kind in "ab" for which in "xy"]
    with Wire(end if isinstance(end, Server) else end.owner(tag)) as wire:
        return {name[0] + name[-1]: int(each or 0) for name, each in zip(names, wire.call("MGET", *names), strict=True)}


def assert_narrowed(source: Server | Cluster, target: Server | Cluster) -> None:
    """What is taken is equal, and what is not stands, for each slot, where one transaction had ended."""
    for tag in TAGS:
        there, here = counters(target, tag), counters(source, tag)
        assert (there["ax"], there["ay"]) == (here["ax"], here["ay"]), tag
        assert there["bx"] == there["by"] <= here["bx"], tag


def test_less_is_taken_by_a_cluster(source: Server, cluster: Cluster, tmp_path: Path) -> None:
    """Under load, without a full sync; what is left over is told, at whichever node; the next start goes on."""
    path, file = tmp_path / "socket", tmp_path / "portd.toml"
    file.write_text("")
    with Portd(source, cluster.url, control_socket=path, config=file) as portd:
        portd.until(streaming)
        with Load(source) as load:
            load.run(50)
            file.write_text('exclude = ["b:"]\n')
            (found,) = asked(path, "reload")["narrower"]
            assert found["left"] == 2 * len(TAGS)
            load.run(50)
        portd.until_applied(source)
        assert_narrowed(source, cluster)
        assert all(counters(cluster, tag)["bx"] < counters(source, tag)["bx"] for tag in TAGS)
        assert portd.until(streaming)["full_syncs"] == {"first": 1}
        assert "nothing has changed" in told(path, "reload").stdout
        file.write_text('exclude = ["c:"]\n')
        assert "exclude 'b:' is gone" in told(path, "reload", expect=1).stderr
        file.write_text('exclude = ["b:"]\n')
        assert portd.terminate() == os.EX_OK, portd.log()
        source.client().mset({"a:{t0}x": 7, "b:{t0}x": 7})
        portd.start()
        status = portd.until(lambda status: streaming(status) and status["partial_syncs"] == 1)
        assert status["full_syncs"] == {}
        portd.until_applied(source)
        assert counters(cluster, "{t0}")["ax"] == 7
        assert counters(cluster, "{t0}")["bx"] != 7
        source.client().flushall()
        portd.until_applied(source)
        assert [counters(cluster, "{t1}")[name] > 0 for name in ("ax", "bx")] == [False, True]
        assert portd.terminate() == os.EX_OK, portd.log()
        file.write_text("")
        portd.start()
        assert portd.wait() == os.EX_CONFIG
        assert "made by other rules" in portd.log()


def test_less_is_taken_while_a_node_is_away(source: Server, cluster: Cluster, tmp_path: Path) -> None:
    """Its slots get what they lack by the narrower rules, from where each of them was."""
    file = tmp_path / "portd.toml"
    file.write_text('exclude = ["c:"]\n')
    home = cluster.owner("portd:checkpoint:{default}")
    away = next(each for each in cluster.primaries if each is not home)
    with Portd(source, cluster.url, config=file) as portd:
        portd.until(streaming)
        with Load(source) as load:
            load.run(50)
            away.signal(signal.SIGSTOP)
            load.run(20)
            file.write_text('exclude = ["b:", "c:"]\n')
            portd.signal(signal.SIGHUP)
            load.run(50)
            away.signal(signal.SIGCONT)
            wait_for_sync(lambda: "the rules are narrower" in portd.log(), dump=portd.log)
            load.run(20)
        cluster.until_up()
        portd.until_applied(source)
        assert_narrowed(source, cluster)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()


def test_a_kill_while_a_cluster_takes_less(source: Server, cluster: Cluster, tmp_path: Path) -> None:
    """The checkpoint says by which rules the data was made: exactly the start with those goes on, and nothing is lost or torn."""
    chance, file = random.Random(5), tmp_path / "portd.toml"
    file.write_text("")
    wide = ""
    key = "portd:checkpoint:{default}"

    def rules_there() -> bytes:
        return bytes(cluster.get("HGET", key, "rules") or b"")

    def changed(before: bytes) -> bool:
        return rules_there() != before

    with Portd(source, cluster.url, config=file) as portd:
        with Load(source):
            for number in range(4):
                portd.until(streaming)
                before = rules_there()
                narrow = f"exclude = {json.dumps(['b:', *(f'z:{each}:' for each in range(number))])}\n"
                file.write_text(narrow)
                portd.signal(signal.SIGHUP)
                if number % 2:
                    wait_for_sync(partial(changed, before), dump=portd.log)
                else:
                    time.sleep(chance.random() * 0.1)
                portd.kill()
                taken = rules_there() != before
                file.write_text(wide if taken else narrow)
                portd.start()
                assert portd.wait() == os.EX_CONFIG, portd.log()
                wide = narrow if taken else wide
                file.write_text(wide)
                portd.start()
                status = portd.until(streaming)
                assert (status["partial_syncs"], status["full_syncs"]) == (1, {})
        assert wide
        portd.until_applied(source)
        assert_narrowed(source, cluster)
        assert portd.terminate() == os.EX_OK, portd.log()


@pytest.mark.sampled(1)
def test_a_kill_while_shards_take_less(cluster: Cluster, into: Server | Cluster, tmp_path: Path) -> None:
    """Some have taken the narrower rules up, and others have not: the start with these goes on with all of them."""
    chance, file = random.Random(6), tmp_path / "portd.toml"
    file.write_text("")
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    mixed = 0

    def digests() -> set[bytes]:
        names = [
            f"portd:checkpoint:{link}" if isinstance(into, Server) else f"portd:checkpoint:{{{link}}}" for link in LINKS
        ]
        found = set[bytes]()
        for name in names:
            with Wire(into if isinstance(into, Server) else into.owner(name)) as wire:
                told = wire.call("HGET", name, "rules") or b""
            found.add(b" ".join(each for each in told.split() if not each.startswith(b"slots=")))
        return found

    def changed(before: set[bytes]) -> bool:
        return digests() != before

    with Portd(cluster.url, into.url, config=file) as portd:
        with Load(cluster):
            wide = ""
            for number in range(4):
                portd.until(all_streaming)
                narrow = f"exclude = {json.dumps(['b:', *(f'z:{each}:' for each in range(number))])}\n"
                file.write_text(narrow)
                before = digests()
                portd.signal(signal.SIGHUP)
                if number % 2:  # as soon as one has
                    wait_for_sync(partial(changed, before), dump=portd.log)
                else:
                    time.sleep(chance.random() * 0.1)
                portd.kill()
                mixed += len(digests()) > 1
                portd.start()
                if not _went_on(portd):  # nobody had noted it
                    assert digests() == before
                    file.write_text(wide)
                    portd.start()
                else:
                    wide = narrow
                portd.until(all_streaming)
                assert len(digests()) == 1
        assert wide
        status = until_applied(portd, nodes)
        assert not any(each["full_syncs"] for each in status["links"]), portd.log()
        assert_narrowed(cluster, into)
        assert portd.terminate() == os.EX_OK, portd.log()
        if mixed:
            assert "the rules are narrower than when the sync ended" in portd.log()


def _went_on(portd: Portd) -> bool:
    """Whether a start goes on, with every link; else it is refused for its rules, of every link."""

    def phases() -> set[str]:
        status = portd.status()
        return {each["phase"] for each in status["links"]} if status is not None else set()

    def known() -> bool:
        return not portd.alive or (found := phases()) == {"streaming"} or found == {"streaming", "failed"}

    wait_for_sync(known, dump=portd.log)
    if portd.alive:
        assert phases() == {"streaming"}, portd.log()
        return True
    assert portd.wait() == os.EX_CONFIG, portd.log()
    return False


@pytest.mark.sampled(1)
def test_shards_take_less_while_slots_move(cluster: Cluster, into: Server | Cluster, tmp_path: Path) -> None:
    """Neither change undoes the other one."""
    file, path = tmp_path / "portd.toml", tmp_path / "socket"
    file.write_text("")
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with Portd(cluster.url, into.url, config=file, control_socket=path) as portd:
        portd.until(all_streaming)
        with Load(cluster) as load:
            load.run(50)
            load.stop()
            slot = key_slot(b"{t0}")
            owner = cluster.owner("{t0}")
            node = next(each for each in cluster.primaries if each is not owner)

            def narrow() -> None:
                file.write_text('exclude = ["b:"]\n')
                answer = asked(path, "reload")
                assert len(answer["narrower"]) == len(LINKS)
                assert not any("error" in each for each in answer["narrower"])

            cluster.move_slot(slot, node, until=narrow)
        with Load(cluster) as load:
            load.run(50)
        until_applied(portd, nodes)
        assert_narrowed(cluster, into)
        assert all(counters(into, tag)["bx"] < counters(cluster, tag)["bx"] for tag in TAGS[1:])
        assert portd.terminate() == os.EX_OK, portd.log()
        portd.start()
        portd.until(all_streaming)
        status = until_applied(portd, nodes)
        assert not any(each["full_syncs"] for each in status["links"]), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
