"""What stops the writes of a whole source: one fence at a server, or one at each primary of a cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from portd.cutover.doubt import Doubt
from portd.cutover.fences import LEASE_SECONDS, Acl, Fence, Own, Pause, Replicas
from portd.cutover.options import Stop
from portd.cutover.servers import together
from portd.errors import PortdError, first_cause
from portd.groups import TaskGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from portd.cutover.options import Options
    from portd.net.endpoint import Endpoint

ResultT = TypeVar("ResultT")


class Everywhere(Fence):
    """The same at every primary of a cluster: all of them at once, and all or none.

    Replicas may be fenced, too, for when they are promoted. They hold nobody up: where it cannot be done, that is told.

    Args:
        endpoint: of the cluster.
        fences: one for each primary.
        replicas: likewise.
    """

    def __init__(self, endpoint: Endpoint, fences: Sequence[Fence], replicas: Sequence[Fence] = ()) -> None:
        super().__init__(endpoint)
        self._fences = fences
        self._replicas = list(replicas)
        self._open: list[str] = []  # replicas that are not fenced, and why
        self.absolute = all(each.absolute for each in fences)

    @property
    def stands(self) -> bool:
        """It may have to be undone somewhere."""
        return any(each.stands for each in self._all)

    @property
    def _all(self) -> list[Fence]:
        return [*self._fences, *self._replicas]

    async def prepare(self) -> str:
        """Finds out whether it can be done everywhere; see `Fence`."""
        words = await together(self._fences, lambda each: each.prepare(), "fence")
        await self._at_replicas(lambda each: each.prepare())
        more = f" and {len(self._replicas)} replicas" if self._replicas else ""
        return f"{words[0]}, at {len(words)} primaries{more}"

    async def stop(self) -> None:
        """Stops the writes. One that refuses does not call back what is on its way to the others: an answer is waited for."""
        await self._at_all(lambda each: each.stop())
        await self._at_replicas(lambda each: each.stop())

    async def keep(self) -> None:
        """Sees to it that they stay stopped everywhere, until cancelled."""
        try:
            async with TaskGroup() as group:  # all of them at a time, however many there are
                for each in self._fences:
                    group.create_task(each.keep(), name=f"writes stopped at {each.where}")
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from None

    async def free(self) -> bool:
        """Lets writes go on everywhere; a node that does not answer holds up no other. See `Fence`."""
        return all(await together(self._all, lambda each: each.free(), "free"))

    async def stay(self, seconds: float) -> str:
        """It is done; see `Fence`."""
        words = await self._at_all(lambda each: each.stay(seconds))
        return "; ".join(dict.fromkeys(filter(None, [*words, *self._open])))

    def by_hand(self) -> str:
        """How somebody undoes it, where that is still to be done."""
        where: dict[str, list[str]] = {}
        for each in self._all:
            if each.stands:
                where.setdefault(each.by_hand(), []).append(each.where)
        return "; ".join(f"{words} ({', '.join(nodes)})" for words, nodes in where.items())

    async def _at_all(self, act: Callable[[Fence], Awaitable[ResultT]]) -> list[ResultT]:
        """Does it at each, and waits for all of them also where one fails.

        Raises:
            Doubt: some failed, all of which are told.
        """

        async def one(fence: Fence) -> ResultT | Doubt:
            try:
                return await act(fence)
            except Doubt as error:
                return error

        found = await together(self._fences, one, "fence")
        failed = [each for each in found if isinstance(each, Doubt)]
        if failed:
            raise Doubt("; ".join(str(each.args[0]) for each in failed), hint=failed[0].hint)
        return [each for each in found if not isinstance(each, Doubt)]

    async def _at_replicas(self, act: Callable[[Fence], Awaitable[object]]) -> None:
        """Does it at each replica; one at which it fails is left out from then on, unless it has to be undone there."""

        async def one(fence: Fence) -> str:
            try:
                async with asyncio.timeout(LEASE_SECONDS):
                    await act(fence)
            except (PortdError, TimeoutError) as error:
                why = error.args[0] if error.args else "no answer in time"
                return f"should {fence.where} be promoted, it is not fenced: {why}"
            return ""

        told = await together(self._replicas, one, "fence")
        self._open += filter(None, told)
        self._replicas = [each for each, why in zip(self._replicas, told, strict=True) if not why or each.stands]

    async def _stop(self) -> None:
        await self.stop()

    async def _free(self) -> None:
        await self.free()


def fence_of(options: Options, place: Endpoint, nodes: Sequence[Endpoint], replicas: Sequence[Endpoint] = ()) -> Fence:
    """What stops the writes.

    Args:
        options: how.
        place: where clients write.
        nodes: the servers there.
        replicas: of a cluster: those that may take their place.
    """
    if options.stop is Stop.COMMAND:
        return Own(place, options.stop_command, options.resume_command)
    if options.stop is Stop.ACL:
        return _of_users(options, place, nodes, replicas)
    one = Pause if options.stop is Stop.PAUSE else Replicas
    return _everywhere(place, [one(node) for node in nodes])


def fence_of_users(
    options: Options, place: Endpoint, nodes: Sequence[Endpoint], replicas: Sequence[Endpoint] = ()
) -> Fence | None:
    """What keeps users from writing for good at the end, behind another fence; None where nobody is named. See `fence_of`."""
    if not options.users or options.stop is Stop.ACL:
        return None
    return _of_users(options, place, nodes, replicas)


def _of_users(options: Options, place: Endpoint, nodes: Sequence[Endpoint], replicas: Sequence[Endpoint]) -> Fence:
    primaries, others = ([Acl(node, options.users) for node in those] for those in (nodes, replicas))
    return _everywhere(place, primaries, others)


def _everywhere(place: Endpoint, fences: Sequence[Fence], replicas: Sequence[Fence] = ()) -> Fence:
    return fences[0] if place.seeds is None else Everywhere(place, fences, replicas)
