"""Passing a transaction on that is too large to be held: its pieces go to the target as they come.

The transaction of ours that it goes into stays open until the last piece. Pieces are held until the target has queued
their commands, and no more than a limit of them; the next piece is taken when there is room.
"""

from __future__ import annotations

import asyncio
import bisect
import math
import struct
from functools import partial
from typing import TYPE_CHECKING

from portd.kernel.requests import head
from portd.net.replies import sort_out
from portd.target.stream.group import Counts, Culprit, locate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.kernel.replies import Note
    from portd.kernel.requests import Command
    from portd.kernel.stream import Piece
    from portd.target.connection import Connection


class Passage:
    """Pieces on their way into an open transaction.

    Args:
        connection: in a transaction.
        db: database in effect before the first piece.
        limit: bytes of pieces that are held at most, one piece more or less.

    Attributes:
        counts: of the commands sent so far, and of those left out between them.
        replies: queueing replies of them that are missing.
        incomplete: the target will never queue some of them: the transaction cannot be executed.
        trouble: a reply that says to try the whole transaction again later, "" when there is none.
        fatal: a reply after which nothing can go on, "" when there is none.
        db: database in effect behind the last piece.
    """

    def __init__(self, connection: Connection, db: int, limit: int) -> None:
        self.counts = Counts()
        self.replies = 0
        self.incomplete = False
        self.trouble = ""
        self.fatal = ""
        self.db = db
        self._connection = connection
        self._limit = limit
        self._held = 0  # bytes
        self._refused: list[tuple[Culprit, str]] = []  # that nobody has taken
        self._cutter = Cutter()
        self._db = db  # before the first piece
        self._numbers: list[int] = []  # of the first command that ends in a piece
        self._given: list[tuple[int, int]] = []  # commands of the pieces before, and how many of ours
        self._places: list[tuple[int, int]] = []  # its offset, and the database before it
        self._found: dict[int, Culprit] = {}
        self._changed = asyncio.Event()

    @property
    def failed(self) -> bool:
        """There is no use in sending the rest of it."""
        return bool(self.trouble or self.fatal)

    def send(self, piece: Piece) -> None:
        """Sends a piece; holds it until its commands are queued. Parts of a command bring no reply, and are not held."""
        cut = self._cutter.cut(piece)
        if piece.replies:
            self._numbers.append(self.counts.commands)
            self._places.append((struct.unpack_from("=Q", piece.offsets)[0], self.db))
            self.replies += piece.replies
            self._held += len(piece.data)
        self.counts.add(piece)
        self._connection.send([piece.data], piece.replies, partial(self._queued, piece, self.db, cut))
        self.db = piece.selected

    def give(self, scripts: Sequence[bytes]) -> None:
        """Sends commands about scripts in front of the next piece."""
        if scripts:
            self._given.append((self.counts.commands, len(scripts)))
            self.replies += len(scripts)
            self._connection.send(scripts, len(scripts), partial(self._gave, len(scripts)))

    def without_ours(self, errors: dict[int, str], head_commands: int) -> dict[int, str]:
        """Errors by number in the transaction, as if nothing had been given between; those of what was given are left out."""
        left: dict[int, str] = {}
        given, before = iter(self._given), 0
        begin, count = next(given, (math.inf, 0))
        for number, text in sorted(errors.items()):
            while number - head_commands >= begin + before + count:
                before += count
                begin, count = next(given, (math.inf, 0))
            if number - head_commands < begin + before:
                left[number - before] = text
        return left

    async def room(self) -> None:
        """Waits until another piece may be sent, or it is of no use any more."""
        while self._held > self._limit and not self.failed:
            await self._wait()
        await self._connection.drain()

    async def settled(self) -> None:
        """Waits until everything sent is queued, or it is of no use any more."""
        while self.replies and not self.failed:
            await self._wait()

    def take_refused(self) -> list[tuple[Culprit, str]]:
        """Commands that the target will never queue, with its replies; each is told once."""
        refused, self._refused = self._refused, []
        return refused

    def places(self, numbers: list[int]) -> list[Culprit]:
        """What and where commands are, by number: exactly where a search has found them, by their piece otherwise."""
        return [self._found.get(number) or self._rough(number) for number in numbers]

    def search(self, numbers: list[int]) -> Search:
        """Finds commands, by ascending number, when the pieces come by again; `places` knows then."""
        return Search(self._db, numbers, self._found)

    def _rough(self, number: int) -> Culprit:
        """Roughly where a command is: the pieces are gone, so it is told by the first one of its piece."""
        offset, db = self._places[bisect.bisect_right(self._numbers, number) - 1]
        return Culprit(offset, db, "in a large transaction", b"")

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _queued(self, piece: Piece, db: int, cut: Command | None, notes: Sequence[Note]) -> None:
        """The target has answered all commands that end in a piece."""
        self.replies -= piece.replies
        self._held -= len(piece.data)
        self._changed.set()
        refused = self._sort(notes)
        if refused:
            self.incomplete = True
            self._refused += zip(culprits(piece, sorted(refused), db, cut), refused.values(), strict=True)

    def _sort(self, notes: Sequence[Note]) -> dict[int, str]:
        """Keeps what stops us; returns what is refused for good."""
        found = sort_out({number: text or "nil" for number, _, text in notes})
        self.trouble = self.trouble or found.trouble
        self.fatal = self.fatal or found.fatal
        return found.refused

    def _gave(self, count: int, notes: Sequence[Note]) -> None:
        """The target has answered commands about scripts."""
        self.replies -= count
        self._changed.set()
        refused = self._sort(notes)
        self.fatal = self.fatal or next(iter(refused.values()), "")


class Cutter:
    """Knows the command whose parts pieces are."""

    def __init__(self) -> None:
        self._cut: Command | None = None

    def cut(self, piece: Piece) -> Command | None:
        """The command of which a piece is a part, as far as its first one told; None when it is of whole commands."""
        cut = self._cut
        if piece.part and cut is None:
            cut = self._cut = head(piece.data)
        elif not piece.part:
            self._cut = None
        return cut


class Search:
    """Finds commands of a passage in the pieces of its transaction, which may be other ones than before.

    Args:
        db: database in effect before the first piece.
        numbers: of the commands, ascending.
        found: what is found goes here, by number.
    """

    def __init__(self, db: int, numbers: list[int], found: dict[int, Culprit]) -> None:
        self._db = db
        self._numbers = numbers
        self._found = found
        self._cutter = Cutter()
        self._seen = 0  # commands
        self._next = 0  # of the numbers

    @property
    def over(self) -> bool:
        """There is nothing left to find."""
        return self._next == len(self._numbers)

    def look(self, piece: Piece) -> None:
        """Looks through the next piece."""
        cut = self._cutter.cut(piece)
        end = bisect.bisect_left(self._numbers, self._seen + piece.replies, self._next)
        wanted = self._numbers[self._next : end]
        if wanted:
            inner = [number - self._seen for number in wanted]
            self._found.update(zip(wanted, culprits(piece, inner, self._db, cut), strict=True))
        self._seen += piece.replies
        self._next = end
        self._db = piece.selected


def culprits(piece: Piece, numbers: list[int], db: int, cut: Command | None) -> list[Culprit]:
    """Which commands of a piece these are.

    Args:
        piece: of whole commands, or the last part of one.
        numbers: of the commands in it, ascending.
        db: database in effect before it.
        cut: the command of which it is a part.
    """
    if cut is None:
        return locate(piece.data, piece.offsets, numbers, db)
    of = memoryview(piece.offsets).cast("Q")
    return [Culprit(of[number], db, cut.title, cut.key) for number in numbers]
