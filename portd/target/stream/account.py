"""The books of a strand: what was applied and what was refused, dead letters that are due, and what operators see of it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from portd.errors import TargetError
from portd.net.replies import presentable
from portd.target.deadletter import CROSS_RULE, UNSUPPORTED, Letter, unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portd.config.rules import Choice
    from portd.model import Progress
    from portd.target.deadletter import DeadLetters
    from portd.target.kept.checkpoint import Checkpoint
    from portd.target.kept.postponed import Postponed
    from portd.target.stream.group import Counts, Culprit
    from portd.target.stream.strand import Unconfirmed


AT_ONCE: Final = 512  # dead letters that are kept before others get their turn


def done_by_sibling(text: str, choice: Choice) -> bool:
    """Whether a refusal only says that the link of another shard of a source cluster was faster.

    FUNCTION DELETE is in the stream of every shard, as LOAD is, which replaces what is there.
    """
    return bool(choice.image.slots) and text.startswith("ERR Library not found")


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


class Recorded(Protocol):
    """What has a record: `portd.target.stream.strand.Strand`, or all slots of a cluster together."""

    @property
    def record(self) -> Checkpoint:
        """The newest one."""

    @property
    def postponed(self) -> Postponed:
        """What there may be of expiries that are to be set back."""

    @property
    def offset(self) -> int:
        """Replication offset up to which everything is in the target."""

    @property
    def owing(self) -> int:
        """Keys that are owed to the target."""

    def owes(self, offset: int) -> bool:
        """Whether some are that were so at *offset*, as far as is known."""

    def exclude(self, offset: int) -> None:
        """The command that begins at *offset* can never be queued."""


class Account:
    """What is told of one strand, or of several with one floor.

    Args:
        strand: whose books these are.
        progress: ``stream`` and ``position`` are kept up to date.
        letters: receives refusals.
        caught_up_seconds: bytes received up to that long ago may be missing.

    Attributes:
        caught_up: set while the target has all that was received, but for what came a moment ago.
    """

    def __init__(self, strand: Recorded, progress: Progress, letters: DeadLetters, caught_up_seconds: float) -> None:
        self._strand = strand
        self._letters_due: deque[Due] = deque()
        self.caught_up = asyncio.Event()
        self._progress = progress
        self._letters = letters
        self._caught_up_seconds = caught_up_seconds
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []  # offsets that somebody waits for

    def confirm(self, done: Unconfirmed, failed: int) -> None:
        """A group is in the target; *failed* of its commands did not take effect."""
        stream = self._progress.stream
        counts = done.counts
        stream.keys_copied += max(0, counts.copied - (failed if counts.ours else 0))
        if not counts.ours:  # else copies went alone, and were no commands of the source
            stream.commands_applied += counts.commands + counts.cleared - failed
            stream.commands_failed += failed + counts.dead
        stream.commands_filtered += counts.filtered
        stream.commands_own += counts.own
        stream.commands_left["key"] += counts.by_key
        stream.commands_left["db"] += counts.by_database
        stream.commands_left["command"] += counts.by_name
        stream.commands_left["copy"] += counts.by_copy
        stream.commands_projected += counts.projected
        stream.transactions += 1
        stream.acknowledged_seconds = max(0.0, time.time() - done.received_at)
        self.show()
        for refusal in counts.refusals:
            self._letters.add(unsupported("stream", refusal.command, refusal))
        if counts.dead > len(counts.refusals):
            self._count_untold(counts)
        if stream.acknowledged_seconds <= self._caught_up_seconds:  # what is missing came after that
            self.caught_up.set()
        else:
            self.caught_up.clear()
        if self._awaited:
            self._tell_reached()

    def _count_untold(self, counts: Counts) -> None:
        """Counts dead letters that are too many to be told one by one."""
        told = sum(refusal.code == CROSS_RULE for refusal in counts.refusals)
        crossing = counts.crossing - told
        self._letters.count(CROSS_RULE, crossing)
        self._letters.count(UNSUPPORTED, counts.dead - len(counts.refusals) - crossing)

    def catch_up(self, waiting_since: float) -> None:
        """All that was taken is applied.

        Args:
            waiting_since: unix time at which the oldest byte was received that was not; 0 when there is none.
        """
        if not waiting_since or time.time() - waiting_since <= self._caught_up_seconds:
            self.caught_up.set()

    async def reach(self, offset: int) -> None:
        """Waits until the target has everything up to *offset*, and no key is owed to it that was so there."""
        if self._has(offset):
            return
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited.append((offset, reached))
        await reached

    def _tell_reached(self) -> None:
        for offset, reached in self._awaited:
            if self._has(offset) and not reached.done():
                reached.set_result(None)
        self._awaited = [(offset, reached) for offset, reached in self._awaited if not reached.done()]

    def _has(self, offset: int) -> bool:
        return offset <= self._strand.offset and not self._strand.owes(offset)

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
            self._strand.exclude(culprit.offset)
        self._progress.stream.commands_failed += commands
        self.keep_all(refused)

    def keep_all(self, refused: list[tuple[Culprit, str]]) -> None:
        """The same as `keep`, of commands that are known, with the replies."""
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

    def show(self) -> None:
        """The record of the strand is in the target."""
        record = self._strand.record
        stream = self._progress.stream
        stream.following = True
        stream.applied_offset = stream.checkpointed_offset = record.position.offset
        stream.checkpointed_at = time.time()
        self._progress.position = record.position
        stream.keys_owed = self._strand.owing
        self._progress.expiries_to_correct = self._strand.postponed.there
