"""Conflicts: keys that two links put into one target, noticed by a sample.

Nobody writes down which link wrote a key: that would cost every key something. What two links can both write is what both of
their sources have, under names and in databases that become the same. So some keys of one source, from a place chosen by chance,
are looked for in the other one, now and then, and those that are there are counted and named. What is never at both sources at
the same time is not seen, nor is a link of another process.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Final

from portd.config.rules import choice_of
from portd.errors import PortdError, printable
from portd.log import get_logger
from portd.model import Conflict
from portd.net.backoff import Backoff
from portd.net.control import Refused, checked, keys_by_database, open_control, parse_info
from portd.net.resp import request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.config.rules import Choice
    from portd.config.settings import Settings
    from portd.model import Progress
    from portd.net.control import Control

LOOK_SECONDS: Final = 60.0  # between two looks, and between two lines about the same links
SAMPLE: Final = 200  # keys of a source that are looked for in another one, in one look
HINT: Final = "the last one to write such a key wins; include, map_db or add_prefix keep the links apart"

log = get_logger("service")


@dataclass(frozen=True, slots=True)
class Writer:
    """A link as far as it matters here.

    Attributes:
        settings: of the link.
        progress: where conflicts are counted.
        choice: which keys it takes, and where they go.
    """

    settings: Settings
    progress: Progress
    choice: Choice

    @classmethod
    def of(cls, settings: Settings, progress: Progress) -> Writer:
        """A link that runs."""
        return cls(settings, progress, choice_of(settings, settings.checkpoint_key))


class Conflicts:
    """Looks for keys that several links of a process write.

    Args:
        writers: the links.

    Attributes:
        pairs: those that may write the same keys of the same target, in either order.
    """

    def __init__(self, writers: Sequence[Writer]) -> None:
        alone = [each for each in writers if each.settings.source_endpoint().seeds is None]  # shards may be many
        self.pairs = [(one, other) for one, other in permutations(alone, 2) if may_meet(one, other)]
        self._told: dict[tuple[str, str], float] = {}  # time.monotonic() of the last line
        for one, other in self.pairs:
            one.progress.conflicts[other.settings.link] = Conflict()

    async def keep(self) -> None:
        """Looks again and again until cancelled: soon at first, then once in `LOOK_SECONDS`."""
        backoff = Backoff(first_seconds=1.0, limit_seconds=LOOK_SECONDS, jitter=0.1)
        while True:
            await asyncio.sleep(backoff.next_wait())
            for one, other in self.pairs:
                if not (one.progress.ended or other.progress.ended):
                    await self.look(one, other)

    async def look(self, one: Writer, other: Writer) -> None:
        """Looks for some keys of *one* at the source of *other*; a source that does not let us changes nothing."""
        conflict = one.progress.conflicts[other.settings.link]
        try:
            looked, shared = await sample(one, other)
        except (OSError, PortdError, Refused) as error:
            if isinstance(error, Refused) and not conflict.error:  # that a source is away, its own link says
                log.warning(
                    "keys that two links write are not looked for", link=one.settings.link, other=other.settings.link,
                    error=str(error), hint="the users at both sources need +info +select +scan, and +exists on all keys",
                )  # fmt: skip
            conflict.error = str(error)
            return
        conflict.error = ""
        conflict.looked += looked
        conflict.found += len(shared)
        if not shared:
            return
        conflict.keys = tuple((db, printable(name)) for db, name in shared[:8])
        conflict.seen_at = time.time()
        pair, now = (one.settings.link, other.settings.link), time.monotonic()
        if now - self._told.get(pair, -LOOK_SECONDS) >= LOOK_SECONDS:
            self._told[pair] = now
            log.warning(
                "two links write the same keys", link=pair[0], other=pair[1], keys=[f"db {db} {name}" for db, name in conflict.keys],
                looked_at=looked, shared=len(shared), hint=HINT,
            )  # fmt: skip


def may_meet(one: Writer, other: Writer) -> bool:
    """Two links go to the same target, and a key can be both of theirs. Shards of one source cluster have slots of their own."""
    first, second = one.settings, other.settings
    return (
        first.target_endpoint().display == second.target_endpoint().display
        and first.source_endpoint().seeds is None
        and second.source_endpoint().seeds is None
        and one.choice.image.meets(other.choice.image)
    )


async def sample(one: Writer, other: Writer) -> tuple[int, list[tuple[int, bytes]]]:
    """Looks for some keys of *one* at the source of *other*.

    Returns:
        How many were looked for, and those that are there, by database and name in the target.

    Raises:
        OSError: a source cannot be reached.
        PortdError: one of its files of TLS cannot be read.
        Refused: it does not answer such questions.
    """
    async with open_control(one.settings.source_endpoint()) as client:
        taken = await _some_keys(client, one)
    if not taken:
        return 0, []
    async with open_control(other.settings.source_endpoint()) as client:
        return len(taken), await _present(client, other, taken)


async def _some_keys(client: Control, writer: Writer) -> list[tuple[int, bytes]]:
    """Keys of a source from places chosen by chance, as they are called in the target."""
    found: list[tuple[int, bytes]] = []
    choice, own = writer.choice, writer.settings.checkpoint_key.encode()
    databases = [db for db in keys_by_database(parse_info(await client.call("INFO", "keyspace"))) if takes(choice, db)]
    for db in databases:
        await client.call("SELECT", db)
        _, names = await client.call("SCAN", secrets.randbits(48), "COUNT", SAMPLE // len(databases) + 1)
        found += [
            choice.to_target(db, name)
            for name in names
            if not name.startswith(own) and (choice.rules is None or choice.rules.takes(name, db))
        ]
    return list(dict.fromkeys(found))[:SAMPLE]


def takes(choice: Choice, db: int) -> bool:
    """Keys of a database of the source are taken."""
    return db not in choice.blocked and (choice.rules is None or choice.rules.takes_database(db))


async def _present(client: Control, writer: Writer, keys: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Those of the target's keys that have an origin at a source."""
    used = keys_by_database(parse_info(await client.call("INFO", "keyspace")))
    origins: dict[int, list[tuple[bytes, tuple[int, bytes]]]] = {}  # by database of the source
    for key in keys:
        for db, name in writer.choice.origins(*key, used):
            if db in used:
                origins.setdefault(db, []).append((name, key))
    found = []
    for db, names in origins.items():
        await client.call("SELECT", db)
        answers = await client.ask(*(request("EXISTS", name) for name, _ in names))
        found += [key for (_, key), answer in zip(names, answers, strict=True) if checked(answer)]
    return list(dict.fromkeys(found))
