"""What the target's answers make of a lane's loads: acknowledged, refused for good, or kept to be sent again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from portd.errors import TargetBusy, TargetError, TargetLost, printable
from portd.net.replies import RECONNECT_CODES, Verdict, abort_cause, classify, code_of, fatal, presentable, sort_out
from portd.target.connection import Disconnected
from portd.target.deadletter import Letter
from portd.troubles import TARGET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.kernel.batch import Batch
    from portd.kernel.replies import Note
    from portd.kernel.requests import Command
    from portd.model import LaneState
    from portd.net.backoff import Backoff
    from portd.pipeline import BatchQueue, Run
    from portd.target.deadletter import DeadLetters
    from portd.target.judge import Outcome
    from portd.target.snapshot.load import Load


class Settling:
    """Settles the loads of one lane.

    Args:
        name: of the lane.
        state: counters that operators see.
        queue: where batches are acknowledged.
        letters: receives refusals.
        backoff: of waits before the same bytes go again.
        skip_existing: keys that are there are left alone.
    """

    def __init__(
        self,
        name: str,
        state: LaneState,
        queue: BatchQueue,
        letters: DeadLetters,
        backoff: Backoff,
        *,
        skip_existing: bool,
    ) -> None:
        self._name = name
        self._state = state
        self._queue = queue
        self._letters = letters
        self._backoff = backoff
        self._skip_existing = skip_existing

    # -- loads

    def answered(self, load: Load, notes: Sequence[Note], *, resent: bool) -> None:
        """Commands were executed one by one; what is left of the load is to be sent again."""
        self._state.errors += len(notes)
        self.executed(load, {note.reply: note.text for note in notes if note.text is not None}, resent=resent)

    def executed(self, load: Load, failed: dict[int, str], *, resent: bool) -> None:
        """Commands were executed, and some failed: they are refused, or the load keeps them to be sent again."""
        load.trouble = ""
        if not failed:
            self.finish(load)
            self._backoff.reset()
            return
        for delivery, settled in load.settle(failed, skip_existing=self._skip_existing, resent=resent):
            if settled.fatal:
                raise fatal(settled.fatal)
            self._refuse_all(delivery.batch, settled.refused)
            load.trouble = load.trouble or settled.trouble
        self._acknowledge(load)
        if not load.trouble:
            self._backoff.reset()

    def aborted(self, load: Load, result: Outcome) -> None:
        """Nothing ran. Leaves out what is refused for good; the rest is to be sent again."""
        cause = abort_cause(result.aborted)
        found = sort_out(result.queued, cause)
        if found.fatal:
            raise fatal(found.fatal)
        for delivery, commands in load.leave_out(found.refused):
            self._refuse_all(delivery.batch, commands)
        load.trouble = found.trouble
        if not load.trouble and not found.refused:
            raise TargetError(f"the target refuses transactions: {presentable(cause or result.aborted)}")
        self._acknowledge(load)

    def finish(self, load: Load) -> None:
        """All of a load is with the target."""
        for delivery in load.deliveries:
            delivery.replies = 0
        self._acknowledge(load)

    def looked_up(self, load: Load, text: str, *, exists: bool) -> None:
        """Whether a big key that is to be left alone is there; *text* is the error where that is not told."""
        batch = load.deliveries[0].batch
        if text:
            if classify(text).ends:
                raise fatal(text)
            self._refuse(batch, "EXISTS", batch.key, text)
        load.deliveries.clear()
        self._arrived(batch)
        self._queue.acknowledge(batch, self._name, failed=int(bool(text)), exists=exists)

    def passed_on(self, run: Run, batch: Batch, errors: list[str], result: Outcome) -> None:
        """Sees whether a command took effect whose bytes are gone."""
        key = printable(run.key)
        if result.nil:
            raise TargetLost(
                f"the epoch changed inside an element of key {key} that is larger than the memory for it",
                hint="the snapshot starts over",
            )
        cause = abort_cause(result.aborted)
        for text in filter(None, (*errors, cause, *result.failed.values())):
            verdict = classify(text)
            if verdict.ends:
                raise fatal(text)
            if verdict is Verdict.RETRY:
                self._note(text)
                raise TargetBusy(
                    f"the target refused an element of key {key} that is larger than the memory for it, so it cannot be "
                    f"sent again: {presentable(text)}",
                    hint="the snapshot starts over; give the target more memory",
                )
            self._refuse(batch, "element", run.key, text)
        if result.aborted and not errors and not cause:
            raise TargetError(f"the target refuses transactions: {presentable(result.aborted)}")

    def _acknowledge(self, load: Load) -> None:
        """What is settled of a load is acknowledged."""
        for delivery in load.take_over():
            batch = delivery.batch
            self._arrived(batch)
            failed = min(delivery.failed, batch.keys) if not batch.fence else delivery.failed
            filtered = min(delivery.filtered, batch.keys - failed) if not batch.fence else 0
            self._queue.acknowledge(batch, self._name, failed=failed, filtered=filtered)

    def _arrived(self, batch: Batch) -> None:
        """Counts a batch that is not on its way any more."""
        self._state.in_flight_bytes -= len(batch)
        self._state.in_flight_batches -= 1

    # -- refusals

    async def wait(self, text: str) -> None:
        """The target refuses for now: waits before the same bytes go again; over a new connection where that helps."""
        self._state.retries += 1
        self._note(text)
        if code_of(text) in RECONNECT_CODES:
            raise Disconnected(f"{self._name}: the target is not ready: {presentable(text)}", code_of(text))
        self._letters.progress.troubles.note(TARGET, code_of(text), presentable(text))
        await asyncio.sleep(self._backoff.next_wait())

    def _note(self, text: str) -> None:
        """Shows operators the newest error."""
        self._letters.progress.errors.note(f"{self._name}: {presentable(text)}")

    def _refuse_all(self, batch: Batch, commands: list[tuple[Command, str]]) -> None:
        """Keeps dead letters of commands of one batch; only the first one of a big key."""
        if batch.fence:
            for command, text in commands:
                self._refuse(batch, command.title, command.key, text)
        else:
            self._letters.add_all([_letter(batch, command.title, command.key, text) for command, text in commands])

    def _refuse(self, batch: Batch, command: str, key: bytes, text: str) -> None:
        """Keeps a dead letter; only the first one of a big key."""
        if batch.fence:
            if self._queue.failed(batch):
                return
            self._queue.fail(batch)
        self._letters.add(_letter(batch, command, key, text))


def _letter(batch: Batch, command: str, key: bytes, text: str) -> Letter:
    return Letter(phase="snapshot", db=batch.db, key=key, command=command, offset=batch.offset, reply=presentable(text))
