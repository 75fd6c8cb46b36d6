"""The stream on its way: spool chunks through the splitter, pieces to the applier, and back again after a failure."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from portd.errors import SourceLost
from portd.feed.splitting import PIECE_BYTES, Splitting
from portd.kernel.stream import DEFAULT_MAX_ARGUMENT, Piece, StreamSplitter
from portd.spool import SpoolClosed
from portd.target.kept.postponed import Horizon

if TYPE_CHECKING:
    from portd.feed.border import SlotBorder
    from portd.feed.owed import OwedKeys
    from portd.model import StreamProgress
    from portd.spool import Chunk, Spool
    from portd.target.capabilities import StreamForms


class StreamFeed(Splitting):
    """Pieces of the stream in order, and the way back to any position that is not yet committed.

    Args:
        spool: holds the stream.
        progress: `decoded_offset` and `commands_read` are kept up to date.
        index: spool index of the first byte behind *offset*.
        offset: replication offset of the last byte before it.
        db: database in effect there, -1 when none is known.
        forms: which forms of commands the target knows.
        max_argument: largest argument the target takes, in bytes; a larger one stops the sync before it.
        horizon: which expiry times are postponed.
        copies: of keys that are owed to the target; None: there are none.
        owed: the keys that are owed behind *offset*, as `Piece.owed` told.
        border: where it waits for other shards of its source; None: it has none.
    """

    def __init__(
        self,
        spool: Spool,
        progress: StreamProgress,
        *,
        index: int,
        offset: int,
        db: int,
        forms: StreamForms,
        max_argument: int = DEFAULT_MAX_ARGUMENT,
        horizon: Horizon | None = None,
        copies: OwedKeys | None = None,
        owed: str = "",
        border: SlotBorder | None = None,
    ) -> None:
        self._copies = copies
        self._border = border
        self._horizon = horizon or Horizon(0)
        super().__init__(offset, db, forms, max_argument, owed)
        self._chunk_at = 0.0  # unix seconds; of the chunk that is being fed
        self.received_at = 0.0  # unix seconds; of the bytes the last piece ends with
        self._spool = spool
        self._progress = progress
        self._shift = index - offset  # spool index = offset + shift
        self._rest = memoryview(b"")  # of the chunk that is being fed
        self._chunk = (0, 0)  # offsets before its first byte, and of its last one
        self._held_since = (
            0.0  # unix time of the oldest byte that was read and is in no piece yet; 0 when there is none
        )
        self._counted = offset  # pieces up to here are in the counters: a rewind does not count them twice
        self._commands = progress.commands_settled  # behind the last piece handed out
        self._known = offset  # pieces up to here end where they ended before, and do not count again

    async def next_piece(self, max_bytes: int, max_commands: int) -> Piece | None:
        """The next piece, waiting for it; None when the stream has ended.

        Raises:
            DecodeError: the stream is corrupt.
            SpoolError: so is the spool.
        """
        while (piece := self.pending(max_bytes, max_commands)) is None:
            if self._border is not None and self._border.waits:
                await self._border.passed()
                continue
            try:
                chunk = await (self._spool.read() if self._copies is None else self._read_or_hear(self._copies))
            except SpoolClosed:
                return None
            if chunk is not None:
                self._begin_chunk(chunk)
        return piece

    async def _read_or_hear(self, copies: OwedKeys) -> Chunk | None:
        """The next chunk, or None when a copy of a key has come that may go on without one."""
        copies.changed.clear()
        if copies.waits:
            await copies.changed.wait()
            return None
        if not copies.expects:
            return await self._spool.read()
        reading = asyncio.create_task(self._spool.read(), name="spool")
        hearing = asyncio.create_task(copies.changed.wait(), name="copy")
        try:
            await asyncio.wait({reading, hearing}, return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        finally:
            reading.cancel()
            hearing.cancel()
            await asyncio.wait({reading, hearing})

    def pending(self, max_bytes: int, max_commands: int) -> Piece | None:
        """The next piece if the bytes that are in memory hold one."""
        horizon = self._horizon
        while True:
            if horizon.shift_ms:
                self._splitter.postpone(horizon.ms(), horizon.shift_ms)
            if self._copies is not None and (piece := self._copies.next_piece()) is not None:
                self.received_at = time.time()
                return piece
            piece = self._split(max_bytes, max_commands)
            if piece is not None:
                self.received_at = self._chunk_at
                self._note_out(piece.end_offset)
                if piece.overdue:
                    horizon.lag()
                if piece.end_offset > self._known:
                    self._commands += piece.replies + piece.filtered + piece.refused + (piece.clears is not None)
                self._progress.commands_read = max(self._progress.commands_read, self._commands)
                if piece.end_offset > self._counted:
                    self._progress.expiries_postponed += piece.postponed
                    self._progress.field_expiries_dropped += piece.lost
                    self._progress.stream_meta_dropped += piece.unrecorded
                    self._counted = piece.end_offset
                    self._progress.decoded_offset = piece.end_offset
                if self._copies is not None:
                    self._copies.look()
                return piece
            if (self._copies is not None and self._copies.waits) or (self._border is not None and self._border.waits):
                return None
            if self._rest:
                self._feed()
            elif (chunk := self._spool.read_nowait()) is not None:
                self._begin_chunk(chunk)
            else:
                return None

    @property
    def waiting_since(self) -> float:
        """Unix time at which the oldest byte was received that is in no piece yet, in the spool or here; 0 for none."""
        return self._held_since or self._spool.waiting_since

    def _note_out(self, offset: int) -> None:
        """A piece that ends at *offset* is handed out."""
        before, end = self._chunk
        if offset >= before:
            self._held_since = 0.0 if offset >= end else self._chunk_at

    def lag(self, since: float) -> None:
        """What comes next was held back since unix time *since*."""
        self._horizon.lag(since)

    def lagging(self) -> bool:
        """What is read now, the source wrote more than a moment ago, as far as can be seen."""
        if not self._rest and self._spool.cursor == self._spool.written:
            self._horizon.end()
        return self._horizon.since > 0

    def _begin_chunk(self, chunk: Chunk) -> None:
        self._rest = chunk.data
        self._chunk = chunk.start - self._shift, chunk.end - self._shift
        self._held_since = self._held_since or chunk.received_at
        self._chunk_at = chunk.received_at
        self._horizon.received(chunk.received_at)
        self._feed()

    def _feed(self) -> None:
        data, at = self._rest, self._chunk[1] - len(self._rest)
        if at < self._known:  # what is behind it is not in one piece with what is before
            data = data[: self._known - at]
        taken = self._splitter.feed(data, int(self._chunk_at * 1000))
        self._rest = self._rest[taken:]

    def rewind(self, offset: int, db: int, owed: str = "", copied_since: int = 0) -> None:
        """Goes back to behind *offset*, which is not before what was committed.

        Args:
            offset: replication offset.
            db: in effect there.
            owed: keys that are owed there.
            copied_since: parts of the target may be as far already: copies of keys from before that are no good.

        Raises:
            SourceLost: these bytes had to be let go of; the source has to send them again. Nothing has changed.
        """
        self._go_to(offset, db, owed, copied_since)
        self._commands = self._progress.commands_settled

    def reread(self, offset: int, db: int, owed: str = "", copied_since: int = 0) -> None:
        """Goes to behind *offset*, where more or less of what was handed out is behind it; raises as `rewind` does.

        That comes again in pieces that end where it ended, and is not counted again: a part of the target has it.
        """
        self._go_to(offset, db, owed, copied_since)
        self._known = self._counted

    def _go_to(self, offset: int, db: int, owed: str, copied_since: int) -> None:
        if offset + self._shift < self._spool.released:
            raise SourceLost(
                f"the stream behind offset {offset} is not held any more: a transaction was larger than the spool",
                hint="the source is asked for it again; a spool directory with room avoids that",
            )
        self._rest = memoryview(b"")
        self._held_since = 0.0
        self._spool.seek(offset + self._shift)
        self._copied_since = max(self._copied_since, copied_since)
        self._split_from(offset, db, owed)

    def release(self, offset: int, owed: str = "") -> None:
        """The target's checkpoint covers *offset*, with keys *owed*: bytes up to there are not needed again."""
        if self._mixed:
            self._mixed = frozenset(each for each in self._mixed if each > offset)
        if self._copies is not None:
            self._copies.release(offset, owed)
        self._spool.release(offset + self._shift)

    def owned_bytes(self) -> int:
        """Bytes the splitter holds."""
        held = self._copies.held_bytes if self._copies is not None else 0
        return self._splitter.statistics()["owned_bytes"] + held

    def _split_from(self, offset: int, db: int, owed: str = "") -> None:
        super()._split_from(offset, db, owed)
        if self._copies is not None:
            self._copies.begin(self._splitter, self._splitter_of_copies)

    def _splitter_of_copies(self) -> StreamSplitter:
        """What makes of a copy's commands what the target takes."""
        forms = self._forms.copy()
        forms["owes"] = forms["parted"] = forms["stops"] = False
        forms["border"] = None
        splitter = StreamSplitter(
            0, -1, piece_bytes=PIECE_BYTES, max_argument=self._max_argument, lacking=self._lacking, **forms
        )
        if self._horizon.shift_ms:
            splitter.postpone(self._horizon.ms(), self._horizon.shift_ms)
        return splitter

    def exclude(self, offset: int) -> None:
        """See `Splitting.exclude`."""
        super().exclude(offset)
        if self._copies is not None:
            self._copies.exclude(offset)
