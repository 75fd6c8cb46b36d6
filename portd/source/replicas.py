"""Which node of a source cluster's shard is read: where its primary is to be spared, a replica of it.

A replica passes on what its primary sends, byte for byte: replid and offsets are the primary's, and so one can go on where
another one has ended. One that has not yet received what was read elsewhere would answer with a full sync, so it is waited for.
One that follows another primary by now would send the keys of another shard, and one that was promoted is none any more: the
node that is read says itself whom it follows.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from portd.config.choices import ReadFrom
from portd.errors import SourceBusy
from portd.log import get_logger
from portd.net.backoff import Backoff
from portd.net.control import Refused, open_control, parse_info
from portd.net.shapes import whole
from portd.net.topology import NoMap, followed, shown
from portd.source.losses import connect_error
from portd.source.refusals import refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.model import Position
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Address, Node

_log = get_logger("source")

SHUNNED_SECONDS: Final = 10.0  # a node that was of no use is the last to be tried for so long
BEHIND_SECONDS: Final = 5.0  # longest wait for a replica that has not yet received what was read elsewhere
NO_REPLICA: Final = "NOREPLICA"
HINT: Final = "portd tries again; source_read_from prefer-replica takes the primary meanwhile"

ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)


class Replicas:
    """Chooses the node of a shard whose stream is read, and makes connections to it.

    Args:
        endpoint: the shard.
        wanted: a replica, or the primary where none is there.

    Attributes:
        at: the node that was connected last; None before.
        primary: that is the shard's primary.
    """

    def __init__(self, endpoint: Endpoint, wanted: ReadFrom) -> None:
        self.at: Endpoint | None = None
        self.primary = False
        self._endpoint = endpoint
        self._wanted = wanted
        self._owner: Node | None = None  # when it was connected
        self._shunned: dict[Address, float] = {}  # until when, by the loop's clock

    @classmethod
    def of(cls, endpoint: Endpoint, wanted: ReadFrom) -> Replicas | None:
        """None where the primary is wanted."""
        return None if wanted is ReadFrom.PRIMARY else cls(endpoint, wanted)

    @property
    def told(self) -> str:
        """Who is read, for people."""
        return (
            "" if self.at is None else f"{'primary' if self.primary else 'replica'} {shown(self.at.host, self.at.port)}"
        )

    async def connect(
        self, factory: Callable[[], ProtocolT], position: Position | None, *, seconds: float
    ) -> tuple[asyncio.Transport, ProtocolT]:
        """Opens a connection to the first node that can be had.

        Args:
            factory: see `Endpoint.connect`.
            position: that is to be gone on from.
            seconds: for everything.

        Raises:
            SourceBusy: no replica can be read now.
            OSError: nobody tells the map; or the primary, which is the last to be tried, cannot be reached.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        async with asyncio.timeout(seconds):
            node = await self._look()
        reasons: list[str] = []
        places = self._places(node)
        for number, address in enumerate(places):
            share = max(0.1, (ends - loop.time()) / (len(places) - number))
            place = replace(self._endpoint, host=address[0], port=address[1], seeds=None)
            try:
                async with asyncio.timeout(share):
                    if address != (node.host, node.port):
                        await self._wait_for(place, position)
                    made = await place.connect(factory, timeout=share)
            except (OSError, Refused) as error:
                self._shunned[address] = loop.time() + SHUNNED_SECONDS
                if number == len(places) - 1 and isinstance(error, OSError) and self._wanted is not ReadFrom.REPLICA:
                    raise
                reasons.append(
                    f"{shown(*address)}: {getattr(error, 'strerror', None) or str(error) or 'it does not answer'}"
                )
                continue
            self.at, self.primary, self._owner = place, address == (node.host, node.port), node
            return made
        why = "; ".join(reasons) or "the cluster announces none"
        raise SourceBusy(f"no replica of the shard at {node.address} can be read: {why}", hint=HINT, code=NO_REPLICA)

    async def _look(self) -> Node:
        endpoint = self._endpoint
        assert endpoint.seeds is not None, "only clusters have replicas that are known"
        topology = await endpoint.seeds.read(endpoint.entrance)
        if (whereabouts := endpoint.whereabouts) is not None:
            node = next((each for each in topology.nodes if (each.host, each.port) == whereabouts.address), None)
        else:
            node = topology.owner(endpoint.slot)
        if node is None:
            raise NoMap("nobody has the slots of the shard")
        return node

    def _places(self, node: Node) -> list[Address]:
        """Nodes of a shard in the order in which they are tried."""
        now = asyncio.get_running_loop().time()
        self._shunned = {each: until for each, until in self._shunned.items() if until > now}
        last = (self.at.host, self.at.port) if self.at is not None else None
        found = sorted(node.replicas, key=lambda each: (self._shunned.get(each, 0.0), each != last))
        if self._wanted is ReadFrom.REPLICA:
            return found
        primary = node.host, node.port
        usable = [each for each in found if each not in self._shunned]
        return (
            [*usable, primary]
            if primary not in self._shunned or not found
            else [*usable, *found[len(usable) :], primary]
        )

    async def _wait_for(self, place: Endpoint, position: Position | None) -> None:
        """Waits until a replica has what was read, as far as it is of the same history and lets us ask.

        Raises:
            OSError: it cannot be asked, or does not get there.
        """
        if position is None:
            return
        backoff = Backoff(first_seconds=0.01, limit_seconds=0.5)
        try:
            async with asyncio.timeout(BEHIND_SECONDS), open_control(place) as asked:
                while True:
                    info = parse_info(await asked.call("INFO", "replication"))
                    offset = whole(info.get("master_repl_offset", ""))
                    if info.get("master_replid") != position.replid or offset is None or offset >= position.offset:
                        return
                    await asyncio.sleep(backoff.next_wait())
        except Refused as refusal:
            if refusal.login:
                raise
        except TimeoutError:
            raise TimeoutError(f"it is behind offset {position.offset}, up to which was read elsewhere") from None

    async def confirm(self) -> None:
        """Makes sure that the replica which was connected follows the primary of the shard.

        Raises:
            SourceBusy: it does not, and is shunned for a while.
            SourceError: it cannot be asked.
        """
        if self.primary or self.at is None or self._owner is None:
            return
        try:
            async with open_control(self.at) as asked:
                answer: Any = await asked.call("CLUSTER", "NODES")
        except Refused as refusal:
            raise refused("CLUSTER NODES", f"-{refusal.text}".encode(), secret=refusal.login) from None
        except OSError as error:
            raise connect_error(self.at.display, error) from None
        if followed(answer) != self._owner.name:
            raise SourceBusy(
                f"{shown(self.at.host, self.at.port)} is no replica of {self._owner.address} any more",
                hint="portd looks for another one", code=NO_REPLICA,
            )  # fmt: skip

    def shun(self) -> None:
        """The node that was connected last is of no use for now."""
        if self.at is not None:
            until = asyncio.get_running_loop().time() + SHUNNED_SECONDS
            self._shunned[self.at.host, self.at.port] = until
