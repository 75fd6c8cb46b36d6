"""How fast a sync moves: rates over the last seconds, and when the snapshot will be done.

Counters are sampled by whoever shows them, about once a second; nothing runs by itself.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.model import Progress

WINDOW_SECONDS = 10.0
ALMOST = 0.999  # of a snapshot that is decoded, and not yet applied to its end
MIN_GAP_SECONDS = 0.25  # samples closer together than this would make the rates jump


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    read: int
    decoded: int
    settled: int
    keys: int
    commands: int
    applied: int


@dataclass(frozen=True, slots=True)
class PaceReading:
    """Rates per second over the window; None where they cannot be told yet.

    Attributes:
        received_bytes: from the source.
        decoded_bytes: of the snapshot.
        keys: of the snapshot, whose fate is known: applied, or left out.
        commands: of the stream, applied.
        stream_bytes: of the stream, applied.
        eta_seconds: until the snapshot is applied; None when its size is not known or nothing moves.
        done: share of the snapshot, 0 to 1; None when its size is not known. 1 only when all of it is applied.
    """

    received_bytes: float
    decoded_bytes: float
    keys: float
    commands: float
    stream_bytes: float
    eta_seconds: float | None
    done: float | None


class Pace:
    """Rates of one sync.

    Args:
        progress: its counters.
        clock: monotonic seconds.
    """

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._samples: deque[_Sample] = deque(maxlen=int(WINDOW_SECONDS / MIN_GAP_SECONDS) + 1)
        self.sample()

    def sample(self) -> None:
        """Notes the counters now, unless that was done a moment ago."""
        now = self._clock()
        if self._samples and now - self._samples[-1].at < MIN_GAP_SECONDS:
            return
        while len(self._samples) > 1 and now - self._samples[0].at > WINDOW_SECONDS:
            self._samples.popleft()
        self._samples.append(self._now(now))

    def read(self) -> PaceReading:
        """Rates between the oldest sample of the window and now."""
        self.sample()
        first, last = self._samples[0], self._now(self._clock())
        seconds = last.at - first.at

        def rate(before: int, after: int) -> float:
            return max(0, after - before) / seconds if seconds > 0 else 0.0  # a new full sync starts again at 0

        decoded, keys = rate(first.decoded, last.decoded), rate(first.keys, last.keys)
        done, eta = self._rest(rate(first.settled, last.settled), keys)
        return PaceReading(
            received_bytes=rate(first.read, last.read),
            decoded_bytes=decoded,
            keys=keys,
            commands=rate(first.commands, last.commands),
            stream_bytes=rate(first.applied or last.applied, last.applied),  # the first offset is no progress
            eta_seconds=eta,
            done=done,
        )

    def _now(self, at: float) -> _Sample:
        snapshot, stream = self._progress.snapshot, self._progress.stream
        return _Sample(
            at=at,
            read=self._progress.source.bytes_received,
            decoded=snapshot.bytes_decoded,
            settled=snapshot.bytes_applied,
            keys=snapshot.keys_settled,
            commands=stream.commands_applied,
            applied=stream.applied_offset,
        )

    def _rest(self, settled: float, keys: float) -> tuple[float | None, float | None]:
        """Share done and seconds left: by bytes where the size is known, else by the source's keys, else by the hints.

        Hints come with each database: where the source may not be asked, they grow until the last one has begun.
        """
        snapshot = self._progress.snapshot
        if snapshot.finished_at:
            return 1.0, 0.0
        if snapshot.bytes_total:
            past, whole, rate = snapshot.bytes_applied, snapshot.bytes_total, settled
        elif told := snapshot.keys_total or snapshot.keys_announced:
            past, whole, rate = snapshot.keys_settled, max(told, snapshot.keys_read), keys
        else:
            return None, None
        return min(ALMOST, past / whole), (max(0, whole - past) / rate if rate > 0 else None)
