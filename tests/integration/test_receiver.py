"""The link against real servers: transfers, resumption, refusals, losses, and ACKs that never stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from portd.errors import HandshakeError, InternalError, SourceBusy, SourceError
from portd.kernel.crc64 import crc64
from portd.model import Phase, Position, Progress
from portd.net.endpoint import Endpoint, Tls
from portd.source.handshake import HandshakeOptions
from portd.source.info import read_info
from portd.source.losses import Reason, ReceiverLost
from portd.source.receiver import Receiver, ReceiverOptions, Transfer
from portd.spool import Spool
from portd.watch.standing import look
from tests.servers import Server, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Binary

LEAST_ACL = ["reset", "on", ">pass", "+ping", "+replconf", "+psync"]


@dataclass
class Ends:
    """A link with its spool, and what was read from it."""

    link: Receiver
    spool: Spool
    progress: Progress
    task: asyncio.Task[None] | None = None

    async def begin(self, position: Position | None = None) -> Transfer:
        """Connects and receives from now on."""
        transfer = await self.link.connect(position)
        if transfer.full:
            self.spool.reset()
        self.task = asyncio.create_task(self.link.run(), name="link")
        return transfer

    async def read(self, enough: Callable[[bytearray], bool]) -> bytes:
        """Reads and releases until there is enough."""
        got = await self._read(enough)
        self.spool.release(self.spool.cursor)
        return bytes(got)

    async def _read(self, enough: Callable[[bytearray], bool]) -> bytearray:
        got = bytearray()
        async with asyncio.timeout(60):
            while not enough(got):
                got += (await self.spool.read()).data
                if self.spool.starved:
                    self.spool.release(self.spool.cursor)
        return got

    async def snapshot(self, transfer: Transfer) -> bytes:
        """The whole snapshot, its checksum verified; the source has been told that the stream begins."""
        mark, start = transfer.mark or b"", self.spool.cursor
        if transfer.length is None:
            data = await self._read(lambda got: mark in got[-100_000:])
            end = data.rindex(mark)
        else:
            end = transfer.length
            data = await self._read(lambda got: len(got) >= end)
        after = start + end + len(mark)
        self.spool.seek(after)
        self.spool.release(after)
        snapshot = bytes(data[:end])
        assert snapshot[:5] in {b"REDIS", b"VALKE"}
        assert int.from_bytes(snapshot[-8:], "little") == crc64(snapshot[:-8])
        self.link.stream_begins(after)
        return snapshot

    async def lost(self) -> ReceiverLost:
        """How the link ends."""
        assert self.task is not None
        with pytest.raises(ReceiverLost) as caught:
            async with asyncio.timeout(60):
                await self.task
        return caught.value

    def position(self) -> Position | None:
        """Where the next connection continues."""
        return self.link.position

    async def stop(self) -> None:
        """Closes the link and waits for its task."""
        self.link.close()
        if self.task is not None:
            with contextlib.suppress(ReceiverLost, asyncio.CancelledError):
                await self.task


@contextlib.asynccontextmanager
async def ends(
    endpoint: Endpoint | Server, directory: Path | None = None, *, memory: int = 1 << 20, **options: Any
) -> AsyncIterator[Ends]:
    """A link to a server, not connected; *options* are those of link and endpoint, ACKs come ten times as often as usual."""
    options = {"ack_seconds": 0.1} | options
    endpoint = Endpoint.parse(endpoint.url) if isinstance(endpoint, Server) else endpoint
    patience = {name: options.pop(name) for name in ("connect_seconds", "silence_seconds") if name in options}
    endpoint = replace(endpoint, **patience)
    progress = Progress()
    spool = Spool(memory_bytes=memory, directory=directory, max_disk_bytes=1 << 30)
    each = Ends(Receiver(endpoint, spool, progress, options=ReceiverOptions(**options)), spool, progress)
    try:
        yield each
    finally:
        await each.stop()
        spool.close()


def as_user(server: Server, name: str = "repl", password: str = "pass") -> Endpoint:
    """The server's address with a user."""
    return Endpoint(host="127.0.0.1", port=server.port, username=name, password=password)


