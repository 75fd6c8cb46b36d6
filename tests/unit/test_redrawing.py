"""Other slots for a link whose target is a cluster: they are in force in a round that was begun with them, and in none before."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import create_autospec

import pytest

from portd.config.rules import choice_of
from portd.config.settings import Settings
from portd.kernel.slotgroups import SlotGroups
from portd.net.endpoint import Endpoint
from portd.net.topology import Node, Topology
from portd.target.capabilities import Capabilities
from portd.target.cluster.intake import Intake
from portd.target.cluster.redrawing import Redrawing, Redrawn
from portd.target.cluster.strand import SlotStrands
from portd.target.clusternodes import ClusterTarget

SETTINGS = Settings(source="redis://a", target="redis+cluster://b", link="default.0", shard_of="default")


async def test_slots_that_are_asked_for_while_nodes_are_entered_wait() -> None:
    """The round has entered the nodes of the slots from before: a command for another one would have no node."""
    strands, intake = create_autospec(SlotStrands, instance=True), create_autospec(Intake, instance=True)
    intake.boundary = intake.taken = 70
    groups = create_autospec(SlotGroups, instance=True)
    redrawing = Redrawing(strands, groups, intake, "records")
    had, comes = ((0, 99),), ((0, 99), (500, 500))
    choice = choice_of(replace(SETTINGS, include_slots=("0-99", "500")), "portd:")
    cluster = ClusterTarget(
        Endpoint.parse("redis://b"),
        had,
        Topology.of([Node("n", "b", 1, ((0, 16383),))]),
        (),
        create_autospec(Capabilities),
    )
    adopted: list[int] = []

    async def write() -> None:
        """The hash."""

    assert redrawing.widen(cluster).slots == had  # a node was lost, and the round begins
    redrawing.ask(choice, adopted.append)
    assert await redrawing.take_up(write) is None
    assert not adopted
    with pytest.raises(Redrawn):
        await redrawing.interrupt()
    assert redrawing.widen(cluster).slots == comes
    assert await redrawing.take_up(write) is choice
    assert adopted == [70]
    redrawing.widen(cluster)
    assert await redrawing.take_up(write) is None
