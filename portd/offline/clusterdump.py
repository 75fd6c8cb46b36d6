"""Keeps the snapshots of all shards of a cluster: a file for each, and a manifest that says what they are.

A consistent cut over a cluster does not exist: every file is its node at one moment of its own. What must not happen is that a
slot is in no file, or in two: who has which slots is looked at before and behind, and shards whose slots have moved meanwhile are
dumped again.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from portd.config.rules import choice_of
from portd.config.settings import MAX_BUDGET_BYTES
from portd.errors import Interrupted, SlotsMoved, first_cause
from portd.files.manifest import Shard, ShardFile, written
from portd.files.outputs import Output
from portd.groups import TaskGroup
from portd.log import get_logger
from portd.model import Work
from portd.net.clusterview import of_node, view_of
from portd.net.topology import ALL_SLOTS, ranges_of, spelled
from portd.offline.dump import Dump
from portd.offline.job import OfflineService

if TYPE_CHECKING:
    from pathlib import Path

    from portd.config.settings import Settings
    from portd.net.clusterview import View
    from portd.net.topology import Node, Ranges

log = get_logger("dump")

SHARD_BYTES: Final = (
    10 << 20
)  # that a shard needs while it is dumped: what is received, decoded and on its way to the disk
SPOOL_BYTES: Final = 6 << 20  # of these, what is received
TRIES: Final = 4  # rounds in which slots may move
COUNTS_SECONDS: Final = 0.5  # between two looks at what the shards have counted


@dataclass(slots=True)
class _Part:
    """A shard that was dumped."""

    node: Node
    slots: Ranges
    file: ShardFile
    dump: Dump


class ClusterDump(OfflineService):
    """One `portd dump` of a cluster.

    Args:
        settings: the source, and which keys are kept.
        manifest: the file that is written last; those of the shards are beside it.
    """

    def __init__(self, settings: Settings, manifest: Path) -> None:
        super().__init__()
        self._settings = settings
        self._endpoint = settings.source_endpoint()
        self._wanted: Ranges = tuple(settings.slot_ranges()) or ALL_SLOTS
        self._manifest = manifest
        self._at_once = max(1, (settings.memory_budget or MAX_BUDGET_BYTES) // SHARD_BYTES)
        self._parts: dict[int, _Part] = {}  # by lowest slot
        self._dumps: list[Dump] = []  # begun in this round

    async def run(self) -> None:
        """Dumps all shards.

        Raises:
            ConfigError: the source is no cluster.
            SlotsMoved: slots are on their way, have no owner, or moved whenever they were looked at.
            SourceError: a node is not there, refuses, or was lost.
            Interrupted: it was told to stop before all was whole.
            OutputError: the disk is full or failed.
        """
        with ExitStack() as self._stack:
            output = Output(str(self._manifest))
            self._stack.callback(output.close)
            try:
                if not await self._unless_stopped(self._work(output), "dump"):
                    raise Interrupted("stopped before all snapshots were whole: nothing was kept")
            except BaseExceptionGroup as group:
                raise first_cause(group) from None
        self.progress.ended = True

    async def _work(self, output: Output) -> None:
        self.progress.snapshot.started_at = datetime.now(UTC).timestamp()
        with self.progress.doing(Work.COPYING):
            await self._dump_all()
        shards = [_described(each) for _, each in sorted(self._parts.items())]
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        for _, each in sorted(self._parts.items()):
            await asyncio.to_thread(each.file.keep)
        output.write(written(shards, self._endpoint.display, made_at))
        await asyncio.to_thread(output.commit)
        self._count()
        log.info(
            "cluster dumped", shards=len(shards), keys=sum(each.keys for each in shards),
            bytes=sum(each.bytes for each in shards), manifest=str(self._manifest),
        )  # fmt: skip

    async def _dump_all(self) -> None:
        """Until every slot that is wanted was at one place from before its shard's snapshot to its end."""
        before = await view_of(self._endpoint)
        if unsettled := before.unsettled(self._wanted):
            raise SlotsMoved(
                f"slots {spelled(ranges_of(unsettled))} of the source are on their way to another node, or have no owner",
                hint="dump when the move is over; redis-cli --cluster check tells, and --cluster fix ends a move that was given up",
            )
        await self._dump_some(before.nodes_of(self._wanted))
        for _ in range(TRIES):
            now = await view_of(self._endpoint)
            moved = sorted({*now.elsewhere_since(before, self._wanted), *now.returned_since(before, self._wanted)})
            if not moved:
                return
            log.warning("slots have moved: their shards are dumped again", slots=spelled(ranges_of(moved)))
            if now.unsettled(self._wanted):
                await asyncio.sleep(1.0)
                now = await view_of(self._endpoint)
            before = now
            await self._dump_some(self._stale(now, frozenset(moved)))
        raise SlotsMoved(
            f"slots {spelled(ranges_of(moved))} of the source moved whenever they were looked at: nothing was kept",
            hint="dump when the cluster is at rest",
        )

    def _stale(self, now: View, moved: frozenset[int]) -> list[tuple[Node, Ranges]]:
        """Shards whose files do not hold what they have now; files of those that have become others are removed."""
        shards = now.nodes_of(self._wanted)
        there = {slots: each for each in self._parts.values() for slots in [each.slots]}
        stale = [
            (node, slots)
            for node, slots in shards
            if slots not in there or any(first <= slot <= last for slot in moved for first, last in slots)
        ]
        kept = {slots for _, slots in shards} - {slots for _, slots in stale}
        for first, each in list(self._parts.items()):
            if each.slots not in kept:
                each.file.close()
                del self._parts[first]
        return stale

    async def _dump_some(self, shards: list[tuple[Node, Ranges]]) -> None:
        """Some shards, as many at a time as the budget has room for."""
        limit = asyncio.Semaphore(self._at_once)
        counting = asyncio.create_task(self._keep_counting(), name="counts")
        try:
            async with TaskGroup() as group:
                for node, slots in shards:
                    group.create_task(self._dump(node, slots, limit), name=f"dump {node.address}")
        finally:
            counting.cancel()

    async def _dump(self, node: Node, slots: Ranges, limit: asyncio.Semaphore) -> None:
        """One shard: its own slots only, and nothing of what is left of others, or on its way to it."""
        async with limit:
            first = slots[0][0]
            file = ShardFile(self._manifest.with_name(f"{self._manifest.stem}.{first}.rdb"))
            self._stack.callback(file.close)
            words = tuple(f"{begin}-{end}" for begin, end in slots)
            choice = choice_of(replace(self._settings, include_slots=words))
            endpoint = of_node(self._endpoint, node)
            dump = Dump(endpoint, file, None, one_shard=None, choice=choice, spool_bytes=SPOOL_BYTES)
            self._dumps.append(dump)
            await dump.run()
            self._parts[first] = _Part(node, slots, file, dump)

    async def _keep_counting(self) -> None:
        while True:
            self._count()
            await asyncio.sleep(COUNTS_SECONDS)

    def _count(self) -> None:
        """What all shards have counted, for whoever watches."""
        snapshot = self.progress.snapshot
        for name in ("bytes_read", "bytes_decoded", "keys_read", "keys_announced", "keys_filtered"):
            setattr(snapshot, name, sum(getattr(each.progress.snapshot, name) for each in self._dumps))


def _described(part: _Part) -> Shard:
    position, snapshot = part.dump.position, part.dump.progress.snapshot
    assert position is not None, "it is whole"
    return Shard(
        file=part.file.path.name,
        slots=part.slots,
        node=part.node.address,
        replid=position.replid,
        offset=position.offset,
        keys=snapshot.keys_read - snapshot.keys_filtered,
        bytes=part.file.written,
        sha256=part.file.sha256,
    )
