"""Transactions over one connection, one in flight, with the next one opened ahead.

Behind each EXEC the next transaction is opened: what guards it is watched and asked for, and ``MULTI`` is sent. So a
transaction is known to be open before anything is put into it, without waiting for a round trip: commands never take
effect outside of one. And EXEC does nothing when somebody else wrote or removed what is watched: another portd that took
over, or a flushed target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from portd.errors import DataLost, TargetError
from portd.net.replies import WRONG_TYPE, Verdict, classify, code_of, error_of, presentable
from portd.net.resp import request
from portd.target.connection import Disconnected
from portd.target.kept.epoch import FIELD, taken_over

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from portd.kernel.replies import Note
    from portd.target.connection import Connection
    from portd.target.kept.epoch import Epoch

EXEC: Final = request("EXEC")
MULTI: Final = request("MULTI")


class Guard(Protocol):
    """What must stand in the target for a transaction to take effect; `portd.target.kept.epoch.Epoch` is one."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Of which a value is read, in that order."""

    def questions(self) -> list[bytes]:
        """Commands for db 0: WATCH, and what reads each value."""

    def check(self, *found: object) -> None:
        """Raises what values mean that do not stand; None where there is none."""


class CheckpointGuard:
    """The checkpoint, which every transaction of the stream writes, so that none takes effect behind another one.

    And the epoch beside it: whoever takes the link has it at once.

    Args:
        key: of the checkpoint.
        writer: that the checkpoint must carry as its epoch.
        epoch: what stands beside it.
    """

    def __init__(self, key: str, writer: str, epoch: Epoch) -> None:
        self._key = key
        self._writer = writer.encode()
        self._epoch = epoch

    @property
    def keys(self) -> tuple[str, ...]:
        """See `Guard`."""
        return self._key, self._epoch.key

    def questions(self) -> list[bytes]:
        """See `Guard`."""
        return [
            request("WATCH", self._key, self._epoch.key),
            request("HGET", self._key, "epoch"),
            request("HGET", self._epoch.key, FIELD),
        ]

    def check(self, *found: object) -> None:
        """Makes sure that checkpoint and epoch are ours.

        Raises:
            TargetLost: one is gone.
            LinkTaken: another portd writes it.
        """
        writer, epoch = found
        if writer is None:
            raise DataLost("the target lost its data: the checkpoint is gone")
        if writer != self._writer:
            raise taken_over()
        self._epoch.check(epoch)


