"""A look at the beginning of a snapshot before anything of it is written: whose data is this?

What the source says of itself may be little (a user without +info), or leave a doubt (another process with another history
at the address that was followed). The snapshot's first keys, a random choice by the order of a hash table, are in the spool
by then: the target is asked how many of them it has. Then the snapshot is read again from its beginning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import hiredis

from portd.config.rules import Choice
from portd.config.settings import MIN_CHUNK_BYTES
from portd.feed.choosing import choose
from portd.feed.pour import pour
from portd.hold import Sample
from portd.kernel.keyspecs import KNOWN
from portd.kernel.slots import key_slot
from portd.kernel.snapshot import SnapshotDecoder
from portd.net.resp import request
from portd.target.control import control, unmapped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portd.kernel.batch import Batch
    from portd.kernel.snapshot import Dialect
    from portd.net.endpoint import Endpoint
    from portd.spool import Spool

NAMES: Final = 500  # as many keys are looked for
BYTES: Final = 256 * 1024  # of the snapshot that are read for them, and a chunk more


class Glimpse:
    """Reads the beginning of a snapshot, and lets the spool go back.

    Args:
        spool: holds the snapshot from index 0 on; nothing of it was released.
        dialect: of the target.
        most_bytes: of the spool that may be held.
        choice: which keys are looked for, and where.
    """

    def __init__(self, spool: Spool, dialect: Dialect, most_bytes: int, choice: Choice | None = None) -> None:
        self._spool = spool
        self._decoder = SnapshotDecoder(
            dialect, chunk_bytes=MIN_CHUNK_BYTES, batch_bytes=MIN_CHUNK_BYTES, verify_checksum=False
        )
        self._chosen = bool(choice)
        choose(self._decoder, choice or Choice())
        self._most_bytes = min(BYTES, most_bytes)
        self._names: dict[int, dict[bytes, None]] = {}  # in order, once each

    async def read(self, target: Endpoint) -> Sample:
        """What the beginning tells.

        Args:
            target: is asked for the keys.

        Raises:
            DecodeError: corrupt bytes.
            SourceLost: the spool ended before the snapshot did.
            TargetError: the target refuses, or cannot be reached.
        """
        decoder = self._decoder
        while not decoder.ended and self._count < NAMES and decoder.offset < self._most_bytes:
            data = (await self._spool.read()).data
            for batch in pour(decoder, data):
                self._names.setdefault(batch.db, {}).update(dict.fromkeys(names(batch)))
                if self._count >= NAMES:
                    break
        self._spool.seek(0)
        counters = decoder.statistics()
        taken = counters["keys"] - counters["keys_filtered"]
        keys = taken if decoder.ended or self._chosen else max(taken, counters["keys_announced"])
        there = await self._ask(target)
        return Sample(keys=keys, whole=decoder.ended, looked_for=self._count, there=there)

    @property
    def _count(self) -> int:
        return sum(map(len, self._names.values()))

    async def _ask(self, target: Endpoint) -> int:
        """How many of the names the target has; of a cluster, each is looked for at the node that has its slot."""
        if target.seeds is None:
            return sum([await _count(target, db, found) for db, found in self._names.items() if found])
        try:
            topology = await target.seeds.read(target.entrance)
        except OSError as error:
            raise unmapped(error) from None
        by_node: dict[tuple[str, int], list[bytes]] = {}
        for name in self._names.get(0, {}):
            if (node := topology.owner(key_slot(name))) is not None:
                by_node.setdefault((node.host, node.port), []).append(name)
        return sum(
            [
                await _count(replace(target, host=host, port=port, seeds=None), 0, found)
                for (host, port), found in by_node.items()
            ]
        )


async def _count(server: Endpoint, db: int, found: Iterable[bytes]) -> int:
    """How many of some names a server has."""
    async with control(server, "looking for keys of the snapshot") as client:
        answers = await client.ask(request("SELECT", db), *(request("EXISTS", name) for name in found))
        if isinstance(answers[0], hiredis.ReplyError):  # the target lacks the database
            return 0
        return sum(answer for answer in answers[1:] if isinstance(answer, int))


def names(batch: Batch) -> list[bytes]:
    """The keys that a batch writes."""
    if batch.fence:
        return [batch.key]
    reader = hiredis.Reader()
    reader.feed(batch.data)
    found: list[bytes] = []
    while isinstance(words := reader.gets(), list):
        found += [words[index] for index, _ in KNOWN.places(words) or ()]
    return found
