"""The servers of an end: one, or the nodes of a cluster; what each of them said, and whether all of them can be reached."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from portd.errors import PortdError
from portd.net.clusterview import ASKED_AT_ONCE, of_node, view_of
from portd.net.control import Refused, open_control
from portd.net.topology import ranges_of, shown, spelled
from portd.preflight import access
from portd.preflight.findings import error, fine, note, warning
from portd.preflight.merging import ByNode, named
from portd.preflight.survey import Survey, Unreachable, survey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from portd.net.clusterview import View
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Address, Ranges
    from portd.preflight.findings import Finding, Report

SLOTS: Final = 16384

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Member:
    """One server of an end.

    Attributes:
        where: its address.
        endpoint: of it alone.
        slots: of a cluster: those that it has.
        survey: what it said.
        replicas: of a cluster: addresses of those that follow it.
    """

    where: str
    endpoint: Endpoint
    slots: Ranges
    survey: Survey
    replicas: tuple[Address, ...] = ()

    @property
    def share(self) -> float:
        """Of all slots."""
        return sum(last - first + 1 for first, last in self.slots) / SLOTS


@dataclass(frozen=True, slots=True)
class End:
    """An end as it was surveyed.

    Attributes:
        side: `source` or `target`.
        endpoint: as it was named.
        members: servers that answered.
        whole: all of them did.
        is_cluster: it is one.
    """

    side: str
    endpoint: Endpoint
    members: tuple[Member, ...]
    whole: bool
    is_cluster: bool

    @property
    def summed(self) -> Survey:
        """All of it as if it were one server: sizes and keys are sums."""
        first = self.members[0].survey
        if len(self.members) == 1:
            return first
        info = dict(first.info)
        for name in ("used_memory", "used_memory_rss"):
            numbers = [each.survey.number(name) for each in self.members]
            if all(number is not None for number in numbers):
                info[name] = str(sum(number or 0 for number in numbers))
        databases = {db for each in self.members for db in each.survey.keys}
        info |= {f"db{db}": f"keys={sum(each.survey.keys.get(db, 0) for each in self.members)}" for db in databases}
        return replace(first, info=info)


async def survey_end(side: str, endpoint: Endpoint, wanted: Ranges, report: Report) -> End | None:
    """Asks all servers of an end; None where nobody answered.

    Args:
        side: `source` or `target`.
        endpoint: the end.
        wanted: slots, where it is a cluster.
        report: takes what is found of the ways there.
    """
    if endpoint.seeds is None:
        places: list[tuple[str, Endpoint, Ranges, tuple[Address, ...]]] = [("", endpoint, (), ())]
        is_cluster = False
    else:
        try:
            view = await view_of(endpoint)
        except PortdError as problem:
            report.findings.append(
                error(
                    f"{side}.topology", str(problem.args[0]), "there is no sync without it",
                    problem.hint or "check the hosts and ports of the URL", exit_code=problem.exit_code,
                )
            )  # fmt: skip
            return None
        is_cluster = True
        places = [
            (node.address, of_node(endpoint, node), slots, node.replicas) for node, slots in view.nodes_of(wanted)
        ]
        report.findings += _topology(side, view, wanted)
        report.findings += await _replicas(side, endpoint, view)
    answers = await each_of(places, lambda place: _one(place[1]))
    told = ByNode(len(places))
    members = []
    for (where, place, slots, replicas), answer in zip(places, answers, strict=True):
        if isinstance(answer, Unreachable):
            told.add(where, [access.unreachable(side, place, answer)])
        else:
            members.append(Member(where or place.display, place, slots, answer, replicas))
            told.add(where, access.reached(side, endpoint if is_cluster else place, answer))
    report.findings += told.told()
    return End(side, endpoint, tuple(members), len(members) == len(places), is_cluster) if members else None


async def _one(endpoint: Endpoint) -> Survey | Unreachable:
    try:
        return await survey(endpoint)
    except Unreachable as problem:
        return problem


async def each_of(items: Iterable[ItemT], work: Callable[[ItemT], Awaitable[ResultT]]) -> list[ResultT]:
    """Some work for each node, not for all at once; results in their order."""
    limit = asyncio.Semaphore(ASKED_AT_ONCE)

    async def one(item: ItemT) -> ResultT:
        async with limit:
            return await work(item)

    return list(await asyncio.gather(*(asyncio.create_task(one(item), name="check node") for item in items)))


def _topology(side: str, view: View, wanted: Ranges) -> list[Finding]:
    """Whether all slots are where they belong."""
    subject = f"{side}.topology"
    gaps = [slot for slot in view.unsettled(wanted) if view.topology.owner(slot) is None]
    found = []
    if gaps:
        found.append(
            error(
                subject, f"slots {spelled(ranges_of(gaps))} have no owner", "a sync does not start",
                "redis-cli --cluster fix gives them one", exit_code=69,
            )
        )  # fmt: skip
    if moving := sorted(slot for slot in view.marks if any(first <= slot <= last for first, last in wanted)):
        found.append(
            error(
                subject, f"slots {spelled(ranges_of(moving))} are on their way to another node", "a sync does not start until they are there",
                "wait for the move; redis-cli --cluster fix ends one that was given up", exit_code=69,
            )
        )  # fmt: skip
    shards = view.nodes_of(wanted)
    return found or [fine(subject, f"{len(shards)} shards, all slots have an owner, and none is on its way")]


async def _replicas(side: str, endpoint: Endpoint, view: View) -> list[Finding]:
    """Whether the replicas can be reached as they are announced: after a failover they are the primaries.

    The map leaves out those that nothing was written to yet (cluster.c: isReplicaAvailable); nodes tell of them all the same.
    """
    others = view.topology.others

    async def reach(address: tuple[str, int]) -> str:
        try:
            async with open_control(replace(endpoint, host=address[0], port=address[1], seeds=None)) as asked:
                await asked.call("PING")
        except OSError as problem:
            return problem.strerror or str(problem) or type(problem).__name__
        except Refused as refusal:  # what our user may do is asked of the primaries
            return "it refuses our user" if refusal.login else ""
        return ""

    if not others:
        told = (
            f"{len(view.followed)} replicas, which the cluster does not announce before something is written to them"
            if view.followed
            else "no replicas: a primary that is gone takes its slots with it"
        )
        return [note(f"{side}.announced", told)]
    answers = await each_of(others, reach)
    away = [shown(*address) for address, answer in zip(others, answers, strict=True) if answer]
    if away:
        reasons = sorted({answer for answer in answers if answer})
        return [
            warning(
                f"{side}.announced", f"{named(away)} cannot be used: {'; '.join(reasons)}",
                "when such a replica is promoted, the sync waits for it",
                f"open the way to all announced addresses, or name others in {side}_address_map",
            )
        ]  # fmt: skip
    return [fine(f"{side}.announced", f"{len(others)} replicas can be reached")]
