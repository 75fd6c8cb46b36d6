"""What links of one process share when they look at targets: a source cluster makes a hundred of them, which begin at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from portd.sharing import Shared

if TYPE_CHECKING:
    from portd.net.endpoint import Endpoint
    from portd.target.kept.directory import Directory

LOOK_SECONDS: Final = (
    5.0  # for which a look at all keys of a target is good: links of a process begin one behind the other
)
PROBES: Final = 4  # at once: what a server says of its commands takes a MiB until it is read


class Neighbours:
    """Shared by all links of a process; those into one target wait for one another, and for nobody else."""

    def __init__(self) -> None:
        self._probing: dict[tuple[object, ...], asyncio.Semaphore] = {}
        self._looks: dict[tuple[object, ...], Shared[set[str]]] = {}

    def probing(self, target: Endpoint) -> asyncio.Semaphore:
        """Held while a server of a target is asked what it can do."""
        return self._probing.setdefault(target.place, asyncio.Semaphore(PROBES))

    async def links(self, there: Directory) -> set[str]:
        """See `Directory.links`: links that ask about the same time share one look at the keys of a target."""
        settings = there.settings
        target = settings.target_endpoint()
        key = target.place, target.username, settings.checkpoint_key
        return await self._looks.setdefault(key, Shared(LOOK_SECONDS)).ask(there.links)
