"""What is remembered of a link for those who look later: figures over time, when something was counted last, what is wrong.

Sampled once a second by the timer that samples memory, from counters that are there; the parts that work know nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.watch.alarms import WINDOW_SECONDS, Alarms, Sight, check, growth
from portd.watch.history import History
from portd.watch.readings import SpoolReading
from portd.watch.standing import look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from portd.model import Progress

LAG: Final = "lag"  # seconds
RECEIVED: Final = "received"  # bytes a second, from the source
SENT: Final = "sent"  # bytes a second, to the target
SPOOL_MEMORY: Final = "spool_memory"  # bytes
SPOOL_DISK: Final = "spool_disk"  # bytes
UNKNOWN: Final = -1.0


class Track:
    """What is remembered of one link.

    Args:
        progress: its counters.
        spool: how full its spool is.

    Attributes:
        history: lag, rates and spool over time, about 37 KB once all rows are there.
        happened: unix seconds at which a counter was last found to have moved, by its name and label.
        alarms: what is wrong.
    """

    def __init__(self, progress: Progress, spool: Callable[[], SpoolReading] = SpoolReading) -> None:
        self._progress = progress
        self._spool = spool
        self.history = History((LAG, RECEIVED, SENT, SPOOL_MEMORY, SPOOL_DISK), "f")
        self.happened: dict[tuple[str, str], float] = {}
        self.alarms = Alarms()
        self._counts: dict[tuple[str, str], int] = {}
        self._bytes: tuple[float, int, int] | None = None  # of the sample before: when, received, sent

    def sample(self, at: float) -> None:
        """Takes a sample.

        Args:
            at: unix seconds.
        """
        progress, spool = self._progress, self._spool()
        lag = progress.lag_seconds
        received, sent = self._rates(at)
        row = (UNKNOWN if lag is None else lag, received, sent, spool.memory_bytes, spool.disk_bytes)
        self.history.append(at, row)
        for what, count in counted(progress):
            if count > self._counts.get(what, 0):
                self.happened[what] = at
            self._counts[what] = count
        sight = Sight(
            at=at,
            phase=look(progress).phase,
            progress=progress,
            spool=spool,
            happened=self.happened,
            lag_growth=lambda: growth(self.history.recent(LAG, WINDOW_SECONDS)),
        )
        self.alarms.look(at, check(sight))

    def _rates(self, at: float) -> tuple[float, float]:
        """Bytes a second from the source and to the target since the sample before; unknown at the first."""
        progress = self._progress
        received = progress.source.bytes_received
        sent = sum(lane.connection.bytes_sent for lane in (*progress.lanes, *progress.resting))
        before, self._bytes = self._bytes, (at, received, sent)
        if before is None or at <= before[0]:
            return UNKNOWN, UNKNOWN
        seconds = at - before[0]
        return max(0, received - before[1]) / seconds, max(0, sent - before[2]) / seconds


def counted(progress: Progress) -> Iterator[tuple[tuple[str, str], int]]:
    """The counters whose last time is worth knowing, by name and label."""
    labelled = {
        "full_syncs": progress.full_syncs,
        "losses": progress.source.losses,
        "dead_letters": progress.dead_letters,
        "attributes_dropped": progress.dropped(),
        "refusals": {f"{side} {code}": count for (side, code), count in progress.troubles.counts().items()},
    }
    for name, counts in labelled.items():
        yield from (((name, label), count) for label, count in counts.items())
    yield ("connects", ""), progress.source.connects
    yield ("partial_syncs", ""), progress.partial_syncs
    yield ("keys_pruned", "keys"), progress.keys_pruned
    yield ("keys_copied", "keys"), progress.stream.keys_copied
    yield ("import_mode_losses", "times"), progress.import_mode_losses
