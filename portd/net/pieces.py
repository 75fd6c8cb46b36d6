"""A plain connection for questions whose answers may be too large to hold: replies are read piece by piece."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from portd.errors import SourceLost, TargetRefused
from portd.net.control import Refused
from portd.net.endpoint import TLS_HINT, tls_failure
from portd.net.replies import error_of
from portd.net.resp import request
from portd.net.shapes import MOST_NUMBER, STRANGE, complaint_about, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from portd.net.endpoint import Endpoint

PIECE_BYTES: Final = 1 << 16
READ_AHEAD: Final = 1 << 18
LINE_BYTES: Final = 1 << 16  # no line of a reply is longer
MOST_BYTES: Final = 64 << 20  # of a string that is read whole: names, and code of function libraries
MOST_ELEMENTS: Final = 1 << 20  # of a list: names of a page, libraries
MOST_DEPTH: Final = 8
NO_RESP: Final = "does not speak RESP"


class Wire(asyncio.Protocol):
    """One connection to an end. Commands may be pipelined; replies come in order.

    Args:
        endpoint: the end; its `silence_seconds` is the longest wait for the next bytes of a reply.

    Attributes:
        db: the database that the commands sent so far have selected.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.where = endpoint.display
        self.db = 0
        self._endpoint = endpoint
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._buffer = bytearray()
        self._start = 0  # first byte of the buffer that was not read
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._ended = ""  # why there will be no more bytes

    # -- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Keeps bytes; when nobody takes them, the server has to wait."""
        self._buffer += data
        if len(self._buffer) - self._start > READ_AHEAD and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells who waits."""
        self._ended = str(exc or "it closed the connection")
        self._transport = None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- commands

    async def open(self) -> None:
        """Connects and logs in.

        Raises:
            SourceLost: it cannot be reached.
            TargetRefused: the credentials are refused.
        """
        try:
            self._transport, _ = await self._endpoint.connect(lambda: self, timeout=self._endpoint.connect_seconds)
        except OSError as error:
            raise self._unreachable(error) from None
        auth = self._endpoint.auth_command()
        self.write(auth or request("PING"))
        try:
            await self.reply()
        except Refused as refusal:
            if auth is not None:
                raise error_of(refusal.text, "refuses us", who=self.where, login=True) from None
        except SourceLost:
            if tls_failure(why := await self._endpoint.explained(ConnectionResetError())):
                raise self._unreachable(why) from None
            raise

    def _unreachable(self, error: OSError) -> TargetRefused | SourceLost:
        if why := tls_failure(error):
            return TargetRefused(f"TLS with {self.where} failed: {why}", hint=TLS_HINT)
        return SourceLost(
            f"{self.where} cannot be reached: {error.strerror or error or 'timeout'}", hint="check host, port and TLS"
        )

    def send(self, *words: bytes | str | int) -> None:
        """Adds one command to what is sent when the next reply is waited for."""
        self._unsent.append(request(*words))

    def send_to(self, db: int, *words: bytes | str | int) -> bool:
        """Like `send`, in a database; tells whether a SELECT was put before it, whose reply comes first."""
        selects = db != self.db
        if selects:
            self.send("SELECT", db)
            self.db = db
        self.send(*words)
        return selects

    def write(self, data: bytes) -> None:
        """Sends bytes of commands, with the next reply waited for."""
        self._unsent.append(data)

    async def ask(self, *words: bytes | str | int) -> Any:
        """Sends one command and reads its reply.

        Raises:
            Refused: it is an error.
            SourceLost: the connection ended.
        """
        self.send(*words)
        return await self.answer(" ".join(map(str, words[:2])))

    async def select(self, db: int) -> None:
        """Changes the database, if it is another one."""
        if db != self.db:
            await self.ask("SELECT", db)
            self.db = db

    # -- replies

    async def answer(self, command: str) -> Any:
        """The next reply, which answers *command*: its name, and perhaps more.

        Raises:
            Refused: it is an error.
            SourceLost: the connection ended, or the reply is none to that command.
        """
        answer = await self.reply()
        if complaint := complaint_about(command.upper().encode(), answer):
            raise self.strange(complaint)
        return answer

    async def reply(self, depth: int = 0) -> Any:
        """The next reply: bytes, int, None or a list of such.

        Raises:
            Refused: it is an error.
            SourceLost: the connection ended, or does not speak RESP.
        """
        line = await self._line()
        kind, rest = line[:1], line[1:]
        if kind == b":":
            number = whole(rest.removeprefix(b"-"))
            if number is None:
                raise self.strange(NO_RESP)
            return -number if rest.startswith(b"-") else number
        if kind == b"$":
            size = self._length(rest, MOST_BYTES)
            return None if size < 0 else (await self._exactly(size + 2))[:-2]
        if kind == b"*" and depth < MOST_DEPTH:
            count = self._length(rest, MOST_ELEMENTS)
            return None if count < 0 else [await self.reply(depth + 1) for _ in range(count)]
        if kind == b"-":
            raise Refused(rest.decode("utf-8", "replace"))
        if kind != b"+":
            raise self.strange(NO_RESP)
        return rest

    async def executed(self) -> list[Any] | None:
        """The reply to EXEC, with errors of its commands as `Refused` objects in it; None when it did nothing.

        Raises:
            Refused: the transaction was refused.
        """
        line = await self._line()
        if line[:1] == b"-":
            raise Refused(line[1:].decode("utf-8", "replace"))
        if line == b"*-1":
            return None
        found: list[Any] = []
        for _ in range(int(line[1:])):
            try:
                found.append(await self.reply())
            except Refused as error:
                found.append(error)
        return found

    async def bulk(self) -> int:
        """The length of the bulk reply whose bytes come next, -1 for nil; then read it with `pieces` and `end_bulk`."""
        line = await self._line()
        if line[:1] == b"-":
            raise Refused(line[1:].decode("utf-8", "replace"))
        if line[:1] != b"$":
            raise self.strange(NO_RESP)
        return self._length(line[1:], MOST_NUMBER)

    async def pieces(self, size: int) -> AsyncIterator[bytes]:
        """*size* bytes of the bulk reply as they come."""
        while size:
            if len(self._buffer) == self._start:
                await self._more()
            piece = self._take(min(size, PIECE_BYTES, len(self._buffer) - self._start))
            size -= len(piece)
            yield piece

    async def end_bulk(self, size: int) -> bytes:
        """The last *size* bytes of the bulk reply."""
        return (await self._exactly(size + 2))[:-2]

    def close(self) -> None:
        """Ends the connection; idempotent."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    # -- bytes

    def strange(self, what: str) -> SourceLost:
        """The error for something that no server answers."""
        return SourceLost(f"{self.where} {what}", hint=STRANGE)

    def _length(self, digits: bytes, most: int) -> int:
        """A length or a count, -1 for nil."""
        number = -1 if digits == b"-1" else whole(digits)
        if number is None:
            raise self.strange(NO_RESP)
        if number > most:
            raise self.strange(f"announces {number}, where nothing is longer than {most}")
        return number

    async def _line(self) -> bytes:
        if self._unsent:
            self._flush()
        end = self._buffer.find(b"\r\n", self._start)
        while end < 0:
            if len(self._buffer) - self._start > LINE_BYTES:
                raise self.strange(NO_RESP)
            await self._more()
            end = self._buffer.find(b"\r\n", self._start)
        return self._take(end + 2 - self._start)[:-2]

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) - self._start < size:
            await self._more()
        return self._take(size)

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
        if self._ended or self._transport is None:
            raise self._lost(self._ended or "it was closed")
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._endpoint.silence_seconds):
                await self._waiter
        except TimeoutError:
            raise self._lost("it does not answer") from None
        finally:
            self._waiter = None

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _lost(self, reason: str) -> SourceLost:
        return SourceLost(f"the connection to {self.where} was lost: {reason}", hint="start the verification again")
