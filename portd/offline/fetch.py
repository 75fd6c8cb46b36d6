"""Takes one snapshot from a live source: a link, a small spool in memory, and whoever reads it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from portd.errors import LinkLost
from portd.model import Progress
from portd.source.handshake import HandshakeOptions
from portd.source.link import Link, LinkOptions
from portd.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from portd.endpoint import Endpoint
    from portd.source.handshake import Transfer

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
        options = LinkOptions(handshake=HandshakeOptions(rdb_only=snapshot_only))
        self.link = Link(endpoint, self.spool, self.progress, options=options)

    async def run(self, consume: Callable[[Fetch, Transfer], Awaitable[None]]) -> None:
        """Connects, and has *consume* read the spool until it returns.

        Raises:
            SourceError: no connection, a refusal, or a link that was lost.
            PortdError: of *consume*.
        """
        self.transfer = transfer = await self.link.connect(None)
        link = asyncio.create_task(self._receive(), name="link")
        try:
            await consume(self, transfer)
        finally:
            link.cancel()
            await asyncio.wait({link})

    async def _receive(self) -> None:
        """Receives until the link ends; who reads the spool learns about it behind the last byte."""
        try:
            await self.link.run()
        except LinkLost as error:
            self.spool.end(error)

    def close(self) -> None:
        """Ends the connection; idempotent."""
        self.link.close()
        self.spool.close()
