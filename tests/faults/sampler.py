"""Samples of a process while faults go on: resident memory, open files, threads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tests.faults.world import World

SAMPLE_SECONDS = 2.0


class Sampler:
    """Writes a line every two seconds; an async context manager that does nothing without a file.

    Args:
        world: whose portd is watched.
        path: JSON lines are appended to it.
    """

    def __init__(self, world: World, path: Path | None) -> None:
        self._world = world
        self._path = path
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._path is not None:
            self._task = asyncio.get_running_loop().create_task(self._run(self._path), name="sampler")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, path: Path) -> None:
        begun = time.monotonic()
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            portd = getattr(self._world, "portd", None)
            if portd is None or not portd.alive:
                continue
            with contextlib.suppress(OSError):
                sample = {"seconds": round(time.monotonic() - begun, 1), **sample_process(portd.process.pid)}
                with path.open("a") as file:
                    file.write(json.dumps(sample) + "\n")


def sample_process(pid: int) -> dict[str, int]:
    """What `/proc` says about a process: bytes resident, its peak, open files, threads, CPU clock ticks."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return {
        "pid": pid,
        "rss_bytes": int(status["VmRSS"].split()[0]) * 1024,
        "peak_bytes": int(status["VmHWM"].split()[0]) * 1024,
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(status["Threads"]),
        "cpu_ticks": int(stat[11]) + int(stat[12]),
    }


def slope(samples: list[dict[str, float]], name: str) -> float:
    """Least-squares slope of *name* per hour."""
    count = len(samples)
    mean_x = sum(each["seconds"] for each in samples) / count
    mean_y = sum(each[name] for each in samples) / count
    above = sum((each["seconds"] - mean_x) * (each[name] - mean_y) for each in samples)
    below = sum((each["seconds"] - mean_x) ** 2 for each in samples)
    return above / below * 3600 if below else 0.0
