"""Runs the kernel's decoder over a snapshot and its batches over a model of the target, checking both contracts.

The decoder's: any split of the input gives the same, memory stays within ``window_bytes``. The batches': what
``portd/kernel/batch.pyi`` says of kinds, fences, parts, replies and limits.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portd.kernel.batch import CLOSE, OPEN, ORDERED, SPREAD, WHOLE
from portd.kernel.snapshot import SnapshotDecoder
from tests.oracle.apply import RefusedError, Target, split_commands
from tests.oracle.model import ListValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from portd.kernel.batch import Batch
    from portd.kernel.snapshot import DeadLetter
    from tests.oracle.dialects import Spec

OWNED = ("window_capacity", "blob_capacity", "output_capacity", "scratch_capacity")
SPREADABLE = {b"HSET", b"HSETEX", b"HPEXPIREAT", b"SADD", b"ZADD", b"EVAL"}
SAMPLE = 16  # every so many feeds the statistics are looked at


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings of the decoder, in bytes and elements."""

    chunk_bytes: int = 1 << 20
    batch_bytes: int = 128 << 10
    command_bytes: int = 64 << 10
    command_elements: int = 512
    skip_existing: bool = False
    margin_ms: int = 0  # of expiries that are postponed
    shift_ms: int = 0


TINY = Limits(chunk_bytes=64, batch_bytes=256, command_bytes=128, command_elements=3)
SMALL = Limits(chunk_bytes=64 << 10, batch_bytes=16 << 10, command_bytes=8 << 10, command_elements=64)


def whole(data: bytes) -> Iterator[bytes]:
    """All at once."""
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    """One byte at a time."""
    for at in range(len(data)):
        yield data[at : at + 1]


def random_cuts(data: bytes) -> Iterator[bytes]:
    """Pieces of random sizes, mostly small ones."""
    chooser = random.Random(len(data))
    at = 0
    while at < len(data):
        size = chooser.choice((1, 2, 7, 9, 50, 300, 5000))
        yield data[at : at + size]
        at += size


def starved(data: bytes) -> Iterator[bytes]:
    """Small pieces, and nothing at all after each of them."""
    for at in range(0, len(data), 13):
        yield data[at : at + 13]
        yield b""


FEEDS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "whole": whole,
    "byte_by_byte": byte_by_byte,
    "random_cuts": random_cuts,
    "starved": starved,
}


class Lanes:
    """Executes batches on a model in an order that real lanes could choose, and checks them.

    Args:
        target: the model.
        limits: what the decoder was told.
        seed: chooses the order of a big key's spread chunks.
    """

    def __init__(self, target: Target, limits: Limits, seed: int = 0) -> None:
        self.target = target
        self.keys = 0
        self.kinds: Counter[int] = Counter()
        self.commands: Counter[bytes] = Counter()
        self.spared = 0  # keys left alone because the target has them
        self._limits = limits
        self._random = random.Random(seed)
        self._fence = 0
        self._opened: Batch | None = None
        self._exists = False
        self._chunks: list[tuple[Batch, list[list[bytes]]]] = []
        self._part: list[Batch] = []
        self._offset = 0

    def put(self, batch: Batch) -> None:
        """Takes the next batch of the decoder."""
        self.kinds[batch.kind] += 1
        self.keys += batch.keys
        assert len(batch) == len(batch.data)
        assert batch.data or batch.kind == CLOSE, "an empty batch"
        assert batch.offset >= self._offset, "offsets go back"
        self._offset = batch.offset
        commands = self._whole_commands(batch)
        if commands is None:
            return
        if batch.kind == WHOLE:
            assert (batch.fence, batch.key, self._opened) == (0, b"", None), "a whole key inside of a big one"
            self._execute(batch, commands)
        elif batch.kind == OPEN:
            assert self._opened is None, "a big key inside of another"
            assert batch.fence == self._fence + 1
            assert batch.replies == len(commands) == 1
            self._fence = batch.fence
            self._opened = batch
            self._exists = commands[0][0] == b"EXISTS" and batch.key in self.target.databases.get(batch.db, {})
            self._execute(batch, commands)
        else:
            opened = self._opened
            assert opened is not None, "a chunk outside of a big key"
            assert (batch.fence, batch.key, batch.db) == (opened.fence, opened.key, opened.db)
            if batch.kind == CLOSE:
                self._close(batch, commands)
            else:
                assert batch.keys == 0
                self._chunks.append((batch, commands))

    def _whole_commands(self, batch: Batch) -> list[list[bytes]] | None:
        """The commands of a batch and of the parts before it; None while a part is open."""
        if self._part:
            first = self._part[0]
            assert batch.kind == first.kind == ORDERED, "a part is followed by something else"
            assert (batch.fence, batch.db) == (first.fence, first.db)
        if batch.part:
            assert batch.kind == ORDERED
            self._part.append(batch)
            return None
        commands = split_commands(b"".join(part.data for part in self._part) + batch.data)
        assert sum(part.replies for part in self._part) + batch.replies == len(commands), "replies do not add up"
        if not self._part:
            self._check_sizes(batch, commands)
        self._part.clear()
        return commands

    def _check_sizes(self, batch: Batch, commands: list[list[bytes]]) -> None:
        limits = self._limits
        bound = limits.batch_bytes + limits.chunk_bytes + limits.command_bytes + 2 * len(batch.key) + 500
        assert len(batch) <= bound, f"a batch of {len(batch)} bytes, beyond {bound}"
        for command in commands:
            each = {b"HSET": 2, b"ZADD": 2, b"MSET": 2, b"SADD": 1, b"RPUSH": 1}.get(command[0])
            if each is not None:
                elements = (len(command) - 1) // each
                assert elements <= limits.command_elements + 1, f"{command[0]!r} of {elements} elements"
                size = sum(map(len, command[2:]))
                biggest = max(map(len, command[2:]), default=0)
                assert elements == 1 or size <= limits.command_bytes + 2 * biggest, f"{command[0]!r} of {size} bytes"

    def _close(self, batch: Batch, commands: list[list[bytes]]) -> None:
        """Executes the chunks of a big key, the spread ones in any order, then what closes it."""
        ordered = [chunk for chunk in self._chunks if chunk[0].kind == ORDERED]
        spread = [chunk for chunk in self._chunks if chunk[0].kind == SPREAD]
        for _, held in spread:
            assert {command[0] for command in held} <= SPREADABLE, "a spread chunk depends on its order"
        self._random.shuffle(spread)
        places = sorted(self._random.randint(0, len(spread)) for _ in ordered)
        for place, chunk in reversed(list(zip(places, ordered, strict=True))):
            spread.insert(place, chunk)
        self._chunks.clear()
        self._opened = None
        if self._exists:
            self.spared += 1
            return
        for part_of_key, held in spread:
            stored = self.target.databases.get(part_of_key.db, {}).get(part_of_key.key)
            if stored is not None and isinstance(stored.value, ListValue):
                assert part_of_key.base == len(stored.value.elements), "base is not the length of the list"
            self._execute(part_of_key, held)
        self._execute(batch, commands)

    def _execute(self, batch: Batch, commands: list[list[bytes]]) -> None:
        for command in commands:
            self.commands[command[0]] += 1
            try:
                self.target.execute(batch.db, command)
            except RefusedError as refusal:
                if not (self._limits.skip_existing and str(refusal).startswith("BUSYKEY")):
                    raise
                self.spared += 1

    def end(self) -> None:
        """No batch may come any more."""
        assert not self._part
        assert not self._chunks
        assert self._opened is None


