"""A relay before a server that keeps bytes back and delivers them late, also when their sender is gone.

As a router does, a stalled connection, or a partition that heals. It runs in threads of its own, so that tests with and
without an event loop can use it, and processes that are stopped by a signal at the moment when bytes are caught.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    Wanted = Callable[[bytes, bytes], bool]  # name of a connection, and bytes on it

READ_BYTES = 65536
POLL_SECONDS = 0.02
FOLLOWING_SECONDS = 0.02  # what a sender has behind the caught bytes comes at once, or not before it is answered
ANSWER_SECONDS = 5.0  # a server takes less
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: an end with RST
NAMED = re.compile(rb"\$7\r\nSETNAME\r\n\$\d+\r\n([^\r]+)\r\n")


@dataclass(eq=False)
class Hold:
    """Bytes of one connection that are kept back, and everything behind them; made by `Relay.hold`.

    Attributes:
        wanted: says of which.
        reset: the sender's connection ends at once; else it stays, and nothing passes.
        on_caught: called in the relay's thread when the bytes are there, before anything else is done.
        twice: the bytes pass at once, and come once more when they are released; the sender gets no answers.
        caught: they are there.
        sent: they are with the server.
        over: the server has read everything and the connection is at its end.
        evicted: the server ended the connection before it got the bytes.
        data: what was kept.
    """

    wanted: Wanted
    reset: bool = False
    on_caught: Callable[[], object] | None = None
    twice: bool = False
    caught: threading.Event = field(default_factory=threading.Event)
    sent: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    evicted: bool = False
    data: bytes = b""
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Lets the bytes through."""
        self.released.set()


def holding(*words: bytes, name: bytes = b"", passing: int = 0) -> Wanted:
    """Bytes that contain one of *words*, on a connection whose name begins with *name*.

    Args:
        words: none for any bytes.
        name: of the connections that count; any when empty.
        passing: so many times they pass before.
    """
    left = passing

    def wanted(found: bytes, data: bytes) -> bool:
        nonlocal left
        if not found.startswith(name) or (words and not any(word in data for word in words)):
            return False
        left -= 1
        return left < 0

    return wanted


class Relay:
    """Listens on a free loopback port and forwards to a server; a context manager.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self.upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._armed: list[Hold] = []
        self._open = threading.Event()
        self._open.set()
        self._passages: list[_Passage] = []
        self._thread = threading.Thread(target=self._accept, name="relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.heal()
        with self._lock:
            armed, self._armed = self._armed, []
        for hold in armed:
            hold.release()
        with self._lock:
            left, self._passages = self._passages, []
        for passage in left:
            passage.close()

    def hold(
        self,
        wanted: Wanted,
        *,
        reset: bool = False,
        on_caught: Callable[[], object] | None = None,
        twice: bool = False,
    ) -> Hold:
        """Arms: the next bytes that are wanted are kept back; see `Hold`."""
        hold = Hold(wanted, reset, on_caught, twice)
        with self._lock:
            self._armed.append(hold)
        return hold

    def part(self) -> None:
        """Nothing passes any more in either direction, on whatever connection; nothing is lost."""
        self._open.clear()

    def heal(self) -> None:
        """Everything passes again, with what was sent meanwhile."""
        self._open.set()

    # -- inside

    def take(self, name: bytes, data: bytes) -> Hold | None:
        """The hold that wants these bytes."""
        with self._lock:
            for hold in self._armed:
                if hold.wanted(name, data):
                    self._armed.remove(hold)
                    return hold
        return None

    def wait_open(self) -> None:
        """Waits for the end of a partition."""
        self._open.wait()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.upstream))
            except OSError:
                client.close()
                continue
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._passages.append(_Passage(self, client, server))

    def forget(self, passage: _Passage) -> None:
        """It is over."""
        with self._lock:
            if passage in self._passages:
                self._passages.remove(passage)


class _Passage:
    """One connection of a client and its twin to the server."""

    def __init__(self, relay: Relay, client: socket.socket, server: socket.socket) -> None:
        self._relay = relay
        self._client, self._server = client, server
        self._hold: Hold | None = None
        self._swallowed = threading.Event()  # an answer to what passes twice
        self._name = b""
        self._running = 2  # directions
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=(work,), name="relay", daemon=True)
            for work in (self._to_server, self._to_client)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, work: Callable[[], None]) -> None:
        """One direction; behind the last one the connections are closed."""
        work()
        with self._lock:
            self._running -= 1
        if self._running == 0:
            self._relay.forget(self)
            self._client.close()
            self._server.close()

    def close(self) -> None:
        """Ends both connections, and the threads."""
        if self._hold is not None:
            self._hold.release()
        for each in (self._client, self._server):
            _shut(each, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._client.close()
        self._server.close()

    def _to_server(self) -> None:
        while data := _read(self._client):
            if not self._name and (named := NAMED.search(data)) is not None:
                self._name = named[1]
            hold = self._relay.take(self._name, data)
            if hold is not None:
                self._hold = hold
                if not self._keep(hold, data):
                    break
                continue
            self._relay.wait_open()
            if not _write(self._server, data):
                break
        _shut(self._server, socket.SHUT_WR)  # it reads what came before that, and ends the connection

    def _keep(self, hold: Hold, data: bytes) -> bool:
        """Keeps bytes until they are released; whether the sender is still there then."""
        if hold.on_caught is not None:
            hold.on_caught()
        kept, there = [data], True
        if hold.twice:  # all that was sent, and all of it again: no transaction is torn apart by that
            kept += self._following()
            _write(self._server, b"".join(kept))
            self._swallowed.wait(ANSWER_SECONDS)
        hold.caught.set()
        if hold.reset:
            kept += self._following() if not hold.twice else []
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._client.close()
            there = False
        self._client.settimeout(POLL_SECONDS) if there else None
        while not hold.released.is_set():
            if not there:
                hold.released.wait()
                break
            try:
                more = self._client.recv(READ_BYTES)
            except TimeoutError:
                continue
            except OSError:
                more = b""
            kept.append(more)
            there = bool(more)
        if there:
            self._client.settimeout(None)
        hold.data = b"".join(kept)
        self._relay.wait_open()
        alive = _write(self._server, hold.data)
        hold.sent.set()
        return there and alive

    def _following(self) -> list[bytes]:
        """What the sender has sent behind the caught bytes."""
        self._client.settimeout(FOLLOWING_SECONDS)
        found: list[bytes] = []
        with contextlib.suppress(OSError):  # TimeoutError is one
            while more := self._client.recv(READ_BYTES):
                found.append(more)
        return found

    def _to_client(self) -> None:
        while data := _read(self._server):
            self._relay.wait_open()
            if self._hold is not None and self._hold.twice:
                self._swallowed.set()
                continue
            _write(self._client, data)
        hold = self._hold
        if hold is not None:
            hold.evicted = not hold.released.is_set()
            hold.over.set()
        self._relay.wait_open()
        _shut(self._client, socket.SHUT_RDWR)


def _read(side: socket.socket) -> bytes:
    try:
        return side.recv(READ_BYTES)
    except OSError:
        return b""


def _write(side: socket.socket, data: bytes) -> bool:
    """Whether the other side took it."""
    try:
        side.sendall(data)
    except OSError:
        return False
    return True


def _shut(side: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # it is at its end already
        side.shutdown(how)
