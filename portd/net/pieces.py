"""A control connection for comparing: it also reads strings that may be too large to hold, piece by piece.

What can be held is asked as over every control connection, for hiredis reads an answer of 12,000 objects in a twentieth of
the time that Python takes. A value cannot be held: its bytes are handed on as they come, and when nobody takes them, the
server has to wait.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import hiredis

from portd.errors import SourceLost, TargetRefused
from portd.net.control import Control, Refused
from portd.net.endpoint import TLS_HINT, tls_failure
from portd.net.replies import error_of
from portd.net.resp import request
from portd.net.shapes import MOST_NUMBER, STRANGE, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from portd.net.endpoint import Endpoint

PIECE_BYTES: Final = 1 << 16
READ_AHEAD: Final = 1 << 18
LINE_BYTES: Final = 1 << 16  # what stands before a string is no longer
MOST_BYTES: Final = 64 << 20  # of answers that are read whole: names of a page, code of function libraries
MOST_OBJECTS: Final = 1 << 20  # in such answers
NO_RESP: Final = "does not speak RESP"


class PieceControl(Control):
    """One connection to an end; see `open`.

    Args:
        endpoint: the end; its `silence_seconds` is the longest wait for the next bytes of an answer.

    Attributes:
        where: the end, as it is shown.
    """

    most_bytes = MOST_BYTES
    most_objects = MOST_OBJECTS

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint.silence_seconds)
        self.where = endpoint.display
        self._endpoint = endpoint
        self._db = 0

    def data_received(self, data: bytes) -> None:
        """Takes answers; however many there are, the wait for them is one for the next bytes."""
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._seconds)
        super().data_received(data)

    async def open(self) -> None:
        """Connects and logs in.

        Raises:
            SourceLost: it cannot be reached.
            TargetRefused: the credentials are refused.
        """
        try:
            await self._endpoint.connect(lambda: self, timeout=self._endpoint.connect_seconds)
        except OSError as error:
            raise self._unreachable(error) from None
        auth = self._endpoint.auth_command()
        try:
            (answer,) = await super().ask(auth or request("PING"))
        except Refused as refusal:
            raise error_of(refusal.text, "refuses us", who=self.where, login=refusal.login) from None
        except OSError as error:
            why = await self._endpoint.explained(error)
            raise (self._unreachable(why) if tls_failure(why) else self.lost(error)) from None
        if auth is not None and isinstance(answer, hiredis.ReplyError):
            raise error_of(str(answer), "refuses us", who=self.where, login=True)

    def _unreachable(self, error: OSError) -> TargetRefused | SourceLost:
        if why := tls_failure(error):
            return TargetRefused(f"TLS with {self.where} failed: {why}", hint=TLS_HINT)
        return SourceLost(
            f"{self.where} cannot be reached: {error.strerror or error or 'timeout'}", hint="check host, port and TLS"
        )

    async def ask(self, *commands: bytes) -> list[Any]:
        """Like `Control.ask`.

        Raises:
            SourceLost: the connection ended, or what came is no answer to that.
            Refused: the server turned us away before it was asked.
        """
        try:
            return await super().ask(*commands)
        except OSError as error:
            raise self.lost(error) from None

    async def execute(self, data: Sequence[bytes], replies: int) -> list[Any] | None:
        """Runs commands in a transaction.

        Args:
            data: RESP commands.
            replies: to these, each of them.

        Returns:
            What they answered, with errors among it; None when nothing was done, since something watched was changed.

        Raises:
            Refused: a command was not queued, or the transaction was refused.
            SourceLost: see `ask`.
        """
        try:
            answers = await self._exchange([request("MULTI"), *data, request("EXEC")], replies + 2)
        except OSError as error:
            raise self.lost(error) from None
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise Refused(str(answer))
        executed: list[Any] | None = answers[-1]
        if executed is not None and not isinstance(executed, list):
            raise self.strange("answers EXEC with neither a list nor nil")
        return executed

    async def select(self, db: int) -> None:
        """Changes the database, if it is another one.

        Raises:
            Refused: there is none of that number.
            SourceLost: see `ask`.
        """
        if db != self._db:
            await self.call("SELECT", db)
            self._db = db

    @asynccontextmanager
    async def strings(self, commands: Sequence[bytes]) -> AsyncIterator[Strings]:
        """Asks for strings; each of them has to be read to its end before the block ends.

        Raises:
            SourceLost: the connection is closed.
        """
        strings = Strings(self, self._seconds)
        try:
            strings.transport = self._send(commands, strings)
        except OSError as error:
            raise self.lost(error) from None
        try:
            yield strings
            strings.resume()
        except BaseException:
            self.close()  # what comes now would be taken for the answers to the next questions
            raise
        finally:
            self._taker = None

    def strange(self, what: str) -> SourceLost:
        """The error for something that no server answers."""
        return SourceLost(f"{self.where} {what}", hint=STRANGE)

    def lost(self, error: OSError) -> SourceLost:
        """What an error of the connection means."""
        if isinstance(error, ConnectionAbortedError):
            return self.strange(str(error).removeprefix("it "))
        reason = "it does not answer" if isinstance(error, TimeoutError) else str(error)
        return SourceLost(f"the connection to {self.where} was lost: {reason}", hint="start the verification again")


class Strings:
    """Answers that are strings, in the order of the questions.

    Args:
        control: whose they are.
        seconds: longest wait for the next bytes.

    Attributes:
        transport: is kept from reading while nobody takes what was read.
    """

    def __init__(self, control: PieceControl, seconds: float) -> None:
        self.transport: asyncio.Transport | None = None
        self._control = control
        self._seconds = seconds
        self._buffer = bytearray()
        self._start = 0  # first byte of the buffer that was not read
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._ended: Exception | None = None

    # -- the connection's side

    def feed(self, data: bytes) -> bool:
        """Keeps bytes; when nobody takes them, the server has to wait."""
        self._buffer += data
        if len(self._buffer) - self._start > READ_AHEAD and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()
        self._wake()
        return False

    def fail(self, error: Exception) -> None:
        """Nothing more comes."""
        self._ended = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- the reader's side

    async def next(self) -> int:
        """The length of the next string, -1 for nil; its bytes are read with `pieces` and `rest`.

        Raises:
            Refused: it is an error.
            SourceLost: the connection ended, or does not speak RESP.
        """
        line = await self._line()
        if line[:1] == b"-":
            raise Refused(line[1:].decode("utf-8", "replace"))
        size = -1 if line == b"$-1" else whole(line[1:]) if line[:1] == b"$" else None
        if size is None or size > MOST_NUMBER:
            raise self._control.strange(NO_RESP)
        return size

    async def pieces(self, size: int) -> AsyncIterator[bytes]:
        """*size* bytes of the string as they come."""
        while size:
            if len(self._buffer) == self._start:
                await self._more()
            piece = self._take(min(size, PIECE_BYTES, len(self._buffer) - self._start))
            size -= len(piece)
            yield piece

    async def rest(self, size: int) -> bytes:
        """The last *size* bytes of the string."""
        while len(self._buffer) - self._start < size + 2:
            await self._more()
        return self._take(size + 2)[:-2]

    def resume(self) -> None:
        """The server may go on."""
        if self._paused and self._ended is None and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()

    async def _line(self) -> bytes:
        end = self._buffer.find(b"\r\n", self._start)
        while end < 0:
            if len(self._buffer) - self._start > LINE_BYTES:
                raise self._control.strange(NO_RESP)
            await self._more()
            end = self._buffer.find(b"\r\n", self._start)
        return self._take(end + 2 - self._start)[:-2]

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[self._start : self._start + size])
        self._start += size
        if self._start == len(self._buffer):
            self._buffer.clear()
            self._start = 0
        elif self._start > READ_AHEAD:
            del self._buffer[: self._start]
            self._start = 0
        return data

    async def _more(self) -> None:
        """Waits for bytes.

        Raises:
            SourceLost: there will be none.
        """
        if self._ended is not None:
            raise self._lost(self._ended)
        self.resume()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._seconds):
                await self._waiter
        except TimeoutError as error:
            raise self._lost(error) from None
        finally:
            self._waiter = None

    def _lost(self, error: Exception) -> SourceLost:
        return self._control.lost(error if isinstance(error, OSError) else ConnectionResetError(str(error)))
