"""A receiver with its spool, as tests of it need it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from portd.kernel.crc64 import crc64
from portd.model import Position, Progress
from portd.net.endpoint import Endpoint
from portd.source.losses import ReceiverLost
from portd.source.receiver import Receiver, ReceiverOptions, Transfer
from portd.spool import Spool
from tests.servers import PATIENCE_SECONDS, Server, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


LEAST_ACL = ["reset", "on", ">pass", "+ping", "+replconf", "+psync"]


@dataclass
class Ends:
    """A receiver with its spool, and what was read from it."""

    receiver: Receiver
    spool: Spool
    progress: Progress
    task: asyncio.Task[None] | None = None

    async def begin(self, position: Position | None = None) -> Transfer:
        """Connects and receives from now on."""
        transfer = await self.receiver.connect(position)
        if transfer.full:
            self.spool.reset()
        self.task = asyncio.create_task(self.receiver.run(), name="receiver")
        return transfer

    async def read(self, enough: Callable[[bytearray], bool]) -> bytes:
        """Reads and releases until there is enough."""
        got = await self._read(enough)
        self.spool.release(self.spool.cursor)
        return bytes(got)

    async def _read(self, enough: Callable[[bytearray], bool]) -> bytearray:
        got = bytearray()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not enough(got):
                got += (await self.spool.read()).data
                if self.spool.starved:
                    self.spool.release(self.spool.cursor)
        return got

    async def snapshot(self, transfer: Transfer) -> bytes:
        """The whole snapshot, its checksum verified; the source has been told that the stream begins."""
        mark, start = transfer.mark or b"", self.spool.cursor
        if transfer.length is None:
            data = await self._read(lambda got: mark in got[-100_000:])
            end = data.rindex(mark)
        else:
            end = transfer.length
            data = await self._read(lambda got: len(got) >= end)
        after = start + end + len(mark)
        self.spool.seek(after)
        self.spool.release(after)
        snapshot = bytes(data[:end])
        assert snapshot[:5] in {b"REDIS", b"VALKE"}
        assert int.from_bytes(snapshot[-8:], "little") == crc64(snapshot[:-8])
        self.receiver.stream_begins(after)
        return snapshot

    async def lost(self) -> ReceiverLost:
        """How the connection ends."""
        assert self.task is not None
        with pytest.raises(ReceiverLost) as caught:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.task
        return caught.value

    def position(self) -> Position | None:
        """Where the next connection continues."""
        return self.receiver.position

    async def stop(self) -> None:
        """Closes the connection and waits for its task."""
        self.receiver.close()
        if self.task is not None:
            with contextlib.suppress(ReceiverLost, asyncio.CancelledError):
                await self.task


@contextlib.asynccontextmanager
async def ends(
    endpoint: Endpoint | Server, directory: Path | None = None, *, memory: int = 1 << 20, **options: Any
) -> AsyncIterator[Ends]:
    """A receiver from a server, not connected; *options* are its own, ACKs come ten times as often as usual."""
    options = {"ack_seconds": 0.1} | options
    endpoint = Endpoint.parse(endpoint.url) if isinstance(endpoint, Server) else endpoint
    patience = {name: options.pop(name) for name in ("connect_seconds", "silence_seconds") if name in options}
    endpoint = replace(endpoint, **patience)
    progress = Progress()
    spool = Spool(memory_bytes=memory, directory=directory, max_disk_bytes=1 << 30)
    each = Ends(Receiver(endpoint, spool, progress, options=ReceiverOptions(**options)), spool, progress)
    try:
        yield each
    finally:
        await each.stop()
        spool.close()


def as_user(server: Server, name: str = "repl", password: str = "pass") -> Endpoint:
    """The server's address with a user."""
    return Endpoint(host="127.0.0.1", port=server.port, username=name, password=password)


def our_line(server: Server) -> dict[str, Any]:
    """How we appear in the source's INFO replication."""
    found: dict[str, Any] = server.info("replication").get("slave0", {})
    return found


def command(server: Server, *words: str | int) -> Any:
    """Any command, its reply as redis-py gives it."""
    client: Any = server.client()
    return client.execute_command(*words)


async def acknowledged(server: Server, each: Ends) -> None:
    """Waits until the source has seen an ACK for everything it sent."""
    await wait_for(
        lambda: our_line(server).get("offset") == server.info("replication")["master_repl_offset"],
        dump=lambda: (server.info("replication"), each.progress),
    )
