"""Keys counted instead of told: a line for each key, or a report about all of them."""

from typing import Any, Final, Self, final

from portd.kernel.handler import Handler

TTL_LIMITS: Final[tuple[int, ...]]
TYPE_NAMES: Final[tuple[str, ...]]

@final
class KeyHandler(Handler):
    """Writes one JSON object for each key; arguments as for `EventHandler`."""

    def __new__(cls, *, part_bytes: int = ..., chunk_bytes: int = ...) -> Self: ...

@final
class StatsHandler(Handler):
    """Counts keys by type, encoding, database, prefix and time to live, and remembers the biggest.

    Args:
        top: how many of the biggest keys are remembered, by bytes and by elements.
        separator: one byte; a key's prefix ends behind the first one. Another length: no prefixes.
    """

    def __new__(cls, *, top: int = ..., separator: bytes = ...) -> Self: ...
    def report(self) -> dict[str, Any]:
        """All that was counted.

        ``total`` and the values of ``types``, ``encodings``, ``databases``, ``prefixes`` are [keys, bytes, elements, keys
        that expire, bytes of memory in a server, estimated]; so are the buckets of ``expiries``: expired, up to each of `TTL_LIMITS` seconds but the first,
        longer, never. ``prefixes`` has b"" for keys without separator and None for those beyond the first 10,000
        prefixes. ``biggest`` and ``longest`` describe keys, by bytes and by elements.
        """
