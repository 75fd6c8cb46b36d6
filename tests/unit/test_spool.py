"""The spool's promises: order, bounded memory, overflow to disk, and seeking back."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest

from portd.errors import ConfigError, InternalError, SpoolError
from portd.spool import Chunk, Spool, SpoolClosed
from portd.spool.window import MARKS_PER_BLOCK, Block
from tests.servers import PATIENCE_SECONDS, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

BUFFER = 64
MEMORY = 16 * BUFFER


@contextmanager
def spool_of(
    directory: Path | None, *, memory: int = MEMORY, disk: int = 1 << 20, segment: int = 1 << 20, **options: object
) -> Iterator[Spool]:
    """A spool with tiny buffers, closed at the end."""
    spool = Spool(
        memory_bytes=memory,
        directory=directory,
        max_disk_bytes=disk,
        buffer_bytes=BUFFER,
        segment_bytes=segment,
        **options,  # type: ignore[arg-type]
    )
    try:
        yield spool
    finally:
        spool.close()


class Writer:
    """Puts numbered bytes into a spool as a socket would, and stops when told to."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.full = False
        self.sent = bytearray()
        self._random = random.Random(7)
        spool.attach(self._on_full, self._on_room)

    def _on_full(self) -> None:
        assert not self.full
        self.full = True

    def _on_room(self) -> None:
        assert self.full
        self.full = False

    def send(self, count: int) -> int:
        """Sends up to *count* bytes, fewer when the spool is full; returns how many."""
        sent = 0
        while sent < count and not self.full:
            buffer = self.spool.get_buffer(65536)
            size = min(len(buffer), count - sent)
            buffer[:size] = data = self._random.randbytes(size)
            self.sent += data
            self.spool.commit(size)
            sent += size
        return sent

    async def send_all(self, count: int) -> None:
        """Sends *count* bytes, waiting for the disk where needed."""
        while count := count - self.send(count):
            await wait_for(lambda: not self.full, dump=self.spool.statistics)


async def read(spool: Spool) -> Chunk:
    """The next chunk, which must come soon."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await spool.read()


async def read_until(spool: Spool, end: int, *, release: bool = True) -> bytes:
    """Reads up to index *end*, releasing what was read."""
    got = bytearray()
    start = spool.cursor
    while spool.cursor < end:
        chunk = await read(spool)
        assert start + len(got) == chunk.start
        got += chunk.data
        if release:
            spool.release(chunk.end)
    return bytes(got)


@asynccontextmanager
async def drained(spool: Spool) -> AsyncIterator[None]:
    """Waits at the end until no disk job is under way."""
    yield
    await wait_for(lambda: spool.statistics().segments == 0, dump=spool.statistics)


def segment_files(directory: Path) -> list[Path]:
    """The segment files below *directory*."""
    return sorted(directory.glob("portd-spool-*/*.segment"))


def own_directories(directory: Path) -> list[Path]:
    """The directories of spools below *directory*."""
    return sorted(directory.glob("portd-spool-*"))


async def test_bytes_pass_in_order_without_disk(tmp_path: Path) -> None:
    """What fits in memory never touches the disk."""
    with spool_of(tmp_path) as spool:
        writer = Writer(spool)
        for size in (1, 63, 64, 65, 200):
            writer.send(size)
            assert bytes(writer.sent[-size:]) == await read_until(spool, spool.written)
        assert spool.statistics().peak_disk_bytes == 0
        assert segment_files(tmp_path) == []


async def test_read_waits_for_bytes() -> None:
    """A reader that is ahead sleeps until the writer commits."""
    with spool_of(None) as spool:
        reader = asyncio.create_task(spool.read())
        await asyncio.sleep(0)
        assert not reader.done()
        Writer(spool).send(5)
        assert len((await reader).data) == 5


async def test_receipt_time_belongs_to_the_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Bytes that came at different times come out as chunks with their own times, from memory and from disk."""
    now = [1000.0]
    monkeypatch.setattr("portd.spool.spool.time.time", lambda: now[0])
    with spool_of(tmp_path) as spool:
        writer = Writer(spool)
        for _ in range(100):
            await writer.send_all(16)
            now[0] += 1
        assert spool.statistics().peak_disk_bytes > 0
        times = []
        while spool.cursor < spool.written:
            chunk = await read(spool)
            times += [chunk.received_at] * len(chunk.data)
            spool.release(chunk.end)
        assert times == [1000.0 + second for second in range(100) for _ in range(16)]


