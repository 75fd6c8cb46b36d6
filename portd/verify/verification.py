"""Puts a verification together."""

from __future__ import annotations

import asyncio
import math
import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from portd.config.rules import choice_of
from portd.errors import ConfigError, first_cause
from portd.kernel.digest import EXTRA, compare
from portd.log import get_logger
from portd.net.pieces import PieceControl
from portd.source.cluster import only_one_shard
from portd.spool.directory import SEGMENT_SUFFIX, PrivateDirectory
from portd.target.kept.epoch import EPOCH_SUFFIX
from portd.target.probe import inspect
from portd.verify.ends import SourceEnd, TargetEnd
from portd.verify.live import RELATIVE_TTL_TOLERANCE_MS, LiveReader
from portd.verify.options import Method
from portd.verify.repair import Repairer
from portd.verify.report import EndReport, Found, Report
from portd.verify.settle import BATCH_KEYS, DIFFERENCE, NOWHERE, UNREAD, Settler
from portd.verify.snapshot import DigestOptions, EndDigest
from portd.verify.store import Store, Suspect, Suspects

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.config.settings import Settings
    from portd.net.endpoint import Endpoint
    from portd.verify.options import Options

BUCKET_KEYS: Final = 50_000  # aimed at; two buckets are in memory at a time
MIN_BITS, MAX_BITS = 4, 10
SEED_BYTES: Final = 16

log = get_logger("verify")


async def verify(settings: Settings, options: Options, on_found: Callable[[Found], None]) -> Report:
    """Compares both ends, with nobody else in the process; see `Verification.run`."""
    return await Verification(settings, options, on_found).run()


