"""The splitter of a feed, made anew each time the feed goes back, and what every next one has to leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.kernel.stream import DEFAULT_MAX_ARGUMENT, StreamSplitter

if TYPE_CHECKING:
    from portd.kernel.stream import Piece
    from portd.target.capabilities import StreamForms

PIECE_BYTES: Final = 256 * 1024


class Splitting:
    """Base of feeds of commands.

    Args:
        offset: replication offset that the first command stands behind.
        db: database in effect there, -1 when none is known.
        forms: which forms of commands the target knows.
        max_argument: largest argument the target takes, in bytes; a larger one is an error before it.
        owed: keys that are owed to the target there, as `Piece.owed` told.
    """

    def __init__(
        self, offset: int, db: int, forms: StreamForms, max_argument: int = DEFAULT_MAX_ARGUMENT, owed: str = ""
    ) -> None:
        self._forms = forms
        self._max_argument = max_argument
        self._lacking: frozenset[int] = frozenset()
        self._copied_since = 0  # copies of keys from before that offset are no good
        self._mixed: frozenset[int] = frozenset()  # offsets of commands that turned out to name keys of ours
        self._split_from(offset, db, owed)

    def _split_from(self, offset: int, db: int, owed: str = "") -> None:
        """Bytes that are fed from now on stand behind *offset*, with *db* in effect."""
        self._splitter = StreamSplitter(
            offset,
            db,
            piece_bytes=PIECE_BYTES,
            max_argument=self._max_argument,
            lacking=self._lacking,
            mixed=self._mixed,
            owed=owed,
            copied_since=self._copied_since,
            **self._forms,
        )

    def _split(self, max_bytes: int, max_commands: int) -> Piece | None:
        """The next piece if the bytes that were fed hold one."""
        piece = self._splitter.next_piece(max_bytes, max_commands)
        if piece is not None and piece.mixed:
            self._mixed |= {piece.mixed}
        return piece

    def change(self, forms: StreamForms) -> None:
        """Other rules; they take effect with the next `rewind`."""
        self._forms = forms

    def exclude(self, offset: int) -> None:
        """Leaves out the command that begins at *offset*, which is still to come; forgotten by `rewind`."""
        self._splitter.exclude(offset)

    def lack(self, databases: frozenset[int]) -> None:
        """The target does not have these; takes effect with the next `rewind`."""
        self._lacking |= databases
