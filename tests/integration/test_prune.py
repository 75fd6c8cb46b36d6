"""A full resync leaves no ghosts: what the source deleted while nobody followed it goes from the target as well."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from portd.errors import TargetLost
from portd.net.endpoint import Endpoint
from portd.target.kept.epoch import Epoch
from portd.target.kept.prune import PruneOptions, Pruner
from tests.compare import assert_equal
from tests.datasets import fill_big_hash, fill_every_encoding, fill_mixed, fill_strings
from tests.fencing import stand
from tests.following import copy, forget_history
from tests.process import Portd
from tests.servers import find

if TYPE_CHECKING:
    from tests.conftest import ServerFactory
    from tests.servers import Server


def sync_once(source: Server, target: Server, **options: object) -> str:
    """A sync until it has caught up; its log. Many of few keys may go: what waits for an operator is tested elsewhere."""
    return copy(source, target, **{"prune_limit": 100, **options})


def test_a_full_resync_removes_what_the_source_deleted(source: Server, target: Server) -> None:
    """Keys of every type and database that went meanwhile are removed, the others stay: DEBUG DIGEST agrees."""
    fill_mixed(source, 3000)
    fill_every_encoding(source)
    fill_big_hash(source, b"big stays", 60_000)
    fill_big_hash(source, b"big goes", 60_000)
    source.client(db=9).set("only key of its database", "1")
    sync_once(source, target)
    client = source.client()
    for number, key in enumerate(client.scan_iter(count=1000)):
        if number % 3 == 0 and key != b"big stays":
            client.delete(key)
    client.delete("big goes")
    source.client(db=9).flushdb()
    client.set("new", "1")
    forget_history(source)
    log = sync_once(source, target)
    assert "target pruned" in log
    assert_equal(source, target)
    assert target.client(db=9).dbsize() == 0


def test_names_of_any_length_and_byte_are_told_apart(source: Server, target: Server) -> None:
    """Long names, binary names, the empty name, and the same name in two databases."""
    names = [b"", b"\x00", b"\x00\x00", b"*1\r\n$3\r\nDEL\r\n", b"n" * 10_000, b"n" * 9_999]
    for db in (0, 1):
        source.client(db=db).mset(dict.fromkeys(names, "1"))
        source.client(db=db).hset(b"h" * 9000, "f", "1")
    sync_once(source, target)
    source.client(db=0).delete(b"", b"n" * 10_000)
    source.client(db=1).delete(b"\x00", b"h" * 9000)
    forget_history(source)
    log = sync_once(source, target)
    assert "removed=4" in log
    assert_equal(source, target)


def test_foreign_keys_of_a_shared_target_stay(source: Server, target: Server) -> None:
    """After --existing replace the target also holds what is not ours: auto never removes it, prune does when told."""
    source.client().mset({"a": "1", "b": "1"})
    target.client().set("foreign", "1")
    sync_once(source, target, existing="replace")
    source.client().delete("b")
    forget_history(source)
    log = sync_once(source, target)
    assert "prune" in log
    assert target.client().exists("foreign", "a", "b") == 3
    forget_history(source)
    sync_once(source, target, prune="prune")
    assert target.client().exists("foreign", "a", "b") == 1


def test_other_links_keep_their_keys(servers: ServerFactory) -> None:
    """Two links into one target: a resync of one leaves the other's data and checkpoint alone."""
    first, second, target = servers(), servers(), servers()
    first.client().set("first", "1")
    second.client().set("second", "1")
    sync_once(first, target, link="first")
    sync_once(second, target, link="second", existing="replace")
    first.client().delete("first")
    first.client().set("more", "1")
    forget_history(first)
    log = sync_once(first, target, link="first")
    assert "another link" in log
    assert target.client().exists("first", "second", "more") == 3
    forget_history(first)
    sync_once(first, target, link="first", prune="prune")
    assert target.client().exists("first", "second", "more") == 1
    assert target.client().exists("portd:checkpoint:first", "portd:checkpoint:second") == 2


@pytest.mark.parametrize(("prune", "left"), [("flush", 0), ("leave", 1)])
def test_flush_and_leave(prune: str, left: int, source: Server, target: Server) -> None:
    """Flush empties the target before the snapshot, leave removes nothing."""
    source.client().mset({"a": "1", "b": "1"})
    sync_once(source, target)
    source.client().delete("b")
    forget_history(source)
    sync_once(source, target, prune=prune)
    assert target.client().exists("b") == left
    assert target.client().get("a") == b"1"


