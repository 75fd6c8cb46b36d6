"""The heap profile: which lines hold the bytes, recorded by `tracemalloc` while the replication runs.

Recording sees what is allocated after it began: all buffers of the kernel and of Python. What was there before is put
in by owner, from the ledger, so that nothing large is missing. A look copies the list of live blocks in one go, some
thousands of them; everything after it is done in slices of a millisecond between which the loop goes on.

How a profile is written down is in `portd.memory.heapformat`.
"""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from portd.memory.heapnames import FunctionNames
from portd.memory.slices import Slices
from portd.units import KIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from portd.watch.readings import OwnerReading

DEFAULT_SECONDS = 5.0  # recorded when nobody says how long and no recording is kept
MAX_SECONDS = 300.0
LOOK_SECONDS = 0.5  # between two looks while recording
MAX_FRAMES = 8  # of a stack, the innermost; each costs every allocation a quarter of a microsecond while it records
MAX_STACKS = 4000  # told apart; further ones are put together
STACK_BYTES = KIB  # that a stack takes in a profile, with its frames and figures
LEAST_REST_BYTES = 64 * KIB  # less than this that an owner holds beyond what was traced is rounding

Frame = tuple[str, int]  # file and line
Stack = tuple[Frame, ...]  # innermost first

OWNER = "heap profile"  # what recording takes, in the ledger
_APART = frozenset({"spool", OWNER})  # owners whose code, or whose memory, is not shared with others
OTHER: Stack = (("(further stacks)", 0),)
_OWN_FILES = frozenset({tracemalloc.__file__, __file__})


@dataclass(slots=True)
class Sample:
    """Blocks and bytes of one stack."""

    inuse_objects: int = 0
    inuse_bytes: int = 0
    alloc_objects: int = 0
    alloc_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HeapProfile:
    """What a recording found.

    Attributes:
        at: when it ended, unix seconds.
        seconds: how long it took.
        samples: by stack. `alloc` is what looks saw growing, a lower bound: what came and went between two looks is not in it.
        overhead_bytes: what the recording itself takes.
    """

    at: float
    seconds: float
    samples: dict[Stack, Sample]
    overhead_bytes: int


