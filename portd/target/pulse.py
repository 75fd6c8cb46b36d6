"""The pulse: what the target says of its memory while it is written to, and how long it takes to say it.

One small question every few seconds, over a connection of its own, so that a target which is slow for everybody shows as
such, and one that fills up shows before it refuses. What it does not tell is not known, and neither is anything while it is
away.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from portd.errors import TargetError
from portd.log import get_logger
from portd.net.backoff import Backoff
from portd.net.control import parse_info
from portd.net.shapes import whole
from portd.target.control import control

if TYPE_CHECKING:
    from portd.model import Progress
    from portd.net.control import Control
    from portd.net.endpoint import Endpoint

ASK_SECONDS: Final = 3.0

_log = get_logger("target")


class Pulse:
    """Asks the target for as long as a link writes to it.

    Args:
        endpoint: the target.
        progress: `pulse` is filled.
    """

    def __init__(self, endpoint: Endpoint, progress: Progress) -> None:
        self._endpoint = endpoint
        self._pulse = progress.pulse

    async def keep(self) -> None:
        """Asks until cancelled."""
        backoff = Backoff.quick()
        try:
            while True:
                try:
                    async with control(self._endpoint, "asking for its memory") as client:
                        while True:
                            await self._ask(client)
                            backoff.reset()
                            await asyncio.sleep(ASK_SECONDS)
                except TargetError as error:  # lanes and applier say what is wrong with it
                    _log.debug("the target's memory is not known", error=str(error))
                self._forget()
                await asyncio.sleep(backoff.next_wait())
        finally:
            self._forget()

    async def _ask(self, client: Control) -> None:
        """One question.

        Raises:
            Refused: our user may not ask, or nobody for now.
            OSError: the connection is lost.
        """
        asked = time.monotonic()
        told = parse_info(await client.call("INFO", "memory"))
        pulse = self._pulse
        pulse.round_trips.note(time.monotonic() - asked)
        pulse.asked_at = time.time()
        pulse.memory_bytes = whole(told.get("used_memory", ""))
        pulse.memory_limit_bytes = whole(told.get("maxmemory", ""))

    def _forget(self) -> None:
        """What it told is not so any more."""
        self._pulse.memory_bytes = self._pulse.memory_limit_bytes = None
