"""`portd check` with clusters: every node is looked at, and one report names those that something is wrong with."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from portd.config.choices import ReadFrom
from portd.config.settings import Settings
from portd.preflight.audit import check
from portd.preflight.findings import Level
from portd.units import human_count
from tests.clusters import SLOTS, Cluster
from tests.commands import run
from tests.integration.cluster.load import LINKS
from tests.process import Portd
from tests.servers import free_port, wait_for_sync

if TYPE_CHECKING:
    from portd.preflight.findings import Finding, Report
    from tests.servers import Server


async def look(source: Server | Cluster, target: Server | Cluster, /, **settings: Any) -> Report:
    """One check, without waiting for a write rate."""
    values: dict[str, Any] = {"source": source.url, "target": target.url} | settings
    return await check(Settings(**values), sample_seconds=0.01)


def of(report: Report, subject: str) -> list[Finding]:
    """The findings about something."""
    return [each for each in report.findings if each.subject == subject]


def bad(report: Report) -> list[tuple[str, str]]:
    """What stands in the way, or deserves a look."""
    return [(each.subject, each.what) for each in report.findings if each.level in {Level.WARNING, Level.ERROR}]


async def test_good_clusters_pass(cluster: Cluster, source: Server, target: Server) -> None:
    """Into a cluster and out of one: nothing is wrong, every node was asked, and none is changed."""
    for ends in ((source, cluster), (cluster, target)):
        report = await look(*ends)
        assert bad(report) == [], report
        side = "target" if ends[1] is cluster else "source"
        (topology,) = of(report, f"{side}.topology")
        assert (topology.level, "3 shards" in topology.what) == (Level.OK, True)
        assert of(report, f"{side}.reachable")[0].level is Level.OK
    assert of(await look(cluster, target), "memory")[0].what.count("3 links") == 1
    for node in cluster.primaries:
        assert node.client().dbsize() == 0
        assert node.info("stats")["sync_full"] == 0


async def test_the_nodes_that_something_is_wrong_with_are_named(
    cluster: Cluster, source: Server, target: Server
) -> None:
    """Permissions, memory and buffers of one node among three."""
    weak = cluster.primaries[1]
    for node in cluster.primaries:
        client: Any = node.client()
        client.execute_command("ACL", "SETUSER", "u", "on", ">pw", "~*", "&*", "+@all")
    client = weak.client()
    client.execute_command("ACL", "SETUSER", "u", "-psync", "-client|kill")
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", 64 << 20)
    client.config_set("repl-diskless-sync", "no")
    url, where = cluster.url.replace("://", "://u:pw@"), f"127.0.0.1:{weak.port}"
    report = await look(cluster, target, source=url)
    (psync,) = [each for each in of(report, "source.permissions.psync") if each.level is Level.ERROR]
    assert (psync.nodes, report.exit_code) == ((where,), os.EX_NOPERM)
    report = await look(source, cluster, target=url)
    (kill,) = [each for each in of(report, "target.permissions.client") if each.level is Level.ERROR]
    assert (kill.nodes, report.exit_code) == ((where,), os.EX_NOPERM)
    (records,) = [each for each in of(report, "target.records") if each.level is Level.WARNING]
    assert records.nodes == (where,)
    assert "allkeys-lru" in records.what


async def test_slots_that_are_not_at_their_places(cluster: Cluster, source: Server, target: Server) -> None:
    """On their way, or nobody's: an error of both ends, with the slots."""
    giver, taker = cluster.primaries[0], cluster.primaries[1]
    cluster.call(taker, "CLUSTER", "SETSLOT", 5, "IMPORTING", cluster.name(giver))
    cluster.call(giver, "CLUSTER", "SETSLOT", 5, "MIGRATING", cluster.name(taker))
    for ends, side in (((source, cluster), "target"), ((cluster, target), "source")):
        report = await look(*ends)
        (found,) = of(report, f"{side}.topology")
        assert (found.level, found.what) == (Level.ERROR, "slots 5 are on their way to another node")
        assert report.exit_code == os.EX_UNAVAILABLE
    report = await look(cluster, target, one_shard=True, include_slots=("6-100",))
    assert of(report, "source.topology")[0].level is Level.OK, "it is not wanted"
    cluster.call(giver, "CLUSTER", "SETSLOT", 5, "STABLE")
    cluster.call(taker, "CLUSTER", "SETSLOT", 5, "STABLE")
    cluster.call(giver, "CLUSTER", "DELSLOTS", 7)
    (found,) = of(await look(cluster, target), "source.topology")
    assert found.what == "slots 7 have no owner"


