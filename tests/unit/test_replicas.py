"""Which node of a shard is read: order, patience with replicas that are behind, and whom a node says that it follows."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import hiredis
import pytest

from portd.config.choices import ReadFrom
from portd.errors import SourceBusy
from portd.model import Position
from portd.net.endpoint import Endpoint
from portd.net.topology import Seeds
from portd.source.replicas import NO_REPLICA, Replicas
from tests.pretend.nodes import array, bulk, info

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ONE, OTHER = "1" * 40, "2" * 40
REPLID = "a" * 40


@dataclass
class Node:
    """A node of a shard, as it shows itself."""

    follows: str = ONE
    offsets: list[int] = field(default_factory=lambda: [1000])  # told one behind the other; the last one for ever
    replid: str = REPLID
    port: int = 0
    asked: int = 0  # for its offset


@dataclass
class Shard:
    """A primary and its replicas."""

    primary: Node = field(default_factory=lambda: Node(follows=""))
    replicas: list[Node] = field(default_factory=lambda: [Node(), Node()])

    def answer(self, node: Node, words: list[bytes]) -> bytes:
        """What a node says."""
        if words[0] == b"INFO":
            offset = node.offsets[min(node.asked, len(node.offsets) - 1)]
            node.asked += 1
            return info(master_replid=node.replid, master_repl_offset=offset)
        if words[1] == b"NODES":
            role = "slave" if node.follows else "master"
            return bulk(
                f"{OTHER} 127.0.0.1:{node.port}@1 myself,{role} {node.follows or '-'} 0 0 1 connected\n".encode()
            )
        nodes = [
            array([bulk(b"127.0.0.1"), b":%d\r\n" % each.port, bulk(name.encode())])
            for each, name in [(self.primary, ONE), *((each, OTHER) for each in self.replicas)]
        ]
        return array([array([b":0\r\n", b":16383\r\n", *nodes])])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Endpoint]:
        """Serves; the shard's endpoint."""
        async with AsyncExitStack() as stack:
            for node in (self.primary, *self.replicas):
                made = partial(Talk, partial(self.answer, node), stack)
                server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
                stack.callback(server.close)
                node.port = server.sockets[0].getsockname()[1]
            yield Endpoint(seeds=Seeds((("127.0.0.1", self.primary.port),)))


class Talk(asyncio.Protocol):
    """One connection to a node."""

    def __init__(self, answer: Callable[[list[bytes]], bytes], stack: AsyncExitStack) -> None:
        self._answer = answer
        self._stack = stack
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._transport = cast("asyncio.Transport", transport)
        self._stack.callback(self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Answers."""
        self._reader.feed(data)
        while (words := self._reader.gets()) is not False:
            self._transport.write(self._answer(cast("list[bytes]", words)))


async def connected(replicas: Replicas, position: Position | None = None) -> int:
    """The port of the node that is read."""
    transport, _ = await replicas.connect(asyncio.Protocol, position, seconds=60.0)
    transport.abort()
    assert replicas.at is not None
    return replicas.at.port


async def test_the_first_replica_is_read_and_one_of_no_use_is_the_last() -> None:
    """The one that was read stays the first; with prefer-replica the primary comes before those that were of no use."""
    shard = Shard()
    async with shard.running() as endpoint:
        one, two = (each.port for each in shard.replicas)
        wanted, preferred = (
            cast("Any", Replicas.of(endpoint, each)) for each in (ReadFrom.REPLICA, ReadFrom.PREFER_REPLICA)
        )
        assert [await connected(wanted), await connected(wanted)] == [one, one]
        wanted.shun()
        assert [await connected(wanted), await connected(wanted)] == [two, two]
        wanted.shun()
        assert await connected(wanted) == one, "shunned for the longest time"
        for expected in (one, two, shard.primary.port):
            assert await connected(preferred) == expected
            preferred.shun()
        assert preferred.told == f"primary 127.0.0.1:{shard.primary.port}"
        assert Replicas.of(endpoint, ReadFrom.PRIMARY) is None


async def test_a_replica_that_is_behind_is_waited_for() -> None:
    """Asked for what it has not received yet, it would answer with a full sync. One of another history has to answer for itself."""
    shard = Shard(replicas=[Node(offsets=[990, 995, 1000, 1005])])
    async with shard.running() as endpoint:
        (node,) = shard.replicas
        replicas = cast("Replicas", Replicas.of(endpoint, ReadFrom.REPLICA))
        await connected(replicas)
        assert node.asked == 0, "there is nothing to go on from"
        await connected(replicas, Position(REPLID, 1000))
        assert node.asked == 3
        node.asked = 0
        await connected(replicas, Position("b" * 40, 1000))
        assert node.asked == 1


async def test_one_that_stays_behind_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """To another one, or the words say why none can be read."""
    monkeypatch.setattr("portd.source.replicas.BEHIND_SECONDS", 0.05)
    shard = Shard(replicas=[Node(offsets=[990]), Node(offsets=[1000])])
    async with shard.running() as endpoint:
        replicas = cast("Replicas", Replicas.of(endpoint, ReadFrom.REPLICA))
        assert await connected(replicas, Position(REPLID, 1000)) == shard.replicas[1].port
        shard.replicas[1].offsets = [999]
        with pytest.raises(SourceBusy, match="behind offset 1000, up to which was read elsewhere") as caught:
            await connected(replicas, Position(REPLID, 1000))
        assert caught.value.code == NO_REPLICA


async def test_a_node_says_itself_whom_it_follows() -> None:
    """One that was promoted, or follows another primary, is read no more: it would send something else."""
    for follows in ("", OTHER):
        shard = Shard(replicas=[Node(follows=follows)])
        async with shard.running() as endpoint:
            replicas = cast("Replicas", Replicas.of(endpoint, ReadFrom.REPLICA))
            await connected(replicas)
            with pytest.raises(SourceBusy, match="is no replica of"):
                await replicas.confirm()
            shard.replicas[0].follows = ONE
            await replicas.confirm()
