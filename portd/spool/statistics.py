"""The numbers of a spool, as pages and metrics show them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpoolStatistics:
    """What the spool holds.

    Attributes:
        memory_bytes: buffers allocated, used or spare.
        memory_limit_bytes: `memory_bytes` never exceeds this.
        disk_bytes: segment files, record headers included.
        disk_limit_bytes: 0 when nothing may be spilled.
        peak_memory_bytes: most of `memory_bytes` so far.
        peak_disk_bytes: most of `disk_bytes` so far.
        written: bytes received.
        cursor: where the next chunk starts.
        released: bytes before this index are gone.
        segments: segment files.
        spilling: bytes that the reader has yet to see are on disk or going there.
        full: the writer was told to stop.
        blocked: why nothing can be spilled now: `disk full`, `disk limit`, `disk error`, or empty.
    """

    memory_bytes: int
    memory_limit_bytes: int
    disk_bytes: int
    disk_limit_bytes: int
    peak_memory_bytes: int
    peak_disk_bytes: int
    written: int
    cursor: int
    released: int
    segments: int
    spilling: bool
    full: bool
    blocked: str
