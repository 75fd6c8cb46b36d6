"""Which keys the commands of a stream may change: their names, without doing anything to them."""

from typing import Self, final

from portd.kernel.keyspecs import KeySpecs

@final
class Touched:
    """Collects names of keys from pieces of a stream, each once, until they are taken.

    A name is the number of its database as four bytes, little end first, and the key behind it.

    Args:
        keys: where the keys of commands stand; None: only what is known of all servers.
        most: names that are held; what is more is not noted, and `lost` says so.

    Attributes:
        writes: commands that may change something, since the beginning.
        removals: of them, those that only remove: as servers say that something has expired or was evicted.
        everything: a command was there that concerns all keys of a database: FLUSHALL, FLUSHDB, SWAPDB.
        functions: function libraries were changed.
        lost: there were more names than are held, or a command larger than a piece names keys behind its beginning.
        unknown: names of commands of whose keys nobody knows; a few at the most.
    """

    writes: int
    removals: int
    everything: bool
    functions: bool
    lost: bool
    unknown: set[bytes]

    def __new__(cls, keys: KeySpecs | None = None, most: int = ...) -> Self: ...
    def note(self, data: bytes, db: int, part: bool = ...) -> int:
        """Looks at the commands of a piece, in their order.

        Args:
            data: as in `portd.kernel.stream.Piece`.
            db: that is selected where it begins.
            part: likewise.

        Returns:
            The database that is selected behind it.

        Raises:
            InternalError: the data is no commands.
        """
    @property
    def count(self) -> int:
        """Names that are held."""
    def take(self) -> set[bytes]:
        """The names, which are forgotten here."""
