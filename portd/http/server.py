"""The HTTP listener: bounded in connections and request size, closed at once.

When all connections are taken, the one that has waited longest without a request under way makes room: connections that say
nothing keep nobody out.

The pages have no login; see docs/operations.md before listening on anything but loopback.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from portd.errors import ConfigError
from portd.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator

    from aiohttp import web
    from prometheus_client import CollectorRegistry

    from portd.http.observed import Observed

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_CONNECTIONS = 64
MAX_LINE_BYTES = 4096  # of a request: method, path and query
MAX_FIELD_BYTES = 8190  # of one header
KEEPALIVE_SECONDS = 30.0

log = get_logger("http")


class HttpServer:
    """Serves the pages of one service.

    Args:
        service: whom to ask.
        registry: what `/metrics` exposes.
        address: host and port; port 0 picks a free one.
        redact_keys: show no key names.
        hosts: names in `Host` headers that are ours, too; see `portd.http.origin`.
    """

    def __init__(
        self,
        service: Observed,
        registry: CollectorRegistry,
        address: tuple[str, int],
        *,
        redact_keys: bool = False,
        hosts: Collection[str] = (),
    ) -> None:
        self._service = service
        self._registry = registry
        self._address = address
        self._redact_keys = redact_keys
        self._hosts = hosts
        self._idle: dict[object, None] = {}  # connections without a request under way, the longest idle first
        self._listener: asyncio.Server | None = None
        self._web: web.Server | None = None

    @property
    def url(self) -> str:
        """Where the pages are; with port 0, the port that was picked."""
        host, port = self._address
        if self._listener is not None:
            port = self._listener.sockets[0].getsockname()[1]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    async def start(self) -> None:
        """Listens.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        with _without_authorities():
            from aiohttp import web  # noqa: PLC0415 - 10 MB, not needed when http is off

            from portd.http.handlers import build_app  # noqa: PLC0415 - loads aiohttp
            from portd.http.origin import Names  # noqa: PLC0415 - the same

        # What reaches this logger are requests that are not HTTP; they got their 400, a traceback helps nobody.
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
        names = Names(self._address[0], self._hosts)
        app = build_app(self._service, self._registry, names, redact_keys=self._redact_keys)

        @web.middleware
        async def note_activity(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._note_activity(request, handler)

        app.middlewares.insert(0, note_activity)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=KEEPALIVE_SECONDS,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            lingering_time=0,
        )
        await runner.setup()
        self._web = runner.server
        host, port = self._address
        try:
            self._listener = await asyncio.get_running_loop().create_server(self._connection, host, port, backlog=64)
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
            raise ConfigError(
                f"http cannot listen on {host}:{port}: {reason}",
                hint="choose another address with --http HOST:PORT, or none with --http off",
            ) from None
        if host not in {"127.0.0.1", "::1", "localhost"}:
            log.warning("http is reachable from outside and has no login", url=self.url)

    def held_bytes(self) -> int:
        """Bytes of pages that are not sent yet."""
        connections = self._web.connections if self._web is not None else []
        transports = [connection.transport for connection in connections]
        return sum(transport.get_write_buffer_size() for transport in transports if transport is not None)

    def close(self) -> None:
        """Stops listening and drops connections, at once; may be called at any time and again."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._web is not None:
            for connection in self._web.connections:
                connection.force_close()
            self._web = None
        self._idle.clear()

    def _connection(self) -> asyncio.BaseProtocol:
        if self._web is None or not self._has_room(self._web):
            return _Refusal()
        connection = self._web()
        self._idle[connection] = None
        return connection

    def _has_room(self, served: web.Server) -> bool:
        """Whether one more connection can be served; the one that is idle for longest is dropped for it."""
        connections = served.connections
        there = set(connections)
        self._idle = {each: None for each in self._idle if each in there}
        if len(connections) < MAX_CONNECTIONS:
            return True
        longest = next(iter(self._idle), None)
        for connection in connections:
            if connection is longest:
                connection.force_close()
                del self._idle[longest]
                return True
        return False

    async def _note_activity(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A connection with a request under way is not idle; behind it, it is the one that was active last."""
        self._idle.pop(request.protocol, None)
        try:
            return await handler(request)
        finally:
            self._idle[request.protocol] = None


class _Refusal(asyncio.Protocol):
    """Answers a connection that is one too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert hasattr(transport, "write")
        transport.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        transport.close()


@contextmanager
def _without_authorities() -> Iterator[None]:
    """Keeps aiohttp's client, which portd does not use, from reading all of the system's certificates when imported.

    It builds a TLS context as the module is loaded: 3 MB and 20 ms. OpenSSL takes the file from this variable.
    """
    if "aiohttp" in sys.modules:
        yield
        return
    name = "SSL_CERT_FILE"
    before = os.environ.get(name)
    os.environ[name] = os.devnull
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
