"""Which keys are taken: by name, database, slot, and what is known of their values."""

from collections.abc import Iterable, Sequence
from typing import Final, Self, final

TYPES: Final[tuple[str, ...]]
REASONS: Final[tuple[str, ...]]

@final
class Patterns:
    """Prefixes, globs as KEYS has them, and regular expressions.

    Args:
        patterns: one that begins with ``re:`` is a regular expression as RE2 has it, and is looked for anywhere in the key; one
            with ``*``, ``?`` or ``[`` is a glob and must fit the whole key; any other one is a prefix. In a glob a backslash
            takes the meaning from what follows it; in a prefix it stands for itself.

    Raises:
        ConfigError: a regular expression cannot be read, or what reads them is not installed.
    """

    def __new__(cls, patterns: Sequence[bytes] = ()) -> Self: ...
    def matches(self, key: bytes) -> bool:
        """Whether one of them fits."""

@final
class Rules:
    """Which keys are taken; all where nothing is said.

    Args:
        taken: see `Patterns`. None: all.
        left: see `Patterns`; these win.
        types: of values, from `TYPES`; None: all.
        databases: of the source; None: all.
        without: databases of the source that are left out.
        slots: first and last of each range of slots; None: all.
        min_bytes: of the value in the snapshot.
        max_bytes: None: no limit. Sizes are known up to ``chunk_bytes``; beyond it a value is just larger.
        min_ttl_ms: of those that have an expiry; None: no limit.
        max_ttl_ms: the same; with it, those without an expiry are left out.

    Raises:
        ValueError: a type that does not exist.
        ConfigError: see `Patterns`.
    """

    def __new__(
        cls,
        taken: Sequence[bytes] = (),
        left: Sequence[bytes] = (),
        *,
        types: Iterable[str] | None = ...,
        databases: Iterable[int] | None = ...,
        without: Iterable[int] = ...,
        slots: Iterable[tuple[int, int]] | None = ...,
        min_bytes: int = ...,
        max_bytes: int | None = ...,
        min_ttl_ms: int | None = ...,
        max_ttl_ms: int | None = ...,
    ) -> Self: ...
    @property
    def sized(self) -> bool:
        """The size of a value is asked for."""
    @property
    def of_names(self) -> bool:
        """Some names or slots are not taken."""
    @property
    def of_databases(self) -> bool:
        """Some databases are not taken."""
    @property
    def of_values(self) -> bool:
        """Something is asked for that its name does not tell: type, size or time to live."""
    @property
    def whole_databases(self) -> bool:
        """Of a database that is taken, every key is."""
    def takes(self, key: bytes, db: int = 0) -> bool:
        """Whether a key is taken, by its name, slot and database."""
    def takes_database(self, db: int) -> bool:
        """Whether keys of a database of the source may be."""
