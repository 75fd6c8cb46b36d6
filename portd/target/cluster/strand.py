"""The strands of a cluster, one for each slot, as the books of a stream see them: their floor, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from portd.errors import TargetLost
from portd.model import Position
from portd.target.kept.checkpoint import State, new_epoch
from portd.target.kept.postponed import Postponed

if TYPE_CHECKING:
    from portd.target.kept.checkpoint import Checkpoint


@dataclass(slots=True)
class Marks:
    """When what a node is to get was received.

    Attributes:
        since: unix time of the oldest byte; 0 when there is none.
        newest: of the newest one.
    """

    since: float = 0.0
    newest: float = 0.0

    def note(self, received_at: float) -> None:
        """Something more."""
        self.since = self.since or received_at
        self.newest = received_at

    def take(self) -> Marks:
        """These marks; what comes then begins anew."""
        taken = Marks(self.since, self.newest)
        self.since = self.newest = 0.0
        return taken


class SlotStrands:
    """What all slots have in common.

    Args:
        record: the link's hash as it is in the target.

    Attributes:
        record: the hash as it may be written: its offset is the floor.
        writer: who writes records from now on.
        postponed: see `portd.target.stream.strand.Strand`; nothing is, in a cluster.
        written: the offset that the hash in the target says.
    """

    def __init__(self, record: Checkpoint) -> None:
        self.record = record
        self.writer = new_epoch()
        self.postponed = Postponed(there=record.postponed)
        self.written = record.position.offset

    @property
    def offset(self) -> int:
        """The floor: every slot has what is up to there."""
        return self.record.position.offset

    def adopt(self, replid: str) -> None:
        """The history continues under another id."""
        before = self.record.position.replid
        self.record = replace(self.record, position=Position(replid, self.offset), source_replid2=before)

    def claim(self, found: Checkpoint | None) -> None:
        """The hash is to be ours, if it is the one that was read before.

        Raises:
            TargetLost: it is gone, or was changed.
        """
        if (
            found is None
            or found.epoch not in {self.record.epoch, self.writer}
            or found.position.offset != self.written
        ):
            raise TargetLost(
                "the checkpoint was changed by somebody else since it was read",
                hint="the sync starts over; another portd on the same link must be stopped",
            )
        self.record = replace(self.record, epoch=self.writer, state=State.STREAM, time_ms=0)

    def rise(self, floor: int, db: int) -> None:
        """Every slot has what is up to *floor*, where *db* is in effect."""
        if floor > self.offset:
            self.record = replace(self.record, position=Position(self.record.position.replid, floor), db=db, time_ms=0)

    def sink(self, floor: int) -> Checkpoint:
        """A slot lost what it had behind *floor*: what the hash is to say."""
        place = min(floor, self.offset)
        return replace(self.record, position=Position(self.record.position.replid, place), time_ms=0)

    def exclude(self, offset: int) -> None:
        """A command that is left out is not remembered: it left the window that it was in."""
