"""Other slots of the source for a link while its stream is followed: between two rounds, over all of its nodes.

What is not sent of a slot that goes is dropped. A slot of the target that comes with them has a record from then on, which says the place where the stream is: what is before
that is none of the link's. One whose node is away gets it when that is back.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from portd.net.topology import ranges_of, slots_of
from portd.target.cluster.records import Record, write_records

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from portd.config.rules import Choice
    from portd.kernel.slotgroups import SlotGroups
    from portd.target.cluster.entering import Entered
    from portd.target.cluster.intake import Intake
    from portd.target.cluster.strand import SlotStrands
    from portd.target.clusternodes import ClusterTarget


class Redrawn(Exception):
    """Other rules wait: the round ends for them."""


class Redrawing:
    """Rules that wait, and slots that have come with them.

    Args:
        strands: their hash says by which rules the data is made.
        groups: know the records.
        intake: takes the stream.
        prefix: what the keys of records begin with.
    """

    def __init__(self, strands: SlotStrands, groups: SlotGroups, intake: Intake, prefix: str) -> None:
        self._strands = strands
        self._groups = groups
        self._intake = intake
        self._prefix = prefix
        self._next: tuple[Choice, Callable[[int], None]] | None = None
        self._entering: tuple[Choice, Callable[[int], None]] | None = None  # those that the round was begun with
        self._waits = asyncio.Event()
        self._places: dict[int, int] = {}  # slots that have no record yet: what it is to say

    def ask(self, choice: Choice, adopt: Callable[[int], None]) -> None:
        """Has other rules taken up, which differ in slots of the source alone.

        Args:
            choice: they.
            adopt: called with the offset when the hash says that the data was made by them, before the source is rewound.
        """
        self._next = choice, adopt
        self._waits.set()

    async def interrupt(self) -> None:
        """Ends the round when some wait.

        Raises:
            Redrawn: they do.
        """
        await self._waits.wait()
        raise Redrawn

    def widen(self, cluster: ClusterTarget) -> ClusterTarget:
        """The target with the slots that the next round writes to."""
        self._entering = self._next
        if self._next is None:
            return cluster
        slots = self._next[0].slots
        had, has = set(slots_of(cluster.slots)), set(slots_of(slots))
        self._places |= dict.fromkeys(has - had, self._intake.boundary)
        for slot in had - has:  # what waits to be sent to one that goes is void
            self._places.pop(slot, None)
            self._groups.set_record(slot, self._intake.taken)
        return replace(cluster, slots=slots)

    async def begin(self, entered: Entered) -> None:
        """Writes the records of slots that came to the link, over whatever an earlier time has left there."""
        for number, (shard, found) in enumerate(entered.shards):
            places: dict[int, list[int]] = {}
            for slot in slots_of(shard.node.slots):
                if slot in self._places:
                    places.setdefault(self._places[slot], []).append(slot)
            for place, slots in places.items():
                await write_records(shard.connection, self._prefix, ranges_of(slots), self._strands.writer, place)
                for slot in slots:
                    self._groups.set_record(slot, self._places.pop(slot))
            new = {slot: place for place, slots in places.items() for slot in slots}
            entered.shards[number] = (
                shard,
                [Record(each.slot, new[each.slot]) if each.slot in new else each for each in found],
            )

    async def take_up(self, write: Callable[[], Awaitable[None]]) -> Choice | None:
        """The data was made by these rules from here on. Nothing is in flight, and what every slot has is known.

        Args:
            write: writes the hash.

        Returns:
            The rules that are in force now, if some waited when the round began: those that came since have slots of nodes that
            nobody has entered, and end it.
        """
        if self._entering is None:
            return None
        choice, adopt = asked = self._entering
        self._strands.rule(choice)
        await write()
        adopt(self._intake.boundary)
        if choice.rules is not None:
            self._intake.keep(choice.rules)
        self._intake.rewind()
        if self._next == asked:
            self._next = None
            self._waits.clear()
        return choice
