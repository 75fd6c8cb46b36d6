"""When the target has caught up: what is known about it, and what is not.

The applier knows what the link has received: all of that is applied, the spool's share included, but for what came within
the last second. What the source has written and not sent yet, nobody sees from here: it may be megabytes in the source's
output buffer, behind a snapshot or a narrow network. So the source is asked for its offset, and the target has caught up
when it reaches that within a second of being told. Where the source may not be asked (`+info`), the first half has to do; a
link that is down, or that waits for room in the spool, is no caught-up one there either. A source that does not answer has
told nothing, and is asked again until it does, or until the link is lost.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from portd.errors import SourceError
from portd.log import get_logger
from portd.net.backoff import Backoff
from portd.source.info import ask_offset

if TYPE_CHECKING:
    from portd.model import StreamProgress
    from portd.net.endpoint import Endpoint
    from portd.spool import Spool
    from portd.target.cluster.applier import ClusterApplier
    from portd.target.stream.applier import Applier

log = get_logger("sync")

ASK_SECONDS: Final = 5.0  # longest wait before a source that does not answer is asked again
FRESH_SECONDS: Final = 1.0  # an offset that was told longer ago says nothing about now


class CatchUp:
    """Waits for the target to catch up; see the module.

    Args:
        source: asked for its offset.
        spool: between the link and the applier.
        stream: offsets.
        applier: says what is applied.
        linked: set while the link is connected.
        relinked: set when it was made again: whoever set it asks anew.
    """

    def __init__(
        self,
        source: Endpoint,
        spool: Spool,
        stream: StreamProgress,
        applier: Applier | ClusterApplier,
        linked: asyncio.Event,
        relinked: asyncio.Event,
    ) -> None:
        self._source = source
        self._spool = spool
        self._stream = stream
        self._applier = applier
        self._linked = linked
        self._relinked = relinked

    async def wait(self) -> int | None:
        """Returns when the target has caught up: the source's offset of a moment ago, None where it is not told.

        It returns as well when the link was made again.
        """
        silent = Backoff(limit_seconds=ASK_SECONDS)
        while not self._relinked.is_set():
            await self._linked.wait()
            await self._applier.caught_up.wait()
            try:
                offset = await ask_offset(self._source)
            except SourceError as error:
                if not silent.attempts:
                    log.warning(
                        "the source does not answer: whether the target has caught up is not known", error=str(error)
                    )
                await self._pause(silent.next_wait())
                continue
            silent.reset()
            told_at = time.monotonic()
            if offset is None:
                if self._linked.is_set() and self._applier.caught_up.is_set() and not self._spool.full:
                    return None
                await self._reach(self._stream.read_offset)
                continue
            await self._reach(offset)
            fresh = time.monotonic() - told_at <= FRESH_SECONDS
            if fresh and self._linked.is_set() and not self._relinked.is_set():
                return offset
        return None

    async def _reach(self, offset: int) -> None:
        """Waits for an offset, until the link is made again: the server behind it may be another, that never comes there."""
        reached = asyncio.create_task(self._applier.reach(offset), name="source's offset")
        relinked = asyncio.create_task(self._relinked.wait(), name="link made again")
        try:
            await asyncio.wait({reached, relinked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reached.cancel()
            relinked.cancel()

    async def _pause(self, seconds: float) -> None:
        """Waits, unless the link is made again: whoever is behind it then is asked at once."""
        try:
            async with asyncio.timeout(seconds):
                await self._relinked.wait()
        except TimeoutError:
            return
