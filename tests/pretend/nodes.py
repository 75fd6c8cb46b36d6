"""What both pretended clusters have: a map that never changes, and connections that answer commands."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from hashlib import sha1
from typing import TYPE_CHECKING, Final, cast

import hiredis

from portd.kernel.slots import SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OK: Final = b"+OK\r\n"


def bulk(value: bytes | None) -> bytes:
    """A string of RESP."""
    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


def array(items: Sequence[bytes]) -> bytes:
    """A list of RESP."""
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def info(**fields: object) -> bytes:
    """The answer to INFO."""
    return bulk("".join(f"{name}:{value}\r\n" for name, value in fields.items()).encode())


class Half:
    """One of the two clusters: a map that never changes.

    Args:
        name: ``source`` or ``target``.
        count: of primaries.
        make: of a node's number, makes what answers over one connection to it.

    Attributes:
        ports: of the nodes, in the order of their slots.
        asked: how often each command came, of all nodes together; subcommands are told apart.
        connections: that were made.
    """

    def __init__(self, name: str, count: int, make: Callable[[Half, int], Answering]) -> None:
        self.ports: list[int] = []
        self.asked: Counter[str] = Counter()
        self.connections = 0
        self.ids = [sha1(f"{name} {number}".encode(), usedforsecurity=False).hexdigest() for number in range(count)]
        self._make = make
        self._servers: list[asyncio.Server] = []

    def slots(self, number: int) -> tuple[int, int]:
        """The range that a node has, ends included."""
        count = len(self.ids)
        return number * SLOTS // count, (number + 1) * SLOTS // count - 1

    async def start(self) -> None:
        """Listens."""
        loop = asyncio.get_running_loop()
        for number in range(len(self.ids)):
            server = await loop.create_server(partial(self._make, self, number), "127.0.0.1", 0)
            self._servers.append(server)  # uvloop closes one that nobody has
            self.ports.append(server.sockets[0].getsockname()[1])

    def cluster(self, number: int, subcommand: bytes) -> bytes:
        """The answer to CLUSTER."""
        if subcommand == b"SLOTS":
            entries = []
            for each, port in enumerate(self.ports):
                first, last = self.slots(each)
                node = [bulk(b"127.0.0.1"), b":%d\r\n" % port, bulk(self.ids[each].encode()), array([])]
                entries.append(array([b":%d\r\n" % first, b":%d\r\n" % last, array(node)]))
            return array(entries)
        if subcommand == b"NODES":
            lines = []
            for each, port in enumerate(self.ports):
                flags = "myself,master" if each == number else "master"
                first, last = self.slots(each)
                address = f"127.0.0.1:{port}@{port}"
                lines.append(f"{self.ids[each]} {address} {flags} - 0 0 {each + 1} connected {first}-{last}\n")
            return bulk("".join(lines).encode())
        return bulk(b"cluster_enabled:1\r\ncluster_state:ok\r\n")

    def about(self, number: int, **more: object) -> bytes:
        """The answer to INFO."""
        return info(
            redis_version="7.2.4", server_name="valkey", valkey_version="9.1.0", redis_mode="cluster", run_id=self.ids[number],
            role="master", connected_slaves=0, master_replid=self.ids[number], master_replid2="0" * 40, second_repl_offset=-1,
            repl_backlog_size=1 << 20, used_memory=1 << 20, maxmemory=0, maxmemory_policy="noeviction", cluster_enabled=1, **more,
        )  # fmt: skip


class Answering(asyncio.Protocol):
    """One connection to a node; each command has a method of its name."""

    def __init__(self, half: Half, number: int) -> None:
        self.half = half
        self.number = number
        half.connections += 1
        self.id = half.connections
        self.label = b""
        self.open = True
        self.transport: asyncio.Transport
        self._reader = hiredis.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        self.open = False

    def data_received(self, data: bytes) -> None:
        """Answers."""
        self._reader.feed(data)
        gets, answers = self._reader.gets, []
        while (words := gets()) is not False:
            if answer := self.take(words):
                answers.append(answer)
        if answers and self.open:
            self.transport.write(b"".join(answers))

    def take(self, words: list[bytes]) -> bytes:
        """One command."""
        return self.answer(words)

    def answer(self, words: list[bytes]) -> bytes:
        """The answer to one command."""
        name = words[0].decode().upper()
        sub = (
            f" {words[1].decode().upper()}"
            if name in {"CLUSTER", "CLIENT", "CONFIG", "INFO"} and len(words) > 1
            else ""
        )
        self.half.asked[name + sub] += 1
        method = getattr(self, f"do_{name.lower()}", None)
        return method(words) if method is not None else b"-ERR unknown command '%b'\r\n" % words[0]

    def do_ping(self, _: list[bytes]) -> bytes:
        """PING."""
        return b"+PONG\r\n"

    def do_cluster(self, words: list[bytes]) -> bytes:
        """CLUSTER."""
        return self.half.cluster(self.number, words[1].upper())

    def do_config(self, words: list[bytes]) -> bytes:
        """CONFIG GET."""
        known = {
            b"maxmemory": b"0",
            b"maxmemory-policy": b"noeviction",
            b"proto-max-bulk-len": b"536870912",
            b"databases": b"16",
        }
        known |= {b"client-output-buffer-limit": b"normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"}
        found = known.get(words[-1].lower()) if words[1].upper() == b"GET" else None
        return array([bulk(words[-1]), bulk(found)] if found is not None else [])

    def do_client(self, words: list[bytes]) -> bytes:
        """CLIENT."""
        if words[1].upper() == b"SETNAME":
            self.label = words[2]
        return b":%d\r\n" % self.id if words[1].upper() == b"ID" else OK

    def do_select(self, words: list[bytes]) -> bytes:
        """SELECT: there is one database."""
        return OK if words[1] == b"0" else b"-ERR DB index is out of range\r\n"
