"""How links end, and that each end has a name."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from portd.errors import HandshakeError, InternalError, SourceBusy, SourceError
from portd.net.endpoint import Endpoint
from portd.source.losses import Reason, ReceiverLost
from tests.integration.receiver.kit import ends, our_line
from tests.servers import Server, free_port, wait_for

if TYPE_CHECKING:
    from tests.conftest import ServerFactory


async def test_source_ends(source: Server) -> None:
    """A source that shuts down is a loss with a reason, and what came before it stays readable."""
    async with ends(source) as each:
        transfer = await each.begin()
        await each.snapshot(transfer)
        source.client().set("last", "words")
        await wait_for(lambda: each.receiver.ack_offset > transfer.position.offset)
        source.kill()
        error = await each.lost()
        assert error.reason in {Reason.EOF, Reason.RESET}
        assert each.progress.source.losses == {error.reason: 1}
        assert not each.progress.source.connected
        assert b"words" in await each.read(lambda got: b"words" in got)


async def test_nobody_listens() -> None:
    """A refused connection is retriable and names the address."""
    port = free_port()
    async with ends(Endpoint("127.0.0.1", port)) as each:
        with pytest.raises(ReceiverLost, match=str(port)) as caught:
            await each.begin()
        assert caught.value.reason is Reason.REFUSED
    async with ends(Endpoint("", 0, "/nonexistent/socket")) as each:
        with pytest.raises(ReceiverLost):
            await each.begin()


async def test_host_name_that_does_not_resolve() -> None:
    """A name that nobody knows has its own word."""
    async with ends(Endpoint("nobody.invalid")) as each:
        with pytest.raises(ReceiverLost) as caught:
            await each.begin()
        assert caught.value.reason is Reason.NAME


async def test_hanging_source(source: Server) -> None:
    """A source that hangs is given up: at connect after one limit, later after the silence limit."""
    async with ends(source, connect_seconds=0.3, silence_seconds=0.5, ack_seconds=0.1) as each:
        await each.snapshot(await each.begin())
        source.signal(signal.SIGSTOP)
        assert (await each.lost()).reason is Reason.SILENCE
        with pytest.raises(ReceiverLost) as caught:
            await each.begin()
        assert caught.value.reason is Reason.TIMEOUT
        source.signal(signal.SIGCONT)
        assert each.progress.source.losses == {"silence": 1, "timeout": 1}
        assert not (await each.begin(each.position())).full


async def test_source_that_hangs_after_psync(servers: ServerFactory) -> None:
    """No newline, no snapshot: the silence limit also watches the wait for the snapshot."""
    server = servers(repl_diskless_sync_delay=3600)
    async with ends(server, silence_seconds=0.5, ack_seconds=0.1) as each:
        beginning = asyncio.create_task(each.begin())
        await wait_for(lambda: our_line(server).get("state") == "wait_bgsave")
        server.signal(signal.SIGSTOP)
        with pytest.raises(ReceiverLost) as caught:
            await beginning
        assert caught.value.reason is Reason.SILENCE


async def test_cancelling_connect_leaves_nothing_behind(source: Server) -> None:
    """A connect that is cancelled closes its connection, and the link can be used again."""
    async with ends(source) as each:
        source.signal(signal.SIGSTOP)
        beginning = asyncio.create_task(each.begin())
        await wait_for(lambda: each.progress.source.bytes_sent)
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        source.signal(signal.SIGCONT)
        await each.snapshot(await each.begin())
        with pytest.raises(InternalError):
            await each.receiver.connect()
        with pytest.raises(InternalError):
            await each.receiver.run()
        await each.stop()
        with pytest.raises(ReceiverLost):
            await each.receiver.run()


async def test_cancelling_run_closes_the_connection(source: Server) -> None:
    """The link's task ends when cancelled, and the source sees us go."""
    async with ends(source) as each:
        await each.snapshot(await each.begin())
        assert each.task is not None
        each.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await each.task
        assert not each.receiver.connected
        await wait_for(lambda: source.info("replication")["connected_slaves"] == 0)


async def talking_server(*lines: bytes) -> tuple[asyncio.Server, int]:
    """A server that answers each request with the next of *lines* and then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in lines:
            await reader.read(4096)
            writer.write(line)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("lines", "kind"),
    [([], ReceiverLost), ([b"+PONG\r\n"], ReceiverLost), ([b"SSH-2.0-OpenSSH_9\r\n"], HandshakeError)],
    ids=["closes", "closes later", "ssh"],
)
async def test_what_listens_there_is_no_source(lines: list[bytes], kind: type[SourceError]) -> None:
    """Something else at the address leads to a clear error."""
    server, port = await talking_server(*lines)
    async with server, ends(Endpoint("127.0.0.1", port)) as each:
        with pytest.raises(kind) as caught:
            await each.begin()
        assert caught.value.hint


async def test_a_snapshot_that_is_given_up_is_asked_for_again() -> None:
    """A full sync that was agreed on and does not come (a fork that failed, a child that was killed) says nothing against the source."""
    agreed = b"+FULLRESYNC %s 1\r\n" % (b"a" * 40)
    server, port = await talking_server(b"+PONG\r\n", b"+OK\r\n", b"+OK\r\n", b"+OK\r\n", agreed)
    async with server, ends(Endpoint("127.0.0.1", port)) as each:
        with pytest.raises(SourceBusy, match="gave up the snapshot") as caught:
            await each.begin()
        assert caught.value.retriable


async def test_a_wrong_announced_length_is_refused() -> None:
    """A snapshot that ends elsewhere than announced would shift every offset."""
    full = b"+FULLRESYNC %s 1\r\n$9\r\n" % (b"a" * 40)
    server, port = await talking_server(b"+PONG\r\n", b"+OK\r\n", b"+OK\r\n", b"+OK\r\n", full + b"REDIS0011")
    async with server, ends(Endpoint("127.0.0.1", port)) as each:
        await each.begin()
        await each.read(lambda got: len(got) == 9)
        with pytest.raises(SourceError, match="9 bytes, but it ended after 7"):
            each.receiver.stream_begins(7)
        each.receiver.stream_begins(9)
