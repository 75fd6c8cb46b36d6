"""What a target holds of links, wherever it lies: on one server, or on any node of a cluster."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

from portd.errors import TargetBusy
from portd.kernel.slotgroups import record_keys
from portd.kernel.slots import key_slot
from portd.net.resp import request
from portd.target.control import control, unmapped
from portd.target.kept.checkpoint import links_there
from portd.target.kept.epoch import check

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from portd.config.settings import Settings
    from portd.net.control import Control
    from portd.net.topology import Node, Topology

AT_ONCE: Final = 4096  # records that are removed in one go


class Directory:
    """Asks about keys of links; an async context manager, which keeps its connections. Raises `TargetError` where it cannot.

    Args:
        settings: of one link into the target.
        what: is done, for messages.

    Attributes:
        settings: see above.
    """

    def __init__(self, settings: Settings, what: str) -> None:
        self.settings = settings
        self._endpoint = settings.target_endpoint()
        self._what = what
        self._stack = AsyncExitStack()
        self._topology: Topology | None = None  # of a cluster
        self._open: dict[str, Control] = {}  # by address

    async def __aenter__(self) -> Self:
        seeds = self._endpoint.seeds
        if seeds is not None:
            try:
                self._topology = await seeds.read(self._endpoint.entrance)
            except OSError as error:
                raise unmapped(error) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)  # a refusal becomes one of our errors there

    async def call(self, command: str, key: str, *words: str | bytes | int) -> Any:
        """The answer to a command about a key, or several of one slot, from whoever has it."""
        return await (await self.at(key_slot(key.encode()))).call(command, key, *words)

    async def at(self, slot: int) -> Control:
        """A connection to whoever has a slot."""
        if self._topology is None:
            return await self._connect(None)
        node = self._topology.owner(slot)
        if node is None:
            raise TargetBusy(f"slot {slot} of the target has no owner", hint="redis-cli --cluster fix gives it one")
        return await self._connect(node)

    async def nodes(self) -> AsyncIterator[tuple[Node | None, Control]]:
        """Every server with its connection; the only one of a target that is no cluster is None."""
        for node in (None,) if self._topology is None else self._topology.nodes:
            yield node, await self._connect(node)

    async def links(self) -> set[str]:
        """Links that have a checkpoint there, by name. Looks at every key of db 0 in the worst case."""
        prefix, found = self.settings.checkpoint_key, set[str]()
        async for node, client in self.nodes():
            names = await links_there(client, prefix)
            found |= names if node is None else {name.removeprefix("{").removesuffix("}") for name in names}
        return found

    async def forget(self, link: str) -> None:
        """Removes the records of a cluster's slots, and then the checkpoint of a link: who is ended in between finds it again.

        Its epoch stays, which keeps late writes away.
        """
        prefix = self.settings.records_of(link).encode()
        for node in self._topology.nodes if self._topology is not None else ():
            client = await self._connect(node)
            for first, last in node.slots:
                for begin in range(first, last + 1, AT_ONCE):
                    keys = record_keys(prefix, begin, min(last, begin + AT_ONCE - 1))
                    for answer in await client.ask(*(request("DEL", key) for key in keys)):
                        check(answer, "the removal of slots' records")
        await self.call("DEL", self.settings.checkpoint_of(link))

    async def _connect(self, node: Node | None) -> Control:
        address = "" if node is None else node.address
        if address not in self._open:
            there = (
                self._endpoint if node is None else replace(self._endpoint, host=node.host, port=node.port, seeds=None)
            )
            self._open[address] = await self._stack.enter_async_context(control(there, self._what))
        return self._open[address]


async def other_links(settings: Settings) -> bool:
    """Another link than this one has its checkpoint in the target."""
    async with Directory(settings, "looking for other links") as there:
        return bool(await there.links() - {settings.link})
