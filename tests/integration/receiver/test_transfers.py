"""What comes over a link: snapshots of each kind, and what continues them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from portd.model import Phase, Position
from portd.source.receiver import Transfer
from portd.watch.standing import look
from tests.integration.receiver.kit import acknowledged, command, ends, our_line
from tests.servers import Server, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Binary


@pytest.mark.parametrize("diskless", [True, False], ids=["diskless", "disk"])
async def test_full_sync_then_stream(binary: Binary, servers: ServerFactory, *, diskless: bool) -> None:
    """Snapshot, then stream, with offsets that agree with the source to the byte."""
    server = servers(binary, repl_diskless_sync=diskless)
    server.client().set("before", "x" * 1000)
    async with ends(server) as each:
        transfer = await each.begin()
        assert transfer.full
        assert diskless == (transfer.length is None) == (transfer.mark is not None)
        assert look(each.progress).phase is Phase.WAITING  # for the first byte of the snapshot
        assert each.progress.source.connected
        data = await each.snapshot(transfer)
        assert b"before" in data
        assert each.progress.snapshot.bytes_read == len(data)
        assert each.progress.snapshot.bytes_total == transfer.length
        server.client(db=3).set("after", "y")
        stream = await each.read(lambda got: b"after" in got)
        assert stream.removeprefix(b"*1\r\n$4\r\nping\r\n").startswith(b"*2\r\n$6\r\nSELECT")
        await acknowledged(server, each)
        assert server.info("replication")["master_repl_offset"] == each.link.ack_offset
        assert each.progress.stream.read_offset == each.link.ack_offset
        assert our_line(server)["state"] == "online"


async def test_partial_resync_continues_at_the_next_byte(binary: Binary, servers: ServerFactory) -> None:
    """A new connection continues behind the last byte received, even within a command."""
    server = servers(binary)
    client = server.client()
    async with ends(server) as each:
        transfer = await each.begin()
        await each.snapshot(transfer)
        client.set("one", 1)
        seen = await each.read(lambda got: b"one" in got and got.endswith(b"\r\n"))
        await wait_for(lambda: each.position() and each.link.ack_offset == transfer.position.offset + len(seen))
        await each.stop()
        position = each.position()
        assert position == Position(transfer.position.replid, transfer.position.offset + len(seen))

        client.set("two", 2)
        again = await each.begin(position)
        assert again == Transfer(full=False, position=position)
        assert each.progress.source.connects == 2
        rest = await each.read(lambda got: b"two" in got and got.endswith(b"2\r\n"))
        assert rest.startswith(b"*3\r\n$3\r\nSET\r\n$3\r\ntwo")
        await acknowledged(server, each)

    async with ends(server) as middle:
        await middle.begin(Position(position.replid, position.offset + 5))
        assert rest[5:] == await middle.read(lambda got: got.endswith(b"2\r\n"))


async def test_unknown_position_leads_to_a_full_sync(source: Server) -> None:
    """The source does not know the history: it sends everything."""
    async with ends(source) as each:
        transfer = await each.begin(Position("0" * 40, 12345))
        assert transfer.full
        assert transfer.position.replid != "0" * 40
        await each.snapshot(transfer)


async def test_link_lost_while_the_snapshot_waits_in_the_spool(source: Server, tmp_path: Path) -> None:
    """Once the snapshot has come whole, a loss costs no second one, even if it was not decoded yet."""
    source.client().set("k", "v" * 5000)
    async with ends(source, tmp_path) as each:
        transfer = await each.begin()
        # The source shows us as online once it has sent everything and seen an ACK.
        await wait_for(lambda: our_line(source).get("state") == "online")
        before = each.spool.written
        source.client().set("late", 1)
        await wait_for(lambda: each.spool.written > before)
        await each.stop()
        assert each.position() is None
        await each.snapshot(transfer)
        position = each.position()
        assert position is not None
        assert not (await each.begin(position)).full
        await acknowledged(source, each)


async def test_link_continues_while_a_counted_snapshot_is_decoded(servers: ServerFactory, tmp_path: Path) -> None:
    """With an announced length the link knows by itself that the snapshot has come, and resumes the stream behind it."""
    server = servers(repl_diskless_sync=False)
    async with ends(server, tmp_path) as each:
        transfer = await each.begin()
        assert transfer.length is not None
        await wait_for(lambda: each.spool.written >= (transfer.length or 0))
        await each.stop()
        server.client().set("late", "v")
        assert not (await each.begin(each.position())).full
        await each.snapshot(transfer)  # tells the link where the stream begins, which it knows
        await each.read(lambda got: b"late" in got)
        await acknowledged(server, each)


async def test_a_full_sync_overflows_to_disk_and_comes_out_whole(source: Server, tmp_path: Path) -> None:
    """Nobody reads: the source is drained all the same, memory stays bounded, and the snapshot is intact."""
    source.client().config_set("rdbcompression", "no")
    command(source, "DEBUG", "POPULATE", 3000, "key", 8192)
    async with ends(source, tmp_path) as each:
        transfer = await each.begin()
        await wait_for(lambda: our_line(source).get("state") == "online", dump=each.spool.statistics)
        await wait_for(lambda: each.spool.written > 3000 * 8192)
        held = each.spool.statistics()
        assert held.peak_memory_bytes <= 1 << 20
        assert held.disk_bytes > 20 << 20
        assert len(await each.snapshot(transfer)) > 3000 * 8192


async def test_newlines_while_waiting_count_as_life(servers: ServerFactory) -> None:
    """A source that takes its time shows life with newlines; a short silence limit does not cut it off."""
    server = servers(repl_diskless_sync_delay=3)
    async with ends(server, silence_seconds=1.9) as each:
        transfer = await each.begin()
        await each.snapshot(transfer)
        assert not each.progress.source.losses


async def test_transfer_of_a_server_without_keys(source: Server) -> None:
    """An empty source has a snapshot too, whose end mark may come in the same read as its header."""
    async with ends(source) as each:
        assert len(await each.snapshot(await each.begin())) < 500
