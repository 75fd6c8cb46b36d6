"""The applier's books: the newest checkpoint, what is in flight, what was refused, and what operators see of it."""

from __future__ import annotations

import asyncio
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from portd.errors import TargetError
from portd.model import Position
from portd.net.replies import presentable
from portd.target.deadletter import UNSUPPORTED, Letter
from portd.target.kept.checkpoint import LEASE_SUFFIX, new_epoch
from portd.target.kept.epoch import EPOCH_SUFFIX
from portd.target.kept.postponed import Postponed
from portd.target.stream.group import Counts, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from portd.kernel.leftout import Refusal
    from portd.model import Progress
    from portd.target.deadletter import DeadLetters
    from portd.target.kept.checkpoint import Checkpoint
    from portd.target.stream.group import Culprit, Frame


AT_ONCE: Final = 512  # dead letters that are kept before others get their turn


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """What will be true when the EXEC in flight turns out to have worked.

    Attributes:
        position: behind the group.
        db: database in effect there.
        counts: of its commands.
        received_at: unix time at which its newest byte was received.
    """

    position: Position
    db: int
    counts: Counts
    received_at: float


@dataclass(slots=True)
class Due:
    """Dead letters that are not written yet.

    Attributes:
        numbers: of the commands, ascending.
        refused: the replies, by number.
        find: tells which commands numbers are.
    """

    numbers: list[int]
    refused: Mapping[int, str]
    find: Callable[[list[int]], list[Culprit]]


