"""Probe, checkpoint and guard on real targets of every version."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from portd.errors import ConfigError, PortdError, TargetBusy, TargetError, TargetLost, TargetNotEmpty, TargetRefused
from portd.kernel.crc64 import crc64
from portd.kernel.requests import split
from portd.model import Position
from portd.net.endpoint import Endpoint
from portd.net.identity import rdb_version_of
from portd.target.capabilities import NEEDED_COMMANDS
from portd.target.connection import ConnectionOptions
from portd.target.kept.checkpoint import (
    Checkpoint,
    State,
    guard,
    make_room,
    new_epoch,
    read_checkpoint,
    write_checkpoint,
)
from portd.target.kept.epoch import Epoch
from portd.target.probe import inspect, probe
from tests.fencing import put_checkpoint, stand
from tests.servers import Binary, Server, free_port

if TYPE_CHECKING:
    from tests.conftest import ServerFactory

REPLID = "0123456789abcdef0123456789abcdef01234567"


def _endpoint(server: Server, user: str = "") -> Endpoint:
    return Endpoint.parse(f"redis://{user}127.0.0.1:{server.port}")


async def test_probes_every_server(binary: Binary, servers: ServerFactory) -> None:
    """Family, version, RDB version and footer are right, and nothing is left behind in the target."""
    server = servers(binary, maxmemory="123mb", maxmemory_policy="allkeys-lru")
    client = server.client(db=2)
    client.set("k", "v")
    found = await probe(_endpoint(server))
    assert (found.family, found.version) == (binary.family, binary.version)
    assert (found.rdb_version, found.footer, found.footer_probed) == (binary.rdb_version, binary.rdb_version, True)
    assert found.run_id == server.info("server")["run_id"]
    assert (found.maxmemory, found.maxmemory_policy) == (123 << 20, "allkeys-lru")
    assert (found.keys, found.proto_max_bulk_bytes) == ({2: 1}, 512 << 20)
    assert ("hpexpireat" in found.commands) == binary.at_least(redis=(7, 4), valkey=(9, 0))
    assert ("function" in found.commands) == binary.at_least(redis=(7, 0), valkey=(7, 2))
    assert found.forbidden == frozenset()
    assert found.dialect().footer == binary.rdb_version
    assert server.info("keyspace") == {"db2": server.info("keyspace")["db2"]}
    assert found.shown()["server"].startswith(binary.family)


async def test_footer_that_the_probe_accepts_is_accepted(binary: Binary, servers: ServerFactory) -> None:
    """A payload with the probed footer restores; the next higher one does not."""
    server = servers(binary)
    found = await probe(_endpoint(server))

    def restore(footer: int) -> bool:
        body = b"\x00\x01x" + footer.to_bytes(2, "little")
        return bool(server.client().restore(f"k{footer}", 0, body + crc64(body).to_bytes(8, "little")))

    assert restore(found.footer)
    with pytest.raises(Exception, match="payload version"):
        restore(found.footer + 1)


async def test_least_permissions(binary: Binary, servers: ServerFactory) -> None:
    """A user with the needed commands only is enough; what else is forbidden is known before the sync."""
    server = servers(binary)
    commands = [f"+{name}" for name in NEEDED_COMMANDS]
    server.client().acl_setuser("least", enabled=True, passwords=["+pw"], keys=["*"], commands=commands)
    found = await probe(_endpoint(server, "least:pw@"))
    assert set(NEEDED_COMMANDS) <= found.commands
    assert {"restore", "mset", "unlink", "config", "command"} <= found.forbidden
    assert not {"restore", "mset", "unlink"} & found.commands
    assert (found.rdb_version, found.footer_probed) == (binary.rdb_version, False)
    assert found.maxmemory_policy == "noeviction"
    assert server.client().dbsize() == 0


async def test_missing_permissions_are_named(target: Server) -> None:
    """A user that may not do what a sync does is told which commands are missing, and how to grant them."""
    target.client().acl_setuser(
        "weak", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-exists", "-rpush"]
    )
    with pytest.raises(TargetRefused, match="exists, rpush\nHINT: grant them: ACL SETUSER"):
        await probe(_endpoint(target, "weak:pw@"))


async def test_user_without_multi_changes_nothing(target: Server) -> None:
    """Where MULTI is refused nothing is probed by queueing: it would be executed."""
    target.client().acl_setuser("nomulti", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-multi"])
    with pytest.raises(TargetRefused, match="multi"):
        await probe(_endpoint(target, "nomulti:pw@"))
    assert target.client().dbsize() == 0


async def test_full_target_is_probed(servers: ServerFactory) -> None:
    """A target without memory refuses to RESTORE, but its version and permissions are still found."""
    server = servers(maxmemory="1")
    found = await probe(_endpoint(server))
    assert (found.rdb_version, found.footer_probed) == (server.binary.rdb_version, False)
    assert "restore" in found.commands


async def test_unsupported_targets_are_refused(servers: ServerFactory) -> None:
    """A cluster node and a read-only replica are refused with what to do instead; both can be inspected."""
    node = servers(cluster_enabled="yes", cluster_port=free_port())  # by default the port + 10,000, which may be none
    with pytest.raises(ConfigError, match="cluster node\nHINT"):
        await probe(_endpoint(node))
    assert (await inspect(_endpoint(node))).cluster_enabled
    replica = servers()
    replica.client().replicaof("127.0.0.1", "1")  # a replica at once, also of nobody
    with pytest.raises(ConfigError, match="replica\nHINT"):
        await probe(_endpoint(replica))


async def test_target_that_is_away_or_locked() -> None:
    """No server is retriable; wrong credentials are not."""
    with pytest.raises(TargetLost):
        await probe(Endpoint.parse(f"redis://127.0.0.1:{free_port()}"))
    with Server(requirepass="right") as server:
        for login, said in (("", "wants a password"), (":wrong@", "refused the credentials")):
            with pytest.raises(TargetRefused, match=rf"redis://127.0.0.1:{server.port} {said}") as caught:
                await probe(Endpoint.parse(f"redis://{login}127.0.0.1:{server.port}"))
            assert not caught.value.retriable
            assert "wrong" not in str(caught.value)


async def test_checkpoint_survives_the_round_trip(binary: Binary, servers: ServerFactory) -> None:
    """What is written is read, over the client and as the bytes that go into transactions."""
    server = servers(binary)
    endpoint, key = _endpoint(server), "portd:checkpoint:link"
    wanted = Checkpoint(
        position=Position(REPLID, 2**60), db=7, epoch=new_epoch(), time_ms=1, source_run_id="r", snapshot_id="s"
    )
    assert await read_checkpoint(endpoint, key) is None
    server.client().set(key, "somebody else's")  # whatever was there is replaced
    await put_checkpoint(endpoint, key, wanted)
    assert await read_checkpoint(endpoint, key) == wanted
    for keys in (0, 2**60):
        counted = replace(wanted, state=State.SNAPSHOT, keys_before=keys)
        await put_checkpoint(endpoint, key, counted)
        assert await read_checkpoint(endpoint, key) == counted
    await put_checkpoint(endpoint, key, wanted)
    assert await read_checkpoint(endpoint, key) == wanted  # nothing of the one before is left
    marker = Checkpoint.begin(Position(REPLID, 7), "run")
    assert (marker.state, Checkpoint.following(marker.position, 3).state) == (State.SNAPSHOT, State.STREAM)
    raw = replace(wanted, state=State.SNAPSHOT).render(key)
    assert [command.title for command in split(raw)] == ["DEL", "HSET"]
    assert wanted.position.offset == 2**60
    assert new_epoch() != wanted.epoch


@pytest.mark.parametrize(
    "fields",
    [{"version": "3"}, {"version": "2"}, {"version": "1"}, {"version": "x"}, {"something": "else"}],
    ids=str,
)
async def test_foreign_checkpoint_is_an_error(target: Server, fields: dict[str, str]) -> None:
    """A hash that is newer or not a checkpoint is never taken for "no checkpoint"."""
    for name, value in fields.items():
        target.client().hset("portd:checkpoint:link", name, value)
    with pytest.raises(TargetError, match="checkpoint in the target"):
        await read_checkpoint(_endpoint(target), "portd:checkpoint:link")


async def test_guard_refuses_foreign_data(target: Server) -> None:
    """A target with keys in any database and no checkpoint of ours is refused, and can be forced in three ways."""
    endpoint = _endpoint(target)
    capabilities = await probe(endpoint)
    assert await guard(endpoint, capabilities, "portd:checkpoint:default") is None
    target.client(db=5).set("k", "v")
    with pytest.raises(TargetNotEmpty, match=r"1 keys in db 5.*\nHINT"):
        await guard(endpoint, capabilities, "portd:checkpoint:default")
    for existing in ("replace", "skip", "flush"):
        assert await guard(endpoint, capabilities, "portd:checkpoint:default", existing=existing) is None
    assert target.client(db=5).dbsize() == 1
    epoch, options = Epoch.of("portd:checkpoint:default"), ConnectionOptions()
    await stand(endpoint, epoch)
    assert await make_room(endpoint, "portd:checkpoint:default", epoch, options)
    assert target.client(db=5).dbsize() == 0
    assert not await make_room(endpoint, "portd:checkpoint:default", epoch, options)


async def test_guard_knows_its_own(target: Server) -> None:
    """Data beside a checkpoint of this link is ours; checkpoints of other links are no data; other keys are."""
    endpoint = _endpoint(target)
    capabilities = await probe(endpoint)
    mine, other = (Checkpoint(position=Position(REPLID, offset)) for offset in (1, 2))
    await put_checkpoint(endpoint, "p*:other", other)
    assert await guard(endpoint, capabilities, "p*:mine", "p*:") is None
    target.client().set("pX:k", "v")
    with pytest.raises(TargetNotEmpty, match="1 keys in db 0"):
        await guard(endpoint, capabilities, "p*:mine", "p*:")
    epoch = await put_checkpoint(endpoint, "p*:mine", mine)
    found = await guard(endpoint, capabilities, "p*:mine", "p*:", existing="flush")
    assert found is not None
    assert found.position.offset == 1
    assert not await make_room(endpoint, "p*:mine", epoch, ConnectionOptions(), "p*:")
    assert target.client().get("pX:k") == b"v"


async def test_guard_refuses_the_source_itself(target: Server) -> None:
    """Source and target with one run id are one server."""
    endpoint = _endpoint(target)
    capabilities = await probe(endpoint)
    with pytest.raises(ConfigError, match="same server"):
        await guard(endpoint, capabilities, "portd:checkpoint:default", source_run_id=capabilities.run_id)


async def test_busy_target_is_retriable(servers: ServerFactory) -> None:
    """A refusal that passes (a demoted target) is told as busy; the checkpoint is not taken as written."""
    server, epoch = servers(), Epoch.of("k")
    await stand(_endpoint(server), epoch)
    server.client().replicaof("127.0.0.1", "1")
    checkpoint = Checkpoint(position=Position(REPLID, 1))
    with pytest.raises(PortdError) as caught:
        await write_checkpoint(_endpoint(server), "k", checkpoint, epoch, ConnectionOptions())
    assert isinstance(caught.value, TargetBusy)


def test_releases_and_their_rdb_versions() -> None:
    """Releases that are not here to be probed are known from the table."""
    assert [
        rdb_version_of("redis", (*release, 0)) for release in [(4, 0), (6, 2), (7, 4), (8, 4), (8, 10), (9, 0)]
    ] == [
        8,
        9,
        12,
        12,
        15,
        15,
    ]
    assert [rdb_version_of("valkey", (*release, 0)) for release in [(7, 2), (8, 1), (9, 1)]] == [11, 11, 80]
