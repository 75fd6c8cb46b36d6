"""ACKs go on whatever the rest does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from portd.net.endpoint import Endpoint
from portd.source.handshake import HandshakeOptions
from tests.integration.receiver.kit import Ends, acknowledged, ends, our_line
from tests.servers import PATIENCE_SECONDS, Server, wait_for

if TYPE_CHECKING:
    from tests.conftest import ServerFactory


async def test_acks_go_on_while_nobody_reads_the_spool(servers: ServerFactory) -> None:
    """With the spool full and reading paused, ACKs keep the source from dropping us."""
    server = servers(repl_timeout=10, repl_ping_replica_period=1)
    async with ends(server, memory=64 << 10, silence_seconds=9, ack_seconds=1.0) as each:
        await each.snapshot(await each.begin())
        await acknowledged(server, each)
        for turn in range(40):
            server.client().set(f"key:{turn}", "x" * 100_000)
        await wait_for(lambda: each.spool.full)
        before = each.progress.source.bytes_sent
        ack_bytes = 40
        await wait_for(lambda: each.progress.source.bytes_sent > before + 12 * ack_bytes)
        assert our_line(server)["state"] == "online"
        await wait_for(lambda: our_line(server)["lag"] <= 1)
        await each.read(lambda got: got.count(b"x" * 100_000) == 40)
        await acknowledged(server, each)
        assert not each.progress.source.losses


async def test_reconnect_with_a_full_spool(source: Server) -> None:
    """A new link to a full spool agrees on its position, waits, and loses no byte when there is room."""
    values = [f"value {turn} ".encode() * 1000 for turn in range(20)]
    async with ends(source, memory=64 << 10) as each:
        await each.snapshot(await each.begin())
        for value in values[:10]:
            source.client().rpush("list", value)
        await wait_for(lambda: each.spool.full)
        await each.stop()
        for value in values[10:]:
            source.client().rpush("list", value)
        assert not (await each.begin(each.position())).full
        assert each.spool.full
        got = await each.read(lambda got: values[-1] in got)
        places = [got.find(value) for value in values]
        assert -1 not in places
        assert places == sorted(places)
        await each.read(lambda _: each.receiver.ack_offset == source.info("replication")["master_repl_offset"])


@pytest.mark.parametrize("by_source", [True, False])
async def test_a_connection_that_ended_writes_nothing_any_more(source: Server, *, by_source: bool) -> None:
    """What came with the handshake into a full spool goes with its connection: the source sends it to the next one."""
    values = [f"value {turn} ".encode() * 1000 for turn in range(20)]
    async with ends(source, memory=64 << 10) as each:
        await each.snapshot(await each.begin())
        for value in values:
            source.client().rpush("list", value)
        await wait_for(lambda: each.spool.full)
        for _ in range(3):
            await each.stop()
            await each.begin(each.position())
            await asyncio.sleep(0)  # it receives into the spool now
            if by_source:
                source.client().client_kill_filter(_type="replica")
                await each.lost()
            else:
                await each.stop()
        written, position = each.spool.written, each.position()
        begun = await each.read(lambda got: len(got) > 32 << 10)  # the spool has room now
        assert (each.spool.written, each.position()) == (written, position)
        assert not (await each.begin(position)).full
        end = values[-1] + b"\r\n"
        got = begun + await each.read(lambda got: end in got)
        assert [got.count(b"\r\n" + value + b"\r\n") for value in values] == [1] * 20
        await each.read(lambda _: each.receiver.ack_offset == source.info("replication")["master_repl_offset"])


async def test_a_spool_that_is_emptied_stays_empty_after_its_connection(source: Server) -> None:
    """A full sync that follows begins with the snapshot, not with what an older connection kept."""
    async with ends(source, memory=64 << 10) as each:
        await each.snapshot(await each.begin())
        for _ in range(10):
            source.client().rpush("list", b"x" * 10_000)
        await wait_for(lambda: each.spool.full)
        await each.stop()
        assert not (await each.begin(each.position())).full
        await asyncio.sleep(0)  # it receives into the spool now
        await each.stop()
        each.spool.reset()
        assert each.spool.written == 0
        await each.snapshot(await each.begin())


async def test_getack_is_answered(source: Server) -> None:
    """WAIT returns as soon as the reader has seen GETACK and acknowledged out of turn."""
    async with ends(source, ack_seconds=3600.0) as each:
        transfer = await each.begin()
        data = asyncio.create_task(each.snapshot(transfer))
        await wait_for(lambda: acknowledge(each) and data.done())
        client = source.client(socket_timeout=PATIENCE_SECONDS)
        client.set("k", "v")
        waiting = asyncio.create_task(asyncio.to_thread(client.wait, 1, 10_000))
        await each.read(lambda got: b"GETACK" in got)
        each.receiver.acknowledge_now()
        assert await waiting == 1


def acknowledge(each: Ends) -> bool:
    """Sends an ACK; for `wait_for`."""
    each.receiver.acknowledge_now()
    return True


async def test_a_snapshot_alone_is_not_acknowledged() -> None:
    """Its end would be lost if the source closed with an ACK unread: nothing is sent behind PSYNC."""
    behind = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = b""
        while b"PSYNC" not in seen:
            seen += await reader.read(4096)
            writer.write(b"+PONG\r\n" if seen.endswith(b"PING\r\n") else b"" if b"PSYNC" in seen else b"+OK\r\n")
        writer.write(b"+FULLRESYNC %s 1\r\n$9\r\nREDIS0011" % (b"a" * 40))
        behind.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    options = HandshakeOptions(rdb_only=True)
    async with server, ends(Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]), handshake=options) as each:
        await each.begin()
        await each.read(lambda got: len(got) == 9)
        each.receiver.stream_begins(9)
        each.receiver.close()
        assert await behind == b""
