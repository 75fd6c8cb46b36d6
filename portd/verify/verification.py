"""Puts a verification together."""

from __future__ import annotations

import asyncio
import math
import secrets
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from portd.config.rules import choice_of
from portd.errors import ConfigError, first_cause
from portd.groups import TaskGroup
from portd.kernel.digest import EXTRA, compare
from portd.kernel.slots import key_slot
from portd.log import get_logger
from portd.net.pieces import PieceControl
from portd.net.topology import ALL_SLOTS, common, ranges_of, spelled
from portd.source.cluster import only_one_shard
from portd.spool.directory import SEGMENT_SUFFIX, PrivateDirectory
from portd.target.kept.epoch import EPOCH_SUFFIX
from portd.target.probe import inspect
from portd.verify.ends import SourceEnd, TargetEnd
from portd.verify.live import RELATIVE_TTL_TOLERANCE_MS
from portd.verify.options import Method
from portd.verify.repair import Repairer
from portd.verify.report import EndReport, Found, PartReport, Report
from portd.verify.settle import BATCH_KEYS, DIFFERENCE, NOWHERE, UNREAD, Settler
from portd.verify.shardrepair import ClusterRepairer
from portd.verify.shards import ClusterReader, MoveWatch, reader_of
from portd.verify.snapshot import DigestOptions, EndDigest
from portd.verify.store import Store, Suspect, Suspects

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.config.settings import Settings
    from portd.kernel.snapshot import Dialect
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Ranges
    from portd.verify.ends import End
    from portd.verify.options import Options
    from portd.verify.shards import Reader

