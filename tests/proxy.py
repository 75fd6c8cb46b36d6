"""A TCP proxy on loopback that breaks connections in the ways networks do.

Faults are set per direction on ``proxy.to_server`` and ``proxy.to_client``, or for whole connections with ``cut``,
``half_open`` and ``refuse``. All of it can change while bytes flow. Everything runs in the caller's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from typing import Self

CHUNK_BYTES = 64 * 1024
QUEUED_CHUNKS = 64  # per direction of a connection, while a delay holds them back


@dataclass(slots=True)
class Flow:
    """One direction of traffic: its faults and its counters, shared by all connections of a proxy.

    Attributes:
        delay: seconds that every byte arrives late; order and throughput stay.
        bytes_per_second: throughput limit of each connection, 0 for none.
        cut_after: connections are cut once this many more bytes went through; None for never.
        forwarded: bytes passed on.
        dropped: bytes swallowed by ``half_open``.
    """

    name: str
    delay: float = 0.0
    bytes_per_second: int = 0
    cut_after: int | None = None
    forwarded: int = 0
    dropped: int = 0
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._open.set()

    def stall(self) -> None:
        """Stops reading from the sender until ``flow``; its socket fills up."""
        self._open.clear()

    def flow(self) -> None:
        """Ends every fault of this direction."""
        self.delay, self.bytes_per_second, self.cut_after = 0.0, 0, None
        self._open.set()

    @property
    def stalled(self) -> bool:
        """``stall`` is in effect."""
        return not self._open.is_set()

    async def _let_through(self) -> None:
        await self._open.wait()

    def _allowance(self, size: int) -> int:
        """How many of *size* bytes may pass before the cut."""
        return size if self.cut_after is None else min(size, self.cut_after)


class Proxy:
    """Listens on a free loopback port and forwards to a server.

    Args:
        port: the server's port; ``upstream`` can be changed later, for new connections.
        host: the server's host.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.upstream = (host, port)
        self.to_server = Flow("to_server")
        self.to_client = Flow("to_client")
        self.accepted = 0  # connections so far
        self.cuts = 0  # connections that we ended
        self.port = 0
        self._listener: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._black_hole = False

    async def start(self) -> Self:
        """Begins to listen; the port stays the same for the proxy's life."""
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=CHUNK_BYTES)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Stops listening and ends all connections."""
        self.refuse()
        tasks = [connection.task for connection in self._connections]
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """``redis://`` URL of the proxy."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Connections that exist now."""
        return len(self._connections)

    def cut(self, *, reset: bool = True) -> int:
        """Ends all connections, with RST or with an orderly FIN; returns how many there were."""
        victims = list(self._connections)
        for connection in victims:
            connection.end(reset=reset)
        self.cuts += len(victims)
        return len(victims)

    def half_open(self) -> None:
        """Existing and new connections stay open but carry nothing any more, as when a firewall drops packets.

        Bytes that a peer sends are lost, an end that a peer makes is not seen by the other one. After ``heal`` such
        connections stay dead; new ones work.
        """
        self._black_hole = True
        for connection in self._connections:
            connection.dead = True

    def heal(self) -> None:
        """Ends every fault, for new connections also ``half_open``."""
        self._black_hole = False
        self.to_server.flow()
        self.to_client.flow()

    def refuse(self) -> None:
        """Stops listening: new connections get ECONNREFUSED until ``start``."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        connection = _Connection(self, reader, writer, task, dead=self._black_hole)
        self._connections.add(connection)
        try:
            await connection.run()
        except asyncio.CancelledError:
            if not connection.ended:  # else it was our own cut, and the task has nothing left to be cancelled
                raise
        finally:
            self._connections.discard(connection)
            connection.abort()

    def statistics(self) -> dict[str, int]:
        """Counters for failure messages."""
        return {
            "accepted": self.accepted,
            "open": self.open,
            "cuts": self.cuts,
            "to_server": self.to_server.forwarded,
            "to_client": self.to_client.forwarded,
        }


class _Connection:
    """One client connection and its twin to the server."""

    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        task: asyncio.Task[None],
        *,
        dead: bool,
    ) -> None:
        self.proxy = proxy
        self.task = task
        self.dead = dead  # a black hole
        self.ended = False
        self._reader = reader
        self._writers = [writer]

    async def run(self) -> None:
        """Forwards both ways until one side ends."""
        try:
            reader, writer = await asyncio.open_connection(*self.proxy.upstream, limit=CHUNK_BYTES)
        except OSError:
            return
        self._writers.append(writer)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(self._reader, writer, self.proxy.to_server), name="proxy-to-server")
            group.create_task(self._pump(reader, self._writers[0], self.proxy.to_client), name="proxy-to-client")

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: Flow) -> None:
        """One direction: reading and, because of delays, writing as a task of its own."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write(queue, writer, flow), name="proxy-write")
            await self._read(queue, reader, flow)

    async def _read(self, queue: asyncio.Queue[tuple[float, bytes]], reader: asyncio.StreamReader, flow: Flow) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await flow._let_through()
            limit = max(1, min(CHUNK_BYTES, flow.bytes_per_second // 20)) if flow.bytes_per_second else CHUNK_BYTES
            try:
                data = await reader.read(limit)
            except OSError:
                data = b""
            if self.dead:
                flow.dropped += len(data)
                if not data:
                    return
                continue
            await queue.put((clock() + flow.delay, data))
            if not data:
                return
            if flow.bytes_per_second:
                await asyncio.sleep(len(data) / flow.bytes_per_second)

    async def _write(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, flow: Flow) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, data = await queue.get()
            if due > clock():
                await asyncio.sleep(due - clock())
            await flow._let_through()
            if self.dead:
                flow.dropped += len(data)
                continue
            allowed = flow._allowance(len(data))
            try:
                if not data:
                    writer.write_eof()
                    return
                writer.write(data[:allowed])
                await writer.drain()
            except OSError:  # the receiver is gone: the sender shall know
                self.end(reset=True)
                return
            flow.forwarded += allowed
            if flow.cut_after is not None:
                flow.cut_after -= allowed
                if flow.cut_after <= 0:
                    flow.cut_after = None
                    self.proxy.cuts += 1
                    self.end(reset=False)
                    return

    def end(self, *, reset: bool) -> None:
        """Ends both sides now, from outside of the connection's own task."""
        self.ended = True
        for writer in self._writers:
            if reset:
                raw: socket.socket | None = writer.get_extra_info("socket")
                if raw is not None:
                    with contextlib.suppress(OSError):  # SO_LINGER 0: close sends RST
                        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()
        self.task.cancel()

    def abort(self) -> None:
        """Releases both sockets; bytes written before are still delivered."""
        for writer in self._writers:
            writer.close()