class HeapBusy(Exception):
    """Another recording is under way.

    Args:
        seconds: until it is over.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"a profile is being recorded, for another {seconds:.0f} s")
        self.seconds = seconds


@dataclass(slots=True)
class _Tally:
    """Live blocks by stack, and how much of them was seen to grow from look to look."""

    live: dict[Stack, tuple[int, int]] = field(default_factory=dict)
    grown: dict[Stack, tuple[int, int]] = field(default_factory=dict)

    def update(self, live: dict[Stack, tuple[int, int]]) -> None:
        for stack, (objects, size) in live.items():
            before_objects, before_size = self.live.get(stack, (0, 0))
            more = max(0, objects - before_objects), max(0, size - before_size)
            if any(more):
                place = stack if stack in self.grown or len(self.grown) < MAX_STACKS else OTHER
                had = self.grown.get(place, (0, 0))
                self.grown[place] = had[0] + more[0], had[1] + more[1]
        self.live = live


class HeapRecorder:
    """Records, one recording at a time.

    Args:
        owners: who holds which bytes (`Ledger.readings`).

    Attributes:
        names: of functions, to write profiles with.
        last: what was recorded last, to be shown again; None while recording is kept, which has it all at hand.
    """

    def __init__(self, owners: Callable[[], Sequence[OwnerReading]]) -> None:
        self.names = FunctionNames()
        self.last: HeapProfile | None = None
        self._owners = owners
        self._kept: _Tally | None = None
        self._kept_since = 0.0
        self._ends = 0.0  # loop time at which the recording under way is over; 0 when there is none

    @property
    def kept(self) -> bool:
        """Recording goes on all the time."""
        return self._kept is not None

    def keep(self) -> None:
        """Records from now on until `close`, so that a profile needs no waiting."""
        self._kept, self._kept_since = _Tally(), time.time()
        if not tracemalloc.is_tracing():
            tracemalloc.start(MAX_FRAMES)

    def close(self) -> None:
        """Ends all recording; idempotent."""
        self._kept = self.last = None
        self._ends = 0.0
        tracemalloc.stop()

    def held_bytes(self) -> int:
        """What recording takes now, for the ledger."""
        last = len(self.last.samples) * STACK_BYTES if self.last is not None else 0
        return last + (tracemalloc.get_tracemalloc_memory() if tracemalloc.is_tracing() else 0)

    async def take(self, seconds: float | None = None) -> HeapProfile:
        """Records a profile.

        Args:
            seconds: how long; what changed meanwhile is the profile. None is all since recording is kept, at once;
                `DEFAULT_SECONDS` where it is not.

        Raises:
            HeapBusy: another one is under way.
        """
        loop = asyncio.get_running_loop()
        if self._ends:
            raise HeapBusy(max(0.0, self._ends - loop.time()))
        wait = (0.0 if self.kept else DEFAULT_SECONDS) if seconds is None else seconds
        self._ends = loop.time() + wait or 1.0
        begun = time.time()
        try:
            if self._kept is None:
                self.last = None  # two at a time would take twice the memory
                self.last = profile = await self._record_now(begun)
                return profile
            if wait:
                return await self._record_change(begun)
            self._kept.update(await _look(tracemalloc.take_snapshot()))
            return await self._profile(self._kept, self._kept_since, whole=True)
        finally:
            self._ends = 0.0

    async def _record_now(self, begun: float) -> HeapProfile:
        """Records for a while; what is older comes from the ledger."""
        tally = _Tally()
        tracemalloc.start(MAX_FRAMES)
        try:
            while await self._pause():
                tally.update(await _look(tracemalloc.take_snapshot()))
            last = tracemalloc.take_snapshot()
            overhead = self.held_bytes()
        finally:
            if not self.kept:
                tracemalloc.stop()  # before the work: while it traces, that takes a hundred times as long
        tally.update(await _look(last))
        return await self._profile(tally, begun, whole=True, overhead=overhead)

    async def _record_change(self, begun: float) -> HeapProfile:
        """Watches for a while what is recorded anyway; the profile is the difference."""
        tally = _Tally()
        tally.live = first = await _look(tracemalloc.take_snapshot())
        while await self._pause():
            tally.update(await _look(tracemalloc.take_snapshot()))
        tally.update(await _look(tracemalloc.take_snapshot()))
        for stack, (objects, size) in first.items():
            now = tally.live.get(stack, (0, 0))
            tally.live[stack] = now[0] - objects, now[1] - size
        return await self._profile(tally, begun, whole=False)

    async def _pause(self) -> bool:
        """Waits for the next look; False when it is the last one."""
        left = self._ends - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(left, LOOK_SECONDS)))
        return left > LOOK_SECONDS

    async def _profile(self, tally: _Tally, begun: float, *, whole: bool, overhead: int = 0) -> HeapProfile:
        samples: dict[Stack, Sample] = {}
        slices = Slices()
        for stack, (objects, size) in tally.live.items():
            samples[stack] = Sample(objects, size)
            await slices.rest()
        for stack, (objects, size) in tally.grown.items():
            sample = samples.setdefault(stack, Sample())
            sample.alloc_objects, sample.alloc_bytes = objects, size
        if whole:
            await _add_untraced(samples, self._owners())
        now = time.time()
        return HeapProfile(now, now - begun, samples, overhead or self.held_bytes())


async def _look(snapshot: tracemalloc.Snapshot) -> dict[Stack, tuple[int, int]]:
    """All live blocks by stack: objects and bytes.

    Reads the raw list behind `Snapshot.traces`, (domain, bytes, frames, depth) with one shared tuple of frames for each
    stack: the objects that the public sequence makes of it cost 50 us a block while they are traced themselves.
    """
    traces = snapshot.traces._traces  # type: ignore[attr-defined]  # noqa: SLF001
    slices = Slices()
    sums: dict[int, list[int]] = {}  # by identity of the frames, which the list keeps alive
    stacks: dict[int, Stack] = {}
    for number, (_, size, frames, _) in enumerate(traces):
        place = id(frames)
        entry = sums.get(place)
        if entry is None:
            entry = sums[place] = [0, 0]
            stacks[place] = frames
        entry[0] += 1
        entry[1] += size
        if number % 32 == 0:
            await slices.rest()
    found: dict[Stack, tuple[int, int]] = {}
    for place, (objects, size) in sums.items():
        stack = stacks[place]
        if stack[0][0] in _OWN_FILES:
            continue
        if stack not in found and len(found) >= MAX_STACKS:
            stack = OTHER
        had = found.get(stack, (0, 0))
        found[stack] = had[0] + objects, had[1] + size
        await slices.rest()
    return found


async def _add_untraced(samples: dict[Stack, Sample], owners: Sequence[OwnerReading]) -> None:
    """Adds what owners hold beyond the blocks traced in their code: buffers that are older than the recording.

    The spool's code is its own. Decoder, queue and lanes allocate in each other's code, so they are taken together, and
    what is left belongs to those that come first in the ledger: they keep their buffers, batches come and go.
    """
    slices = Slices()
    kinds: dict[str, str] = {}
    traced = {"spool": 0, "others": 0, "": 0}
    for stack, sample in samples.items():
        kind = ""
        for file, _ in stack:
            if file not in kinds:
                kinds[file] = _kind(file)
            kind = kinds[file] or kind
            if kind in {"spool", "none"}:
                break
        traced[kind if kind in traced else ""] += sample.inuse_bytes
        await slices.rest()
    held: Counter[str] = Counter()
    for each in owners:  # links run the same code
        held[each.owner] += each.held_bytes
    left = sum(held_bytes for owner, held_bytes in held.items() if owner not in _APART) - traced["others"]
    for owner, held_bytes in held.items():
        if owner == OWNER:
            continue
        rest = held_bytes - traced["spool"] if owner == "spool" else min(held_bytes, left)
        if rest >= LEAST_REST_BYTES:
            samples[((f"({owner}, from before the recording)", 0),)] = Sample(1, rest, 1, rest)
        if owner != "spool":
            left -= max(0, rest)


def _kind(file: str) -> str:
    """Whose code a file is: `spool`, `others` of the pipeline, `none` of it, or empty for what all of them call."""
    if "/portd/" not in file:
        return ""
    part = file.rpartition("/portd/")[2].split("/")[0]
    if part == "spool":
        return "spool"
    return "none" if part in {"http", "memory"} else "others"
