"""The strands of a cluster, one for each slot, as the books of a stream see them: their floor, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from portd.model import Position
from portd.target.stream.strand import Recorded

if TYPE_CHECKING:
    from portd.config.rules import Choice
    from portd.target.cluster.owing import Owing
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


class SlotStrands(Recorded):
    """What all slots have in common. The offset of their record, the link's hash, is the floor: every slot has what is up to there.

    Args:
        record: the link's hash as it is in the target.
        owing: what is owed to slots.

    Attributes:
        record, writer, postponed: see `Recorded`; nothing is postponed in a cluster.
        written: the offset that the hash in the target says.
    """

    def __init__(self, record: Checkpoint, owing: Owing) -> None:
        super().__init__(record)
        self.written = record.position.offset
        self._owing = owing

    @property
    def owing(self) -> int:
        """Keys that are owed to slots."""
        return self._owing.count

    def owes(self, offset: int) -> bool:
        """Whether some are that were so at *offset*, as far as is known."""
        return self._owing.owes(offset)

    def claim(self, found: Checkpoint | None) -> None:
        """The hash is to be ours, if it is the one that was read before.

        Raises:
            TargetLost: it is gone, or was changed.
        """
        self.record = self._taken_over(found, self.written)

    def rise(self, floor: int, db: int) -> None:
        """Every slot has what is up to *floor*, where *db* is in effect."""
        if floor > self.offset:
            self.record = replace(self.record, position=Position(self.record.position.replid, floor), db=db, time_ms=0)

    def rule(self, choice: Choice) -> None:
        """The data was made by these rules."""
        self.record = self.record.ruled(choice.digest, choice.source_slots, blurs=choice.blurs)

    def sink(self, floor: int) -> Checkpoint:
        """A slot lost what it had behind *floor*: what the hash is to say."""
        place = min(floor, self.offset)
        return replace(self.record, position=Position(self.record.position.replid, place), time_ms=0)

    def exclude(self, offset: int) -> None:
        """A command that is left out is not remembered: it left the window that it was in."""
