"""Whether slots of the target are where they are said to be, for whatever concerns all of their keys.

Who looks at all keys of a node, and of the next one then, misses those of a slot that is at neither while it is looked at.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from portd.errors import TargetBusy
from portd.net.resp import request
from portd.net.topology import common, moving, own_epoch, own_slots, ranges_of, slots_of, spelled
from portd.target.kept.epoch import check

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from portd.net.topology import Ranges
    from portd.target.connection import Connection

MAP: Final = "CLUSTERMAP"  # code of a refusal that passes: not one of a server's
MOVED: Final = "MOVED"  # what a server would say of a key


def refuse_moves(on_their_way: Iterable[int], wanted: Ranges) -> None:
    """Raises: TargetBusy: some slots that are wanted are on their way."""
    if ours := common(ranges_of(sorted(on_their_way)), wanted):
        raise TargetBusy(
            f"slots {spelled(ours)} of the target are on their way to another node; nothing is written meanwhile",
            hint="portd goes on when they have arrived; redis-cli --cluster fix ends a move that was given up", code=MAP,
        )  # fmt: skip


async def require_settled(connection: Connection, slots: Ranges, others: Ranges = ()) -> int:
    """Makes sure that a node has some slots, and neither gives nor takes any of them, nor of *others*.

    Returns:
        The epoch of its configuration. While that is the same, no slot has gone and come back: who takes one gets an epoch
        above all others (cluster.c:clusterBumpConfigEpochWithoutConsensus).

    Raises:
        Disconnected: the connection was lost.
        TargetBusy: it does, or refuses for now; with the code `MOVED` where it has not all of them.
        TargetError: it refuses.
    """
    (answer,) = await connection.ask(request("CLUSTER", "NODES"))
    check(answer, "to tell which slots are on their way")
    refuse_moves(moving(answer), (*slots, *others))
    if away := set(slots_of(slots)).difference(slots_of(own_slots(answer))):
        away_now = spelled(ranges_of(sorted(away)))
        raise TargetBusy(f"slots {away_now} of the target are at another node by now", code=MOVED)
    return own_epoch(answer)


@asynccontextmanager
async def staying(settled: Callable[[], Awaitable[int]]) -> AsyncIterator[None]:
    """For looking at all keys of a node: makes sure that its slots are there all the while.

    Args:
        settled: `require_settled` of the node; what it raises, this does, when it begins and when it ends.
    """
    before = await settled()
    yield
    if await settled() != before:
        raise TargetBusy("slots have come to a node of the target while all its keys were looked at", code=MAP)