def test_receipt_times_are_bounded() -> None:
    """A block that fills over hours keeps few marks, each at most one spacing off."""
    block = Block(memoryview(bytearray(100_000)), 0)
    for second in range(100_000):
        block.grow(1, float(second))
    assert block.span_count <= MARKS_PER_BLOCK
    for start, end, received_at in block.spans():
        assert received_at == start
        assert end - start <= 100_000 / (MARKS_PER_BLOCK / 4)


async def test_memory_stays_bounded_and_order_is_kept(tmp_path: Path) -> None:
    """However much comes, memory keeps its limit and the bytes come out as they went in."""
    with spool_of(tmp_path, segment=1000) as spool:
        writer = Writer(spool)
        await writer.send_all(20_000)
        before = spool.statistics()
        assert before.spilling
        assert before.segments > 3
        assert len(segment_files(tmp_path)) > 3
        got = bytearray()
        while spool.cursor < spool.written:
            got += await read_until(spool, spool.cursor + 1)
            await writer.send_all(10 if len(writer.sent) < 22_000 else 0)
        assert bytes(writer.sent) == bytes(got)
        assert spool.statistics().peak_memory_bytes <= MEMORY
        async with drained(spool):
            pass
        assert segment_files(tmp_path) == []
        assert spool.statistics().disk_bytes == 0


async def test_back_to_memory_after_the_disk_is_drained(tmp_path: Path) -> None:
    """Once the reader has caught up, bytes no longer go through the disk."""
    with spool_of(tmp_path) as spool:
        writer = Writer(spool)
        await writer.send_all(10_000)
        async with drained(spool):
            await read_until(spool, 10_000)
        peak = spool.statistics().peak_disk_bytes
        for _ in range(200):
            await writer.send_all(100)
            await read_until(spool, spool.written)
        after = spool.statistics()
        assert (after.peak_disk_bytes, after.disk_bytes) == (peak, 0)


async def test_without_a_directory_the_writer_waits() -> None:
    """No disk: memory fills, the writer stops, and goes on when bytes are released."""
    with spool_of(None) as spool:
        writer = Writer(spool)
        assert writer.send(10 * MEMORY) == MEMORY
        assert spool.statistics().full
        chunk = await read(spool)
        spool.release(chunk.end)
        assert spool.statistics().full  # the reader may still look at the buffer
        await read(spool)
        assert not spool.statistics().full
        assert writer.send(10 * MEMORY) == BUFFER


async def test_attach_tells_a_late_writer_that_it_is_full() -> None:
    """A new link to a full spool does not begin to read."""
    with spool_of(None) as spool:
        Writer(spool).send(MEMORY)
        assert Writer(spool).full
        with pytest.raises(InternalError):
            spool.get_buffer()


async def test_starved_reader_is_told() -> None:
    """A reader that has all bytes and releases none would wait for ever: it hears of it and can let go."""
    with spool_of(None) as spool:
        writer = Writer(spool)
        told = []

        def let_go() -> None:
            told.append(spool.cursor)
            spool.release(spool.cursor)
            writer.send(1)  # as a link does with what it kept

        spool.watch(let_go)
        writer.send(MEMORY)
        await read_until(spool, MEMORY, release=False)
        assert told == []
        chunk = await read(spool)
        assert told == [MEMORY]
        assert (chunk.start, len(chunk.data)) == (MEMORY, 1)


async def test_seek_reads_again_from_memory_and_disk(tmp_path: Path) -> None:
    """Everything behind `released` can be read a second time, wherever it lies."""
    with spool_of(tmp_path, segment=700) as spool:
        writer = Writer(spool)
        await writer.send_all(6000)
        assert bytes(writer.sent) == await read_until(spool, 6000, release=False)
        for index in (0, 1, 500, 2500, 4444, 5999, 6000, 3000):
            spool.seek(index)
            assert bytes(writer.sent[index:]) == await read_until(spool, 6000, release=False)
        spool.release(4000)
        spool.seek(4000)
        assert bytes(writer.sent[4000:]) == await read_until(spool, 6000)


async def test_seek_and_release_refuse_nonsense() -> None:
    """Released bytes are gone, unread ones cannot be released, and the future cannot be sought."""
    with spool_of(None) as spool:
        Writer(spool).send(100)
        await read_until(spool, 100)
        for index in (99, 101):
            with pytest.raises(InternalError):
                spool.seek(index)
        with pytest.raises(InternalError):
            spool.release(101)
        spool.release(5)
        assert spool.released == 100


async def test_a_chunk_stays_valid_until_the_next_read(tmp_path: Path) -> None:
    """Neither release, spilling nor reset changes bytes under the reader's hands."""
    with spool_of(tmp_path) as spool:
        writer = Writer(spool)
        await writer.send_all(8 * BUFFER)
        chunk = await read(spool)
        want = bytes(writer.sent[:BUFFER])
        spool.release(chunk.end)
        await writer.send_all(10 * MEMORY)
        assert want == chunk.data
        spool.reset()
        await writer.send_all(10 * MEMORY)
        assert want == chunk.data


