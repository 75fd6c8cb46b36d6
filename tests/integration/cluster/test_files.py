"""Dumps of clusters, what `decode` shows of them, and `restore` of such files into clusters and servers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from portd.config.settings import Settings
from portd.errors import SlotsMoved
from portd.kernel.slots import key_slot
from portd.offline.clusterdump import ClusterDump
from tests.clusters import Cluster, differences
from tests.commands import run
from tests.integration.cluster.load import fill
from tests.oracle.rdb import decode
from tests.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

TAGS = 60  # of `fill`


def dump(cluster: Cluster, tmp_path: Path, *more: object) -> Path:
    """Dumps a cluster; its manifest."""
    manifest = tmp_path / "backup.json"
    run("dump", "--source", cluster.url, "--output", manifest, *more)
    return manifest


def ours(target: Cluster | Server) -> list[bytes | str]:
    """Keys of portd that were left behind."""
    nodes = target.primaries if isinstance(target, Cluster) else [target]
    return [key for node in nodes for key in node.client().keys("portd:*")]


def test_a_dump_is_a_file_for_each_shard_and_a_manifest(cluster: Cluster, tmp_path: Path) -> None:
    """Every key is in the file of its slot, and the manifest says where in which history, how large, and which bytes."""
    fill(cluster)
    manifest = dump(cluster, tmp_path)
    shown = json.loads(manifest.read_text())
    assert [each["file"] for each in shown["shards"]] == ["backup.0.rdb", "backup.5461.rdb", "backup.10922.rdb"]
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        [manifest.name, *(each["file"] for each in shown["shards"])]
    )
    keys: list[bytes] = []
    for each, node in zip(shown["shards"], cluster.primaries, strict=True):
        data = (tmp_path / each["file"]).read_bytes()
        assert (each["bytes"], each["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        replication = node.info("replication")
        assert each["replid"] == replication["master_replid"]
        assert 0 <= each["offset"] <= int(replication["master_repl_offset"])
        there = [key.key for key in decode(data).entries]
        assert len(there) == each["keys"]
        assert all(any(first <= key_slot(key) <= last for first, last in each["slots"]) for key in there)
        keys += there
    assert sorted(keys) == sorted(key for _, key in cluster.contents())


def test_what_a_node_does_not_own_is_not_dumped(cluster: Cluster, tmp_path: Path) -> None:
    """A key of an importing node before its time is in one file only: that of its owner."""
    fill(cluster)
    slot, giver = key_slot(b"t7"), cluster.owner("{t7}")
    taker = next(node for node in cluster.primaries if node is not giver)
    cluster.call(taker, "CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.name(giver))
    with Wire(taker) as wire:
        wire.many([("ASKING",), ("SET", "{t7}:text", "of another")])
    cluster.call(taker, "CLUSTER", "SETSLOT", slot, "STABLE")
    shards = json.loads(dump(cluster, tmp_path).read_text())["shards"]
    keys = [key.key for each in shards for key in decode((tmp_path / each["file"]).read_bytes()).entries]
    assert keys.count(b"{t7}:text") == 1
    assert len(keys) == len(set(keys)) == TAGS * 7


def test_a_dump_goes_into_a_cluster_and_into_a_server(cluster: Cluster, target: Server, tmp_path: Path) -> None:
    """By its manifest or file by file; what is there already is guarded, and nothing of ours stays."""
    fill(cluster)
    manifest = dump(cluster, tmp_path)
    files = [tmp_path / each["file"] for each in json.loads(manifest.read_text())["shards"]]
    run("restore", manifest, "--target", target.url)
    assert (differences(target, cluster), ours(target)) == ([], [])
    target.client().flushall()
    run("restore", *files, "--target", target.url)
    assert (differences(target, cluster), ours(target)) == ([], [])
    with Cluster(primaries=2) as other:
        run("restore", manifest, "--target", other.url)
        assert (differences(target, other), ours(other)) == ([], [])
        refused = run("restore", manifest, "--target", other.url, expect=os.EX_CONFIG)
        assert "not empty" in refused.err
        for node in other.primaries:
            node.client().flushall()
        other.call(other.owner("stray"), "SET", "stray", 1)
        run("restore", *files, "--target", other.url, "--existing", "flush")
        assert (differences(target, other), ours(other)) == ([], [])


def test_commands_are_not_brought_into_a_cluster(cluster: Cluster, source: Server, tmp_path: Path) -> None:
    """A file of commands is refused before anything is written, alone and among others."""
    commands, snapshot = tmp_path / "some.aof", tmp_path / "some.rdb"
    commands.write_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n")
    source.client().set("b", 1)
    run("dump", "--source", source.url, "--output", snapshot)
    for files, words in (
        ((commands,), "only snapshots"),
        ((snapshot, commands), "snapshots only"),
        ((snapshot, "--then-follow", commands), "only snapshots"),
    ):
        refused = run("restore", *files, "--target", cluster.url, expect=os.EX_CONFIG)
        assert words in refused.err
    assert list(cluster.contents()) == []


@pytest.mark.parametrize("change", ["gone", "cut", "swapped"])
def test_a_manifest_is_held_to(cluster: Cluster, target: Server, tmp_path: Path, change: str) -> None:
    """A file that is missing, shorter or another one ends the restore, and is named."""
    for number in range(100):
        cluster.get("SET", f"{number:03}", "x" * 20)
    manifest = dump(cluster, tmp_path)
    file = tmp_path / json.loads(manifest.read_text())["shards"][1]["file"]
    data = bytearray(file.read_bytes())
    code = os.EX_NOINPUT if change == "gone" else os.EX_DATAERR
    if change == "gone":
        file.unlink()
    elif change == "cut":
        file.write_bytes(data[:-1])
    else:
        at = data.index(b"x" * 20)
        data[at] = ord("y")
        data[-8:] = bytes(8)  # no checksum of its own says that it is wrong
        file.write_bytes(data)
    failed = run("restore", manifest, "--target", target.url, expect=code)
    assert file.name in failed.err
    if change != "swapped":
        assert target.client().dbsize() == 0
    else:
        assert "its checksum is another one" in failed.err


def test_decode_shows_all_shards(cluster: Cluster, tmp_path: Path) -> None:
    """Of a live cluster and of a manifest: the same keys, each once, and one report about all of them."""
    fill(cluster)
    manifest = dump(cluster, tmp_path)
    wanted = sorted(key.decode() for _, key in cluster.contents())
    for what in (manifest, cluster.url):
        lines = run("decode", what, "--format", "keys").out.splitlines()
        assert sorted(json.loads(line)["key"] for line in lines) == wanted
        stats = json.loads(run("decode", what, "--format", "stats", "--report", "json").out)
        assert (stats["total"]["keys"], stats["snapshot_keys"]) == (len(wanted), len(wanted)), stats
        rows = run("decode", what, "--format", "csv", "--type", "string").out.decode().splitlines()
        assert len([row for row in rows if row.startswith("db,")]) == 1


def test_names_that_make_no_sense_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    """The snapshot of a cluster is no single file, and has no stream behind it."""
    refused = run("dump", "--source", cluster.url, "--output", tmp_path / "dump.rdb", expect=os.EX_CONFIG)
    assert ".json" in refused.err
    refused = run("dump", "--source", cluster.url, "--output", tmp_path / "dump.json", "--follow", expect=os.EX_CONFIG)
    assert "--follow" in refused.err
    assert list(tmp_path.iterdir()) == []


def test_slots_that_move_meanwhile_are_dumped_again(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot that goes from a node that is not dumped yet to one that was is in one file behind it."""
    fill(cluster)
    slot = key_slot(b"t7")
    giver = cluster.owner("{t7}")
    taker = next(node for node in cluster.primaries if node is not giver)
    dump_some, rounds = ClusterDump._dump_some, []

    async def one_by_one(self: ClusterDump, shards: list[Any]) -> None:
        rounds.append(len(shards))
        if len(rounds) > 1:
            await dump_some(self, shards)
            return
        await dump_some(self, [each for each in shards if each[0].port == taker.port])
        await asyncio.to_thread(cluster.move_slot, slot, taker)
        await dump_some(self, [each for each in shards if each[0].port != taker.port])

    monkeypatch.setattr(ClusterDump, "_dump_some", one_by_one)
    manifest = tmp_path / "backup.json"
    asyncio.run(ClusterDump(Settings(source=cluster.url, target="unix:///nobody"), manifest).run())
    assert rounds == [3, 2]
    shards = json.loads(manifest.read_text())["shards"]
    keys = [key.key for each in shards for key in decode((tmp_path / each["file"]).read_bytes()).entries]
    assert sorted(keys) == sorted(key for _, key in cluster.contents())
    assert len(list(tmp_path.iterdir())) == 4


