"""The beginning of a round: every node of the cluster that is there is connected, nobody else writes to it, and its records are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from portd.errors import DataLost, TargetBusy, TargetLost
from portd.target.cluster.nodes import at, end_connections, on_some, read_map, require_home
from portd.target.cluster.records import read_records
from portd.target.cluster.shard import Shard
from portd.target.clusternodes import ClusterNode
from portd.target.connection import Disconnected, connect, set_up

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack

    from portd.model import Progress
    from portd.net.topology import Topology
    from portd.target.cluster.barrier import Markers
    from portd.target.cluster.records import Record
    from portd.target.clusternodes import ClusterTarget
    from portd.target.kept.lease import Lease
    from portd.target.stream.applying import ApplierOptions

PASSES: Final = (Disconnected, TargetBusy)  # of one node: it is away
THERE_SECONDS: Final = 3.0  # others are waited for so long when one node has answered

FoundT = TypeVar("FoundT")


@dataclass(slots=True)
class Entered:
    """What a round begins with.

    Attributes:
        topology: the map.
        shards: nodes that are there, and what the records of their slots say.
        away: nodes that are not, and why.
    """

    topology: Topology
    shards: list[tuple[Shard, list[Record]]] = field(default_factory=list)
    away: list[tuple[ClusterNode, str]] = field(default_factory=list)

    def there(
        self, nodes: Sequence[ClusterNode], outcome: Sequence[FoundT | Exception], *, all_of_them: bool
    ) -> list[FoundT]:
        """What came of the nodes that answered; the others are away.

        Raises:
            Disconnected: none did, or all have to.
            TargetBusy: likewise.
        """
        errors = [each for each in outcome if isinstance(each, Exception)]
        if errors and (len(errors) == len(nodes) or all_of_them):
            raise errors[0]
        for node, each in zip(nodes, outcome, strict=True):
            if isinstance(each, Exception):
                self.away.append((node, each.reason if isinstance(each, Disconnected) else str(each.args[0])))
        return [each for each in outcome if not isinstance(each, Exception)]


class Entering:
    """Enters the nodes of a cluster, again and again.

    Args:
        lease: of the link.
        options: of the applier.
        records: what the keys of records begin with.
        markers: where they are.
        progress: `lanes` are filled anew, one for each node.
    """

    def __init__(
        self, lease: Lease, options: ApplierOptions, records: str, markers: Markers, progress: Progress
    ) -> None:
        self._lease = lease
        self._options = options
        self._prefix = records
        self._markers = markers
        self._progress = progress

    async def enter(self, cluster: ClusterTarget, stack: AsyncExitStack, *, all_of_them: bool) -> Entered:
        """Every primary that is there.

        Args:
            cluster: the target.
            stack: closes connections.
            all_of_them: none may be away.

        Raises:
            Disconnected: none is there, or one is not that has to be; or nobody tells the map.
            TargetBusy: likewise, or slots are on their way.
            LinkTaken: another process has the link.
            DataLost: the epoch is gone.
            TargetError: a node refuses for good.
        """
        patience = None if all_of_them else THERE_SECONDS
        home = cluster.endpoint
        try:
            entered = Entered(await read_map(home, cluster.slots, patience))
        except TargetLost as error:
            raise Disconnected(str(error.args[0]), "map") from None
        states = self._progress.take_lanes(len(entered.topology.nodes))
        nodes = [
            ClusterNode(number, at(home, node), "", node.address, node.first, node.slots)
            for number, node in enumerate(entered.topology.nodes)
        ]

        async def connected(node: ClusterNode) -> Shard:
            state = states[node.number]
            name = f"shard-{node.number}"
            connection = await connect(node.endpoint, name, state.connection, self._options.connection)
            stack.callback(connection.close)
            return Shard(node, connection, state)

        outcome = await on_some("connect", nodes, connected, PASSES, patience)
        shards = entered.there(nodes, outcome, all_of_them=all_of_them)
        try:
            await require_home(cluster, self._options.epoch)  # who takes the link from now on ends the connections
        except TargetLost as error:
            if isinstance(error, DataLost):
                raise
            raise Disconnected(str(error.args[0]), "epoch") from None
        asked = [shard.node for shard in shards]
        told = await on_some("records", shards, self._alone, PASSES, patience)
        entered.shards = entered.there(asked, told, all_of_them=all_of_them)
        return entered

    async def _alone(self, shard: Shard) -> tuple[Shard, list[Record]]:
        """Nobody else writes to a node; what its records say."""
        async with set_up(shard.connection, shard.node.endpoint.silence_seconds):
            await end_connections(shard.connection, self._lease)
            records = await read_records(shard.connection, self._prefix, shard.node.slots)
            await self._markers.read(shard)
        shard.connection.establish()
        return shard, records
