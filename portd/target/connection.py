"""One data connection to the target: sends bytes under flow control, tells when their replies are in.

What is sent is described by `Expected`: how many replies will come and who wants to know. Replies are counted by
`portd.kernel.replies`, errors among them handed on; `ask` is for the few questions whose answers are read (hiredis).
Reconnecting, sending again and what an error means are the business of lanes and applier.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import hiredis

from portd.errors import InternalError, PortdError, TargetBusy, TargetError, TargetLost, TargetRefused, first_cause
from portd.groups import TaskGroup
from portd.kernel.replies import Note, ReplyCounter
from portd.net.control import Answers
from portd.net.endpoint import TLS_HINT, tls_failure
from portd.net.replies import PROTOCOL_ERROR, classify, error_of, fatal, presentable
from portd.net.resp import request
from portd.net.shapes import STRANGE, Conversation
from portd.troubles import TARGET, Troubles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from portd.model import ConnectionState
    from portd.net.endpoint import Endpoint

WORDLESS: Final = "ERR"  # what an error is taken for that says nothing
NO_NOTES: Final[tuple[Note, ...]] = ()
ResultT = TypeVar("ResultT")


class Disconnected(TargetLost):
    """This connection is gone; lanes and applier make a new one.

    Attributes:
        reason: one word for counters: ``refused``, ``reset``, ``closed``, ``timeout``, ``silent``...
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """How connections are made, beside what their endpoint says.

    Attributes:
        retry_first_seconds: wait after the first failure; doubles with each.
        retry_limit_seconds: longest wait between attempts.
        tag: behind the connection's name as the target shows it.
        imports: the target is in import mode, and this connection is the importer.
        troubles: where refusals that pass are noted.
    """

    retry_first_seconds: float = 0.05
    retry_limit_seconds: float = 5.0
    tag: str = ""
    imports: bool = False
    troubles: Troubles = field(default_factory=Troubles)

    def note(self, error: Disconnected | TargetBusy) -> bool:
        """Notes a refusal that passes; False when *error* is none, but the end of a connection."""
        if isinstance(error, TargetBusy):
            self.troubles.note(TARGET, error.code, str(error.args[0]))
            return True
        return self.troubles.note_loss(error.reason, str(error.args[0]))


@dataclass(slots=True, eq=False)
class Expected:
    """Replies that will come for something sent."""

    first: int  # number of its first reply on this connection
    end: int  # number of the reply behind its last one
    done: Callable[[Sequence[Note]], None]  # gets the notes, reply numbers counted from 0
    future: asyncio.Future[Sequence[Note]] | None = None  # of one who waits for them: it fails with the connection


