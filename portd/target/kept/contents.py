"""What a target holds that is not portd's own: all of it, or what the keys of a link with rules can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portd.net.control import keys_by_database, parse_info
from portd.target.kept.checkpoint import SCAN_COUNT, foreign_keys

if TYPE_CHECKING:
    from portd.config.rules import Choice
    from portd.net.control import Control


async def keys_there(client: Control, prefix: str, key: str, choice: Choice | None) -> dict[int, int]:
    """Keys of the target that are not portd's, by database.

    Args:
        client: speaks to the target, and is in any of its databases behind it.
        prefix: of checkpoint keys.
        key: our checkpoint.
        choice: only keys that it covers count, for which every name is looked at; None, or one without rules: all do.
    """
    if not choice:
        return await foreign_keys(client, prefix, key)
    found: dict[int, int] = {}
    databases = keys_by_database(parse_info(await client.call("INFO", "keyspace")))
    for db in databases:
        if choice.image.databases is None or db in choice.image.databases:
            count = await _covered(client, db, prefix.encode(), choice)
            if count:
                found[db] = count
    await client.call("SELECT", 0)
    return found


async def _covered(client: Control, db: int, prefix: bytes, choice: Choice) -> int:
    """Keys of a database that are covered; one that SCAN tells twice counts twice."""
    await client.call("SELECT", db)
    found, cursor = 0, b"0"
    prefixes = choice.image.prefixes
    match = ("MATCH", escaped(prefixes[0]) + b"*") if len(prefixes) == 1 and prefixes[0] else ()
    while True:
        cursor, names = await client.call("SCAN", cursor, *match, "COUNT", SCAN_COUNT)
        found += sum(not name.startswith(prefix) and choice.covers(db, name) for name in names)
        if cursor == b"0":
            return found


def escaped(text: bytes) -> bytes:
    """A glob that fits only this."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^" else bytes([byte]) for byte in text)