def our_line(server: Server) -> dict[str, Any]:
    """How we appear in the source's INFO replication."""
    found: dict[str, Any] = server.info("replication").get("slave0", {})
    return found


def command(server: Server, *words: str | int) -> Any:
    """Any command, its reply as redis-py gives it."""
    client: Any = server.client()
    return client.execute_command(*words)


async def acknowledged(server: Server, each: Ends) -> None:
    """Waits until the source has seen an ACK for everything it sent."""
    await wait_for(
        lambda: our_line(server).get("offset") == server.info("replication")["master_repl_offset"],
        dump=lambda: (server.info("replication"), each.progress),
    )


# -------------------------------------------------------------------- transfers


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


# ------------------------------------------------------------------------- ACKs


async def test_acks_go_on_while_nobody_reads_the_spool(servers: ServerFactory) -> None:
    """With the spool full and reading paused, ACKs keep the source from dropping us."""
    server = servers(repl_timeout=2, repl_ping_replica_period=1)
    async with ends(server, memory=64 << 10, silence_seconds=1.5, ack_seconds=1.0) as each:
        await each.snapshot(await each.begin())
        await acknowledged(server, each)
        for turn in range(40):
            server.client().set(f"key:{turn}", "x" * 100_000)
        await wait_for(lambda: each.spool.full)
        before = each.progress.source.bytes_sent
        ack_bytes = 40
        await wait_for(lambda: each.progress.source.bytes_sent > before + 4 * ack_bytes)
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
        await each.read(lambda _: each.link.ack_offset == source.info("replication")["master_repl_offset"])


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
        await each.read(lambda _: each.link.ack_offset == source.info("replication")["master_repl_offset"])


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
        client = source.client(socket_timeout=30)
        client.set("k", "v")
        waiting = asyncio.create_task(asyncio.to_thread(client.wait, 1, 10_000))
        await each.read(lambda got: b"GETACK" in got)
        each.link.acknowledge_now()
        assert await waiting == 1


def acknowledge(each: Ends) -> bool:
    """Sends an ACK; for `wait_for`."""
    each.link.acknowledge_now()
    return True


# --------------------------------------------------------------- getting in


async def test_least_acl_user(servers: ServerFactory, binary: Binary) -> None:
    """`+ping +replconf +psync` without key patterns gets everything; what we cannot ask is unknown."""
    server = servers(binary)
    server.client().set("k", "secret value")
    command(server, "ACL", "SETUSER", "repl", *LEAST_ACL)
    async with ends(as_user(server)) as each:
        assert b"secret value" in await each.snapshot(await each.begin())
        await acknowledged(server, each)
    info = await read_info(as_user(server))
    assert info.refused == {"INFO", "CONFIG GET"}
    assert info.version is None
    assert info.shown() == {}


async def test_info(servers: ServerFactory, binary: Binary) -> None:
    """A user who may ask learns who the source is and what its limits are."""
    server = servers(binary, repl_backlog_size="3mb", repl_timeout=44)
    server.client(db=2).set("k", "v")
    info = await read_info(Endpoint.parse(server.url))
    assert (binary.family, binary.version) == (info.family, tuple(map(int, (info.version or "").split("."))))
    assert (info.role, info.keys, info.replicas, info.link_up) == ("primary", 1, 0, None)
    assert info.backlog_bytes == 3 << 20
    assert info.repl_timeout_seconds == 44
    assert info.output_limit is not None
    assert info.output_limit.hard_bytes == 256 << 20
    assert info.run_id == server.info("server")["run_id"]
    assert info.refused == frozenset()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://127.0.0.1:{port}", "nobody listens"),
        ("unix:///tmp/portd-no-such.sock", "nobody listens"),
        ("redis://no-such-host.invalid", "does not resolve"),
    ],
)
async def test_info_of_nobody(url: str, said: str) -> None:
    """A source that is not there is a loss with its cause and address, not an unknown."""
    endpoint = Endpoint.parse(url.format(port=free_port()))
    with pytest.raises(ReceiverLost, match=rf"{said}.*\({endpoint.display}\)\nHINT"):
        await read_info(endpoint)


