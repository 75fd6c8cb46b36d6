"""One lane: a connection to the target that takes batches from the queue and sees them acknowledged.

Where our user may end connections (`portd.target.kept.eviction`), a lane sends ahead of the replies, up to its window. Elsewhere
it sends one transaction at a time, fenced by the epoch (`portd.target.kept.epoch`), with the next one opened while EXEC runs,
and two lanes keep a near target busy. Either way, nothing that a lost connection has left takes effect behind what is
sent over a new one. What was taken from the queue stays in the budget until it is acknowledged; what has to be sent again
goes before anything new.

Ordered chunks of big keys come as a run, which one lane serves to its end, in transactions. Appending is not idempotent:
after a lost connection the length of a list says whether the last transaction took effect.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from portd.errors import InternalError, TargetBusy, TargetLost, TargetRefused, printable
from portd.groups import TaskGroup
from portd.kernel.requests import split
from portd.log import get_logger
from portd.net.backoff import Backoff
from portd.net.identity import require_process
from portd.net.replies import Verdict, classify, error_of
from portd.net.resp import request
from portd.target.connection import Connection, Disconnected, connect, text_of, while_connected
from portd.target.groupsize import NEAR_SECONDS
from portd.target.judge import outcome
from portd.target.kept.epoch import FIELD, check, renew
from portd.target.snapshot.intake import Intake
from portd.target.snapshot.settling import Settling
from portd.target.snapshot.writing import lane_name
from portd.target.transactions import Pipeline, Transactions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.kernel.replies import Note
    from portd.model import LaneState
    from portd.net.endpoint import Endpoint
    from portd.pipeline import BatchQueue
    from portd.target.deadletter import DeadLetters
    from portd.target.snapshot.load import Load
    from portd.target.snapshot.seats import Seats
    from portd.target.snapshot.writing import WriterOptions

_log = get_logger("target")

TRANSACTION_COMMANDS: Final = 4  # WATCH, HGET, MULTI and EXEC around a load


class Lane:
    """A writer's connection and everything that is on its way over it.

    Args:
        state: counters that operators see.
        endpoint: the target.
        queue: where batches come from.
        seats: a lane has one while it takes batches.
        letters: receives refusals.
        options: see there.
    """

    def __init__(
        self,
        state: LaneState,
        endpoint: Endpoint,
        queue: BatchQueue,
        seats: Seats,
        letters: DeadLetters,
        options: WriterOptions,
    ) -> None:
        self.name = lane_name(state.index)
        self._state = state
        self._options = options
        self._endpoint = endpoint
        self._letters = letters
        self._seats = seats
        self._intake = Intake(self.name, state, queue, seats, options.window_bytes)
        self._full = False  # had to wait for room in the window
        self._connects = 0  # a connection that follows another one has to void what that left
        self._wire = asyncio.Lock()  # held from a SELECT to what is sent behind it
        self._backoff = Backoff(options.connection.retry_first_seconds, options.connection.retry_limit_seconds)
        self._settling = Settling(self.name, state, queue, letters, self._backoff, skip_existing=options.skip_existing)
        self._in_flight: deque[Load] = deque()  # sent ahead, in order
        self._again: deque[Load] = deque()  # of those, what has to be sent again
        self._load: Load | None = None  # in hand: not sent yet, or in a transaction
        self._streaming = False  # a part of a command was sent and is not held any more
        self._changed = asyncio.Event()  # something was acknowledged, or has to be sent again

    async def run(self) -> None:
        """Serves the queue until it is closed and everything taken from it is acknowledged.

        Raises:
            TargetError: the target refuses everything.
            TargetLost: what was applied before may be gone, or bytes that are gone were cut: the snapshot must start
                over.
            LinkTaken: another process has taken the link.
            TargetRejected: a command was refused and the policy is to stop.
        """
        while True:
            try:
                connection = await self._connect()
                try:
                    await while_connected(connection, self._serve(connection))
                    self._state.finished = True
                finally:
                    connection.close()
            except Disconnected as lost:
                if self._streaming:
                    raise TargetLost(
                        f"a connection was lost inside an element that is larger than the memory for it: {lost}",
                        hint="the snapshot starts over",
                    ) from lost
                self._lose(lost)
                await asyncio.sleep(self._backoff.next_wait())
            else:
                return

    def discard(self) -> None:
        """Lets go of all batches; `run` has ended."""
        self._in_flight.clear()
        self._again.clear()
        self._load = None
        self._intake.discard()

    # -- connection

    async def _connect(self) -> Connection:
        self._connects += 1
        name = f"{self.name}.{self._connects}"
        connection = await connect(self._endpoint, name, self._state.connection, self._options.connection)
        try:
            await self._recognise(connection)
            await self._fence(connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, TargetBusy):
                raise Disconnected(f"{self.name}: {error}", error.code.lower() or "busy") from None
            raise
        connection.establish()
        return connection

    async def _fence(self, connection: Connection) -> None:
        """Voids what connections before this one have left, and makes sure that we may write.

        Whoever takes the link from now on finds this connection by its name, and ends it.
        """
        epoch, eviction = self._options.epoch, self._options.eviction
        if eviction is not None and not connection.named:
            raise TargetRefused(
                "the target does not let us name a connection", hint="allow +client|setname to portd's user"
            )
        if self._connects > 1:
            await renew(connection, epoch)
            if eviction is not None:
                await eviction.ours(connection, f"portd-{self.name}.")
        elif eviction is not None:
            (found,) = await connection.ask(request("HGET", epoch.key, FIELD))
            check(found, "the epoch")
            epoch.check(found)

    async def _recognise(self, connection: Connection) -> None:
        """Makes sure that this is the process that holds what was acknowledged.

        One that was restarted or promoted may have lost acknowledged writes; one that lost the epoch is found out by it.

        Raises:
            TargetLost: it is another one.
        """
        if not self._options.run_id:
            return
        (info,) = await connection.ask(request("INFO", "server"))
        text = text_of(info)
        if text and classify(text) is Verdict.RETRY:
            raise error_of(text, "does not tell who it is", busy=Disconnected)
        require_process(b"" if text else info, self._options.run_id)

    def _lose(self, lost: Disconnected) -> None:
        """Prepares to send everything again that was not acknowledged."""
        self._letters.progress.errors.note(str(lost))
        self._state.connection.losses[lost.reason] += 1
        batches = sum(len(load.deliveries) for load in (*self._in_flight, self._load) if load)
        if not self._letters.progress.troubles.note_loss(lost.reason, str(lost)):
            _log.warning("lane lost its connection", lane=self._state.index, reason=lost.reason, batches=batches)
        self._again.extendleft(reversed(self._in_flight))
        self._in_flight.clear()
        for load in self._again:
            load.trouble = ""  # it was waited for already

    # -- taking

    async def _serve(self, connection: Connection) -> None:
        """Takes items until the queue is closed; everything is acknowledged then."""
        if self._options.eviction is None:
            await self._take_all(connection, None)
            return
        pipeline = Pipeline(connection)
        async with TaskGroup() as group:
            repeat = group.create_task(self._repeat(pipeline), name=f"{self.name}-repeat")
            await self._take_all(connection, pipeline)
            await self._quiet()
            repeat.cancel()

    async def _take_all(self, connection: Connection, pipeline: Pipeline | None) -> None:
        """Load after load, ahead of the replies where there is a pipeline."""
        transactions: Transactions | None = None
        try:
            while (load := await self._gather(connection)) is not None:
                if pipeline is not None and not load.alone:
                    if transactions is not None:
                        await transactions.leave()
                        transactions = None
                    await self._send(pipeline, load)
                    continue
                if transactions is None:
                    await self._quiet()
                    if pipeline is not None:
                        await pipeline.opened()
                    transactions = Transactions(connection, self._options.epoch, db=load.db)
                await self._serve_load(transactions, load)
        finally:
            self._intake.stand()

    async def _serve_load(self, transactions: Transactions, load: Load) -> None:
        """Does what is to be done next about the load in hand."""
        if load.sent and await self._took_effect(transactions, load):
            self._settling.finish(load)
        elif load.deliveries[0].batch.part:
            await self._pass_on(transactions, load)
        elif load.deliveries[0].asks_existence:
            await self._ask_existence(transactions, load)
        else:
            await self._commit(transactions, load)

    async def _gather(self, connection: Connection) -> Load | None:
        """The load in hand: what is left of the last one, or the next. None at the end."""
        if self._load is None or not self._load.deliveries:
            self._load = await self._intake.gather(far=connection.round_trip_seconds > NEAR_SECONDS)
        return self._load

    # -- ahead of the replies

    async def _send(self, pipeline: Pipeline, load: Load) -> None:
        """Sends the load in hand, once there is room for it."""
        await self._options.limiter.take(load.size, load.operations)
        await self._room()
        async with self._wire:
            await pipeline.opened(load.db)
            self._load, load.sent, load.sent_at = None, True, time.monotonic()
            self._in_flight.append(load)
            pipeline.execute(load.data, load.replies, partial(self._arrived, pipeline.connection, load.replies))

    async def _room(self) -> None:
        """Waits until the load in hand may be on its way, too, and nothing has to be sent again."""
        while self._again or (self._in_flight and self._state.in_flight_bytes > self._options.window_bytes):
            self._full = True
            self._changed.clear()
            await self._changed.wait()

    async def _quiet(self) -> None:
        """Waits until nothing is on its way ahead of the replies."""
        while self._in_flight or self._again:
            self._changed.clear()
            await self._changed.wait()

    def _arrived(self, connection: Connection, replies: int, notes: Sequence[Note]) -> None:
        """All replies of the oldest load are in."""
        load = self._in_flight.popleft()
        self._seats.note(time.monotonic() - load.sent_at, connection.round_trip_seconds, full=self._full)
        self._full = False
        self._state.replies += replies
        self._settling.answered(load, notes, resent=False)
        if load.deliveries:
            self._again.append(load)
        self._changed.set()

    async def _repeat(self, pipeline: Pipeline) -> None:
        """Sends again what has to be, one load at a time, for as long as it takes."""
        while True:
            while self._again:
                load = self._again[0]
                if load.trouble:
                    await self._settling.wait(load.trouble)
                await self._options.limiter.take(load.size, load.operations)
                replies = load.replies
                async with self._wire:
                    await pipeline.opened(load.db)
                    answer = pipeline.connection.confirm(load.data, replies)
                notes = await answer
                self._state.replies += replies
                self._settling.answered(load, notes, resent=True)
                if not load.deliveries:
                    self._again.popleft()
            self._changed.set()
            self._changed.clear()
            await self._changed.wait()

    # -- one transaction

    async def _commit(self, transactions: Transactions, load: Load) -> None:
        """Sends the load in hand as a transaction, and settles it; what is left of it stays in hand."""
        connection = transactions.connection
        size, replies = load.size, load.replies
        await self._options.limiter.take(size, load.operations)
        await transactions.opened(load.db)
        sent_at = time.monotonic()
        resent, load.sent = load.sent, True
        notes = await transactions.execute(load.data, replies)
        self._seats.note(time.monotonic() - sent_at, connection.round_trip_seconds, full=True)
        self._intake.size.note(transactions.exec_seconds, size, replies, connection.round_trip_seconds)
        self._state.replies += replies + TRANSACTION_COMMANDS
        self._state.errors += len(notes)
        result = outcome(notes, replies)
        load.sent = not result.committed and resent
        if result.committed:
            self._settling.executed(load, result.failed, resent=resent)
        elif not result.nil:  # else somebody wrote the epoch: the next look tells who
            self._settling.aborted(load, result)
        if load.deliveries and load.trouble:
            await self._settling.wait(load.trouble)

    async def _ask_existence(self, transactions: Transactions, load: Load) -> None:
        """Whether a big key that is to be left alone is there."""
        delivery = load.deliveries[0]
        await self._options.limiter.take(len(delivery.data), 1)
        found, text = await transactions.ask(delivery.data, load.db)
        if text and classify(text) is Verdict.RETRY:
            await self._settling.wait(text)
            return
        self._settling.looked_up(load, text, exists=found == 1)

    async def _took_effect(self, transactions: Transactions, load: Load) -> bool:
        """Whether chunks that were sent on a lost connection were applied. Lists tell by their length.

        Everything else is sent again: it is idempotent, or refuses a second time by itself.
        """
        first = next(iter(split(load.deliveries[0].data)), None) if load.ordered else None
        if first is None or first.name != b"RPUSH":
            return False
        while True:
            length, text = await transactions.ask(request("LLEN", first.key), load.db)
            if not text:
                return isinstance(length, int) and length > load.deliveries[0].batch.base
            if classify(text) is not Verdict.RETRY:
                raise error_of(text, "does not tell the length of a list")
            await self._settling.wait(text)

    # -- commands in parts

    async def _pass_on(self, transactions: Transactions, load: Load) -> None:
        """Passes a command on that no buffer holds, inside of one transaction: its parts as they come."""
        run, errors = self._intake.run, list[str]()
        assert run is not None, "parts come in a run"

        def queued(notes: Sequence[Note]) -> None:
            errors.extend(note.text or "nil" for note in notes)

        async with self._options.epoch.steady:
            await transactions.opened(load.db)
            batch = load.deliveries[0].batch
            while True:
                await self._options.limiter.take(len(batch), batch.replies)
                transactions.connection.send([batch.data], batch.replies, queued)
                await transactions.connection.drain()
                if not batch.part:
                    break
                following = await run.peek()
                if following is None:
                    raise InternalError(f"the snapshot ended inside a command of key {printable(run.key)}")
                self._streaming = True
                self._settling.finish(load)
                load = self._load = self._intake.take_part(run)
                batch = load.deliveries[0].batch
            result = outcome(await transactions.execute([], 0), 0)
        self._settling.passed_on(run, batch, errors, result)
        self._streaming = False
        self._settling.finish(load)