BUCKET_KEYS: Final = 50_000  # aimed at; two buckets are in memory at a time
MIN_BITS, MAX_BITS = 4, 10
PASSES: Final = 4  # over slots that move: the first one is over all
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
        self._ends: dict[str, EndDigest] = {}  # at work, by side
        own = settings.checkpoint_key
        self._choice = choice_of(settings, own)
        self._sides: tuple[SourceEnd, TargetEnd] = SourceEnd(self._choice, own.encode()), TargetEnd(self._choice)
        self._wanted: dict[str, Ranges] = {
            "source": tuple(settings.slot_ranges()) or ALL_SLOTS,
            "target": self._choice.slots,
        }
        self._source = settings.source_endpoint()
        self._target = settings.target_endpoint()

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
        decoders = [end.decoder.statistics() for end in self._ends.values() if end.decoder is not None]
        names = ("window_capacity", "blob_capacity", "output_capacity", "scratch_capacity")
        return sum(counters[name] for counters in decoders for name in names)

    async def _run(self) -> Report:
        source, target = await self._readers()
        self._sides[0].used = source.databases
        if source.run_ids & target.run_ids:
            raise ConfigError("source and target are the same server", hint="check both addresses")
        if self._options.repair and source.one_shard and not self._settings.one_shard:
            raise only_one_shard(self._source.display)  # what other shards hold would be removed as extra
        limited = self._source.seeds is not None and self._settings.one_shard
        report = Report(
            EndReport(source.identity.name, one_shard=source.one_shard or limited),
            EndReport(target.identity.name, one_shard=target.one_shard),
        )
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

    async def _readers(self) -> tuple[Reader, Reader]:
        return (
            await self._reader(self._source, self._wanted["source"]),
            await self._reader(self._target, self._wanted["target"]),
        )

    async def _reader(self, endpoint: Endpoint, wanted: Ranges) -> Reader:
        reader = reader_of(endpoint, self._options.largest_bytes, wanted)
        self._stack.callback(reader.close)
        await reader.open()
        return reader

    def _new_suspects(self) -> Suspects:
        return Suspects(self._directory / f"suspects{SEGMENT_SUFFIX}")

    async def _compare(
        self, source: Reader, target: Reader, digests: DigestOptions, report: Report, suspects: Suspects
    ) -> None:
        """Both ends, and again those slots that were elsewhere meanwhile; what differs becomes a suspect."""
        slots: Ranges | None = None
        for number in range(PASSES):
            if number:
                log.info("slots have moved, they are compared again", slots=spelled(slots or ALL_SLOTS))
                await asyncio.sleep(self._options.settle_seconds)
            moved = await self._compare_slots(source, target, digests, report, suspects, slots)
            if not any(moved):
                return
            named = self._choice.mapping is not None and self._choice.mapping.names
            slots = ALL_SLOTS if named else tuple(ranges_of(sorted(set(moved[0]) | set(moved[1]))))
        report.source.open_slots, report.target.open_slots = (spelled(ranges_of(each)) for each in moved)

    async def _compare_slots(
        self,
        source: Reader,
        target: Reader,
        digests: DigestOptions,
        report: Report,
        suspects: Suspects,
        slots: Ranges | None,
    ) -> tuple[list[int], list[int]]:
        """Both ends into records, then bucket by bucket; keys of slots that were elsewhere meanwhile are left out.

        Args:
            source: open.
            target: open.
            digests: the same for both ends.
            report: is brought up to date.
            suspects: takes what differs.
            slots: None: all, for the first time.

        Returns:
            Those slots, of the source and of the target. Others that move now were compared before.
        """
        buckets = 1 << digests.bucket_bits
        with ExitStack() as stores:
            here, there = (Store(self._directory, name, buckets) for name in ("source", "target"))
            stores.callback(here.close)
            stores.callback(there.close)
            watches = MoveWatch(source), MoveWatch(target)
            ends = (("source", source, here, report.source), ("target", target, there, report.target))
            try:
                for watch in watches:
                    await watch.begin()
                async with TaskGroup() as group:
                    watching = [group.create_task(watch.run(), name="verify map") for watch in watches]
                    digesting = [
                        group.create_task(
                            self._digest(side, reader, store, digests, told, slots), name=f"verify {side}"
                        )
                        for side, reader, store, told in ends
                    ]
                    await asyncio.wait(digesting, return_when=asyncio.FIRST_EXCEPTION)
                    for task in watching:
                        task.cancel()
            except BaseExceptionGroup as group:
                raise first_cause(group) from None
            moved = await watches[0].end(slots or ALL_SLOTS), await watches[1].end(slots or ALL_SLOTS)
            elsewhere = frozenset(moved[0]) | frozenset(moved[1])
            renamed = bool(elsewhere) and self._choice.mapping is not None and bool(self._choice.mapping.names)
            scanned = any(Method.SCAN.name in end.method for end in (report.source, report.target))
            tolerance = 0 if (source.exact_ttl and target.exact_ttl) or not scanned else RELATIVE_TTL_TOLERANCE_MS
            for index in range(buckets):
                # Sorting does not need the interpreter: a sync beside us goes on.
                equal, found = await asyncio.to_thread(compare, here.bucket(index), there.bucket(index), tolerance)
                report.equal += equal
                for kinds, source_at, target_at, _, _ in DIFFERENCE.iter_unpack(found):
                    if kinds & EXTRA and self._choice.of_values:
                        continue  # names do not tell whether the source's rules would have it
                    db, name = there.name(target_at) if source_at == NOWHERE else here.name(source_at)
                    if not renamed and (not elsewhere or key_slot(name) not in elsewhere):
                        suspects.add(Suspect(db, name, kinds, 0))
        return moved

    async def _digest(
        self,
        side: str,
        reader: Reader,
        store: Store,
        digests: DigestOptions,
        report: EndReport,
        slots: Ranges | None,
    ) -> None:
        """All servers of an end, one after the other: memory and forks are those of one."""
        settings, options = self._settings, self._options
        method = Method.SCAN if slots is not None and options.method is Method.AUTO else options.method
        wanted = self._wanted[side]
        for part in reader.parts(None if slots is None else common(slots, wanted)):
            of_part = slots if part.slots is None else part.slots
            if of_part is not None and not (of_part := common(of_part, wanted)):
                continue
            told = PartReport()
            if slots is None:
                told = report.part(part.where, "" if part.slots is None else spelled(part.slots))
            end = self._part_of(side, of_part)
            work = EndDigest(
                side, part.reader.endpoint, part.reader, store, settings, digests, told, end, options.share
            )
            self._ends[side] = work
            await work.run(method)

    def _part_of(self, side: str, slots: Ranges | None) -> End:
        """An end, of which only some slots count; None: all that are wanted."""
        if slots is None:
            return self._sides[0] if side == "source" else self._sides[1]
        if side == "target":
            return TargetEnd(self._choice, slots)
        settings = self._settings
        words = tuple(f"{first}-{last}" for first, last in slots)
        found = choice_of(replace(settings, include_slots=words), settings.checkpoint_key)
        return SourceEnd(found, settings.checkpoint_key.encode(), by_node=not self._choice)

    async def _repair(
        self, source: Reader, target: Reader, settler: Settler, confirmed: Suspects, report: Report
    ) -> Suspects:
        """Repairs, then looks again: what is equal now is repaired."""

        def make(control: PieceControl, dialect: Dialect, epoch_key: str) -> Repairer:
            return Repairer(source, control, dialect, epoch_key, self._sides[0], alone=not self._choice)

        here, there = await source.libraries(), await target.libraries()
        known = here is not None and there is not None and all(each == here[0] for each in here)
        repairer: Repairer | ClusterRepairer
        if isinstance(target, ClusterReader):
            repairer = ClusterRepairer(self._settings, source, make, self._stack)
            if report.functions and known and here:
                await repairer.repair_functions(here[0], target)
        else:
            control = PieceControl(self._target)
            self._stack.callback(control.close)
            await control.open()
            found = await inspect(self._target)
            repairer = make(control, found.dialect(), self._settings.checkpoint_name() + EPOCH_SUFFIX)
            if report.functions and known and here and there:
                await repairer.repair_functions(here[0], there[0])
        if report.functions:
            report.functions = await compare_functions(source, target, ruled=bool(self._choice))
        await repairer.run(confirmed)
        before = settler.settled
        left = await settler.run(confirmed)
        report.repaired = settler.settled - before
        return left


def digest_options(source: Reader, target: Reader, settings: Settings) -> DigestOptions:
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


async def compare_functions(source: Reader, target: Reader, *, ruled: bool) -> str:
    """How function libraries of any two servers of both ends differ, in words; "" when they do not, or cannot be seen.

    Args:
        source: open.
        target: open.
        ruled: rules choose what is copied: others than the source's are nobody's business then.
    """
    here, there = await source.libraries(), await target.libraries()
    different: set[tuple[bytes, bytes]] = set()
    for ours in here or ():
        for theirs in there or ():
            different |= ours.items() - theirs.items() if ruled else ours.items() ^ theirs.items()
    return ", ".join(sorted({name.decode("utf-8", "replace") for name, _ in different}))
