"""One lane: an ordered connection to the target that takes batches from the queue and sees them acknowledged.

A lane sends ahead of the replies, up to its window. A batch stays referenced and in the budget until all its replies
are in. What has to be sent again (the target was out of memory, the connection was lost) goes before anything new.
Ordered chunks of big keys are served by `portd.target.run`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from portd.backoff import Backoff
from portd.errors import TargetError, TargetLost
from portd.kernel.batch import CLOSE, OPEN
from portd.log import get_logger
from portd.pipeline import QueueClosed, Run
from portd.resp import request
from portd.target.connection import Connection, ConnectionOptions, Disconnected, connect, text_of, while_connected
from portd.target.deadletter import Letter
from portd.target.limiter import Limiter
from portd.target.replies import RECONNECT_CODES, Verdict, classify, code_of, fatal, presentable
from portd.target.run import RunServer
from portd.target.settle import settle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.endpoint import Endpoint
    from portd.kernel.batch import Batch
    from portd.kernel.replies import Note
    from portd.model import LaneState
    from portd.pipeline import BatchQueue
    from portd.target.deadletter import DeadLetters
    from portd.target.seats import Seats

_log = get_logger("target")

DEFAULT_WINDOW_BYTES: Final = 512 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterOptions:
    """How the snapshot is written.

    Attributes:
        writers: number of lanes.
        window_bytes: how much one lane sends ahead of the replies.
        skip_existing: existing keys are left alone; must agree with the decoder's setting.
        seats: lanes that take batches at the beginning; more do so only where distance bounds the sync.
        run_id: the target process the snapshot began with; "" when it is not known.
        marker_key: a key in db 0 that exists while the snapshot runs, asked for where the run id is not told; b"" none.
        limiter: what all lanes ask before they send.
        connection: how connections are made.
    """

    writers: int = 4
    window_bytes: int = DEFAULT_WINDOW_BYTES
    skip_existing: bool = False
    seats: int = 1
    run_id: str = ""
    marker_key: bytes = b""
    limiter: Limiter = field(default_factory=Limiter)
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)


@dataclass(slots=True, eq=False)
class Delivery:
    """A batch on its way.

    Attributes:
        batch: counts against the budget until the delivery is over.
        data: the commands that still have to pass.
        replies: what they bring.
        failed: keys refused so far.
        filtered: keys left alone so far.
        resent: sent before; some of it may have taken effect.
        sent_at: seconds of `time.monotonic`.
    """

    batch: Batch
    data: bytes
    replies: int
    failed: int = 0
    filtered: int = 0
    resent: bool = False
    sent_at: float = 0.0

    @property
    def asks_existence(self) -> bool:
        """It is an OPEN whose first reply says whether the key exists."""
        return self.batch.kind == OPEN and self.data.startswith(b"*2\r\n$6\r\nEXISTS\r\n")


def lane_name(index: int) -> str:
    """What a lane is called: its connection, and its share of the budget."""
    return f"lane-{index}"


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
        self.state = state
        self.queue = queue
        self.options = options
        self.backoff = Backoff(options.connection.retry_first_seconds, options.connection.retry_limit_seconds)
        self.wire = asyncio.Lock()  # held while bytes that belong together are sent
        self._endpoint = endpoint
        self._letters = letters
        self._seats = seats
        self._seated = False
        self._full = False  # had to wait for room in the window
        self._client_id = 0  # of the connection
        self._db = 0  # of the connection
        self._in_flight: deque[Delivery] = deque()  # sent, in order
        self._again: deque[Delivery] = deque()  # to be sent again, before anything new
        self._held: Batch | None = None  # taken from the queue, not sent yet
        self._run: RunServer | None = None
        self._changed = asyncio.Event()  # something was acknowledged or has to be sent again

    async def run(self) -> None:
        """Serves the queue until it is closed and everything taken from it is acknowledged.

        Raises:
            TargetError: the target refuses everything.
            TargetLost: what was applied before may be gone, or bytes that are gone were cut: the snapshot must start
                over.
            TargetRejected: a command was refused and the policy is to stop.
        """
        while True:
            try:
                connection = await self._connect()
                try:
                    await while_connected(connection, self._serve(connection), self._repeat(connection))
                finally:
                    connection.close()
            except Disconnected as lost:
                self._lose(lost)
                await asyncio.sleep(self.backoff.next_wait())
            else:
                return

    def discard(self) -> None:
        """Lets go of all batches; `run` has ended."""
        self._in_flight.clear()
        self._again.clear()
        self._held = self._run = None
        self._changed.set()

    # -- what a run needs as well

    async def select(self, connection: Connection, db: int) -> None:
        """Makes *db* the connection's database. Waits for the answer: commands must not follow a SELECT that failed."""
        if db == self._db:
            return
        notes = await connection.confirm([request("SELECT", db)], 1)
        if not notes:
            self._db = db
            return
        text = notes[0].text or "nil"
        if classify(text) is Verdict.RETRY:
            self.trouble(connection, text)
            raise Disconnected(f"{self.name}: SELECT was refused: {presentable(text)}", code_of(text).lower())
        raise TargetError(
            f"the target has no database {db}: {presentable(text)}", hint="raise `databases` in the target's settings"
        )

    def trouble(self, connection: Connection, text: str) -> None:
        """Notes that the target refuses for now; ends a connection that will not recover."""
        self.state.retries += 1
        self.note(text)
        if code_of(text) in RECONNECT_CODES:
            reason = code_of(text).lower()
            connection.fail(Disconnected(f"{self.name}: the target is not ready: {presentable(text)}", reason))

    def note(self, text: str) -> None:
        """Shows operators the newest error."""
        self._letters.progress.last_error = f"{self.name}: {presentable(text)}"

    def refuse(self, batch: Batch, command: str, key: bytes, text: str) -> None:
        """Keeps a dead letter; only the first one of a big key."""
        if batch.fence:
            if self.queue.failed(batch):
                return
            self.queue.fail(batch)
        letter = Letter(
            phase="snapshot", db=batch.db, key=key, command=command, offset=batch.offset, reply=presentable(text)
        )
        self._letters.add(letter)

    async def room(self, size: int) -> None:
        """Waits until *size* more bytes may be on their way and nothing has to be sent again."""
        while self._again or (self._in_flight and self.state.in_flight_bytes + size > self.options.window_bytes):
            self._full = True
            self._changed.clear()
            await self._changed.wait()

    async def quiet(self) -> None:
        """Waits until nothing is on its way."""
        while self._in_flight or self._again:
            self._changed.clear()
            await self._changed.wait()

    def sending(self, size: int, batches: int = 1) -> None:
        """Counts bytes that are on their way; negative numbers: that have arrived."""
        self.state.in_flight_bytes += size
        self.state.in_flight_batches += batches

    # -- connection

    async def _connect(self) -> Connection:
        connection = await connect(
            self._endpoint, self.name, self.state.link, self.options.connection, replaces=self._client_id
        )
        self._client_id = connection.client_id
        self._db = 0
        try:
            await self._recognise(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _recognise(self, connection: Connection) -> None:
        """Makes sure that this is the process that holds what was acknowledged.

        A target that was restarted may have lost acknowledged writes, and so may a promoted replica.

        Raises:
            TargetLost: it is another one.
        """
        if not self.options.run_id:
            await self._look_for_marker(connection)
            return
        (info,) = await connection.ask(request("INFO", "server"))
        text = text_of(info)
        if text:
            self._check_ready(text)
            await self._look_for_marker(connection)
            return
        found = next((line[7:] for line in info.decode().splitlines() if line.startswith("run_id:")), "")
        if found and found != self.options.run_id:
            raise TargetLost(
                "the target was restarted or replaced during the snapshot, so acknowledged keys may be missing",
                hint="the snapshot starts over",
            )

    async def _look_for_marker(self, connection: Connection) -> None:
        if not self.options.marker_key:
            return
        (found,) = await connection.ask(request("EXISTS", self.options.marker_key))
        self._check_ready(text_of(found))
        if found == 0:
            raise TargetLost(
                "the target lost its data during the snapshot: our marker is gone", hint="the snapshot starts over"
            )

    def _check_ready(self, text: str) -> None:
        """Gives this attempt up when the target answers nothing yet."""
        if text and classify(text) is Verdict.RETRY:
            raise Disconnected(f"{self.name}: the target is not ready: {text}", code_of(text).lower())

    def _lose(self, lost: Disconnected) -> None:
        """Prepares to send everything again that was not acknowledged."""
        self._letters.progress.last_error = str(lost)
        self.state.link.losses[lost.reason] += 1
        _log.warning(
            "lane lost its connection", lane=self.state.index, reason=lost.reason, batches=len(self._in_flight)
        )
        for delivery in (*self._in_flight, *self._again):
            delivery.resent = True
        self._again.extendleft(reversed(self._in_flight))
        self._in_flight.clear()

    # -- sending

    async def _serve(self, connection: Connection) -> None:
        """Takes items until the queue is closed, then waits until nothing is on its way."""
        try:
            while await self._next(connection):
                await self._serve_held(connection)
        finally:
            self._stand()
        await self.quiet()

    async def _next(self, connection: Connection) -> bool:
        """Takes the next batch, unless there is one; serves runs meanwhile. False at the end.

        Only taking needs a seat: what was taken goes its way, however many seats there are.
        """
        while self._held is None:
            if self._run is not None:
                self._stand()
                await self._run.serve(connection)
                self._run = None
            if self._seats.crowded:
                self._stand()
            if not self._seated:
                await self._seats.take()
                self._seated = True
            try:
                item = await self.queue.get(self.name)
            except QueueClosed:
                return False
            if isinstance(item, Run):
                self._run = RunServer(self, item)
            else:
                self._held = item
        return True

    def _stand(self) -> None:
        """Gives the seat back."""
        if self._seated:
            self._seated = False
            self._seats.give()

    async def _serve_held(self, connection: Connection) -> None:
        """Sends the batch that was taken."""
        batch = self._held
        if batch is not None:
            await self.options.limiter.take(len(batch), operations(batch))
            await self.room(len(batch))
            async with self.wire:
                await self.select(connection, batch.db)
                self._held = None
                self._send(connection, Delivery(batch, batch.data, batch.replies, sent_at=time.monotonic()))

    def _send(self, connection: Connection, delivery: Delivery) -> None:
        self._in_flight.append(delivery)
        self.sending(len(delivery.batch))
        number = connection.sent_replies
        want = 0 if delivery.asks_existence else -1
        connection.send([delivery.data], delivery.replies, partial(self._arrived, connection, number), want)

    async def _repeat(self, connection: Connection) -> None:
        """Sends again what has to be, one batch at a time, for as long as it takes."""
        while True:
            while self._again:
                delivery = self._again[0]
                await self.options.limiter.take(len(delivery.data), delivery.replies)
                async with self.wire:
                    await self.select(connection, delivery.batch.db)
                    number = connection.sent_replies
                    want = 0 if delivery.asks_existence else -1
                    answer = connection.confirm([delivery.data], delivery.replies, want)
                notes = await answer
                self._again.popleft()
                if not self._settle(connection, delivery, number, notes):
                    await asyncio.sleep(self.backoff.next_wait())
            self._changed.clear()
            await self._changed.wait()

    # -- replies

    def _arrived(self, connection: Connection, number: int, notes: Sequence[Note]) -> None:
        """All replies of the oldest delivery are in."""
        delivery = self._in_flight.popleft()
        self._seats.note(time.monotonic() - delivery.sent_at, connection.round_trip_seconds, full=self._full)
        self._full = False
        self._settle(connection, delivery, number, notes)

    def _settle(self, connection: Connection, delivery: Delivery, number: int, notes: Sequence[Note]) -> bool:
        """Judges the replies of a delivery; tells whether it is over, else it will be sent again."""
        self.state.replies += delivery.replies
        exists = delivery.asks_existence and connection.value(number) == 1
        if notes and not self._judge(connection, delivery, notes):
            self._again.append(delivery)
            self._changed.set()
            return False
        batch = delivery.batch
        self.backoff.reset()
        self.sending(-len(batch), -1)
        failed = min(delivery.failed, batch.keys) if not batch.fence else delivery.failed
        filtered = min(delivery.filtered, batch.keys - failed) if not batch.fence else 0
        self.queue.acknowledge(batch, self.name, failed=failed, filtered=filtered, exists=exists)
        self._changed.set()
        return True

    def _judge(self, connection: Connection, delivery: Delivery, notes: Sequence[Note]) -> bool:
        """Handles errors; tells whether nothing has to be sent again."""
        settled = settle(delivery.data, notes, resent=delivery.resent, skip_existing=self.options.skip_existing)
        self.state.errors += len(notes)
        if settled.fatal:
            raise fatal(settled.fatal)
        for command, text in settled.refused:
            self.refuse(delivery.batch, command.title, command.key, text)
        delivery.failed += settled.failed
        delivery.filtered += settled.filtered
        if not settled.again:
            return True
        if settled.trouble:
            self.trouble(connection, settled.trouble)
        if delivery.batch.kind != CLOSE:
            delivery.data, delivery.replies = settled.again, settled.again_replies
        delivery.resent = True
        return False


def operations(batch: Batch) -> int:
    """What a batch counts for against a limit: its commands, or its keys where a command writes several."""
    return max(batch.replies, batch.keys)
