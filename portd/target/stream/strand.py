"""The strand: what has one order and one record in the target; see docs/design/0006.

A record says how far a strand is. It is written in the same transaction as the commands that lead there, so after a lost
connection it alone tells which of the groups that were sent took effect. A standalone target has one strand, and its record
is the checkpoint.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from portd.config.rules import Choice
from portd.errors import DataLost, InternalError, TargetLost
from portd.model import Position
from portd.target.kept.checkpoint import LEASE_SUFFIX, Checkpoint, State, new_epoch
from portd.target.kept.epoch import EPOCH_SUFFIX, taken_over
from portd.target.kept.postponed import Postponed
from portd.target.stream.group import Counts, Frame, Group, PieceSource, frame

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """What will be true when the EXEC in flight turns out to have worked.

    Attributes:
        position: behind the group.
        db: database in effect there.
        counts: of its commands.
        received_at: unix time at which its newest byte was received.
        owed: keys that are owed to the target there.
    """

    position: Position
    db: int
    counts: Counts
    received_at: float
    owed: str = ""

    @property
    def place(self) -> tuple[int, str]:
        """What the record says then: how far it is, and what it lacks."""
        return self.position.offset, self.owed


class Recorded:
    """A record in the target that says how far something is; nobody else may have it.

    Args:
        record: as it is in the target.

    Attributes:
        record: the newest one known to be in the target, or that may be written there.
        writer: the epoch that records carry from now on.
        postponed: what there may be in the target of expiries that are to be set back.
    """

    def __init__(self, record: Checkpoint) -> None:
        self.record = record
        self.writer = new_epoch()
        self.postponed = Postponed(there=record.postponed)

    @property
    def offset(self) -> int:
        """Replication offset that the record covers."""
        return self.record.position.offset

    @property
    def owing(self) -> int:
        """Keys that are owed to the target."""
        return self.record.owed.count(":")

    def owes(self, offset: int) -> bool:  # noqa: ARG002 - since when is not remembered
        """Whether some are that were so at *offset*, as far as is known."""
        return bool(self.record.owed)

    def adopt(self, replid: str) -> None:
        """The history continues under another id: records carry it from now on."""
        before = self.record.position.replid
        self.record = replace(self.record, position=Position(replid, self.offset), source_replid2=before)

    def _taken_over(self, found: Checkpoint | None, offset: int) -> Checkpoint:
        """The record as ours, if *found* is the one that was read before, which said *offset*.

        Raises:
            TargetLost: it is gone, or was changed.
        """
        if (
            found is None
            or found.epoch not in {self.record.epoch, self.writer}
            or (found.position.offset, found.owed) != (offset, self.record.owed)
        ):
            raise TargetLost(
                "the checkpoint was changed by somebody else since it was read",
                hint="the sync starts over; another portd on the same link must be stopped",
            )
        return replace(self.record, epoch=self.writer, state=State.STREAM, time_ms=0)


class Strand(Recorded):
    """One order of commands, and its record.

    Args:
        key: of the record.
        record: the newest one known to be in the target.
        feed: where its pieces come from.
        others: further keys of ours, whose owners write them again where they are cleared away.
        choice: which databases of the source are taken, and where they go; None: all, where they are.

    Attributes:
        keys: of ours in db 0.
        record, writer, postponed: see `Recorded`.
        growing: the group that takes pieces while another one is in flight.
        attempts: groups whose EXEC was sent and not answered, by their place. More than one when connections
            were lost; only one of them can have taken effect, since each watched the record.
        excluded: offsets of refused commands that the record does not cover, ascending.
    """

    def __init__(
        self, key: str, record: Checkpoint, feed: PieceSource, others: tuple[str, ...] = (), choice: Choice | None = None,
    ) -> None:  # fmt: skip
        super().__init__(record)
        self.key = key
        self.keys: tuple[str, ...] = (key, key + LEASE_SUFFIX, key + EPOCH_SUFFIX, *others)
        self._choice = choice or Choice()
        self.growing = self._fresh_group()
        self.attempts: dict[tuple[int, str], Unconfirmed] = {}
        self.excluded = array("Q")
        self._feed = feed

    # -- the record, as it is found in the target

    def claim(self, found: Checkpoint | None) -> Checkpoint:
        """The record that takes it over, if it is the one this strand was told about; `claimed` when it is written.

        Raises:
            TargetLost: it is gone, or was changed.
        """
        return self._taken_over(_there(found), self.offset)

    def claimed(self, mine: Checkpoint) -> None:
        """The record is in the target and ours."""
        self.record = mine

    def resolve(self, found: Checkpoint | None) -> Unconfirmed | None:
        """Finds out what became of the groups whose EXEC was not answered.

        Returns:
            The one that took effect; None when none did.

        Raises:
            LinkTaken: another process writes the record.
            TargetLost: it is gone, or went back.
        """
        there = _there(found)
        if there.epoch != self.writer:
            raise taken_over()
        has, had = there.position.offset, self.offset
        if (has, there.owed) in self.attempts:
            return self.attempts[has, there.owed]
        if has < had or (has == had and there.owed != self.record.owed):
            raise TargetLost(
                f"the target went back from offset {had} to {has}: it was restored from an older file, or a replica was "
                "promoted",
                hint="the sync goes on from there if the source still has what follows",
            )
        if has != had:
            raise InternalError(f"the checkpoint says {has}, which no group of ours ended with")
        return None

    def ruled(self, choice: Choice) -> Checkpoint:
        """The record that says that the data was made by these rules; `narrowed` when it is written."""
        return replace(
            self.record.ruled(choice.digest, choice.source_slots, blurs=choice.blurs), postponed=self.postponed.there
        )

    def narrowed(self, choice: Choice, mine: Checkpoint) -> None:
        """That record is in the target."""
        self._choice, self.record = choice, mine

    # -- groups

    def rewind(self) -> None:
        """Lets the feed begin behind the record, and drops what was taken from it."""
        self._feed.rewind(self.offset, self.record.db, self.record.owed)
        for offset in self.excluded:
            self._feed.exclude(offset)
        self.growing = self._fresh_group()

    def _fresh_group(self) -> Group:
        """One that begins behind the record."""
        return Group(self.record.db, self._choice.place(self.record.db), self.record.owed)

    def exclude(self, offset: int) -> None:
        """The command that begins at *offset* can never be queued: it is left out from now on."""
        at = bisect_left(self.excluded, offset)
        if at == len(self.excluded) or self.excluded[at] != offset:
            self.excluded.insert(at, offset)

    def expect(self, offset: int, db: int, counts: Counts, received_at: float, owed: str = "") -> Unconfirmed:
        """What a group that ends at *offset* would make true."""
        return Unconfirmed(Position(self.record.position.replid, offset), db, counts, received_at, owed)

    def frame(self, db: int, expected: Unconfirmed, restated: Sequence[bytes] | None = None) -> Frame:
        """What goes around a group that begins with *db* in effect; see `portd.target.stream.group.frame`.

        Args:
            db: database in effect before it.
            expected: what it makes true.
            restated: what writes our keys beside the record, where they have to be cleared away first.
        """
        mine = replace(
            self.record,
            position=expected.position,
            db=expected.db,
            owed=expected.owed,
            time_ms=0,
            postponed=self.postponed.there,
        )
        clear = () if restated is None else self.keys
        after = 1 if self._choice else expected.db  # where rules leave SELECT out, it may be any
        return frame(mine.render(self.key), before=db, after=after, clear=clear, restated=restated or ())

    def attempt(self, expected: Unconfirmed) -> None:
        """The EXEC of a group is about to be sent."""
        self.attempts[expected.place] = expected

    def refused(self, expected: Unconfirmed) -> None:
        """The EXEC of a group was answered: it did not take effect, and never will."""
        self.attempts.pop(expected.place, None)

    def confirm(self, done: Unconfirmed) -> None:
        """A group is in the target, with its record; what is before it will not be asked for again."""
        self.attempts.clear()
        replid = self.record.position.replid  # it may have changed since the group was sent
        self.record = replace(self.record, position=Position(replid, done.position.offset), db=done.db, owed=done.owed)
        del self.excluded[: bisect_right(self.excluded, self.offset)]


def _there(found: Checkpoint | None) -> Checkpoint:
    if found is None:
        raise DataLost("the target lost its data: the checkpoint is gone")
    return found
