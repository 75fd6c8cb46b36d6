"""What the parts say about themselves when somebody looks: frozen figures, in bytes, for `/metrics` and `/debug/memory`.

Plain data, so that those who fill them and those who show them need not know one another.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

ReadingT = TypeVar("ReadingT")


def reading_of(kind: type[ReadingT], part: object, **others: Any) -> ReadingT:
    """A reading made of a part's statistics: every field is the one of that name, unless it is among *others*."""
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]  # a dataclass
    values: dict[str, Any] = {name: others[name] if name in others else getattr(part, name) for name in names}
    return kind(**values)


@dataclass(frozen=True, slots=True)
class OwnerReading:
    """What one owner holds, in bytes.

    Attributes:
        owner: its name: `spool`, `decoder`, `queue`, `lane-0`, ...
        held_bytes: now.
        peak_bytes: at the most.
        peak_at: unix time of the sample that showed the peak; 0 when nothing was held yet.
        limit_bytes: what it may hold; 0 when nobody limits it.
        link: whose it is; "" for what belongs to the process.
    """

    owner: str
    held_bytes: int
    peak_bytes: int
    peak_at: float
    limit_bytes: int
    link: str = ""


@dataclass(frozen=True, slots=True)
class CgroupReading:
    """What the kernel says about our group, in bytes.

    Attributes:
        version: 1 or 2.
        current_bytes: all memory charged to the group, page cache included; None when it is not told.
        limit_bytes: what the group may not pass; None without a limit.
        peak_bytes: highest *current_bytes* so far; None when it is not told.
    """

    version: int
    current_bytes: int | None
    limit_bytes: int | None
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class LaneReading:
    """One writer: what it has sent and not seen acknowledged."""

    lane: int
    connected: bool
    in_flight_bytes: int
    in_flight_batches: int


@dataclass(frozen=True, slots=True)
class KeyReading:
    """A key, as far as it was decoded. *elements_total* is 0 when the encoding does not announce it."""

    db: int
    key: str
    type: str
    elements_done: int
    elements_total: int
    bytes_done: int


@dataclass(frozen=True, slots=True)
class FenceReading:
    """A big key on its way to the target.

    Attributes:
        db: its database.
        key: its name.
        gate: ``opening`` until the old key is gone, ``open`` while chunks go, ``skipped`` when it is left alone.
        chunks: on their way: sent, or waiting for a lane.
        chunks_done: acknowledged.
        closing: only its last command is missing.
    """

    db: int
    key: str
    gate: str
    chunks: int
    chunks_done: int
    closing: bool


@dataclass(frozen=True, slots=True)
class SpoolReading:
    """Bytes between the source's socket and the decoder.

    Attributes:
        memory_bytes: buffers in memory.
        disk_bytes: files.
        peak_memory_bytes: the most of *memory_bytes*.
        peak_disk_bytes: the most of *disk_bytes*.
        memory_limit_bytes: what *memory_bytes* may reach.
        disk_limit_bytes: what *disk_bytes* may reach; 0 when nothing may be spilled.
        segments: files.
        spilling: some bytes are on disk or go there.
        full: there is room for no more: the source is not read.
        blocked: why nothing can be spilled now; empty when it can.
    """

    memory_bytes: int = 0
    disk_bytes: int = 0
    peak_memory_bytes: int = 0
    peak_disk_bytes: int = 0
    memory_limit_bytes: int = 0
    disk_limit_bytes: int = 0
    segments: int = 0
    spilling: bool = False
    full: bool = False
    blocked: str = ""


@dataclass(frozen=True, slots=True)
class PipelineReading:
    """How full the path of a byte is.

    Attributes:
        budget_bytes: what queue and lanes may hold together.
        budget_used_bytes: what they hold.
        budget_peak_bytes: the most they held.
        budget_waiting: producers that wait for room.
        queue_batches: batches that no lane has taken yet.
        queue_bytes: their bytes.
        open_fences: big keys that are not finished.
        fences: the oldest of them.
        lanes: one entry a writer.
        current_key: the key being decoded; None between keys.
        largest_keys: the largest seen so far, largest first.
        spool: between source and decoder.
    """

    budget_bytes: int = 0
    budget_used_bytes: int = 0
    budget_peak_bytes: int = 0
    budget_waiting: int = 0
    queue_batches: int = 0
    queue_bytes: int = 0
    open_fences: int = 0
    fences: list[FenceReading] = field(default_factory=list)
    lanes: list[LaneReading] = field(default_factory=list)
    current_key: KeyReading | None = None
    largest_keys: list[KeyReading] = field(default_factory=list)
    spool: SpoolReading = field(default_factory=SpoolReading)
