"""A stream in memory, and an applier that brings it to a target."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from portd.errors import first_cause
from portd.kernel.stream import Piece, StreamSplitter
from portd.model import Position, Progress
from portd.net.endpoint import Endpoint
from portd.net.resp import request
from portd.target.connection import ConnectionOptions
from portd.target.deadletter import DeadLetters, Letter
from portd.target.kept.checkpoint import Checkpoint, State, read_checkpoint
from portd.target.kept.epoch import Epoch
from portd.target.stream.applier import Applier
from portd.target.stream.applying import ApplierOptions
from tests.fencing import put_checkpoint
from tests.servers import PATIENCE_SECONDS, Server, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable


KEY = "portd:checkpoint:test"

REPLID = "0123456789abcdef0123456789abcdef01234567"

FIRST = 1000  # replication offset before the first byte

FAST = ConnectionOptions(retry_first_seconds=0.005, retry_limit_seconds=0.05)

PATIENCE_MS = 60_000  # of a target that is let go on before


class Stream:
    """A replication stream in memory that can be read again from any offset: what spool and splitter are in the product.

    Args:
        piece_bytes: size of pieces.
        settings: of the splitter.
    """

    def __init__(self, piece_bytes: int = 4096, **settings: Any) -> None:
        self.bytes = bytearray()
        self.released = FIRST
        self.rewinds: list[int] = []
        self.received_at = 0.0
        self.waiting_since = 0.0
        self._piece_bytes = piece_bytes
        self._settings: dict[str, Any] = dict(settings)
        self._fed = 0
        self._ended = False
        self._more = asyncio.Event()
        self._splitter = StreamSplitter(FIRST, 0, piece_bytes=piece_bytes, **settings)

    def write(self, *words: bytes | str | int) -> int:
        """Appends a command; returns the replication offset of its first byte."""
        start = self.end + 1
        self.bytes += request(*words)
        self._more.set()
        return start

    def finish(self) -> None:
        """Says that no more will come."""
        self._ended = True
        self._more.set()

    @property
    def end(self) -> int:
        """Replication offset of the last byte."""
        return FIRST + len(self.bytes)

    async def next_piece(self, max_bytes: int, max_commands: int) -> Piece | None:
        """See `PieceSource`."""
        while (piece := self.pending(max_bytes, max_commands)) is None:
            if self._ended:
                return None
            self._more.clear()
            await self._more.wait()
        return piece

    def pending(self, max_bytes: int, max_commands: int) -> Piece | None:
        """See `PieceSource`."""
        while True:
            piece = self._splitter.next_piece(max_bytes, max_commands)
            if piece is not None:
                self.received_at = time.time()
                return piece
            taken = self._splitter.feed(memoryview(self.bytes)[self._fed : self._fed + 65536].tobytes(), 0)
            self._fed += taken
            if not taken:
                return None

    def rewind(self, offset: int, db: int, owed: str = "") -> None:
        """See `PieceSource`."""
        assert offset >= self.released, "what was released cannot be read again"
        self.rewinds.append(offset)
        self._fed = offset - FIRST
        self._splitter = StreamSplitter(offset, db, piece_bytes=self._piece_bytes, owed=owed, **self._settings)

    def exclude(self, offset: int) -> None:
        """See `PieceSource`."""
        self._splitter.exclude(offset)

    def lack(self, databases: frozenset[int]) -> None:
        """See `PieceSource`."""
        self._settings["lacking"] = self._settings.get("lacking", frozenset()) | databases

    def change(self, **settings: Any) -> None:
        """Other settings of the splitter, from the next `rewind` on."""
        self._settings |= settings

    def release(self, offset: int, owed: str = "") -> None:
        """See `PieceSource`."""
        assert offset > self.released
        self.released = offset


class Sync:
    """An applier on a target, with what a test looks at."""

    def __init__(
        self,
        server: Server,
        stream: Stream,
        *,
        url: str = "",
        stop: bool = False,
        epoch: Epoch | None = None,
        **options: Any,
    ) -> None:
        self.server = server
        self.stream = stream
        self.progress = Progress()
        self.letters = Letters(self.progress, stop=stop)
        self.endpoint = Endpoint.parse(url or server.url)
        self.start = Checkpoint(position=Position(REPLID, FIRST), db=0, epoch="before", state=State.SNAPSHOT)
        self.epoch = epoch or Epoch.of(KEY)
        self.options = ApplierOptions(epoch=self.epoch, **{"connection": FAST, **options})
        self._applier: Applier | None = None

    async def begin(self) -> None:
        """Writes the checkpoint that the applier takes over."""
        await put_checkpoint(Endpoint.parse(self.server.url), KEY, self.start, self.epoch)

    @property
    def applier(self) -> Applier:
        """Made inside of the loop."""
        if self._applier is None:
            self._applier = Applier(
                self.endpoint, self.stream, self.start, KEY, self.progress, self.letters, self.options
            )
        return self._applier

    async def caught_up(self) -> None:
        """Waits until everything written is in the target."""
        await wait_for(lambda: self.progress.stream.checkpointed_offset == self.stream.end, dump=lambda: self.progress)


class Letters(DeadLetters):
    """Dead letters that are kept for the test."""

    def __init__(self, progress: Progress, *, stop: bool) -> None:
        super().__init__(progress, stop=stop)
        self.kept: list[Letter] = []

    def add_all(self, letters: Iterable[Letter]) -> None:
        """Keeps them."""
        letters = list(letters)
        self.kept += letters
        super().add_all(letters)


@contextlib.asynccontextmanager
async def running(sync: Sync, seconds: float = PATIENCE_SECONDS) -> AsyncIterator[Sync]:
    """Runs the applier; at the end the stream is finished and everything must be applied and checkpointed."""
    await sync.begin()
    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            group.create_task(sync.applier.run(), name="applier")
            yield sync
            sync.stream.finish()
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from errors
    found = await read_checkpoint(Endpoint.parse(sync.server.url), KEY)
    assert found is not None
    assert (found.position, found.state) == (Position(REPLID, sync.stream.end), State.STREAM)
    assert found.epoch == sync.applier.checkpoint.epoch != sync.start.epoch
    assert sync.stream.released in {sync.stream.end, FIRST}


def data_of(target: Server, db: int = 0) -> set[bytes]:
    """Names in a database of the target, ours left out."""
    client: Any = target.client(db=db)
    return {name for name in client.keys("*") if not name.startswith(KEY.encode())}


async def starve(sync: Sync) -> None:
    """From now on the target has no memory for writes; what came before is applied."""
    sync.stream.write("INCR", "n")
    await sync.caught_up()
    sync.server.client().config_set("maxmemory", 1)


async def refused_again(sync: Sync) -> None:
    """Waits until what grows list `l` was refused for memory several times, and nothing of it is there."""
    await wait_for(lambda: sync.progress.lanes[0].retries >= 3)
    assert "OOM" in sync.progress.last_error
    assert sync.server.client().llen("l") == 0
