"""What the target refuses: once, by name, and nothing beside it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from portd.errors import TargetBusy, TargetError, TargetRefused, TargetRejected
from portd.kernel.batch import ORDERED, Batch
from portd.net.resp import request
from tests.fencing import KEY
from tests.integration.lanes.kit import Load, big_list, big_set, big_stream, in_parts, one_mode, running, strings, whole
from tests.loops import both_loops
from tests.servers import Server, wait_for

if TYPE_CHECKING:
    from tests.conftest import ServerFactory


@both_loops
async def test_waits_out_a_target_without_memory(servers: ServerFactory) -> None:
    """OOM is waited out: nothing is lost, doubled or reordered, and operators see what is going on."""
    target = servers()
    client = target.client()
    elements = [b"e%d" % i for i in range(2000)]
    batches = [*strings(300), *big_list("list", elements), *big_set("set", elements), *big_stream("stream", 200)]
    async with running(Load(target.url, writers=2)) as load:
        client.config_set("maxmemory", 1)
        await load.put(batches)
        await wait_for(lambda: sum(lane.retries for lane in load.progress.lanes) >= 6)
        assert "OOM" in load.progress.last_error
        assert client.keys() == [load.epoch.key.encode()]
        for _ in range(30):  # relief that comes and goes, in the middle of groups
            client.config_set("maxmemory", 0)
            await asyncio.sleep(0)
            client.config_set("maxmemory", 1)
            await asyncio.sleep(0.002)
        client.config_set("maxmemory", 0)
    assert client.lrange("list", 0, -1) == elements
    assert client.smembers("set") == set(elements)
    assert client.xlen("stream") == 200
    assert client.dbsize() == 303
    assert load.progress.snapshot.keys_applied == 303
    assert not load.progress.dead_letters


@both_loops
async def test_refused_keys_become_dead_letters(target: Server) -> None:
    """WRONGTYPE and unknown commands fail their keys only; counts add up; replies keep their order."""
    client = target.client()
    batch = whole(
        request("SET", "a", "1"),
        request("SET", "str", "x"),
        request("RPUSH", "str", "secret-value"),
        request("NOSUCH", "k", "secret-value"),
        request("SET", "b", "2"),
        keys=4,
    )
    async with running(Load(target.url)) as load:
        await load.put([batch, *strings(10)])
    snapshot = load.progress.snapshot
    assert (snapshot.keys_applied, snapshot.keys_failed) == (12, 2)
    assert load.progress.dead_letters == {"WRONGTYPE": 1, "ERR": 1}
    assert (client.get("a"), client.get("b"), client.get("str")) == (b"1", b"2", b"x")
    assert "secret" not in load.progress.last_error


@both_loops
async def test_refused_chunk_fails_its_big_key_once(target: Server) -> None:
    """A big key with refused commands is one dead letter and one failed key; the rest of the group passes."""
    batches = big_list("list", [b"e%d" % i for i in range(300)])
    bad = batches[1]
    spoiled = Batch(
        bad.data + request("NOSUCH", "list") + request("SADD", "list", "x") + request("NOSUCH", "list"),
        replies=bad.replies + 3,
        db=0,
        kind=ORDERED,
        fence=bad.fence,
        key=b"list",
    )
    async with running(Load(target.url, writers=1)) as load:
        await load.put([batches[0], spoiled, *batches[2:], *strings(5)])
    assert target.client().llen("list") == 300
    assert load.progress.dead_letters.total() == 1
    assert (load.progress.snapshot.keys_applied, load.progress.snapshot.keys_failed) == (5, 1)


@both_loops
async def test_policy_stop_ends_with_the_first_refusal(target: Server) -> None:
    """With the policy stop the first refusal ends the writers with its name, key and reply."""
    batch = whole(request("SET", "str", "x"), request("SADD", "str", "v"), keys=1)
    with pytest.raises(TargetRejected, match=r"SADD .*key 'str'.*WRONGTYPE"):
        async with running(Load(target.url, stop=True)) as load:
            await load.put([batch])


@both_loops
async def test_one_forbidden_key_does_not_take_its_mset_down(servers: ServerFactory) -> None:
    """NOPERM on one key of an MSET fails that key; the others are written."""
    target = servers()
    client = target.client()
    client.acl_setuser("porter", enabled=True, passwords=["+secret"], keys=["ok*", f"{KEY}*"], categories=["+@all"])
    batch = whole(request("MSET", "ok1", "1", "private", "2", "ok3", "3"), keys=3)
    async with running(Load(f"redis://porter:secret@127.0.0.1:{target.port}")) as load:
        await load.put([batch])
    assert client.mget("ok1", "private", "ok3") == [b"1", None, b"3"]
    assert (load.progress.snapshot.keys_applied, load.progress.snapshot.keys_failed) == (2, 1)


@one_mode
@both_loops
async def test_wrong_password_is_fatal(servers: ServerFactory) -> None:
    """Credentials that the target refuses end the writers at once, with a hint and without the password."""
    target = servers(requirepass="right")
    with pytest.raises(TargetRefused, match="credentials") as caught:
        async with running(Load(f"redis://:wrong@127.0.0.1:{target.port}")) as load:
            await load.put(strings(10))
    assert caught.value.hint
    assert "wrong" not in str(caught.value)


@both_loops
async def test_database_that_does_not_exist(servers: ServerFactory) -> None:
    """A target with fewer databases than the source is told as such."""
    target = servers(databases=2)
    with pytest.raises(TargetError, match="no database 5"):
        async with running(Load(target.url)) as load:
            await load.put(strings(10, db=5))


@both_loops
async def test_parts_refused_for_memory_start_the_snapshot_over(servers: ServerFactory) -> None:
    """OOM for a command whose bytes are gone is told as busy: the same snapshot cannot go on."""
    target = servers()
    client = target.client()
    batches = in_parts("list", [b"a"], b"x" * 100_000, part=10_000)

    async def attempt() -> None:
        async with running(Load(target.url, writers=1)) as load:
            await load.put(batches[:-5])
            await wait_for(lambda: load.budget.used <= 10_000)
            client.config_set("maxmemory", 1)
            await load.put(batches[-5:])

    with pytest.raises(TargetBusy, match="OOM") as caught:
        await attempt()
    assert caught.value.retriable
