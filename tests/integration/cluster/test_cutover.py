"""`portd cutover` where an end is a cluster: all primaries stand still together, and all go on together where anything is in doubt."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from portd.controlsocket import ask
from portd.cutover.doubt import Doubt
from portd.cutover.everywhere import fence_of
from portd.cutover.fences import LEASE_SECONDS
from portd.cutover.options import Options, Stop
from portd.cutover.places import Place
from portd.errors import ConfigError
from portd.kernel.slots import key_slot
from portd.net.endpoint import Endpoint
from tests.clusters import Cluster, differences
from tests.commands import environment
from tests.cutovers import USER, ClusterWriters, CutOver, Moments, Writers, cut_over, cut_over_here, python
from tests.datasets import fill_mixed
from tests.integration.cluster.load import LINKS, fill, streaming
from tests.integration.cluster.load import Load as Following
from tests.process import Portd
from tests.servers import Server, wait_for, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import ServerFactory


@pytest.fixture
def into() -> Iterator[Cluster]:
    """Three empty primaries."""
    with Cluster() as started:
        yield started


def node_of(link: str, cluster: Cluster) -> Server:
    """The primary that a link reads."""
    return cluster.primaries[LINKS.index(link)]


def url_of(node: Server) -> str:
    """As a cut-over names it."""
    return f"redis://127.0.0.1:{node.port}"


def lives_for_a_moment(node: Server) -> bool:
    """It has keys that writers have given a short life."""
    return bool(Cluster.call(node, "KEYS", "*passing*"))


# -------------------------------------------------------------------------------------------------------- it is done


@pytest.mark.sampled(1)
@pytest.mark.parametrize("there", ["cluster", "server"])
def test_a_cluster_is_cut_over(cluster: Cluster, servers: ServerFactory, tmp_path: Path, there: str) -> None:
    """Under writes at every primary the target gets all that was acknowledged by any; who waits is refused at all of them."""
    fill(cluster)
    path, told = tmp_path / "socket", tmp_path / "told"
    with Cluster() if there == "cluster" else servers() as target:
        with Portd(cluster.url, target.url, control_socket=path, spool_dir=tmp_path) as portd:
            portd.until(streaming)
            with ClusterWriters(cluster) as writers:
                assert writers.moved()
                report = cut_over(cluster.url, target.url, path, fence_user=USER, keep_paused=0, then=f"cat > {told}")
                assert portd.wait() == os.EX_OK, portd.log()
                writers.end()
                assert len(writers.refused()) == 6, "who waited was told"
                writers.assert_all_in(target)
        nodes = [*cluster.primaries, *([target] if isinstance(target, Server) else target.primaries)]
        wait_for_sync(lambda: not any(lives_for_a_moment(node) for node in nodes))  # it may end between two looks
        assert not (differences(target, cluster) if isinstance(target, Server) else differences(cluster, target))
    assert report["outcome"] == "done"
    assert report["proof"]["source_digest"] == report["proof"]["target_digest"] != ""
    assert report["proof"]["foreign"] == "seen"
    assert [*report["shards"]] == list(LINKS)
    for link, shard in report["shards"].items():
        assert shard["node"] == url_of(node_of(link, cluster))
        offsets = shard["offsets"]
        assert offsets["checkpoint"] >= offsets["handed_over"] >= offsets["source"] >= offsets["last_write"] > 0
    assert [*report["source"]["nodes"]] == [url_of(node) for node in cluster.primaries]
    assert set(report["seconds"]) == {"stop", "drain", "expiries", "compare", "end"}
    assert "at 3 primaries" in report["stopped_by"]
    assert json.loads(told.read_text())["shards"] == report["shards"]


def test_a_server_is_cut_over_into_a_cluster(source: Server, into: Cluster, tmp_path: Path) -> None:
    """One history, three nodes that have to be what they were; a rehearsal before changes nothing."""
    fill_mixed(source, 500)
    for db in range(1, 16):
        source.client(db).flushdb()  # a cluster has one database
    path = tmp_path / "socket"
    with (
        Portd(source, into.url, control_socket=path, spool_dir=tmp_path) as portd,
        Writers(source, expiring=False) as writers,
    ):
        portd.until(lambda status: status["phase"] == "streaming")
        report = cut_over(source, into.url, path, rehearse=True)
        assert report["outcome"] == "rehearsed"
        assert writers.moved()
        report = cut_over(source, into.url, path, fence_user=USER, keep_paused=0)
        assert portd.wait() == os.EX_OK, portd.log()
        writers.end()
        assert len(writers.refused) == 4
        found = {key: int(into.get("GET", key) or 0) for key in writers.acknowledged}
        assert found == dict(writers.acknowledged)
    assert report["outcome"] == "done"
    assert "shards" not in report
    assert report["offsets"]["checkpoint"] >= report["offsets"]["source"]
    assert len(report["target"]["nodes"]) == 3
    assert not differences(source, into)


# --------------------------------------------------------------------------------------------------- doubts before


async def test_what_is_no_cut_over_of_a_cluster(cluster: Cluster, target: Server, tmp_path: Path) -> None:
    """One shard alone, a primary of its own, a user who may not pause at one node: told before anything stands still."""
    path = tmp_path / "socket"
    for node in cluster.primaries:
        few = ("-client|pause",) if node is cluster.primaries[1] else ()
        Cluster.call(node, "ACL", "SETUSER", "few", "on", ">secret", "~*", "&*", "+@all", *few)
    url = cluster.url.replace("cluster://", "cluster://few:secret@")
    with Portd(url, target, control_socket=path, spool_dir=tmp_path) as portd:
        portd.until(streaming)
        shard = {"one_shard": True, "include_slots": "0-5460"}
        with pytest.raises(ConfigError, match="one shard of a cluster"):
            await cut_over_here(url, target.url, path, Moments(path), given=shard)
        with pytest.raises(ConfigError, match="one shard of a cluster"):
            await cut_over_here(url, target.url, path, Moments(path, LINKS[0]), given={"link": LINKS[0]})
        with pytest.raises(ConfigError, match="found by its map"):
            await cut_over_here(url, target.url, path, Moments(path), primary=target.url)
        with CutOver(url, target, path) as running:
            assert running.end(os.EX_NOPERM) == {}
            assert f"{url_of(cluster.primaries[1])} refuses what stops the writes" in running.log()
        assert portd.alive
        with ClusterWriters(cluster) as writers:
            assert writers.moved()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("when", ["standing", "before"])
async def test_slots_that_move(cluster: Cluster, target: Server, tmp_path: Path, when: str) -> None:
    """The sync ends, or keys are not where they were, or the map is another one: writes go on where the slots are."""
    fill(cluster)
    path = tmp_path / "socket"
    into = next(node for node in cluster.primaries if node is not cluster.owner("{t1}"))
    for node in cluster.primaries:
        Cluster.call(node, "ACL", "SETUSER", "other", "on", "nopass", "~*", "+@all")
    with Portd(cluster.url, target, control_socket=path, spool_dir=tmp_path) as portd:
        portd.until(streaming)
        users = [Cluster.call(node, "ACL", "LIST") for node in cluster.primaries]

        async def move() -> None:
            await asyncio.to_thread(cluster.move_slot, key_slot(b"{t1}"), into)

        moments = Moments(path, standing=move) if when == "standing" else Moments(path, before=move)
        report = await cut_over_here(
            cluster.url, target.url, path, moments, stop=Stop.ACL, users=("other",), most_seconds=60.0
        )
        assert report.exit_code == 1
        assert report.outcome == ("rolled back" if when == "standing" else "not begun"), report.doubt
        assert report.doubt
        assert users == [Cluster.call(node, "ACL", "LIST") for node in cluster.primaries], "as they were"
    with ClusterWriters(cluster) as writers:
        assert writers.moved()


async def test_a_place_knows_its_nodes() -> None:
    """A slot that moved, or that went and came back, a failover and a process that was started again are no secret."""
    with Cluster(primaries=2, replicas=1) as cluster:

        async def opened() -> Place:
            place = Place("source", Endpoint.parse(cluster.url))
            await place.open()
            await place.infos()
            await place.check()
            return place

        place, slot = await opened(), 16383
        await asyncio.to_thread(cluster.move_slot, slot, cluster.primaries[0])
        with pytest.raises(Doubt, match="moved"):
            await place.check()
        await asyncio.to_thread(cluster.move_slot, slot, cluster.primaries[1])
        with pytest.raises(Doubt, match="may have moved meanwhile"):
            await place.check()
        place = await opened()
        await asyncio.to_thread(cluster.fail_over, cluster.replicas[0])
        with pytest.raises(Doubt, match=f"{url_of(cluster.primaries[0])} is a primary no more"):
            await place.check()


# ------------------------------------------------------------------------------------- doubts while all stands still


async def test_a_node_that_does_not_pause(cluster: Cluster) -> None:
    """One that is silent is named, and the others go on at once; it does so by itself."""
    silent, *others = cluster.primaries
    place = Place("source", Endpoint.parse(cluster.url))
    await place.open()
    fence = fence_of(Options(), place.endpoint, place.nodes)
    assert await fence.prepare() == f"CLIENT PAUSE, for {LEASE_SECONDS:.0f} s at a time, at 3 primaries"
    silent.signal(signal.SIGSTOP)
    try:
        with pytest.raises(Doubt, match=f"writes at {url_of(silent)} cannot be paused"):
            await fence.stop()
        freeing = asyncio.create_task(fence.free(), name="free")
        await wait_for(lambda: not any(is_paused(node) for node in others))
        await wait_for(lambda: not any(url_of(node) in fence.by_hand() for node in others))
        assert url_of(silent) in fence.by_hand()
    finally:
        silent.signal(signal.SIGCONT)
    await freeing
    await wait_for(lambda: not is_paused(silent))


def is_paused(node: Server) -> bool:
    """Writes wait there: what the server says of it, which does not have to wait for them."""
    info = node.info("clients")
    return bool(info.get("paused_timeout_milliseconds", 0))


async def test_a_shard_that_lags(cluster: Cluster, target: Server, tmp_path: Path) -> None:
    """The others have everything: all go on all the same, and who held it up is told."""
    fill(cluster)
    path, slow = tmp_path / "socket", LINKS[1]
    with (
        Portd(cluster.url, target, control_socket=path, spool_dir=tmp_path) as portd,
        ClusterWriters(cluster) as writers,
    ):
        portd.until(streaming)

        async def hold_up() -> None:
            await ask(path, "limit", {"link": slow, "max_target_ops": 1})
            await asyncio.to_thread(write_much, writers, node_of(slow, cluster))

        report = await cut_over_here(
            cluster.url, target.url, path, Moments(path, before=hold_up), users=(USER,), most_seconds=2.0
        )
        assert report.outcome == "rolled back"
        assert report.exit_code == 1
        assert f"drain of {slow} at {url_of(node_of(slow, cluster))}" in report.doubt
        assert not any(f"{link} at" in report.doubt for link in LINKS if link != slow)
        assert not writers.refused()
        assert writers.moved()
        assert portd.alive


def write_much(writers: ClusterWriters, node: Server) -> None:
    """More than a slow link brings in a while."""
    tag = next(iter(writers.at[node].acknowledged)).partition("}")[0] + "}"
    with Wire(node) as wire:
        wire.many([("SET", f"{tag}much:{number}", number) for number in range(2000)])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", ["", "TAKEOVER", "killed"], ids=["orderly", "takeover", "killed"])
async def test_a_failover_while_writes_stand_still(target: Server, tmp_path: Path, how: str) -> None:
    """Clients of that shard write to the new primary: it is not done, writes go on everywhere, and the sync follows."""
    path = tmp_path / "socket"
    with Cluster(replicas=1) as cluster:
        fill(cluster)
        with Portd(cluster.url, target, control_socket=path, spool_dir=tmp_path) as portd:
            portd.until(streaming)
            old, new = cluster.primaries[1], cluster.replicas[1]

            async def fail_over() -> None:
                if how == "killed":
                    old.kill()
                else:
                    await asyncio.to_thread(cluster.fail_over, new, *how.split())

            report = await cut_over_here(
                cluster.url, target.url, path, Moments(path, standing=fail_over), most_seconds=60.0
            )
            assert report.outcome == "rolled back"
            assert url_of(old) in report.doubt
            assert portd.alive
            wait_for_sync(lambda: new.info("replication")["role"] == "master")
            for node in cluster.owners():
                with Following(cluster, node) as load:
                    wait_for_sync(lambda load=load: load.commands > 5)  # type: ignore[misc]
            ends = {link: node_of(link, cluster) for link in LINKS} | {LINKS[1]: new}
            offsets = {link: int(node.info("replication")["master_repl_offset"]) for link, node in ends.items()}
            portd.until(
                lambda status: all(
                    each["stream"]["checkpointed_offset"] >= offsets[each["link"]] for each in status["links"]
                )
            )
        assert not differences(target, cluster)


@pytest.mark.deep
async def test_one_link_does_not_end(cluster: Cluster, into: Cluster, tmp_path: Path) -> None:
    """The others have ended: writes go on everywhere all the same, and a start of the sync goes on where all of them were."""
    fill(cluster)
    path = tmp_path / "socket"
    with (
        Portd(cluster.url, into.url, control_socket=path, spool_dir=tmp_path) as portd,
        ClusterWriters(cluster, expiring=False) as writers,
    ):
        portd.until(streaming)

        async def hold_up() -> None:
            await ask(path, "pause", {"link": LINKS[2]})

        report = await cut_over_here(cluster.url, into.url, path, Moments(path, ending=hold_up), users=(USER,))
        assert report.outcome == "rolled back"
        assert f"handover: {LINKS[2]}: it is paused" in report.doubt
        assert any("links of the sync have ended: start it again" in each for each in report.left)
        assert writers.moved()
        portd.terminate()
        portd.start()
        portd.until(streaming)
        report = await cut_over_here(cluster.url, into.url, path, Moments(path), users=(USER,), keep_seconds=0.0)
        assert report.outcome == "done", report.doubt
        assert portd.wait() == os.EX_OK
        assert portd.log().count('event="full sync"') == 3, portd.log()
        writers.end()
        writers.assert_all_in(into)


@pytest.mark.deep
async def test_who_is_promoted_behind_it_is_fenced(target: Server, tmp_path: Path) -> None:
    """Users lose their right at replicas, too; where that cannot be done, or one of them was promoted while the clients moved, it is told."""
    path = tmp_path / "socket"
    with Cluster(replicas=1) as cluster:
        new, without = cluster.replicas[1:]
        for node in cluster.nodes:
            if node is not without:
                Cluster.call(node, "ACL", "SETUSER", USER, "on", ">secret", "~*", "+@all")
        with Portd(cluster.url, target, control_socket=path, spool_dir=tmp_path) as portd:
            portd.until(streaming)
            lines = (
                f'import redis; node = redis.Redis(unix_socket_path="{new.path}")',
                'node.execute_command("CLUSTER", "FAILOVER")',
                'while node.info("replication")["role"] != "master": pass',
            )
            options: dict[str, Any] = {"users": (USER,), "keep_seconds": 0.0, "then": python("\n".join(lines))}
            report = await cut_over_here(cluster.url, target.url, path, Moments(path), **options)
            assert report.outcome == "done", report.doubt
            assert portd.wait() == os.EX_OK
        assert "at 3 primaries and 2 replicas" in report.stopped_by
        (told,) = [each for each in report.left if "promoted" in each]
        assert url_of(without) in told
        assert any(url_of(cluster.primaries[1]) in each and "meanwhile" in each for each in report.left), report.left
        with Wire(new) as wire:
            assert wire.call("AUTH", USER, "secret")
            with pytest.raises(redis.ResponseError, match=r"NOPERM|permission"):
                wire.call("SET", next(f"{{t{n}}}" for n in range(99) if cluster.owner(f"{{t{n}}}") is new), 1)


def test_it_is_killed_while_writes_stand_still(cluster: Cluster, target: Server, tmp_path: Path) -> None:
    """A pause that nobody renews ends by itself, at every node, as soon as it would at one server."""
    path = tmp_path / "socket"
    with Portd(cluster.url, target, control_socket=path, spool_dir=tmp_path) as portd:
        portd.until(streaming)
        words = [sys.executable, "-m", "tests.cutovers", cluster.url, target.url, str(path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment(), cwd=Path(__file__).parents[3]) as child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == b"stands still\n"
                assert all(is_paused(node) for node in cluster.primaries)
            finally:
                child.kill()
        left = [node.info("clients")["paused_timeout_milliseconds"] for node in cluster.primaries]
        assert all(each <= LEASE_SECONDS * 1000 for each in left)
        with ClusterWriters(cluster) as writers:  # however long a client waits, it does not wait for ever
            assert writers.moved()
        assert portd.alive


@pytest.mark.deep
@pytest.mark.parametrize("what", ["a write", "a failover"])
async def test_a_node_of_the_target_is_not_what_it_was(source: Server, tmp_path: Path, what: str) -> None:
    """Each node tells who writes to it, and one that fails over is found; the source goes on."""
    path = tmp_path / "socket"
    source.client().set("a", 1)
    failover = what == "a failover"
    with (
        Cluster(replicas=int(failover)) as into,
        Portd(source, into.url, control_socket=path, spool_dir=tmp_path) as portd,
    ):
        portd.until(lambda status: status["phase"] == "streaming")

        async def change() -> None:
            if failover:
                await asyncio.to_thread(into.fail_over, into.replicas[0])
            else:
                await asyncio.to_thread(into.get, "SET", "injected", 1)

        report = await cut_over_here(source.url, into.url, path, Moments(path, standing=change), most_seconds=60.0)
        assert report.outcome == "rolled back"
        assert (url_of(into.primaries[0]) if failover else "injected") in report.doubt
        client: Any = source.client()
        assert client.set("free", 1)
        assert portd.alive
