"""A cluster at a moment, as its primaries tell it: who has which slots, which are on their way, and who follows whom.

For those who read a cluster part by part: views from before, from behind and now and then between say which slots may have
been elsewhere meanwhile.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from portd.errors import ConfigError, SourceLost, first_cause
from portd.groups import TaskGroup
from portd.net.control import Refused, open_control
from portd.net.replies import error_of
from portd.net.shapes import whole
from portd.net.topology import ALL_SLOTS, NoCluster, common, moving, slots_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from portd.net.endpoint import Endpoint
    from portd.net.topology import Node, Ranges, Topology

ASKED_AT_ONCE: Final = 16  # nodes


@dataclass(frozen=True, slots=True)
class View:
    """What the primaries said.

    Attributes:
        topology: who has which slots.
        marks: the other node's id, by slot that is on its way.
        followed: the primary's id, by that of a replica.
        epochs: the config epoch of a primary, by id, as it says itself: who gets a slot by a move gets another one with it.
    """

    topology: Topology
    marks: Mapping[int, str]
    followed: Mapping[str, str]
    epochs: Mapping[str, int] = field(default_factory=dict)

    def unsettled(self, wanted: Ranges = ALL_SLOTS) -> list[int]:
        """Slots that are on their way, or that nobody has; ascending."""
        return [slot for slot in slots_of(wanted) if slot in self.marks or self.topology.owner(slot) is None]

    def nodes_of(self, wanted: Ranges = ALL_SLOTS) -> list[tuple[Node, Ranges]]:
        """Primaries that have some of the slots that are wanted, and those slots."""
        return [(node, shard) for node in self.topology.nodes if (shard := common(node.slots, wanted))]

    def elsewhere_since(self, before: View, wanted: Ranges = ALL_SLOTS) -> list[int]:
        """Slots that may have been somewhere else between two views: moved, on their way, or without an owner; ascending.

        A replica that has taken its primary's place with all its slots has moved none.
        """
        found = set(self.unsettled(wanted)) | set(before.unsettled(wanted))
        for node, slots in before.nodes_of(wanted):
            if not any(now.slots == node.slots and self._is(now, node, before) for now in self.topology.nodes):
                found.update(slot for slot in slots_of(slots) if not self._has(slot, node, before))
        return sorted(found)

    def returned_since(self, before: View, wanted: Ranges = ALL_SLOTS) -> list[int]:
        """Slots that may have left their primary between two views, and be there again; ascending.

        Which of them, it does not tell: all that a node has count when it got some of them anew.
        """
        bumped = {name for name, epoch in self.epochs.items() if before.epochs.get(name, epoch) != epoch}
        found = [slots for node, slots in self.nodes_of(wanted) if node.name in bumped]
        return sorted(slot for slots in found for slot in slots_of(slots))

    @staticmethod
    def _is(now: Node, node: Node, before: View) -> bool:
        return now.name == node.name or before.followed.get(now.name) == node.name

    def _has(self, slot: int, node: Node, before: View) -> bool:
        now = self.topology.owner(slot)
        return now is not None and self._is(now, node, before)


def of_node(endpoint: Endpoint, node: Node) -> Endpoint:
    """The endpoint of one node of a cluster."""
    return replace(endpoint, host=node.host, port=node.port, seeds=None)


async def look(endpoint: Endpoint) -> View:
    """Asks a cluster.

    Args:
        endpoint: of a cluster.

    Raises:
        OSError: no node tells the map (`NoMap`), or an owner of slots cannot be asked.
        Refused: one refuses.
        ConfigError: a TLS file cannot be used.
    """
    assert endpoint.seeds is not None, "only clusters have a map"
    topology = await endpoint.seeds.read(endpoint.entrance)
    limit = asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(node: Node) -> object:
        async with limit, open_control(of_node(endpoint, node)) as asked:
            return await asked.call("CLUSTER", "NODES")

    try:
        async with TaskGroup() as group:
            tasks = [group.create_task(ask(node), name=f"view {node.address}") for node in topology.nodes]
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from None
    return view_from(topology, (task.result() for task in tasks))


def view_from(topology: Topology, answers: Iterable[object]) -> View:
    """What primaries said.

    Args:
        topology: the map.
        answers: of each of them to ``CLUSTER NODES``.
    """
    marks: dict[int, str] = {}
    followed: dict[str, str] = {}
    epochs: dict[str, int] = {}
    for answer in answers:
        marks |= moving(answer)
        lines = _lines(answer)
        followed |= {words[0]: words[3] for words in lines if words[3] != "-"}
        own = [words for words in lines if "myself" in words[2].split(",")]
        epochs |= {words[0]: epoch for words in own if (epoch := whole(words[6])) is not None}
    return View(topology, marks, followed, epochs)


def _lines(answer: object) -> list[list[str]]:
    """Words of the lines of ``CLUSTER NODES``: id, address, flags, whom it follows, two times, config epoch, link, slots."""
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else ""
    return [words for line in text.splitlines() if len(words := line.split()) > 7]


async def view_of(endpoint: Endpoint) -> View:
    """`look`, with what goes wrong turned into errors of ours, for those to whom both ends are alike.

    Raises:
        ConfigError: this is no cluster.
        SourceLost: no node tells, or an owner of slots cannot be asked.
        TargetError: one does not let us ask.
    """
    try:
        return await look(endpoint)
    except NoCluster as error:
        raise ConfigError(
            f"{endpoint.display} is no cluster: {error}", hint="redis://host:port is the URL of one server"
        ) from None
    except OSError as error:
        raise SourceLost(
            f"the map of {endpoint.display} cannot be read: {error}", hint="check hosts, ports and TLS"
        ) from None
    except Refused as refusal:
        raise error_of(
            refusal.text, "does not tell its map", who=endpoint.display, login=refusal.login,
            hint="allow +cluster|slots +cluster|nodes to our user on every node",
        ) from None  # fmt: skip
