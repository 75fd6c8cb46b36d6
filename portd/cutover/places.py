"""An end of a cut-over: a server, or the primaries of a cluster as they were when it began.

All that is asked, stopped and watched is so at these very nodes. A failover, a slot that moves or a process that was started
again is therefore no detail that somebody else follows: it is found, and ends the cut-over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from portd.cutover.doubt import Doubt
from portd.cutover.servers import ask_server, asking, together
from portd.errors import HandshakeError
from portd.net.clusterview import of_node, view_of
from portd.net.control import Refused
from portd.net.identity import ServerIdentity
from portd.net.topology import ALL_SLOTS, parse_slots, ranges_of, spelled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portd.net.clusterview import View
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Ranges, Topology


class Place:
    """One end; use `open`, then all the rest.

    Args:
        name: ``source`` or ``target``.
        endpoint: of it.
        wanted: slots that count, of a cluster.

    Attributes:
        nodes: its servers; of a cluster the primaries that have slots, by the lowest of them.
        replicas: of a cluster: those that may take their place.
        topology: the map of a cluster; None: it is none.
        identities: who the nodes are, in their order, since `infos` was asked first.
    """

    def __init__(self, name: str, endpoint: Endpoint, wanted: Ranges = ALL_SLOTS) -> None:
        self.name = name
        self.endpoint = endpoint
        self.nodes: tuple[Endpoint, ...] = (endpoint,)
        self.replicas: tuple[Endpoint, ...] = ()
        self.topology: Topology | None = None
        self.identities: list[ServerIdentity] = []
        self._wanted = wanted
        self._view: View | None = None

    async def open(self) -> None:
        """Looks where the nodes of a cluster are.

        Raises:
            ConfigError: it is none.
            Doubt: slots are on their way, or have no owner.
            SourceLost: the map cannot be read.
            TargetError: a node does not let us ask.
        """
        if self.endpoint.seeds is None:
            return
        view = await view_of(self.endpoint)
        self._refuse_unsettled(view)
        self._view, self.topology = view, view.topology
        self.nodes = tuple(of_node(self.endpoint, node) for node, _ in view.nodes_of(self._wanted))
        self.replicas = tuple(
            replace(self.endpoint, host=host, port=port, seeds=None) for host, port in view.topology.others
        )

    def node(self, slot: int) -> Endpoint:
        """Who had a slot at the beginning."""
        if self.topology is None:
            return self.endpoint
        owner = self.topology.owner(slot)
        assert owner is not None, "all slots had owners"
        return of_node(self.endpoint, owner)

    async def infos(self) -> list[dict[str, str]]:
        """INFO of each node, in their order.

        Raises:
            SourceLost: one does not answer.
            HandshakeError: one does not let us ask.
        """
        found = await together(self.nodes, ask_server, f"ask {self.name}")
        if not self.identities:
            self.identities = [ServerIdentity.of(info) for info in found]
        return found

    def shown(self) -> dict[str, object]:
        """Who it is, for the report."""
        if self.topology is None:
            return {"server": self.identities[0].name, "run_id": self.identities[0].run_id}
        return {
            "nodes": {
                node.display: {"server": each.name, "run_id": each.run_id}
                for node, each in zip(self.nodes, self.identities, strict=True)
            }
        }

    async def check(self) -> None:
        """The nodes are those of the beginning: the same processes, primaries, with the same slots.

        Each of them is asked for itself: one that the others have replaced may not know it yet, and one that was replaced
        knows it last.

        Raises:
            Doubt: they are not.
            SourceLost: one does not answer.
            HandshakeError: one does not let us ask.
            TargetError: likewise.
        """
        for node, info, before in zip(self.nodes, await self.infos(), self.identities, strict=True):
            where = "" if self.topology is None else f" at {node.display}"
            now = ServerIdentity.of(info)
            if now.run_id != before.run_id:
                raise Doubt(f"the {self.name}{where} was started again meanwhile", hint="run it again")
            if now.role != before.role:
                raise Doubt(f"the {self.name}{where} is a primary no more: it failed over", hint="run it again")
        if self._view is None:
            return
        for topology in await together(self.nodes, self._map_of, f"map of {self.name}"):
            self._compare(topology)
        view = await view_of(self.endpoint)
        self._refuse_unsettled(view)
        self._compare(view.topology)
        if slots := view.returned_since(self._view):
            raise Doubt(
                f"slots of the {self.name} may have moved meanwhile, of {spelled(ranges_of(slots))}",
                hint="run it again when no slots move",
            )

    async def _map_of(self, node: Endpoint) -> Topology:
        """The map as one node tells it."""
        assert self.endpoint.seeds is not None
        try:
            async with asking(node) as control:
                answer = await control.call("CLUSTER", "SLOTS")
            return parse_slots(answer, node.host, dict(self.endpoint.seeds.mapped))
        except Refused as refusal:
            raise HandshakeError(
                f"{node.display} does not tell its map: {refusal.text}", hint="it takes +cluster|slots on every node"
            ) from None
        except ValueError as error:
            raise HandshakeError(f"{node.display} does not tell its map: {error}") from None

    def _compare(self, now: Topology) -> None:
        """Raises: Doubt: other nodes have the slots, or each has others."""
        assert self.topology is not None
        before = _owners(self.topology)
        there = _owners(now)
        if there == before:
            return
        for node in self.topology.nodes:
            if node.name not in there:
                raise Doubt(
                    f"the {self.name} at {node.address} has its slots no more: it failed over, or they have moved",
                    hint="run it again when the cluster is at rest",
                )
        raise Doubt(f"slots of the {self.name} have moved meanwhile", hint="run it again when no slots move")

    def _refuse_unsettled(self, view: View) -> None:
        """Raises: Doubt: slots are on their way, or have no owner."""
        if slots := view.unsettled(self._wanted):
            raise Doubt(
                f"slots {spelled(ranges_of(slots))} of the {self.name} are on their way to another node, or have no owner",
                hint="run it again when the move is over; redis-cli --cluster check tells",
            )


def _owners(topology: Topology) -> Mapping[str, Ranges]:
    """Slots by the id of the node that has them."""
    return {node.name: node.slots for node in topology.nodes}
