"""Several spools under one disk cap: the sum is bounded, and none can take what is kept for the others."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING

from portd.spool import DiskRoom
from portd.spool.worker import Worker
from tests.servers import wait_for
from tests.unit.test_spool import Writer, read_until, spool_of

if TYPE_CHECKING:
    from pathlib import Path

CAP = 8000


def test_what_is_kept_for_others_is_not_taken() -> None:
    """One takes all but what is kept for the others, also for those that have not joined yet; the sum is the cap."""
    room = DiskRoom(1200, 3)
    told: list[str] = []
    first, second = room.join(lambda: told.append("first")), room.join(lambda: told.append("second"))
    assert first.left_bytes == first.most_bytes == 1200 - 2 * 200
    first.take(800)
    assert (first.left_bytes, second.left_bytes) == (0, 200)
    second.take(200)
    assert second.left_bytes == 0
    third = room.join(lambda: told.append("third"))
    assert third.left_bytes == 200
    assert room.used + third.left_bytes == room.max_bytes
    first.give(300)
    assert told == ["second", "third"]
    assert second.left_bytes == third.left_bytes - 200 == 300
    first.leave()
    first.leave()
    assert second.left_bytes == 1200 - 2 * 200 - 200


async def test_a_spool_that_is_full_leaves_room_for_the_other(tmp_path: Path) -> None:
    """A link whose target is away fills the disk up to its limit; the other one spills, and both lose nothing."""
    room = DiskRoom(CAP, 2)
    with ExitStack() as stack:
        stuck = stack.enter_context(spool_of(tmp_path, room=room))
        other = stack.enter_context(spool_of(tmp_path, room=room))
        lost, goes = Writer(stuck), Writer(other)
        await wait_for(lambda: lost.send(100) == 0 and stuck.statistics().blocked == "disk limit")
        assert stuck.statistics().disk_bytes > CAP // 2

        async def write() -> None:
            await goes.send_all(30_000)

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            await wait_for(lambda: other.statistics().disk_bytes > 0)
            got = await read_until(other, 30_000)
        assert bytes(goes.sent) == got
        assert other.statistics().peak_disk_bytes + stuck.statistics().disk_bytes <= CAP


async def test_room_that_one_gives_back_is_the_others(tmp_path: Path) -> None:
    """A spool that waits for room goes on as soon as another one has given some back, without a byte of its own read."""
    room = DiskRoom(CAP, 2)
    with ExitStack() as stack:
        full = stack.enter_context(spool_of(tmp_path, room=room))
        waiting = stack.enter_context(spool_of(tmp_path, room=room))
        first, second = Writer(full), Writer(waiting)
        await wait_for(lambda: first.send(100) == 0 and full.statistics().blocked == "disk limit")
        await wait_for(lambda: second.send(100) == 0 and waiting.statistics().blocked == "disk limit")
        before = waiting.statistics().disk_bytes
        full.close()
        await wait_for(lambda: second.send(100) >= 0 and waiting.statistics().disk_bytes > before)
        assert bytes(second.sent) == await read_until(waiting, len(second.sent))


async def test_what_comes_back_from_the_disk_is_the_links_that_asked() -> None:
    """The answer of a disk thread is handled in the context of who asked: its log lines name the right link."""
    link: ContextVar[str] = ContextVar("link", default="")
    found: list[str] = []
    worker = Worker("test")

    async def ask(name: str) -> None:
        link.set(name)
        answered = asyncio.Event()

        def done(_: object) -> None:
            found.append(link.get())
            answered.set()

        worker.submit(int, done)
        await answered.wait()

    for name in ("eu", "us"):
        await asyncio.create_task(ask(name))
    worker.close(lambda: None)
    assert found == ["eu", "us"]
