"""Writes at a source, as fast as it takes them or at a steady rate, and the CPU that somebody spent meanwhile."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.wire import Wire, pack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

KEYS = 100_000
BLOCK = 512  # commands of one block
GROUP = 20  # commands per write at a steady rate
HELD_BYTES = 64_000_000  # of blocks that are kept
PROBE_SECONDS = 0.005  # between two writes whose arrival is watched
TICKS = 100  # of /proc/<pid>/stat per second


def cpu_seconds(pid: int) -> float:
    """What a process has spent so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def writes(commands: int, value_bytes: int) -> Iterator[tuple[bytes, int]]:
    """SETs to `KEYS` keys in turn, in blocks for ``Wire.load``; each block is made once, so that the source is the limit.

    There are *commands* of them, rounded up to whole blocks.
    """
    made: dict[int, bytes] = {}
    for number in range(-(-commands // BLOCK)):
        first = number * BLOCK % KEYS // BLOCK * BLOCK
        if first not in made:
            value = b"%0*d" % (value_bytes, first)
            made[first] = b"".join(pack("SET", f"key:{(first + n) % KEYS:08d}", value) for n in range(BLOCK))
            if len(made) * len(made[first]) > HELD_BYTES:
                made.pop(next(iter(made)))
        yield made[first], BLOCK


def steady(source: Server, rate: int, seconds: float) -> None:
    """SETs at *rate* a second, and now and then the time, to the key ``probe``."""
    block = b"".join(pack("SET", f"key:{number:08d}", b"x" * 32) for number in range(GROUP))
    with Wire(source) as wire:
        start = time.perf_counter()
        sent, probed = 0, 0.0
        while (now := time.perf_counter()) - start < seconds:
            if now - probed >= PROBE_SECONDS:
                probed = now
                wire.call("SET", "probe", time.time_ns())
            wire.load([(block, GROUP)])
            sent += GROUP
            time.sleep(max(0.0, start + sent / rate - time.perf_counter()))
