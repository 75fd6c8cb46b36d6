"""FLUSHDB and FLUSHALL under rules, in a cluster: what they cover goes from every slot that has not passed them.

So do the keys of slots that a node of the source has given away in one step.

It is done between two windows: everything before it is in the target, nothing behind it is. A slot's record is moved behind it
when its keys are gone, so whoever comes by it again, behind a lost connection, in another process or because a replica was
promoted, removes keys of those slots only that have nothing of what follows.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from portd.kernel.slots import key_slot
from portd.net.replies import code_of, presentable
from portd.net.resp import request
from portd.net.topology import ranges_of, slots_of
from portd.target.cluster.nodes import on_all
from portd.target.cluster.records import write_records
from portd.target.cluster.settled import require_settled, staying
from portd.target.cluster.shard import ELSEWHERE
from portd.target.connection import Disconnected, set_up, text_of
from portd.target.kept.epoch import check
from portd.target.stream.clearing import HINT, REMOVE_KEYS, SCAN_COUNT, covers, tell_cleared

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from portd.kernel.slotgroups import SlotGroups
    from portd.net.topology import Ranges
    from portd.target.cluster.shard import Shard
    from portd.target.stream.applying import ApplierOptions

REMOVAL: Final = "the removal of keys"  # for messages


class Clearing:
    """One such command, and everything before it is in the target.

    Args:
        options: of the applier, which writes nothing meanwhile.
        behind: the position behind it.
        records: what the keys of records begin with.
        writer: of records.
        owed: keys that they name, by slot.
        slots: of the source, whose keys are meant; None: all.

    Attributes:
        removed: keys.
    """

    def __init__(
        self, options: ApplierOptions, behind: int, records: str, writer: str, owed: Mapping[int, bytes],
        slots: frozenset[int] | None = None,
    ) -> None:  # fmt: skip
        self.removed = 0
        self._options = options
        self._behind = behind
        self._records = records
        self._writer = writer
        self._owed = owed
        self._slots = slots

    async def run(self, shards: Sequence[Shard], groups: SlotGroups) -> None:
        """Does it on every node; may be begun again.

        Args:
            shards: all nodes; nothing is outstanding. Whoever takes the link ends their connections.
            groups: know how far each slot is, and are told how far it is then.

        Raises:
            Disconnected: a node is lost, or is not what it was.
            TargetBusy: one refuses for now, or has a slot that is on its way.
            TargetError: one refuses.
        """

        async def work(shard: Shard) -> None:
            late = {slot for slot in slots_of(shard.node.slots) if groups.record(slot) < self._behind}
            if self._slots is not None and self._options.choice.mapping is None:  # else they have other slots here
                late &= self._slots
            if late:
                await self.empty(shard, late, shard.node.slots if self._slots is None else ())
                passed = tuple(ranges_of(sorted(late)))
                async with set_up(shard.connection, shard.node.endpoint.silence_seconds):
                    await write_records(shard.connection, self._records, passed, self._writer, self._behind, self._owed)
                for slot in late:
                    groups.set_record(slot, self._behind)

        await on_all("clear", shards, work)
        tell_cleared(self._slots, keys=self.removed, offset=self._behind)

    async def empty(self, shard: Shard, late: set[int], others: Ranges) -> None:
        """Removes what is covered of some slots from their node, which may not give or take *others* either; raises as `run` does."""
        async with staying(partial(self._settled, shard, tuple(ranges_of(sorted(late))), others)):
            await self._empty(shard, late)

    @staticmethod
    async def _settled(shard: Shard, slots: Ranges, others: Ranges) -> int:
        async with set_up(shard.connection, shard.node.endpoint.silence_seconds):
            return await require_settled(shard.connection, slots, others)

    async def _empty(self, shard: Shard, late: set[int]) -> None:
        cursor = b"0"
        while True:
            scan = request("SCAN", cursor, "COUNT", SCAN_COUNT)
            await self._options.limiter.take(len(scan), 1)
            (answer,) = await self._ask(shard, [scan])
            check(answer, "to be scanned", hint=HINT)
            cursor, found = answer
            by_slot: dict[int, list[bytes]] = {}
            for name in found:
                if (slot := key_slot(name)) in late and self._covers(name):
                    by_slot.setdefault(slot, []).append(name)
            await self._remove(shard, by_slot)
            if cursor == b"0":
                return

    def _covers(self, name: bytes) -> bool:
        return covers(self._options, self._slots, 0, name)

    async def _remove(self, shard: Shard, by_slot: dict[int, list[bytes]]) -> None:
        """Removes keys; a command names those of one slot."""
        command = "UNLINK" if self._options.unlink else "DEL"
        removals = [
            request(command, *names[index : index + REMOVE_KEYS])
            for names in by_slot.values()
            for index in range(0, len(names), REMOVE_KEYS)
        ]
        if not removals:
            return
        await self._options.limiter.take(sum(map(len, removals)), sum(map(len, by_slot.values())))
        for answer in await self._ask(shard, removals):
            if code_of(text := text_of(answer)) in ELSEWHERE:
                raise Disconnected(f"{shard.node.address}: {presentable(text)}", code_of(text))
            check(answer, REMOVAL, hint=HINT)
            self.removed += answer

    @staticmethod
    async def _ask(shard: Shard, commands: list[bytes]) -> list[Any]:
        async with set_up(shard.connection, shard.node.endpoint.silence_seconds):
            return await shard.connection.ask(*commands)