async def test_info_of_a_full_source(servers: ServerFactory) -> None:
    """A source that turns clients away is there; when it closes quickly, its words are lost, and the hint tells them."""
    server = servers(maxclients=1)
    server.client().ping()
    with pytest.raises((SourceBusy, ReceiverLost), match="maxclients"):
        await read_info(Endpoint.parse(server.url))


@pytest.mark.parametrize(
    ("acl", "missing"),
    [(["+ping", "+replconf"], "psync"), (["+ping", "+psync"], "replconf")],
)
async def test_missing_permission_is_named(source: Server, acl: list[str], missing: str) -> None:
    """The operator is told which command the user may not run, and how to allow it."""
    command(source, "ACL", "SETUSER", "repl", "reset", "on", ">pass", *acl)
    async with ends(as_user(source)) as each:
        with pytest.raises(HandshakeError) as caught:
            await each.begin()
        assert missing.upper() in str(caught.value)
        assert "+ping +replconf +psync" in str(caught.value)
        assert each.progress.source.losses == {"handshake": 1}


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        (Endpoint(password="wrong-one"), "does not know this user and password"),
        (Endpoint(username="nobody", password="wrong-one"), "does not know this user and password"),
        (Endpoint(), "wants a password"),
    ],
    ids=["password", "user", "none"],
)
async def test_wrong_credentials(servers: ServerFactory, binary: Binary, endpoint: Endpoint, words: str) -> None:
    """Wrong credentials are told apart from missing ones, and never repeated."""
    server = servers(binary, requirepass="right")
    mine = Endpoint("127.0.0.1", server.port, username=endpoint.username, password=endpoint.password)
    async with ends(mine) as each:
        with pytest.raises(HandshakeError) as caught:
            await each.begin()
    assert words in str(caught.value)
    assert caught.value.hint
    assert "wrong-one" not in str(caught.value)
    assert not caught.value.retriable


async def test_password_given_to_a_source_without_one(source: Server, binary: Binary, servers: ServerFactory) -> None:
    """A password too many is an error of the settings, and says so."""
    server = servers(binary)
    async with ends(Endpoint("127.0.0.1", server.port, password="needless")) as each:
        with pytest.raises(HandshakeError, match="has no password"):
            await each.begin()


async def test_renamed_psync(servers: ServerFactory, binary: Binary) -> None:
    """A renamed PSYNC works under its new name, and without the setting the hint points to it.

    Servers take it for SYNC under any other name: the position is in the snapshot, and resuming means a full sync.
    """
    server = servers(binary, rename_command="PSYNC follow-42")
    server.client().set("k", "v")
    async with ends(server) as each:
        with pytest.raises(HandshakeError, match="psync_command"):
            await each.begin()
    async with ends(server, handshake=HandshakeOptions(psync_command="follow-42")) as each:
        transfer = await each.begin()
        assert not transfer.announced
        await each.read(lambda got: got.endswith(transfer.mark or b""))  # nothing follows: there is no stream yet
        assert each.position() is None
        replid = server.info("replication")["master_replid"]
        each.link.stream_begins(each.spool.cursor, Position(replid, 0))
        server.client().set("later", "v")
        await each.read(lambda got: b"later" in got)
        assert each.position() == Position(replid, server.info("replication")["master_repl_offset"])
        await each.stop()
        assert (await each.begin(each.position())).full


async def test_unix_socket(source: Server) -> None:
    """A unix socket works like TCP."""
    async with ends(Endpoint.parse(source.unix_url)) as each:
        await each.snapshot(await each.begin())
        await acknowledged(source, each)
    assert (await read_info(Endpoint.parse(source.unix_url))).role == "primary"


