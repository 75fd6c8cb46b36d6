"""The nodes of a target cluster, as they were when they were looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Topology
    from portd.target.capabilities import Capabilities


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A primary of the target.

    Attributes:
        number: as the table of slots has it.
        endpoint: whoever has its first slot by now.
        run_id: of its process; "" when it does not tell.
        address: for people.
        first: its lowest slot.
        slots: ranges that it has.
    """

    number: int
    endpoint: Endpoint
    run_id: str
    address: str
    first: int
    slots: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ClusterTarget:
    """A cluster as it was when it was looked at.

    Attributes:
        endpoint: the home of the link.
        topology: its map.
        nodes: its primaries.
        capabilities: what all of them can do.
    """

    endpoint: Endpoint
    topology: Topology
    nodes: tuple[ClusterNode, ...]
    capabilities: Capabilities
