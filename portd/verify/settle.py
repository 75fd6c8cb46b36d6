"""Keys that differed are read again from both ends, until they are equal or stand still and still differ.

One read says little while writes go on: the two ends are never read at the same instant, and the target lags behind. So
a key counts as different when it was found in the same state on either end several times over `settle_seconds`, and as
equal when the ends agree once, or when the target has now what the source had before.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from portd.errors import SourceLost, TargetBusy
from portd.feed.pour import pour
from portd.kernel.digest import NAMES, compare
from portd.kernel.snapshot import SnapshotDecoder
from portd.log import get_logger
from portd.spool.directory import SEGMENT_SUFFIX
from portd.verify.live import END, RELATIVE_TTL_TOLERANCE_MS
from portd.verify.store import Suspect, Suspects, name_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from portd.verify.ends import End
    from portd.verify.live import NamedKey
    from portd.verify.options import Options
    from portd.verify.shards import Reader
    from portd.verify.snapshot import DigestOptions

DIFFERENCE: Final = struct.Struct("<5Q")
NOWHERE: Final = (1 << 64) - 1
CONFIRMATIONS: Final = 3  # looks that must find a key in the same state after the first one
BATCH_KEYS: Final = 1000
UNREAD: Final = 1 << 16  # among the kinds: the value was too large to be read again

log = get_logger("verify")


class Looked(NamedTuple):
    """What a look at some keys of both ends has found.

    Attributes:
        differing: what differs (as in `portd.kernel.digest.compare`), and a number for the state at either end, by key.
        too_large: keys that were not read.
        undecided: keys that no node of a cluster had.
        source: records of the others, sorted.
        target: likewise.
    """

    differing: dict[NamedKey, tuple[int, int, int]]
    too_large: set[NamedKey]
    undecided: set[NamedKey]
    source: bytearray
    target: bytearray


class Settler:
    """Decides about suspects.

    Args:
        source: open.
        target: open.
        directory: for lists of keys; None: only `compare` is called.
        digests: the same for both ends.
        options: patience.
        applied: how far the target has followed the source, where a sync runs between them and can tell. Then each look
            waits until the target has all that the source had at the look before, however long the lag is.
        ends: which keys of both count, and what they are called.

    Attributes:
        settled: keys that turned out to be equal.
        unsettled: keys that were changed all the time, or that no node had when they were looked for.
    """

    def __init__(
        self,
        source: Reader,
        target: Reader,
        directory: Path | None,
        digests: DigestOptions,
        options: Options,
        applied: Callable[[], int] | None = None,
        *,
        ends: tuple[End, End],
    ) -> None:
        self._applied = applied
        self._here, self._there = ends
        self.settled = 0
        self.unsettled = 0
        self._source = source
        self._target = target
        self._directory = directory
        self._digests = digests
        self._options = options
        self._lists = 0
        exact = source.exact_ttl and target.exact_ttl
        self._tolerance = 0 if exact else RELATIVE_TTL_TOLERANCE_MS

    def new_list(self) -> Suspects:
        """An empty list; the caller closes it."""
        assert self._directory is not None
        self._lists += 1
        return Suspects(self._directory / f"suspects-{self._lists}{SEGMENT_SUFFIX}")

    async def run(self, suspects: Suspects) -> Suspects:
        """Reads them again and again.

        Args:
            suspects: closed here.

        Returns:
            Those that differ.
        """
        confirmed = self.new_list()
        pause = self._options.settle_seconds / CONFIRMATIONS
        for number in range(self._options.rounds):
            if not suspects.count:
                break
            if number:
                await asyncio.sleep(pause)  # what changes meanwhile, or has arrived by then, settles
                await self._arrive(pause)
            survivors = self.new_list()
            for batch in suspects.batches(BATCH_KEYS):
                await self._look(batch, survivors, confirmed)
            suspects.close()
            log.info("looked again", round=number + 1, left=survivors.count, different=confirmed.count)
            suspects = survivors
        self.unsettled += suspects.count
        suspects.close()
        return confirmed

    async def _arrive(self, pause: float) -> None:
        """Waits until the target has what the source has now."""
        if self._applied is None:
            return
        try:
            offset = await self._source.offset()
        except SourceLost as error:
            await self._source.recover(error)
            offset = await self._source.offset()
        while self._applied() < offset:  # noqa: ASYNC110 - nobody tells when; looking now and then is enough
            await asyncio.sleep(pause)

    async def _look(self, batch: list[Suspect], survivors: Suspects, confirmed: Suspects) -> None:
        """One look at some keys."""
        looked = await self.compare([(each.db, each.name) for each in batch])
        now, too_large = looked.differing, looked.too_large
        for each in batch:
            if (each.db, each.name) in looked.undecided:
                survivors.add(Suspect(each.db, each.name, each.kinds, 0))
            elif (each.db, each.name) in too_large:
                each.kinds |= UNREAD  # as the snapshots had it: nothing better can be found out
                confirmed.add(each)
            elif (state := now.get((each.db, each.name))) is None:
                self.settled += 1
            else:
                self._judge(each, *state, survivors, confirmed)

    async def compare(self, keys: list[NamedKey]) -> Looked:
        """Reads some keys from both ends, at about the same time.

        Args:
            keys: as the target calls them.
        """
        (source, source_names), (target, target_names) = await asyncio.gather(
            asyncio.create_task(self._read(self._source, self._here, keys), name="look-source"),
            asyncio.create_task(self._read(self._target, self._there, keys), name="look-target"),
        )
        _, found = compare(source, target, self._tolerance)
        now: dict[NamedKey, tuple[int, int, int]] = {}
        for kinds, source_at, target_at, source_state, target_state in DIFFERENCE.iter_unpack(found):
            key = name_at(target_names, target_at) if source_at == NOWHERE else name_at(source_names, source_at)
            now[key] = (kinds, source_state, target_state)
        too_large = self._here.there(self._source.too_large) | self._target.too_large
        undecided = self._here.there(self._source.undecided) | self._target.undecided
        return Looked(now, too_large, undecided, source, target)

    def _judge(
        self, each: Suspect, kinds: int, source: int, target: int, survivors: Suspects, confirmed: Suspects
    ) -> None:
        if target == each.source_state and target:
            self.settled += 1  # it has what the source had when we last looked: it only lags
            return
        alike = (source, target) == (each.source_state, each.target_state)
        seen = each.seen + 1 if alike else 0
        later = Suspect(each.db, each.name, kinds, seen, source, target)
        (confirmed if seen >= CONFIRMATIONS else survivors).add(later)

    async def _read(self, reader: Reader, end: End, keys: list[NamedKey]) -> tuple[bytearray, bytearray]:
        """Records and names of the keys that exist; again from the beginning where a node of a cluster went away."""
        try:
            return await self._read_once(reader, end, keys)
        except (SourceLost, TargetBusy) as error:
            await reader.recover(error)
        return await self._read_once(reader, end, keys)

    async def _read_once(self, reader: Reader, end: End, keys: list[NamedKey]) -> tuple[bytearray, bytearray]:
        records, names = bytearray(), bytearray()

        def take(output: object) -> None:
            bucket, data = cast("tuple[int, bytes]", output)
            (names if bucket == NAMES else records).extend(data)

        reader.clear_notes()
        decoder = SnapshotDecoder(self._digests.handler(buckets=False), verify_checksum=False)
        end.choose(decoder)
        decoder.feed(reader.magic)
        await reader.tell(end.here(keys), decoder, take)
        for made in pour(decoder, END):
            take(made)
        return records, names