async def test_announced_addresses_that_lead_nowhere(target: Server) -> None:
    """A replica that cannot be reached as it is announced is named; the other ways to the cluster are fine."""
    with Cluster(primaries=1, replicas=1) as cluster:
        replica, nowhere = cluster.replicas[0], free_port()
        mapped = f"127.0.0.1:{replica.port}=127.0.0.1:{nowhere}"
        (found,) = of(await look(cluster, target), "source.announced")
        assert (found.level, found.what) == (Level.OK, "1 replicas can be reached")
        (found,) = of(await look(cluster, target, source_address_map=mapped), "source.announced")
        assert found.level is Level.WARNING
        assert str(nowhere) in found.what
        assert "source_address_map" in found.action


async def test_commands_over_several_slots_are_named(cluster: Cluster, source: Server) -> None:
    """Those that cannot be cut, with how often they were called; what is cut is not."""
    client: Any = source.client()
    client.mset({"a": 1, "b": 2})
    client.delete("a", "b")
    (found,) = of(await look(source, cluster), "target.cross-slot")
    assert found.level is Level.OK
    client.set("a", 1)
    client.rename("a", "b")
    (found,) = of(await look(source, cluster), "target.cross-slot")
    assert (found.level, "rename (1)" in found.what) == (Level.INFO, True)
    client.execute_command("ACL", "SETUSER", "default", "-dump")
    (found,) = of(await look(source, cluster), "source.permissions.copying")
    assert (found.level, "DUMP" in found.what) == (Level.WARNING, True)


async def test_names_of_shards_that_change_their_slot(cluster: Cluster) -> None:
    """Keys of one command may part then, and each link has a record in every slot; without renaming neither is so."""
    cluster.get("SET", "{a}1", 1)
    cluster.get("RENAME", "{a}1", "{a}2")
    with Cluster(primaries=2) as into:
        plain = await look(cluster, into)
        assert of(plain, "target.cross-slot")[0].level is Level.OK
        assert f"{human_count(SLOTS // 2)} small keys" in of(plain, "target.records")[0].what
        renamed = await look(cluster, into, add_prefix="new:", share_image=True)
        (found,) = of(renamed, "target.cross-slot")
        assert (found.level, "rename (1)" in found.what) == (Level.INFO, True)
        assert f"{human_count(3 * SLOTS // 2)} small keys" in of(renamed, "target.records")[0].what


async def test_what_is_there_and_what_does_not_fit(cluster: Cluster, source: Server, target: Server) -> None:
    """Foreign keys in the cluster, databases that it has not, more shards than memory, one server at both ends."""
    client: Any = source.client(3)
    client.set("a", 1)
    cluster.get("SET", "foreign", 1)
    report = await look(source, cluster)
    assert of(report, "target.databases")[0].level is Level.WARNING
    assert of(report, "target.keys")[0].level is Level.ERROR
    (memory,) = of(await look(cluster, target, memory_budget=8 << 20), "memory")
    assert memory.level is Level.ERROR
    assert "would fit" in memory.what
    assert of(await look(cluster.primaries[1], cluster, one_shard=True), "ends")[0].level is Level.ERROR
    report = await look(source, cluster, target=f"redis+cluster://127.0.0.1:{free_port()}")
    assert (of(report, "target.topology")[0].level, report.exit_code) == (Level.ERROR, os.EX_UNAVAILABLE)


