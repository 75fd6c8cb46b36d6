"""The target's side of a full sync: one snapshot, from the marker before it to the checkpoint behind it."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from portd.errors import SourceError
from portd.feed.loading import Loading
from portd.feed.snapshot import SnapshotCopy, stream_database
from portd.link.inflow import StreamStart
from portd.link.resync import Resync
from portd.log import get_logger
from portd.model import Position
from portd.net.shapes import whole
from portd.target.control import patiently
from portd.target.deadletter import unsupported
from portd.target.kept.checkpoint import BLURRED, MOST_OFFSET, Checkpoint, write_checkpoint
from portd.target.kept.postponed import snapshot_margin_ms

if TYPE_CHECKING:
    from portd.kernel.batch import Batch
    from portd.kernel.snapshot import CurrentKey, DeadLetter, SnapshotDecoder
    from portd.link.gate import Gate
    from portd.link.inflow import Inflow
    from portd.memory.plan import MemoryPlan
    from portd.model import Progress
    from portd.pipeline import QueueStatistics
    from portd.target.destination import Destination

log = get_logger("sync")

CAPACITIES = ("window_capacity", "blob_capacity", "output_capacity", "scratch_capacity")


class Copying:
    """Copies one snapshot; exists while it is copied.

    Args:
        plan: how much memory each part has.
        progress: counters.
        gate: where removals wait that are too many.
        destination: what it is copied into.
        inflow: where it comes from.
    """

    def __init__(
        self, plan: MemoryPlan, progress: Progress, gate: Gate, destination: Destination, inflow: Inflow
    ) -> None:
        self._progress = progress
        self._gate = gate
        self._into = into = destination
        self._inflow = inflow
        self._transfer = inflow.transfer
        self._resync = Resync(into)
        self._loading = Loading(plan, progress, into, self._resync.note_at)
        self._decoder = self._loading.decoder
        self._decoder.postpone(snapshot_margin_ms(always=into.holds), into.shift_ms)
        self._copy = SnapshotCopy(
            inflow.spool,
            self._decoder,
            self._put,
            progress.snapshot,
            inflow.transfer,
            self._on_letter,
            into.scripts.add,
        )
        self._copy.refuse_node = None if into.settings.one_shard else inflow.endpoint.display

    async def run(self) -> StreamStart:
        """Copies all of it; where the stream begins.

        Raises:
            PortdError: an end failed, or the snapshot is wrong.
            Stopped: a stop came while a removal was held.
        """
        into, progress, resync = self._into, self._progress, self._resync
        await into.limiter.going()
        await patiently(resync.begin, into.note_refusal)
        marker = self._marker()
        await patiently(partial(self._write, marker), into.note_refusal)
        if into.cluster is not None:
            from portd.target.cluster.nodes import seal, unseal  # noqa: PLC0415 - only clusters need them

            await patiently(partial(unseal, into, marker), into.note_refusal)
        try:
            index = await self._loading.run(self._read, "sync")
            progress.take_lanes(0)  # none is at work until the stream begins: pages show none
            counters = self._decoder.statistics()
            await resync.finish(counters["keys_failed"] - counters["keys_lacking"], self._gate.permit)
            progress.keys_pruned += resync.removed
        finally:
            resync.close()
        checkpoint = self._checkpoint(marker)
        if into.cluster is not None:
            await patiently(partial(seal, into, checkpoint), into.note_refusal)
        run_id = into.capabilities.run_id
        await patiently(partial(self._write, checkpoint, run_id=run_id, closes=True), into.note_refusal)
        offset = checkpoint.position.offset
        progress.stream.applied_offset = progress.stream.checkpointed_offset = offset
        snapshot = progress.snapshot
        snapshot.finished_at = time.time()
        log.info(
            "snapshot applied", keys=snapshot.keys_read, applied=snapshot.keys_applied, filtered=snapshot.keys_filtered,
            expired=snapshot.keys_expired, postponed=snapshot.keys_postponed, failed=snapshot.keys_failed, bytes=snapshot.bytes_decoded,
            left_out=snapshot.left_out(),
            seconds=round(snapshot.finished_at - snapshot.started_at, 3),
        )  # fmt: skip
        return StreamStart(index, checkpoint, snapshot.started_at)

    def close(self) -> None:
        """It is over: what the decoder has counted stays in the counters, its buffers and the writers go. Once."""
        self._resync.close()
        counters = self._decoder.statistics()
        self._progress.earlier.update({name: counters[name] for name in ("elements", "batches")})
        del self._copy, self._loading, self._decoder  # they know us: the collector would come by too late

    def _marker(self) -> Checkpoint:
        """What says that the target is not complete."""
        progress, resync = self._progress, self._resync
        marker = Checkpoint.begin(self._transfer.position, progress.source_info.get("run_id", ""), sole=resync.sole)
        return replace(
            marker,
            postponed=self._into.postpones or resync.postponed,
            first=resync.first,
            accepted=self._gate.accepted,
            source_replid2=progress.source_info.get("replid2", ""),
            source_address=self._inflow.endpoint.display,
            keys_before=resync.keys_before,
            rules=self._into.choice.digest,
            slots=self._into.choice.source_slots if self._into.settings.shard_of else "",
            strands=self._into.strands,
        )

    def _checkpoint(self, marker: Checkpoint) -> Checkpoint:
        """What says that it is, up to where the stream begins."""
        db, strangers = stream_database(self._decoder.aux), self._progress.snapshot.filtered.get("slot", 0)
        found = Checkpoint.following(self._transfer.position, db, marker.source_run_id, marker.snapshot_id)
        return replace(
            found,
            sole=marker.sole,
            rules=marker.rules,
            slots=marker.slots + (BLURRED if marker.slots and strangers else ""),
            strands=marker.strands,
            source_replid2=marker.source_replid2,
            source_address=marker.source_address,
            postponed=self._resync.postponed or self._progress.snapshot.keys_postponed > 0,
        )

    async def _write(self, checkpoint: Checkpoint, *, run_id: str = "", closes: bool = False) -> None:
        into = self._into
        await write_checkpoint(
            into.endpoint, into.key, checkpoint, into.epoch, into.connection, run_id=run_id, closes=closes
        )

    async def _read(self) -> int:
        """Out of the spool into the writers; returns where the stream begins in the spool."""
        index = await self._copy.run()
        self._find_position()
        self._inflow.stream_begins(index, self._transfer.position)
        return index

    async def _put(self, batch: Batch) -> None:
        if self._into.cluster is None:  # its writers know where each key goes
            await self._resync.note(batch)
        await self._loading.writers.put(batch)

    def _find_position(self) -> None:
        """A source that renamed PSYNC tells the position inside of the snapshot only (rdb.c:rdbSaveInfoAuxFields)."""
        if self._transfer.announced:
            return
        aux = self._decoder.aux
        replid, position = aux.get("repl-id", ""), whole(aux.get("repl-offset", ""), MOST_OFFSET)
        if not replid or position is None:
            raise SourceError(
                "the source told its position neither before nor inside of the snapshot",
                hint="give the name of the real PSYNC command with --psync-command",
            )
        self._transfer = replace(self._transfer, position=Position(replid, position))

    def _on_letter(self, letter: DeadLetter) -> None:
        databases = self._into.capabilities.databases
        if letter.db < databases or not databases:  # there is nothing to prune in others
            self._resync.note_letter(letter)
        self._into.letters.add(unsupported("snapshot", letter.type, letter))

    # -- what the pages show

    @property
    def decoder(self) -> SnapshotDecoder:
        """Counters, and the key that it is at."""
        return self._decoder

    @property
    def largest(self) -> list[CurrentKey]:
        """The largest keys so far."""
        return self._copy.largest.read()

    def queue(self) -> QueueStatistics:
        """What no lane has taken, and the big keys on their way."""
        return self._loading.writers.statistics().queue

    def decoder_bytes(self) -> int:
        """What the decoder holds."""
        counters = self._decoder.statistics()
        return sum(counters[name] for name in CAPACITIES)

    def pruning_bytes(self) -> int:
        """What keeps the keys that were seen holds."""
        return self._resync.owned_bytes()
