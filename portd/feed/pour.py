"""Bytes of a snapshot into a decoder, and what it makes of them out of it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from portd.kernel.snapshot import SnapshotDecoder

TURN_SECONDS: Final = 0.001  # decoding longer than this without a pause would keep ACKs, replies and pages waiting


def pour(decoder: SnapshotDecoder, data: bytes | memoryview) -> Iterator[Any]:
    """Feeds *data* and hands on what is made of it: batches, or what a handler makes. Bytes behind the end are left."""
    rest = memoryview(data)
    while rest and not decoder.ended:
        rest = rest[decoder.feed(rest) :]
        while (made := decoder.next_output()) is not None:
            yield made


async def pour_into(put: Callable[[Any], Awaitable[None]], decoder: SnapshotDecoder, data: memoryview) -> None:
    """The same on an event loop: all that is made goes to *put*, and others have their turn in between."""
    turn = time.perf_counter()
    for made in pour(decoder, data):
        await put(made)
        if time.perf_counter() - turn > TURN_SECONDS:
            await asyncio.sleep(0)
            turn = time.perf_counter()
