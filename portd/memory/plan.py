"""How a memory budget is split before anything is allocated, and how the budget itself follows from a limit.

The peak of the process is the interpreter, some slack of the heap, what each link takes beside its buffers, and the budget. The
interpreter's share is code and libraries, which no setting changes; the budget is every buffer between the two sockets.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from portd.config.settings import MAX_BUDGET_BYTES, default
from portd.errors import ConfigError
from portd.units import KIB, MIB, human_bytes, show_size

if TYPE_CHECKING:
    from portd.config.settings import Settings

INTERPRETER_BYTES = 46 * MIB  # Python, libraries and our own code once all is loaded, measured, rounded up
SLACK_BYTES = 14 * MIB  # free pieces of the heap, and what it keeps for the next batches, measured
PROCESS_BYTES = INTERPRETER_BYTES + SLACK_BYTES
ROOMY_LINKS = 3  # have the budget of one among them; each further one adds to it
LINK_BUDGET_BYTES = 3 * MIB  # so much
LINK_BYTES = (
    768 * KIB
)  # of each link beside the first, outside of the budget: records of slots, tables, connections, measured
RESERVE_BYTES = 12 * MIB  # charged to a cgroup beside our RSS: socket buffers, page tables, spool pages being written
RESERVE_LINK_BYTES = 4 * MIB  # the same for every link beside the first: sockets and threads of its own, an estimate
CHUNK_STEP_BYTES = 64 * KIB  # of chunks that are smaller than they would be, because there are many links
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
        chunk_bytes: values up to this size are written whole: the setting, or less where nobody set it and links are many.
        ceiling_bytes: RSS that this, with the plans of the other links, lets the process reach.
        limit_bytes: the cgroup's limit; None without one.
        reason: where the budget came from, for the log.
    """

    budget_bytes: int
    spool_bytes: int
    decoder_bytes: int
    queue_bytes: int
    batch_bytes: int
    chunk_bytes: int
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
    whole, reason = _budget(settings, limit_bytes, links)
    budget = whole // links
    chunk = _chunk(settings, budget, links)
    decoder, least_queue = _least(settings, chunk)
    least = decoder + least_queue + MIN_SPOOL_BYTES
    if budget < least:
        fits = whole // least
        of = f" for {links} links" if links > 1 else ""
        needs = f"link {settings.link}: the decoder needs" if links > 1 else "the decoder needs"
        number = f"; {fits} such link{'s' if fits != 1 else ''} would fit" if links > 1 else ""
        raise ConfigError(
            f"a memory budget of {human_bytes(whole)} ({reason}){of} cannot work: {needs} "
            f"{human_bytes(decoder)} with chunk_bytes={show_size(chunk)}, the queue "
            f"{human_bytes(least_queue)} with writers={settings.writers} and "
            f"command_bytes={show_size(settings.command_bytes)}, the spool {human_bytes(MIN_SPOOL_BYTES)}, "
            f"together {human_bytes(least)}{number}",
            hint=f"give memory_budget (or the cgroup) at least {'that' if links == 1 else human_bytes(links * least)}, "
            f"or lower chunk_bytes: {_chunk_advice(budget, chunk)}",
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
        chunk_bytes=chunk,
        ceiling_bytes=PROCESS_BYTES + (links - 1) * LINK_BYTES + whole,
        limit_bytes=limit_bytes,
        reason=reason,
    )


def _least(settings: Settings, chunk: int) -> tuple[int, int]:
    """Bytes that the decoder takes, and the queue at the least."""
    decoder = DECODER_CHUNKS * chunk + DECODER_FIXED_BYTES
    return decoder, max(2 * chunk, 2 * settings.writers * settings.command_bytes)


def _chunk(settings: Settings, budget: int, links: int) -> int:
    """The chunk of one of several links, which have *budget* each: one that nobody has set gets smaller until it fits."""
    chunk = settings.chunk_bytes
    if links == 1 or chunk != default("chunk_bytes"):
        return chunk
    smallest = max(CHUNK_STEP_BYTES, settings.command_bytes, settings.min_bytes or 0, settings.max_bytes or 0)
    while chunk - CHUNK_STEP_BYTES >= smallest and sum(_least(settings, chunk)) + MIN_SPOOL_BYTES > budget:
        chunk -= CHUNK_STEP_BYTES
    return chunk


def _budget(settings: Settings, limit_bytes: int | None, links: int) -> tuple[int, str]:
    """The budget of all links and where it came from."""
    process = PROCESS_BYTES + (links - 1) * LINK_BYTES
    reserve = RESERVE_BYTES + (links - 1) * RESERVE_LINK_BYTES
    beside = f"{human_bytes(process)} for the interpreter and its heap, and {human_bytes(reserve)} in reserve"
    room = None if limit_bytes is None else limit_bytes - process - reserve
    asked = settings.memory_budget
    if asked is None:
        unset = MAX_BUDGET_BYTES + max(0, links - ROOMY_LINKS) * LINK_BUDGET_BYTES
        if limit_bytes is None or room is None or room >= unset:
            return unset, "the default"
        return max(0, room), f"what a cgroup limit of {human_bytes(limit_bytes)} leaves beside {beside}"
    if limit_bytes is not None and room is not None and asked > room:
        raise ConfigError(
            f"memory_budget is {show_size(asked)}, but the cgroup's limit of {human_bytes(limit_bytes)} leaves "
            f"{human_bytes(max(0, room))} beside {beside}",
            hint="lower memory_budget or leave it unset, or raise the limit (MemoryMax= of the unit)",
        )
    return asked, "memory_budget"


def _chunk_advice(budget: int, chunk: int) -> str:
    fits = (budget - DECODER_FIXED_BYTES - MIN_SPOOL_BYTES) // (DECODER_CHUNKS + 2) // (64 * KIB) * (64 * KIB)
    return f"{show_size(fits)} would fit by itself" if 0 < fits < chunk else "but no chunk size fits this budget"
