"""What a link says about itself when somebody looks: who holds which memory, and how full the path of a byte is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from portd.link.copying import Copying
from portd.link.following import Following
from portd.pipeline.queue import OWNER as QUEUE
from portd.target.snapshot.writing import lane_name
from portd.watch.readings import FenceReading, KeyReading, LaneReading, PipelineReading, SpoolReading, reading_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portd.kernel.snapshot import CurrentKey
    from portd.link.session import Session
    from portd.memory.ledger import Ledger
    from portd.memory.plan import MemoryPlan
    from portd.model import Progress
    from portd.pipeline import ByteBudget, FenceStatistics
    from portd.spool import Spool
    from portd.target.stream.scriptbook import ScriptBook

MOST_FENCES: Final = 20  # shown on a page


class Report:
    """Reads the parts of a link.

    Args:
        progress: counters.
        spool: between source and decoder.
        budget: of queue and lanes.
        scripts: what is kept of them.
        session: the one that runs, or ran last; None before the first.
    """

    def __init__(
        self,
        progress: Progress,
        spool: Spool,
        budget: ByteBudget,
        scripts: ScriptBook,
        session: Callable[[], Session | None],
    ) -> None:
        self._progress = progress
        self._spool = spool
        self._budget = budget
        self._scripts = scripts
        self._session = session
        self._largest: list[CurrentKey] = []  # of the snapshot that was copied last

    @property
    def _copying(self) -> Copying | None:
        session = self._session()
        return session.work if session is not None and isinstance(session.work, Copying) else None

    @property
    def _following(self) -> Following | None:
        session = self._session()
        return session.work if session is not None and isinstance(session.work, Following) else None

    def register(self, ledger: Ledger, plan: MemoryPlan, writers: int, link: str) -> None:
        """Names who holds memory.

        Args:
            ledger: where.
            plan: what each part may hold.
            writers: how many there may be.
            link: whose it is.
        """
        register = partial(ledger.register, link=link)
        spool, budget = self._spool.statistics, self._budget
        register(
            "spool",
            lambda: spool().memory_bytes,
            peak=lambda: (spool().peak_memory_bytes, 0.0),
            limit=plan.spool_bytes,
        )
        register("decoder", self._decoder_bytes, limit=plan.decoder_bytes)
        for owner in (QUEUE, *(lane_name(index) for index in range(writers))):
            register(owner, partial(budget.held, owner), peak=partial(budget.peak, owner), limit=plan.queue_bytes)
        register("applier", lambda: following.applier_bytes() if (following := self._following) else 0)
        register("scripts", self._scripts.held_bytes)
        register("pruning", lambda: copying.pruning_bytes() if (copying := self._copying) else 0)

    def _decoder_bytes(self) -> int:
        if (copying := self._copying) is not None:
            return copying.decoder_bytes()
        return following.feed_bytes() if (following := self._following) else 0

    def decoder_counters(self) -> Mapping[str, int]:
        """Counters of the snapshot decoder; empty outside of a snapshot."""
        return copying.decoder.statistics() if (copying := self._copying) else {}

    def spool(self) -> SpoolReading:
        """How full the spool is."""
        return reading_of(SpoolReading, self._spool.statistics())

    def reading(self) -> PipelineReading:
        """How full the parts are."""
        copying, session = self._copying, self._session()
        budget = self._budget.statistics()
        queue = copying.queue() if copying else None
        current = copying.decoder.current if copying else None
        self._largest = (copying.largest if copying else session.largest if session else []) or self._largest
        return PipelineReading(
            budget_bytes=budget.limit,
            budget_used_bytes=budget.used,
            budget_peak_bytes=budget.peak,
            budget_waiting=budget.waiting,
            queue_batches=queue.ready + queue.parked if queue else 0,
            queue_bytes=queue.bytes if queue else 0,
            fences=[_fence(fence) for fence in queue.fences[:MOST_FENCES]] if queue else [],
            open_fences=len(queue.fences) if queue else 0,
            lanes=[
                reading_of(LaneReading, lane, lane=lane.index, connected=lane.connection.connected)
                for lane in self._progress.lanes
            ],
            current_key=_shown(current) if current else None,
            largest_keys=[_shown(key) for key in self._largest],
            spool=self.spool(),
        )


def _shown(key: CurrentKey) -> KeyReading:
    return reading_of(KeyReading, key, key=_text(key.key))


def _fence(fence: FenceStatistics) -> FenceReading:
    return reading_of(FenceReading, fence, key=_text(fence.key), gate=fence.gate.value)


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")
