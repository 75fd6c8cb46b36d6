"""Long work on the event loop, cut into slices between which everything else goes on."""

from __future__ import annotations

import asyncio
import time

SLICE_SECONDS = 0.001


class Slices:
    """Lets other tasks run whenever a slice of time has been used."""

    def __init__(self) -> None:
        self._turn = time.perf_counter()

    async def rest(self) -> None:
        """Gives way if it is time."""
        if time.perf_counter() - self._turn > SLICE_SECONDS:
            await asyncio.sleep(0)
            self._turn = time.perf_counter()
