"""What a target holds that is not portd's own: all of it, or what the keys of a link with rules can be."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from portd.net.control import keys_by_database, parse_info
from portd.target.kept.checkpoint import SCAN_COUNT, foreign_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from portd.config.rules import Choice
    from portd.net.control import Control

TURN_SECONDS: Final = 0.005  # looking at names for longer would keep ACKs, the lease and pages waiting


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
        found += len(await covered((name for name in names if not name.startswith(prefix)), partial(choice.covers, db)))
        if cursor == b"0":
            return found


async def covered(names: Iterable[bytes], covers: Callable[[bytes], bool]) -> list[bytes]:
    """Those of a page of SCAN that are covered; where many rules have to be looked at, others have their turn in between."""
    found, turn = [], time.perf_counter()
    for name in names:
        if covers(name):
            found.append(name)
        if time.perf_counter() - turn > TURN_SECONDS:
            await asyncio.sleep(0)
            turn = time.perf_counter()
    return found


def escaped(text: bytes) -> bytes:
    """A glob that fits only this."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^" else bytes([byte]) for byte in text)
