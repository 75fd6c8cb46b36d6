"""What the source writes while a cut-over goes on: its stream is followed beside the sync, as another replica does.

The stream is all that ever changes a replica, so it tells for certain which keys have been written since, which bytes of it are
writes and which are none (a primary pings its replicas every ten seconds, and its offset moves by that), and that a source
whose writes were stopped writes no more. It begins at the target's checkpoint, where the database is known that is selected
there, and needs no snapshot: what the source holds for the sync (its backlog) is enough.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from portd.cutover.doubt import Doubt
from portd.errors import SourceError
from portd.groups import TaskGroup
from portd.kernel.stream import StreamSplitter
from portd.kernel.touched import Touched
from portd.model import Progress
from portd.source.handshake import HandshakeOptions
from portd.source.receiver import Receiver, ReceiverOptions
from portd.spool import Spool

if TYPE_CHECKING:
    from portd.kernel.keyspecs import KeySpecs
    from portd.net.endpoint import Endpoint
    from portd.target.kept.checkpoint import Checkpoint

SPOOL_BYTES: Final = 8 << 20
PIECE_BYTES: Final = 1 << 20  # a command above that is looked at in parts
PIECE_COMMANDS: Final = 10_000
TURN_SECONDS: Final = 0.02  # of looking at what is there, before others have their turn


class StreamWatch:
    """Follows the stream of a source; use `connect`, then `run` as a task, `close` at the end.

    Args:
        endpoint: the source.
        psync_command: what it calls PSYNC.
        keys: where the keys of its commands stand.
        spool_bytes: received and not yet looked at; then the source waits.

    Attributes:
        touched: what was written.
        offset: up to where the stream was looked at.
        written: offset behind the last command that may change something; where it began before there was one.
        replid: of the history.
        started_at: unix time of the beginning.
    """

    def __init__(
        self, endpoint: Endpoint, psync_command: str, keys: KeySpecs | None, spool_bytes: int = SPOOL_BYTES
    ) -> None:
        self.touched = Touched(keys)
        self.offset = self.written = 0
        self.replid = ""
        self.started_at = 0.0
        self._where = endpoint.display
        self._moved = asyncio.Event()
        self._db = -1
        self._splitter: StreamSplitter | None = None
        self._spool = Spool(memory_bytes=spool_bytes, directory=None, max_disk_bytes=0)
        wanted = HandshakeOptions(psync_command=psync_command)
        self._receiver = Receiver(
            endpoint, self._spool, Progress(), options=ReceiverOptions(handshake=wanted, acknowledges=False)
        )

    async def connect(self, start: Checkpoint) -> None:
        """Continues the stream behind a checkpoint.

        Raises:
            Doubt: the source does not have that place any more, and would make a snapshot.
            SourceError: it cannot be reached, or refuses.
        """
        transfer = await self._receiver.connect(start.position)
        if transfer.full:
            self._receiver.close()
            raise Doubt(
                "the source cannot continue its stream from the target's checkpoint",
                hint="is the sync caught up? its repl-backlog-size has to hold what is written meanwhile",
            )
        self.replid, self.offset, self._db = transfer.position.replid, start.position.offset, start.db
        self.written = self.offset
        self._splitter = StreamSplitter(self.offset, self._db, piece_bytes=PIECE_BYTES)
        self.started_at = time.time()

    async def run(self) -> None:
        """Follows it until cancelled.

        Raises:
            Doubt: the connection was lost: what the source has written since is not known.
            DecodeError: the stream is wrong.
        """
        async with TaskGroup() as group:
            group.create_task(self._receive(), name="cut-over stream")
            group.create_task(self._look(), name="cut-over keys")

    async def _receive(self) -> None:
        try:
            await self._receiver.run()
        except SourceError as error:
            raise Doubt(
                f"the connection to the source was lost: {error.args[0]}",
                hint="what it has written since is not known: run it again when the source is there",
            ) from error

    async def _look(self) -> None:
        spool = self._spool
        while True:
            chunk = await spool.read()
            self._feed(chunk.data, int(chunk.received_at * 1000))
            spool.release(chunk.end)
            await asyncio.sleep(0)  # much of it may be there already

    def _feed(self, data: memoryview, now_ms: int) -> None:
        splitter, touched = self._splitter, self.touched
        assert splitter is not None
        while data:
            data = data[splitter.feed(data, now_ms) :]
            while (piece := splitter.next_piece(PIECE_BYTES, PIECE_COMMANDS)) is not None:
                before = touched.writes
                self._db = touched.note(piece.data, self._db, piece.part)
                self.offset = piece.end_offset
                if touched.writes != before:
                    self.written = piece.end_offset
        self._moved.set()

    async def reach(self, offset: int) -> None:
        """Returns when the stream was looked at up to there."""
        while self.offset < offset:
            self._moved.clear()
            await self._moved.wait()

    def close(self) -> None:
        """Ends the connection; idempotent."""
        self._receiver.close()
        self._spool.close()
