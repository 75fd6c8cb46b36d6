"""The nodes of a target cluster, as they were when they were looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Ranges, Topology
    from portd.target.capabilities import Capabilities


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A primary of the target that has slots which the link writes to.

    Attributes:
        number: as the table of slots has it.
        endpoint: whoever has its first slot by now.
        run_id: of its process; "" when it does not tell.
        address: for people.
        first: the lowest of its slots.
        slots: ranges that it has of those that the link writes to.
    """

    number: int
    endpoint: Endpoint
    run_id: str
    address: str
    first: int
    slots: Ranges

    def has(self, slot: int) -> bool:
        """Whether it has a slot, and the link writes to that."""
        return any(first <= slot <= last for first, last in self.slots)


@dataclass(frozen=True, slots=True)
class ClusterTarget:
    """A cluster as it was when it was looked at.

    Attributes:
        endpoint: the home of the link.
        slots: that the link writes to; other links of a source cluster have the others.
        topology: the map of these.
        nodes: the primaries that have them.
        capabilities: what all of them can do.
    """

    endpoint: Endpoint
    slots: Ranges
    topology: Topology
    nodes: tuple[ClusterNode, ...]
    capabilities: Capabilities
