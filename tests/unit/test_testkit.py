"""The tools that other tests rely on: servers, proxy, datasets, traffic, comparison."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests import datasets
from tests.compare import assert_equal, compare
from tests.proxy import Proxy
from tests.servers import PATIENCE_SECONDS, Binary, Server, wait_for, wait_for_sync
from tests.traffic import LiveTraffic, Workload
from tests.wire import Wire

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


async def _ask(port: int, seconds: float = 60.0) -> bytes:
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
        async with asyncio.timeout(PATIENCE_SECONDS):
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


def _copies(servers: ServerFactory, binary: Binary) -> tuple[Server, Server]:
    """Two equal servers with every encoding in them, made by the server's own replication."""
    source, target = servers(binary), servers(binary)
    datasets.fill_every_encoding(source, seed=7, big_bytes=20_000)
    target.replicate(source)
    wait_for_sync(lambda: target.info("replication")["master_link_status"] == "up")
    target.client().replicaof("NO", "ONE")
    return source, target


def test_replica_is_equal(binary: Binary, servers: ServerFactory) -> None:
    """The comparison finds nothing between a server and its own replica, with and without a checkpoint."""
    source, target = _copies(servers, binary)
    assert_equal(source, target, consumer_times=True)
    target.client().set("portd:checkpoint:main", "1")
    assert_equal(source, target)


CHANGES: dict[str, tuple[str | bytes | int, ...]] = {
    "lengths": ("SET", "string:int:0", "1"),
    "missing in target": ("DEL", "set:small"),
    "missing in source": ("SET", "extra", "1"),
    "list expires": ("PEXPIRE", "list:small", 100_000),
    "zset lost 0, added 0, changed 1": ("ZINCRBY", "zset:one", "1", ""),
    "hash lost 0, added 1": ("HSET", "hash:small", "new", "1"),
    "set lost 0, added 1": ("SADD", "set:int16", 99),
    "type string became list": ("SORT", "set:int16", "STORE", "string:int:1"),
    "pending lost 1": ("XACK", "stream:groups", "all", "10-2"),
    "is only on one end": ("XGROUP", "DESTROY", "stream:never-used", "g"),
    "consumer b'nobody' is only": ("XGROUP", "DELCONSUMER", "stream:groups", "all", "nobody"),
    "last-generated-id": ("XSETID", "stream:one", "9-9"),
}


def test_every_kind_of_difference_is_found(binary: Binary, servers: ServerFactory) -> None:
    """Each single change on one end is reported, in words that name it."""
    source, target = _copies(servers, binary)
    changes = dict(CHANGES)
    if binary.at_least(redis=(7, 4), valkey=(9, 0)):
        changes["field expiry lost 1"] = ("HPERSIST", "hash:field-ttl:some", "FIELDS", 1, "f")
    if binary.at_least(redis=(7, 0), valkey=(0,)):
        changes["function library"] = ("FUNCTION", "FLUSH")
    with Wire(target) as wire:
        wire.many(changes.values())
    found = "\n".join(compare(source, target))
    for words in changes:
        assert words in found


def test_a_missing_key_is_found_by_its_count(servers: ServerFactory) -> None:
    """A key swapped for another one is reported on both sides, in any database."""
    source, target = servers(), servers()
    for server, key in ((source, "a"), (target, "b")):
        server.client(db=5).mset({"same": 1, key: 1})
    assert len(compare(source, target)) == 2


async def test_traffic_is_reproducible_and_counted(source: Server, target: Server) -> None:
    """The same seed writes the same commands, and every reply is counted."""
    first, second = (Workload(source.binary, seed=3, swapdb=True, flushdb=True) for _ in range(2))
    assert [first.next() for _ in range(500)] == [second.next() for _ in range(500)]
    async with LiveTraffic(source, rate=0, seed=3) as traffic:
        await wait_for(lambda: traffic.replies > 2000, dump=lambda: traffic.sent)
    assert traffic.commands == traffic.replies
    assert traffic.errors.keys() <= {"BUSYGROUP", "ERR"}
    assert {"INCR", "EVAL", "EXEC", "XADD", "RPOPLPUSH"} <= traffic.sent.keys()


async def test_traffic_survives_a_restart(source: Server) -> None:
    """Traffic goes on after the server was restarted."""
    async with LiveTraffic(source, rate=2000) as traffic:
        await wait_for(lambda: traffic.replies > 100)
        await asyncio.to_thread(source.restart)
        before = traffic.replies
        await wait_for(lambda: traffic.replies > before + 100)
    assert traffic.reconnects >= 1


def test_fills_write_what_they_promise(source: Server) -> None:
    """Every fill makes exactly the keys and elements it is asked for."""
    client = source.client()
    assert (
        datasets.fill_mixed(source, 3000, seed=5)
        == sum(each["keys"] for each in source.info("keyspace").values())
        == 3000
    )
    client.flushall()
    datasets.fill_strings(source, 1234)
    assert client.dbsize() == 1234
    datasets.fill_big_hash(source, b"hash", 1500)
    datasets.fill_big_zset(source, b"zset", 1500)
    datasets.fill_big_set(source, b"set", 1500)
    datasets.fill_big_list(source, b"list", 1500)
    datasets.fill_big_stream(source, b"stream", 1500, pending=1200)
    datasets.fill_big_string(source, b"string", 1_500_000, packable=True)
    sizes = client.hlen("hash"), client.zcard("zset"), client.scard("set"), client.llen("list"), client.xlen("stream")
    assert sizes == (1500,) * 5
    assert client.xpending("stream", "g")["pending"] == 1200
    assert client.strlen("string") == 1_500_000
    assert datasets.fill_expiring(source, 60, within_ms=1) == 120
    wait_for_sync(lambda: not client.exists("soon:59"))
