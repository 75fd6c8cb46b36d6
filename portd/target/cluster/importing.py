"""Import mode of a cluster: on every primary that a link writes to, and on every replica that may be promoted in its place.

CONFIG is not replicated, and a replica that is promoted begins to expire by its own clock at once: so it is in the mode before. Nodes
come and go, so the map is read every now and then, and there is somebody for each node who looks at its mode.

Links of a cluster share nodes, and each has others. So there is one list for all of them, at the node that has its key: who ends as
the last one switches the mode off on every node, and whoever ends before leaves it on everywhere.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from portd.errors import TargetError, TargetLost
from portd.groups import TaskGroup
from portd.kernel.slots import key_slot
from portd.log import get_logger
from portd.net.backoff import Backoff
from portd.net.control import Refused, open_control
from portd.net.topology import shown
from portd.target.cluster.nodes import on_all
from portd.target.control import control
from portd.target.kept.importmode import LOOK_SECONDS, SETTING, Users, has_import_mode, look, note_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from portd.model import Progress
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Address, Ranges, Topology
    from portd.target.capabilities import Capabilities

_log = get_logger("target")

MAP_SECONDS: Final = 2.0  # between two looks at the map
WHAT: Final = "keeping import mode"  # for messages


class ClusterImportMode:
    """The mode for one link; used as `portd.target.kept.importmode.ImportMode` is.

    Args:
        endpoint: the home of the link.
        prefix: of checkpoint keys.
        link: its name.
        progress: `import_mode_losses` is counted.
        slots: tells what the link writes to.
    """

    def __init__(
        self, endpoint: Endpoint, prefix: str, link: str, progress: Progress, slots: Callable[[], Ranges]
    ) -> None:
        self._users = Users(prefix, link)
        self._endpoint = endpoint
        self._list = replace(endpoint, slot=key_slot(self._users.key.encode()))
        self._progress = progress
        self._slots = slots
        self._known: set[Address] = set()  # where it is on

    async def enter(self, capabilities: Capabilities) -> bool:
        """See `ImportMode.enter`. All primaries are put into the mode before this returns, replicas as far as they are there.

        Raises:
            TargetLost: the map cannot be read, or a primary cannot be reached.
        """
        if not has_import_mode(capabilities):
            return False
        async with control(self._list, "turning import mode on") as client:
            await self._users.sign(client)  # before the switch: who leaves meanwhile sees us
        primaries, replicas = _involved((await self._map()).within(self._slots()))
        everybody = (*primaries, *replicas)
        outcome = dict(zip(everybody, await self._switch(everybody, "yes"), strict=True))
        self._known = {address for address, error in outcome.items() if error is None}
        for address, error in outcome.items():
            if isinstance(error, Refused):
                hint = "allow +config|set on every node"
                _log.warning("no import mode", node=shown(*address), reply=error.text, hint=hint)
                await self._end(self._known)
                return False
            if error is not None and address in primaries:
                raise TargetLost(
                    f"the target {shown(*address)} cannot be reached while turning import mode on: {error}"
                )
        return True

    async def keep(self) -> None:
        """Looks at the mode of every node every second until cancelled, and at the map every two."""
        async with TaskGroup() as group:
            group.create_task(self._keep_list(), name="import mode, links")
            keepers: dict[Address, asyncio.Task[None]] = {}
            while True:
                try:
                    primaries, replicas = _involved((await self._map()).within(self._slots()))
                except TargetError as error:  # applier and lanes say more of it
                    _log.debug("import mode is not looked at", error=str(error))
                else:
                    involved = {*primaries, *replicas}
                    for address in involved - keepers.keys():
                        keepers[address] = group.create_task(
                            self._keep_node(address), name=f"import mode, {shown(*address)}"
                        )
                    for address in keepers.keys() - involved:
                        keepers.pop(address).cancel()
                        self._known.discard(address)
                await asyncio.sleep(MAP_SECONDS)

    async def _keep_node(self, address: Address) -> None:
        """Looks at one node; one that comes anew is no loss."""
        backoff = Backoff.quick()
        while True:
            try:
                async with control(self._at(address), WHAT) as client:
                    while True:
                        if not await look(client) and address in self._known:
                            note_loss(self._progress, node=shown(*address))
                        self._known.add(address)
                        backoff.reset()
                        await asyncio.sleep(LOOK_SECONDS)
            except TargetError as error:
                _log.debug("import mode is not looked at", node=shown(*address), error=str(error))
            await asyncio.sleep(backoff.next_wait())

    async def _keep_list(self) -> None:
        """Signs again every second."""
        backoff = Backoff.quick()
        while True:
            try:
                async with control(self._list, WHAT) as client:
                    while True:
                        await self._users.sign(client)
                        backoff.reset()
                        await asyncio.sleep(LOOK_SECONDS)
            except TargetError as error:
                _log.debug("links that need import mode are not listed", error=str(error))
            await asyncio.sleep(backoff.next_wait())

    async def leave(self) -> None:
        """Lets all nodes expire and evict again, unless another link needs the mode.

        Raises:
            TargetError: one cannot be reached, or refuses; the others have left it.
        """
        primaries, replicas = _involved(await self._map())
        if failed := await self._end({*primaries, *replicas, *self._known}):
            raise TargetLost(f"import mode is not off everywhere: {'; '.join(failed)}")

    async def _end(self, addresses: Iterable[Address]) -> list[str]:
        """Switches the mode of some nodes off, unless another link needs it; what went wrong.

        Raises:
            TargetError: the list of links cannot be read.
        """
        async with control(self._list, "turning import mode off") as client:
            if await self._users.leave(client):
                return []
        places = sorted(addresses)
        outcome = zip(places, await self._switch(places, "no"), strict=True)
        return [f"{shown(*address)}: {error or 'no answer'}" for address, error in outcome if error is not None]

    async def _switch(self, addresses: Sequence[Address], value: str) -> list[OSError | Refused | None]:
        """Sets the mode of some nodes at once; what went wrong with each."""

        async def work(address: Address) -> OSError | Refused | None:
            try:
                async with open_control(self._at(address)) as client:
                    await client.call("CONFIG", "SET", SETTING, value)
            except (OSError, Refused) as error:
                return error
            return None

        return await on_all("import mode", addresses, work)

    def _at(self, address: Address) -> Endpoint:
        return replace(self._endpoint, host=address[0], port=address[1], seeds=None)

    async def _map(self) -> Topology:
        """Raises: TargetLost: nobody tells."""
        seeds = self._endpoint.seeds
        assert seeds is not None, "only clusters have a map"
        try:
            return await seeds.read(self._endpoint.entrance)
        except OSError as error:
            raise TargetLost(f"the target's map cannot be read: {error}") from None


def _involved(topology: Topology) -> tuple[list[Address], list[Address]]:
    """Primaries, and their replicas."""
    return (
        [(node.host, node.port) for node in topology.nodes],
        [address for node in topology.nodes for address in node.replicas],
    )