async def test_end_comes_after_the_last_byte(tmp_path: Path) -> None:
    """The writer's error is raised once everything before it was read, and a new writer makes it void."""
    with spool_of(tmp_path) as spool:
        writer = Writer(spool)
        await writer.send_all(5000)
        spool.end(ConnectionResetError())
        await read_until(spool, 5000)
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                await read(spool)
        Writer(spool).send(3)
        assert len((await read(spool)).data) == 3
        spool.end()
        with pytest.raises(SpoolClosed):
            await read(spool)


async def test_reset_drops_everything(tmp_path: Path) -> None:
    """After a reset indexes start at 0, files are gone, and a writer that was stopped goes on."""
    with spool_of(tmp_path, disk=2000) as spool:
        writer = Writer(spool)
        await wait_for(lambda: writer.send(100) == 0 and spool.statistics().blocked == "disk limit")
        assert spool.statistics().full
        spool.reset()
        assert not spool.statistics().full
        assert (spool.written, spool.cursor, spool.released) == (0, 0, 0)
        await wait_for(lambda: not segment_files(tmp_path))
        writer.sent.clear()
        await writer.send_all(2000)
        assert bytes(writer.sent) == await read_until(spool, 2000)


async def test_disk_limit_stops_the_writer_until_room_returns(tmp_path: Path) -> None:
    """The disk limit is kept, nothing is lost, and segments that were read make room."""
    with spool_of(tmp_path, disk=3000) as spool:
        writer = Writer(spool)

        async def write() -> None:
            await writer.send_all(30_000)

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            await wait_for(lambda: spool.statistics().blocked == "disk limit")
            await wait_for(lambda: writer.full)
            assert spool.statistics().peak_disk_bytes <= 3000
            got = await read_until(spool, 30_000)
        assert bytes(writer.sent) == got
        assert spool.statistics().peak_disk_bytes <= 3000
        await wait_for(lambda: spool.statistics().blocked == "")


class SmallDisk:
    """Stands between the spool and a file system, and has room for *room* bytes, like a full one does."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.refused = 0
        self.error = errno.ENOSPC

    def write(self, descriptor: int, pieces: list[memoryview | bytes], offset: int) -> int:
        """`os.pwritev`, which writes a part before it reports that the disk is full."""
        data = b"".join(pieces)[: max(0, self.room)]
        if not data:
            self.refused += 1
            raise OSError(self.error, os.strerror(self.error))
        self.room -= len(data)
        return os.pwrite(descriptor, data, offset)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
async def test_full_disk_stops_the_writer_until_there_is_room(
    tmp_path: Path, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without room (or a failing one) costs nothing but time: reading stops, and goes on when it works again."""
    monkeypatch.setattr("portd.spool.overflow.RETRY_SECONDS", 0.01)
    disk = SmallDisk(1500)
    disk.error = error
    with spool_of(tmp_path, write=disk.write) as spool:
        writer = Writer(spool)
        async with asyncio.TaskGroup() as group:
            group.create_task(writer.send_all(20_000))
            await wait_for(lambda: writer.full and disk.refused > 2)
            assert ("disk error" if error == errno.EIO else "disk full") == spool.statistics().blocked
            await read_until(spool, 200)
            disk.room = 1 << 20
            rest = await read_until(spool, 20_000)
        assert bytes(writer.sent[-len(rest) :]) == rest
        assert spool.statistics().peak_memory_bytes <= MEMORY


