"""One report of where the memory is: owners against RSS, the pipeline's fill, the last minutes.

The sum is made so that it can be checked: code (file-backed pages) + heap at the start + what owners hold + what they
gave back and malloc keeps should be the RSS; what is left is shown as unexplained and stays small, or something holds
memory that nobody counts.
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from portd.memory.cgroup import Cgroup, find_cgroup
from portd.memory.collector import GcReading, GcWatch
from portd.memory.ledger import Ledger
from portd.memory.process import Heaps, Resident, heaps, peak_rss, proportional, resident, trim
from portd.units import human_bytes
from portd.watch.alarms import MEMORY_RULE, Alarm, Alarms
from portd.watch.history import History, HistoryReading, Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.watch.readings import CgroupReading, OwnerReading, PipelineReading

SAMPLE_SECONDS = 1.0
TRIM_SECONDS = 5.0  # between two looks at what malloc keeps
TRIM_BYTES = 4 << 20  # more than this of free heap goes back to the kernel
COLUMNS = ("rss", "owned", "cgroup")


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Everything `/debug/memory` shows, in bytes and unix seconds.

    Attributes:
        at: when it was taken.
        rss_bytes: resident set now; = anon + file.
        rss_peak_bytes: the highest ever.
        pss_bytes: resident, shared pages divided among their users; None where the kernel does not tell.
        anon_bytes: heaps, stacks, data.
        file_bytes: code and libraries.
        swap_bytes: swapped out.
        cgroup: None where there is none.
        ceiling_bytes: RSS that the memory plan allows; 0 without a plan.
        interpreter_bytes: code now and heap before the pipeline was built.
        owned_bytes: sum of the owners.
        free_bytes: free heap: owners gave it back, malloc keeps it for the next one.
        unexplained_bytes: RSS - interpreter - owned - free; negative when an owner's buffers were never touched.
        owners: who holds what.
        heaps: anonymous memory by allocator: the same bytes, another cut.
        gc: pauses of Python's cyclic collector.
        pipelines: how full the parts of each link are, by its name.
        history: the last minutes, or the day that was asked for.
        alarms: what is wrong with it.
    """

    at: float
    rss_bytes: int
    rss_peak_bytes: int
    pss_bytes: int | None
    anon_bytes: int
    file_bytes: int
    swap_bytes: int
    cgroup: CgroupReading | None
    ceiling_bytes: int
    interpreter_bytes: int
    owned_bytes: int
    free_bytes: int
    unexplained_bytes: int
    owners: list[OwnerReading]
    heaps: Heaps
    gc: GcReading
    pipelines: dict[str, PipelineReading]
    history: HistoryReading
    alarms: list[Alarm]

    @property
    def spool_disk_bytes(self) -> int:
        """What the spools have on disk."""
        return sum(each.spool.disk_bytes for each in self.pipelines.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON. Where there is one link, its ``pipeline`` stands by itself, too."""
        found = asdict(self)
        return {**found, "pipeline": next(iter(found["pipelines"].values()))} if len(self.pipelines) == 1 else found


class Accounting:
    """Owners, samples and reports of one process.

    Args:
        cgroup: the group to watch; found when None.

    Attributes:
        ledger: register owners here.
        pipelines: called for the fill of the parts of each link; set by whoever builds them.
        ceiling_bytes: RSS that the memory plan allows, to show.
        samplers: called with the time, in unix seconds, at each sample.
    """

    def __init__(self, cgroup: Cgroup | None = None) -> None:
        self.ledger = Ledger()
        self.pipelines: Callable[[], dict[str, PipelineReading]] = dict
        self.ceiling_bytes = 0
        self.cgroup = cgroup or find_cgroup()
        self.samplers: list[Callable[[float], None]] = []
        self._history = History(COLUMNS)
        self._alarms = Alarms()
        self.ledger.register("history", self._history.held_bytes)
        self._gc = GcWatch()
        self._start_anon = _used_anon(resident())
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at = 0.0

    def settle(self) -> int:
        """Weighs the interpreter: call once, when everything is imported and before buffers are allocated.

        Exempts what is there from the collections to come (it lives as long as the process; importing leaves no garbage
        worth a collection, which would take longer than all the questions to both ends) and gives free heap back.

        Returns:
            RSS in bytes.
        """
        gc.freeze()
        trim()
        now = resident()
        self._start_anon = _used_anon(now)
        return now.rss_bytes

    def start(self) -> None:
        """Samples once a second from a timer of the running loop, until `close`."""
        self._gc.start()
        if self._timer is None:
            self._tick(asyncio.get_running_loop())

    def close(self) -> None:
        """Stops sampling; may be called at any time and again."""
        self._gc.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def sample(self) -> None:
        """Brings peaks up to date and adds a row to the history."""
        owned = sum(reading.held_bytes for reading in self.ledger.readings())
        charged = self.cgroup.current() if self.cgroup else None
        at, rss = time.time(), resident().rss_bytes
        self._history.append(at, (rss, owned, charged or 0))
        above = 0 < self.ceiling_bytes < rss
        words = f"{human_bytes(rss)} resident, {human_bytes(self.ceiling_bytes)} planned" if above else ""
        self._alarms.look(at, [(MEMORY_RULE, words)])
        for sampler in self.samplers:
            sampler(at)

    def report(self, span: Span = Span.MINUTES) -> MemoryReport:
        """Everything now, with the history of that span. Takes a few milliseconds: for when somebody looks."""
        now = resident()
        owners = self.ledger.readings()
        owned = sum(reading.held_bytes for reading in owners)
        interpreter = self._start_anon + now.file_bytes
        pss, swap = proportional()
        found = heaps(now)
        return MemoryReport(
            at=time.time(),
            rss_bytes=now.rss_bytes,
            rss_peak_bytes=max(peak_rss(), now.rss_bytes),
            pss_bytes=pss,
            anon_bytes=now.anon_bytes,
            file_bytes=now.file_bytes,
            swap_bytes=swap,
            cgroup=self.cgroup.read() if self.cgroup else None,
            ceiling_bytes=self.ceiling_bytes,
            interpreter_bytes=interpreter,
            owned_bytes=owned,
            free_bytes=found.c_free_bytes,
            unexplained_bytes=now.rss_bytes - interpreter - owned - found.c_free_bytes,
            owners=owners,
            heaps=found,
            gc=self._gc.read(),
            pipelines=self.pipelines(),
            history=self._history.read(span),
            alarms=self._alarms.now,
        )

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(SAMPLE_SECONDS, self._tick, loop)
        self.sample()
        if loop.time() - self._looked_at >= TRIM_SECONDS:
            self._looked_at = loop.time()
            if heaps(resident()).c_free_bytes > TRIM_BYTES:
                trim()  # a snapshot has ended, or a burst: what it took would stay in RSS for weeks


def _used_anon(now: Resident) -> int:
    """Anonymous memory without what malloc keeps free, which has a line of its own."""
    return now.anon_bytes - heaps(now).c_free_bytes
