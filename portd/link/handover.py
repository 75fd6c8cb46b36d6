"""Slots that move from one shard of a source cluster to another, followed while all shards are copied; docs/design/0011.

Each link has the slots that its node had, and stops at the first command for another one (`portd.kernel.border`). Then the nodes are
asked. Where the link's node owns the slot, or takes it over, the link may have what its stream says of it, as soon as the
links that had the slot before have brought all that their nodes wrote until then. The slot is both links' from there on, and the
giver's no longer once its node has no key of it left. Where the node has no claim, what its stream says of the slot is left out.

Nothing of this is remembered but the slots of each link, which stand in its checkpoint: whatever ends in the middle begins again
with the question.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from portd.errors import InternalError, PortdError, SlotsMoved, SourceBusy, SourceError, first_cause
from portd.groups import TaskGroup
from portd.kernel.border import ALL
from portd.link.atonce import ends, have_stopped, kept, to_leave
from portd.link.departed import Departed
from portd.link.offsets import Offsets
from portd.link.party import TOLD_SECONDS, Party, emptying, forget, in_circle, in_common, reached
from portd.link.recopying import Recopying
from portd.log import get_logger
from portd.net.topology import Node, ranges_of, read_written, slots_of, spelled
from portd.source.nodeview import emptied, view
from portd.source.shards import MOVED_HINT, Assignment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from portd.config.settings import Settings
    from portd.link.link import Link
    from portd.link.offsets import Moment
    from portd.model import Progress
    from portd.net.topology import Topology
    from portd.source.nodeview import NodeView

_log = get_logger("source")

WATCH_SECONDS: Final = 2.0  # between two looks at the map
AGAIN_SECONDS: Final = 0.2  # before nodes are asked again that have not said yet what a slot waits for
ASKED_SECONDS: Final = 0.02  # between two questions for offsets while slots move
NODE_SECONDS: Final = 0.002  # for each node, at the least
GRANT_HINT: Final = "our user needs +info +cluster|countkeysinslot at the source, +cluster|migration +dbsize at Redis 8.4, +cluster|getslotmigrations at others"
STRANGER_SECONDS: Final = 5.0  # a new replica looks like a primary without slots for some seconds


class Handovers:
    """Follows the slots of one source through its links.

    Args:
        settings: of any of the links.
        seconds: between two looks at the map.

    Attributes:
        on_strangers: told once how many primaries the source has that none of the links reads; whether they will be.
    """

    def __init__(self, settings: Settings, seconds: float = WATCH_SECONDS) -> None:
        self._endpoint = settings.source_endpoint()
        self._seconds = seconds
        self._parties: dict[str, Party] = {}
        self._wanted: set[int] = set()  # all slots that are copied
        self.on_strangers: Callable[[int], bool] = lambda _: False
        self._idle: dict[str, Node] = {}  # primaries without slots, by id, as nodes told last
        self._strangers: dict[str, float] = {}  # primaries that no link reads: since when
        self._divides = self._crowded = False  # that was told; and there is no room for more links
        self._forbidden: dict[str, str] = {}  # links whose nodes refuse to be asked, and why
        self._failed: SlotsMoved | None = None
        self._over = asyncio.Event()  # set when it has failed
        self._offsets = Offsets(self._endpoint)
        self._recopying = Recopying(self._endpoint, self._parties, self._wanted, self._offsets)
        self._departed = Departed(self._endpoint, self._parties, self._recopying)
        self._moving = asyncio.Event()  # slots are on their way, as far as is known
        self._lock = asyncio.Lock()
        self._asking = asyncio.Lock()  # held by whoever asks for offsets
        self._emptying = asyncio.Lock()  # held while slots are given up for one whose node was emptied
        self._looked_at: float | None = None
        self._blind = self._gaps = False

    def join(self, name: str, link: Link, progress: Progress) -> None:
        """A link takes part."""
        self._parties[name] = party = Party(name, link, progress)
        self._wanted |= party.slots.union(slots_of(read_written(link.ruling.settings.shard_pending)))
        if place := link.ruling.settings.shard_node.split():
            party.go_to(Node(place[0], place[1], int(place[2]), ()))
        party.border.shared_now = lambda: self._shared(party)
        party.member.permit = partial(self._recopying.permit, party)

    async def find(self) -> None:
        """Finds the node of every link for the first time, if the source tells."""
        await self._look()

    async def keep(self, name: str) -> None:
        """Does for one link what slots that move ask for, until it is cancelled.

        Raises:
            SlotsMoved: slots of the source moved in a way that cannot be followed; of any of the links.
        """
        party = self._parties[name]
        try:
            async with TaskGroup() as group:
                group.create_task(self._let_cross(party), name=f"slots wanted {name}")
                group.create_task(self._keep_settled(party), name=f"slots settled {name}")
                group.create_task(self._keep_asking(), name=f"offsets of nodes {name}")
                group.create_task(
                    self._departed.keep(partial(self._endure, party)), name=f"shards that are gone {name}"
                )
                await self._over.wait()
                raise self._failed or InternalError("slots are over without a reason")
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from None

    async def _let_cross(self, party: Party) -> None:
        """Lets a stream go on whenever it waits."""
        border = party.border
        while True:
            await border.wanted.wait()
            await self._cross(party)

    async def _keep_asking(self) -> None:
        """Asks all nodes for their offsets while slots move, if no other link does; they may end in any order."""
        async with self._asking:
            try:
                while True:
                    await self._moving.wait()
                    await self._ask_offsets()
                    await asyncio.sleep(max(ASKED_SECONDS, len(self._parties) * NODE_SECONDS))
                    self._offsets.forget({each.name: each.applied for each in self._parties.values()})
            finally:
                await self._offsets.close()

    async def _ask_offsets(self) -> Moment:
        return await self._offsets.ask(
            lambda: {each.name: each.received for each in self._parties.values()},
            {each.name: (each.node, each.link.replid) for each in self._parties.values() if each.node is not None},
        )

    async def _keep_settled(self, party: Party) -> None:
        """Looks at the map now and then, and at what it means for a link."""
        while True:
            try:
                await self._look()
                if party.progress.stream.following:
                    await self._settle(party)
            except PortdError as error:
                self._endure(party, error)
            party.asked.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await party.asked.wait()

    def _endure(self, party: Party, error: PortdError) -> None:
        """Keeps what passes for those who look: an end that is away, or refuses for now.

        Raises:
            PortdError: it does not pass.
        """
        if error is self._failed or not error.retriable:
            raise error
        party.note(error)

    def _fail(self, text: str, hint: str = MOVED_HINT) -> SlotsMoved:
        """It cannot go on; the error, which every link of the source ends with."""
        if self._failed is None:
            self._failed = SlotsMoved(text, hint=hint)
            self._over.set()
        return self._failed

    # -- the map

    async def _look(self) -> None:
        """Reads the map, unless that was done a moment ago. One that cannot be read says nothing, and is told of."""
        async with self._lock:
            clock = asyncio.get_running_loop().time
            if self._looked_at is not None and clock() - self._looked_at < self._seconds:
                return
            assert self._endpoint.seeds is not None, "only clusters have a map"
            try:
                self._assign(await self._endpoint.seeds.read(self._endpoint.entrance))
            except OSError as error:
                if not self._blind:
                    _log.warning("the source's map cannot be read: slots that move are not followed", error=str(error))
                self._blind = True
            else:
                if self._blind:
                    _log.info("the source's map can be read again")
                self._blind = False
            self._looked_at = clock()

    async def _view(self, party: Party) -> NodeView | None:
        """What the node of a link says of itself; None where it does not, or is not the one that the link follows."""
        if party.node is None:
            return None
        try:
            found = await view(self._endpoint, party.node)
        except SourceBusy:
            raise
        except SourceError as error:
            if not self._forbidden:
                _log.warning("slots that move cannot be followed", error=str(error.args[0]), hint=GRANT_HINT)
            self._forbidden[party.name] = str(error.args[0])
            return None
        if self._forbidden.pop(party.name, "") and not self._forbidden:
            _log.info("slots that move can be followed again")
        if found is not None and not found.primary and not party.slots | party.newest:
            party.leave()  # it looked like a primary while it was new, or is none any more
        if found is None or not found.primary or party.link.replid not in found.replids:
            return None
        return found

    def _assign(self, topology: Topology) -> None:
        """Finds the node of each link: the one that it had, or the one that has taken its place."""
        found = Assignment(topology, {each.name: each.slots for each in self._parties.values()}, self._wanted)
        nodes = found.nodes({each.name: each.node for each in self._parties.values() if each.node is not None})
        for party in self._parties.values():
            node = nodes.get(party.name, party.node)
            if node is not None and (party.node is None or party.node.name != node.name):
                party.go_to(node)
            party.node = node
        gaps = found.gaps
        if gaps and self._gaps:
            self._fail(f"slots {spelled(ranges_of(sorted(gaps)))} of the source have no owner any more")
        strangers = found.strangers(nodes)
        if strangers and self._divides and self._crowded:
            names = ", ".join(node.address for node in strangers)
            self._fail(f"slots of the source have moved to {names}, for which there is no link")
        self._note_strangers({node.name for node in strangers})
        owners = {node.name for node in topology.nodes}
        homeless = [each.name for each in self._parties.values() if each.node is None or each.node.name not in owners]
        self._departed.note(homeless if not (gaps or strangers) else ())
        self._gaps = bool(gaps)

    def _note_strangers(self, names: set[str]) -> None:
        """Primaries that no link reads: once they were seen for a while, the source is divided anew."""
        names |= {node.name for node in self._idle.values()} - {
            each.node.name for each in self._parties.values() if each.node
        }
        now = asyncio.get_running_loop().time()
        self._strangers = {name: self._strangers.get(name, now) for name in names}
        if any(now - since >= STRANGER_SECONDS for since in self._strangers.values()) and not self._divides:
            self._divides = True
            _log.info("the source has primaries that no link reads", nodes=len(names))
            self._crowded = not self.on_strangers(len(names))

    # -- a stream that waits

    async def _cross(self, party: Party) -> None:
        """Finds out what a stream waits for, and lets it go on."""
        border = party.border
        begun, told = asyncio.get_running_loop().time(), False
        self._moving.set()
        while border.wanted.is_set():
            try:
                await self._look()
                if await self._let_pass(party, begun):
                    return
            except PortdError as error:
                self._endure(party, error)
            if asyncio.get_running_loop().time() - begun > TOLD_SECONDS and not told:
                told = True
                _log.warning(
                    "a slot is on its way, and the stream of its new owner waits", link=party.name, slot=border.slot,
                    offset=border.at,
                )  # fmt: skip
            await asyncio.sleep(AGAIN_SECONDS)

    async def _let_pass(self, party: Party, begun: float) -> bool:
        """Once; False where its stream is to wait still."""
        if party.border.begins or party.border.ends:
            return await self._let_hear(party)
        return await (self._let_empty(party) if party.border.slot == ALL else self._try(party, begun))

    async def _try(self, party: Party, begun: float) -> bool:
        """The same, for a stream that waits since then; False where it is not known yet whose the slot is."""
        border = party.border
        slot, generation = border.slot, border.generation
        if why := next((self._forbidden[name] for name in self._parties if name in self._forbidden), ""):
            raise self._fail(f"slot {slot} of the source has moved, and {why}", hint=f"{GRANT_HINT}; {MOVED_HINT}")
        if not self._drawn:
            return False
        others = {each.name for each in self._parties.values() if each is not party and slot in each.slots}
        moment = self._offsets.find(party.name, (generation, border.at), others) or await self._ask_offsets()
        if not others <= moment.written.keys() or (mine := await self._view(party)) is None:
            return False
        received = moment.received[party.name][1]
        claims = mine.claims(returning=True) if border.brings else party.claims(mine)
        if slot not in claims and not (slot not in mine.jobs and await self._leave_out(party, slot, generation)):
            return False  # the outcome of a job decides
        patient = asyncio.get_running_loop().time() - begun < TOLD_SECONDS
        coming = await self._coming(party, mine, claims, moment, only=frozenset({slot}), patient=patient)
        if slot in claims and slot not in coming and (others or slot not in party.slots):
            return False
        if not await self._wait_for(party, coming) or border.generation != generation:
            return False
        return await self._take(party, mine, coming, generation, received)

    async def _leave_out(self, party: Party, slot: int, generation: int) -> bool:
        """What its stream says of a slot is none of a link's: its node has no claim to it. False where that is to be asked again.

        Where the node has keys of it all the same, for a move to it was given up, these lack should it come after all.
        """
        if party.border.blurred or slot in party.slots or party.node is None:
            return True
        if await emptied(self._endpoint, party.node, [slot]) is not None:
            return True
        async with party.taking:
            if not await self._redraw(party, party.newest, generation, blurs=True):
                return False
        _log.warning(
            "a node has keys of a slot that is another one's: it is copied again should slots come to it",
            link=party.name, slot=slot,
        )  # fmt: skip
        return True

    async def _coming(
        self,
        party: Party,
        mine: NodeView,
        claims: frozenset[int],
        moment: Moment,
        only: frozenset[int] | None = None,
        *,
        patient: bool = False,
    ) -> dict[int, dict[str, int]]:
        """Slots that a link may have now, with the offsets that other links must have come to that have them as well.

        Where keys come one by one, each was in its old place before. Where a slot has come in one step, as far as can be seen,
        its old owner removes keys behind that: none may be left there.
        Slots that are the link's alone are left out, and so are those of which that cannot be told yet. One that no link has,
        since it went on while links were copied again, waits for nobody.
        """
        border = party.border
        one_by_one = mine.takes - border.began.keys() | party.slots
        one_by_one |= frozenset({border.slot}) if border.brings else frozenset()
        claims &= self._wanted
        orphans = (claims & mine.owns).difference(*(each.slots for each in self._parties.values()))
        if only is not None:
            claims &= only | mine.takes
        found: dict[int, dict[str, int]] = {slot: {} for slot in orphans & claims}
        open_ones: set[int] = set()
        for other in self._parties.values():
            goes = {slot for slot in mine.gives if other.name not in party.behind.get(slot, ())}  # perhaps to that one
            if other is party or not (common := (other.slots & claims) - goes):
                continue
            if (theirs := await self._view(other)) is None or other.node is None:
                open_ones |= common
                continue
            for slot in common & one_by_one:
                if (written := moment.written.get(other.name)) is not None:
                    found.setdefault(slot, {})[other.name] = written
                else:
                    open_ones.add(slot)
            rest = common - one_by_one
            left = await ends(self._endpoint, party, other, theirs, rest, patient=patient)
            open_ones |= rest - left.keys()
            for slot, offset in left.items():
                found.setdefault(slot, {})[other.name] = offset
        return {slot: offsets for slot, offsets in found.items() if slot not in open_ones}

    async def _let_empty(self, party: Party) -> bool:
        """A node is emptied (FLUSHALL), and its link has slots that others have, too: they are its alone from there on.

        Which keys of them the node had, and which were others', nobody can tell behind it. What others have they lose with
        the slot; when that comes to them again, it is copied.
        """
        async with self._emptying:
            if not self._drawn:
                return False
            for other in self._parties.values():
                if other is party:
                    continue
                async with other.taking:
                    if lost := (other.slots | other.newest) & party.slots:
                        blurs, generation = not await self._has_gone(other, lost), other.border.generation
                        if not await self._redraw(other, other.newest - lost, generation, blurs=blurs):
                            return False
                        forget(self._parties.values(), other, lost)
                        _log.warning(
                            "a shard is emptied, and slots are on their way: another one gives them up until they are there",
                            link=party.name, other=other.name, slots=spelled(ranges_of(sorted(lost))),
                        )  # fmt: skip
            self._share()
            party.border.go_on()
            return True

    async def _has_gone(self, party: Party, slots: frozenset[int]) -> bool:
        """Whether slots have left a link's node with all their keys: what it had of them others brought, or it is gone."""
        mine = await self._view(party)
        if mine is None or party.node is None or slots & (mine.owns | mine.takes | mine.jobs):
            return False
        return await emptied(self._endpoint, party.node, sorted(slots), trims=mine.trims) is not None

    async def _let_hear(self, party: Party) -> bool:
        """A link's node begins to take slots in one step, or has none of their keys any more: what it had of them before is over."""
        border, generation = party.border, party.border.generation
        if not self._drawn:
            return False
        async with party.taking:
            gone = to_leave(self._parties.values(), party, self._shared(party))
            if gone is None or (gone and not await self._redraw(party, party.newest - gone, generation)):
                return False
            forget(self._parties.values(), party, gone)
            if border.begins:
                border.leave(gone)
        if gone:
            _log.info(
                "slots leave a shard before they come back to it, or for others",
                link=party.name,
                slots=spelled(ranges_of(sorted(gone))),
            )
            self._share()
        border.go_on(heard=bool(border.named & self._shared(party)) and not gone)  # else it may be shared since
        return True

    async def _wait_for(self, party: Party, coming: Mapping[int, Mapping[str, int]]) -> bool:
        """Has a link wait for others; False where one of them has begun anew, or they wait for each other."""
        for name in {name for offsets in coming.values() for name in offsets}:
            highest = max(each.get(name, 0) for each in coming.values())
            other = self._parties.get(name)  # it may be gone
            if other is None or not await self._wait(party, other, highest):
                return False
        return True

    async def _take(
        self,
        party: Party,
        mine: NodeView,
        coming: Mapping[int, Mapping[str, int]],
        generation: int,
        received: int | None = None,
    ) -> bool:
        """Gives a link the slots that come to it, others having come far enough.

        Args:
            party: it.
            mine: what its node said.
            coming: slots, and how far others have come that had them.
            generation: of the stream that this was found out of.
            received: its stream goes on up to there, which its node had written before it was asked; None: as far as before.

        Returns:
            False where it is to wait.
        """
        border = party.border
        async with party.taking:
            try:
                if party.link.ends_for_copy or border.generation != generation:
                    return False
                new = frozenset(coming.keys() - party.slots)
                if new and not await self._come(party, mine, coming, new, generation):
                    return False
                if received is not None and border.generation == generation:
                    claims = party.claims(mine)
                    limits = {  # a slot that goes may come back: asked again behind that
                        slot: received if slot in coming or slot not in claims else border.limit(slot)
                        for slot in self._shared(party)
                    }
                    awaited = ((mine.owns | mine.takes | mine.jobs) & self._wanted) - party.slots
                    border.open(received, limits, () if border.blurred else awaited)
                for slot in coming.keys() & party.slots:  # who has left it since it was asked is none of them
                    others = (self._parties[name] for name in coming[slot] if name in self._parties)
                    party.behind[slot] = {each.name for each in others if slot in each.slots}
            finally:
                party.coming = frozenset()
                self._share()
        for other in self._parties.values():
            if other is not party and other.slots & party.slots & mine.owns:
                other.asked.set()
        return True

    async def _come(
        self,
        party: Party,
        mine: NodeView,
        coming: Mapping[int, Mapping[str, int]],
        new: frozenset[int],
        generation: int,
    ) -> bool:
        """Slots come to a link; False where its stream has to wait.

        Those of which it does not have all are left out until they are there, and are copied then.
        """
        border = party.border
        if border.blurred or not all(coming[slot] for slot in new):
            if mine.takes or mine.jobs or not mine.owns >= new:
                return border.blurred
            await self._recopying.copy_with(party, party.slots | new)
            return False
        if not await self._still_come(party, new) or (
            mine.trims and not await have_stopped(self._parties.values(), party, coming, self._wait)
        ):
            return False
        border.enter(new)
        if not await self._redraw(party, party.slots | new, generation):
            return False
        self._share()
        _log.info("slots come to a shard", link=party.name, slots=spelled(ranges_of(sorted(new))))
        return await self._wait_for(party, emptying(self._parties.values(), party, new))

    async def _still_come(self, party: Party, slots: Iterable[int]) -> bool:
        """The streams of those that had slots stop at them from now on, and the slots come to the link even so.

        One that went back meanwhile may have passed there, unasked: then what this link's stream says of it is not the last word.
        """
        party.coming = frozenset(slots)
        self._share()
        mine = await self._view(party)
        return mine is not None and party.coming <= mine.claims(returning=False)

    async def _wait(self, party: Party, other: Party, offset: int) -> bool:
        """Until the target has what another link brings up to an offset; False where that one begins anew, or waits for this one."""
        wait = other.name, offset
        party.waits.append(wait)
        try:
            long = False
            while not in_circle(party, self._parties, owing=long):
                if (found := await reached(party, other, offset, tell=not long)) is not None:
                    return found
                long = True
            await self._recopying.untie(party)
            return False
        finally:
            party.waits.remove(wait)

    # -- slots that have come, or gone

    async def _settle(self, party: Party) -> None:
        """Takes slots that a link's node owns without a word in its stream, and gives up those that others have taken."""
        border = party.border
        mine = await self._view(party)
        party.moves = mine is not None and bool(mine.takes or mine.gives or mine.jobs)
        if mine is not None:
            self._idle = {node.name: node for node in mine.idle}
        if not self._drawn or in_common(self._parties.values()) or any(each.moves for each in self._parties.values()):
            self._moving.set()
        else:
            self._moving.clear()
        if mine is None:
            return
        if (mine.owns & self._wanted) - party.slots:
            generation, claims = border.generation, mine.claims(returning=False)
            coming = await self._coming(party, mine, claims, await self._ask_offsets())
            own = {slot: offsets for slot, offsets in coming.items() if slot in mine.owns}
            if own.keys() - party.slots and await self._wait_for(party, own):
                await self._take(party, mine, own, generation)
        gone = self._shared(party) - mine.owns - mine.takes - mine.gives - mine.jobs
        if not gone or party.node is None:
            return
        generation = border.generation
        offset = await emptied(self._endpoint, party.node, sorted(gone), trims=mine.trims)
        if offset is not None and await party.link.reaching.reach(offset):
            async with party.taking:
                gone &= self._shared(party) & kept(self._parties.values(), party)
                if not gone or not await self._redraw(party, party.newest - gone, generation):
                    return
                forget(self._parties.values(), party, gone)
            _log.info("slots have left a shard", link=party.name, slots=spelled(ranges_of(sorted(gone))))
            if not party.slots:
                _log.info("the shard has no slots any more: its link waits for some", link=party.name)
            self._share()

    def _shared(self, party: Party) -> frozenset[int]:
        """Slots of a link that others have as well, or are to have; all of them while it is not known what others have."""
        if not self._drawn:
            return party.slots
        return party.slots & in_common(self._parties.values())

    def _share(self) -> None:
        """Tells every stream which of its slots are others' as well."""
        common = in_common(self._parties.values()) if self._drawn else None
        for each in self._parties.values():
            each.border.share(each.slots if common is None else each.slots & common)

    async def _redraw(self, party: Party, slots: Iterable[int], generation: int, *, blurs: bool = False) -> bool:
        """A link has other slots from some offset on; False where a full sync has begun before, or nobody else has what it leaves."""
        slots = frozenset(slots)
        left = party.newest - slots

        def current() -> bool:
            return party.border.generation == generation and left <= kept(self._parties.values(), party)

        ranges = tuple(ranges_of(sorted(slots)))
        following = await party.link.ruling.redraw(ranges, blurs=blurs, still=current)
        if not current():
            return False
        await following.taken
        return current()

    @property
    def _drawn(self) -> bool:
        """All links have the slots that stand beside their data."""
        return all(each.member.drawn for each in self._parties.values())