async def test_replica_without_a_link(servers: ServerFactory) -> None:
    """A source that is itself cut off is waited for."""
    server = servers(replicaof=f"127.0.0.1 {free_port()}")
    async with ends(server) as each:
        with pytest.raises(SourceBusy, match="replica without a link"):
            await each.begin()
        assert each.progress.source.losses == {"busy": 1}


async def test_replica_as_source(servers: ServerFactory) -> None:
    """A replica with a link serves us, with the primary's replid and offsets."""
    primary, replica = servers(), servers()
    primary.client().set("k", "v")
    replica.replicate(primary)
    await wait_for(lambda: replica.info("replication")["master_link_status"] == "up")
    async with ends(replica) as each:
        transfer = await each.begin()
        await each.snapshot(transfer)
        primary.client().set("later", "v")
        await each.read(lambda got: b"later" in got)
        assert primary.info("replication")["master_replid"] == transfer.position.replid
        await wait_for(lambda: primary.info("replication")["master_repl_offset"] == each.link.ack_offset)


# ----------------------------------------------------------------------- losses


async def test_source_ends(source: Server) -> None:
    """A source that shuts down is a loss with a reason, and what came before it stays readable."""
    async with ends(source) as each:
        transfer = await each.begin()
        await each.snapshot(transfer)
        source.client().set("last", "words")
        await wait_for(lambda: each.link.ack_offset > transfer.position.offset)
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
            await each.link.connect()
        with pytest.raises(InternalError):
            await each.link.run()
        await each.stop()
        with pytest.raises(ReceiverLost):
            await each.link.run()


async def test_cancelling_run_closes_the_connection(source: Server) -> None:
    """The link's task ends when cancelled, and the source sees us go."""
    async with ends(source) as each:
        await each.snapshot(await each.begin())
        assert each.task is not None
        each.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await each.task
        assert not each.link.connected
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
            each.link.stream_begins(7)
        each.link.stream_begins(9)


# -------------------------------------------------------------------------- TLS


@dataclass(frozen=True)
class Certificates:
    """An authority, a server and a client certificate."""

    ca: Path
    server: Path
    client: Path

    @property
    def server_context(self) -> ssl.SSLContext:
        """For a server that wants a client certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.load_cert_chain(self.server)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made with openssl; PEM files that hold key and certificate."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    try:
        openssl(*new, "-x509", "-days", "2", "-subj", "/CN=test ca", "-keyout", "ca.key", "-out", "ca.pem")
    except FileNotFoundError:
        pytest.skip("no openssl here")
    for name, names in (("server", "DNS:source.test,IP:127.0.0.1"), ("client", "DNS:client.test")):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "names").write_text(f"subjectAltName={names}")
        openssl(
            *("x509", "-req", "-days", "2", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-extfile", "names", "-out", f"{name}.crt"),
        )
        (folder / f"{name}.pem").write_text((folder / f"{name}.crt").read_text() + (folder / f"{name}.key").read_text())
    return Certificates(folder / "ca.pem", folder / "server.pem", folder / "client.pem")


@contextlib.asynccontextmanager
async def tls_proxy(server: Server, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Terminates TLS in front of a server; yields its port."""
    serving: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(OSError):
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(server.path))
            await asyncio.gather(pass_on(reader, inner_writer), pass_on(inner_reader, writer))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with listener:
        yield listener.sockets[0].getsockname()[1]
    await asyncio.gather(*serving)


async def test_tls_with_client_certificate_and_server_name(source: Server, certificates: Certificates) -> None:
    """Authority, client certificate and SNI are used by both the link and the control plane."""
    source.client().config_set("rdbcompression", "no")
    command(source, "DEBUG", "POPULATE", 100, "key", 30_000)
    asked: list[str] = []
    context = certificates.server_context
    context.sni_callback = lambda _, name, __: asked.append(name or "")
    tls = Tls(ca=certificates.ca, cert=certificates.client, server_name="source.test")
    async with tls_proxy(source, context) as port:
        endpoint = Endpoint("127.0.0.1", port, tls=tls)
        async with ends(endpoint) as each:
            assert len(await each.snapshot(await each.begin())) > 3_000_000
            await acknowledged(source, each)
        assert (await read_info(endpoint)).role == "primary"
    assert set(asked) == {"source.test"}


