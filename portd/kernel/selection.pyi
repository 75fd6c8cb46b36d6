"""Which values somebody wants to see: by type, key, database and size."""

from collections.abc import Iterable
from typing import Final, final

TYPES: Final[tuple[str, ...]]
DEFAULT_TYPES: Final[tuple[str, ...]]

@final
class Selection:
    """What a decoder tells an `EventHandler` and its like; everything else is stepped over and counted.

    Args:
        types: of values, as TYPE names them; ``module``, ``array``, ``other``, ``function`` and ``aux`` (fields of the
            file itself) as well.
        patterns: globs as KEYS takes them; a key that matches one is wanted. None given: all keys.
        databases: none given: all.
        min_bytes: of the value in the snapshot.
        max_bytes: None: no limit. Sizes are known up to ``chunk_bytes``; beyond it a value is just larger.

    Raises:
        ValueError: a type that does not exist.
    """

    def __init__(
        self,
        *,
        types: Iterable[str] = ...,
        patterns: Iterable[bytes] = ...,
        databases: Iterable[int] = ...,
        min_bytes: int = ...,
        max_bytes: int | None = ...,
    ) -> None: ...
    @property
    def min_bytes(self) -> int: ...
    @property
    def max_bytes(self) -> int: ...
    @property
    def sized(self) -> bool: ...
