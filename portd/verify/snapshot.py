"""Digests all keys of one end: from a snapshot over PSYNC, or by SCAN and DUMP where that is not allowed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from portd.errors import HandshakeError, SourceError
from portd.feed.pour import pour
from portd.kernel.digest import DigestHandler
from portd.kernel.snapshot import SnapshotDecoder
from portd.log import get_logger
from portd.source import HandshakeOptions
from portd.source.fetch import Fetch
from portd.verify.live import END
from portd.verify.options import Method

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.net.endpoint import Endpoint
    from portd.source import Transfer
    from portd.verify.ends import End
    from portd.verify.live import LiveReader
    from portd.verify.report import PartReport
    from portd.verify.store import Store

WINDOW_BYTES: Final = 4 << 20  # received and not yet digested; then the server waits
PROGRESS_SECONDS: Final = 5.0  # between two lines in the log

log = get_logger("verify")


@dataclass(frozen=True, slots=True)
class DigestOptions:
    """What both ends must have alike.

    Attributes:
        bucket_bits: log2 of the number of buckets.
        ignored: prefix of keys that do not count: a sync does not copy them.
        stream_counters: both ends keep the counters of streams that came with Redis 7.0.
        entries_read: the source tells how many entries a group has read. One that does not leaves it stale at its own replicas, too.
        idle_consumers: the source tells its replicas of consumers that own nothing.
        seed: of the digests.
    """

    bucket_bits: int
    ignored: bytes
    stream_counters: bool
    entries_read: bool
    idle_consumers: bool
    seed: bytes

    def handler(self, *, buckets: bool = True, names_base: int = 0) -> DigestHandler:
        """A fresh handler; without *buckets* it keeps records in the order of the keys. Others have told *names_base* bytes of names."""
        return DigestHandler(
            bucket_bits=self.bucket_bits if buckets else 0,
            ignored=self.ignored,
            stream_counters=self.stream_counters,
            entries_read=self.entries_read,
            idle_consumers=self.idle_consumers,
            seed=self.seed,
            names_base=names_base,
        )


class EndDigest:
    """Digests one end into a store.

    Args:
        side: `source` or `target`, for messages.
        endpoint: the end.
        reader: open, for SCAN.
        store: takes records and names.
        settings: timeouts, `psync_command`.
        options: see there.
        report: brought up to date at the end.
        end: which of its keys count, and what they are called.
        share: of the time that a scan may use.

    Attributes:
        decoder: while it works.
    """

    def __init__(
        self,
        side: str,
        endpoint: Endpoint,
        reader: LiveReader,
        store: Store,
        settings: Settings,
        options: DigestOptions,
        report: PartReport,
        end: End,
        share: float = 1.0,
    ) -> None:
        self._end = end
        self.decoder: SnapshotDecoder | None = None
        self._share = share
        self._side = side
        self._endpoint = endpoint
        self._reader = reader
        self._store = store
        self._settings = settings
        self._options = options
        self._report = report
        self._told_at = time.monotonic()

    async def run(self, method: Method) -> None:
        """Digests every key.

        Raises:
            SourceLost: the end went away.
            HandshakeError: it refuses PSYNC, and SCAN was not allowed by *method*.
            DecodeError: it sent what cannot be understood.
        """
        began = time.perf_counter()
        if method is not Method.SCAN:
            try:
                await self._by_psync()
            except SourceError as error:
                if method is Method.PSYNC or not isinstance(error, HandshakeError):
                    raise
                log.info("PSYNC is refused, keys are scanned", end=self._side, error=str(error.args[0]))
                method = Method.SCAN
        if method is Method.SCAN:
            await self._by_scan()
        self._report.seconds = time.perf_counter() - began
        log.info("digested", end=self._side, keys=self._report.keys, bytes=self._report.bytes)

    async def _by_psync(self) -> None:
        self._report.method = "PSYNC"
        settings = self._settings
        command = settings.psync_command if self._side == "source" else "PSYNC"
        wanted = HandshakeOptions(psync_command=command, rdb_only=True, end=self._side)
        fetch = Fetch(self._endpoint, wanted, WINDOW_BYTES)
        try:
            await fetch.run(self._digest)
        finally:
            fetch.close()

    async def _digest(self, fetch: Fetch, _: Transfer) -> None:
        self.decoder = decoder = SnapshotDecoder(self._handler())
        self._end.choose(decoder)
        while not decoder.ended:
            chunk = await fetch.spool.read()
            for made in pour(decoder, chunk.data):
                self._take(made)
            fetch.spool.release(chunk.end)
            self._tell(decoder, decoder.offset)
            await asyncio.sleep(0)  # a sync may run beside us
        self._finish(decoder, decoder.offset)

    async def _by_scan(self) -> None:
        self._report.method = "SCAN"
        reader = self._reader
        self.decoder = decoder = SnapshotDecoder(self._handler(), verify_checksum=False)
        self._end.choose(decoder)
        decoder.feed(reader.magic)
        before = reader.read_bytes
        for db in sorted(reader.databases):
            begun = time.monotonic()
            async for names in reader.scan(db):
                await reader.tell([(db, name) for name in self._end.taken(db, names)], decoder, self._take)
                reader.elsewhere.clear()  # slots that move meanwhile are looked at again
                self._tell(decoder, reader.read_bytes - before)
                await asyncio.sleep((time.monotonic() - begun) * (1 / self._share - 1))
                begun = time.monotonic()
        for made in pour(decoder, END):
            self._take(made)
        self._finish(decoder, reader.read_bytes - before)
        self._report.unreadable += len(reader.too_large)
        reader.clear_notes()

    def _handler(self) -> DigestHandler:
        return self._options.handler(names_base=self._store.names_bytes)

    def _tell(self, decoder: SnapshotDecoder, size: int) -> None:
        """A line in the log now and then."""
        now = time.monotonic()
        if now - self._told_at >= PROGRESS_SECONDS:
            self._told_at = now
            keys = decoder.statistics()["keys"]
            log.info("digesting", end=self._side, keys=keys, of=self._reader.keys, bytes=size)

    def _take(self, output: object) -> None:
        bucket, data = cast("tuple[int, bytes]", output)
        self._store.add(bucket, data)

    def _finish(self, decoder: SnapshotDecoder, size: int) -> None:
        counters: dict[str, Any] = decoder.statistics()
        self.decoder = None
        self._report.keys = counters["keys_told"]
        self._report.expired = counters["keys_expired"]
        self._report.unreadable = counters["keys_unreadable"]
        self._report.not_owned = counters["filtered_slot"] if self._end.by_node else 0
        self._report.bytes = size
