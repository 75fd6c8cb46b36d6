"""The spool: a queue of bytes between the receiver and the decoder, in memory first, then on disk.

The writer is a socket that fills our buffers directly; the one reader takes chunks. Every byte has an absolute
index. Bytes stay readable until `Spool.release` passes them, so that the reader can `Spool.seek` back.

Bytes lie in this order, each part possibly empty:

    head (memory) | segments (disk) | being written (memory, going to disk) | tail (memory) | fill (memory)

`fill` is the block that the socket writes into. When memory runs short, the oldest blocks of the tail go to disk.
While nothing is on disk, blocks belong to the head, which stays in memory: the reader goes on at full speed with them
while newer bytes flow to disk. Memory never exceeds its limit: when neither memory nor disk has room, the writer is
told to stop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from portd.errors import ConfigError, InternalError
from portd.spool.overflow import Overflow
from portd.spool.room import DiskRoom
from portd.spool.statistics import SpoolStatistics
from portd.spool.window import Block, BufferPool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from portd.errors import SpoolError

BUFFER_BYTES = 256 * 1024
LEAST_BUFFER_BYTES = 16 * 1024
SEGMENT_BYTES = 64 * 1024 * 1024
LOAD_BUFFERS = 4  # read from disk ahead of the reader, at most
WRITE_BLOCKS = 4  # handed to the disk in one job, at most
RESERVE_BUFFERS = 8  # kept free of the head, at most: they absorb the latency of the disk
TURN_SECONDS = 0.002  # a reader that has not waited for this long lets other tasks run


class SpoolClosed(Exception):
    """There are no more bytes: the writer has ended, or the spool was closed."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes as they were received.

    Attributes:
        start: absolute index of the first byte.
        data: the bytes; valid until the next `Spool.read`.
        received_at: when the first of them came, unix seconds; the others came within a fraction of a second.
    """

    start: int
    data: memoryview
    received_at: float

    @property
    def end(self) -> int:
        """Absolute index behind the last byte."""
        return self.start + len(self.data)


class Spool:
    """A byte queue that overflows to disk; see the module. For one event loop, one writer and one reader.

    Args:
        memory_bytes: most bytes of buffers; at least four buffers.
        directory: where to make a private subdirectory; None never writes to disk.
        max_disk_bytes: most bytes of segment files.
        room: bounds them instead, together with those of other spools.
        buffer_bytes: size of a buffer; None fits it to *memory_bytes*.
        segment_bytes: about the size of a segment file; smaller when *max_disk_bytes* is small.
        write: replaces `os.pwritev`, for tests of a full disk.

    Raises:
        SpoolError: *directory* cannot be used.
        ConfigError: *memory_bytes* is too small.
    """

    def __init__(
        self,
        *,
        memory_bytes: int,
        directory: Path | None,
        max_disk_bytes: int = 0,
        room: DiskRoom | None = None,
        buffer_bytes: int | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        write: Callable[..., int] = os.pwritev,
    ) -> None:
        buffer_bytes = buffer_bytes or min(BUFFER_BYTES, max(memory_bytes // 16, LEAST_BUFFER_BYTES))
        buffers = memory_bytes // buffer_bytes
        if buffers < 4:
            raise ConfigError(f"the spool cannot work in {memory_bytes} bytes of memory", hint="raise memory_budget")
        self._pool = BufferPool(buffer_bytes, buffers)
        self._least_room = max(1, buffer_bytes // 64)  # a block with less room is full: tiny reads are dear
        self._disk: Overflow | None = None
        self._load_limit = 0
        if directory is not None:
            self._load_limit = min(LOAD_BUFFERS, max(1, buffers // 8))
            self._disk = Overflow(
                directory,
                room=room or DiskRoom(max_disk_bytes),
                segment_bytes=segment_bytes,
                on_room=self._settle,
                write=write,
            )
        self._fill_limit = buffers - self._load_limit  # buffers that received bytes may take
        self._spill_above = self._fill_limit - min(RESERVE_BUFFERS, max(2, self._fill_limit // 4))
        self._load_buffers = 0  # buffers that loaded bytes take, those of a running job included
        self._generation = 0  # results of jobs begun before a `reset` or `seek` are worthless
        self._load_generation = 0

        self._on_full: Callable[[], None] | None = None
        self._on_room: Callable[[], None] | None = None
        self._on_starved: Callable[[], None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._reading = False
        self._turn = time.monotonic()  # when the reader last waited or gave way
        self._full = False
        self._pinned: Block | None = None  # the reader may still look at it
        self._orphan = False  # the pinned block left the queue meanwhile
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._begin()

    def _begin(self) -> None:
        self._head: deque[Block] = deque()
        self._in_writing: deque[Block] = deque()
        self._tail: deque[Block] = deque()
        self._fill: Block | None = None
        self._loaded: deque[Block] = deque()
        self._hint: Block | None = None  # where the last chunk was found
        self._failure: SpoolError | None = None
        self._written = self._cursor = self._released = 0

    # ---------------------------------------------------------------- writer

    def attach(self, on_full: Callable[[], None], on_room: Callable[[], None]) -> None:
        """A writer begins: after *on_full* it must not call `get_buffer` until *on_room*. An earlier `end` is void."""
        self._on_full, self._on_room = on_full, on_room
        self._ended, self._error = False, None
        if self._full:
            on_full()

    def get_buffer(self, sizehint: int = -1) -> memoryview:  # noqa: ARG002 - asyncio.BufferedProtocol
        """Memory to receive into, at least one byte."""
        fill = self._fill
        if fill is None:
            if self._fill_buffers >= self._fill_limit or self._closed:
                raise InternalError("the spool was written to while it was full or closed")
            fill = self._fill = Block(self._pool.take(), self._written)
        elif fill.end == self._released and fill.end > fill.start and fill is not self._pinned:
            fill.restart()  # all of it was used: a trickle lives in the first bytes of one buffer
        return fill.writable()

    def commit(self, count: int) -> None:
        """*count* bytes were received into what `get_buffer` returned last."""
        fill = self._fill
        assert fill is not None and 0 <= count <= fill.room, "commit without get_buffer"  # noqa: PT018
        if count == 0:
            return
        fill.grow(count, time.time())
        self._written += count
        if fill.room < self._least_room:
            self._tail.append(fill)
            self._fill = None
            self._settle()
        self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """The writer has finished: after the last byte `read` raises *error*, or `SpoolClosed`."""
        self._ended, self._error = True, error
        self._wake()

    @property
    def full(self) -> bool:
        """The writer was told to stop."""
        return self._full

    @property
    def written(self) -> int:
        """Bytes received: the index that the next one gets."""
        return self._written

    # ---------------------------------------------------------------- reader

    async def read(self) -> Chunk:
        """The next chunk; waits for one. A cancelled call loses nothing.

        Raises:
            SpoolClosed: all bytes were read and the writer has ended, or the spool was closed.
            SpoolError: a segment was altered; the message names it.
        """
        if self._reading:
            raise InternalError("the spool has two readers")
        self._reading = True
        try:
            if time.monotonic() - self._turn >= TURN_SECONDS:
                await self._give_way()
            while (chunk := self.read_nowait()) is None:
                self._raise_if_over()
                await self._wait()
            return chunk
        finally:
            self._reading = False

    def read_nowait(self) -> Chunk | None:
        """The next chunk if it is in memory; None when `read` would wait, or raise. A load from disk begins then."""
        self._unpin()
        return self._next_chunk()

    def release(self, index: int) -> None:
        """Bytes before *index* will not be read again; an index behind an earlier one changes nothing."""
        if index > self._cursor:
            raise InternalError(f"spool bytes before {index} were released, but only {self._cursor} were read")
        if index > self._released:
            self._released = index
            self._trim()
            self._settle()

    def seek(self, index: int) -> None:
        """The next chunk starts at *index*, which is at least `released`."""
        if not self._released <= index <= self._written:
            raise InternalError(f"seek to {index} outside of spool bytes {self._released} to {self._written}")
        self._drop_loaded()
        self._failure = None
        self._cursor = index
        self._wake()

    def watch(self, on_starved: Callable[[], None]) -> None:
        """Calls *on_starved* when the reader has read all there is and nothing more can come until it releases bytes.

        Without disk, or with a full one, that happens when a transaction is larger than the memory of the spool: the
        reader must then release it and ask the source again should the target fail.
        """
        self._on_starved = on_starved

    @property
    def cursor(self) -> int:
        """Index of the first byte of the next chunk."""
        return self._cursor

    @property
    def waiting_since(self) -> float:
        """Unix time at which the byte at `cursor` was received, 0 when all was read.

        Of one that is on disk it may be that of an older byte of the same file.
        """
        cursor = self._cursor
        if cursor == self._written:
            return 0.0
        if self._disk is None or not self._disk.holds(cursor):
            return self._memory_block(cursor).span_at(cursor)[1]
        loaded = next((block for block in self._loaded if block.start <= cursor < block.end), None)
        return loaded.span_at(cursor)[1] if loaded is not None else self._disk.received_at(cursor)

    @property
    def released(self) -> int:
        """Index of the first byte that can be sought."""
        return self._released

    @property
    def starved(self) -> bool:
        """All bytes were read, and there is no room for more until some are released."""
        spilling = self._disk is not None and self._disk.writing
        return self._full and self._cursor == self._written and not spilling

    # ------------------------------------------------------------------ both

    def reset(self) -> None:
        """Drops all bytes; indexes restart at 0. What the reader still holds stays valid until its next `read`."""
        self._generation += 1
        self._drop_loaded()
        fill = [] if self._fill is None else [self._fill]
        for block in chain(self._head, self._tail, fill):
            self._free(block)
        if self._disk is not None:
            self._disk.reset()
        self._begin()
        self._ended, self._error = False, None
        self._settle()

    def close(self) -> None:
        """Frees memory and removes all files; idempotent. A waiting `read` raises `SpoolClosed`."""
        if self._closed:
            return
        self._closed = True
        self._on_full = self._on_room = self._on_starved = None
        if self._disk is not None:
            self._disk.close()
        self.reset()
        self._pool.clear()
        self._wake()

    def statistics(self) -> SpoolStatistics:
        """What is held now."""
        disk = self._disk
        buffer_bytes = self._pool.buffer_bytes
        return SpoolStatistics(
            memory_bytes=self._pool.allocated * buffer_bytes,
            memory_limit_bytes=self._pool.limit * buffer_bytes,
            disk_bytes=disk.bytes if disk else 0,
            disk_limit_bytes=disk.share.most_bytes if disk else 0,
            peak_memory_bytes=self._pool.peak_allocated * buffer_bytes,
            peak_disk_bytes=disk.peak_bytes if disk else 0,
            written=self._written,
            cursor=self._cursor,
            released=self._released,
            segments=disk.segments if disk else 0,
            spilling=disk is not None and (disk.writing or (not disk.empty and self._cursor < disk.end)),
            full=self._full,
            blocked=disk.blocked if disk else "",
        )

    # -------------------------------------------------------- finding chunks

    def _next_chunk(self) -> Chunk | None:
        """The chunk at the cursor, or None when it is not in memory yet; then a load was begun."""
        cursor = self._cursor
        if cursor == self._written or self._failure is not None:
            return None
        on_disk = self._disk is not None and self._disk.holds(cursor)
        block = self._loaded_block(cursor) if on_disk else self._memory_block(cursor)
        if block is None:
            return None
        end, received_at = block.span_at(cursor)
        self._cursor = end
        self._pinned = block
        if block.loaded and end == block.end:
            self._loaded.popleft()
            self._free(block)
            self._load_ahead()
        return Chunk(cursor, block.slice(cursor, end).toreadonly(), received_at)

    def _memory_block(self, index: int) -> Block:
        hint = self._hint
        if hint is not None and hint is self._fill and hint.start <= index < hint.end:
            return hint
        fill = () if self._fill is None else (self._fill,)
        for block in chain(self._head, self._in_writing, self._tail, fill):
            if block.start <= index < block.end:
                self._hint = block
                return block
        raise InternalError(f"spool byte {index} is nowhere")

    def _loaded_block(self, index: int) -> Block | None:
        while self._loaded and self._loaded[0].end <= index:
            self._free(self._loaded.popleft())
        self._load_ahead()
        return self._loaded[0] if self._loaded else None

    def _load_ahead(self) -> None:
        """Begins to load what follows in the segments, when there is something and buffers are free."""
        disk, count = self._disk, self._load_limit - self._load_buffers
        index = self._loaded[-1].end if self._loaded else self._cursor
        if disk is None or disk.loading or count == 0 or not disk.holds(index):
            return
        views = [self._pool.take() for _ in range(count)]
        self._load_buffers += count
        disk.load(index, views, partial(self._on_loaded, self._load_generation, views))

    def _on_loaded(self, generation: int, views: list[memoryview], result: list[Block] | SpoolError) -> None:
        blocks = [] if isinstance(result, Exception) or generation != self._load_generation else result
        self._loaded.extend(blocks)
        for view in views[len(blocks) :]:
            self._pool.give(view)
            self._load_buffers -= 1
        if isinstance(result, Exception) and generation == self._load_generation and not self._loaded:
            self._failure = result
        self._wake()

    def _drop_loaded(self) -> None:
        self._load_generation += 1
        while self._loaded:
            self._free(self._loaded.popleft())

    # ------------------------------------------------------- memory and disk

    @property
    def _fill_buffers(self) -> int:
        return self._pool.used - self._load_buffers

    def _settle(self) -> None:
        """Spills what has to be spilled, and tells the writer when that changed whether there is room."""
        self._spill()
        full = self._fill is None and self._fill_buffers >= self._fill_limit
        if full != self._full and not self._closed:
            self._full = full
            tell = self._on_full if full else self._on_room
            if tell is not None:
                tell()

    def _spill(self) -> None:
        disk = self._disk
        if disk is None or self._closed:
            return
        if disk.empty and not disk.writing:
            while self._tail and len(self._head) < self._spill_above:
                self._head.append(self._tail.popleft())
        excess = self._fill_buffers - self._spill_above
        if excess <= 0 or not self._tail:
            return
        wanted = list(islice(self._tail, min(excess, WRITE_BLOCKS)))
        blocks = wanted[: disk.accepts(wanted)]
        if blocks:
            self._in_writing.extend(self._tail.popleft() for _ in blocks)
            disk.write(blocks, partial(self._on_written, self._generation, blocks))

    def _on_written(self, generation: int, blocks: list[Block], success: bool) -> None:  # noqa: FBT001 - a callback
        if generation != self._generation:
            for block in blocks:
                self._free(block)
        elif success:
            for block in blocks:
                self._in_writing.popleft()
                self._free(block)
            self._trim()
        else:
            self._tail.extendleft(reversed(self._in_writing))
            self._in_writing.clear()
            self._trim()  # what was let go of meanwhile
            self._wake()  # the reader may be starved now
        self._settle()

    def _trim(self) -> None:
        """Frees what lies wholly before `released`; parts are in order, so a later one waits for an earlier one."""
        self._free_before(self._head)
        if self._head:
            return
        if self._disk is not None:
            self._disk.release(self._released)
            if not self._disk.empty or self._disk.writing:
                return
        self._free_before(self._tail)

    def _free_before(self, blocks: deque[Block]) -> None:
        while blocks and blocks[0].end <= self._released:
            self._free(blocks.popleft())

    def _free(self, block: Block) -> None:
        """Gives a block's buffer back, as soon as the reader has let go of it."""
        if block is self._pinned:
            self._orphan = True
            return
        self._pool.give(block.view)
        self._load_buffers -= block.loaded

    def _unpin(self) -> None:
        block, self._pinned = self._pinned, None
        if self._orphan and block is not None:
            self._orphan = False
            self._free(block)
            self._settle()

    # --------------------------------------------------------------- waiting

    async def _give_way(self) -> None:
        await asyncio.sleep(0)
        self._turn = time.monotonic()

    async def _wait(self) -> None:
        """Until something changes for the reader."""
        if self.starved and self._on_starved is not None:
            self._on_starved()
            if not self._full or self._cursor < self._written:  # bytes may have come within the call
                return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        self._turn = time.monotonic()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _raise_if_over(self) -> None:
        if self._closed:
            raise SpoolClosed("the spool is closed")
        if self._failure is not None:
            raise self._failure
        if self._ended and self._cursor == self._written:
            raise self._error or SpoolClosed("the writer has ended")
