"""Full syncs of the links of one source cluster: when one may begin, and which have to follow when slots moved between them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from portd.errors import SourceBusy
from portd.link.party import forget
from portd.log import get_logger
from portd.net.topology import ranges_of
from portd.source.nodeview import emptied, views

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from portd.link.offsets import Offsets
    from portd.link.party import Party
    from portd.link.ruling import Narrower
    from portd.net.endpoint import Endpoint
    from portd.source.nodeview import NodeView

_log = get_logger("source")

BROUGHT_SECONDS: Final = 5.0  # a full sync that may begin waits for so long for what others bring before that


class Recopying:
    """Has links copied again, each with slots of its own.

    Args:
        endpoint: of the cluster.
        parties: the links, by name.
        wanted: all slots that are copied.
        offsets: moments, which mean nothing behind a full sync.
    """

    def __init__(self, endpoint: Endpoint, parties: Mapping[str, Party], wanted: set[int], offsets: Offsets) -> None:
        self._endpoint = endpoint
        self._parties = parties
        self._wanted = wanted
        self._offsets = offsets

    async def permit(self, party: Party) -> None:
        """A full sync of a link may begin: no other link has slots of its.

        What a link has given away and not brought to its end is lost with its history: who has it now is copied again as well.

        Raises:
            SourceBusy: not yet: slots are on their way. Or never: its node is gone.
        """
        if party.gone:
            raise SourceBusy("the shard is gone: others are copied with its slots", hint="its link ends behind that")
        self._offsets.clear()
        shared = party.newest & frozenset().union(*(one.newest for one in self._parties.values() if one is not party))
        if shared:
            await self._part(party, shared)
        for each in self._parties.values():
            if each is not party and each.link.ends_for_copy:  # what it brings may be of slots that this one has now
                await each.member.rests.wait()

    async def _part(self, party: Party, shared: frozenset[int]) -> None:
        """A link that begins a full sync, and others, get slots of their own alone.

        Raises:
            SourceBusy: not yet: slots are on their way.
        """
        drawn = await self.to_copy(each for each in self._parties.values() if each.newest & shared)
        if drawn is None:
            raise SourceBusy(
                "a full sync waits: slots are on their way to another node", hint="it comes when they are there"
            )
        if shared <= drawn[party.name] and party.link.replid:
            if await self._brought(party, shared):
                return
            raise SourceBusy("a full sync waits until other shards have given its slots up", hint="they are about to")
        await self._copy_again(drawn, begun=party)

    async def _brought(self, party: Party, shared: frozenset[int]) -> bool:
        """Whether all that others ever had of slots is in the target: their nodes have no key of them any more."""
        for other in self._parties.values():
            if other is party or not (common := other.newest & shared):
                continue
            offset = None if other.node is None else await emptied(self._endpoint, other.node, sorted(common))
            if offset is None:
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(BROUGHT_SECONDS):
                    if await other.link.reaching.reach(offset):
                        continue
            return False
        return True

    async def to_copy(self, parties: Iterable[Party]) -> dict[str, frozenset[int]] | None:
        """The slots that links have when they are copied again; None while slots of theirs are on their way."""
        wanted = list(parties)
        told = await self._views(wanted)
        if len(told) < len(wanted) or any(each.takes or each.gives or each.jobs for each in told.values()):
            return None
        if replicas := [each for each in wanted if not told[each.name].primary]:
            others = await self._views(each for each in self._parties.values() if each not in wanted)
            owned = frozenset[int]().union(*(each.owns for each in (*told.values(), *others.values()) if each.primary))
            if not all(each.slots <= owned for each in replicas):
                return None  # in a failover: it has a successor
        return {name: mine.owns & self._wanted for name, mine in told.items()}

    async def _views(self, parties: Iterable[Party]) -> dict[str, NodeView]:
        """What nodes of links say of themselves, those that can be asked."""
        nodes = {each.name: each.node for each in parties if each.node is not None}
        told = await views(self._endpoint, list(nodes.values()))
        return {name: mine for name, mine in zip(nodes, told, strict=True) if mine is not None}

    async def _copy_again(self, drawn: Mapping[str, frozenset[int]], begun: Party | None = None) -> None:
        """Links are copied again, each with slots of its own alone; one may have begun already."""
        _log.warning("shards are copied again: slots were on their way between them", links=" ".join(drawn))
        for name, slots in drawn.items():
            party = self._parties[name]
            party.behind.clear()
            forget(self._parties.values(), party, party.newest - slots)
            if not slots:  # a primary that has given its last slot away may become a replica, and its stream ends
                await party.link.ruling.redraw(())
                party.link.ask_full_sync()  # others are copied behind that: nothing of its is applied any more
                party.leave()
            elif party is begun:
                await party.link.ruling.redraw(tuple(ranges_of(sorted(slots))), by_copy=True)
            else:
                await self.copy_with(party, slots)

    async def untie(self, party: Party) -> None:
        """Links wait for each other in a circle, for slots went to and fro faster than their order can be told: they are copied again.

        When nothing is on its way any more; until then they wait.
        """
        tied, todo = {party.name}, [party]
        while todo:
            one = todo.pop()
            for other in self._parties.values():
                waits = any(name == other.name for name, _ in one.waits)
                if other.name not in tied and (waits or other.slots & one.slots):
                    tied.add(other.name)
                    todo.append(other)
        if any(self._parties[name].newest != self._parties[name].slots for name in tied):
            return  # they are about to be
        if (drawn := await self.to_copy(self._parties[name] for name in sorted(tied))) is not None:
            await self._copy_again(drawn)

    async def copy_with(self, party: Party, slots: frozenset[int]) -> Narrower:
        """A link is copied again, and has these slots from then on: never before, so that whoever is killed in between does it once more."""
        party.behind.clear()
        following = await party.link.ruling.redraw(tuple(ranges_of(sorted(slots))), by_copy=True)
        _log.warning(
            "a shard is copied again: its stream does not have all of slots that have come to it", link=party.name
        )
        party.link.ask_full_sync()
        return following
