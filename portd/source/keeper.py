"""Keeps a connection to a source: what it brings goes into the spool, and where it breaks it is made again."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from portd.errors import SourceBusy, SourceError, SourceLost
from portd.log import get_logger
from portd.net.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from portd.model import Progress
    from portd.source.handshake import Transfer
    from portd.source.receiver import Receiver

RECONNECT_SECONDS: Final = 5.0  # longest wait for the source: asking for the stream costs it nothing
LASTING_SECONDS: Final = 1.0  # what lasted no longer did not work: the wait for the next one goes on growing


class HistoryLost(Exception):
    """The source answered the wish to continue with a full sync; *transfer* is already agreed on."""

    def __init__(self, transfer: Transfer) -> None:
        super().__init__("the source cannot continue where we are")
        self.transfer = transfer


class Keeper:
    """Receives until told to end, over as many connections as it takes.

    Args:
        receiver: connected, and not running yet.
        progress: that of the receiver.
        part: of the log, that of whom it is kept for.
        ended: once this is set a loss is the end in order, and nothing more goes into the spool.
        spacing: seconds to wait at the least before a lost connection is made again, until one was.
        on_lost: awaited after every loss, before the connection is made again.
        on_again: told when that was done.
    """

    def __init__(
        self,
        receiver: Receiver,
        progress: Progress,
        part: str,
        *,
        ended: asyncio.Event | None = None,
        spacing: float = 0.0,
        on_lost: Callable[[SourceLost], Awaitable[None]] | None = None,
        on_again: Callable[[Transfer], None] | None = None,
    ) -> None:
        self._receiver = receiver
        self._progress = progress
        self._log = get_logger(part)
        self._ended = ended or asyncio.Event()
        self._spacing = spacing
        self._on_lost = on_lost
        self._on_again = on_again
        self._backoff = Backoff(limit_seconds=RECONNECT_SECONDS)

    async def run(self) -> None:
        """Receives into the spool; after a loss goes on behind the last byte.

        Raises:
            SourceLost: the connection was lost where it cannot go on: in a snapshot.
            HistoryLost: the source begins a full sync instead; the connection is made.
            SourceError: it refuses for good.
        """
        receiver = self._receiver
        while not self._ended.is_set():
            begun = time.monotonic()
            try:
                await receiver.run()
            except SourceLost as error:
                if self._ended.is_set():
                    return
                self._log.warning("source lost", reason=str(getattr(error, "reason", "")), offset=receiver.ack_offset)
                if self._on_lost is not None:
                    await self._on_lost(error)
                if receiver.position is None:
                    raise
                if time.monotonic() - begun > LASTING_SECONDS:
                    self._backoff.reset()
                await self._connect_again()

    async def _connect_again(self) -> None:
        receiver = self._receiver
        while True:
            await asyncio.sleep(max(self._backoff.next_wait(), self._spacing))
            if self._ended.is_set():
                return
            try:
                transfer = await receiver.connect(receiver.position)
            except SourceError as error:
                if not error.retriable:
                    raise
                self._progress.errors.note(str(error))
                if not isinstance(error, SourceBusy):  # the receiver has noted that
                    self._log.warning("source is not there", error=str(error), attempt=self._backoff.attempts)
                continue
            if self._ended.is_set():  # meanwhile
                receiver.close()
                return
            if transfer.full:
                raise HistoryLost(transfer)
            self._spacing = 0.0  # its backlog is large enough
            self._progress.partial_syncs += 1
            if self._on_again is not None:
                self._on_again(transfer)
            self._log.info("source continues", replid=transfer.position.replid, offset=transfer.position.offset)
            return