@dataclass(slots=True)
class Run:
    """What came out of one snapshot."""

    decoder: SnapshotDecoder
    target: Target
    lanes: Lanes
    limits: Limits
    letters: list[DeadLetter] = field(default_factory=list)
    fed: int = 0

    def statistics(self) -> dict[str, int]:
        """The decoder's counters."""
        return self.decoder.statistics()


def make_decoder(spec: Spec, limits: Limits = Limits(), *, verify: bool = True) -> SnapshotDecoder:
    """A decoder for a target."""
    decoder = SnapshotDecoder(
        spec.dialect(),
        chunk_bytes=limits.chunk_bytes,
        batch_bytes=limits.batch_bytes,
        command_bytes=limits.command_bytes,
        command_elements=limits.command_elements,
        skip_existing=limits.skip_existing,
        verify_checksum=verify,
    )
    decoder.postpone(limits.margin_ms, limits.shift_ms)
    return decoder


def check_memory(decoder: SnapshotDecoder) -> None:
    """What the decoder owns is within the bound that it names."""
    statistics = decoder.statistics()
    owned = sum(statistics[name] for name in OWNED)
    assert owned <= decoder.window_bytes, statistics
    assert statistics["window_used"] <= statistics["window_capacity"]


def run(
    data: bytes,
    spec: Spec,
    *,
    feed: Callable[[bytes], Iterator[bytes]] = whole,
    limits: Limits = Limits(),
    target: Target | None = None,
    verify: bool = True,
    seed: int = 0,
) -> Run:
    """Decodes *data* and applies the batches to a model.

    Raises:
        DecodeError: the decoder's; what was applied before it is lost to the caller.
        AssertionError: a contract was broken.
        RefusedError: the target would refuse a command.
    """
    decoder = make_decoder(spec, limits, verify=verify)
    target = target or Target(spec)
    result = Run(decoder, target, Lanes(target, limits, seed), limits)
    for number, piece in enumerate(feed(data)):
        _feed(result, piece)
        if number % SAMPLE == 0:
            check_memory(decoder)
    decoder.finish()
    check_memory(decoder)
    assert decoder.ended
    assert decoder.next_batch() is None
    result.letters += decoder.take_dead_letters()
    result.lanes.end()
    return result


def _feed(result: Run, piece: bytes) -> None:
    """Feeds one piece as a pump does: as much as fits, then all batches that there are."""
    decoder = result.decoder
    view = memoryview(piece)
    while True:
        taken = decoder.feed(view)
        assert 0 <= taken <= len(view)
        view = view[taken:]
        result.fed += taken
        before = decoder.offset
        batches = 0
        while (batch := decoder.next_batch()) is not None:
            batches += 1
            result.lanes.put(batch)
        result.letters += decoder.take_dead_letters()
        assert decoder.offset <= result.fed
        if not view or decoder.ended:
            return
        assert taken or batches or decoder.offset > before, f"stuck at {decoder.offset}: {decoder.statistics()}"
