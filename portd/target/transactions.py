"""Transactions over one connection, one in flight, with the next one opened ahead.

Behind each EXEC go ``WATCH checkpoint``, ``HGET checkpoint epoch`` and ``MULTI``. So a transaction is known to be open
before anything is put into it, without waiting for a round trip: commands never take effect outside of one. And EXEC
does nothing when somebody else wrote or removed the checkpoint: another portd that took over, or a flushed target.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from portd.errors import LinkTaken, TargetError, TargetLost
from portd.resp import request
from portd.target.connection import Disconnected
from portd.target.replies import Verdict, classify, code_of, fatal, presentable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.kernel.replies import Note
    from portd.target.connection import Connection

EXEC: Final = request("EXEC")


class Transactions:
    """Opens and executes transactions on one connection, which stays in db 0 between them.

    Args:
        connection: nothing else may be sent on it.
        key: of the checkpoint.
        epoch: that the checkpoint must carry.

    Attributes:
        exec_seconds: that the last EXEC took at the most, as far as the gap before its reply tells.
    """

    def __init__(self, connection: Connection, key: str, epoch: str) -> None:
        self.connection = connection
        self.exec_seconds = 0.0
        self._epoch = epoch.encode()
        self._preamble = [request("WATCH", key), request("HGET", key, "epoch"), request("MULTI")]
        self._number = connection.sent_replies + 1  # of the reply to HGET
        self._opening: asyncio.Future[Sequence[Note]] | None = connection.confirm(self._preamble, 3, want=1)

    async def opened(self) -> None:
        """Waits until the next transaction is open, and the checkpoint is ours.

        Raises:
            Disconnected: the target is not ready.
            TargetLost: the checkpoint is gone.
            TargetError: another portd writes it, or transactions are refused.
        """
        if self._opening is None:
            return
        notes = await self._opening
        self._opening = None
        errors = [note.text for note in notes if note.text is not None]
        if errors:
            self._refused(errors[0])
        epoch = self.connection.value(self._number)
        if epoch is None:
            raise TargetLost(
                "the target lost its data: the checkpoint is gone",
                hint="a full sync starts over; who flushed the target?",
            )
        if epoch != self._epoch:
            raise taken_over()

    def execute(self, data: Sequence[bytes], replies: int) -> asyncio.Future[Sequence[Note]]:
        """Puts the last commands into the open transaction, executes it and opens the next one.

        Returns:
            The notes on *replies* replies of queueing and, behind them, the reply of EXEC.
        """
        connection = self.connection
        answer: asyncio.Future[Sequence[Note]] = asyncio.get_running_loop().create_future()

        def done(notes: Sequence[Note]) -> None:
            self.exec_seconds = connection.gap_seconds
            if not answer.done():
                answer.set_result(notes)

        connection.send([*data, EXEC], replies + 1, done)
        self._number = self.connection.sent_replies + 1
        self._opening = self.connection.confirm(self._preamble, 3, want=1)
        return answer

    def take_unnoted(self) -> int:
        """How many errors in the last EXEC were too many to be told one by one."""
        counter = self.connection.counter
        unnoted, counter.unnoted = counter.unnoted, 0
        return unnoted

    def _refused(self, text: str) -> None:
        verdict = classify(text)
        if verdict is Verdict.RETRY:
            raise Disconnected(f"the target is not ready: {presentable(text)}", code_of(text).lower())
        if verdict is Verdict.FATAL:
            raise fatal(text)
        raise TargetError(
            f"the target refuses transactions: {presentable(text)}",
            hint="portd's user needs +multi +exec +watch +hget on the target, and ~<checkpoint key>",
        )


def taken_over() -> LinkTaken:
    """The error of an applier that finds somebody else's epoch in the checkpoint."""
    return LinkTaken(
        "another portd writes to this link: the checkpoint carries its epoch",
        hint="stop one of them, or give them different --link names",
    )
