"""How a memory budget is split before anything is allocated, and how the budget itself follows from a limit.

The peak of the process is the interpreter, some slack of the heap, and the budget. The interpreter's share is code and
libraries, which no setting changes; the budget is every buffer between the two sockets.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from portd.config.settings import MAX_BUDGET_BYTES
from portd.errors import ConfigError
from portd.units import KIB, MIB, human_bytes, show_size

if TYPE_CHECKING:
    from portd.config.settings import Settings

INTERPRETER_BYTES = 46 * MIB  # Python, libraries and our own code once all is loaded, measured, rounded up
SLACK_BYTES = 14 * MIB  # free pieces of the heap, and what it keeps for the next batches, measured
PROCESS_BYTES = INTERPRETER_BYTES + SLACK_BYTES
RESERVE_BYTES = 12 * MIB  # charged to a cgroup beside our RSS: socket buffers, page tables, spool pages being written
RESERVE_LINK_BYTES = 4 * MIB  # the same for every link beside the first: sockets and threads of its own, an estimate
DECODER_CHUNKS = 5  # its window holds two; a packed value with long elements twice another one; one to unpack with
DECODER_FIXED_BYTES = MIB  # windows and scratch of the decoder that do not follow the chunk size
MIN_SPOOL_BYTES = MIB
MAX_BATCH_BYTES = 256 * KIB
BATCHES_PER_WRITER = 4  # one on its way, one being acknowledged, two waiting: a writer never runs dry


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where the budget goes, in bytes.

    Attributes:
        budget_bytes: the sum of the next three: of one link.
        spool_bytes: received from the source, not yet decoded, in memory; more goes to disk.
        decoder_bytes: the decoder's windows and buffers.
        queue_bytes: batches waiting for a writer, or sent and not yet acknowledged.
        batch_bytes: a batch is cut here, so that every writer has some.
        ceiling_bytes: RSS that this, with the plans of the other links, lets the process reach.
        limit_bytes: the cgroup's limit; None without one.
        reason: where the budget came from, for the log.
    """

    budget_bytes: int
    spool_bytes: int
    decoder_bytes: int
    queue_bytes: int
    batch_bytes: int
    ceiling_bytes: int
    limit_bytes: int | None
    reason: str

    def shown(self) -> dict[str, Any]:
        """For one log event."""
        return asdict(self)


def plan_memory(settings: Settings, limit_bytes: int | None, links: int = 1) -> MemoryPlan:
    """Splits the budget of *settings*, or the one that *limit_bytes* leaves when none is set.

    Args:
        settings: memory_budget, chunk_bytes, command_bytes and writers count.
        limit_bytes: the cgroup's limit (`Cgroup.limit`); None without one.
        links: that run in this process; each has an equal part of the budget.

    Raises:
        ConfigError: it cannot work; the message has the numbers.
    """
    decoder = DECODER_CHUNKS * settings.chunk_bytes + DECODER_FIXED_BYTES
    least_queue = max(2 * settings.chunk_bytes, 2 * settings.writers * settings.command_bytes)
    least = decoder + least_queue + MIN_SPOOL_BYTES
    whole, reason = _budget(settings, limit_bytes, RESERVE_BYTES + (links - 1) * RESERVE_LINK_BYTES)
    budget = whole // links
    if budget < least:
        fits = whole // least
        of = f" for {links} links" if links > 1 else ""
        needs = f"link {settings.link}: the decoder needs" if links > 1 else "the decoder needs"
        number = f"; {fits} such link{'s' if fits != 1 else ''} would fit" if links > 1 else ""
        raise ConfigError(
            f"a memory budget of {human_bytes(whole)} ({reason}){of} cannot work: {needs} "
            f"{human_bytes(decoder)} with chunk_bytes={show_size(settings.chunk_bytes)}, the queue "
            f"{human_bytes(least_queue)} with writers={settings.writers} and "
            f"command_bytes={show_size(settings.command_bytes)}, the spool {human_bytes(MIN_SPOOL_BYTES)}, "
            f"together {human_bytes(least)}{number}",
            hint=f"give memory_budget (or the cgroup) at least {'that' if links == 1 else human_bytes(links * least)}, "
            f"or lower chunk_bytes: {_chunk_advice(budget)}",
        )
    spool = max(MIN_SPOOL_BYTES, min((budget - decoder) // 4, budget - decoder - least_queue))
    queue = budget - decoder - spool
    batch = min(MAX_BATCH_BYTES, max(settings.command_bytes, queue // (BATCHES_PER_WRITER * settings.writers)))
    return MemoryPlan(
        budget_bytes=budget,
        spool_bytes=spool,
        decoder_bytes=decoder,
        queue_bytes=queue,
        batch_bytes=batch,
        ceiling_bytes=PROCESS_BYTES + whole,
        limit_bytes=limit_bytes,
        reason=reason,
    )


def _budget(settings: Settings, limit_bytes: int | None, reserve: int) -> tuple[int, str]:
    """The budget and where it came from."""
    beside = f"{human_bytes(PROCESS_BYTES)} for the interpreter and its heap, and {human_bytes(reserve)} in reserve"
    room = None if limit_bytes is None else limit_bytes - PROCESS_BYTES - reserve
    asked = settings.memory_budget
    if asked is None:
        if limit_bytes is None or room is None or room >= MAX_BUDGET_BYTES:
            return MAX_BUDGET_BYTES, "the default"
        return max(0, room), f"what a cgroup limit of {human_bytes(limit_bytes)} leaves beside {beside}"
    if limit_bytes is not None and room is not None and asked > room:
        raise ConfigError(
            f"memory_budget is {show_size(asked)}, but the cgroup's limit of {human_bytes(limit_bytes)} leaves "
            f"{human_bytes(max(0, room))} beside {beside}",
            hint="lower memory_budget or leave it unset, or raise the limit (MemoryMax= of the unit)",
        )
    return asked, "memory_budget"


def _chunk_advice(budget: int) -> str:
    fits = (budget - DECODER_FIXED_BYTES - MIN_SPOOL_BYTES) // (DECODER_CHUNKS + 2) // (64 * KIB) * (64 * KIB)
    return f"{show_size(fits)} would fit by itself" if fits > 0 else "but no chunk size fits this budget"
