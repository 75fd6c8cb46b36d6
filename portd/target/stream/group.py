"""Groups of pieces: what one transaction of the stream holds, and which command an error in it belongs to."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

from portd.kernel.requests import find, without
from portd.net.resp import request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.kernel.leftout import Refusal
    from portd.kernel.stream import Piece


MOST_COPIES: Final = 12  # of keys that were owed, in one transaction: less than the bytes of any command
MOST_REFUSALS: Final = 1000  # of one transaction that are told one by one


class PieceSource(Protocol):
    """Where the applier takes the stream from; implemented over spool and splitter."""

    @property
    def received_at(self) -> float:
        """Unix time at which the last byte of the last piece handed out was received."""

    @property
    def waiting_since(self) -> float:
        """Unix time at which the oldest byte was received that was not handed out; 0 when there is none."""

    async def next_piece(self, max_bytes: int, max_commands: int) -> Piece | None:
        """The next piece; waits for it. Cancelling it may lose a piece: the applier rewinds then.

        Returns:
            None when the stream has ended and everything was handed out. The source may raise something of its own
            instead, which ends the applier in the same way.

        Raises:
            PortdError: the stream cannot be read or split.
        """

    def pending(self, max_bytes: int, max_commands: int) -> Piece | None:
        """The next piece if it is there."""

    def rewind(self, offset: int, db: int, owed: str = "") -> None:
        """Makes the next piece begin behind *offset* (not before what was committed), with *db* in effect and keys *owed*."""

    def exclude(self, offset: int) -> None:
        """Leaves out the command that begins at *offset*, which is still to come. Told again after each `rewind`."""

    def lack(self, databases: frozenset[int]) -> None:
        """The target does not have these: commands in them are refused from the next `rewind` on."""

    def release(self, offset: int, owed: str = "") -> None:
        """The target's checkpoint covers *offset*, with keys *owed*: what is before it will not be asked for again."""


@dataclass(slots=True)
class Counts:
    """What became of the commands of some pieces.

    Attributes:
        commands: that end in them.
        filtered: dropped on purpose between them.
        dead: that cannot be written to the target.
        own: that named keys of ours.
        by_key: of the filtered ones, those whose keys rules do not take.
        by_database: those in databases that they do not take.
        by_name: those that somebody does not want.
        by_copy: those whose effect is in a copy of a key.
        ours: of the commands, those that write copies of keys.
        copied: keys that they write.
        projected: that went on in part, for rules take some of their keys only.
        crossing: of the dead ones, those of which that cannot be.
        cleared: that removed what rules cover, and were nothing to be sent.
        refusals: of the dead ones, what and why; the first ones.
    """

    commands: int = 0
    filtered: int = 0
    dead: int = 0
    own: int = 0
    by_key: int = 0
    by_database: int = 0
    by_name: int = 0
    by_copy: int = 0
    ours: int = 0
    copied: int = 0
    projected: int = 0
    crossing: int = 0
    cleared: int = 0
    refusals: list[Refusal] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Counts a piece."""
        self.commands += piece.replies
        self.filtered += piece.filtered
        self.dead += piece.refused
        self.own += piece.own
        if piece.by_key or piece.by_database or piece.by_name or piece.by_copy or piece.projected or piece.crossing:
            self.add_ruled(piece)
        if piece.settles:
            self.ours += piece.replies
            self.copied += piece.copied
        if piece.refusals:
            self.refusals += piece.refusals[: MOST_REFUSALS - len(self.refusals)]

    def add_ruled(self, piece: Piece) -> None:
        """Counts what rules did in a piece."""
        self.by_key += piece.by_key
        self.by_database += piece.by_database
        self.by_name += piece.by_name
        self.by_copy += piece.by_copy
        self.projected += piece.projected
        self.crossing += piece.crossing
        self.cleared += piece.clears is not None


@dataclass(frozen=True, slots=True)
class Culprit:
    """A command that was refused.

    Attributes:
        offset: replication offset of its first byte.
        db: database in effect.
        command: its name.
        key: its first key.
    """

    offset: int
    db: int
    command: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of pieces when commands were taken out."""

    data: bytes
    offsets: bytes
    swaps: bool


