"""The applier's books: the newest checkpoint, what is in flight, what was refused, and what operators see of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from portd.errors import TargetError
from portd.model import Position
from portd.target.checkpoint import new_epoch
from portd.target.deadletter import Letter
from portd.target.group import frame
from portd.target.postponed import Postponed
from portd.target.replies import presentable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from portd.model import Progress
    from portd.target.checkpoint import Checkpoint
    from portd.target.deadletter import DeadLetters
    from portd.target.group import Culprit, Frame
    from portd.target.settle import Outcome


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """What will be true when the EXEC in flight turns out to have worked.

    Attributes:
        position: behind the group.
        db: database in effect there.
        commands: of the group.
        filtered: commands that were dropped on purpose between them.
        received_at: unix time at which its newest byte was received.
    """

    position: Position
    db: int
    commands: int
    filtered: int
    received_at: float


class Account:
    """What one applier knows about its target.

    Args:
        key: of the checkpoint.
        checkpoint: the newest one known to be in the target.
        progress: ``stream`` and ``position`` are kept up to date.
        letters: receives refusals.
        caught_up_seconds: a lag up to this is small.

    Attributes:
        epoch: what our checkpoints carry.
        attempts: groups whose EXEC was sent and not answered, by the offset of their end. More than one when connections
            were lost; only one of them can have taken effect, since each watched the checkpoint.
        excluded: offsets of refused commands that the checkpoint does not cover.
        caught_up: set while the lag is small or everything received is applied.
        postponed: what there may be in the target of expiries that are to be set back.
    """

    def __init__(
        self, key: str, checkpoint: Checkpoint, progress: Progress, letters: DeadLetters, caught_up_seconds: float
    ) -> None:
        self.key = key
        self.checkpoint = checkpoint
        self.epoch = new_epoch()
        self.attempts: dict[int, Unconfirmed] = {}
        self.excluded: set[int] = set()
        self.caught_up = asyncio.Event()
        self.postponed = Postponed(there=checkpoint.postponed)
        self._progress = progress
        self._letters = letters
        self._caught_up_seconds = caught_up_seconds

    @property
    def offset(self) -> int:
        """Replication offset that the checkpoint covers."""
        return self.checkpoint.position.offset

    def adopt(self, replid: str) -> None:
        """The source continues under another id: checkpoints carry it from now on."""
        self.checkpoint = replace(self.checkpoint, position=Position(replid, self.offset))

    def open(self, checkpoint: Checkpoint) -> None:
        """The checkpoint is in the target and ours."""
        self.checkpoint = checkpoint
        self._show()

    def expect(self, offset: int, db: int, counts: tuple[int, int], received_at: float) -> Unconfirmed:
        """What a group that ends at *offset* would make true; *counts* are its commands and those dropped from it."""
        commands, filtered = counts
        return Unconfirmed(Position(self.checkpoint.position.replid, offset), db, commands, filtered, received_at)

    def frame(self, db: int, expected: Unconfirmed, restated: Sequence[bytes] | None = None) -> Frame:
        """What goes around a group that begins with *db* in effect; see `portd.target.group.frame`.

        Args:
            db: database in effect before it.
            expected: what it makes true.
            restated: what writes our keys beside the checkpoint, where they have to be cleared away first.
        """
        mine = replace(
            self.checkpoint,
            position=expected.position,
            db=expected.db,
            time_ms=0,
            postponed=self.postponed.there,
        )
        clear = restated is not None
        checkpoint = mine.render(self.key)
        return frame(self.key, checkpoint, before=db, after=expected.db, clear=clear, restated=restated or ())

    def attempt(self, expected: Unconfirmed) -> None:
        """The EXEC of a group is about to be sent."""
        self.attempts[expected.position.offset] = expected

    def refused(self, expected: Unconfirmed) -> None:
        """The EXEC of a group was answered: it did not take effect, and never will."""
        self.attempts.pop(expected.position.offset, None)

    def confirm(self, done: Unconfirmed, failed: int) -> None:
        """A group is in the target; *failed* of its commands did not take effect."""
        self.attempts.clear()
        replid = self.checkpoint.position.replid  # it may have changed since the group was sent
        offset = done.position.offset
        self.checkpoint = replace(self.checkpoint, position=Position(replid, offset), db=done.db)
        self.excluded = {excluded for excluded in self.excluded if excluded > offset}
        stream = self._progress.stream
        stream.commands_applied += done.commands - failed
        stream.commands_failed += failed
        stream.commands_filtered += done.filtered
        stream.transactions += 1
        stream.acknowledged_seconds = max(0.0, time.time() - done.received_at)
        self._show()
        if stream.acknowledged_seconds <= self._caught_up_seconds:
            self.catch_up()
        else:
            self.caught_up.clear()

    def catch_up(self) -> None:
        """The lag is small, or everything received is applied."""
        if not self.caught_up.is_set():
            self.caught_up.set()
            self._progress.stream.caught_up_at = self._progress.stream.caught_up_at or time.time()

    def leave_out(self, refused: list[tuple[Culprit, str]]) -> None:
        """Commands that can never be queued: keeps dead letters, and notes to exclude them.

        Raises:
            TargetRejected: the policy is to stop.
        """
        for culprit, text in refused:
            self.excluded.add(culprit.offset)
            self._progress.stream.commands_failed += 1
            self._bury(culprit, text)

    def bury(
        self, result: Outcome, head_commands: int, commands: int, find: Callable[[int], Culprit], *, scripts: int = 0
    ) -> None:
        """Commands that ran and failed: keeps dead letters.

        Args:
            result: with errors by number in the transaction.
            head_commands: of ours, before the group.
            commands: of the group.
            find: tells which command of the group a number is.
            scripts: commands of ours at the very beginning that are about scripts.

        Raises:
            TargetRejected: the policy is to stop.
            TargetError: a command of ours failed.
        """
        for number, text in result.failed.items():
            if number < scripts:  # what needed it has failed too, and is told
                continue
            if not 0 <= number - head_commands < commands:
                raise TargetError(f"the target refuses the checkpoint: {presentable(text)}")
            self._bury(find(number - head_commands), text)

    def _bury(self, culprit: Culprit, text: str) -> None:
        letter = Letter(
            phase="stream",
            db=culprit.db,
            key=culprit.key,
            command=culprit.command,
            offset=culprit.offset,
            reply=presentable(text),
        )
        self._letters.add(letter)

    def _show(self) -> None:
        stream = self._progress.stream
        stream.applied_offset = stream.checkpointed_offset = self.offset
        self._progress.position = self.checkpoint.position
        self._progress.expiries_to_correct = self.postponed.there
