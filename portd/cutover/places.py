"""An end of a cut-over: a server, or the primaries of a cluster as they were when it began.

All that is asked, stopped and watched is so at these very nodes. A failover, a slot that moves or a process that was started
again is therefore no detail that somebody else follows: it is found, and ends the cut-over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from portd.cutover.doubt import Doubt
from portd.cutover.servers import ask_server, asking, together
from portd.errors import HandshakeError
from portd.net.clusterview import of_node, view_from, view_of
from portd.net.control import Refused, checked, parse_info
from portd.net.identity import ServerIdentity
from portd.net.resp import request
from portd.net.topology import ALL_SLOTS, parse_slots, ranges_of, spelled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        """Who had a slot at the beginning; the end itself where it is no cluster, or nobody had it."""
        owner = None if self.topology is None else self.topology.owner(slot)
        return self.endpoint if owner is None else of_node(self.endpoint, owner)

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
        """The nodes are those of the beginning: the same processes, in the same role, with the same slots.

        Each of them is asked for itself: one that the others have replaced may not know it yet, and one that was replaced
        knows it last.

        Raises:
            Doubt: they are not.
            SourceLost: one does not answer.
            HandshakeError: one does not let us ask.
        """
        told = await together(self.nodes, self._ask, f"look at {self.name}")
        for node, (info, _), before in zip(self.nodes, told, self.identities, strict=True):
            where = "" if self.topology is None else f" at {node.display}"
            now = ServerIdentity.of(info)
            if now.run_id != before.run_id:
                raise Doubt(f"the {self.name}{where} was started again meanwhile", hint="run it again")
            if now.role != before.role:
                raise Doubt(f"the {self.name}{where} is a primary no more: it failed over", hint="run it again")
        if self._view is not None:
            self._check_slots(self._view, [answers for _, answers in told])

    async def _ask(self, node: Endpoint) -> tuple[dict[str, str], list[Any]]:
        """Who a node is; of a cluster also its map, and what it says of all nodes, in a single question."""
        questions = [request("INFO", "server"), request("INFO", "replication")]
        if self._view is not None:
            questions += [request("CLUSTER", "SLOTS"), request("CLUSTER", "NODES")]
        try:
            async with asking(node) as control:
                server, replication, *answers = [checked(each) for each in await control.ask(*questions)]
        except Refused as refusal:
            raise HandshakeError(
                f"{node.display} does not let us ask: {refusal.text}",
                hint="a cut-over needs +info at both ends, and +cluster|slots +cluster|nodes on every node",
            ) from None
        return parse_info(server) | parse_info(replication), answers

    def _check_slots(self, before: View, told: Sequence[list[Any]]) -> None:
        """Raises: Doubt: a node says that slots have moved, move, or may have been away. HandshakeError: it tells no map."""
        assert self.endpoint.seeds is not None
        mapped = dict(self.endpoint.seeds.mapped)
        for node, (slots, _) in zip(self.nodes, told, strict=True):
            try:
                self._compare(parse_slots(slots, node.host, mapped))
            except ValueError as error:
                raise HandshakeError(f"{node.display} does not tell its map: {error}") from None
        now = view_from(before.topology, (lines for _, lines in told))
        self._refuse_unsettled(now)
        if away := now.returned_since(before):
            raise Doubt(
                f"slots of the {self.name} may have moved meanwhile, of {spelled(ranges_of(away))}",
                hint="run it again when no slots move",
            )

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