class Group:
    """Pieces that go into one transaction.

    Args:
        db: database of the source in effect before the first piece; -1 when it is not known, the first command is a SELECT then.
        selected: the one of the target that is selected there; None: the same.
        owed: keys that are owed to the target there, as `Piece.owed` tells them.

    Attributes:
        size: bytes of the pieces.
        counts: of their commands.
        databases: that they need, the one in effect before them among them.
        scripts: texts that may have to go in front of them.
        since: unix time at which the first piece was received.
        received_at: unix time at which the newest byte was received.
        taken_at: monotonic time at which the first piece was split off.
    """

    __slots__ = (
        "_owed",
        "_received",
        "_remains",
        "counts",
        "databases",
        "db",
        "pieces",
        "received_at",
        "scripts",
        "selected",
        "since",
        "size",
        "taken_at",
    )

    def __init__(self, db: int, selected: int | None = None, owed: str = "") -> None:
        self.db = db
        self._owed = owed
        self.selected = db if selected is None else selected
        self.pieces: list[Piece] = []
        self._received: list[float] = []  # when, for each piece
        self._remains: Remains | None = None
        self.size = 0
        self.counts = Counts()
        self.databases = {self.selected} if self.selected > 0 else set()
        self.scripts = 0
        self.since = 0.0
        self.received_at = 0.0
        self.taken_at = 0.0

    def add(self, piece: Piece, received_at: float) -> None:
        """Appends a piece."""
        self.pieces.append(piece)
        self._received.append(received_at)
        self.size += len(piece.data)
        self.counts.add(piece)
        self.databases |= piece.databases
        self.scripts += len(piece.digests) + len(piece.loaded)
        self.since = self.since or received_at
        self.taken_at = self.taken_at or time.monotonic()
        self.received_at = received_at

    @property
    def commands(self) -> int:
        """Commands that end in them."""
        return self.counts.commands

    @property
    def weight(self) -> int:
        """Commands that were looked at for it."""
        return self.counts.commands + self.counts.filtered + self.counts.dead

    @property
    def complete(self) -> bool:
        """A checkpoint may stand behind it."""
        return bool(self.pieces) and self.pieces[-1].boundary

    @property
    def committable(self) -> bool:
        """A checkpoint may stand inside of it, or behind it."""
        return any(piece.boundary for piece in reversed(self.pieces))

    def split(self) -> tuple[Group, Group]:
        """What can be committed, and what stands behind that: a transaction of the source that is not whole yet.

        Where nothing can be, all of it comes first.
        """
        count = len(self.pieces)
        while count and not self.pieces[count - 1].boundary:
            count -= 1
        count = self._alone(count or len(self.pieces))
        first = Group(self.db, self.selected, self._owed)
        for piece, at in zip(self.pieces[:count], self._received[:count], strict=True):
            first.add(piece, at)
        rest = Group(first.db_after, first.selected_after, first.owes)
        for piece, at in zip(self.pieces[count:], self._received[count:], strict=True):
            rest.add(piece, at)
        first.taken_at = self.taken_at
        if rest.pieces:
            rest.taken_at = self.taken_at
        return first, rest

    def _alone(self, count: int) -> int:
        """How many of the first pieces may go together: one that clears is alone, and so are copies of keys, some at a time."""
        copied = 0
        for index, piece in enumerate(self.pieces[:count]):
            if piece.clears is not None:
                return max(index, 1)
            if piece.settles is not self.settles or copied == MOST_COPIES:
                return index
            copied += piece.settles and piece.boundary
        return count

    @property
    def settles(self) -> bool:
        """It brings copies of keys, and nothing of the stream."""
        return bool(self.pieces) and self.pieces[0].settles

    @property
    def clears(self) -> int | None:
        """The database of the source that it empties, -1: all; None: it does not."""
        return self.pieces[0].clears if self.pieces else None

    @property
    def trims(self) -> frozenset[int] | None:
        """Slots of the source of which alone it removes keys; None: all."""
        return self.pieces[0].trims if self.pieces else None

    @property
    def mixed(self) -> bool:
        """A command inside turned out to name keys of ours; it is left out when it comes again, and until then nothing goes."""
        return any(piece.mixed for piece in self.pieces)

    @property
    def end_offset(self) -> int:
        """Replication offset of its last byte."""
        return self.pieces[-1].end_offset

    @property
    def db_after(self) -> int:
        """Database in effect behind it."""
        return self.pieces[-1].db if self.pieces else self.db

    @property
    def selected_after(self) -> int:
        """The database of the target that is selected then."""
        return self.pieces[-1].selected if self.pieces else self.selected

    @property
    def owes(self) -> str:
        """The keys that are owed then."""
        return self.pieces[-1].owed if self.pieces else self._owed

    @property
    def swaps(self) -> bool:
        """Databases are swapped inside."""
        return self._remains.swaps if self._remains else any(piece.swaps for piece in self.pieces)

    @property
    def data(self) -> list[bytes]:
        """The bytes of its commands."""
        return [self._remains.data] if self._remains else [piece.data for piece in self.pieces]

    def locate(self, numbers: list[int]) -> list[Culprit]:
        """Which commands these are, by number from 0 and in ascending order."""
        return locate(b"".join(self.data), self._offsets(), numbers, self.selected)

    def leave_out(self, numbers: list[int]) -> int:
        """Takes commands out, by number, and what else was made of the same command of the source.

        Args:
            numbers: in ascending order.

        Returns:
            How many it were of the source.
        """
        data, offsets = without(b"".join(self.data), self._offsets(), numbers)
        left = len(offsets) // 8
        gone, self.counts.commands = self.commands - left, left
        self._remains = Remains(data, offsets, self.swaps)
        self.counts.copied = max(0, self.counts.copied - len(numbers))
        del self.pieces[:-1]  # the last one tells where it ends
        self.size = len(data)
        return 0 if self.settles else gone

    def _offsets(self) -> bytes:
        return self._remains.offsets if self._remains else b"".join(piece.offsets for piece in self.pieces)