class Connection(asyncio.Protocol):
    """A connection that is set up; see `connect`.

    Args:
        name: for logs, and what ``CLIENT LIST`` of the target shows.
        state: counters that operators see.
        silence_seconds: owing replies, it is given up when it neither takes nor brings a byte for this long.
    """

    def __init__(self, name: str, state: ConnectionState, silence_seconds: float) -> None:
        self.name = name
        self.state = state
        self.counter = ReplyCounter()
        self.sent_replies = 0  # replies that all that was sent will bring
        self.gap_seconds = 0.0  # before the newest replies: since the ones before them, or since something was sent
        self.named = False  # the target shows it by its name
        self.client_id = 0  # as the target numbers its connections; 0 when it does not tell
        self.round_trip_seconds = math.inf  # the shortest that a question took
        self._silence = silence_seconds
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._expected: deque[Expected] = deque()
        self._question: Answers | None = None
        self._conversation = Conversation()
        self._lost: asyncio.Future[PortdError] = self._loop.create_future()
        self._reason: PortdError | None = None
        self._paused = False
        self._drained: list[asyncio.Future[None]] = []
        self._active_at = self._loop.time()
        self._watchdog: asyncio.TimerHandle | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins; resuming at 0 makes ``drain`` mean that the operating system has every byte.

        Pausing begins above 1: TLS transports pause an empty buffer at 0.
        """
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclasses
        self._transport.set_write_buffer_limits(high=1, low=0)
        self.state.connects += 1
        self._watchdog = self._loop.call_later(self._silence / 4, self._watch_silence)

    def data_received(self, data: bytes) -> None:
        """Counts replies and tells those who wait for them."""
        self._active_at = self._loop.time()
        state, now = self.state, time.time()
        self.gap_seconds = now - max(state.last_received_at, state.last_sent_at)
        state.bytes_received += len(data)
        state.last_received_at = now
        try:
            if self._question is not None:
                if self._question.feed(data):
                    self._question = None
                return
            self.counter.feed(data)
            self._settle()
        except PortdError as error:
            self.fail(error)
        except hiredis.ProtocolError as error:
            self.fail(_no_resp(str(error)))
        except Exception as error:  # noqa: BLE001 - asyncio would log it and lose it; `watch` raises it
            bug = InternalError(f"{self.name}: {type(error).__name__} while taking replies: {error}")
            bug.__cause__ = error
            self.fail(bug)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells everybody who waits."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        self.state.connected = False
        reason = self._reason or _disconnected(self.name, exc)
        if not self._lost.done():
            self._lost.set_result(reason)
        for future in self._drained:
            if not future.done():
                future.set_exception(reason)
        self._drained.clear()
        if self._question is not None and not self._question.future.done():
            self._question.future.set_exception(reason)
        for expected in self._expected:
            if expected.future is not None and not expected.future.done():
                expected.future.set_exception(reason)
                expected.future.exception()  # asyncio need not report it where nobody waits any more
        self._expected.clear()

    def pause_writing(self) -> None:
        """The transport holds bytes that the operating system did not take."""
        self._paused = True

    def resume_writing(self) -> None:
        """The operating system has taken everything."""
        self._paused = False
        self._active_at = self._loop.time()
        drained, self._drained = self._drained, []
        for future in drained:
            if not future.done():
                future.set_result(None)

    def establish(self) -> None:
        """It is set up, and the target has answered: operators see it as connected until it is lost.

        A connection alone tells nothing: the kernel of a target that hangs accepts it, too.
        """
        self.state.connected = not self._lost.done()

    # -- sending

    def send(self, data: Sequence[bytes], replies: int, done: Callable[[Sequence[Note]], None], want: int = -1) -> None:
        """Sends bytes and notes what they will bring.

        Args:
            data: buffers, sent in one write.
            replies: how many replies will come for them; may be 0 for a part of a command.
            done: called in the loop, with errors and nils among those replies, when all are in; never called for no
                replies, or when the connection is lost before. An error it raises ends the connection.
            want: number, from 0, of a reply whose value `value` will tell.

        Raises:
            Disconnected: the connection is gone.
        """
        self._send(data, replies, done, want, None)

    def confirm(
        self, data: Sequence[bytes], replies: int, want: int = -1, also: Callable[[], None] | None = None
    ) -> asyncio.Future[Sequence[Note]]:
        """Like `send`, with a future for the notes, which fails when the connection is lost; *also* is called before."""
        future: asyncio.Future[Sequence[Note]] = self._loop.create_future()

        def done(notes: Sequence[Note]) -> None:
            if also is not None:
                also()
            if not future.done():
                future.set_result(notes)

        self._send(data, replies, done, want, future)
        return future

    def _send(
        self,
        data: Sequence[bytes],
        replies: int,
        done: Callable[[Sequence[Note]], None],
        want: int,
        future: asyncio.Future[Sequence[Note]] | None,
    ) -> None:
        transport = self._open_transport()
        if replies:
            first = self.sent_replies
            self.sent_replies += replies
            self._expected.append(Expected(first, self.sent_replies, done, future))
            if want >= 0:
                self.counter.want(first + want)
        if len(self._expected) <= 1:
            self._active_at = self._loop.time()
        if len(data) == 1:
            transport.write(data[0])
        else:
            transport.writelines(data)
        self.state.bytes_sent += sum(map(len, data))
        self.state.last_sent_at = time.time()

    def value(self, reply: int) -> bytes | int | None:
        """The value of a wanted reply, by its number on the connection; None also for nil and errors."""
        return self.counter.values.pop(reply, None)

    async def ask(self, *commands: bytes) -> list[Any]:
        """Sends commands (one per buffer) and reads their answers; error replies are ``hiredis.ReplyError`` objects.

        Nothing else may be outstanding. Cancelling it leaves the connection unusable: close it.

        Raises:
            Disconnected: the connection was lost before all answers came.
        """
        assert not self._expected, "a question is asked when nothing is outstanding"
        assert self._question is None, "one question at a time"
        transport = self._open_transport()
        question = self._question = Answers(len(commands))
        self._active_at = self._loop.time()
        asked = time.monotonic()
        transport.writelines(commands)
        self.state.bytes_sent += sum(map(len, commands))
        answers = await question.future
        if complaint := self._conversation.complaint(commands, answers):
            self.fail(TargetError(f"the target {complaint}", hint=STRANGE))
            await self.watch()
        self.round_trip_seconds = min(self.round_trip_seconds, time.monotonic() - asked)
        return answers

    async def drain(self) -> None:
        """Waits until the transport holds no byte, so that what was sent takes no memory of ours any more.

        Raises:
            Disconnected: the connection is gone.
        """
        while self._open_transport().get_write_buffer_size():
            if not self._paused:
                await asyncio.sleep(0)  # the transport writes at the end of the loop's turn
                continue
            future: asyncio.Future[None] = self._loop.create_future()
            self._drained.append(future)
            await future

    # -- ending

    @property
    def is_lost(self) -> bool:
        """The connection ended."""
        return self._lost.done()

    async def watch(self) -> None:
        """Waits for the end of the connection, and raises why."""
        raise await asyncio.shield(self._lost)

    def fail(self, error: PortdError) -> None:
        """Ends the connection at once because of *error*, which `watch` raises."""
        if self._reason is None and not self._lost.done():
            self._reason = error
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Ends the connection at once; idempotent."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._transport is not None:
            self._transport.abort()

    # -- inside

    def _open_transport(self) -> asyncio.Transport:
        if self._transport is None or self._lost.done() or self._transport.is_closing():
            raise self._lost.result() if self._lost.done() else (self._reason or _disconnected(self.name, None))
        return self._transport

    def _settle(self) -> None:
        """Tells those whose replies are all in."""
        counter, expected = self.counter, self._expected
        while expected and expected[0].end <= counter.replies:
            head = expected.popleft()
            head.done(counter.take_notes(head.first, head.end) if counter.notes else NO_NOTES)
        if not expected and counter.replies > self.sent_replies:
            for note in counter.notes:
                if note.text and note.text.startswith(PROTOCOL_ERROR):
                    raise fatal(note.text)
            raise _no_resp("more replies than commands")

    def _watch_silence(self) -> None:
        """Gives a connection up that owes something and does not move: keepalive does not notice a stalled peer."""
        quiet = self._loop.time() - self._active_at
        unsent = self._transport is not None and self._transport.get_write_buffer_size() > 0
        if quiet > self._silence and (self._expected or self._question is not None or unsent):
            self.fail(Disconnected(f"{self.name}: no answer from the target for {quiet:.0f} s", "silent"))
            return
        self._watchdog = self._loop.call_later(self._silence / 4, self._watch_silence)


def _no_resp(why: str) -> TargetError:
    """The same error as the kernel's reply counter raises."""
    return TargetError(f"the target does not speak RESP: {why}", hint="check host and port of the target")


