"""The snapshot on its way: spool chunks into the decoder, batches into the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from portd.errors import DecodeError, TruncatedSnapshot
from portd.feed.pour import pour_into
from portd.kernel.rules import REASONS
from portd.source.cluster import only_one_shard

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from portd.kernel.snapshot import CurrentKey, DeadLetter, SnapshotDecoder
    from portd.model import SnapshotProgress
    from portd.source.handshake import Transfer
    from portd.spool import Spool

LARGEST_KEYS = 10
FILTERED = REASONS[1:]
LARGE_KEY_BYTES = 1 << 20  # keys below this are never among the largest worth telling
LONGEST_NUMBER = 10  # digits of a database number that can be one


class LargestKeys:
    """The largest keys decoded so far, by bytes in the snapshot."""

    def __init__(self) -> None:
        self._found: list[CurrentKey] = []

    def note(self, key: CurrentKey) -> None:
        """Takes a key in progress; the same key later replaces itself."""
        if key.bytes_done < LARGE_KEY_BYTES:
            return
        others = [found for found in self._found if (found.db, found.key) != (key.db, key.key)]
        others.append(key)
        others.sort(key=lambda found: found.bytes_done, reverse=True)
        self._found = others[:LARGEST_KEYS]

    def read(self) -> list[CurrentKey]:
        """Largest first."""
        return list(self._found)


def stream_database(aux: Mapping[str, str]) -> int:
    """The database in effect where the stream behind a snapshot begins, from its AUX fields.

    Returns:
        0 where the snapshot does not tell: the source selects one then. -1 where it tells no number: nothing is known,
        and a command before any SELECT is an error.
    """
    text = aux.get("repl-stream-db", "0")
    if text.startswith("-"):  # a primary that has not selected any
        return 0
    return int(text) if text.isascii() and text.isdigit() and len(text) < LONGEST_NUMBER else -1


class Counts:
    """What a decoder has counted and found, on its way to those who want to know.

    Args:
        decoder: counts.
        progress: is brought up to date.
        on_letter: told of every value that cannot reach the target.
        on_script: told of every text of a script that the source has cached.
    """

    def __init__(
        self,
        decoder: SnapshotDecoder,
        progress: SnapshotProgress,
        on_letter: Callable[[DeadLetter], None] | None,
        on_script: Callable[[bytes], None] | None,
    ) -> None:
        self._decoder = decoder
        self._progress = progress
        self._on_letter = on_letter
        self._on_script = on_script
        self._refused = 0  # keys that the decoder gave up, so far
        self._left_out = 0  # that it left out

    def read(self) -> dict[str, int]:
        """Passes on what is new; returns all that is counted."""
        counters, progress = self._decoder.statistics(), self._progress
        progress.keys_announced = counters["keys_announced"]
        progress.keys_read = counters["keys"]
        progress.keys_expired = counters["keys_expired"]
        progress.keys_failed += counters["keys_failed"] - self._refused  # the lanes count theirs
        self._refused = counters["keys_failed"]
        progress.keys_filtered += counters["keys_filtered"] - self._left_out  # the same
        self._left_out = counters["keys_filtered"]
        for why in FILTERED:
            progress.filtered[why] = counters[f"filtered_{why}"]
        progress.keys_own = counters["keys_own"]
        progress.keys_postponed = counters["keys_postponed"]
        if self._on_letter is not None:
            for letter in self._decoder.take_dead_letters():
                self._on_letter(letter)
        if self._on_script is not None:
            for text in self._decoder.take_scripts():
                self._on_script(text)
        return counters


class SnapshotCopy:
    """Moves one snapshot from the spool to whoever takes it.

    Args:
        spool: holds the snapshot from index *begin* on.
        decoder: fresh.
        put: takes the batches, or what a handler makes; None where that makes nothing.
        progress: brought up to date after every chunk.
        transfer: how the source frames the snapshot.
        on_letter: see `Counts`.
        on_script: likewise.
        on_bytes: awaited with the snapshot's own bytes once they are decoded.

    Attributes:
        refuse_node: the source as shown to the operator, when it may not be a node of a cluster. Nothing that such a
            snapshot holds is passed on.
    """

    def __init__(
        self,
        spool: Spool,
        decoder: SnapshotDecoder,
        put: Callable[[Any], Awaitable[None]] | None,
        progress: SnapshotProgress,
        transfer: Transfer,
        on_letter: Callable[[DeadLetter], None] | None = None,
        on_script: Callable[[bytes], None] | None = None,
        on_bytes: Callable[[memoryview], Awaitable[None]] | None = None,
    ) -> None:
        self.largest = LargestKeys()
        self.decoder = decoder
        self.refuse_node: str | None = None
        self._spool = spool
        self._put = put
        self._progress = progress
        self._transfer = transfer
        self._counts = Counts(decoder, progress, on_letter, on_script)
        self._on_bytes = on_bytes

    async def run(self) -> int:
        """Decodes to the end; every batch is queued then, not yet acknowledged.

        Returns:
            Spool index of the first byte of the stream; the spool reads from there next.

        Raises:
            ConfigError: it is of a cluster node, see `refuse_node`.
            DecodeError: corrupt bytes, a wrong checksum, or no end mark where it belongs.
            SourceLost: the spool ended before the snapshot did.
        """
        while not self.decoder.ended:
            chunk = await self._spool.read()
            await pour_into(self._pass_on, self.decoder, chunk.data)
            self._look_for_shards()
            if self._on_bytes is not None:
                behind = chunk.end - self.decoder.offset if self.decoder.ended else 0
                await self._on_bytes(chunk.data[: len(chunk.data) - behind])
            if not self.decoder.ended:  # a lost snapshot starts from the beginning: what was fed is not read again
                self._spool.release(chunk.end)
            self._report()
        end = self.decoder.offset
        self._spool.seek(end)
        index = await self._pass_end_mark(end)
        self._spool.release(index)
        self._report()
        return index

    async def _pass_on(self, batch: Any) -> None:
        self._look_for_shards()
        assert self._put is not None, "a handler that makes nothing made something"
        await self._put(batch)

    def _look_for_shards(self) -> None:
        if self.refuse_node is not None and self.decoder.of_cluster_node:
            raise only_one_shard(self.refuse_node)

    async def _pass_end_mark(self, end: int) -> int:
        """A diskless transfer repeats its 40-byte mark behind the snapshot; a counted one must have used its length."""
        mark, length = self._transfer.mark, self._transfer.length
        if length is not None and length != end:
            raise DecodeError(f"the snapshot ends after {end} bytes, but the source announced {length}", offset=end)
        if mark is None:
            return end
        found = bytearray()
        while len(found) < len(mark):
            chunk = await self._spool.read()
            found += chunk.data[: len(mark) - len(found)]
        if bytes(found) != mark:
            raise TruncatedSnapshot(
                "the source's end mark does not follow the snapshot",
                offset=self.decoder.offset,
                hint="a proxy in between may have changed the bytes",
            )
        self._spool.seek(end + len(mark))
        return end + len(mark)

    def _report(self) -> None:
        self._progress.bytes_decoded = self.decoder.offset
        self._counts.read()
        if (current := self.decoder.current) is not None:
            self.largest.note(current)
