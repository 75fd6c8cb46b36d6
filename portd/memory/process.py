"""What the kernel and the C library say about this process's memory: proc(5), mallinfo(3).

`resident` is cheap enough for every second; the others are for when somebody looks.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SELF = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Resident:
    """Pages in memory, in bytes: *rss_bytes* = *anon_bytes* (heaps, stacks, data) + *file_bytes* (code, libraries)."""

    rss_bytes: int
    anon_bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Heaps:
    """Anonymous memory by allocator, in bytes.

    Attributes:
        c_used_bytes: handed out by malloc: buffers of the kernel units, objects above 512 bytes.
        c_free_bytes: resident, held by malloc, handed to nobody.
        python_bytes: the rest: small objects in pymalloc's arenas, data segments, stacks.
        python_blocks: small objects alive.
        gc_collections: runs of the cyclic collector so far.
    """

    c_used_bytes: int
    c_free_bytes: int
    python_bytes: int
    python_blocks: int
    gc_collections: int


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",  # bytes got with brk and in arenas
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",  # bytes in blocks of their own mapping
            "usmblks",
            "fsmblks",
            "uordblks",  # bytes in use of "arena"
            "fordblks",  # bytes free of "arena"
            "keepcost",
        )
    )


MAPPED_BYTES = 1 << 20  # from this size on a block has a mapping of its own; batches are smaller
KEPT_BYTES = 4 << 20  # free memory at the end of the heap that is not given back at once

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_libc = ctypes.CDLL(None)


def resident() -> Resident:
    """RSS and its two parts, from statm; the kernel may be behind by some pages per CPU."""
    with open("/proc/self/statm", "rb", buffering=0) as statm:  # noqa: PTH123 - read every second: no Path
        fields = statm.read().split()
    total, shared = int(fields[1]) * _PAGE, int(fields[2]) * _PAGE
    return Resident(total, total - shared, shared)


def peak_rss() -> int:
    """The highest RSS of this process so far, in bytes."""
    return _fields(_SELF / "status").get("VmHWM", 0)


def proportional() -> tuple[int | None, int]:
    """PSS (None where the kernel does not tell) and swapped bytes. Walks all page tables: some milliseconds."""
    fields = _fields(_SELF / "smaps_rollup")
    return fields.get("Pss"), fields.get("Swap", 0)


def heaps(now: Resident) -> Heaps:
    """Anonymous memory split by allocator."""
    used = free = 0
    if hasattr(_libc, "mallinfo2"):  # glibc 2.33 and later
        call = _libc.mallinfo2
        call.restype = _Mallinfo2
        info = call()
        given_back = max(0, info.arena - _heap_rss())  # free, and not resident: nobody pays for it
        used, free = info.uordblks + info.hblkhd, max(0, info.fordblks - given_back)
    return Heaps(
        c_used_bytes=used,
        c_free_bytes=min(free, max(0, now.anon_bytes - used)),
        python_bytes=max(0, now.anon_bytes - used - free),
        python_blocks=sys.getallocatedblocks(),
        gc_collections=sum(generation["collections"] for generation in gc.get_stats()),
    )


def trim() -> None:
    """Gives free pages of malloc back to the kernel: importing leaves megabytes of them."""
    if hasattr(_libc, "malloc_trim"):  # glibc only
        _libc.malloc_trim(0)


def tune_malloc() -> None:
    """Makes malloc fit what portd does. Call before there are threads.

    One arena: threads that help for a moment would each leave one behind. Batches come from the heap, and the heap keeps
    what the next ones will take: mapped, cleared and given back one by one, they would cost a page fault for every 4 KiB.
    `trim` gives back what is left over.
    """
    if hasattr(_libc, "mallopt"):  # glibc and musl
        _libc.mallopt(_M_ARENA_MAX, 1)
        _libc.mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
        _libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def _heap_rss() -> int:
    """Resident bytes of the heap that malloc grows with brk(2); it is among the first mappings, so little is read."""
    inside = False
    try:
        with (_SELF / "smaps").open("rb") as maps:
            for line in maps:
                if inside and line.startswith(b"Rss:"):
                    return int(line.split()[1]) * 1024
                inside = inside or line.endswith(b"[heap]\n")
    except OSError:
        return sys.maxsize  # not told: what is free is taken for resident
    return sys.maxsize


def _fields(file: Path) -> dict[str, int]:
    """Lines such as `Pss:  1234 kB`, in bytes; empty when the file is not there."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    parts = (line.split() for line in lines if line.endswith(" kB"))
    return {words[0].removesuffix(":"): int(words[-2]) * 1024 for words in parts}
