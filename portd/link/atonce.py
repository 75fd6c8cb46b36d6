"""Slots that move in one step, where the streams of both ends say what happens (Redis 8.4): when they begin to come, and when their keys are gone.

What a node has of a slot between these two words is a life of its own. The taker's begins while the giver's goes on, and comes to the
target behind the giver's end. So whoever waits for a giver waits for no more than its stream says; the nodes are asked only
where that was read before this process began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portd.source.nodeview import emptied

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from portd.link.party import Party
    from portd.net.endpoint import Endpoint
    from portd.source.nodeview import NodeView

    Wait = Callable[[Party, Party, int], Awaitable[bool]]


async def ends(
    endpoint: Endpoint, party: Party, other: Party, theirs: NodeView, slots: Iterable[int], *, patient: bool
) -> dict[int, int]:
    """How far a link must come until all is in the target that its node had of slots; those are left out that may have more.

    Args:
        endpoint: of the source.
        party: a link that waits for it.
        other: that link.
        theirs: what its node said of itself.
        slots: that are to go from there.
        patient: where the stream of that link waits itself, its word is waited for: what its node has written by now may be too far.

    Raises:
        SourceError: the node refuses to be asked.
    """
    party.seen[other.name] = theirs.offset
    gone = frozenset(slots) - theirs.owns - theirs.jobs
    told = {slot: offset for slot, offset in other.border.over.items() if slot in gone}
    rest = gone - told.keys()
    if not rest or other.node is None or (theirs.trims and patient and other.border.waits):
        return told
    offset = await emptied(endpoint, other.node, sorted(rest), trims=theirs.trims)
    return told if offset is None else told | dict.fromkeys(rest, offset)


async def have_stopped(
    parties: Iterable[Party], party: Party, coming: Mapping[int, Mapping[str, int]], wait: Wait
) -> bool:
    """What those that had slots brought until their streams stopped at them is in the target, and ended there."""
    for other in [each for each in parties if each is not party and not each.slots.isdisjoint(coming)]:
        if _has_begun(party, other, coming) or not await wait(party, other, other.progress.stream.decoded_offset):
            return False
    return True


def _has_begun(party: Party, other: Party, coming: Mapping[int, Mapping[str, int]]) -> bool:
    """Whether slots have begun to go back to a link's node before its stream was made to stop there, as far as it was read."""
    seen = party.seen.get(other.name)
    for slot, offsets in coming.items():
        offset = offsets.get(other.name)
        if seen is None or offset is None:
            continue
        if offset < seen and slot in other.border.began and other.border.over.get(slot) != offset:
            return True
        if other.border.began.get(slot, -1) > seen:
            return True
    return False


def kept(parties: Iterable[Party], party: Party) -> frozenset[int]:
    """Slots that other links have, and are to have."""
    return frozenset().union(*(each.slots & each.newest for each in parties if each is not party))


def to_leave(parties: Iterable[Party], party: Party, shared: frozenset[int]) -> frozenset[int] | None:
    """Slots that a link leaves before its stream goes on behind word of a move in one step. None where it has to wait.

    When they begin to come to its node: those that others have, for what it had of them is before that. Nothing where somebody who is to
    have one waits for what is behind that: the move was in vain. When they have gone: those in which others have come behind it.
    """
    others = [each for each in parties if each is not party]
    named = shared & party.border.named
    if party.border.ends:
        behind = {slot for slot in named for each in others if party.name in each.behind.get(slot, ())}
        return named & behind & kept(others, party)
    waits = [wait for each in others if each.coming & named for wait in each.waits]
    if any(name == party.name and offset >= party.border.at for name, offset in waits):
        return frozenset()
    gone = named & kept(others, party)
    return gone if gone == named else None
