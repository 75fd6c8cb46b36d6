"""The HTTP listener: bounded in connections and request size, closed at once.

The pages have no login; see docs/operations.md before listening on anything but loopback.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from portd.errors import ConfigError
from portd.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web
    from prometheus_client import CollectorRegistry

    from portd.memory.accounting import MemoryReport
    from portd.memory.heap import HeapRecorder
    from portd.standing import Standing

MAX_CONNECTIONS = 64
MAX_LINE_BYTES = 4096  # of a request: method, path and query
MAX_FIELD_BYTES = 8190  # of one header
KEEPALIVE_SECONDS = 30.0

log = get_logger("http")


class Observed(Protocol):
    """What a service tells about itself. Called on the event loop; none of it may wait."""

    def status(self) -> dict[str, Any]:
        """Plain data for `/status` and the status page: see `portd.http.status.describe`."""

    def memory(self) -> MemoryReport:
        """Where the memory is now."""

    def heap(self) -> HeapRecorder:
        """What records heap profiles."""

    def standing(self) -> Standing:
        """Phase, and whether the target may be read."""

    def alive(self) -> bool:
        """All parts that should run do run."""


class HttpServer:
    """Serves the pages of one service.

    Args:
        service: whom to ask.
        registry: what `/metrics` exposes.
        address: host and port; port 0 picks a free one.
        redact_keys: show no key names.
    """

    def __init__(
        self,
        service: Observed,
        registry: CollectorRegistry,
        address: tuple[str, int],
        *,
        redact_keys: bool = False,
    ) -> None:
        self._service = service
        self._registry = registry
        self._address = address
        self._redact_keys = redact_keys
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

        # What reaches this logger are requests that are not HTTP; they got their 400, a traceback helps nobody.
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
        app = build_app(self._service, self._registry, redact_keys=self._redact_keys)
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

    def _connection(self) -> asyncio.BaseProtocol:
        if self._web is None or len(self._web.connections) >= MAX_CONNECTIONS:
            return _Refusal()
        return self._web()


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
