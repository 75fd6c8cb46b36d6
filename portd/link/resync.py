"""What a full sync does about keys that are in the target and not in the snapshot: setting `prune`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from portd.config.choices import Existing, Prune
from portd.errors import SpoolError
from portd.log import get_logger
from portd.net.resp import request
from portd.target.cluster.nodes import foreign_keys as keys_of_cluster
from portd.target.control import control
from portd.target.kept.checkpoint import State, flush, foreign_keys, make_room, read_checkpoint
from portd.target.kept.epoch import write_once
from portd.target.kept.prune import PruneOptions, PruneProgress, Pruner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from portd.kernel.batch import Batch
    from portd.kernel.snapshot import DeadLetter
    from portd.link.destination import Destination
    from portd.target.kept.checkpoint import Checkpoint

log = get_logger("sync")


class Resync:
    """The ghosts of one full sync. Use: `begin`, `note` and `note_letter`, `finish`, `close`.

    Args:
        destination: the target; of a cluster every node is looked at by itself.

    Attributes:
        sole: nothing but this link's data is in the target, as far as can be known; set by `begin`.
        removed: ghosts removed, after `finish`.
        first: no full sync of this link has ended yet; set by `begin`.
        postponed: expiries of an earlier sync may be in the target that are to be set back; set by `begin`.
        keys_before: of the target, ours left out; None where no ghosts are to be removed; set by `begin`.
    """

    def __init__(self, destination: Destination) -> None:
        self.sole = False
        self.first = False
        self.removed = 0
        self.postponed = False
        self.keys_before: int | None = None
        self._into = destination
        self._settings = destination.settings
        self._target = destination.endpoint
        self._capabilities = destination.capabilities
        self._connection = destination.connection
        self._pruners: list[Pruner] = []  # one for each server
        self._letters = 0

    async def begin(self) -> None:
        """Decides, and flushes where that is wanted; before the marker of the full sync is written. May be repeated.

        Raises:
            TargetError: the target refuses, or cannot be reached.
            SpoolError: the directory for bucket files cannot be used, and `prune` is explicit.
        """
        settings = self._settings
        mode = settings.prune
        checkpoint = await read_checkpoint(self._target, settings.checkpoint_name())
        self.first = checkpoint is None or checkpoint.first
        if mode is Prune.FLUSH:
            functions = "function" in self._capabilities.commands
            await self._flush(functions=functions)
            self.sole = True
            log.info("target flushed", reason="prune is flush")
            return
        if checkpoint is None:
            if settings.existing is Existing.FLUSH:
                await self._make_room()
            self.sole = not await self._count_foreign()
        else:
            self.sole = checkpoint.sole
            self.postponed = checkpoint.postponed
        if mode is Prune.PRUNE or (mode is Prune.AUTO and checkpoint is not None and self.sole):
            self.keys_before = await self._count_keys(checkpoint)
            await self._begin_pruning()
        elif checkpoint is not None:
            log.warning(
                "keys that the source deleted meanwhile stay in the target", prune=mode.value,
                hint="the target held other data when its first sync began: set prune to prune if it may go",
            )  # fmt: skip

    async def _count_keys(self, checkpoint: Checkpoint | None) -> int:
        """Keys that may be lost. One that was broken off had counted them before it wrote its own beside them."""
        if checkpoint is not None and checkpoint.state is State.SNAPSHOT and checkpoint.keys_before is not None:
            return checkpoint.keys_before
        return await self._count_foreign()

    async def _count_foreign(self) -> int:
        """Keys in the target that are not ours."""
        settings = self._settings
        if self._into.cluster is not None:
            topology = self._into.cluster.topology
            held = await keys_of_cluster(self._target, topology, settings.checkpoint_key, self._into.records)
            return sum(held.values())
        async with control(self._target, "looking for data in the target") as client:
            found = await foreign_keys(client, settings.checkpoint_key, settings.checkpoint_name())
        return sum(found.values())

    async def _flush(self, *, functions: bool = False) -> None:
        for place in self._into.places:
            await flush(place.endpoint, place.epoch, self._connection, functions=functions)

    async def _make_room(self) -> None:
        """Deletes what is there, unless a checkpoint of this link is."""
        settings = self._settings
        if self._into.cluster is None:
            key, prefix = settings.checkpoint_name(), settings.checkpoint_key
            await make_room(self._target, key, self._into.epoch, self._connection, prefix)
        elif keys := await self._count_foreign():
            await self._flush()
            log.warning("target flushed", reason="existing is flush", keys=keys)

    async def _begin_pruning(self) -> None:
        settings, capabilities = self._settings, self._capabilities
        self.close()  # of an attempt before
        explicit = settings.prune is Prune.PRUNE
        directory = settings.spool_directory()
        if directory is None:
            self._give_up("spool_dir is off")
            return
        try:
            for place in self._into.places:
                options = PruneOptions(
                    own_key=settings.checkpoint_name(),
                    prefix=settings.checkpoint_key,
                    shared=explicit,
                    unlink="unlink" in capabilities.commands,
                    run_id=place.run_id,
                    limiter=self._into.limiter,
                    connection=self._connection,
                    epoch=place.epoch,
                )
                self._pruners.append(Pruner(place.endpoint, directory, options))
        except SpoolError as error:
            if explicit:
                raise
            self._give_up(str(error))
            return
        if "function" in capabilities.commands:  # they have no keys to compare: the snapshot brings all there are
            flush_all = request("FUNCTION", "FLUSH")
            for place in self._into.places:
                await write_once(place.endpoint, self._connection, place.epoch, flush_all, what="FUNCTION FLUSH")

    def _give_up(self, why: str) -> None:
        log.error(
            "keys that the source deleted meanwhile stay in the target", error=why, hint="flush the target to be exact"
        )
        self.close()

    async def note(self, batch: Batch) -> None:
        """Takes the keys that begin in a batch; raises as `note_at` does."""
        await self.note_at(0, batch)

    async def note_at(self, number: int, batch: Batch) -> None:
        """Takes the keys that begin in a batch, for the node of that number.

        Raises:
            SpoolError: the disk is full, and `prune` is explicit.
        """
        if not self._pruners:
            return
        try:
            await self._pruners[number].note(batch)
        except SpoolError as error:
            if self._settings.prune is Prune.PRUNE:
                raise
            self._give_up(str(error))

    def note_letter(self, letter: DeadLetter) -> None:
        """Takes a key that the target cannot hold as it is in the snapshot: an older value of it stays."""
        self._letters += 1
        for pruner in self._pruners:
            pruner.note_key(letter.db, letter.key)

    async def finish(self, letters: int, permit: Callable[[int, int], Awaitable[None]]) -> None:
        """Removes the ghosts; all of the snapshot is acknowledged, and nothing else is sent.

        Args:
            letters: dead letters that the decoder counted.
            permit: told how many keys are to be removed, and how many the target had before; returns when they may.

        Raises:
            PortdError: see `Pruner.run`.
        """
        if not self._pruners:
            return
        if letters > self._letters:  # some were counted and not kept: their keys are not known
            self._give_up("more dead letters than could be kept")
            return
        before = self.keys_before
        pruners, found = self._pruners, PruneProgress()
        for pruner in pruners:
            found.add(await pruner.run(None if self.first or before is None else lambda ghosts: permit(ghosts, before)))
        self.removed = found.removed
        if found.others and self._settings.prune is Prune.AUTO:
            log.warning(
                "keys that the source deleted meanwhile stay in the target", scanned=found.scanned,
                hint="another link has a checkpoint in this target: set prune to prune if its keys may go",
            )  # fmt: skip
        else:
            log.info("target pruned", removed=found.removed, scanned=found.scanned, hashed=found.hashed)
        self._pruners = []
        for pruner in pruners:
            await asyncio.to_thread(pruner.close)  # the disk needs a moment to let gigabytes go

    def owned_bytes(self) -> int:
        """Bytes held."""
        return sum(pruner.owned_bytes() for pruner in self._pruners)

    def close(self) -> None:
        """Gives memory and disk back; idempotent."""
        for pruner in self._pruners:
            pruner.close()
        self._pruners = []
