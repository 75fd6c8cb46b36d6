"""What a full sync does about keys that are in the target and not in the snapshot: setting `prune`."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from portd.config.choices import Existing, Prune
from portd.config.rules import differ_in_slots_alone
from portd.errors import SpoolError
from portd.link import clusters
from portd.log import get_logger
from portd.net.resp import request
from portd.target.control import control
from portd.target.kept.checkpoint import State, flush, make_room, others_would_go, read_checkpoint
from portd.target.kept.contents import keys_there
from portd.target.kept.directory import other_links
from portd.target.kept.epoch import write_once

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from portd.kernel.batch import Batch
    from portd.kernel.snapshot import DeadLetter
    from portd.net.topology import Ranges
    from portd.target.connection import Connection
    from portd.target.destination import Destination
    from portd.target.kept.checkpoint import Checkpoint
    from portd.target.kept.prune import Pruner

log = get_logger("sync")


class Resync:
    """The ghosts of one full sync. Use: `begin`, `note` and `note_letter`, `finish`, `close`.

    Args:
        destination: of the full sync; of a cluster every node is looked at by itself.

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
        self._pruners: list[Pruner] = []  # one for each server
        self._letters = 0

    async def begin(self) -> None:
        """Decides, and flushes where that is wanted; before the marker of the full sync is written. May be repeated.

        Raises:
            TargetError: the target refuses, or cannot be reached.
            SpoolError: the directory for bucket files cannot be used, and `prune` is explicit.
        """
        into, settings = self._into, self._settings
        mode = settings.prune
        checkpoint = await read_checkpoint(into.endpoint, into.key)
        self.first = checkpoint is None or checkpoint.first
        if mode is Prune.FLUSH:
            await self._flush(functions="function" in into.capabilities.commands)
            self.sole = True
            log.info("target flushed", reason="prune is flush")
            return
        if checkpoint is None:
            if settings.existing is Existing.FLUSH:
                await self._make_room()
            self.sole = not await self._keys_there()
        else:
            # What other rules have not covered may be somebody else's.
            self.sole = checkpoint.sole and (not checkpoint.rules or self._made_alike(checkpoint))
            self.postponed = checkpoint.postponed
        wanted = mode is Prune.AUTO and checkpoint is not None and self.sole and not into.choice.of_values
        if mode is Prune.PRUNE or wanted:
            self.keys_before = await self._count_keys(checkpoint)
            await self._begin_pruning()
        elif checkpoint is not None:
            log.warning(
                "keys that the source deleted meanwhile stay in the target", prune=mode.value,
                hint="names do not tell which keys are taken: flush or clean the target to be exact" if into.choice.of_values
                else "the rules were others: set prune to prune to be exact" if not self._made_alike(checkpoint)
                else "the target held other data when its first sync began: set prune to prune if it may go",
            )  # fmt: skip

    def _made_alike(self, checkpoint: Checkpoint) -> bool:
        """The data was made by the same rules. Slots that came from another shard were empty when that began, if all had to be."""
        if checkpoint.rules == self._into.choice.digest:
            return True
        moved = self._settings.shard_of != "" and self._settings.existing is Existing.REFUSE
        return moved and differ_in_slots_alone(checkpoint.rules, self._into.choice.digest)

    async def _count_keys(self, checkpoint: Checkpoint | None) -> int:
        """Keys that may be lost. One that was broken off had counted them before it wrote its own beside them."""
        if checkpoint is not None and checkpoint.state is State.SNAPSHOT and checkpoint.keys_before is not None:
            return checkpoint.keys_before
        return sum((await self._keys_there()).values())

    async def _keys_there(self) -> dict[int, int]:
        """The target's keys that are data, and that we may have written."""
        into, prefix = self._into, self._settings.checkpoint_key
        if into.cluster is not None:
            count = await clusters.count_keys(into.settings, into.choice)
            return {0: count} if count else {}
        async with control(into.endpoint, "looking for data in the target") as client:
            return await keys_there(client, prefix, into.key, into.choice)

    async def _flush(self, *, functions: bool = False) -> None:
        for place in self._into.places:
            await flush(place.endpoint, place.epoch, self._into.connection, functions=functions)

    async def _make_room(self) -> None:
        """Deletes what is there; this link has no checkpoint there."""
        into = self._into
        if into.cluster is None:
            prefix, alone = self._settings.checkpoint_key, bool(into.choice)
            await make_room(into.endpoint, into.key, into.epoch, into.connection, prefix, alone=alone)
        elif keys := sum((await self._keys_there()).values()):
            if into.choice and await other_links(self._settings):
                raise others_would_go()
            await self._flush()
            log.warning("target flushed", reason="existing is flush", keys=keys)

    async def _begin_pruning(self) -> None:
        from portd.target.kept.prune import PruneOptions, Pruner  # noqa: PLC0415 - a sync that removes nothing does without

        into, settings, capabilities = self._into, self._settings, self._into.capabilities
        self.close()  # of an attempt before
        explicit = settings.prune is Prune.PRUNE
        directory = settings.spool_directory()
        if directory is None:
            self._give_up("spool_dir is off")
            return
        shared = explicit or self._apart
        if into.cluster is not None and not shared:  # a node does not know who has a checkpoint on another one
            if await other_links(settings):
                self._spare_others()
                return
            shared = True
        try:
            for place in into.places:
                options = PruneOptions(
                    own_key=into.key,
                    prefix=settings.checkpoint_key,
                    shared=shared,
                    covers=into.choice.covers if into.choice else None,
                    unlink="unlink" in capabilities.commands,
                    by_slot=into.cluster is not None,
                    stays=_stays(place.slots),
                    run_id=place.run_id,
                    limiter=into.limiter,
                    connection=into.connection,
                    epoch=place.epoch,
                )
                self._pruners.append(Pruner(place.endpoint, directory, options))
        except SpoolError as error:
            if explicit:
                raise
            self._give_up(str(error))
            return
        # They have no keys to compare: the snapshot brings all there are, unless other links have theirs here.
        if "function" in capabilities.commands and not into.choice:
            flush_all = request("FUNCTION", "FLUSH")
            for place in into.places:
                await write_once(place.endpoint, into.connection, place.epoch, flush_all, what="FUNCTION FLUSH")

    def _spare_others(self, **found: int) -> None:
        log.warning(
            "keys that the source deleted meanwhile stay in the target", **found,
            hint="another link has a checkpoint in this target: set prune to prune if its keys may go",
        )  # fmt: skip

    def _give_up(self, why: str) -> None:
        log.error(
            "keys that the source deleted meanwhile stay in the target", error=why, hint="flush the target to be exact"
        )
        self.close()

    @property
    def _apart(self) -> bool:
        """Rules keep the keys of this link apart from those of others."""
        return bool(self._into.choice) and not self._settings.share_image

    async def note(self, batch: Batch) -> None:
        """Takes the keys that begin in a batch; raises as `note_at` does."""
        await self.note_at(0, batch)

    async def note_at(self, number: int, batch: Batch) -> None:
        """Takes the keys that begin in a batch for the node of that number.

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
        pruners, found = self._pruners, None
        for pruner in pruners:
            one = await pruner.run(None if self.first or before is None else lambda ghosts: permit(ghosts, before))
            found = one if found is None else found.add(one)
        assert found is not None, "a target has a server"
        self.removed = found.removed
        if found.others and self._settings.prune is Prune.AUTO and not self._apart:
            self._spare_others(scanned=found.scanned)
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


def _stays(slots: Ranges | None) -> Callable[[Connection], AbstractAsyncContextManager[None]]:
    """See `PruneOptions.stays`."""
    if slots is None:
        return lambda _: nullcontext()
    from portd.target.cluster.settled import require_settled, staying  # noqa: PLC0415 - only clusters need it

    return lambda connection: staying(partial(require_settled, connection, slots))
