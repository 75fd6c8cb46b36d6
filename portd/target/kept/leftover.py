"""Keys that a link took before its rules became narrower: they stay in the target, and somebody should know of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portd.net.control import keys_by_database, parse_info
from portd.target.kept.checkpoint import SCAN_COUNT
from portd.target.kept.directory import Directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from portd.config.rules import Choice
    from portd.config.settings import Settings
    from portd.net.control import Control

NAMED: Final = 20  # keys that are told by name


@dataclass(slots=True)
class Leftover:
    """What stays.

    Attributes:
        count: keys; one that SCAN tells twice counts twice.
        named: some of them, by database and name.
    """

    count: int = 0
    named: list[tuple[int, bytes]] = field(default_factory=list)

    def add(self, db: int, name: bytes) -> None:
        """Takes one."""
        self.count += 1
        if len(self.named) < NAMED:
            self.named.append((db, name))


async def find_leftover(settings: Settings, before: Choice, now: Choice) -> Leftover:
    """Looks at every name in the target, of a cluster at every node, a second for about a million of them.

    Args:
        settings: of the link; keys of ours are none.
        before: which keys were taken.
        now: which still are.

    Raises:
        TargetError: it refuses, or cannot be reached.
    """
    found, own = Leftover(), settings.checkpoint_key.encode()
    async with Directory(settings, "looking for keys that are not taken any more") as there:
        async for _, client in there.nodes():
            async for db, name in _names(client):
                if not name.startswith(own) and before.covers(db, name) and not now.covers(db, name):
                    found.add(db, name)
    return found


async def _names(client: Control) -> AsyncIterator[tuple[int, bytes]]:
    """Databases and names of all keys of a server."""
    for db in keys_by_database(parse_info(await client.call("INFO", "keyspace"))):
        await client.call("SELECT", db)
        cursor = b"0"
        while True:
            cursor, names = await client.call("SCAN", cursor, "COUNT", SCAN_COUNT)
            for name in names:
                yield db, name
            if cursor == b"0":
                break