def locate(data: bytes, offsets: bytes, numbers: list[int], db: int) -> list[Culprit]:
    """Which commands these are.

    Args:
        data: whole commands.
        offsets: of each, as in `Piece`.
        numbers: which ones are wanted, from 0 and in ascending order.
        db: database in effect before the first.
    """
    of = memoryview(offsets).cast("Q")
    commands = find(data, numbers, db)
    return [
        Culprit(of[number], command.db, command.title, command.key)
        for number, command in zip(numbers, commands, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Frame:
    """What is put around a group inside its transaction.

    Attributes:
        head: commands before it.
        head_commands: how many.
        scripts: how many of them, at the beginning, are about scripts.
        tail: commands behind it; the last one writes the checkpoint.
        tail_commands: how many.
    """

    head: bytes
    head_commands: int
    tail: bytes
    tail_commands: int
    scripts: int = 0

    def behind(self, scripts: Sequence[bytes]) -> Frame:
        """The same with commands about scripts in front of it."""
        if not scripts:
            return self
        head = b"".join((*scripts, self.head))
        return replace(self, head=head, head_commands=self.head_commands + len(scripts), scripts=len(scripts))


def frame(checkpoint: bytes, *, before: int, after: int, clear: Sequence[str], restated: Sequence[bytes] = ()) -> Frame:
    """The frame of a group; the connection is in db 0 before and behind it.

    Args:
        checkpoint: DEL and HSET of it, as `Checkpoint.render` makes them.
        before: database in effect before the group; -1 when the group begins with a SELECT.
        after: database in effect behind it.
        clear: our keys, which are deleted first, so that SWAPDB inside takes no copy of them to another database.
        restated: what writes the others of our keys then.
    """
    head = [request("DEL", *clear)] if clear else []
    if before > 0:
        head.append(request("SELECT", before))
    tail = [*([request("SELECT", 0)] if after else ()), *restated]
    return Frame(b"".join(head), len(head), b"".join((*tail, checkpoint)), len(tail) + 2)
