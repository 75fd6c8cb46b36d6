"""How far the nodes of a source were when streams had come so far: what orders two streams that know nothing of each other.

While slots move, the offsets of all nodes are asked for again and again, and what every link had received before that is kept beside. What
a stream says up to where it had been received was written before the question; what another node wrote before that is not
above its answer. So a link that stops at a slot waits for no more than it must, also when all of them lag.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from portd.errors import first_cause
from portd.groups import TaskGroup
from portd.net.control import Refused, open_control, parse_info
from portd.net.resp import request
from portd.net.shapes import whole
from portd.source.nodeview import MOST_OFFSET

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from portd.net.control import Control
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Node

MOST: Final = 2048  # moments that are kept; of more, every second one goes


Received = tuple[int, int]
"""What a link has of its stream: the generation of its border, and the offset of the last byte. Generations tell streams apart."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A question to all nodes.

    Attributes:
        received: of each link, what it had of its node's stream before, see `Received`.
        written: of each link whose node answered, the offset of that.
    """

    received: Mapping[str, Received]
    written: Mapping[str, int]


class Offsets:
    """Moments, and the connections over which nodes are asked.

    Args:
        endpoint: of the cluster.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._moments: list[Moment] = []
        self._lock = asyncio.Lock()  # of the connections
        self._open: dict[str, tuple[AsyncExitStack, Control]] = {}  # by address

    async def ask(
        self, received: Callable[[], Mapping[str, Received]], nodes: Mapping[str, tuple[Node, str]]
    ) -> Moment:
        """Asks all nodes how far they are. What a replica says counts for nothing, nor a node with another history: it may be far behind.

        Args:
            received: tells what is so of each link, see `Moment`.
            nodes: of each link, and the id of the history that it follows; "" where it is not known.
        """
        try:
            async with self._lock, TaskGroup() as group:
                before = dict(received())
                tasks = {
                    name: group.create_task(self._ask(node, replid), name=f"offset of {node.address}")
                    for name, (node, replid) in nodes.items()
                }
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from None
        found = Moment(before, {name: offset for name, task in tasks.items() if (offset := task.result()) is not None})
        if len(self._moments) >= MOST:
            del self._moments[::2]
        self._moments.append(found)
        return found

    def find(self, name: str, since: Received, others: set[str]) -> Moment | None:
        """The first moment at which a link had received its stream up to an offset, and others had told theirs.

        What it had of another stream says nothing of this one: behind a failover the same offset may be of something later.
        """
        for each in self._moments:
            generation, offset = each.received.get(name, (-1, -1))
            if generation == since[0] and offset >= since[1] and others <= each.written.keys():
                return each
        return None

    def forget(self, passed: Mapping[str, Received]) -> None:
        """No stream comes by these offsets again."""
        moments = self._moments
        while len(moments) > 1 and all(
            moments[0].received.get(name, (-1, -1)) <= since for name, since in passed.items()
        ):
            del moments[0]

    def clear(self) -> None:
        """A link has another history: offsets mean something else."""
        self._moments.clear()

    async def close(self) -> None:
        """Ends connections; idempotent."""
        while self._open:
            _, (stack, _) = self._open.popitem()
            await stack.aclose()

    async def _ask(self, node: Node, replid: str) -> int | None:
        try:
            if node.address not in self._open:
                stack = AsyncExitStack()
                place = replace(self._endpoint, host=node.host, port=node.port, seeds=None)
                self._open[node.address] = stack, await stack.enter_async_context(open_control(place))
            (info,) = await self._open[node.address][1].ask(request("INFO", "replication"))
        except (OSError, Refused):
            if node.address in self._open:
                await self._open.pop(node.address)[0].aclose()
            return None
        told = parse_info(info) if isinstance(info, bytes) else {}
        if told.get("role") != "master" or (
            replid and replid not in {told.get("master_replid"), told.get("master_replid2")}
        ):
            return None
        return whole(told.get("master_repl_offset", ""), MOST_OFFSET)