def test_an_interrupted_first_sync_is_pruned_by_the_next(source: Server, target: Server) -> None:
    """Keys of half a snapshot that the source deletes before the next one do not stay."""
    fill_strings(source, 20_000, 1000)
    target.client().config_set("maxmemory", "8mb")
    with Portd(source, target) as portd:
        portd.until(lambda status: sum(lane["retries"] for lane in status["target"]["lanes"]) > 0)
        portd.kill()
    source.client().flushall()
    source.client().set("new", "1")
    target.client().config_set("maxmemory", 0)
    sync_once(source, target)
    assert_equal(source, target)


def test_functions_that_went_are_removed(source: Server, target: Server) -> None:
    """Function libraries are no keys; those the source deleted go as well."""
    client = source.client()
    for name in ("stays", "goes"):
        client.function_load(f"#!lua name={name}\nredis.register_function('{name}', function() return 1 end)")
    sync_once(source, target)
    client.function_delete("goes")
    forget_history(source)
    sync_once(source, target)
    assert "goes" not in str(target.client().function_list())
    assert "stays" in str(target.client().function_list())


def test_an_old_target_is_pruned_too(servers: ServerFactory) -> None:
    """Redis 6.2 as the target: values go as element commands, keys are found all the same."""
    binary = find("redis6.2")
    if binary is None:
        pytest.skip("no redis 6.2 here")
    source, target = servers(), servers(binary)
    fill_mixed(source, 1000)
    sync_once(source, target)
    for key in list(source.client().scan_iter(count=1000))[::2]:
        source.client().delete(key)
    forget_history(source)
    sync_once(source, target)
    assert {*source.client().scan_iter(count=1000)} == {
        key for key in target.client().scan_iter(count=1000) if not key.startswith(b"portd:")
    }


async def test_lost_connections_while_pruning_change_nothing(target: Server) -> None:
    """Scanning and removing are taken up again after every cut; exactly the ghosts go."""
    client = target.client()
    keep, ghosts = [b"keep %d" % number for number in range(30_000)], [b"ghost %d" % number for number in range(30_000)]
    for db in (0, 3):
        target.client(db=db).mset(dict.fromkeys(keep + ghosts, b"1"))
    client.set("portd:checkpoint:mine", "1")
    epoch = Epoch.of("portd:checkpoint:mine")
    await stand(Endpoint.parse(target.url), epoch)
    options = PruneOptions(
        epoch=epoch, own_key="portd:checkpoint:mine", prefix="portd:checkpoint:", shared=False, unlink=True
    )
    pruner = Pruner(Endpoint.parse(target.url), target.directory, options)
    for db in (0, 3):
        for name in keep:
            pruner.note_key(db, name)
    cuts = 0

    async def cut() -> None:
        nonlocal cuts
        while True:
            for each in client.client_list():
                if each["name"].startswith("portd-prune") and cuts < 8:
                    client.client_kill_filter(_id=each["id"])
                    cuts += 1
            await asyncio.sleep(0.03)

    cutter = asyncio.create_task(cut())
    try:
        found = await pruner.run()
    finally:
        cutter.cancel()
        pruner.close()
    assert cuts == 8
    assert found.hashed == 60_000
    for db in (0, 3):
        left = {*target.client(db=db).scan_iter(count=1000)} - {
            b"portd:checkpoint:mine",
            b"portd:checkpoint:mine:epoch",
        }
        assert left == {*keep}


async def test_pruning_stops_at_another_target(target: Server) -> None:
    """A target that was restarted since the snapshot was written is not pruned: the snapshot starts over."""
    options = PruneOptions(epoch=Epoch.of("a"), own_key="a", prefix="b", shared=True, unlink=True, run_id="0" * 40)
    target.client().set("ghost", "1")
    pruner = Pruner(Endpoint.parse(target.url), target.directory, options)
    try:
        with pytest.raises(TargetLost, match="restarted or replaced"):
            await pruner.run()
    finally:
        pruner.close()
    assert target.client().exists("ghost") == 1
