"""Commands in files on their way to the applier: an append-only file, or a recorded stream."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from portd.errors import DecodeError, TargetLost
from portd.feed.splitting import Splitting
from portd.files.inputs import STDIN, Input, open_input
from portd.kernel.annotations import AnnotationFilter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.kernel.stream import Piece
    from portd.model import StreamProgress
    from portd.target.capabilities import StreamForms


class FileFeed(Splitting):
    """Pieces of the commands in some files, one file after the other; a `portd.target.stream.group.PieceSource`.

    Going back after a failure reads the files again from their beginning.

    Args:
        paths: the files.
        skip: bytes of the first one that are no commands: the snapshot in front of them.
        opened: the first file, read up to there, and what was read behind; None opens it.
        progress: counters.
        forms: which forms of commands the target knows.
        offset: position that the first command stands at.
        db: database in effect there.
    """

    def __init__(
        self,
        paths: Sequence[str],
        progress: StreamProgress,
        forms: StreamForms,
        *,
        skip: int = 0,
        opened: tuple[Input, bytes] | None = None,
        offset: int = 0,
        db: int = 0,
    ) -> None:
        super().__init__(offset, db, forms)
        self.received_at = time.time()
        self.waiting_since = 0.0  # nobody writes to a file meanwhile
        self.size: int | None = None  # bytes of commands, known at the end
        self._paths = list(paths)
        self._progress = progress
        self._skip = skip
        self._begin_offset = offset
        self._counted = offset
        self._fresh = True  # nothing was handed out since the beginning
        self._number = 0  # of the next file to open
        self._read = 0  # bytes of commands read
        self._input: Input | None = None
        self._filter = AnnotationFilter()  # of the file in progress
        self._rest = memoryview(b"")
        if opened is not None:
            self._input, rest = opened
            self._number = 1
            rest = self._filter.feed(rest)
            self._rest = memoryview(rest)
            self._read = len(rest)

    async def next_piece(self, max_bytes: int, max_commands: int) -> Piece | None:
        """The next piece; None at the end of the last file.

        Raises:
            DecodeError: what is in the files are not commands.
            InputError: a file cannot be read.
        """
        while (piece := self.pending(max_bytes, max_commands)) is None:
            data = await asyncio.to_thread(self._next_bytes)
            if not data:
                self.size = self._read
                return None
            self._rest = data
        return piece

    def pending(self, max_bytes: int, max_commands: int) -> Piece | None:
        """The next piece if the bytes read so far hold one."""
        while True:
            piece = self._split(max_bytes, max_commands)
            if piece is not None:
                self._fresh = False
                if piece.end_offset > self._counted:
                    self._counted = piece.end_offset
                    self._progress.read_offset = self._progress.decoded_offset = piece.end_offset
                    self._progress.commands_read += piece.replies + piece.filtered + piece.refused
                    self._progress.field_expiries_dropped += piece.lost
                    self._progress.stream_meta_dropped += piece.unrecorded
                return piece
            if not self._rest:
                return None
            self.received_at = time.time()
            self._rest = self._rest[self._splitter.feed(self._rest, int(self.received_at * 1000)) :]

    def _next_bytes(self) -> memoryview:
        """The next bytes of commands; empty behind the last file."""
        while True:
            if self._input is None:
                if self._number == len(self._paths):
                    return memoryview(b"")
                self._input = open_input(self._paths[self._number])
                self._number += 1
                self._filter = AnnotationFilter()
                skip = self._skip if self._number == 1 else 0
                data = self._skipped(skip) if skip else self._input.read()
            else:
                data = self._input.read()
            ends = not data
            data = memoryview(self._filter.rest() if ends else self._filter.feed(data))
            if ends:
                self._input.close()
                self._input = None
            if data:
                self._read += len(data)
                return data

    def _skipped(self, count: int) -> memoryview:
        assert self._input is not None
        while data := self._input.read():
            if len(data) > count:
                return data[count:]
            count -= len(data)
        return data

    def rewind(self, offset: int, db: int, owed: str = "") -> None:
        """Goes back to behind *offset*; nothing is *owed* there, for there is no source that could be asked.

        Raises:
            TargetLost: what was read from a pipe cannot be read again.
            DecodeError: a file is shorter than it was.
        """
        if self._fresh and offset == self._begin_offset:
            return
        if STDIN in self._paths:
            raise TargetLost(
                "the target was lost, and what standard input brought cannot be read again",
                hint="write it to a file first, and restore that",
            )
        self.close()
        self._number = self._read = 0
        self._rest = memoryview(b"")
        left = offset - self._begin_offset
        while left:
            data = self._next_bytes()
            if not data:
                raise DecodeError(
                    "the commands end before the place the target is at: the file was changed", offset=offset
                )
            self._rest = data[left:] if len(data) > left else memoryview(b"")
            left -= min(left, len(data))
        self._split_from(offset, db, owed)

    def release(self, offset: int, owed: str = "") -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Closes the file in progress; idempotent."""
        if self._input is not None:
            self._input.close()
            self._input = None