class Verification:
    """Compares both ends once.

    Args:
        settings: ends, timeouts, directory for records.
        options: how.
        on_found: told of every differing key.
        applied: how far a sync between the ends has come; see `Settler`.
    """

    def __init__(
        self,
        settings: Settings,
        options: Options,
        on_found: Callable[[Found], None],
        applied: Callable[[], int] | None = None,
    ) -> None:
        self._settings = settings
        self._options = options
        self._applied = applied
        self._on_found = on_found
        self._ends: tuple[EndDigest, ...] = ()
        own = settings.checkpoint_key
        self._choice = choice_of(settings, own)
        self._sides: tuple[SourceEnd, TargetEnd] = SourceEnd(self._choice, own.encode()), TargetEnd(self._choice)
        self._source = settings.source_endpoint()
        self._target = settings.target_endpoint().one_server("a comparison")

    async def run(self) -> Report:
        """Compares them.

        Raises:
            ConfigError: both ends are one server, a single shard is to repair the target, or an end does not let us ask what is needed.
            SourceError: an end went away, or refuses PSYNC.
            DecodeError: an end sent what cannot be understood.
            SpoolError: the disk is full.
            TargetError: the target refuses to be repaired.
        """
        parent = self._settings.spool_directory()
        if parent is None:
            raise ConfigError("spool_dir is off", hint="a verification keeps its records on disk: give a directory")
        with ExitStack() as self._stack:
            directory = PrivateDirectory(parent)
            self._stack.callback(directory.remove)
            self._directory = directory.path
            return await self._run()

    def held_bytes(self) -> int:
        """Buffers held now; those of comparing two buckets are not counted."""
        decoders = [end.decoder.statistics() for end in self._ends if end.decoder is not None]
        names = ("window_capacity", "blob_capacity", "output_capacity", "scratch_capacity")
        return sum(counters[name] for counters in decoders for name in names)

    async def _run(self) -> Report:
        source, target = await self._readers()
        self._sides[0].used = source.databases
        if source.identity.run_id and source.identity.run_id == target.identity.run_id:
            raise ConfigError("source and target are the same server", hint="check both addresses")
        if self._options.repair and source.one_shard and not self._settings.one_shard:
            raise only_one_shard(self._source.display)  # what other shards hold would be removed as extra
        here, there = (EndReport(end.identity.name, one_shard=end.one_shard) for end in (source, target))
        report = Report(here, there)
        digests = digest_options(source, target, self._settings)
        report.functions = await compare_functions(source, target, ruled=bool(self._choice))
        suspects = self._new_suspects()
        await self._compare(source, target, digests, report, suspects)
        source, target = await self._readers()  # fresh ones: the others may have been idle for hours
        settler = Settler(source, target, self._directory, digests, self._options, self._applied, ends=self._sides)
        report.suspects = suspects.count
        confirmed = await settler.run(suspects)
        if self._options.repair and (confirmed.count or report.functions):
            confirmed = await self._repair(source, target, settler, confirmed, report)
        report.settled, report.unsettled = settler.settled - report.repaired, settler.unsettled
        for batch in confirmed.batches(BATCH_KEYS):
            for each in batch:
                self._tell(each, report)
        confirmed.close()
        return report

    def _tell(self, each: Suspect, report: Report) -> None:
        """Reports one key; one that differed in the snapshots and cannot be read again may have been written between them."""
        unread = bool(each.kinds & UNREAD)
        found = Found(each.db, each.name, each.kinds, "in the snapshots; too large to be read again" if unread else "")
        if self._choice.mapping is not None:
            found.source = self._choice.origin(each.db, each.name)
        if unread:
            report.unsettled += 1
        else:
            report.count(found)
        self._on_found(found)

    async def _readers(self) -> tuple[LiveReader, LiveReader]:
        return await self._reader(self._source), await self._reader(self._target)

    async def _reader(self, endpoint: Endpoint) -> LiveReader:
        reader = LiveReader(endpoint, self._options.largest_bytes)
        self._stack.callback(reader.close)
        await reader.open()
        return reader

    def _new_suspects(self) -> Suspects:
        return Suspects(self._directory / f"suspects{SEGMENT_SUFFIX}")

    async def _compare(
        self, source: LiveReader, target: LiveReader, digests: DigestOptions, report: Report, suspects: Suspects
    ) -> None:
        """Both ends into records, then bucket by bucket; what differs becomes a suspect."""
        buckets = 1 << digests.bucket_bits
        with ExitStack() as stores:
            here, there = (Store(self._directory, name, buckets) for name in ("source", "target"))
            stores.callback(here.close)
            stores.callback(there.close)
            settings, share = self._settings, self._options.share
            ends = self._ends = (
                EndDigest(
                    "source", self._source, source, here, settings, digests, report.source, self._sides[0], share
                ),
                EndDigest(
                    "target", self._target, target, there, settings, digests, report.target, self._sides[1], share
                ),
            )
            try:
                async with asyncio.TaskGroup() as group:
                    for end, side in zip(ends, ("source", "target"), strict=True):
                        group.create_task(end.run(self._options.method), name=f"verify {side}")
            except BaseExceptionGroup as group:
                raise first_cause(group) from None
            scanned = any(Method.SCAN.name == end.method for end in (report.source, report.target))
            tolerance = 0 if (source.exact_ttl and target.exact_ttl) or not scanned else RELATIVE_TTL_TOLERANCE_MS
            for index in range(buckets):
                # Sorting does not need the interpreter: a sync beside us goes on.
                equal, found = await asyncio.to_thread(compare, here.bucket(index), there.bucket(index), tolerance)
                report.equal += equal
                for kinds, source_at, target_at, _, _ in DIFFERENCE.iter_unpack(found):
                    if kinds & EXTRA and self._choice.of_values:
                        continue  # names do not tell whether the source's rules would have it
                    db, name = there.name(target_at) if source_at == NOWHERE else here.name(source_at)
                    suspects.add(Suspect(db, name, kinds, 0))

    async def _repair(
        self, source: LiveReader, target: LiveReader, settler: Settler, confirmed: Suspects, report: Report
    ) -> Suspects:
        """Repairs, then looks again: what is equal now is repaired."""
        found = await inspect(self._target)
        control = PieceControl(self._target)
        self._stack.callback(control.close)
        await control.open()
        repairer = Repairer(
            source,
            control,
            found.dialect(),
            self._settings.checkpoint_name() + EPOCH_SUFFIX,
            self._sides[0],
            alone=not self._choice,
        )
        if report.functions:
            await repairer.repair_functions(await target.functions())
            report.functions = await compare_functions(source, target, ruled=bool(self._choice))
        await repairer.run(confirmed)
        before = settler.settled
        left = await settler.run(confirmed)
        report.repaired = settler.settled - before
        return left


def digest_options(source: LiveReader, target: LiveReader, settings: Settings) -> DigestOptions:
    """What digests of both ends must have alike; the seed is new."""
    keys = max(source.keys, target.keys, 1)
    bits = min(max(math.ceil(math.log2(keys / BUCKET_KEYS)), MIN_BITS), MAX_BITS)
    here = source.identity
    counters = all(end.family == "valkey" or end.version >= (7, 0, 0) for end in (here, target.identity))
    # Before, XREADGROUP moves a group without a word of it in the stream (t_stream.c:streamPropagateGroupID).
    entries_read = here.version >= ((8, 0, 0) if here.family == "valkey" else (7, 4, 0))
    # Before, XREADGROUP NOACK makes a consumer without a word of it (t_stream.c:streamPropagateConsumerCreation).
    idle = here.family == "valkey" or here.version >= (6, 2, 0)
    ignored = settings.checkpoint_key.encode()
    return DigestOptions(bits, ignored, counters, entries_read, idle, secrets.token_bytes(SEED_BYTES))


async def compare_functions(source: LiveReader, target: LiveReader, *, ruled: bool) -> str:
    """How function libraries differ, in words; "" when they do not, or cannot be seen.

    Args:
        source: open.
        target: open.
        ruled: rules choose what is copied: others than the source's are nobody's business then.
    """
    here, there = await source.functions(), await target.functions()
    if here is None or there is None:
        return ""
    different = here.items() - there.items() if ruled else here.items() ^ there.items()
    return ", ".join(sorted({name.decode("utf-8", "replace") for name, _ in different}))
