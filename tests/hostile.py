"""A source that speaks PSYNC and sends whatever a test gives it: lengths that lie, counts that never end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Self

from tests.servers import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

REPLID = "5" * 40
MARK = b"m" * 40
FILLER = bytes(256 * 1024)
EMPTY_SNAPSHOT = b"REDIS0011\xff" + bytes(8)  # a checksum of zeros is one that was not computed


class Listener:
    """Listens on loopback, in a thread of its own; a context manager.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self.port = 0
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._served: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name=name)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_SECONDS), f"the {self._thread.name} does not listen"
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._loop is not None
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        server.close()
        for task in self._served:
            task.cancel()
        await asyncio.gather(*self._served, return_exceptions=True)
        for writer in self._writers:  # also of those that were never served
            writer.transport.abort()
        await asyncio.sleep(0.01)  # transports that were given up are closed in the loop's next turns

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        task = asyncio.get_running_loop().create_task(self._connection(reader, writer), name="served")
        self._served.add(task)
        task.add_done_callback(self._served.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        raise NotImplementedError


class HostileSource(Listener):
    """Listens on loopback, in a thread of its own; a context manager.

    Args:
        snapshot: bytes after the header of a diskless transfer.
        filler: bytes of zeros to send after the snapshot, as fast as they are taken.
        stream: bytes to send after a well-formed empty snapshot instead.
        hang_up: close the connection behind the last byte.

    Attributes:
        sent: bytes of snapshot or stream that went out, filler included.
        syncs: full syncs that were asked for.
    """

    def __init__(
        self, snapshot: bytes = b"", *, filler: int = 0, stream: bytes | None = None, hang_up: bool = False
    ) -> None:
        super().__init__("hostile source")
        self.sent = 0
        self.syncs = 0
        self._body = snapshot if stream is None else EMPTY_SNAPSHOT + MARK + stream
        self._filler = filler
        self._hang_up = hang_up

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                words = await _command(reader)
                if words[0].upper() == b"PSYNC":
                    await self._sync(writer)
                elif words[:2] != [b"REPLCONF", b"ACK"]:
                    writer.write(b"+PONG\r\n" if words[0].upper() == b"PING" else _answer(words))
        writer.close()

    async def _sync(self, writer: asyncio.StreamWriter) -> None:
        self.syncs += 1
        writer.write(b"+FULLRESYNC %b 0\r\n$EOF:%b\r\n" % (REPLID.encode(), MARK))
        for part in self._parts():
            writer.write(part)
            await writer.drain()
            self.sent += len(part)
        if self._hang_up:
            raise ConnectionResetError

    def _parts(self) -> Iterator[bytes]:
        yield self._body
        left = self._filler
        while left > 0:
            yield FILLER[:left]
            left -= len(FILLER)


def _answer(words: list[bytes]) -> bytes:
    return b"+OK\r\n" if words[0].upper() in {b"REPLCONF", b"SELECT"} else b"-NOPERM not for you\r\n"


async def _command(reader: asyncio.StreamReader) -> list[bytes]:
    count = int((await reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(count):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


class LyingServer(Listener):
    """Stands in front of a real server and answers one of its commands with what a test gives it.

    Listens on loopback, in a thread of its own; a context manager. Everything else it passes on, one command after the other.

    Args:
        behind: port of the real server.
        command: name of the command, in upper case; "" for all of them.
        lie: what it is answered with.
        first: so many times the truth is told before.
        endless: bytes to send behind the lie for as long as they are taken.

    Attributes:
        lies: times that it lied.
        sent: bytes of lies.
    """

    def __init__(self, behind: int, command: str, lie: bytes, *, first: int = 0, endless: bytes = b"") -> None:
        super().__init__("lying server")
        self.lies = 0
        self.sent = 0
        self._behind = behind
        self._command = command.encode()
        self._lie = lie
        self._truths = first
        self._endless = endless

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        real_reader, real_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        try:
            while True:
                words = await _command(reader)
                lies = self._command in {b"", words[0].upper()} and self._lies_now()
                real_writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))
                if words[0].upper() == b"PSYNC" and not lies:
                    await asyncio.gather(_relay(reader, real_writer), _relay(real_reader, writer))
                answer = await _reply(real_reader)
                if lies:
                    await self._lie_to(writer)
                else:
                    writer.write(answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of the two has gone
        finally:
            writer.transport.abort()
            real_writer.transport.abort()

    def _lies_now(self) -> bool:
        self._truths -= 1
        return self._truths < 0

    async def _lie_to(self, writer: asyncio.StreamWriter) -> None:
        self.lies += 1
        writer.write(self._lie)
        self.sent += len(self._lie)
        while self._endless:
            writer.write(self._endless)
            await writer.drain()
            self.sent += len(self._endless)


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError


async def _reply(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readuntil(b"\r\n")
    if line[:1] == b"$" and line != b"$-1\r\n":
        return line + await reader.readexactly(int(line[1:]) + 2)
    if line[:1] == b"*" and line != b"*-1\r\n":
        return line + b"".join([await _reply(reader) for _ in range(int(line[1:]))])
    return line