class Account:
    """What one applier knows about its target.

    Args:
        key: of the checkpoint.
        checkpoint: the newest one known to be in the target.
        progress: ``stream`` and ``position`` are kept up to date.
        letters: receives refusals.
        caught_up_seconds: bytes received up to that long ago may be missing.

    Attributes:
        keys: of ours in db 0.
        epoch: what our checkpoints carry.
        attempts: groups whose EXEC was sent and not answered, by the offset of their end. More than one when connections
            were lost; only one of them can have taken effect, since each watched the checkpoint.
        excluded: offsets of refused commands that the checkpoint does not cover, ascending.
        caught_up: set while the target has all that was received, but for what came a moment ago.
        postponed: what there may be in the target of expiries that are to be set back.
    """

    def __init__(
        self, key: str, checkpoint: Checkpoint, progress: Progress, letters: DeadLetters, caught_up_seconds: float
    ) -> None:
        self.key = key
        self.keys: tuple[str, ...] = (key, key + LEASE_SUFFIX, key + EPOCH_SUFFIX)
        self.checkpoint = checkpoint
        self.epoch = new_epoch()
        self.attempts: dict[int, Unconfirmed] = {}
        self.excluded = array("Q")
        self._letters_due: deque[Due] = deque()
        self.caught_up = asyncio.Event()
        self.postponed = Postponed(there=checkpoint.postponed)
        self._progress = progress
        self._letters = letters
        self._caught_up_seconds = caught_up_seconds
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []  # offsets that somebody waits for

    @property
    def offset(self) -> int:
        """Replication offset that the checkpoint covers."""
        return self.checkpoint.position.offset

    def adopt(self, replid: str) -> None:
        """The source continues under another id: checkpoints carry it from now on."""
        before = self.checkpoint.position.replid
        self.checkpoint = replace(self.checkpoint, position=Position(replid, self.offset), source_replid2=before)

    def open(self, checkpoint: Checkpoint) -> None:
        """The checkpoint is in the target and ours."""
        self.checkpoint = checkpoint
        self._show()

    def expect(self, offset: int, db: int, counts: Counts, received_at: float) -> Unconfirmed:
        """What a group that ends at *offset* would make true."""
        return Unconfirmed(Position(self.checkpoint.position.replid, offset), db, counts, received_at)

    def frame(self, db: int, expected: Unconfirmed, restated: Sequence[bytes] | None = None) -> Frame:
        """What goes around a group that begins with *db* in effect; see `portd.target.stream.group.frame`.

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
        clear = () if restated is None else self.keys
        checkpoint = mine.render(self.key)
        return frame(checkpoint, before=db, after=expected.db, clear=clear, restated=restated or ())

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
        del self.excluded[: bisect_right(self.excluded, offset)]
        stream = self._progress.stream
        counts = done.counts
        stream.commands_applied += counts.commands - failed
        stream.commands_failed += failed + counts.dead
        stream.commands_filtered += counts.filtered
        stream.commands_own += counts.own
        stream.transactions += 1
        stream.acknowledged_seconds = max(0.0, time.time() - done.received_at)
        self._show()
        for refusal in counts.refusals:
            self._letters.add(letter_of(refusal))
        if counts.dead > len(counts.refusals):
            self._letters.count(UNSUPPORTED, counts.dead - len(counts.refusals))
        if stream.acknowledged_seconds <= self._caught_up_seconds:  # what is missing came after that
            self.caught_up.set()
        else:
            self.caught_up.clear()
        if self._awaited:
            self._tell_reached()

    def catch_up(self, waiting_since: float) -> None:
        """All that was taken is applied.

        Args:
            waiting_since: unix time at which the oldest byte was received that was not; 0 when there is none.
        """
        if not waiting_since or time.time() - waiting_since <= self._caught_up_seconds:
            self.caught_up.set()

    async def reach(self, offset: int) -> None:
        """Waits until the target has everything up to *offset*."""
        if offset <= self.offset:
            return
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited.append((offset, reached))
        await reached

    def _tell_reached(self) -> None:
        for offset, reached in self._awaited:
            if offset <= self.offset and not reached.done():
                reached.set_result(None)
        self._awaited = [(offset, reached) for offset, reached in self._awaited if not reached.done()]

    def leave_out(self, refused: list[tuple[Culprit, str]], commands: int) -> None:
        """Commands that can never be queued: notes to exclude them, that they failed, and dead letters.

        Args:
            refused: they, in their order, with the replies.
            commands: how many that makes in what was sent.

        Raises:
            TargetError: one is a SELECT: commands behind it would land in another database.
            TargetRejected: the policy is to stop.
        """
        for culprit, text in refused:
            if culprit.command == "SELECT":
                raise TargetError(
                    f"the target refuses a SELECT of the stream: {presentable(text)}",
                    hint="give it as many databases as the source has, and let portd's user select them (+select)",
                )
        for culprit, _ in refused:
            at = bisect_left(self.excluded, culprit.offset)
            if at == len(self.excluded) or self.excluded[at] != culprit.offset:
                self.excluded.insert(at, culprit.offset)
        self._progress.stream.commands_failed += commands
        texts = {number: text for number, (_, text) in enumerate(refused)}
        self.keep(texts, lambda numbers: [refused[number][0] for number in numbers])

    def keep(self, refused: Mapping[int, str], find: Callable[[list[int]], list[Culprit]]) -> None:
        """Dead letters: `bury` writes them, while the target is at work.

        Args:
            refused: replies, by a number of the command.
            find: tells which commands ascending numbers are.

        Raises:
            TargetRejected: the policy is to stop; the first one is written.
        """
        if refused:
            self._letters_due.append(Due(sorted(refused), refused, find))
            if self._letters.stops:
                self.bury_now()

    async def bury(self) -> None:
        """Writes the dead letters that are due, some at a time, so that nobody waits for long."""
        while self._letters_due:
            self._bury_some()
            await asyncio.sleep(0)

    def bury_now(self) -> None:
        """Writes all of them."""
        while self._letters_due:
            self._bury_some()

    def _bury_some(self) -> None:
        due = self._letters_due[0]
        numbers, due.numbers = due.numbers[:AT_ONCE], due.numbers[AT_ONCE:]
        if not due.numbers:
            self._letters_due.popleft()
        self._letters.add_all(
            Letter(
                phase="stream",
                db=culprit.db,
                key=culprit.key,
                command=culprit.command,
                offset=culprit.offset,
                reply=presentable(due.refused[number]),
            )
            for number, culprit in zip(numbers, due.find(numbers), strict=True)
        )

    def _show(self) -> None:
        stream = self._progress.stream
        stream.following = True
        stream.applied_offset = stream.checkpointed_offset = self.offset
        self._progress.position = self.checkpoint.position
        self._progress.expiries_to_correct = self.postponed.there


def letter_of(refusal: Refusal) -> Letter:
    """A command of the stream that cannot be written to this target."""
    return Letter(
        phase="stream",
        db=refusal.db,
        key=refusal.key,
        command=refusal.command,
        offset=refusal.offset,
        reply=f"{UNSUPPORTED} {refusal.reason}",
    )
