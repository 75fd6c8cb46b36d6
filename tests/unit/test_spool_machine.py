"""The spool against a bytearray: any order of writes, reads, releases, seeks, resets and disk failures."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from portd.spool import Spool
from tests.servers import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

BUFFER = 16

SHARES = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


class LoopWorker:
    """Runs disk jobs in the event loop a turn later, so that a failing example fails again."""

    def __init__(self, name: str) -> None:
        self.name = name

    def submit(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """As `Worker.submit`."""

        def run() -> None:
            try:
                result = job()
            except Exception as error:  # noqa: BLE001 - as the worker does
                result = error
            done(result)

        asyncio.get_running_loop().call_soon(run)

    def close(self, last_job: Callable[[], None]) -> None:
        """As `Worker.close`."""
        last_job()


class SpoolMachine(RuleBasedStateMachine):
    """Buffers of 16 bytes, segments of 200: every boundary is met often."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.patches = contextlib.ExitStack()
        self.patches.enter_context(mock.patch("portd.spool.overflow.Worker", LoopWorker))
        self.patches.enter_context(mock.patch("portd.spool.overflow.RETRY_SECONDS", 0.0))
        # A turn that the clock gives away would let the disk get further in one run of an example than in the next.
        self.patches.enter_context(mock.patch("portd.spool.spool.TURN_SECONDS", math.inf))
        self.broken = False
        self.full = False
        self.counter = 0

    @initialize(buffers=st.integers(4, 20), disk=st.sampled_from([None, 0, 300, 1000, 1 << 20]))
    def make(self, buffers: int, disk: int | None) -> None:
        """A spool of any shape: without disk, with a tiny or a large one."""
        self.memory = buffers * BUFFER
        self.spool = Spool(
            memory_bytes=self.memory,
            directory=None if disk is None else Path(self.folder.name),
            max_disk_bytes=disk or 0,
            buffer_bytes=BUFFER,
            segment_bytes=200,
            write=self.pwritev,
        )
        self.disk_limit = disk or 0
        self.model = bytearray()
        self.cursor = self.released = 0
        self.spool.attach(self.on_full, self.on_room)

    def pwritev(self, descriptor: int, pieces: list[memoryview | bytes], offset: int) -> int:
        """A write that fails while the disk is broken."""
        if self.broken:
            raise OSError(errno.ENOSPC, "no space left on device")
        return os.pwritev(descriptor, pieces, offset)

    def on_full(self) -> None:
        """The writer must stop."""
        assert not self.full
        self.full = True

    def on_room(self) -> None:
        """The writer may go on."""
        assert self.full
        self.full = False

    @rule(sizes=st.lists(st.integers(1, 40), max_size=12))
    def write(self, sizes: list[int]) -> None:
        """Commits of any size, until full."""

        async def run() -> None:
            for size in sizes:
                if self.full:
                    return
                buffer = self.spool.get_buffer(-1)
                assert 1 <= len(buffer) <= BUFFER
                size = min(size, len(buffer))  # noqa: PLW2901 - the socket has as much as fits
                data = bytes((self.counter + n) % 251 for n in range(size))
                self.counter += size
                buffer[:size] = data
                self.spool.commit(size)
                self.model += data

        self.loop.run_until_complete(run())

    @rule(times=st.integers(1, 12))
    def read(self, times: int) -> None:
        """Chunks continue where the last one ended and hold what was written."""

        async def run() -> None:
            for _ in range(times):
                if self.cursor == len(self.model):
                    return
                async with asyncio.timeout(PATIENCE_SECONDS):
                    chunk = await self.spool.read()
                assert chunk.start == self.cursor
                assert len(chunk.data) > 0
                assert bytes(self.model[chunk.start : chunk.end]) == chunk.data
                self.cursor = chunk.end

        self.loop.run_until_complete(run())

    @precondition(lambda self: self.cursor > self.released)
    @rule(share=SHARES)
    def release(self, share: float) -> None:
        """Any index that was read. A share of them: how far the reader is depends on the writer's thread."""
        self.released += int(share * (self.cursor - self.released))
        self.in_loop(lambda: self.spool.release(self.released))

    @precondition(lambda self: len(self.model) > self.released)
    @rule(share=SHARES)
    def seek(self, share: float) -> None:
        """Any index that was not released."""
        self.cursor = self.released + int(share * (len(self.model) - self.released))
        self.in_loop(lambda: self.spool.seek(self.cursor))

    @rule()
    def settle(self) -> None:
        """Disk jobs end."""

        async def run() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        self.loop.run_until_complete(run())

    @rule(broken=st.booleans())
    def disk(self, broken: bool) -> None:  # noqa: FBT001 - drawn
        """The disk refuses writes, or takes them again."""
        self.broken = broken

    @rule()
    def reset(self) -> None:
        """Everything starts over."""
        self.in_loop(self.spool.reset)
        self.model.clear()
        self.cursor = self.released = 0

    def in_loop(self, function: object) -> None:
        """Calls a plain function inside the loop, as callbacks and tasks do."""

        async def run() -> None:
            function()  # type: ignore[operator]

        self.loop.run_until_complete(run())

    @invariant()
    def agrees(self) -> None:
        """Indexes agree with the model, and no limit is passed."""
        if hasattr(self, "spool"):
            now = self.spool.statistics()
            assert (len(self.model), self.cursor, self.released) == (now.written, now.cursor, now.released)
            assert now.peak_memory_bytes <= self.memory
            assert now.disk_bytes <= now.peak_disk_bytes <= self.disk_limit
            assert self.full == now.full

    def teardown(self) -> None:
        """What is left reads back, then everything is gone."""
        if hasattr(self, "spool"):
            self.read(len(self.model) + 1)
            assert self.cursor == len(self.model)
            self.in_loop(self.spool.close)
            assert list(Path(self.folder.name).iterdir()) == []
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        self.patches.close()
        self.folder.cleanup()


SpoolMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.__doc__ = "The spool behaves as a bytearray with a cursor, whatever happens around it."