class Transactions:
    """Opens and executes transactions on one connection.

    Args:
        connection: nothing else may be sent on it; in db 0.
        guard: what must stand.
        db: that the first transaction is opened in.

    Attributes:
        exec_seconds: that the last EXEC took at the most, as far as the gap before its reply tells.
    """

    def __init__(self, connection: Connection, guard: Guard, *, db: int = 0) -> None:
        self.connection = connection
        self.exec_seconds = 0.0
        self._guard = guard
        self._questions = guard.questions()
        self._db = 0  # of the connection, once what was sent is answered
        self._opening: asyncio.Future[Sequence[Note]] | None = None
        self._number = 0  # of the reply that tells the first guarded value
        self._first = 0  # the same, counted from what opens the transaction
        self._open(db)

    async def opened(self, db: int = 0) -> None:
        """Waits until the next transaction is open in *db*, and what guards it stands.

        Raises:
            Disconnected: the target is not ready, or the connection is lost.
            TargetLost: what guards it is gone.
            LinkTaken: another portd has taken the link.
            TargetError: transactions are refused, or there is no such database.
        """
        if db != self._db:
            if self._opening is not None:
                await self._opening
                self._values()
            self._abandon()
            self._open(db)
        if self._opening is None:
            return
        notes = await self._opening
        self._opening = None
        errors = [note for note in notes if note.text is not None]
        if errors:
            self._refused(errors[0].text or "", errors[0].reply)
        self._guard.check(*self._values())

    def execute(self, data: Sequence[bytes], replies: int) -> asyncio.Future[Sequence[Note]]:
        """Puts the last commands into the open transaction, executes it and opens the next one in the same database.

        Returns:
            The notes on *replies* replies of queueing and, behind them, the reply of EXEC.
        """
        connection = self.connection

        def done() -> None:
            self.exec_seconds = connection.gap_seconds

        answer = connection.confirm([*data, EXEC], replies + 1, also=done)
        self._open(self._db)
        return answer

    def spoil(self, data: Sequence[bytes], replies: int) -> asyncio.Future[Sequence[Note]]:
        """Puts commands into the open transaction of which the target refuses the last one, ends it, and opens the next one.

        Nothing takes effect.

        Returns:
            The notes on *replies* replies of queueing and, behind them, the reply of EXEC.
        """
        answer = self.connection.confirm([*data, EXEC], replies + 1)
        self._open(self._db)
        return answer

    async def ask(self, command: bytes, db: int = 0) -> tuple[bytes | int | None, str]:
        """Asks one question outside of transactions, and opens the next one behind it.

        Returns:
            The value, and "" or the error.
        """
        await self.opened(db)
        self._abandon()
        number = self.connection.sent_replies
        answer = self.connection.confirm([command], 1, want=0)
        self._open(db)
        notes = await answer
        text = next((note.text for note in notes if note.text is not None), "")
        return self.connection.value(number), text

    async def leave(self) -> None:
        """Ends the open transaction, which is empty; the connection is in db 0 and free for something else."""
        await self.opened()
        self._abandon()

    def take_unnoted(self) -> int:
        """How many errors in the last EXEC were too many to be told one by one."""
        counter = self.connection.counter
        unnoted, counter.unnoted = counter.unnoted, 0
        return unnoted

    def _open(self, db: int) -> None:
        """Opens a transaction; the guarded key is in db 0."""
        commands = [*self._questions, MULTI]
        first = 1
        if db or self._db:
            commands = [request("SELECT", 0), *self._questions, request("SELECT", db), MULTI]
            first = 2
        self._db = db
        self._first = first
        self._number = self.connection.sent_replies + first
        self._opening = self.connection.confirm(commands, len(commands))
        for number in range(len(self._questions) - 1):
            self.connection.counter.want(self._number + number)

    def _values(self) -> list[bytes | int | None]:
        """The guarded values, once they have come."""
        return [self.connection.value(self._number + number) for number in range(len(self._questions) - 1)]

    def _abandon(self) -> None:
        """Ends the open transaction, which is empty; what guarded it is watched no more."""
        self.connection.confirm([EXEC], 1)

    def _refused(self, text: str, number: int) -> None:
        """Raises what an error means that answers what opens a transaction; *number* of the answer."""
        if "DB index" in text:
            raise no_database(self._db, text)
        key = self._guard.keys[number - self._first] if code_of(text) == WRONG_TYPE else ""
        hint = "portd's user needs +multi +exec +watch +hget on the target, and ~<checkpoint key>*"
        raise error_of(text, "refuses transactions", hint=hint, key=key, busy=Disconnected)


class Pipeline:
    """Commands outside of transactions, as many on their way as one likes.

    For connections that whoever takes the link ends on the target; see `portd.target.kept.eviction`.

    Args:
        connection: nothing else may be sent on it meanwhile; in db 0.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._db = 0

    async def opened(self, db: int = 0) -> None:
        """Makes *db* the connection's database. Waits for the answer: nothing may follow a SELECT that failed.

        Raises:
            Disconnected: the target is not ready, or the connection is lost.
            TargetError: there is no such database.
        """
        if db == self._db:
            return
        notes = await self.connection.confirm([request("SELECT", db)], 1)
        if notes:
            text = notes[0].text or "nil"
            if classify(text) is Verdict.RETRY:
                raise error_of(text, "refuses a database", busy=Disconnected)
            raise no_database(db, text)
        self._db = db

    def execute(self, data: Sequence[bytes], replies: int, done: Callable[[Sequence[Note]], None]) -> None:
        """Sends commands; *done* gets the notes on their replies."""
        self.connection.send(data, replies, done)


def no_database(db: int, text: str) -> TargetError:
    """The error for a SELECT that was refused."""
    return TargetError(
        f"the target has no database {db}: {presentable(text)}", hint="raise `databases` in the target's settings"
    )
