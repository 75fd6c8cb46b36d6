"""Takes one snapshot from a live source: a link, a small spool in memory, and whoever reads it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from portd.errors import SourceError, SourceLost
from portd.log import get_logger
from portd.model import Progress
from portd.net.backoff import Backoff
from portd.source.handshake import HandshakeOptions
from portd.source.receiver import Receiver, ReceiverOptions
from portd.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from portd.net.endpoint import Endpoint
    from portd.source.handshake import Transfer

log = get_logger("dump")

SPOOL_BYTES: Final = 8 << 20  # between the socket and the disk or the pipe; when it is full, the source waits


class Fetch:
    """One full sync that ends with its snapshot, or goes on with the stream.

    Args:
        endpoint: the source.
        snapshot_only: ask for no stream, where the source knows that (Redis 6.2.14, Valkey), so that none piles up.

    Attributes:
        spool: what is received.
        progress: counters.
        transfer: what the source agreed to; set by `run`.
    """

    def __init__(self, endpoint: Endpoint, *, snapshot_only: bool) -> None:
        self.progress = Progress()
        self.spool = Spool(memory_bytes=SPOOL_BYTES, directory=None, max_disk_bytes=0)
        self.transfer: Transfer | None = None
        options = ReceiverOptions(handshake=HandshakeOptions(rdb_only=snapshot_only))
        self._snapshot_only = snapshot_only
        self.receiver = Receiver(endpoint, self.spool, self.progress, options=options)

    async def run(self, consume: Callable[[Fetch, Transfer], Awaitable[None]]) -> None:
        """Connects, and has *consume* read the spool until it returns.

        Raises:
            SourceError: no connection, a refusal, or a link that was lost.
            PortdError: of *consume*.
        """
        self.transfer = transfer = await self.receiver.connect(None)
        link = asyncio.create_task(self._receive(), name="receiver")
        try:
            await consume(self, transfer)
        finally:
            link.cancel()
            await asyncio.wait({link})

    async def _receive(self) -> None:
        """Receives until the link ends; who reads the spool learns about it behind the last byte.

        In the stream a lost link is made again where it broke.
        """
        backoff = Backoff()
        while True:
            try:
                await self.receiver.run()
            except SourceLost as error:
                log.info("link ended", error=str(error.args[0]))
                if self._snapshot_only or self.receiver.position is None:
                    self.spool.end(error)
                    return
            try:
                await self._connect_again(backoff)
            except SourceError as error:
                self.spool.end(error)
                return

    async def _connect_again(self, backoff: Backoff) -> None:
        while True:
            await asyncio.sleep(backoff.next_wait())
            try:
                transfer = await self.receiver.connect(self.receiver.position)
            except SourceError as error:
                if not error.retriable:
                    raise
                log.warning("source is not there", error=str(error.args[0]), attempt=backoff.attempts)
                continue
            if transfer.full:
                raise SourceError(
                    "the source cannot continue the stream where the link broke",
                    hint="what was recorded is whole up to there; dump again, perhaps with a larger repl-backlog-size",
                )
            backoff.reset()
            log.info("link continues", offset=transfer.position.offset)
            return

    def close(self) -> None:
        """Ends the connection; idempotent."""
        self.receiver.close()
        self.spool.close()
