"""Passing a transaction on that is too large to be held: its pieces go to the target as they come.

The transaction of ours that it goes into stays open until the last piece. Pieces are held until the target has queued
their commands, and no more than a limit of them; the next piece is taken when there is room.
"""

from __future__ import annotations

import asyncio
import bisect
import struct
from functools import partial
from typing import TYPE_CHECKING

from portd.target.group import Culprit, locate
from portd.target.replies import Verdict, classify
from portd.target.wire import head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.kernel.replies import Note
    from portd.kernel.stream import Piece
    from portd.target.connection import Connection
    from portd.target.wire import Command


class Passage:
    """Pieces on their way into an open transaction.

    Args:
        connection: in a transaction.
        db: database in effect before the first piece.
        limit: bytes of pieces that are held at most, one piece more or less.

    Attributes:
        commands: sent so far.
        filtered: dropped on purpose between them.
        replies: queueing replies of them that are missing.
        refused: commands that the target will never queue.
        trouble: a reply that says to try the whole transaction again later, "" when there is none.
        fatal: a reply after which nothing can go on, "" when there is none.
        db: database in effect behind the last piece.
        given: commands of ours between them.
    """

    def __init__(self, connection: Connection, db: int, limit: int) -> None:
        self.commands = 0
        self.filtered = 0
        self.given = 0
        self.replies = 0
        self.refused: list[tuple[Culprit, str]] = []
        self.trouble = ""
        self.fatal = ""
        self.db = db
        self._connection = connection
        self._limit = limit
        self._held = 0  # bytes
        self._cut: Command | None = None  # the command whose parts are being passed on
        self._numbers: list[int] = []  # of the first command that ends in a piece
        self._places: list[tuple[int, int]] = []  # its offset, and the database before it
        self._changed = asyncio.Event()

    @property
    def failed(self) -> bool:
        """The transaction cannot be executed any more."""
        return bool(self.refused or self.trouble or self.fatal)

    def send(self, piece: Piece) -> None:
        """Sends a piece; holds it until its commands are queued. Parts of a command bring no reply, and are not held."""
        cut = self._cut
        if piece.part and cut is None:
            cut = self._cut = head(piece.data)
        elif not piece.part:
            self._cut = None
        self.filtered += piece.filtered
        if piece.replies:
            self._numbers.append(self.sent)
            self._places.append((struct.unpack_from("=Q", piece.offsets)[0], self.db))
            self.commands += piece.replies
            self.replies += piece.replies
            self._held += len(piece.data)
        self._connection.send([piece.data], piece.replies, partial(self._queued, piece, self.db, cut))
        self.db = piece.db

    @property
    def sent(self) -> int:
        """Commands sent so far, ours among them."""
        return self.commands + self.given

    def give(self, scripts: Sequence[bytes], offset: int) -> None:
        """Sends commands about scripts, in front of the piece behind *offset*."""
        if scripts:
            self._numbers.append(self.sent)
            self._places.append((offset, self.db))
            self.given += len(scripts)
            self.replies += len(scripts)
            self._connection.send(scripts, len(scripts), partial(self._gave, len(scripts)))

    async def room(self) -> None:
        """Waits until another piece may be sent, or it is of no use any more."""
        while self._held > self._limit and not self.failed:
            await self._wait()
        await self._connection.drain()

    async def settled(self) -> None:
        """Waits until everything sent is queued, or it is of no use any more."""
        while self.replies and not self.failed:
            await self._wait()

    def place(self, number: int) -> Culprit:
        """Roughly where the *number*-th command is: the pieces are gone, so it is told by the first one of its piece."""
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
        for number, _, text in notes:
            verdict = classify(text or "nil")
            if verdict is Verdict.RETRY:
                self.trouble = self.trouble or text or "nil"
            elif verdict is Verdict.FATAL:
                self.fatal = self.fatal or text or "nil"
            else:
                self.refused.append((self._culprit(piece, number, db, cut), text or "nil"))

    def _gave(self, count: int, notes: Sequence[Note]) -> None:
        """The target has answered commands about scripts."""
        self.replies -= count
        self._changed.set()
        for _, _, text in notes:
            if classify(text or "nil") is Verdict.RETRY:
                self.trouble = self.trouble or text or "nil"
            else:
                self.fatal = self.fatal or text or "nil"

    @staticmethod
    def _culprit(piece: Piece, number: int, db: int, cut: Command | None) -> Culprit:
        if cut is None:
            return locate(piece.data, piece.offsets, number, db)
        (offset,) = struct.unpack_from("=Q", piece.offsets, 8 * number)
        return Culprit(offset, db, cut.title, cut.key)
