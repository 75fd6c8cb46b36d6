"""Takes one snapshot from a live server: a connection, a small spool in memory, and whoever reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.errors import SourceError, first_cause
from portd.groups import TaskGroup
from portd.model import Progress
from portd.source.keeper import HistoryLost, Keeper
from portd.source.receiver import Receiver, ReceiverOptions
from portd.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from portd.net.endpoint import Endpoint
    from portd.source.handshake import HandshakeOptions, Transfer

SPOOL_BYTES: Final = 8 << 20  # between the socket and the disk or the pipe; when it is full, the source waits


class Fetch:
    """One full sync that ends with its snapshot, or goes on with the stream.

    Args:
        endpoint: the server.
        wanted: what is asked of it. With `rdb_only` no stream is asked for, where the server knows that (Redis 6.2.14,
            Valkey), so that none piles up, and the snapshot is the end.
        spool_bytes: received and not yet read; then the server waits.

    Attributes:
        spool: what is received.
        progress: counters.
    """

    def __init__(self, endpoint: Endpoint, wanted: HandshakeOptions, spool_bytes: int = SPOOL_BYTES) -> None:
        self.progress = Progress()
        self.spool = Spool(memory_bytes=spool_bytes, directory=None, max_disk_bytes=0)
        self.receiver = Receiver(endpoint, self.spool, self.progress, options=ReceiverOptions(handshake=wanted))
        self._snapshot_only = wanted.rdb_only

    async def run(self, consume: Callable[[Fetch, Transfer], Awaitable[None]]) -> None:
        """Connects, and has *consume* read the spool until it returns.

        Raises:
            SourceError: no connection, a refusal, or a connection that was lost.
            PortdError: of *consume*.
        """
        transfer = await self.receiver.connect(None)
        try:
            async with TaskGroup() as group:
                receiving = group.create_task(self._receive(), name="receiver")
                await consume(self, transfer)
                receiving.cancel()
        except BaseExceptionGroup as group:
            raise first_cause(group) from None

    async def _receive(self) -> None:
        """Receives to the end; who reads the spool learns of it behind the last byte."""
        try:
            if self._snapshot_only:
                await self.receiver.run()
            else:
                await Keeper(self.receiver, self.progress, "dump").run()
        except HistoryLost:
            self.spool.end(
                SourceError(
                    "the source cannot continue the stream where the connection broke",
                    hint="what was recorded is whole up to there; dump again, perhaps with a larger repl-backlog-size",
                )
            )
        except SourceError as error:
            self.spool.end(error)

    def close(self) -> None:
        """Ends the connection; idempotent."""
        self.receiver.close()
        self.spool.close()
