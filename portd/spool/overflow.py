"""The disk part of a spool, seen from the event loop: which segments there are, and the jobs on them.

At most one job writes and one job loads at a time; removals follow in order behind them. All calls return at once.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import time
from collections import deque
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from portd.errors import SpoolError
from portd.spool.directory import PrivateDirectory
from portd.spool.segments import ALTERED_HINT, Place, SegmentReader, SegmentWriter, segment_path, stored_bytes
from portd.spool.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from portd.spool.room import DiskRoom
    from portd.spool.window import Block

SEGMENTS_IN_SHARE = 4  # what is kept for a spool is this many segments at least, so that room comes back in steps
RETRY_SECONDS = 1.0  # a disk that refused is tried again after this
WARN_INTERVAL_SECONDS = 60.0

DISK_LIMIT = "disk limit"
DISK_FULL = "disk full"
DISK_ERROR = "disk error"

_log = structlog.get_logger("portd.spool")


@dataclass(slots=True)
class Segment:
    """A segment file.

    Attributes:
        number: names the file; never used twice.
        start: absolute index of its first byte.
        end: absolute index behind the last byte that is certain to be in it.
        received_at: unix time at which its first byte was received.
        size: bytes of the file, those being written included.
    """

    number: int
    start: int
    end: int
    received_at: float
    size: int = 0


class Overflow:
    """Segments on disk, oldest first, without gaps.

    Args:
        parent: where to make the private directory.
        room: what bounds the bytes of segment files, ours and those of other spools.
        segment_bytes: a segment that has this many is not written to again.
        on_room: called when a write that was refused may be tried again.
        write: replaces `os.pwritev`, for tests.

    Raises:
        SpoolError: *parent* cannot be used.
    """

    def __init__(
        self,
        parent: Path,
        *,
        room: DiskRoom,
        segment_bytes: int,
        on_room: Callable[[], None],
        write: Callable[..., int] = os.pwritev,
    ) -> None:
        self.share = room.join(self._on_shared_room)
        self.peak_bytes = 0
        self.blocked = ""  # why nothing is written now; empty when all is well
        self.writing = False
        self.loading = False
        self._segment_bytes = max(1, min(segment_bytes, self.share.kept_bytes // SEGMENTS_IN_SHARE))
        self._on_room = on_room
        self._directory = PrivateDirectory(parent)
        nonce = secrets.randbits(32)
        self._writer = SegmentWriter(self._directory.path, nonce, write=write)
        self._reader = SegmentReader(self._directory.path, nonce)
        self._writes = Worker("portd-spool-write")  # a disk that is slow to take bytes still gives them
        self._reads = Worker("portd-spool-read")
        self._segments: deque[Segment] = deque()
        self._next_number = 0
        self._target: Segment | None = None  # the segment that the write job writes to
        self._place: Place | None = None  # behind the record loaded last
        self._removing = 0
        self._may_try = True
        self._retry: asyncio.TimerHandle | None = None
        self._context = copy_context()  # in which it was refused last
        self._warned_at = -WARN_INTERVAL_SECONDS
        self._warned = False  # and not yet told that it works again
        self._closed = False

    @property
    def bytes(self) -> int:
        """Bytes of segment files, those being written included."""
        return self.share.used

    # -------------------------------------------------------------- contents

    @property
    def path(self) -> Path:
        """The private directory."""
        return self._directory.path

    @property
    def empty(self) -> bool:
        """No segment, and none being written."""
        return not self._segments

    @property
    def segments(self) -> int:
        """Segment files, those under removal included."""
        return len(self._segments) + self._removing

    @property
    def end(self) -> int:
        """Absolute index behind the last byte on disk; meaningless when `empty`."""
        return self._segments[-1].end

    def holds(self, index: int) -> bool:
        """Whether the byte at *index* can be loaded."""
        return bool(self._segments) and self._segments[0].start <= index < self._segments[-1].end

    def received_at(self, index: int) -> float:
        """Unix time at which the file's first byte was received that holds *index*."""
        return next(segment for segment in self._segments if index < segment.end).received_at

    # --------------------------------------------------------------- writing

    def accepts(self, blocks: Sequence[Block]) -> int:
        """How many of *blocks*, from the first, may be written now; 0 while a write runs or the disk refuses."""
        if self.writing or not self._may_try or self._closed:
            return 0
        room = self.share.left_bytes
        count = 0
        for block in blocks:
            room -= stored_bytes(block)
            if room < 0:
                break
            count += 1
        if count == 0 and blocks:
            self._refuse(DISK_LIMIT)
        return count

    def write(self, blocks: Sequence[Block], done: Callable[[bool], None]) -> None:
        """Appends blocks, as many as `accepts` said; they must not change until *done* is called with the outcome."""
        segment = self._segment_for(blocks[0])
        size = sum(map(stored_bytes, blocks))
        offset = segment.size
        segment.size += size
        self.share.take(size)
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        self.writing = True
        self._target = segment
        self._writes.submit(
            partial(self._writer.append, segment.number, offset, blocks),
            partial(self._written, segment, size, blocks[-1].end, done),
        )

    def _segment_for(self, block: Block) -> Segment:
        start = block.start
        if not self._segments or self._segments[-1].size >= self._segment_bytes:
            self._segments.append(Segment(self._next_number, start, start, block.span_at(start)[1]))
            self._next_number += 1
        assert self._segments[-1].end == start, "a gap between blocks on disk"
        return self._segments[-1]

    def _written(self, segment: Segment, size: int, end: int, done: Callable[[bool], None], error: object) -> None:
        self.writing = False
        self._target = None
        if isinstance(error, Exception):
            segment.size -= size
            self.share.give(size)
            self._refuse(_reason(error), error)
        else:
            segment.end = end
            self.blocked = ""
            if self._warned:
                self._warned = False
                _log.info("spool writes to disk again")
        done(not isinstance(error, Exception))

    def _refuse(self, reason: str, error: Exception | None = None) -> None:
        """Writes nothing for now: until a segment is removed or, when it is the disk that refused, for a moment."""
        self._may_try = False
        self._context = copy_context()
        if self.blocked != reason and time.monotonic() - self._warned_at >= WARN_INTERVAL_SECONDS:
            self._warned_at = time.monotonic()
            self._warned = True
            _log.warning(
                "spool cannot write to disk, reading from the source stops when memory is full",
                reason=reason,
                error=None if error is None else str(error),
                disk_bytes=self.bytes,
                disk_limit=self.share.most_bytes,
            )
        self.blocked = reason
        if error is not None and not self._closed:
            self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._try_again)

    def _on_shared_room(self) -> None:
        """Another spool has given something back; what is logged is not about that one's link."""
        if self.blocked == DISK_LIMIT and not self._closed:
            self._context.run(self._try_again)

    def _try_again(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if not self._may_try:
            self._may_try = True
            self._on_room()
            if not self.writing and self._may_try:  # nothing needs the disk any more
                self.blocked = ""

    # --------------------------------------------------------------- reading

    def load(self, index: int, views: list[memoryview], done: Callable[[list[Block] | SpoolError], None]) -> None:
        """Loads the record that holds *index* and those behind it, one into each of *views*; some may stay unused."""
        segment = next(segment for segment in self._segments if index < segment.end)
        place = self._place
        if place is None or place.segment != segment.number or place.index > index:
            place = Place(segment.number, 0, segment.start)
        self.loading = True
        self._reads.submit(
            partial(self._reader.load, place, index, segment.end, views), partial(self._loaded, segment, done)
        )

    def _loaded(
        self,
        segment: Segment,
        done: Callable[[list[Block] | SpoolError], None],
        result: tuple[list[Block], Place] | Exception,
    ) -> None:
        self.loading = False
        if isinstance(result, SpoolError):
            done(result)
        elif isinstance(result, Exception):
            done(SpoolError(f"cannot read {segment_path(self.path, segment.number)}: {result}", hint=ALTERED_HINT))
        else:
            blocks, self._place = result
            done(blocks)

    # -------------------------------------------------------------- removing

    def release(self, index: int) -> None:
        """Removes the segments that hold nothing at or behind *index*."""
        gone = []
        while self._segments and self._segments[0].end <= index and self._segments[0] is not self._target:
            gone.append(self._segments.popleft())
        self._remove(gone)

    def reset(self) -> None:
        """Removes all segments. Jobs under way end first and still report."""
        self._place = None
        gone, self._segments = self._segments, deque()
        self._remove(gone)

    def _remove(self, gone: Iterable[Segment]) -> None:
        segments = list(gone)
        if segments and not self._closed:
            self._removing += len(segments)
            numbers = [segment.number for segment in segments]
            self._reads.submit(partial(self._reader.let_go, numbers), partial(self._unlink, segments, numbers))

    def _unlink(self, segments: list[Segment], numbers: list[int], _: object) -> None:
        if not self._closed:
            self._writes.submit(partial(self._writer.remove, numbers), partial(self._removed, segments))

    def _removed(self, segments: list[Segment], error: object) -> None:
        self._removing -= len(segments)
        self.share.give(sum(segment.size for segment in segments))
        if isinstance(error, Exception):
            _log.warning("cannot remove a spool segment", error=str(error))
        self._try_again()

    def close(self) -> None:
        """Removes everything, the directory included; idempotent."""
        if not self._closed:
            self._closed = True
            if self._retry is not None:
                self._retry.cancel()
            self._reads.close(self._reader.close)
            self._writes.close(self._clean_up)
            self._segments.clear()
            self.share.leave()

    def _clean_up(self) -> None:
        try:
            self._writer.close()
            self._directory.remove()
        except OSError as error:
            _log.warning("spool directory stays", path=str(self.path), error=str(error))


def _reason(error: Exception) -> str:
    full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    return DISK_FULL if full else DISK_ERROR
