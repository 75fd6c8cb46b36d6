"""The memory of the spool: fixed-size buffers, and the blocks of bytes that lie in them. No I/O.

Where blocks go when memory is short is decided in `portd.spool.spool`.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKS_PER_BLOCK = 128  # receipt times kept for one block
FIRST_SPACING_SECONDS = 0.01  # between two marks; doubles whenever a block has too many


class Block:
    """Consecutive bytes in one buffer, with the times at which they came.

    A trickle that fills a block over minutes has many receipt times, so a block keeps marks: an index, and the time
    from there on. Their number is bounded; when there are too many, every second one goes and the spacing doubles.

    Attributes:
        start: absolute index of the first byte.
        end: absolute index behind the last byte.
        view: the whole buffer, writable.
        loaded: read back from disk; counted apart from the blocks that a socket filled.
    """

    __slots__ = ("_indexes", "_spacing", "_times", "end", "loaded", "start", "view")

    def __init__(self, view: memoryview, start: int, *, loaded: bool = False) -> None:
        self.view = view
        self.start = start
        self.end = start
        self.loaded = loaded
        self._indexes: list[int] = []
        self._times: list[float] = []
        self._spacing = FIRST_SPACING_SECONDS

    @property
    def room(self) -> int:
        """Bytes that still fit."""
        return len(self.view) - (self.end - self.start)

    def writable(self) -> memoryview:
        """The free part of the buffer."""
        return self.view[self.end - self.start :]

    def grow(self, count: int, received_at: float) -> None:
        """Takes over *count* bytes that were written into `writable`.

        Args:
            count: bytes, at most `room`.
            received_at: unix seconds.
        """
        times = self._times
        if not times or not 0 <= received_at - times[-1] < self._spacing:  # < 0: the clock was set back
            if len(times) == MARKS_PER_BLOCK:
                self._thin_out()
            self._indexes.append(self.end)
            times.append(received_at)
        self.end += count

    def restart(self) -> None:
        """Forgets the bytes, so that the buffer is filled from its beginning again."""
        self.start = self.end
        self._indexes.clear()
        self._times.clear()
        self._spacing = FIRST_SPACING_SECONDS

    def slice(self, start: int, end: int) -> memoryview:
        """The bytes between two absolute indexes."""
        return self.view[start - self.start : end - self.start]

    def span_at(self, index: int) -> tuple[int, float]:
        """Where the bytes that came together with the one at *index* end, and when they came (unix seconds)."""
        indexes = self._indexes
        if len(indexes) == 1:
            return self.end, self._times[0]
        after = bisect_right(indexes, index)
        return indexes[after] if after < len(indexes) else self.end, self._times[after - 1]

    def spans(self) -> Iterator[tuple[int, int, float]]:
        """Start, end and receipt time of all spans, in order."""
        at = self.start
        while at < self.end:
            end, received_at = self.span_at(at)
            yield at, end, received_at
            at = end

    @property
    def span_count(self) -> int:
        """How many spans `spans` yields."""
        return len(self._indexes)

    def _thin_out(self) -> None:
        del self._indexes[1::2]
        del self._times[1::2]
        self._spacing *= 2


class BufferPool:
    """At most *limit* buffers of one size; made when first needed, kept for reuse.

    They are bytearrays, so that `tracemalloc` sees them.
    """

    def __init__(self, buffer_bytes: int, limit: int) -> None:
        self.buffer_bytes = buffer_bytes
        self.limit = limit
        self.allocated = 0  # buffers made and not dropped, in use or spare
        self.peak_allocated = 0
        self.used = 0
        self._spare: list[memoryview] = []

    def take(self) -> memoryview:
        """A buffer; the caller has checked that there is one (`used` < `limit`)."""
        assert self.used < self.limit, "more buffers asked for than the memory limit allows"
        self.used += 1
        if self._spare:
            return self._spare.pop()  # the one used last: still in the CPU's cache
        self.allocated += 1
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return memoryview(bytearray(self.buffer_bytes))

    def give(self, view: memoryview) -> None:
        """Takes a buffer back."""
        self.used -= 1
        self._spare.append(view)

    def clear(self) -> None:
        """Drops the spare buffers."""
        self.allocated -= len(self._spare)
        self._spare.clear()
