"""Nodes that are left behind: the others go on without them, and the stream is read again for them when they are back.

A node that is away, or does not take its window for a while, would have all others wait: what comes for it fills its window, and
nothing more is taken. So what comes for it is *left behind* from then on: not held, only the place is known from which it has to
be read again. The floor stays there, and with it what the spool holds.

When the node takes what it is sent, the stream is read again from the floor, between two windows of the others: records
say for each slot what it has. That may be long, so it is done in turns: a while for those that catch up, a while for those that wait
at the front, from where they were.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from portd.log import get_logger
from portd.net.topology import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from portd.kernel.slotgroups import SlotGroups
    from portd.target.cluster.absent import Absent
    from portd.target.cluster.intake import Intake
    from portd.target.cluster.shard import Shard

_log = get_logger("target")

PATIENCE_SECONDS: Final = 1.0  # others wait so long for a node that does not take its window
TURN_SECONDS: Final = 1.0  # for those that catch up, and for the others, as long as both have something to do


class Turns:
    """Whose turn it is, between nodes that are at the front of the stream and those that are behind.

    Args:
        groups: sorts commands.
        intake: takes them.
        absent: who is told to be away.
        floor: the position up to which every slot has everything, and the database in effect there.
    """

    def __init__(
        self, groups: SlotGroups, intake: Intake, absent: Absent, floor: Callable[[], tuple[int, int]]
    ) -> None:
        self._groups = groups
        self._intake = intake
        self._absent = absent
        self._floor = floor
        self._front = (0, 0)  # what those are at that are not behind, and the database in effect there
        self._catching: set[int] = set()  # numbers of nodes for which the stream is read again
        self._table = b""  # the map by which windows are sorted
        self._until = 0.0  # seconds of the loop's clock; the turn ends

    @property
    def pending(self) -> bool:
        """Something was left behind."""
        return any(gap.entries for gap in self._groups.gaps)

    def carry(self, table: bytes) -> Callable[[], set[int]]:
        """Windows are about to be sorted by another map.

        Args:
            table: number of the node that has each slot from now on.

        Returns:
            To be called when all is sorted: leaves behind what was left behind before; the numbers of nodes for which that is so.
        """
        floors = {number: gap.floor for number, gap in enumerate(self._groups.gaps) if gap.entries}
        of_both = zip(memoryview(self._table or table).cast("H"), memoryview(table).cast("H"), strict=True)
        pairs = {(old, new) for old, new in set(of_both) if new != NOBODY}
        catching = {new for old, new in pairs if old in self._catching}
        self._table = table
        self._intake.rests = False

        def leave() -> set[int]:
            behind: dict[int, int] = {}
            for old, new in pairs:
                if old in floors:  # what is read for one of whose slots some were left behind is left behind, too
                    floor = min(floors[old], self._intake.boundary) if new in catching else floors[old]
                    behind[new] = min(floor, behind.get(new, floor))
            for number, floor in behind.items():
                self._groups.leave(number, floor)
            self._catching = catching - behind.keys()
            return set(behind)

        return leave

    def takers(self, shards: Sequence[Shard]) -> list[Shard]:
        """Those for which something is read: others have it, where it is read again."""
        return [shard for shard in shards if not self._intake.is_behind or shard.node.number in self._catching]

    def leave_slow(self, shards: Sequence[Shard]) -> float | None:
        """Leaves those behind that others have waited for long enough; seconds until that may be so of another one."""
        gaps, now = self._groups.gaps, asyncio.get_running_loop().time()
        going = [shard for shard in shards if not gaps[shard.node.number].open]
        if len(going) < 2 or self._intake.held is not None:
            return None
        full = set(self._intake.full())
        wait: float | None = None
        for shard in going:
            waits = shard.answer is not None and not shard.answer.done()  # one that has come is about to be taken
            since = shard.refused_since or (shard.sent_at if waits else 0.0)
            if not since or not (shard.node.number in full or self._intake.rests):
                continue
            left = since + PATIENCE_SECONDS - now
            if left > 0:
                wait = min(left, wait or left)
            else:
                self._groups.leave(shard.node.number)
                self._absent.note(shard.node, shard.refusal or "it does not answer")
        return wait

    async def turn(self, shards: Sequence[Shard]) -> float | None:
        """Reads the stream again for those that are back, or goes on for the others, when it is their turn.

        Returns:
            Seconds until it may be somebody's; None when that is not known.

        Raises:
            SourceLost: the spool does not hold it any more.
        """
        if self._catching:
            wait = await self._take_turn_of_others(shards)
            if self._catching:
                return wait
        back = [shard for shard in shards if self._is_back(shard)]
        loop, intake = asyncio.get_running_loop(), self._intake
        if any(self._groups.gaps[shard.node.number].entries for shard in back):
            if (left := self._until - loop.time()) > 0 and not intake.is_dry:
                return left
            intake.rests = True
            if not self._settled(shards):
                return None
            front = max(self._front, (intake.boundary, intake.database))
            floor, db = self._floor()
            await intake.restart(floor, db)
            self._front, self._until = front, loop.time() + TURN_SECONDS
            self._catching = {shard.node.number for shard in back}
            _log.info(
                "the stream is read again for nodes that were left behind", offset=floor, to=front[0],
                nodes=" ".join(shard.node.address for shard in back),
            )  # fmt: skip
        intake.rests = False
        for shard in back:
            if not self._catching:
                self._absent.there(shard.node)
            self._groups.resume(shard.node.number)
            intake.marks[shard.node.number].take()
        return None

    def _is_back(self, shard: Shard) -> bool:
        """It is left behind, and has taken all that it was sent."""
        number = shard.node.number
        idle = shard.answer is None and not shard.refused_since and not self._groups.growing[number].entries
        return self._groups.gaps[number].open and idle

    def _settled(self, shards: Sequence[Shard]) -> bool:
        """Those that are not behind have all that was taken for them."""
        return not any(
            shard.answer is not None or self._groups.growing[shard.node.number].entries
            for shard in shards
            if not self._groups.gaps[shard.node.number].open
        )

    async def _take_turn_of_others(self, shards: Sequence[Shard]) -> float | None:
        """Goes on at the front when those that catch up have had their turn; they may have come there themselves."""
        loop, intake, groups = asyncio.get_running_loop(), self._intake, self._groups
        if not intake.is_behind:
            for shard in shards:
                if shard.node.number in self._catching and not groups.gaps[shard.node.number].open:
                    self._absent.there(shard.node)
            self._catching.clear()
            self._until = 0.0
            return None
        if len(self._catching) == len(groups.gaps):  # nobody waits
            return None
        if (left := self._until - loop.time()) > 0:
            return left
        floor = intake.boundary
        for number in self._catching:
            groups.leave(number, floor)
            intake.marks[number].note(intake.unread_since)
        self._catching.clear()
        await intake.restart(*self._front)
        self._until = loop.time() + TURN_SECONDS
        return None
