"""Batches of every kind of key, and writers that take them to a target."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from portd.errors import first_cause
from portd.kernel.batch import CLOSE, OPEN, ORDERED, SPREAD, Batch
from portd.model import Progress
from portd.net.endpoint import Endpoint
from portd.net.resp import request
from portd.pipeline import ByteBudget
from portd.target.connection import ConnectionOptions
from portd.target.deadletter import DeadLetters
from portd.target.kept.epoch import Epoch
from portd.target.kept.eviction import Eviction, tag_of
from portd.target.snapshot.writers import Writers
from portd.target.snapshot.writing import WriterOptions
from tests.fencing import KEY, fall, stand
from tests.servers import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

FAST = ConnectionOptions(retry_first_seconds=0.005, retry_limit_seconds=0.05)
FENCES = itertools.count(1)
LINK, TOKEN = "tests", "0123456789abcdef"  # of connections that an eviction ends


class Load:
    """Writers on a target, with what a test looks at.

    Attributes:
        eviction: how lost connections are ended; None makes everything go in transactions. Set by `mode`.
    """

    eviction: Eviction | None = Eviction(LINK, TOKEN)

    def __init__(self, url: str, *, at: str = "", budget: int = 1 << 22, stop: bool = False, **options: Any) -> None:
        self.progress = Progress()
        self.budget = ByteBudget(budget)
        self.letters = DeadLetters(self.progress, stop=stop)
        self.epoch = Epoch.of(KEY)
        self.direct = Endpoint.parse(at or url)  # where no proxy is in between
        self.writers = self.make(Endpoint.parse(url), **options)

    def make(self, endpoint: Endpoint, **options: Any) -> Writers:
        """Writers under the epoch of this load."""
        options = {"connection": FAST, "eviction": self.eviction, **options}
        options["connection"] = replace(options["connection"], tag=tag_of(LINK, TOKEN))
        wanted = WriterOptions(epoch=self.epoch, **options)
        return Writers(endpoint, self.budget, self.progress, self.letters, wanted)

    async def put(self, batches: Iterable[Batch]) -> None:
        """Puts batches as the decoder would."""
        for batch in batches:
            await self.writers.put(batch)


one_mode = pytest.mark.parametrize("mode", ["plain"], indirect=True)  # for what has nothing to do with it


@contextlib.asynccontextmanager
async def running(load: Load, seconds: float = PATIENCE_SECONDS) -> AsyncIterator[Load]:
    """Runs the writers; at the end everything must be acknowledged and nothing held."""
    await stand(load.direct, load.epoch)
    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            group.create_task(load.writers.run(), name="writers")
            yield load
            await load.writers.flush()
            load.writers.close()
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from errors
    await fall(load.direct, load.epoch)
    assert load.budget.used == 0
    assert load.writers.statistics().in_flight_bytes == (0,) * len(load.progress.lanes)


def whole(*commands: bytes, keys: int, db: int = 0) -> Batch:
    """A batch of whole keys."""
    return Batch(b"".join(commands), replies=len(commands), db=db, keys=keys)


def strings(count: int, *, batch: int = 50, size: int = 32, db: int = 0, prefix: str = "s") -> list[Batch]:
    """Batches of SETs whose values tell their keys."""
    return [
        whole(
            *(request("SET", f"{prefix}{i}", f"{i}".ljust(size, "x")) for i in range(start, min(count, start + batch))),
            keys=min(count, start + batch) - start,
            db=db,
        )
        for start in range(0, count, batch)
    ]


def chunks(words: list[bytes], per_command: int, per_batch: int) -> list[list[list[bytes]]]:
    """Batches of commands of words."""
    commands = [words[i : i + per_command] for i in range(0, len(words), per_command)]
    return [commands[i : i + per_batch] for i in range(0, len(commands), per_batch)]


def big_list(key: str, elements: list[bytes], *, db: int = 0, expire_ms: int = 0) -> list[Batch]:
    """A list as the decoder writes it: UNLINK, RPUSH chunks in order, the expiry."""
    fence = next(FENCES)
    name = key.encode()
    batches = [Batch(request("UNLINK", key), replies=1, db=db, kind=OPEN, fence=fence, key=name)]
    base = 0
    for group in chunks(elements, 20, 5):
        data = b"".join(request("RPUSH", key, *words) for words in group)
        batches.append(
            Batch(data, replies=len(group), db=db, kind=ORDERED, fence=fence, key=name, base=base, offset=base)
        )
        base += sum(map(len, group))
    close = request("PEXPIREAT", key, expire_ms) if expire_ms else b""
    batches.append(Batch(close, replies=bool(close), db=db, keys=1, kind=CLOSE, fence=fence, key=name))
    return batches


def big_set(key: str, members: list[bytes], *, db: int = 0, exists: bool = False) -> list[Batch]:
    """A set as the decoder writes it: UNLINK or EXISTS, SADD chunks that may go over any lane, an expiry."""
    fence = next(FENCES)
    name = key.encode()
    first = request("EXISTS" if exists else "UNLINK", key)
    batches = [Batch(first, replies=1, db=db, kind=OPEN, fence=fence, key=name)]
    for group in chunks(members, 20, 5):
        data = b"".join(request("SADD", key, *words) for words in group)
        batches.append(Batch(data, replies=len(group), db=db, kind=SPREAD, fence=fence, key=name))
    close = request("PEXPIREAT", key, 32503680000000)
    return [*batches, Batch(close, replies=1, db=db, keys=1, kind=CLOSE, fence=fence, key=name)]


def big_stream(key: str, entries: int) -> list[Batch]:
    """A stream with a group, as the decoder writes it."""
    fence = next(FENCES)
    name = key.encode()
    batches = [Batch(request("UNLINK", key), replies=1, db=0, kind=OPEN, fence=fence, key=name)]
    for start in range(1, entries + 1, 50):
        commands = [request("XADD", key, f"{i}-1", "n", i) for i in range(start, min(entries, start + 49) + 1)]
        batches.append(Batch(b"".join(commands), replies=len(commands), db=0, kind=ORDERED, fence=fence, key=name))
    tail = [request("XSETID", key, f"{entries}-5"), request("XGROUP", "CREATE", key, "g", "3-1")]
    tail += [request("XCLAIM", key, "g", "c", 0, "2-1", "FORCE", "JUSTID")]
    batches.append(Batch(b"".join(tail), replies=len(tail), db=0, kind=ORDERED, fence=fence, key=name))
    return [*batches, Batch(b"", replies=0, db=0, keys=1, kind=CLOSE, fence=fence, key=name)]


def in_parts(key: str, before: list[bytes], element: bytes, part: int = 1000) -> list[Batch]:
    """A list whose last element is sent in parts."""
    batches = big_list(key, before)
    fence, name = batches[0].fence, key.encode()
    data = request("RPUSH", key, element)
    pieces = [data[i : i + part] for i in range(0, len(data), part)]
    streamed = [
        Batch(
            piece,
            replies=int(piece is pieces[-1]),
            db=0,
            kind=ORDERED,
            fence=fence,
            key=name,
            base=len(before),
            part=piece is not pieces[-1],
        )
        for piece in pieces
    ]
    return [*batches[:-1], *streamed, batches[-1]]
