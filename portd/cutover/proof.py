"""The proof that both ends are equal, in a time that does not depend on how much data there is.

Every key is compared once, before, while writes go on: that is `portd.verify`. From before that on both ends tell which keys are
written (`streamwatch`, `writewatch`). Those are read again, in rounds: each reads what was written during the one before, so that
each is shorter, until little is left. When writes stand still the last of them are read. Then every key was equal at a
moment behind which neither end changed it.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portd.config.rules import choice_of
from portd.cutover.doubt import Doubt
from portd.cutover.options import Proof as Kind
from portd.cutover.servers import together
from portd.errors import REDACTED, printable
from portd.kernel.digest import RECORD_BYTES
from portd.log import get_logger
from portd.net.topology import ALL_SLOTS
from portd.units import human_count
from portd.verify.ends import SourceEnd, TargetEnd
from portd.verify.live import RELATIVE_TTL_TOLERANCE_MS
from portd.verify.options import Options as VerifyOptions
from portd.verify.settle import Settler
from portd.verify.shards import reader_of
from portd.verify.verification import Verification, compare_functions, digest_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.config.settings import Settings
    from portd.cutover.options import Options
    from portd.cutover.streamwatch import StreamWatch
    from portd.cutover.writewatch import WriteWatch
    from portd.verify.live import NamedKey
    from portd.verify.report import Found, Report
    from portd.verify.shards import Reader

FEW_KEYS: Final = 500  # left to be read while writes stand still
ROUNDS: Final = 20
SHRINKS: Final = 0.8  # a round that leaves more of what it had to read is no progress
NO_PROGRESS: Final = 3  # such rounds one after the other: it gets no better
# Between two looks at keys that differ while writes stand still: one may expire between two reads, and one whose expiry was
# postponed lives in the target for up to two seconds behind its time (portd.target.kept.postponed: GRACE_MS).
LOOK_SECONDS: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
BATCH_KEYS: Final = 1000
DB_BYTES: Final = 4  # portd.kernel.touched
EXPIRY: Final = slice(24, 32)  # of a record (portd.kernel.digest: Record)
NO_EXPIRY: Final = bytes(8)
COMPARED_BYTES: Final = RECORD_BYTES - 8  # of it: where its name is does not count
NAMED_KEYS: Final = 20  # that are told

log = get_logger("cutover")


@dataclass(slots=True)
class Result:
    """What was compared.

    Attributes:
        kind: all keys, or what changed.
        method: how the source was read for the first comparison; "" without one.
        equal: keys that were equal in that.
        differed: that differed in it, were read again and turned out to be equal.
        changed: names of keys that either end said to be written since, each time they were read again.
        rounds: how many there were.
        last: keys that were read while writes stood still.
        source_digest: SHA-256 over the digests of these, at the source; the same value has the same one.
        target_digest: likewise.
        not_compared: why some keys count as equal without having been read, in words.
        unread: of them, those that are too large to be read again.
        foreign: changes of the target by others were seen; else why not.
        seconds: all but the standstill.
    """

    kind: str
    method: str = ""
    equal: int = 0
    differed: int = 0
    changed: int = 0
    rounds: int = 0
    last: int = 0
    source_digest: str = ""
    target_digest: str = ""
    not_compared: list[str] = field(default_factory=list)
    unread: int = 0
    foreign: str = "seen"
    seconds: float = 0.0


class Proof:
    """Compares; use `begin`, `shrink` while writes go on, `settle` when they stand still, `close`.

    Args:
        settings: both ends and the rules.
        options: what is compared.
        streams: follow all servers of the source, since before `begin`.
        writes: watch all servers of the target, likewise.

    Attributes:
        result: what was compared so far.
    """

    def __init__(
        self, settings: Settings, options: Options, streams: Sequence[StreamWatch], writes: Sequence[WriteWatch]
    ) -> None:
        self._settings = settings
        self._options = options
        self._streams = streams
        self._writes = writes
        self._own = settings.checkpoint_key.encode()
        self._choice = choice_of(settings, settings.checkpoint_key)
        self._ends = SourceEnd(self._choice, self._own), TargetEnd(self._choice)
        self._readers: tuple[Reader, Reader] | None = None
        self._settler: Settler | None = None
        self._digests = hashlib.sha256(), hashlib.sha256()  # of what was read while writes stood still
        self._unread: set[NamedKey] = set()  # then
        self._exact = True  # both ends tell expiry times to the millisecond
        self._left: set[NamedKey] = set()  # that differed when they were last read, in the target's names
        self._nowhere: set[NamedKey] = set()  # of them, those that no node of a cluster had
        self.result = Result(options.proof.value)
        if blind := [each for each in writes if not each.watching]:
            self.result.foreign = f"not seen: {blind[0].why_not}"

    # -- before

    async def begin(self) -> None:
        """Compares every key, where that is wanted.

        Raises:
            Doubt: some differ.
            PortdError: an end cannot be read.
        """
        if self._options.proof is Kind.ALL:
            found: list[Found] = []
            options = VerifyOptions(method=self._options.method, largest_bytes=self._options.largest_bytes)
            report = await Verification(self._settings, options, found.append).run()
            self._take(report, found)
        await self._open()

    def _take(self, report: Report, found: list[Found]) -> None:
        """What the first comparison says."""
        result = self.result
        result.method, result.equal, result.differed = report.source.method, report.equal, report.settled
        result.seconds += max(report.source.seconds, report.target.seconds)
        if report.different or report.functions:
            differing = [each for each in found if not each.note]
            kinds = ", ".join(f"{human_count(count)} {kind}" for kind, count in sorted(report.kinds.items()))
            told = f"keys differ ({kinds}): {self._named((each.db, each.name) for each in differing)}" if kinds else ""
            functions = f"function libraries differ: {report.functions}" if report.functions else ""
            raise Doubt(
                "; ".join(filter(None, (told, functions))),
                hint="portd verify names all of them, and --repair copies them",
            )
        result.unread = sum(1 for each in found if each.note) + max(report.source.unreadable, report.target.unreadable)
        if result.unread:
            result.not_compared.append(
                f"{human_count(result.unread)} keys: too large or too strange to be compared as a whole"
            )

    def _named(self, keys: object) -> str:
        names = [
            f"db {db} key {REDACTED if self._settings.redact_keys else printable(name)}"
            for db, name in list(keys)[: NAMED_KEYS + 1]  # type: ignore[call-overload]
        ]
        return ", ".join([*names[:NAMED_KEYS], *(["..."] if len(names) > NAMED_KEYS else [])])

    async def _open(self) -> None:
        """Readers whose connections are new."""
        self.close()
        largest = self._options.largest_bytes
        wanted = tuple(self._settings.slot_ranges()) or ALL_SLOTS
        source = reader_of(self._settings.source_endpoint(), largest, wanted)
        target = reader_of(self._settings.target_endpoint(), largest, self._choice.slots)
        self._readers = source, target
        await source.open()
        await target.open()
        self._ends[0].used = source.databases
        self._exact = source.exact_ttl and target.exact_ttl
        if not self._exact:
            self.result.not_compared.append(
                f"expiry times are compared to {RELATIVE_TTL_TOLERANCE_MS} ms only: a server before Redis 7.0 tells what is left of them"
            )
        digests = digest_options(source, target, self._settings)
        options = VerifyOptions(largest_bytes=largest)
        self._settler = Settler(source, target, None, digests, options, ends=self._ends)

    # -- while writes go on

    async def shrink(self) -> None:
        """Reads again what was written, until little is left, or it gets no less.

        Raises:
            Doubt: what was written cannot be told.
        """
        begun, before, stuck = time.monotonic(), 0, 0
        for number in range(ROUNDS):
            keys = await self._taken()
            self.result.rounds = number + 1
            if len(keys) <= FEW_KEYS:
                self._left = keys
                break
            stuck = stuck + 1 if number and len(keys) > SHRINKS * before else 0
            before = len(keys)
            self._left = await self._read(keys)
            log.info("read again what was written", round=number + 1, keys=len(keys), differing=len(self._left))
            if stuck >= NO_PROGRESS:
                break
        self.result.seconds += time.monotonic() - begun

    @property
    def waiting(self) -> int:
        """Keys that would have to be read if writes stood still now."""
        there = sum(each.touched.count for each in self._streams) + sum(each.count for each in self._writes)
        return len(self._left) + there

    # -- when they stand still

    async def settle(self) -> None:
        """Reads what is left, and is sure.

        Raises:
            Doubt: keys differ.
        """
        keys = await self._taken()
        self.result.last += len(keys)
        for pause in LOOK_SECONDS:
            await asyncio.sleep(pause)
            digests = hashlib.sha256(), hashlib.sha256()  # of this look
            differing = await self._read(keys, digests)
            if not differing:
                break
        if self._nowhere:
            raise Doubt(
                f"{human_count(len(self._nowhere))} keys cannot be read, no node has them: {self._named(sorted(self._nowhere))}",
                hint="slots move? run it again when the cluster is at rest",
            )
        if differing:
            raise Doubt(
                f"{human_count(len(differing))} keys differ while writes stand still: {self._named(sorted(differing))}",
                hint="portd verify tells in what",
            )
        self._left = set()
        for mine, look in zip(self._digests, digests, strict=True):
            mine.update(look.digest())
        result = self.result
        result.source_digest, result.target_digest = (each.hexdigest() for each in self._digests)
        if self._unread:
            result.not_compared.append(
                f"{human_count(len(self._unread))} keys that changed and are too large to be read again: "
                f"{self._named(sorted(self._unread))}"
            )
        source, target = self._both()
        if functions := await compare_functions(source, target, ruled=bool(self._choice)):
            raise Doubt(f"function libraries differ: {functions}", hint="portd verify --repair copies them")

    async def touch(self) -> set[NamedKey]:
        """For a rehearsal, in which nothing stands still: keys that differ now and that nobody has written since.

        Raises:
            Doubt: what was written cannot be told.
        """
        keys = await self._taken()
        self.result.last += len(keys)
        self._left = await self._read(keys)
        for pause in LOOK_SECONDS:
            if not self._left:
                break
            await asyncio.sleep(pause)
            self._left = await self._read(self._left - await self._written())
        return self._left

    def close(self) -> None:
        """Ends the connections; idempotent."""
        for reader in self._readers or ():
            reader.close()
        self._readers = None

    # -- both

    def _both(self) -> tuple[Reader, Reader]:
        assert self._readers is not None
        return self._readers

    async def _taken(self) -> set[NamedKey]:
        """What has to be read again now: what was written, and what differed at the last look.

        Raises:
            Doubt: it cannot be told.
        """
        return await self._written() | self._left

    async def _written(self) -> set[NamedKey]:
        """What was written since this was asked last, as the target calls it.

        Raises:
            Doubt: it cannot be told.
        """
        await together(self._writes, lambda each: each.flush(), "writes seen")
        self._check()
        by_db: dict[int, list[bytes]] = {}
        for name in itertools.chain.from_iterable(each.touched.take() for each in self._streams):
            by_db.setdefault(int.from_bytes(name[:DB_BYTES], "little"), []).append(name[DB_BYTES:])
        here, there = self._ends
        found = here.there((db, name) for db, names in by_db.items() for name in here.taken(db, names))
        _, target = self._both()
        named = list(itertools.chain.from_iterable(each.take() for each in self._writes))
        for db in {0, *target.databases, *(db for db, _ in found)}:
            found.update((db, name) for name in there.taken(db, named))
        self.result.changed += len(found)
        return {key for key in found if not (key[0] == 0 and key[1].startswith(self._own))}

    def _check(self) -> None:
        """Raises: Doubt: which keys were written is not known."""
        touched = [each.touched for each in self._streams]
        flushed = any(each.everything for each in touched), any(each.everything for each in self._writes)
        for where, so in zip(("the source", "the target"), flushed, strict=True):
            if so:
                raise Doubt(f"a whole database of {where} was flushed or swapped meanwhile", hint="run it again")
        if unknown := set[bytes]().union(*(each.unknown for each in touched)):
            names = ", ".join(sorted(name.decode("ascii", "backslashreplace") for name in unknown))
            raise Doubt(
                f"nobody knows the keys of commands that the source writes: {names}",
                hint="allow +command at the source",
            )
        if any(each.lost for each in touched) or any(each.lost for each in self._writes):
            raise Doubt("more keys are written than can be remembered", hint="run it when less is written")

    async def _read(
        self, keys: set[NamedKey], digests: tuple[hashlib._Hash, hashlib._Hash] | None = None
    ) -> set[NamedKey]:
        """Reads keys from both ends; those that differ."""
        assert self._settler is not None
        differing: set[NamedKey] = set()
        self._nowhere = set()
        ordered = sorted(keys)
        for start in range(0, len(ordered), BATCH_KEYS):
            looked = await self._settler.compare(ordered[start : start + BATCH_KEYS])
            differing.update(looked.differing, looked.undecided)
            self._nowhere |= looked.undecided
            if digests is None:
                continue
            for digest, records in zip(digests, (looked.source, looked.target), strict=True):
                for at in range(0, len(records), RECORD_BYTES):
                    record = records[at : at + COMPARED_BYTES]
                    if not self._exact:  # times that are told as what is left of them differ by milliseconds
                        record[EXPIRY] = NO_EXPIRY
                    digest.update(record)
            self._unread |= looked.too_large
        return differing
