"""Keeps a source's snapshot in a file, byte for byte, and if wanted the stream behind it in a second one.

The decoder runs beside the bytes with a handler that hears nothing: it checks the CRC and finds the end. The second file
is the stream as the source sends it, RESP and nothing else, from the first byte behind the snapshot to the last whole
command; the snapshot's AUX fields repl-id and repl-offset say where in the source's history that is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING, Final, Protocol

from portd.errors import Interrupted, OutputError
from portd.feed.choosing import choose
from portd.feed.snapshot import SnapshotCopy, stream_database
from portd.kernel.handler import Handler
from portd.kernel.snapshot import SnapshotDecoder
from portd.kernel.stream import StreamSplitter
from portd.log import get_logger
from portd.model import Work
from portd.offline.job import OfflineService
from portd.offline.sieve import Sieve
from portd.source import HandshakeOptions, cluster
from portd.source.fetch import SPOOL_BYTES, Fetch
from portd.spool import SpoolClosed

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer

    from portd.config.rules import Choice
    from portd.model import Position
    from portd.net.endpoint import Endpoint
    from portd.source.handshake import Transfer

log = get_logger("dump")

PIECE_BYTES: Final = 1 << 20  # of the stream, looked at in one go


class Taker(Protocol):
    """What takes a snapshot."""

    @property
    def written(self) -> int:
        """Bytes."""

    def write(self, data: Buffer) -> None:
        """Takes bytes."""

    def commit(self) -> None:
        """All of it is there."""


class Dump(OfflineService):
    """One snapshot of one server.

    Args:
        endpoint: the source.
        output: takes the snapshot.
        follow: file that takes the stream; None ends with the snapshot.
        one_shard: the source may be a node of a cluster; None: it is one, and so are others beside it.
        choice: which keys are kept; None: all.
        spool_bytes: received and not yet written; then the source waits.

    Attributes:
        position: of the snapshot in the source's history, once that is known.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        output: Taker,
        follow: Path | None,
        *,
        one_shard: bool | None = False,
        choice: Choice | None = None,
        spool_bytes: int = SPOOL_BYTES,
    ) -> None:
        super().__init__()
        self.position: Position | None = None
        self._one_shard = one_shard
        self._choice = choice
        self._endpoint = endpoint
        self._output = output
        self._follow = follow
        self._snapshot_done = False
        self._fetch = Fetch(endpoint, HandshakeOptions(rdb_only=follow is None), spool_bytes)
        self.progress = self._fetch.progress

    async def run(self) -> None:
        """Dumps, and follows until it is asked to stop.

        Raises:
            ConfigError: the source is a node of a cluster, and that is not meant.
            SourceError: no connection, a refusal, or a connection that was lost inside the snapshot.
            Interrupted: it was told to stop before the snapshot was whole.
            OutputError: the disk is full or failed.
        """
        try:
            if not await self._unless_stopped(self._work(), "dump", lambda: self._snapshot_done):
                raise Interrupted("stopped before the snapshot was whole: nothing was kept")
        finally:
            self._fetch.close()
        self.progress.ended = True

    async def _work(self) -> None:
        if self._one_shard is not None:
            cluster.admit(self._endpoint, await cluster.ask(self._endpoint), one_shard=self._one_shard)
        await self._fetch.run(self._consume)

    async def _consume(self, fetch: Fetch, transfer: Transfer) -> None:
        progress = fetch.progress
        progress.snapshot.started_at = time.time()

        decoder = SnapshotDecoder(Handler())
        sieve = None
        if self._choice:
            choose(decoder, self._choice)
            sieve = Sieve(decoder)

        async def write(data: memoryview) -> None:  # it blocks, and nothing may keep ACKs waiting
            await asyncio.to_thread(self._output.write, data if sieve is None else sieve.pass_on(data))

        copy = SnapshotCopy(fetch.spool, decoder, None, progress.snapshot, transfer, on_bytes=write)
        copy.refuse_node = self._endpoint.display if self._one_shard is False else None
        self.position = transfer.position
        with progress.doing(Work.COPYING):
            index = await copy.run()
            await asyncio.to_thread(self._output.commit)
        progress.snapshot.finished_at = time.time()
        log.info(
            "snapshot dumped", bytes=self._output.written, keys=progress.snapshot.keys_read, left_out=progress.snapshot.left_out(), replid=transfer.position.replid,
            offset=transfer.position.offset, seconds=round(progress.snapshot.finished_at - progress.snapshot.started_at, 3),
        )  # fmt: skip
        self._snapshot_done = True
        if self._follow is not None:
            fetch.receiver.stream_begins(index)
            db = stream_database(copy.decoder.aux)
            with progress.doing(Work.FOLLOWING):
                await self._record(self._follow, fetch, transfer, db)

    async def _record(self, path: Path, fetch: Fetch, transfer: Transfer, db: int) -> None:
        """Records the stream until a stop; the file ends with a whole command then."""
        progress = fetch.progress
        progress.stream.caught_up = True  # a file lacks nothing of what has come
        begin = transfer.position.offset
        splitter = StreamSplitter(begin, db)
        written = 0
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise _unwritable(path, error) from None
        log.info("recording the stream", file=str(path), offset=begin)
        try:
            while (chunk := await self._next(fetch)) is not None:
                written += await asyncio.to_thread(_write_all, descriptor, chunk, path)
                rest = chunk
                while rest:
                    rest = rest[splitter.feed(rest, int(time.time() * 1000)) :]
                    while (piece := splitter.next_piece(PIECE_BYTES, PIECE_BYTES)) is not None:
                        progress.stream.decoded_offset = piece.end_offset
                        progress.stream.commands_read += piece.replies + piece.filtered
                fetch.spool.release(fetch.spool.cursor)
                progress.stream.applied_offset = progress.stream.checkpointed_offset = begin + written
        finally:
            with contextlib.suppress(OSError):  # what is there is there; the reason to end was another one
                os.ftruncate(descriptor, max(0, splitter.offset - begin))
                os.fsync(descriptor)
            os.close(descriptor)
        log.info("stream recorded", bytes=splitter.offset - begin, offset=splitter.offset)

    async def _next(self, fetch: Fetch) -> memoryview | None:
        """The next bytes of the stream; None at a stop. A lost connection is made again where it broke."""
        if (chunk := fetch.spool.read_nowait()) is not None:
            return chunk.data
        read = asyncio.create_task(fetch.spool.read(), name="dump-read")
        stop = asyncio.create_task(self._stop.wait(), name="dump-stop")
        try:
            await asyncio.wait({read, stop}, return_when=asyncio.FIRST_COMPLETED)
            return read.result().data if read.done() else None
        except SpoolClosed:
            return None
        finally:
            stop.cancel()
            read.cancel()


def _write_all(descriptor: int, data: memoryview, path: Path) -> int:
    rest = data
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError as error:
        raise _unwritable(path, error) from None
    return len(data)


def _unwritable(path: Path, error: OSError) -> OutputError:
    reason = (error.strerror or str(error)).lower()
    return OutputError(f"{path} cannot be written: {reason}", hint="check the path, its owner and the free space")
