"""What is written to the target while a cut-over goes on, by whomever: the target names every key that changes.

``CLIENT TRACKING ON BCAST`` is made for caches: the server tells a client the names of all keys that were modified, of whatever
database. It tells of the sync's writes, too; what counts is that a key that somebody else has changed behind our back is looked
at again. A target older than Redis 6.0, or one whose user may not, does not tell, and the report says so.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis

from portd.cutover.doubt import Doubt
from portd.log import get_logger
from portd.net.resp import request

if TYPE_CHECKING:
    from portd.net.endpoint import Endpoint

MOST_NAMES: Final = 1_000_000  # that are held; more are too many to be looked at again

log = get_logger("cutover")


class WriteWatch(asyncio.Protocol):
    """Notes what changes in a server; use `open`, then `run` as a task, `close` at the end.

    Args:
        endpoint: the server.

    Attributes:
        watching: it tells.
        why_not: why it does not, in its words.
        everything: all keys of a database were removed at once.
        lost: there were more names than are held.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.watching = self.everything = self.lost = False
        self.why_not = ""
        self._endpoint = endpoint
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._names: set[bytes] = set()
        self._answers: list[Any] = []
        self._waiting: tuple[int, asyncio.Future[list[Any]]] | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Begins to watch, where the server lets us.

        Raises:
            Doubt: it cannot be reached.
        """
        endpoint = self._endpoint
        login = endpoint.auth_command()
        asked = [*([login] if login else []), request("HELLO", 3), request("CLIENT", "TRACKING", "ON", "BCAST")]
        try:
            async with asyncio.timeout(endpoint.connect_seconds):
                await endpoint.connect(lambda: self, timeout=endpoint.connect_seconds)
                answers = await self._ask(asked)
        except OSError as error:  # TimeoutError is one
            raise Doubt(f"{endpoint.display} does not answer: {error or 'timeout'}") from error
        refused = [str(answer) for answer in answers if isinstance(answer, hiredis.ReplyError)]
        if refused:
            self.why_not = refused[0]
            self.close()
            log.warning(
                "changes of the target by others are not seen",
                reply=self.why_not,
                hint="it takes +hello +client|tracking",
            )
        self.watching = not refused

    async def run(self) -> None:
        """Notes names until cancelled; does nothing where they are not told.

        Raises:
            Doubt: the connection was lost.
        """
        if not self.watching:
            return
        await asyncio.shield(self._ended)
        raise Doubt(
            f"the connection to {self._endpoint.display} was lost", hint="what changed there since is not known"
        )

    async def flush(self) -> None:
        """Returns when everything is noted that was changed before."""
        if self.watching:
            try:
                async with asyncio.timeout(self._endpoint.connect_seconds):
                    for _ in range(2):  # names go out at the end of the server's turn, behind what it answers in that
                        await self._ask([request("PING")])
            except OSError as error:
                raise Doubt(f"{self._endpoint.display} does not answer: {error or 'timeout'}") from error

    def take(self) -> set[bytes]:
        """Names of keys that were changed, of whatever database; they are forgotten here."""
        names, self._names = self._names, set()
        return names

    @property
    def count(self) -> int:
        """Names that are held."""
        return len(self._names)

    def close(self) -> None:
        """Ends the connection; idempotent."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    async def _ask(self, commands: list[bytes]) -> list[Any]:
        if self._transport is None:
            raise ConnectionResetError("the connection is closed")
        self._answers = []
        answered: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting = len(commands), answered
        self._transport.write(b"".join(commands))
        try:
            return await answered
        finally:
            self._waiting = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclasses

    def data_received(self, data: bytes) -> None:
        """Takes answers, and what is told without a question."""
        try:
            self._reader.feed(data)
            while (found := self._reader.gets()) is not False:
                if isinstance(found, hiredis.PushNotification):
                    self._note(found)
                elif self._waiting is not None:
                    self._answers.append(found)
        except hiredis.ProtocolError as error:
            self._end(ConnectionAbortedError(f"it does not speak RESP: {error}"))
            return
        if self._waiting is not None and len(self._answers) == self._waiting[0] and not self._waiting[1].done():
            self._waiting[1].set_result(self._answers)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells who waits."""
        self._end(exc if isinstance(exc, OSError) else ConnectionResetError("it closed the connection"))

    def _end(self, error: OSError) -> None:
        if self._waiting is not None and not self._waiting[1].done():
            self._waiting[1].set_exception(error)
        if not self._ended.done():
            self._ended.set_result(None)
        self.close()

    def _note(self, told: list[Any]) -> None:
        """``invalidate`` and the names, or nil for all of them (tracking.c:trackingInvalidateKeysOnFlush)."""
        if len(told) != 2 or told[0] != b"invalidate":
            return
        if told[1] is None:
            self.everything = True
        elif len(self._names) < MOST_NAMES:
            self._names.update(told[1])
        else:
            self.lost = True
