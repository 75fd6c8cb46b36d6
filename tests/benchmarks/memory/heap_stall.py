"""``python -m tests.benchmarks.memory.heap_stall``: what taking heap profiles costs a sync that runs at full speed.

The service runs in this process with a ticker beside it: the longest time the loop did not turn, gaps between ACKs and
keys per second, without profiles and with one profile after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import urllib.request
from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import redis.asyncio  # noqa: F401 - loaded before anything is measured, as the command does
import uvloop

from portd.config.settings import Settings
from portd.process import Service
from tests.datasets import fill_big_hash
from tests.servers import Server, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from portd.model import Progress

TICK_SECONDS = 0.0005
MAX_TICKS = 1_000_000


@dataclass(slots=True)
class Watch:
    """Gaps seen while it runs."""

    progress: Progress
    gaps: array[float] = field(
        default_factory=lambda: array("d", bytes(8 * MAX_TICKS))
    )  # not a list: blocks are traced
    turns: int = 0
    ack_gaps: list[float] = field(default_factory=list)

    async def run(self) -> None:
        """Ticks until cancelled."""
        last, sent = time.perf_counter(), self.progress.source.last_sent_at
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.perf_counter()
            self.gaps[self.turns % MAX_TICKS] = now - last
            self.turns += 1
            last = now
            if self.progress.source.last_sent_at != sent:
                self.ack_gaps.append(self.progress.source.last_sent_at - sent)
                sent = self.progress.source.last_sent_at


async def _measured(name: str, service: Service, work: Coroutine[object, object, None]) -> None:
    watch = Watch(service.views()[0].progress)
    ticker = asyncio.create_task(watch.run(), name="ticker")
    before, at = service.views()[0].progress.snapshot.bytes_decoded, time.perf_counter()
    await work
    rate = (service.views()[0].progress.snapshot.bytes_decoded - before) / (time.perf_counter() - at)
    ticker.cancel()
    gaps = sorted(watch.gaps[: watch.turns])
    shown = f"longest {gaps[-1] * 1e3:.1f} ms, 99.9 % {gaps[int(len(gaps) * 0.999)] * 1e3:.1f} ms of {len(gaps)} turns"
    acks = ", ".join(f"{gap:.2f}" for gap in watch.ack_gaps)
    print(f"{name}: loop {shown}; {rate / (1 << 20):.1f} MiB/s of snapshot; seconds between ACKs {acks}")


async def _profiles(url: str, count: int) -> None:
    for _ in range(count):
        started = time.perf_counter()
        size = await asyncio.to_thread(lambda: len(urllib.request.urlopen(url, data=b"", timeout=60).read()))
        print(f"  a profile of {size} bytes in {time.perf_counter() - started:.2f} s")


async def _main(members: int, seconds: float) -> None:
    with Server() as source:
        fill_big_hash(source, b"big", members)
        for kept in (False, True):
            with Server() as target:
                await _watched_sync(source, target, seconds, kept=kept)


async def _watched_sync(source: Server, target: Server, seconds: float, *, kept: bool) -> None:
    port = free_port()
    settings = Settings(
        source=source.url, target=target.url, http=f"127.0.0.1:{port}", progress_seconds=0, heap_profile=kept
    )
    service = Service(settings)
    task = asyncio.create_task(service.run(), name="service")
    await wait_for(partial(getattr, service.views()[0].progress.snapshot, "bytes_decoded"))
    print(f"heap_profile={'yes' if kept else 'no'}")
    await _measured("no profile", service, asyncio.sleep(seconds))
    url = f"http://127.0.0.1:{port}/debug/memory/heap"
    await _measured("profiles", service, _profiles(url + ("" if kept else "?seconds=1"), 3))
    if kept:
        await _measured("flame graphs", service, _profiles(url + "?format=flame", 3))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def main() -> None:
    """Parses arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=4_000_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    uvloop.run(_main(arguments.members, arguments.seconds))


if __name__ == "__main__":
    main()
