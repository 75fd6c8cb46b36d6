"""A plain, fast RESP2 connection for test tools: pack, send, count replies. Not for the product."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Self

import hiredis
import redis

from tests.servers import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.servers import Server

Argument = bytes | str | int | float
Command = tuple[Argument, ...]

RECEIVE_BYTES = 256 * 1024
LOAD_BYTES = 256 * 1024  # sent before the replies to the bytes before them are read


def pack(*arguments: Argument) -> bytes:
    """One command in RESP."""
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]  # its stub knows tuples of one only
    return packed


class Wire:
    """A blocking connection to a server's unix socket.

    Args:
        server: a running server.
        db: database to select.
        timeout: seconds that one read or write may take.
    """

    def __init__(self, server: Server, db: int = 0, timeout: float = PATIENCE_SECONDS) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(server.path))
        except OSError:
            self._socket.close()
            raise
        self._reader = hiredis.Reader()
        if server.password:
            self.call("AUTH", server.password)
        if db:
            self.call("SELECT", db)

    def call(self, *arguments: Argument) -> Any:
        """Sends one command and returns its reply.

        Raises:
            redis.ResponseError: the reply is an error.
        """
        return self.many([arguments])[0]

    def many(self, commands: Iterable[Sequence[Argument]], *, errors: bool = False) -> list[Any]:
        """Sends commands in one go and returns their replies.

        Args:
            commands: arguments of each command.
            errors: hand error replies back as ``hiredis.ReplyError`` objects instead of raising.
        """
        packed = [pack(*command) for command in commands]
        self._socket.sendall(b"".join(packed))
        return [self._reply(errors=errors) for _ in packed]

    def post(self, *arguments: Argument) -> None:
        """Sends one command; ``take`` reads its reply later, so that several servers work at once."""
        self._socket.sendall(pack(*arguments))

    def take(self) -> Any:
        """The reply to the oldest command of ``post``."""
        return self._reply()

    def load(self, parts: Iterable[tuple[bytes, int]]) -> int:
        """Sends ready RESP and checks that no reply is an error.

        Args:
            parts: (RESP bytes, commands in them).

        Returns:
            Commands executed.
        """
        waiting = done = 0
        for payload, replies in _gather(parts):
            self._socket.sendall(payload)
            for _ in range(waiting):
                self._reply()
            done += waiting
            waiting = replies
        for _ in range(waiting):
            self._reply()
        return done + waiting

    def load_commands(self, commands: Iterable[Sequence[Argument]]) -> int:
        """``load`` of commands that still need packing."""
        return self.load((pack(*command), 1) for command in commands)

    def _reply(self, *, errors: bool = False) -> Any:
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._reader.feed(data)
        if isinstance(reply, hiredis.ReplyError) and not errors:
            raise redis.ResponseError(str(reply))
        return reply

    def close(self) -> None:
        """Closes the socket; idempotent."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _gather(parts: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    """Joins small parts into writes of about ``LOAD_BYTES``."""
    held: list[bytes] = []
    size = replies = 0
    for payload, count in parts:
        held.append(payload)
        size += len(payload)
        replies += count
        if size >= LOAD_BYTES:
            yield b"".join(held), replies
            held, size, replies = [], 0, 0
    if held:
        yield b"".join(held), replies
