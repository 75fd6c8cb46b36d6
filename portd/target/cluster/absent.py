"""Nodes of the target that do not take what is theirs: told to operators, and looked for until they are back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from portd.errors import DataLost, TargetBusy, TargetLost
from portd.kernel.slotgroups import record_keys
from portd.log import get_logger
from portd.model import NodeAway
from portd.net.backoff import Backoff
from portd.net.control import Refused, open_control
from portd.net.topology import spelled
from portd.target.cluster.nodes import at, require_home
from portd.target.connection import Disconnected

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from portd.model import Progress
    from portd.target.clusternodes import ClusterNode, ClusterTarget
    from portd.target.kept.epoch import Epoch

_log = get_logger("target")


class Back(Disconnected):
    """A node that was away answers: a round begins with it."""


class Absent:
    """Who is away, and since when.

    Args:
        prefix: of the records' keys.
        epoch: of the link.
        progress: `nodes_away` is kept up to date.
    """

    def __init__(self, prefix: str, epoch: Epoch, progress: Progress) -> None:
        self._prefix = prefix.encode()
        self._epoch = epoch
        self._told = progress.nodes_away
        self._waits: dict[str, Backoff] = {}  # by address; a node that comes and goes is looked for less often

    def note(self, node: ClusterNode, reason: str, since: float = 0.0) -> None:
        """A node does not take what is its own, from now on or since unix time *since*; told once."""
        if node.address in self._told:
            self._told[node.address].reason = reason
            return
        self._told[node.address] = NodeAway(node.address, spelled(node.slots), reason, since or time.time())
        _log.warning(
            "a node of the target is left behind", node=node.address, slots=spelled(node.slots), reason=reason,
            hint="the others go on; what comes for it is read again when it is back",
        )  # fmt: skip

    def there(self, node: ClusterNode) -> None:
        """A node has what the others have."""
        self._waits.pop(node.address, None)
        if (told := self._told.pop(node.address, None)) is not None:
            seconds = round(time.time() - told.since, 1)
            _log.info("a node of the target has caught up", node=node.address, slots=told.slots, seconds=seconds)

    def look(self, there: Iterable[ClusterNode], behind: Collection[int], since: float) -> None:
        """Nodes that are connected: those whose numbers are in *behind* were left behind, perhaps under another address."""
        for node in there:
            if node.number in behind:
                self.note(node, "it catches up", since)
            else:
                self.there(node)

    def keep(self, addresses: Iterable[str]) -> float:
        """Nodes of other addresses have no slots any more; since when they were away, 0 when none was."""
        known = set(addresses)
        gone = [self._told.pop(address) for address in list(self._told) if address not in known]
        return min((each.since for each in gone), default=0.0)

    async def until_back(self, node: ClusterNode, cluster: ClusterTarget) -> None:
        """Waits until somebody answers for the slots of a node.

        Raises:
            Back: somebody does, and the link is still ours.
            LinkTaken: it is not.
            DataLost: nor is it anybody's.
        """
        waits = self._waits.setdefault(node.address, Backoff.quick())
        while True:
            await asyncio.sleep(waits.next_wait())
            if not await self._answers(node.first, cluster):
                continue
            try:
                await require_home(cluster, self._epoch)  # without it no round begins
            except (TargetLost, TargetBusy) as error:
                if isinstance(error, DataLost):
                    raise
                continue
            raise Back(f"{node.address} is back", "back")

    async def _answers(self, slot: int, cluster: ClusterTarget) -> bool:
        seeds = cluster.endpoint.seeds
        assert seeds is not None, "only clusters have a map"
        try:
            owner = (await seeds.read(cluster.endpoint.entrance)).owner(slot)
            if owner is None:
                return False
            async with open_control(at(cluster.endpoint, owner)) as asked:
                await asked.call("GET", record_keys(self._prefix, slot, slot)[0])
        except (OSError, Refused) as error:  # it is looked for again
            _log.debug("a node of the target is still away", slot=slot, error=str(error))
            return False
        return True
