"""What a gate that only asks the source would let through: sources that tell nothing, and others at a known address."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.compare import assert_equal
from tests.datasets import fill_big_hash, fill_strings
from tests.following import copy, forget_history, names
from tests.integration.test_held import ctl
from tests.process import Portd
from tests.servers import find
from tests.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Server

KEYS = 2000
LIBRARY = "#!lua name=mine\nredis.register_function('f', function() return 1 end)"


def quiet(server: Server) -> str:
    """The URL of a user of *server* that may do what a replica does, and may ask nothing."""
    with Wire(server) as wire:
        wire.call("ACL", "SETUSER", "reader", "on", ">secret", "+ping", "+replconf", "+psync")
    return f"redis://reader:secret@127.0.0.1:{server.port}"


def held(portd: Portd) -> dict[str, Any]:
    """Waits until the sync is held, and does not let it end otherwise; why."""
    status = portd.until(lambda status: status["phase"] in {"held", "streaming"})
    assert status["phase"] == "held", portd.log()
    found: dict[str, Any] = status["held"]
    return found


@pytest.mark.parametrize("prune", ["auto", "prune", "flush"])
def test_a_silent_source_that_lost_everything_removes_nothing(source: Server, target: Server, prune: str) -> None:
    """Without +info only the snapshot tells that the source is empty: keys and functions of the target stay until then."""
    fill_strings(source, KEYS)
    source.client().function_load(LIBRARY)
    copy(quiet(source), target)
    before = names(target)
    source.restart()
    url = quiet(source)
    assert source.client().dbsize() == 0
    with Portd(url, target, prune=prune) as portd:
        held(portd)
        assert names(target) == before
        assert "mine" in str(target.client().function_list())
        portd.terminate()
    assert names(target) == before


def test_another_server_at_the_same_address_overwrites_nothing(servers: ServerFactory, tmp_path: Path) -> None:
    """History and process are other ones, the data is too, and the number of keys is not: nothing is written."""
    source, target = servers(), servers()
    fill_strings(source, KEYS)
    copy(source, target)
    before = names(target)
    source.restart()
    source.client().mset({b"other %d" % number: b"1" for number in range(KEYS)})
    source.client().mset(dict.fromkeys(sorted(before)[:100], b"of the other"))
    values = target.client().mget(sorted(before)[:100])
    path = tmp_path / "control.sock"
    with Portd(source, target, control_socket=path) as portd:
        assert held(portd)["reason"] == "source-changed"
        assert names(target) == before
        assert target.client().mget(sorted(before)[:100]) == values
        assert not source.client().info("replication")["connected_slaves"]
        assert ctl("accept", "--socket", str(path)).returncode == 0
        status = portd.until(lambda status: status["phase"] == "streaming")
        assert status["full_syncs"]["source-changed"] == 1
        assert status["held"] is None
        assert portd.terminate() == os.EX_OK
    assert_equal(source, target)


@pytest.mark.deep
@pytest.mark.parametrize("tells", [True, False], ids=["tells", "silent"])
def test_the_one_that_was_followed_may_come_back(source: Server, target: Server, tells: bool) -> None:  # noqa: FBT001
    """Held for what a snapshot shows, the sync goes on by itself once another process at the address has the data."""
    fill_strings(source, KEYS)
    source.client().save()
    file, kept = source.directory / "dump.rdb", source.directory / "kept.rdb"
    copy(source if tells else quiet(source), target)
    source.terminate()
    file.rename(kept)
    source.start()
    source.client().mset({b"other %d" % number: b"1" for number in range(KEYS)})
    with Portd(source if tells else quiet(source), target) as portd:
        assert held(portd)["reason"] == ("source-changed")
        source.client().config_set("save", "")
        source.terminate()
        kept.rename(file)
        source.start()
        quiet(source)
        portd.until(lambda status: status["phase"] == "streaming")
        assert portd.status()["held"] is None  # type: ignore[index]  # it listens
        portd.terminate()
    assert_equal(source, target)


def test_a_big_key_first_does_not_hide_whose_data_it_is(servers: ServerFactory) -> None:
    """A snapshot that begins with a value larger than what is looked at is judged by its name alone, and read from its start."""
    source, target = servers(appendonly="yes", appendfsync="always"), servers()
    fill_big_hash(source, b"big", 100_000)
    source.client(db=3).set("small", "1")
    copy(quiet(source), target)
    source.restart()
    source.client().hset("big", "more", "1")
    assert "held" not in copy(quiet(source), target)
    assert_equal(source, target)


@pytest.mark.parametrize("name", ["redis7.0", "redis6.2"])
@pytest.mark.parametrize("keys", [0, KEYS])
def test_snapshots_of_other_servers_tell_as_well(servers: ServerFactory, name: str, keys: int) -> None:
    """A counted transfer by way of the source's disk, an older format: nothing is written all the same."""
    binary = find(name)
    if binary is None:
        pytest.skip(f"no {name} here")
    source, target = servers(binary, repl_diskless_sync="no"), servers()
    fill_strings(source, KEYS)
    copy(quiet(source), target)
    before = names(target)
    source.terminate()
    (source.directory / "dump.rdb").unlink(missing_ok=True)  # left by the transfer
    source.start()
    if keys:
        source.client().mset({b"other %d" % number: b"x" * 200 for number in range(keys)})
    with Portd(quiet(source), target) as portd:
        assert held(portd)["reason"] == ("source-changed" if keys else "source-empty")
        assert names(target) == before
        assert portd.terminate() == os.EX_OK


def test_nothing_waits_where_nothing_can_be_removed(source: Server, target: Server) -> None:
    """Without a disk to compare keys on they stay, so an empty source does no harm."""
    fill_strings(source, KEYS)
    copy(source, target)
    before = names(target)
    source.client().flushall()
    forget_history(source)
    assert "held" not in copy(source, target, spool_dir="off")
    assert names(target) == before


def test_another_source_does_not_join_half_a_copy_in_a_shared_target(servers: ServerFactory) -> None:
    """--existing replace was said for one source: broken off, it does not stand for another one."""
    first, second, target = servers(), servers(), servers()
    fill_strings(first, KEYS, 1000)
    target.client().set("foreign", "1")
    second.client().set("foreign", "2")
    with Portd(first, target, existing="replace", max_target_bytes_per_second=300_000) as portd:
        portd.until(lambda status: status["snapshot"]["keys_applied"] > 0)
        portd.kill()
    with Portd(second, target) as portd:
        assert held(portd)["reason"] == "source-changed"
        assert target.client().get("foreign") == b"1"
        portd.terminate()
    copy(first, target)
    assert target.client().get("foreign") == b"1"


def test_an_append_only_file_brings_another_history_and_the_same_keys(servers: ServerFactory) -> None:
    """A source that is started again from its append-only file, and told nothing of itself, is copied."""
    source, target = servers(appendonly="yes", appendfsync="always"), servers()
    fill_strings(source, KEYS)
    copy(quiet(source), target)
    before = source.client().info("replication")["master_replid"]
    source.restart()
    assert source.client().info("replication")["master_replid"] != before
    assert "held" not in copy(quiet(source), target)
    assert_equal(source, target)
