"""Under which names and in which databases things are written."""

from collections.abc import Mapping as Mappings
from typing import Self, final

@final
class Mapping:
    """Beginnings of keys that are swapped, and databases that have another number.

    Args:
        renamed: beginnings of keys, and what comes instead. Of several that fit, the longest counts; an empty one fits all.
        added: put in front of every key, behind that.
        databases: of the source, and which one of the target each is written to; others keep their number.
        all_to: all databases are written to this one; not together with *databases*.
        own: what names of ours alone begin with.

    Raises:
        ValueError: databases that cannot be, or *databases* and *all_to* together, or a swap that makes names of ours.
    """

    def __new__(
        cls,
        renamed: Mappings[bytes, bytes] | None = None,
        *,
        added: bytes = b"",
        databases: Mappings[int, int] | None = None,
        all_to: int | None = None,
        own: bytes = b"",
    ) -> Self: ...
    @property
    def names(self) -> bool:
        """Some keys are given another name."""
    @property
    def databases(self) -> bool:
        """Some databases are given another number."""
    def renamed(self, key: bytes) -> bytes:
        """The name of a key in the target."""
    def origins(self, key: bytes) -> list[bytes]:
        """All names of the source that become this one of the target; which of them are taken, rules say."""
    def origin(self, key: bytes) -> bytes | None:
        """The only name that becomes this one of the target; None where there is none, or several do."""
    def reserved(self, key: bytes) -> bool:
        """Whether the name of a key of the source would be one of ours: it may not be written."""
    def database_of(self, db: int) -> int:
        """The number of a database in the target; -1, that of none, stays."""
    def databases_to(self, db: int) -> tuple[int, ...] | None:
        """The databases of the source that are written to this one; None: all of them, however many there are."""
    def shared(self) -> dict[int, tuple[int, ...]]:
        """Databases of the target that several of the source are written to; none where all go to one, as somebody asked."""
    def image(self) -> tuple[bytes, ...]:
        """Beginnings of all names that can arise, ascending; an empty one stands for all."""