@pytest.mark.parametrize("existing", ["refuse", "flush"])
def test_the_command_tells_of_all_nodes(cluster: Cluster, target: Server, existing: str) -> None:
    """JSON and exit codes, also of a setting that cannot be had with a cluster."""
    words = (
        "check",
        "--source",
        cluster.url,
        "--target",
        target.url,
        "--existing",
        existing,
        "--sample-seconds",
        "0.1",
        "--json",
    )
    shown = json.loads(run(*words, expect=os.EX_OK if existing == "refuse" else os.EX_CONFIG).out)
    subjects = {each["subject"] for each in shown["findings"]}
    assert {"source.topology", "source.output-buffer", "source.fork", "memory", "clocks"} <= subjects
    wrong = [each["what"] for each in shown["findings"] if each["level"] == "error"]
    assert len(wrong) == (existing == "flush")


async def test_rules_show_what_they_do_to_all_nodes(cluster: Cluster, target: Server) -> None:
    """Shares are of the keys of all nodes, names that become one are found wherever they lie, and commands are summed."""
    for number in range(30):
        cluster.get("SET", f"user:{number}", "x" * 100)
    for number in range(10):
        cluster.get("SET", f"old:{number}", "x")
    names = {number: (cluster.owner(f"old:{number}"), cluster.owner(f"newer:{number}")) for number in range(10)}
    met = next(number for number, (one, other) in names.items() if one is not other)
    cluster.get("SET", f"newer:{met}", "1")
    for tag in ("{t0}", "{t1}", "{t2}"):
        cluster.get("SET", f"{tag}a", "1")
        cluster.get("RENAME", f"{tag}a", f"{tag}b")
    settings: dict[str, Any] = {
        "include": ("user:", "old:", "newer:"), "exclude": ("usr:",), "rename_prefix": ("old:=newer:",), "share_image": True,
    }  # fmt: skip
    report = await look(cluster, target, **settings)
    (taken,) = of(report, "rules.taken")
    assert "93.2 % of 44 keys" in taken.what, taken
    told = "\n".join(each.what for each in of(report, "rules.rule"))
    assert "include user:: 68.2 % of 44 keys" in told
    assert "exclude usr:: fits none of 44 keys" in told
    (name,) = of(report, "rules.names")
    assert f"newer:{met}" in name.what
    (commands,) = of(report, "rules.commands")
    assert "rename (3)" in commands.what
    assert of(report, "source.permissions.copying")[0].level is Level.OK
    assert not of(report, "rules.links")


async def test_rules_of_shards_are_held_against_what_the_target_has(cluster: Cluster, target: Server) -> None:
    """Other rules than those of the data are named once for all shards, siblings are not told, and another link is."""
    for number in range(30):
        cluster.get("SET", f"user:{number}", "x")
    with Portd(cluster.url, target, stop_after="snapshot", include="user:") as sync:
        assert sync.wait() == os.EX_OK, sync.log()
    same = await look(cluster, target, include=("user:",))
    assert not of(same, "rules.changed")
    assert not of(same, "rules.links")
    report = await look(cluster, target, exclude=("user:1",))
    (changed,) = of(report, "rules.changed")
    assert changed.level is Level.ERROR
    assert "include and exclude changed" in changed.what
    assert all(link in changed.what for link in LINKS)
    other = await look(cluster, target, link="other", include=("user:",))
    links = of(other, "rules.links")
    assert len(links) == 3
    assert all("a key may be in both" in each.what for each in links)


async def test_replicas_that_are_to_be_read_are_looked_at(target: Server) -> None:
    """Each shard needs one; whose has none is named, and waits, or has its primary read."""
    with Cluster(replicas=1) as cluster:
        for number in range(30):
            cluster.get("SET", f"user:{number}", "x")
        wait_for_sync(lambda: all(len(entry) == 4 for entry in cluster.call(cluster.primaries[0], "CLUSTER", "SLOTS")))
        (good,) = of(await look(cluster, target, source_read_from=ReadFrom.REPLICA), "source.read-from")
        assert good.level is Level.OK
        assert all(f"127.0.0.1:{node.port}" in good.what for node in cluster.replicas)
        assert not of(await look(cluster, target), "source.read-from")
        cluster.replicas[1].kill()
        for wanted, level in ((ReadFrom.REPLICA, Level.ERROR), (ReadFrom.PREFER_REPLICA, Level.WARNING)):
            (found,) = of(await look(cluster, target, source_read_from=wanted), "source.read-from")
            assert found.level is level
            assert f"no replica of 127.0.0.1:{cluster.primaries[1].port} can be read" in found.what
