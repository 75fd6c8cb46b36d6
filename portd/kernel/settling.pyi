"""What a splitter owes to its target: keys whose values are to be copied at the source. ``owed.pyx`` says what that means."""

from typing import Self, final

from portd.kernel.stream import Piece, StreamSplitter

@final
class Settler:
    """Settles the owed keys of a splitter that was told that it may owe some.

    Args:
        splitter: it.
    """

    def __new__(cls, splitter: StreamSplitter) -> Self: ...
    def unanswered(self) -> tuple[tuple[int, bytes], ...]:
        """Owed keys, by database and name at the source, of which no copy was told."""
    @property
    def lacks(self) -> bool:
        """There are some."""
    def owes(self, key: tuple[int, bytes]) -> bool:
        """Whether a key is owed where the splitter stands."""
    def tell(self, key: tuple[int, bytes], offset: int | None = None) -> bool:
        """An owed key was copied when the source was at *offset*.

        Args:
            key: it.
            offset: None: nothing will be copied, and it need not be waited for.

        Returns:
            False if that is of no use: it is not owed, or something behind that offset was left out for it already.
        """
    def forget(self) -> None:
        """Nothing was told."""
    def hold(self, keys: frozenset[tuple[int, bytes]]) -> None:
        """For these, and none but these, nothing more is left out: ``next_piece`` has none where it would be, and `waits` is set."""
    @property
    def waits(self) -> bool:
        """A command that names a key which is held is next."""
    @property
    def offset(self) -> int:
        """Replication offset at which the splitter stands."""
    def due(self) -> tuple[tuple[int, bytes], ...]:
        """Owed keys that can be settled where the splitter stands; it takes nothing more that names a key before they are."""
    def settle(self, key: tuple[int, bytes], piece: Piece | None, number: int, last: bool) -> Piece:
        """Settles an owed key that is due, where a piece has a boundary.

        Args:
            key: it.
            piece: of another splitter, with what brings the copy or a part of it; it is changed to stand where this splitter
                does. None: the target is left as it is.
            last: the key is settled behind it; no checkpoint may stand behind one that is not the last.
            number: tells it from others that are settled at the same place: its commands get an offset so far before that. In a
                cluster it is -1: it stands behind everything else there.
        """
    def refuse(self, key: tuple[int, bytes], command: str, reason: str) -> Piece:
        """Settles an owed key of which no copy can be had: the piece tells it as a dead letter."""
