"""Rules at both ends of a comparison: each end is looked at as the target has it.

Keys of the source are chosen by the rules and called by their names in the target; keys of the target count as far as the
rules cover their names. What a rule asks of a value is asked of the source only: what else the target has is not judged then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portd.feed.choosing import choose
from portd.kernel.rules import Rules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portd.config.rules import Choice
    from portd.kernel.snapshot import SnapshotDecoder
    from portd.net.topology import Ranges
    from portd.verify.live import NamedKey


class SourceEnd:
    """The source.

    Args:
        choice: the rules; of a part of it, with the slots of that part among them.
        own: what names of ours alone begin with.
        by_node: see there.

    Attributes:
        used: databases that hold keys.
        by_node: nothing but a node's slots is left out: what is left out is none of its keys.
    """

    def __init__(self, choice: Choice, own: bytes, *, by_node: bool = False) -> None:
        self._choice = choice
        self._own = own
        self.by_node = by_node
        self.used: list[int] = []

    def choose(self, decoder: SnapshotDecoder) -> None:
        """Lets a fresh decoder tell what counts, as it is called in the target."""
        choose(decoder, self._choice, own=self._own)

    def taken(self, db: int, names: list[bytes]) -> list[bytes]:
        """Those of a database that may count."""
        choice = self._choice
        if db in choice.blocked:
            return []
        return names if choice.rules is None else [name for name in names if choice.rules.takes(name, db)]

    def here(self, keys: Iterable[NamedKey]) -> list[NamedKey]:
        """What keys of the target are called here; those that cannot come from here are left out."""
        if not self._choice:
            return list(keys)
        return [found for key in keys for found in self._choice.origins(*key, self.used)]

    def there(self, keys: Iterable[NamedKey]) -> set[NamedKey]:
        """What keys of this end are called in the target."""
        return {self._choice.to_target(*key) for key in keys}


class TargetEnd:
    """The target.

    Args:
        choice: the rules.
        slots: of a part of it: others are not its own.

    Attributes:
        by_node: see `SourceEnd`.
    """

    def __init__(self, choice: Choice, slots: Ranges | None = None) -> None:
        self._choice = choice
        self._slots = None if slots is None else Rules(slots=slots)
        self.by_node = slots is not None and not choice

    def choose(self, decoder: SnapshotDecoder) -> None:
        """Lets a fresh decoder tell what counts."""
        if self._choice:
            decoder.cover(self._covers)
        elif self._slots is not None:
            decoder.choose(self._slots)

    def taken(self, db: int, names: list[bytes]) -> list[bytes]:
        """Those of a database that may count."""
        return [name for name in names if self._covers(db, name)] if self._choice or self._slots else names

    def _covers(self, db: int, name: bytes) -> bool:
        return (self._slots is None or self._slots.takes(name, db)) and self._choice.covers(db, name)

    def here(self, keys: Iterable[NamedKey]) -> list[NamedKey]:
        """What keys of the target are called here."""
        return list(keys)

    def there(self, keys: Iterable[NamedKey]) -> set[NamedKey]:
        """What keys of this end are called in the target."""
        return set(keys)


End = SourceEnd | TargetEnd
