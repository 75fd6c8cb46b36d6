"""Ordered chunks of one big key: group by group, each a transaction, the next one after the last one's answer.

Appending is neither idempotent nor commutative, and a target that is out of memory may refuse one command and take the
next. Inside ``MULTI`` .. ``EXEC`` a group passes as a whole or not at all, and nothing overtakes it; after a lost
connection the length of a list says which of the two it was.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from portd.errors import InternalError, TargetBusy, TargetError, TargetLost, printable
from portd.resp import request
from portd.target.groupsize import GroupSize
from portd.target.replies import (
    RECONNECT_CODES,
    Verdict,
    abort_cause,
    already_applied,
    classify,
    code_of,
    fatal,
    presentable,
)
from portd.target.settle import Outcome, outcome
from portd.target.wire import Command, split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.kernel.batch import Batch
    from portd.kernel.replies import Note
    from portd.pipeline import Run
    from portd.target.connection import Connection
    from portd.target.lane import Lane

GROUP_BYTES: Final = 1024 * 1024  # in one transaction at the most
GROUP_COMMANDS: Final = 4096  # the same; each may add hundreds of elements
MULTI: Final = request("MULTI")
EXEC: Final = request("EXEC")


class RunServer:
    """Serves one run to its end, over as many connections as it takes.

    Args:
        lane: whose connection, window and counters are used.
        run: the chunks.
    """

    def __init__(self, lane: Lane, run: Run) -> None:
        self._lane = lane
        self._run = run
        self._group: list[Batch] = []  # taken and not acknowledged
        self._data: list[bytes] = []  # what of it has to pass
        self._replies = 0
        self._sent = False  # it may have taken effect
        self._size = GroupSize(min(GROUP_BYTES, lane.options.window_bytes), GROUP_COMMANDS)
        self._streaming = False  # a part of a command was sent and is not held any more

    async def serve(self, connection: Connection) -> None:
        """Sends chunk after chunk until the run ends; goes on where it was when it is called again.

        Raises:
            TargetLost: a command that is passed on in parts was cut, and its bytes are gone.
            TargetBusy: such a command was refused for now, and its bytes are gone.
        """
        if self._streaming:
            raise TargetLost(
                f"the connection was lost inside an element of key {printable(self._run.key)} that is larger than the "
                "memory for it, so it cannot be sent again",
                hint="the snapshot starts over",
            )
        if self._sent and await self._took_effect(connection):
            self._finish()
        while self._group or await self._gather():
            if self._group[0].part:
                await self._lane.room(0)
                await self._stream(connection)
            else:
                await self._lane.options.limiter.take(sum(map(len, self._data)), self._replies + 2)
                await self._lane.room(0)
                await self._commit(connection)

    # -- groups

    async def _gather(self) -> bool:
        """Takes the chunks of the next group, waiting for the first; False at the end of the run."""
        batch = await self._run.peek()
        if batch is None:
            return False
        lane, size, commands = self._lane, 0, 0
        most = self._size
        while True:
            self._group.append(lane.queue.take(self._run, lane.name))
            lane.sending(len(batch))
            size += len(batch)
            commands += batch.replies
            following = self._run.peek_now()
            if batch.part or following is None or following.part:
                break
            if size + len(following) > most.bytes or commands + following.replies > most.commands:
                break
            batch = following
        self._data = [batch.data for batch in self._group]
        self._replies = sum(batch.replies for batch in self._group)
        return True

    def _finish(self) -> None:
        """Every chunk of the group is with the target, or refused for good."""
        group, self._group, self._data = self._group, [], []
        self._sent = self._streaming = False
        for batch in group:
            self._acknowledge(batch)

    def _acknowledge(self, batch: Batch) -> None:
        self._lane.sending(-len(batch), -1)
        self._lane.queue.acknowledge(batch, self._lane.name)

    async def _took_effect(self, connection: Connection) -> bool:
        """Whether the group that was sent on a lost connection was applied. Lists tell by their length.

        Everything else is sent again: it is idempotent, or refuses a second time by itself.
        """
        first = next(split(self._data[0]), None)
        if first is None or first.name != b"RPUSH":
            return False
        while True:
            async with self._lane.wire:
                await self._lane.select(connection, self._run.db)
                number = connection.sent_replies
                answer = connection.confirm([request("LLEN", self._run.key)], 1, want=0)
            notes = await answer
            if not notes:
                length = connection.value(number)
                return isinstance(length, int) and length > self._group[0].base
            text = notes[0].text or "nil"
            if classify(text) is not Verdict.RETRY:
                raise TargetError(f"the target does not tell the length of a list: {presentable(text)}")
            await self._wait(connection, text)

    async def _commit(self, connection: Connection) -> None:
        """Sends the group as one transaction and waits for its outcome."""
        async with self._lane.wire:
            await self._lane.select(connection, self._run.db)
            opened = connection.confirm([MULTI], 1)
            answer = connection.confirm([*self._data, EXEC], self._replies + 1)
        resent, self._sent = self._sent, True
        _check_open(await opened)
        notes = await answer
        self._size.note(connection.gap_seconds, sum(map(len, self._data)), self._replies, connection.round_trip_seconds)
        self._lane.state.replies += self._replies + 2
        self._lane.state.errors += len(notes)
        result = outcome(notes, self._replies)
        if result.committed:
            await self._committed(connection, result, resent=resent)
        else:
            self._sent = False
            await self._aborted(connection, result)

    async def _committed(self, connection: Connection, result: Outcome, *, resent: bool) -> None:
        """The transaction ran; commands that failed in it are refused, or go again alone."""
        trouble = ""
        again: list[bytes] = []
        data = b"".join(self._data) if result.failed else b""
        commands = list(split(data))
        for number, text in result.failed.items():
            if resent and already_applied(text):
                continue
            command = commands[number]
            if classify(text) is Verdict.RETRY:  # a script ran out of memory
                trouble = text
                again.append(data[command.start : command.end])
            else:
                self._refuse(command, text)
        if trouble:
            self._data, self._replies, self._sent = again, len(again), False
            await self._wait(connection, trouble)
        else:
            self._lane.backoff.reset()
            self._finish()

    async def _aborted(self, connection: Connection, result: Outcome) -> None:
        """Nothing ran. Leaves out what is refused for good, waits out what will pass."""
        cause = abort_cause(result.aborted)
        troubles = [text for text in (*result.queued.values(), cause) if text and classify(text) is Verdict.RETRY]
        fatals = [text for text in (*result.queued.values(), cause) if text and classify(text) is Verdict.FATAL]
        if fatals:
            raise fatal(fatals[0])
        refused = {number: text for number, text in result.queued.items() if classify(text) is Verdict.REJECTED}
        if refused:
            self._leave_out(refused)
        if troubles:
            await self._wait(connection, troubles[0])
        elif not refused:
            raise TargetError(f"the target refuses transactions: {presentable(cause or result.aborted)}")
        if not self._replies:
            self._finish()

    def _leave_out(self, refused: dict[int, str]) -> None:
        data = b"".join(self._data)
        kept: list[bytes] = []
        for number, command in enumerate(split(data)):
            if number in refused:
                self._refuse(command, refused[number])
            else:
                kept.append(data[command.start : command.end])
        self._data, self._replies = kept, len(kept)

    def _refuse(self, command: Command, text: str) -> None:
        self._lane.refuse(self._group[0], command.title, self._run.key, text)

    async def _wait(self, connection: Connection, text: str) -> None:
        self._lane.trouble(connection, text)
        if code_of(text) in RECONNECT_CODES:
            await connection.watch()
        await asyncio.sleep(self._lane.backoff.next_wait())

    # -- commands in parts

    async def _stream(self, connection: Connection) -> None:
        """Passes a command on that no buffer holds: MULTI, its parts as they come, EXEC."""
        errors: list[str] = []

        def queued(notes: Sequence[Note]) -> None:
            errors.extend(note.text or "nil" for note in notes)

        lane = self._lane
        await lane.quiet()  # what would have to be sent again could not get between the parts
        async with lane.wire:
            await lane.select(connection, self._run.db)
            _check_open(await connection.confirm([MULTI], 1))
            while True:
                batch = self._group[0]
                await lane.options.limiter.take(len(batch), batch.replies)
                connection.send([batch.data], batch.replies, queued)
                await connection.drain()
                if not batch.part:
                    break
                following = await self._run.peek()
                if following is None:
                    raise InternalError(f"the snapshot ended inside a command of key {printable(self._run.key)}")
                self._streaming = True
                self._group = [lane.queue.take(self._run, lane.name)]
                lane.sending(len(following))
                self._acknowledge(batch)
            answer = connection.confirm([EXEC], 1)
        result = outcome(await answer, 0)
        for text in (*errors, abort_cause(result.aborted), *result.failed.values()):
            if text:
                self._lost_command(text)
        if result.aborted and not errors and not abort_cause(result.aborted):
            raise TargetError(f"the target refuses transactions: {presentable(result.aborted)}")
        self._finish()

    def _lost_command(self, text: str) -> None:
        """A command that was passed on in parts was refused."""
        verdict = classify(text)
        if verdict is Verdict.FATAL:
            raise fatal(text)
        if verdict is Verdict.RETRY:
            self._lane.note(text)
            raise TargetBusy(
                f"the target refused an element of key {printable(self._run.key)} that is larger than the memory for "
                f"it, so it cannot be sent again: {presentable(text)}",
                hint="the snapshot starts over; give the target more memory",
            )
        command = Command(b"element", self._run.key, 0, 0, 1, b"", 0)
        self._refuse(command, text)


def _check_open(notes: Sequence[Note]) -> None:
    """Makes sure that MULTI was accepted: without it commands take effect one by one.

    Raises:
        TargetError: it was refused.
    """
    if notes:
        raise TargetError(
            f"the target refuses MULTI: {presentable(notes[0].text or 'nil')}",
            hint="portd's user needs +multi and +exec on the target",
        )
