"""A link among those of one source cluster, as who follows the slots of all of them sees it."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from portd.log import get_logger
from portd.net.topology import read_written, slots_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from portd.errors import PortdError
    from portd.link.link import Link
    from portd.link.offsets import Received
    from portd.model import Progress
    from portd.net.topology import Node
    from portd.source.nodeview import NodeView


_log = get_logger("source")

TOLD_SECONDS: Final = 10.0  # a link that waits for longer says so


class Party:
    """A link among those of one source.

    Args:
        name: of the link.
        link: it.
        progress: its counters.

    Attributes:
        member: what it has to do with others.
        border: where its stream waits for them.
        node: which one it reads; None while nobody knows.
        waits: other links that it waits for, and up to which offsets.
        coming: slots that are about to come to it.
        behind: of slots that came to it, the links that had them, as long as they have not left them.
        gone: its node is gone for good, as far as can be seen, and others are copied: what it says counts no more.
    """

    def __init__(self, name: str, link: Link, progress: Progress) -> None:
        assert link.member is not None, "a link of several shards is a member"
        self.name = name
        self.link = link
        self.member = link.member
        self.border = link.member.border
        self.progress = progress
        self.node: Node | None = None
        self.waits: list[tuple[str, int]] = []
        self.coming: frozenset[int] = frozenset()
        self.behind: dict[int, set[str]] = {}
        self.gone = False
        self.moves = False  # its node gives or takes slots, as far as is known
        self.asked = asyncio.Event()  # another one has slots of its, and it may give them up
        self.taking = asyncio.Lock()  # held while slots come to it
        self._read = lru_cache(maxsize=2)(_slots)  # asked of all links again and again, by each of them

    @property
    def received(self) -> Received:
        """What it has of its stream."""
        return self.border.generation, self.progress.stream.read_offset

    @property
    def applied(self) -> Received:
        """What the target has of that."""
        return self.border.generation, self.progress.stream.applied_offset

    def note(self, error: PortdError) -> None:
        """Keeps something that passes for those who look."""
        self.progress.errors.note(str(error))

    def go_to(self, node: Node) -> None:
        """The link reads that node, from now on."""
        if self.node is not None and self.node.name != node.name:
            self.link.follow(node)
        self.node = node
        self.member.whereabouts.address = node.host, node.port

    def leave(self) -> None:
        """It has no slots any more: it ends in order, and nobody goes on with it."""
        self.member.left = True
        self.link.end()

    def claims(self, mine: NodeView) -> frozenset[int]:
        """Slots of which what its node says comes behind what others have said.

        What it gives away is none, for whom it goes to waits for this one: unless others may still have something to say of it
        from before it came here, and the move may be given up.
        """
        return mine.claims(returning=False) | {slot for slot in mine.gives if self.behind.get(slot)}

    @property
    def newest(self) -> frozenset[int]:
        """Those that it is to have."""
        return self._read(self.link.ruling.newest.include_slots)

    @property
    def slots(self) -> frozenset[int]:
        """Those that it has."""
        return self._read(self.link.ruling.settings.include_slots)


def _slots(include: tuple[str, ...]) -> frozenset[int]:
    """Slots of the source, as `include_slots` has them."""
    return frozenset(slots_of(read_written(include)))


def forget(parties: Iterable[Party], party: Party, slots: frozenset[int] | None = None) -> None:
    """A link has left slots, None for all of them: nobody comes behind it in them any more."""
    for each in parties:
        for slot in each.behind.keys() if slots is None else slots & each.behind.keys():
            each.behind[slot].discard(party.name)


def in_circle(party: Party, parties: Mapping[str, Party], *, owing: bool) -> bool:
    """Links wait for each other in a circle: each stands before what the other waits for.

    Args:
        party: one of them.
        parties: all links.
        owing: where one stands counts also where it owes the target a key: the copy may be of behind that.
    """
    seen, todo = set[str](), _held_up(party, parties, owing=owing)
    while todo:
        name = todo.pop()
        if name == party.name:
            return True
        if name not in seen and name in parties:
            seen.add(name)
            todo += _held_up(parties[name], parties, owing=owing)
    return False


def _held_up(party: Party, parties: Mapping[str, Party], *, owing: bool) -> list[str]:
    """The links among those that one waits for, that wait themselves before they have come so far."""
    others = {name: parties[name] for name, _ in party.waits if name in parties and parties[name].border.waits}
    return [
        name
        for name, offset in party.waits
        if (other := others.get(name)) is not None
        and (other.border.at <= offset or (owing and other.progress.stream.keys_owed))
    ]


async def reached(party: Party, other: Party, offset: int, *, tell: bool) -> bool | None:
    """Until the target has what another link brings; False where that begins anew.

    Args:
        party: who waits.
        other: for whom.
        offset: up to where.
        tell: says so when that takes long.

    Returns:
        None when it has taken long, and is not so yet.
    """
    reaching = asyncio.create_task(other.link.reaching.reach(offset), name=f"{other.name} at {offset}")
    try:
        done, _ = await asyncio.wait({reaching}, timeout=TOLD_SECONDS)
        if not done and tell:
            _log.warning(
                "a shard waits for another one, from which slots come",
                link=party.name,
                other=other.name,
                offset=offset,
            )
        return reaching.result() if done else None
    finally:
        reaching.cancel()
