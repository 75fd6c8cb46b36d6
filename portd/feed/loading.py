"""One snapshot into one target: the decoder for it, the writers, and what both leave to be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from portd.config.choices import Existing
from portd.errors import first_cause
from portd.feed.choosing import choose
from portd.groups import TaskGroup
from portd.kernel.snapshot import SnapshotDecoder
from portd.log import get_logger
from portd.target.snapshot.writers import Writers
from portd.target.snapshot.writing import WriterOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from portd.kernel.batch import Batch
    from portd.memory.plan import MemoryPlan
    from portd.model import Progress
    from portd.target.cluster.writers import ClusterWriters
    from portd.target.destination import Destination

Read = TypeVar("Read")


class Loading:
    """Loads one snapshot. Use: `run` with what reads it; that puts the batches of `decoder` into `writers`.

    Args:
        plan: how much memory each part has.
        progress: counters.
        destination: what it is loaded into.
        note: of a cluster, awaited with the number of a node and each batch that goes there.

    Attributes:
        decoder: for this target; fresh.
        writers: the lanes.
    """

    def __init__(
        self,
        plan: MemoryPlan,
        progress: Progress,
        destination: Destination,
        note: Callable[[int, Batch], Awaitable[None]] | None = None,
    ) -> None:
        self._progress = progress
        into, settings, capabilities = destination, destination.settings, destination.capabilities
        skip_existing = settings.existing is Existing.SKIP
        self.decoder = SnapshotDecoder(
            capabilities.dialect(),
            chunk_bytes=capabilities.chunk_bytes(plan.chunk_bytes),
            batch_bytes=capabilities.batch_bytes(plan.batch_bytes),
            command_bytes=settings.command_bytes,
            command_elements=settings.command_elements,
            skip_existing=skip_existing,
        )
        self.decoder.spare(settings.checkpoint_key.encode())
        choose(self.decoder, into.choice)
        options = WriterOptions(
            epoch=into.epoch,
            eviction=into.lease.eviction,
            writers=settings.writers,
            seats=capabilities.io_threads,
            window_bytes=max(plan.batch_bytes, plan.queue_bytes // (2 * settings.writers)),
            skip_existing=skip_existing,
            run_id=capabilities.run_id,
            limiter=into.limiter,
            connection=into.connection,
        )
        self.writers: Writers | ClusterWriters = (
            Writers(into.endpoint, into.budget, progress, into.letters, options)
            if into.cluster is None
            else _cluster_writers(into, progress, options, plan.batch_bytes, note)
        )

    async def run(self, read: Callable[[], Awaitable[Read]], part: str) -> Read:
        """Writes what *read* puts into the writers; returns when it has returned, and all is acknowledged.

        Args:
            read: reads the snapshot to its end.
            part: of the log.

        Raises:
            PortdError: of *read*, or the target refuses.
        """
        try:
            async with TaskGroup() as group:
                group.create_task(self.writers.run(), name="writers")
                result = await read()
                await self.writers.flush()
                self.writers.close()
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        finally:
            self.writers.discard()
        self._note_dropped(part)
        return result

    def _note_dropped(self, part: str) -> None:
        """What was applied without something that the target, or a command, cannot carry; and what is ours alone."""
        counters = self.decoder.statistics()
        for name in ("idle", "freq", "field_ttl", "stream_meta", "meta"):
            if count := counters[f"{name}_dropped"]:
                self._progress.attributes_dropped[name.replace("_", "-")] += count
        if keys := counters["keys_own"]:
            get_logger(part).warning(
                "the source has keys named like those of portd: they are not copied", keys=keys,
                hint="harmless when the source is itself the target of a portd; rename them, or set checkpoint_key, otherwise",
            )  # fmt: skip


def _cluster_writers(
    into: Destination,
    progress: Progress,
    options: WriterOptions,
    batch_bytes: int,
    note: Callable[[int, Batch], Awaitable[None]] | None,
) -> ClusterWriters:
    """Lanes to every node of a cluster."""
    from portd.target.cluster.writers import ClusterWriters  # noqa: PLC0415 - only clusters need it

    return ClusterWriters(into, progress, options, batch_bytes, note)
