"""Copies differing keys from the source to the target, and removes extra ones."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, cast

from portd.errors import TargetRejected
from portd.kernel.snapshot import SnapshotDecoder
from portd.log import get_logger
from portd.verify.live import END, pour
from portd.verify.settle import BATCH_KEYS
from portd.verify.wire import Refused

if TYPE_CHECKING:
    from portd.kernel.batch import Batch
    from portd.kernel.snapshot import Dialect
    from portd.verify.live import LiveReader
    from portd.verify.store import Suspect, Suspects
    from portd.verify.wire import Wire

log = get_logger("verify")


class Repairer:
    """Makes keys of the target what they are on the source now.

    A sync that runs meanwhile may have applied a newer value already; keys are looked at again afterwards.

    Args:
        source: open.
        target: an open connection of our own.
        dialect: what the target understands.
    """

    def __init__(self, source: LiveReader, target: Wire, dialect: Dialect) -> None:
        self._source = source
        self._target = target
        self._dialect = dialect

    async def run(self, keys: Suspects) -> None:
        """Repairs them all.

        Raises:
            LinkLost: an end went away.
            TargetRejected: the target refuses a command.
        """
        for batch in keys.batches(BATCH_KEYS):
            self._source.too_large.clear()
            for each in batch:
                await self._repair(each)

    async def repair_functions(self, there: dict[bytes, bytes] | None) -> None:
        """Loads libraries as the source has them, and removes those that it does not have.

        Args:
            there: code of the target's libraries by name; None where they may not be seen: nothing is done then.

        Raises:
            LinkLost: an end went away.
            TargetRejected: the target refuses a command.
        """
        here = await self._source.functions()
        if here is None or there is None:
            return
        for name in there.keys() - here.keys():
            await self._ask("FUNCTION", "DELETE", name)
        for name, code in here.items():
            if there.get(name) != code:
                await self._ask("FUNCTION", "LOAD", "REPLACE", code)

    async def _repair(self, each: Suspect) -> None:
        """Removes it from the target, or writes it as the source has it."""
        held: deque[Batch] = deque()

        def take(output: object) -> None:
            held.append(cast("Batch", output))

        async def write() -> None:
            while held:
                await self._write(held.popleft())

        key = (each.db, each.name)
        decoder = SnapshotDecoder(self._dialect)
        pour(decoder, self._source.magic, take)
        await self._source.tell([key], decoder, take, write)
        pour(decoder, END, take)
        await write()
        if not decoder.statistics()["keys"] and key not in self._source.too_large:
            await self._target.select(each.db)
            await self._ask("DEL", each.name)

    async def _write(self, batch: Batch) -> None:
        await self._target.select(batch.db)
        self._target.write(batch.data)
        for _ in range(batch.replies):
            try:
                await self._target.reply()
            except Refused as error:
                raise TargetRejected(
                    f"the target refuses to be repaired: {error}", hint="see the permissions in docs/operations.md"
                ) from None

    async def _ask(self, *words: bytes | str) -> None:
        try:
            await self._target.ask(*words)
        except Refused as error:
            raise TargetRejected(
                f"the target refuses to be repaired: {error}", hint="grant +del, and +function where libraries differ"
            ) from None