def _disconnected(name: str, error: BaseException | None) -> Disconnected:
    """Why a connection ended, in words and in one word."""
    if error is None:
        return Disconnected(f"{name}: the target closed the connection", "closed")
    if isinstance(error, TimeoutError):
        return Disconnected(f"{name}: connection to the target timed out", "timeout")
    if isinstance(error, ConnectionRefusedError):
        return Disconnected(f"{name}: the target refused the connection", "refused")
    if isinstance(error, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)):
        return Disconnected(f"{name}: connection to the target was reset", "reset")
    reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return Disconnected(f"{name}: connection to the target failed: {reason}", "failed")


async def connect(endpoint: Endpoint, name: str, state: ConnectionState, options: ConnectionOptions) -> Connection:
    """Opens a connection, logs in and names it. One attempt.

    Args:
        endpoint: the target.
        name: see `Connection`.
        state: see `Connection`.
        options: see there.

    Raises:
        Disconnected: it could not be made, or was lost while it was set up.
        TargetRefused: the target refused the credentials.
    """
    try:
        _, connection = await endpoint.connect(
            lambda: Connection(name, state, endpoint.silence_seconds), timeout=endpoint.connect_seconds
        )
    except OSError as error:  # TimeoutError is one
        if why := tls_failure(error):
            raise TargetRefused(f"TLS with {endpoint.display} failed: {why}", hint=TLS_HINT) from None
        raise _disconnected(f"{name} to {endpoint.display}", error) from None
    async with set_up(connection, endpoint.connect_seconds):
        await _log_in(connection, endpoint, options)
    return connection


