"""When the target has caught up: what is known about it, and what is not.

The applier knows what the link has received: all of that is applied, the spool's share included, but for what came within
the last second. What the source has written and not sent yet, nobody sees from here: it may be megabytes in the source's
output buffer, behind a snapshot or a narrow network. So the source is asked for its offset, and the target has caught up
when it reaches that within a second of being told. Where the source may not be asked (`+info`), the first half has to do; a link that is
down, or that waits for room in the spool, is no caught-up one there either.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from portd.source.info import ask_info

if TYPE_CHECKING:
    import asyncio

    from portd.model import StreamProgress
    from portd.net.endpoint import Endpoint
    from portd.spool import Spool
    from portd.target.stream.applier import Applier

FRESH_SECONDS: Final = 1.0  # an offset that was told longer ago says nothing about now


class CatchUp:
    """Waits for the target to catch up; see the module.

    Args:
        source: asked for its offset.
        spool: between the link and the applier.
        stream: offsets.
        applier: says what is applied.
        linked: set while the link is connected.
    """

    def __init__(
        self, source: Endpoint, spool: Spool, stream: StreamProgress, applier: Applier, linked: asyncio.Event
    ) -> None:
        self._source = source
        self._spool = spool
        self._stream = stream
        self._applier = applier
        self._linked = linked

    async def wait(self) -> int | None:
        """Returns when the target has caught up: the source's offset of a moment ago, None where it is not told."""
        while True:
            await self._linked.wait()
            await self._applier.caught_up.wait()
            offset = await self._ask()
            told_at = time.monotonic()
            if offset is None:
                if self._linked.is_set() and self._applier.caught_up.is_set() and not self._spool.full:
                    return None
                await self._applier.reach(self._stream.read_offset)
                continue
            await self._applier.reach(offset)
            if self._linked.is_set() and time.monotonic() - told_at <= FRESH_SECONDS:
                return offset

    async def _ask(self) -> int | None:
        told = (await ask_info(self._source, "replication")).get("master_repl_offset", "")
        return int(told) if told.isdecimal() else None
