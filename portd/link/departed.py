"""Shards of a source cluster whose node is gone before all was read that it wrote, while others have its slots.

A node that was taken out of the cluster at once, one that died for good, one that lost its last slots to another one in a failover: nobody
can tell any more what its stream would have said. Whoever has its slots is copied again with them; then the link is forgotten.
Until that is done its checkpoint stays: a start finds the same, and does the same once more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from portd.errors import PortdError
from portd.link.party import forget
from portd.log import get_logger
from portd.source.nodeview import view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from portd.link.party import Party
    from portd.link.recopying import Recopying
    from portd.link.ruling import Narrower
    from portd.net.endpoint import Endpoint

_log = get_logger("source")

LOOK_SECONDS: Final = 2.0  # between two looks for such shards
GONE_SECONDS: Final = 10.0  # a node that cannot be asked for longer, and has no slots, does not come back with them


class Departed:
    """Sees to such shards.

    Args:
        endpoint: of the source.
        parties: all links, by name; those that are gone are taken out.
        recopying: has links copied again.
    """

    def __init__(self, endpoint: Endpoint, parties: dict[str, Party], recopying: Recopying) -> None:
        self._endpoint = endpoint
        self._parties = parties
        self._recopying = recopying
        self._lock = asyncio.Lock()  # held by whoever sees to them
        self._heirs: dict[str, tuple[Party, list[tuple[Party, Narrower]]]] = {}  # of links that are gone
        self._since: dict[str, float] = {}  # links whose node has no slots: since when, or when it answered last

    def note(self, homeless: Iterable[str]) -> None:
        """Links whose node has no slots, by the map, while all of theirs are with other links' nodes; perhaps there never were any."""
        now = asyncio.get_running_loop().time()
        self._since = {name: self._since.get(name, now) for name in homeless}
        for party in self._parties.values():
            party.gone &= party.name in self._since

    async def over(self) -> list[Party]:
        """Links whose node is gone, and those that are about to be forgotten.

        Raises:
            PortdError: a node refuses.
        """
        homeless = [self._parties[name] for name in self._since if name in self._parties]
        return [party for party, _ in self._heirs.values()] + [each for each in homeless if await self._is_gone(each)]

    async def keep(self, endure: Callable[[PortdError], None]) -> None:
        """Sees to them, if nobody else does on behalf of another link: theirs may not run at all.

        Args:
            endure: raises errors that do not pass, and notes others.
        """
        async with self._lock:
            while True:
                try:
                    for party in await self.over():
                        await self.see_to(party)
                except PortdError as error:
                    endure(error)
                await asyncio.sleep(LOOK_SECONDS)

    async def _is_gone(self, party: Party) -> bool:
        """For long enough nobody can read any more what the node of a link wrote: it cannot be asked, or is a replica by now."""
        found = await view(self._endpoint, party.node) if party.node is not None else None
        now = asyncio.get_running_loop().time()
        if party.name in self._since and found is not None and found.primary:
            self._since[party.name] = now
        party.gone = now - self._since.get(party.name, now) >= GONE_SECONDS
        return party.gone

    async def see_to(self, party: Party) -> None:
        """Has those copied that have the slots of a link, and ends it when that is done; nothing while slots are on their way.

        Raises:
            PortdError: an end that is away; what is left to do is done by the next call.
        """
        if party.name not in self._heirs and not await self._disown(party):
            return
        _, heirs = self._heirs[party.name]
        for heir, following in heirs:
            await following.taken
            while not await heir.link.reaching.reach(0):  # not until it is copied; another full sync may begin
                continue
        party.leave()
        del self._heirs[party.name]

    async def _disown(self, party: Party) -> bool:
        """Others are copied with the slots of a link; False where that has to wait."""
        others = [each for each in self._parties.values() if each.name not in self._since]
        drawn = await self._recopying.to_copy(others)
        if drawn is None:
            return False
        heirs = [each for each in others if drawn[each.name] & party.slots]
        if party.slots:
            _log.warning(
                "a shard is gone, and not all that it wrote was read: those that have its slots are copied again",
                link=party.name, heirs=" ".join(each.name for each in heirs),
            )  # fmt: skip
        else:
            _log.info("a primary without slots is gone", link=party.name)
        party.link.ask_full_sync()  # what it has read is older than the copies, and void: it is not permitted to begin
        await party.member.rests.wait()
        asked = [(each, await self._recopying.copy_with(each, drawn[each.name])) for each in heirs]
        self._heirs[party.name] = party, asked
        del self._parties[party.name]
        party.gone = True  # for good
        forget(others, party)
        party.link.reaching.forget()  # whoever waits for it waits for nothing
        return True