@asynccontextmanager
async def set_up(connection: Connection, seconds: float) -> AsyncIterator[None]:
    """For as long as a connection is set up: it is closed when that fails, or takes too long.

    Raises:
        Disconnected: it took too long.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        connection.close()
        raise Disconnected(f"{connection.name}: the target does not answer", "timeout") from None
    except BaseException:
        connection.close()
        raise


async def _log_in(connection: Connection, endpoint: Endpoint, options: ConnectionOptions) -> None:
    auth = endpoint.auth_command()
    if auth is not None:
        _check_login(connection, endpoint, (await connection.ask(auth))[0], login=True)
    questions = [request("CLIENT", "SETNAME", f"portd-{connection.name}{options.tag}"), request("CLIENT", "ID")]
    if options.imports:  # a target that was restarted forgot its mode
        questions += [request("CONFIG", "SET", "import-mode", "yes"), request("CLIENT", "IMPORT-SOURCE", "ON")]
    answers = await connection.ask(*questions)  # all of it may be forbidden
    _check_login(connection, endpoint, answers[0], login=False)
    connection.named = not text_of(answers[0])
    connection.client_id = answers[1] if isinstance(answers[1], int) else 0


def _check_login(connection: Connection, endpoint: Endpoint, answer: object, *, login: bool) -> None:
    text = text_of(answer)
    if "max number of clients" in text:
        raise Disconnected(f"{connection.name}: the target has no room for more clients", "clients")
    if text and (login or classify(text).ends):
        raise error_of(text, "refuses us", who=f"the target {endpoint.display}", login=login, busy=Disconnected)


async def while_connected(
    connection: Connection, work: Coroutine[Any, Any, ResultT], *background: Coroutine[Any, Any, None]
) -> ResultT:
    """Does *work*, which uses the connection, and *background* beside it; stops both when the connection is lost.

    Returns:
        What *work* returned; *background* is cancelled then.

    Raises:
        Disconnected: the connection was lost; *work* was cancelled.
        PortdError: what ended the connection, or what *work* or *background* raised.
    """
    try:
        async with TaskGroup() as group:
            tasks = [group.create_task(connection.watch(), name=f"{connection.name}-watch")]
            tasks += [group.create_task(other, name=f"{connection.name}-background") for other in background]
            result = await work
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as errors:
        raise first_cause(errors, less=Disconnected) from None  # any other one explains more than the loss
    return result


def text_of(answer: object) -> str:
    """An error reply read by `Connection.ask` as it may be shown; "" when it is not an error."""
    return presentable(str(answer)) or WORDLESS if isinstance(answer, hiredis.ReplyError) else ""
