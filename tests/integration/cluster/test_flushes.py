"""FLUSHALL and CLUSTER FLUSHSLOT at a node of a cluster that is the source, also while slots are on their way to or from it."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from portd.kernel.slots import key_slot, slot_tag
from tests.clusters import Cluster, differences
from tests.commands import run
from tests.integration.cluster.load import LINKS, fill, streaming, until_applied
from tests.integration.cluster.moves import RoamingLoad
from tests.integration.cluster.test_moves import MOVING, until_settled
from tests.process import Portd
from tests.servers import Server
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TAG = "{x}"
SLOT = key_slot(b"{x}")
COUNT = 40
FLUSHSLOT = ("CLUSTER", "FLUSHSLOT", SLOT)


@pytest.fixture(params=["server", "cluster"])
def into(request: pytest.FixtureRequest) -> Iterator[Server | Cluster]:
    """A target."""
    with Server() if request.param == "server" else Cluster() as started:
        yield started


class Move:
    """A slot between two nodes: half of its keys are there.

    Args:
        cluster: has it.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.giver = cluster.owner(TAG)
        self.taker = next(each for each in cluster.primaries if each is not self.giver)
        with Wire(self.giver) as wire:
            wire.many([("SET", f"{TAG}{number}", number) for number in range(COUNT)])

    def half(self) -> None:
        """Half of the keys go."""
        for number in range(0, COUNT, 2):
            self.cluster.call(self.giver, "MIGRATE", "127.0.0.1", self.taker.port, f"{TAG}{number}", 0, 60_000)

    def born(self) -> None:
        """Keys of the slot are born at the taker, some with names that the giver had."""
        with Wire(self.taker) as wire:
            for number in range(COUNT):
                wire.many([("ASKING",), ("INCR", f"{TAG}{number}"), ("ASKING",), ("INCR", f"{TAG}new{number}")])

    def run(self, work: Callable[[], object]) -> None:
        """Moves the slot; *work* is done in between, when half of the keys are there."""

        def between() -> None:
            self.half()
            work()

        self.cluster.move_slot(SLOT, self.taker, until=between)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("words", [("FLUSHALL",), FLUSHSLOT], ids=["all", "slot"])
@pytest.mark.parametrize("where", ["giver", "taker", "both"])
def test_a_flush_in_the_middle_of_a_move(
    cluster: Cluster, into: Server | Cluster, where: str, words: tuple[str | int, ...]
) -> None:
    """It removes what the node has at that moment, also of the slot that is on its way, and nothing that others have."""
    fill(cluster)
    move = Move(cluster)
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with Portd(cluster.url, into.url) as portd, RoamingLoad(cluster, MOVING) as load:
        portd.until(streaming)
        load.run()

        def flush() -> None:
            until_applied(portd, nodes)
            for node, name in (move.giver, "giver"), (move.taker, "taker"):
                if where in {name, "both"}:
                    cluster.call(node, *words)
            if where != "taker":  # else the giver has some of them
                move.born()
            load.run(20)
            until_applied(portd, nodes)  # nothing waits for the end of the move

        move.run(flush)
        until_settled(portd, into, cluster)
        load.run()
        load.stop()
        portd.until(streaming)
        status = until_applied(portd, nodes)
        assert not any(each["dead_letters"] for each in status["links"]), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(into, cluster)


@pytest.mark.sampled(1)
def test_a_flush_behind_what_was_asked_for(cluster: Cluster, into: Server | Cluster) -> None:
    """It came with commands of the slot that may pass: it may not, for others have keys of the slot by then."""
    move = Move(cluster)
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with Portd(cluster.url, into.url) as portd:
        portd.until(streaming)

        def flush() -> None:
            until_applied(portd, nodes)
            portd.signal(signal.SIGSTOP)
            with Wire(move.giver) as wire:
                wire.many([("SET", f"{TAG}1", "x"), ("FLUSHALL",)])
            portd.signal(signal.SIGCONT)
            until_applied(portd, nodes)

        move.run(flush)
        until_settled(portd, into, cluster)
        portd.until(streaming)
        until_applied(portd, nodes)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(into, cluster)


def test_slots_are_emptied(cluster: Cluster, into: Server | Cluster) -> None:
    """One after the other, while clients write to them and portd is killed: nothing of before is left, nothing of behind it is lost."""
    fill(cluster)
    chance = random.Random(3)
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with Portd(cluster.url, into.url) as portd, RoamingLoad(cluster, MOVING) as load:
        portd.until(streaming)
        for number, slot in enumerate(MOVING):
            load.run()
            node = cluster.owner(f"{{{slot_tag(slot)}}}")
            cluster.call(node, "CLUSTER", "FLUSHSLOT", slot, *[[], ["SYNC"], ["async"]][number % 3])
            if number % 2:
                time.sleep(chance.random() * 0.1)
                portd.kill()
                portd.start()
        load.run()
        load.stop()
        portd.until(streaming)
        status = until_applied(portd, nodes)
        assert not any(each["dead_letters"] for each in status["links"]), portd.log()
        assert "slots are emptied, as they were at their node" in portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(into, cluster)


@pytest.mark.sampled(1)
def test_a_kill_around_a_flush(cluster: Cluster, into: Server | Cluster) -> None:
    """Wherever SIGKILL comes: nothing of before comes back, and nothing of behind it is lost."""
    chance = random.Random(7)
    nodes = dict(zip(LINKS, cluster.primaries, strict=True))
    with Portd(cluster.url, into.url) as portd, RoamingLoad(cluster, MOVING) as load:
        portd.until(streaming)
        for number in range(4):
            move = Move(cluster)

            def flush(move: Move = move, number: int = number) -> None:
                load.run(20)
                cluster.call(move.taker if number % 2 else move.giver, "FLUSHALL")
                if not number % 2:
                    move.born()
                time.sleep(chance.random() * 0.1)
                portd.kill()
                load.run(20)
                portd.start()
                time.sleep(chance.random() * 2)
                portd.kill()
                portd.start()

            move.run(flush)
            load.run(20)
        portd.until(streaming)
        until_settled(portd, into, cluster)
        load.stop()
        portd.until(streaming)
        until_applied(portd, nodes)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(into, cluster)


def test_a_flush_inside_of_a_transaction_is_a_dead_letter(cluster: Cluster, into: Server | Cluster) -> None:
    """The rest of the transaction is done, the keys of before stay in the target, and `verify` names them."""
    node = cluster.owner(TAG)
    others = {f"{TAG}before", f"{TAG}within"}
    with Portd(cluster.url, into.url) as portd:
        portd.until(streaming)
        with Wire(node) as wire:
            wire.call("MSET", *(word for key in others for word in (key, 1)))
            wire.many([("MULTI",), ("INCR", f"{TAG}within"), ("FLUSHALL",), ("SET", f"{TAG}behind", 2), ("EXEC",)])
        status = until_applied(portd, dict(zip(LINKS, cluster.primaries, strict=True)))
        letters = [each["dead_letters"] for each in status["links"] if each["dead_letters"]]
        assert letters == [{"cross_rule": 1}], portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    found = run("verify", "--source", cluster.url, "--target", into.url, "--settle-seconds", 0.1, expect=1).out.decode()
    assert all(key in found for key in others)
    assert f"{TAG}behind" not in found
