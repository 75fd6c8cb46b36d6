"""Nodes of a target cluster that are left behind, when the slots of one go to another in the middle of that."""

from __future__ import annotations

import asyncio
from array import array
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import create_autospec

import pytest

from portd.kernel.keyspecs import KeySpecs
from portd.kernel.slotgroups import SlotGroups
from portd.kernel.slots import SLOTS
from portd.target.cluster.absent import Absent
from portd.target.cluster.intake import Intake
from portd.target.cluster.strand import Marks
from portd.target.cluster.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

FLOOR = 100
SPLIT = 8000


def table_of(first: Callable[[int], bool]) -> bytes:
    """A map of two nodes: which slots are the first one's."""
    return array("H", [0 if first(slot) else 1 for slot in range(SLOTS)]).tobytes()


class Cluster:
    """Two nodes, of which one is read for again, and the other one is left behind.

    Args:
        floor: of what is left behind for the second one.
    """

    def __init__(self, floor: int) -> None:
        self.groups = SlotGroups(b"portd:", KeySpecs())
        self.intake: Any = create_autospec(Intake, instance=True)
        self.intake.boundary, self.intake.database = 400, 0
        self.intake.is_behind, self.intake.is_dry = False, True  # nobody else has something to do
        self.intake.marks = [Marks(), Marks()]
        absent = create_autospec(Absent, instance=True)
        self.turns = Turns(self.groups, self.intake, absent, lambda: (FLOOR, 0))
        self.shards: Any = [
            SimpleNamespace(node=SimpleNamespace(number=number, address=""), answer=None, refused_since=0.0)
            for number in range(2)
        ]
        self._floor = floor

    async def begin(self) -> None:
        """The first one is read for."""
        self.route(table_of(lambda slot: slot < SPLIT))
        self.groups.leave(0, FLOOR)
        self.groups.leave(1, self._floor)
        self.shards[1].answer = asyncio.get_running_loop().create_future()
        await self.turns.turn(self.shards)
        assert [gap.open for gap in self.groups.gaps] == [False, True]
        self.shards[1].answer = None

    def route(self, table: bytes) -> None:
        """A round begins, by this map."""
        leave = self.turns.carry(table)
        self.groups.route(table, 2)
        leave()


async def test_a_slot_of_the_one_left_behind_comes_to_the_other() -> None:
    """Both are behind then, and it is their turn at once: nothing that comes would wake anybody."""
    cluster = Cluster(FLOOR)
    await cluster.begin()
    cluster.route(table_of(lambda slot: slot <= SPLIT))
    assert all(gap.open for gap in cluster.groups.gaps)
    await cluster.turns.turn(cluster.shards)
    assert not any(gap.open for gap in cluster.groups.gaps)
    assert [call.args for call in cluster.intake.restart.call_args_list] == [(FLOOR, 0)] * 2


@pytest.mark.parametrize("both_ways", [True, False])
async def test_what_was_not_read_yet_is_not_forgotten(*, both_ways: bool) -> None:
    """It was being read for one that is behind again: from where that was, and not from where the other one's begins."""
    cluster = Cluster(300)
    await cluster.begin()
    cluster.intake.is_behind, cluster.intake.boundary = True, 150
    cluster.route(table_of(lambda slot: slot <= SPLIT and (slot > 0 or not both_ways)))
    floors = [gap.floor for gap in cluster.groups.gaps]
    assert floors == ([150, 150] if both_ways else [150, 300])
    await cluster.turns.turn(cluster.shards)
    assert not any(gap.open for gap in cluster.groups.gaps)