async def test_full_disk_is_survived_by_draining_memory(tmp_path: Path) -> None:
    """While the disk refuses everything, the spool still works as a window of memory."""
    with spool_of(tmp_path, write=SmallDisk(0).write) as spool:
        writer = Writer(spool)
        async with asyncio.TaskGroup() as group:
            group.create_task(writer.send_all(20_000))
            got = await read_until(spool, 20_000)
        assert bytes(writer.sent) == got


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_released_while_a_write_fails_makes_room(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has everything, and has let go of it, when the disk says that it did not take what it was given."""
    chance = random.Random(seed)
    monkeypatch.setattr("portd.spool.overflow.RETRY_SECONDS", 0.001)

    def write(_descriptor: int, _pieces: list[memoryview | bytes], _offset: int) -> int:
        time.sleep(chance.choice((0, 0.001, 0.003)))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with spool_of(tmp_path, write=write) as spool:
        writer, got = Writer(spool), bytearray()
        async with asyncio.TaskGroup() as group:
            group.create_task(writer.send_all(20_000))
            while spool.cursor < 20_000:
                chunk = await read(spool)
                got += chunk.data
                await asyncio.sleep(chance.choice((0, 0.001, 0.004)))
                spool.release(chunk.end)
        assert bytes(writer.sent) == got


async def test_a_disk_that_takes_nothing_still_gives(tmp_path: Path) -> None:
    """While a write hangs, as it does when a file system throttles who fills it, what is on disk can be read."""
    free = threading.Event()
    free.set()
    hangs = threading.Event()

    def write(descriptor: int, pieces: list[memoryview | bytes], offset: int) -> int:
        if not free.is_set():
            hangs.set()
            assert free.wait(PATIENCE_SECONDS)
        return os.pwrite(descriptor, b"".join(pieces), offset)

    with spool_of(tmp_path, write=write) as spool:
        writer = Writer(spool)
        await writer.send_all(5_000)
        await wait_for(lambda: not writer.full)
        free.clear()
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(writer.send_all(5_000))
            await wait_for(hangs.is_set)
            on_disk = spool.written - MEMORY
            got = await read_until(spool, on_disk, release=False)
            assert on_disk > MEMORY
            assert not sending.done()
            free.set()
            got += await read_until(spool, 10_000, release=False)
        assert got == bytes(writer.sent)


@pytest.mark.parametrize("damage", ["flip payload", "flip header", "cut", "remove", "empty"])
async def test_altered_segment_is_named(tmp_path: Path, damage: str) -> None:
    """A segment that was touched is an error with its file and index, never wrong bytes."""
    with spool_of(tmp_path, segment=1000) as spool:
        writer = Writer(spool)
        await writer.send_all(10_000)
        await wait_for(lambda: len(segment_files(tmp_path)) > 4)
        victim = segment_files(tmp_path)[2]
        content = bytearray(victim.read_bytes())
        if damage == "flip payload":
            content[40] ^= 1
        elif damage == "flip header":
            content[2] ^= 1
        elif damage == "cut":
            del content[-1:]
        if damage == "remove":
            victim.unlink()
        else:
            victim.write_bytes(b"" if damage == "empty" else content)
        got = bytearray()

        async def read_on() -> None:
            while True:
                chunk = await read(spool)
                got.extend(chunk.data)
                spool.release(chunk.end)

        with pytest.raises(SpoolError) as caught:
            await read_on()
        assert str(victim) in str(caught.value)
        assert f"spool index {len(got)}" in str(caught.value)
        assert "HINT" in str(caught.value)
        assert bytes(writer.sent[: len(got)]) == bytes(got)
        with pytest.raises(SpoolError):
            await read(spool)


async def test_close_removes_files_and_wakes_the_reader(tmp_path: Path) -> None:
    """Close can be called twice, at any moment, and leaves nothing behind."""
    with spool_of(tmp_path) as spool:
        await Writer(spool).send_all(10_000)
        await read_until(spool, 10_000)
        reader = asyncio.create_task(spool.read())
        await asyncio.sleep(0)
        spool.close()
        with pytest.raises(SpoolClosed):
            await reader
        spool.close()
        assert not segment_files(tmp_path)
        assert not own_directories(tmp_path)


async def test_a_cancelled_read_loses_nothing(tmp_path: Path) -> None:
    """Cancelling a read that waits for the disk leaves the bytes for the next one."""
    with spool_of(tmp_path) as spool:
        writer = Writer(spool)
        await writer.send_all(10_000)
        got = bytearray()
        while spool.cursor < 10_000:
            reader = asyncio.create_task(spool.read())
            await asyncio.sleep(0)
            if not reader.done():
                reader.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reader
                reader = asyncio.create_task(spool.read())
            chunk = await reader
            got += chunk.data
            spool.release(chunk.end)
        assert bytes(writer.sent) == bytes(got)


async def test_reading_lets_other_tasks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader with plenty to read gives way when its turn has lasted long enough."""
    monkeypatch.setattr("portd.spool.spool.TURN_SECONDS", 0.0)
    with spool_of(None) as spool:
        Writer(spool).send(MEMORY)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counter = asyncio.create_task(count())
        await read_until(spool, MEMORY)
        counter.cancel()
        assert turns >= 2


async def test_two_readers_are_refused() -> None:
    """One reader: a second waiting read is a bug."""
    with spool_of(None) as spool:
        first = asyncio.create_task(spool.read())
        await asyncio.sleep(0)
        with pytest.raises(InternalError):
            await spool.read()
        first.cancel()


def test_too_little_memory_is_refused() -> None:
    """A window that cannot work is a configuration error."""
    with pytest.raises(ConfigError):
        Spool(memory_bytes=1000, directory=None, max_disk_bytes=0)