async def test_tls_refusals_name_the_cause(source: Server, certificates: Certificates) -> None:
    """Untrusted authority, wrong name, TLS to a plain port and the reverse are errors that stay."""
    good = Tls(ca=certificates.ca, cert=certificates.client, server_name="source.test")
    wrong = {
        "certificate": Tls(cert=certificates.client, server_name="source.test"),
        "other.test": Tls(ca=certificates.ca, cert=certificates.client, server_name="other.test"),
    }
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the proxy's own complaints
    async with tls_proxy(source, certificates.server_context) as port:
        for words, tls in wrong.items():
            async with ends(Endpoint("127.0.0.1", port, tls=tls)) as each:
                with pytest.raises(HandshakeError, match=words) as caught:
                    await each.begin()
                assert caught.value.hint
            with pytest.raises(HandshakeError, match=words):
                await read_info(Endpoint("127.0.0.1", port, tls=tls))
        async with ends(Endpoint("127.0.0.1", port)) as each:
            with pytest.raises(ReceiverLost, match="rediss://"):
                await each.begin()
        with pytest.raises(ReceiverLost, match="rediss://"):
            await read_info(Endpoint("127.0.0.1", port))
    async with ends(Endpoint("127.0.0.1", source.port, tls=good), connect_seconds=1.0) as each:
        with pytest.raises(SourceError):
            await each.begin()


def speaks_tls(binary: Binary) -> bool:
    """Started without certificates no server comes up, and only one built with TLS misses them."""
    command = [binary.path, "--port", "0", "--tls-port", "1"]
    return b"tls-cert-file" in subprocess.run(command, capture_output=True, timeout=20, check=False).stdout


async def test_tls_of_the_server_itself(servers: ServerFactory, binary: Binary, certificates: Certificates) -> None:
    """TLS as servers speak it, without a proxy in between."""
    port = free_port()
    files = {"tls_ca_cert_file": certificates.ca, "tls_cert_file": certificates.server}
    settings = {name: str(path) for name, path in files.items()} | {"tls_key_file": str(certificates.server)}
    if not speaks_tls(binary):
        pytest.skip(f"{binary.name} is built without TLS")
    server = servers(binary, tls_port=port, **settings)
    server.client().set("k", "v" * 100_000)
    async with ends(Endpoint("127.0.0.1", port, tls=Tls(ca=certificates.ca, cert=certificates.client))) as each:
        await each.snapshot(await each.begin())
        await acknowledged(server, each)
    async with ends(Endpoint("127.0.0.1", port, tls=Tls(ca=certificates.ca))) as each:
        with pytest.raises(HandshakeError, match="certificate required"):
            await each.begin()


# ------------------------------------------------------------------------ loops


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_both_event_loops(
    run: Callable[[Coroutine[Any, Any, None]], None], source: Server, certificates: Certificates, tmp_path: Path
) -> None:
    """Full sync under pressure, partial resync and TLS work on either event loop."""
    source.client().config_set("rdbcompression", "no")
    command(source, "DEBUG", "POPULATE", 500, "key", 20_000)

    async def scenario() -> None:
        async with tls_proxy(source, certificates.server_context) as port:
            tls = Tls(ca=certificates.ca, cert=certificates.client)
            for endpoint in (Endpoint("127.0.0.1", source.port), Endpoint("127.0.0.1", port, tls=tls)):
                async with ends(endpoint, tmp_path, memory=256 << 10) as each:
                    transfer = await each.begin()
                    await wait_for(lambda each=each: each.spool.written > 10_000_000)  # type: ignore[misc]
                    await each.snapshot(transfer)
                    await acknowledged(source, each)
                    await each.stop()
                    assert not (await each.begin(each.position())).full
                    source.client().set("k", "v")
                    await each.read(lambda got: b"SET" in got)

    run(scenario())
