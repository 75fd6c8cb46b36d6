"""What every slot has, found out at the beginning of a round, and what it means where that is not what was expected."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from portd.errors import DataLost, InternalError, TargetLost
from portd.kernel.slotgroups import NO_RECORD
from portd.net.topology import slots_of
from portd.target.cluster.records import COPIED
from portd.target.kept.checkpoint import State, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.kernel.slotgroups import SlotGroups
    from portd.net.endpoint import Endpoint
    from portd.target.cluster.barrier import Markers
    from portd.target.cluster.entering import Entered
    from portd.target.cluster.intake import Intake
    from portd.target.cluster.owing import Owing
    from portd.target.cluster.shard import Shard
    from portd.target.cluster.strand import SlotStrands
    from portd.target.kept.checkpoint import Checkpoint
    from portd.target.stream.applying import ApplierOptions


class Recovery:
    """Compares the records of slots with what is known of them.

    Args:
        home: of the link.
        key: of its hash.
        options: of the applier.
        strands: the floor.
        groups: know the records, and are told.
        owing: likewise.
        intake: knows databases.
        markers: of commands for all nodes.

    Attributes:
        missing: slots whose records a flush removed.
        cleared_at: some slots may be behind this FLUSHDB already.
    """

    def __init__(
        self, home: Endpoint, key: str, options: ApplierOptions, strands: SlotStrands, groups: SlotGroups, owing: Owing,
        intake: Intake, markers: Markers,
    ) -> None:  # fmt: skip
        self.missing: set[int] = set()
        self.cleared_at = NO_RECORD
        self._home = home
        self._key = key
        self._options = options
        self._strands = strands
        self._groups = groups
        self._owing = owing
        self._intake = intake
        self._markers = markers

    async def look(self, entered: Entered, expected: dict[int, int]) -> None:
        """Takes what was found.

        Args:
            entered: the nodes that are there, with their records.
            expected: what records may say of windows whose answers did not come, by slot.

        Raises:
            DataLost: a record is gone.
            TargetLost: slots went back, or have a part of a snapshot.
        """
        lost: list[int] = []
        copied = 0
        self.missing.clear()
        for shard, found in entered.shards:
            if NO_RECORD < shard.marker <= self._strands.written:  # every slot has had a record since
                self._markers.forget(shard)
                shard.marker = NO_RECORD
            for slot, has, owed in found:
                known = self._groups.record(slot)
                if has == COPIED:
                    copied += 1
                    continue
                if has != NO_RECORD:
                    self._owing.read(slot, owed)
                if has == NO_RECORD:
                    if shard.marker == NO_RECORD or shard.marker < known:
                        raise DataLost(
                            f"the target lost its data: the record of slot {slot} on {shard.node.address} is gone"
                        )
                    self.missing.add(slot)  # it was emptied because the source was
                    self._groups.set_record(slot, shard.marker)
                elif known in {NO_RECORD, has} or has in {expected.get(slot), self.cleared_at}:
                    self._groups.set_record(slot, has)
                elif has < known:
                    lost.append(has)
                else:
                    raise InternalError(f"the record of slot {slot} says {has}, which nothing of ours ended with")
        if copied:
            await self._write(replace(self._strands.record, state=State.SNAPSHOT, time_ms=0))
            raise TargetLost(
                f"{copied} slots of the target have a part of a snapshot that had not ended, or its end is lost: a replica was promoted "
                "that had not all of its primary's writes",
                hint="a full sync follows",
            )
        if lost:
            await self._sink(min(lost), len(lost))

    async def require_branch(self, shards: Sequence[Shard]) -> None:
        """No slot may have what the source lost: it would go without as much of what the source wrote instead.

        Raises:
            TargetLost: one has; the next session begins with a full sync.
        """
        branch = self._options.branch
        slots = [slot for shard in shards for slot in slots_of(shard.node.slots)]
        ahead = 0 if branch is None else sum(self._groups.record(slot) > branch for slot in slots)
        if not ahead:
            return
        await self._write(replace(self._strands.record, state=State.SNAPSHOT, time_ms=0))
        raise TargetLost(
            f"{ahead} slots of the target have writes that the source lost in a failover (behind offset {branch})",
            hint="a full sync follows",
        )

    async def _sink(self, floor: int, slots: int) -> None:
        """Slots have less than they had: the next session begins where the last one of them is."""
        told = self._strands.sink(floor)
        if any(db for _, db in self._intake.databases):  # which was in effect there is not known
            told = replace(told, state=State.SNAPSHOT)
        await self._write(told)
        raise TargetLost(
            f"{slots} slots of the target went back, the furthest to offset {floor}: a replica was promoted that had not all of "
            "its primary's writes, or a node was restored from an older file",
            hint="the sync goes on from there if the source still has what follows; what each slot has is not written twice",
        )

    async def _write(self, told: Checkpoint) -> None:
        await write_checkpoint(self._home, self._key, told, self._options.epoch, self._options.connection)
