"""Groups of pieces: what one transaction of the stream holds, and which command an error in it belongs to."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from portd.resp import request
from portd.target.checkpoint import LEASE_SUFFIX
from portd.target.epoch import EPOCH_SUFFIX
from portd.target.wire import split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.kernel.stream import Piece


class PieceSource(Protocol):
    """Where the applier takes the stream from; implemented over spool and splitter."""

    @property
    def received_at(self) -> float:
        """Unix time at which the last byte of the last piece handed out was received."""

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

    def rewind(self, offset: int, db: int) -> None:
        """Makes the next piece begin behind *offset* (not before what was committed), with *db* in effect."""

    def exclude(self, offset: int) -> None:
        """Leaves out the command that begins at *offset*, which is still to come. Told again after each `rewind`."""

    def release(self, offset: int) -> None:
        """The target's checkpoint covers *offset*: what is before it will not be asked for again."""


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


class Group:
    """Pieces that go into one transaction.

    Args:
        db: database in effect before the first piece; -1 when it is not known, the first command is a SELECT then.

    Attributes:
        size: bytes of the pieces.
        commands: commands that end in them.
        filtered: commands that were dropped on purpose between them.
        scripts: texts that may have to go in front of them.
        since: unix time at which the first piece was received.
        received_at: unix time at which the newest byte was received.
        taken_at: monotonic time at which the first piece was split off.
    """

    __slots__ = (
        "_received",
        "commands",
        "db",
        "filtered",
        "pieces",
        "received_at",
        "scripts",
        "since",
        "size",
        "taken_at",
    )

    def __init__(self, db: int) -> None:
        self.db = db
        self.pieces: list[Piece] = []
        self._received: list[float] = []  # when, for each piece
        self.size = 0
        self.commands = 0
        self.filtered = 0
        self.scripts = 0
        self.since = 0.0
        self.received_at = 0.0
        self.taken_at = 0.0

    def add(self, piece: Piece, received_at: float) -> None:
        """Appends a piece."""
        self.pieces.append(piece)
        self._received.append(received_at)
        self.size += len(piece.data)
        self.commands += piece.replies
        self.filtered += piece.filtered
        self.scripts += len(piece.digests) + len(piece.loaded)
        self.since = self.since or received_at
        self.taken_at = self.taken_at or time.monotonic()
        self.received_at = received_at

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
        count = count or len(self.pieces)
        first = Group(self.db)
        for piece, at in zip(self.pieces[:count], self._received[:count], strict=True):
            first.add(piece, at)
        rest = Group(first.db_after)
        for piece, at in zip(self.pieces[count:], self._received[count:], strict=True):
            rest.add(piece, at)
        first.taken_at = self.taken_at
        if rest.pieces:
            rest.taken_at = self.taken_at
        return first, rest

    @property
    def end_offset(self) -> int:
        """Replication offset of its last byte."""
        return self.pieces[-1].end_offset

    @property
    def db_after(self) -> int:
        """Database in effect behind it."""
        return self.pieces[-1].db if self.pieces else self.db

    @property
    def swaps(self) -> bool:
        """Databases are swapped inside."""
        return any(piece.swaps for piece in self.pieces)

    def locate(self, number: int) -> Culprit:
        """Which command the *number*-th one (from 0) is."""
        db, cut = self.db, b""
        for piece in self.pieces:
            if number < piece.replies:
                return locate(cut + piece.data, piece.offsets, number, db)
            number -= piece.replies
            cut = cut + piece.data if piece.part else b""
            db = piece.db
        raise IndexError(number)


def locate(data: bytes, offsets: bytes, number: int, db: int) -> Culprit:
    """Which command the *number*-th one (from 0) is.

    Args:
        data: whole commands.
        offsets: of each, as in `Piece`.
        number: which one is wanted.
        db: database in effect before the first.
    """
    (offset,) = struct.unpack_from("=Q", offsets, 8 * number)
    for index, command in enumerate(split(data)):
        if index == number:
            return Culprit(offset, db, command.title, command.key)
        if command.name == b"SELECT" and command.second.isdigit():
            db = int(command.second)
    raise IndexError(number)


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


def frame(
    key: str, checkpoint: bytes, *, before: int, after: int, clear: bool, restated: Sequence[bytes] = ()
) -> Frame:
    """The frame of a group; the connection is in db 0 before and behind it.

    Args:
        key: of the checkpoint.
        checkpoint: DEL and HSET of it, as `Checkpoint.render` makes them.
        before: database in effect before the group; -1 when the group begins with a SELECT.
        after: database in effect behind it.
        clear: delete our keys first, so that SWAPDB inside takes no copy of them to another database.
        restated: what writes the others of our keys then.
    """
    head = [request("DEL", key, key + LEASE_SUFFIX, key + EPOCH_SUFFIX)] if clear else []
    if before > 0:
        head.append(request("SELECT", before))
    tail = [*([request("SELECT", 0)] if after else ()), *restated]
    return Frame(b"".join(head), len(head), b"".join((*tail, checkpoint)), len(tail) + 2)
