"""A plain connection for questions whose answers may be too large to hold: replies are read piece by piece."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from portd.errors import LinkLost, PortdError
from portd.target.wire import request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from portd.endpoint import Endpoint

PIECE_BYTES: Final = 1 << 16
READ_AHEAD: Final = 1 << 18


class Refused(Exception):
    """An error reply."""


class Wire:
    """One connection to an end. Commands may be pipelined; replies come in order.

    Args:
        endpoint: the end.
        connect_seconds: longest wait for the connection.
        silence_seconds: longest wait for the next bytes of a reply.
    """

    def __init__(self, endpoint: Endpoint, connect_seconds: float, silence_seconds: float) -> None:
        self.where = endpoint.display
        self._endpoint = endpoint
        self._connect_seconds = connect_seconds
        self._silence_seconds = silence_seconds
        self._reader = asyncio.StreamReader(limit=READ_AHEAD)
        self._transport: asyncio.Transport | None = None
        self.db = 0  # selected; those who pipeline their own SELECT set it

    async def open(self) -> None:
        """Connects and logs in.

        Raises:
            LinkLost: it cannot be reached.
            PortdError: the credentials are refused.
        """
        try:
            self._transport, _ = await self._endpoint.connect(
                lambda: asyncio.StreamReaderProtocol(self._reader), timeout=self._connect_seconds
            )
        except OSError as error:
            raise LinkLost(
                f"{self.where} cannot be reached: {error.strerror or error or 'timeout'}",
                hint="check host, port and TLS",
            ) from None
        auth = self._endpoint.auth_command()
        if auth is not None:
            self.write(auth)
            try:
                await self.reply()
            except Refused:
                raise PortdError(f"{self.where} refuses the credentials", hint="check user and password") from None

    def send(self, *words: bytes | str | int) -> None:
        """Sends one command."""
        self.write(request(*words))

    def write(self, data: bytes) -> None:
        """Sends bytes of commands."""
        assert self._transport is not None, "the wire is open"
        self._transport.write(data)

    async def ask(self, *words: bytes | str | int) -> Any:
        """Sends one command and reads its reply.

        Raises:
            Refused: it is an error.
            LinkLost: the connection ended.
        """
        self.send(*words)
        return await self.reply()

    async def select(self, db: int) -> None:
        """Changes the database, if it is another one."""
        if db != self.db:
            await self.ask("SELECT", db)
            self.db = db

    async def reply(self) -> Any:
        """The next reply: bytes, int, None or a list of such.

        Raises:
            Refused: it is an error.
            LinkLost: the connection ended.
        """
        line = await self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return None if rest == b"-1" else (await self._exactly(int(rest) + 2))[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [await self.reply() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        if kind == b"-":
            raise Refused(rest.decode("utf-8", "replace"))
        return rest

    async def bulk(self) -> int:
        """The length of the bulk reply whose bytes come next, -1 for nil; then read it with `pieces` and `end_bulk`."""
        line = await self._line()
        if line[:1] == b"-":
            raise Refused(line[1:].decode("utf-8", "replace"))
        return int(line[1:])

    async def pieces(self, size: int) -> AsyncIterator[bytes]:
        """*size* bytes of the bulk reply as they come."""
        while size:
            async with asyncio.timeout(self._silence_seconds):
                piece = await self._reader.read(min(size, PIECE_BYTES))
            if not piece:
                raise self._lost("it closed the connection")
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

    async def _line(self) -> bytes:
        try:
            async with asyncio.timeout(self._silence_seconds):
                line = await self._reader.readline()
        except (OSError, TimeoutError) as error:
            raise self._lost(str(error) or "it does not answer") from None
        if not line.endswith(b"\r\n"):
            raise self._lost("it closed the connection")
        return line[:-2]

    async def _exactly(self, size: int) -> bytes:
        try:
            async with asyncio.timeout(self._silence_seconds):
                return await self._reader.readexactly(size)
        except asyncio.IncompleteReadError:
            raise self._lost("it closed the connection") from None
        except (OSError, TimeoutError) as error:
            raise self._lost(str(error) or "it does not answer") from None

    def _lost(self, reason: str) -> LinkLost:
        return LinkLost(f"the connection to {self.where} was lost: {reason}", hint="start the verification again")
