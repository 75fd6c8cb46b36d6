"""The source's side of a session: what it sends goes into the spool, over as many connections as it takes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portd.log import get_logger
from portd.source.keeper import Keeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.errors import SourceLost
    from portd.model import Position, Progress
    from portd.net.endpoint import Endpoint
    from portd.source.handshake import Transfer
    from portd.source.receiver import Receiver
    from portd.spool import Spool
    from portd.target.kept.checkpoint import Checkpoint

log = get_logger("sync")


@dataclass(frozen=True, slots=True)
class StreamStart:
    """Where a stream begins: behind a snapshot that is applied, or where an earlier session had come to.

    Attributes:
        index: of the spool.
        checkpoint: as it is in the target.
        since: unix time; the target has nothing of the stream since then.
        branch: the history has gone on under another id from this offset; None where it has not.
    """

    index: int
    checkpoint: Checkpoint
    since: float
    branch: int | None = None


class Inflow:
    """Receives one history.

    Args:
        receiver: connected, and not running yet.
        spool: what it fills.
        progress: counters.
        transfer: what the source agreed to.
        spacing: seconds to wait at the least before a lost connection is made again: full syncs follow one another, and
            the next loss may cost the source the next fork.

    Attributes:
        receiver: see above.
        spool: see above.
        transfer: see above.
        replid: the history's id by now: it changes when the source is promoted.
        linked: set while the source is connected.
        relinked: set when it was connected again; whoever looks at it clears it.
        ended: set when nothing more comes in.
        on_again: told the unix time of the last byte before the loss, when the connection was made again.
        needed: whether bytes that were read are to be read again: none are let go of then, however full the spool is.
    """

    def __init__(
        self, receiver: Receiver, spool: Spool, progress: Progress, transfer: Transfer, *, spacing: float = 0.0
    ) -> None:
        self.receiver = receiver
        self.spool = spool
        self.transfer = transfer
        self.replid = transfer.position.replid
        self.linked, self.relinked, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.linked.set()
        self.on_again: Callable[[float], None] = lambda _: None
        self.needed: Callable[[], bool] = lambda: False
        self._progress = progress
        self._lost_at = 0.0
        self._decoded = asyncio.Event()  # the snapshot is in the spool to its end
        self._keeper = Keeper(
            receiver, progress, "sync", ended=self.ended, spacing=spacing,
            on_lost=self._on_lost, on_again=self._on_again,
        )  # fmt: skip
        spool.watch(self._let_go)

    @property
    def endpoint(self) -> Endpoint:
        """The source's address."""
        return self.receiver.endpoint

    async def run(self) -> None:
        """Receives until `end`.

        Raises:
            HistoryLost: the source begins another full sync.
            SourceError: the connection was lost inside of the snapshot, or the source refuses for good.
        """
        await self._keeper.run()

    def stream_begins(self, index: int, position: Position) -> None:
        """The snapshot is whole, and the stream begins at *index* of the spool: a loss is no failure from now on."""
        self.replid = position.replid
        self.receiver.stream_begins(index, position)
        self._decoded.set()

    def end(self) -> None:
        """Nothing more comes in; what is in the spool can be read. Idempotent."""
        self.receiver.close()
        self.spool.end()
        self.ended.set()

    async def _on_lost(self, error: SourceLost) -> None:
        """The connection is made again without the target's side knowing, unless it broke inside of the snapshot."""
        self.linked.clear()
        self._lost_at = self._progress.source.last_received_at
        if self.receiver.position is None:
            # Perhaps all of the snapshot came before; the decoder will tell, or fail at the cut.
            self.spool.end(error)
            await self._decoded.wait()

    def _on_again(self, transfer: Transfer) -> None:
        self._progress.stream.caught_up = False  # what was written meanwhile is still to come
        replid = transfer.position.replid
        if replid != self.replid:
            log.info("history has a new id", replid=replid, was=self.replid)
            self.replid = replid
        self.on_again(self._lost_at)
        self.linked.set()
        self.relinked.set()

    def _let_go(self) -> None:
        """A transaction fills the spool and nothing can be spilled: let it pass, at the price of asking the source for it
        again should the target fail now.
        """  # noqa: D205
        if not self.needed():
            self.spool.release(self.spool.cursor)
