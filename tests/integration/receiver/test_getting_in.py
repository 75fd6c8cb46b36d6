"""Who may follow a source, and what is said to those who may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from portd.errors import HandshakeError, SourceBusy
from portd.model import Position
from portd.net.endpoint import Endpoint
from portd.source.handshake import HandshakeOptions
from portd.source.info import read_info
from portd.source.losses import ReceiverLost
from tests.integration.receiver.kit import LEAST_ACL, acknowledged, as_user, command, ends
from tests.servers import Server, free_port, wait_for

if TYPE_CHECKING:
    from tests.conftest import ServerFactory
    from tests.servers import Binary


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
