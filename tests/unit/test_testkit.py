"""The tools that other tests rely on: servers, proxy."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.proxy import Proxy
from tests.servers import Binary, Server, wait_for

if TYPE_CHECKING:
    from tests.conftest import ServerFactory


def test_server_keeps_data_over_restart(binary: Binary, servers: ServerFactory) -> None:
    """A restarted server has the same port and the data that it saved."""
    server = servers(binary)
    port = server.port
    server.client().set("k", "v")
    server.client().save()
    server.restart(crash=True)
    assert (server.port, server.client().get("k")) == (port, b"v")


def test_server_reports_log_when_it_does_not_start(servers: ServerFactory) -> None:
    """A server that refuses its configuration fails the test with the server's own words."""
    with pytest.raises(RuntimeError, match="no-such-setting"):
        servers(no_such_setting="1")


def test_server_with_password(servers: ServerFactory) -> None:
    """A password is known to the clients and the URL."""
    server = servers(requirepass="s3cret")
    assert server.client().ping()
    assert ":s3cret@" in server.url


async def test_wait_for_shows_state() -> None:
    """A wait that fails says what it waited for and shows the state."""
    with pytest.raises(AssertionError, match=r"False[\s\S]*state: 42"):
        await wait_for(lambda: False, timeout=0.0, dump=lambda: 42)


async def _ask(port: int, seconds: float = 5.0) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"PING\r\n")
        return await asyncio.wait_for(reader.read(100), seconds)
    finally:
        writer.close()


async def test_proxy_forwards_and_counts(source: Server) -> None:
    """Without faults the proxy is invisible, and it counts bytes."""
    async with Proxy(source.port) as proxy:
        assert await _ask(proxy.port) == b"+PONG\r\n"
        assert proxy.statistics() == {"accepted": 1, "open": 1, "cuts": 0, "to_server": 6, "to_client": 7}
        await wait_for(lambda: proxy.open == 0, dump=proxy.statistics)


async def test_proxy_cuts_in_the_middle_of_a_message(source: Server) -> None:
    """``cut_after`` lets exactly that many bytes through."""
    async with Proxy(source.port) as proxy:
        proxy.to_client.cut_after = 3
        assert await _ask(proxy.port) == b"+PO"
        assert await _ask(proxy.port) == b"+PONG\r\n"


async def test_proxy_cut_resets_connections(source: Server) -> None:
    """``cut`` ends connections with RST."""
    async with Proxy(source.port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        await wait_for(lambda: proxy.open == 1)
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()


async def test_proxy_half_open_swallows_everything(source: Server) -> None:
    """``half_open`` keeps connections but carries nothing; after ``heal`` only new connections work."""
    async with Proxy(source.port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        await wait_for(lambda: proxy.open == 1)
        proxy.half_open()
        writer.write(b"PING\r\n")
        await wait_for(lambda: proxy.to_server.dropped == 6, dump=proxy.statistics)
        with pytest.raises(TimeoutError):
            await _ask(proxy.port, seconds=0.05)
        proxy.heal()
        assert await _ask(proxy.port) == b"+PONG\r\n"
        source.signal(signal.SIGKILL)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        writer.close()


async def test_proxy_stall_delay_and_throttle(source: Server) -> None:
    """Stalled bytes wait, delayed bytes come late, throttled bytes come slowly."""
    clock = asyncio.get_running_loop().time
    async with Proxy(source.port) as proxy:
        proxy.to_server.stall()
        with pytest.raises(TimeoutError):
            await _ask(proxy.port, seconds=0.05)
        proxy.heal()
        proxy.to_client.delay = 0.1
        begin = clock()
        await _ask(proxy.port)
        assert clock() - begin >= 0.1
        proxy.heal()
        source.client().set("big", b"x" * 20_000)
        proxy.to_client.bytes_per_second = 100_000
        begin = clock()
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"GET big\r\n")
            await reader.readexactly(20_010)
        writer.close()
        assert clock() - begin >= 0.1


async def test_proxy_refuses_and_listens_again(source: Server) -> None:
    """``refuse`` closes the port, ``start`` opens the same one."""
    async with Proxy(source.port) as proxy:
        port = proxy.port
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await _ask(port)
        await proxy.start()
        assert proxy.port == port
        assert await _ask(port) == b"+PONG\r\n"
