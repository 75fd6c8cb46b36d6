"""Repairs a target that is a cluster: every key at the node that has its slot, also where that has just become another one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from portd.kernel.slots import key_slot, slot_tag
from portd.log import get_logger
from portd.net.clusterview import of_node, view_of
from portd.net.pieces import PieceControl
from portd.target.kept.epoch import EPOCH_SUFFIX
from portd.target.probe import inspect
from portd.verify.repair import Elsewhere
from portd.verify.settle import BATCH_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from portd.config.settings import Settings
    from portd.kernel.snapshot import Dialect
    from portd.net.topology import Node
    from portd.verify.repair import Repairer
    from portd.verify.shards import ClusterReader, Reader
    from portd.verify.store import Suspect, Suspects

TRIES: Final = 5  # owners that are asked for one key

log = get_logger("verify")


class ClusterRepairer:
    """Does what `Repairer` does, with one of these for each node.

    Args:
        settings: of the link whose sync may run meanwhile.
        source: open.
        make: a repairer, of a connection, what the node understands, and the key of the epoch there.
        stack: closes the connections.
    """

    def __init__(
        self,
        settings: Settings,
        source: Reader,
        make: Callable[[PieceControl, Dialect, str], Repairer],
        stack: ExitStack,
    ) -> None:
        self._settings = settings
        self._endpoint = settings.target_endpoint()
        self._source = source
        self._make = make
        self._stack = stack
        self._repairers: dict[tuple[str, int, str], Repairer] = {}

    async def run(self, keys: Suspects) -> None:
        """Repairs them all; see `Repairer.run`. A key whose slot is on its way stays as it is."""
        self._view = await view_of(self._endpoint)
        left = 0
        for batch in keys.batches(BATCH_KEYS):
            self._source.clear_notes()
            for each in batch:
                left += not await self._repair(each)
        if left:
            log.warning("keys are not repaired: their slots are on their way, or have no owner", keys=left)

    async def repair_functions(self, here: dict[bytes, bytes], target: ClusterReader) -> None:
        """Function libraries of every node; see `Repairer.repair_functions`."""
        self._view = await view_of(self._endpoint)
        of_each = {(part.reader.endpoint.host, part.reader.endpoint.port): part.reader for part in target.parts()}
        for node in self._view.topology.nodes:
            reader = of_each.get((node.host, node.port))
            there = None if reader is None else await reader.functions()
            if there is not None:
                await (await self._at(node)).repair_functions(here, there)

    async def _repair(self, each: Suspect) -> bool:
        """One key; False where no node takes it now."""
        for number in range(TRIES):
            if number:
                self._view = await view_of(self._endpoint)
            node = self._view.topology.owner(key_slot(each.name))
            if node is None:
                continue
            try:
                await (await self._at(node)).repair(each)
            except Elsewhere:
                continue
            return True
        return False

    async def _at(self, node: Node) -> Repairer:
        """What repairs a node: with its own epoch (`portd.target.cluster.nodes.take_nodes`), or the link's, which is at home."""
        home, settings = self._endpoint.slot, self._settings
        if any(first <= home <= last for first, last in node.slots):
            epoch = settings.checkpoint_name() + EPOCH_SUFFIX
        else:
            epoch = f"{settings.records_prefix()}{{{slot_tag(node.first)}}}{EPOCH_SUFFIX}"
        place = node.host, node.port, epoch
        if place not in self._repairers:
            found = await inspect(replace(self._endpoint, host=node.host, port=node.port, slot=node.first))
            control = PieceControl(of_node(self._endpoint, node))
            self._stack.callback(control.close)
            await control.open()
            repairer = self._make(control, found.dialect(), epoch)
            await repairer.begin()
            self._repairers[place] = repairer
        return self._repairers[place]