def test_a_slot_that_is_back_is_dumped_again(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that was elsewhere while its node's snapshot was taken, and is at its place before and behind, is in the file."""
    fill(cluster)
    slot, giver = key_slot(b"t7"), cluster.owner("{t7}")
    taker = next(node for node in cluster.primaries if node is not giver)
    dump_some, rounds = ClusterDump._dump_some, []

    async def meanwhile(self: ClusterDump, shards: list[Any]) -> None:
        rounds.append(len(shards))
        if len(rounds) == 1:
            await asyncio.to_thread(cluster.move_slot, slot, taker)
        await dump_some(self, shards)
        if len(rounds) == 1:
            await asyncio.to_thread(cluster.move_slot, slot, giver)

    monkeypatch.setattr(ClusterDump, "_dump_some", meanwhile)
    manifest = tmp_path / "backup.json"
    asyncio.run(ClusterDump(Settings(source=cluster.url, target="unix:///nobody"), manifest).run())
    shards = json.loads(manifest.read_text())["shards"]
    keys = [key.key for each in shards for key in decode((tmp_path / each["file"]).read_bytes()).entries]
    assert sorted(keys) == sorted(key for _, key in cluster.contents())


def test_a_slot_that_never_rests_ends_a_dump(cluster: Cluster, tmp_path: Path) -> None:
    """Nothing is kept of it, and the slot is named."""
    fill(cluster)
    giver, taker = cluster.primaries[0], cluster.primaries[1]
    slot = cluster.owners()[giver][0][0]
    cluster.call(taker, "CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.name(giver))
    cluster.call(giver, "CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.name(taker))
    dumping = ClusterDump(Settings(source=cluster.url, target="unix:///nobody"), tmp_path / "backup.json")
    with pytest.raises(SlotsMoved, match=f"slots {slot} of the source"):
        asyncio.run(dumping.run())
    assert list(tmp_path.iterdir()) == []
