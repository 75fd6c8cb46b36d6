"""Copies differing keys from the source to the target, and removes extra ones.

Every write is a transaction that takes effect only while the key is as it was when the transaction was opened, and no
process has taken the link meanwhile: a repair that arrives late undoes nothing. It is opened before the source is asked
for the key, so that the value is no older than what a sync has written until then.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import hiredis

from portd.errors import TargetBusy, TargetRejected
from portd.feed.pour import pour
from portd.kernel.snapshot import SnapshotDecoder
from portd.log import get_logger
from portd.net.control import Refused
from portd.net.replies import abort_cause
from portd.net.resp import request
from portd.target.kept.epoch import FIELD
from portd.verify.live import END
from portd.verify.settle import BATCH_KEYS

if TYPE_CHECKING:
    from portd.kernel.snapshot import Dialect
    from portd.net.pieces import PieceControl
    from portd.verify.ends import SourceEnd
    from portd.verify.shards import Reader
    from portd.verify.store import Suspect, Suspects

log = get_logger("verify")

_ELSEWHERE: Final = (
    "MOVED ",
    "ASK ",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "READONLY ",
)  # of a node that has not, or not all, of a slot


class Elsewhere(Exception):
    """Another node of the target has the key, or will have it; nothing of this transaction was done."""


class Repairer:
    """Makes keys of the target what they are on the source now.

    A sync that runs meanwhile may have applied a newer value already; keys are looked at again afterwards.

    Args:
        source: open.
        target: an open connection of our own.
        dialect: what the target understands.
        epoch_key: of the link whose sync may run meanwhile.
        end: what keys of the target are called in the source.
        alone: function libraries that the source does not have may go.
    """

    def __init__(
        self, source: Reader, target: PieceControl, dialect: Dialect, epoch_key: str, end: SourceEnd, *, alone: bool
    ) -> None:
        self._end = end
        self._alone = alone
        self._source = source
        self._target = target
        self._dialect = dialect
        self._epoch_key = epoch_key
        self._epoch: object = None  # as it was when the repair began
        self._unsent: list[bytes] = []  # of the transaction
        self._replies = 0  # that these bring
        self._open = False  # a transaction is: what it depends on is watched

    async def run(self, keys: Suspects) -> None:
        """Repairs them all.

        Raises:
            SourceLost: an end went away.
            TargetRejected: the target refuses a command.
            TargetBusy: a process took the link meanwhile.
            Elsewhere: it is a node of a cluster that does not have a key.
        """
        await self.begin()
        for batch in keys.batches(BATCH_KEYS):
            self._source.clear_notes()
            for each in batch:
                await self.repair(each)

    async def repair_functions(self, here: dict[bytes, bytes], there: dict[bytes, bytes]) -> None:
        """Loads libraries as the source has them, and removes those that it does not have.

        Args:
            here: code of the source's libraries by name.
            there: of the target's.

        Raises:
            SourceLost: an end went away.
            TargetRejected: the target refuses a command.
        """
        await self.begin()
        for name in there.keys() - here.keys() if self._alone else ():
            await self._write(request("FUNCTION", "DELETE", name))
        for name, code in here.items():
            if there.get(name) != code:
                await self._write(request("FUNCTION", "LOAD", "REPLACE", code))

    async def repair(self, each: Suspect) -> None:
        """Removes a key from the target, or writes it as the source has it. One that no node of the source has now is left alone.

        Raises:
            Elsewhere: this node of the target does not have it.
        """
        held: deque[Any] = deque()  # batches

        async def write() -> None:
            while held and not over:
                batch = held.popleft()
                try:
                    if not await self._write(batch.data, batch.replies, batch.db, each.name, part=batch.part):
                        over.append(None)
                except Elsewhere as error:  # what is left of the value is read, so that the source can be asked again
                    over.append(error)
            held.clear()

        keys = self._end.here([(each.db, each.name)])
        over: list[
            Elsewhere | None
        ] = []  # why nothing more is written; None: somebody else changed it, it is looked at again
        decoder = SnapshotDecoder(self._dialect)
        self._end.choose(decoder)
        decoder.feed(self._source.magic)
        await self._open_transaction(each.db, each.name)
        await self._source.tell(keys, decoder, held.append, write)
        held.extend(pour(decoder, END))
        await write()
        if over and over[0] is not None:
            raise over[0]
        unread = self._source.too_large | self._source.undecided
        if not decoder.statistics()["keys"] and unread.isdisjoint(keys):
            await self._write(request("DEL", each.name), 1, each.db, each.name)
        if self._open:  # there was nothing to write
            await self._write(b"", 0)

    async def begin(self) -> None:
        """Notes who has the link."""
        await self._target.select(0)
        (self._epoch,) = await self._ask(request("HGET", self._epoch_key, FIELD))

    async def _write(self, data: bytes, replies: int = 1, db: int = 0, key: bytes = b"", *, part: bool = False) -> bool:
        """Writes in one transaction; *part*: the command goes on in the next one, inside the same transaction.

        Returns:
            False when the key was changed by somebody else since the transaction was opened; nothing was written then.
        """
        if not self._open:
            await self._open_transaction(db, key)
        self._replies += replies
        self._unsent.append(data)
        if part:
            return True
        sent, replies = self._unsent, self._replies
        self._unsent, self._replies, self._open = [], 0, False
        try:
            executed = await self._target.execute(sent, replies)
        except Refused as error:
            raise _rejected(error) from None
        for answer in executed or ():
            if isinstance(answer, hiredis.ReplyError):
                raise _rejected(answer)
        return executed is not None

    async def _open_transaction(self, db: int, key: bytes) -> None:
        """Watches what it depends on."""
        await self._target.select(0)
        _, epoch = await self._ask(request("WATCH", self._epoch_key), request("HGET", self._epoch_key, FIELD))
        if epoch != self._epoch:
            raise TargetBusy(
                "a portd took the link during the repair; nothing more is written",
                hint="start the verification again when it has caught up",
            )
        await self._target.select(db)
        if key:
            await self._ask(request("WATCH", key))
        self._open = True

    async def _ask(self, *commands: bytes) -> list[Any]:
        answers = await self._target.ask(*commands)
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise _rejected(answer)
        return answers


def _rejected(error: Exception) -> Exception:
    text = abort_cause(str(error)) or str(error)
    if text.startswith(_ELSEWHERE):
        return Elsewhere(text)
    return TargetRejected(
        f"the target refuses to be repaired: {error}", hint="see the permissions in docs/operations.md"
    )
