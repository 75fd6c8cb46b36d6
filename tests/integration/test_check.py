"""`portd check` on real servers: what would go wrong is named, with the right level, and nothing is changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from portd.config.choices import Existing
from portd.config.settings import Settings
from portd.preflight.audit import check
from portd.preflight.findings import Finding, Level, Report
from portd.preflight.survey import write_rate
from tests.datasets import fill_strings
from tests.process import Portd
from tests.servers import PATIENCE_SECONDS, binaries, find, free_port, wait_for
from tests.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Pair, ServerFactory
    from tests.servers import Server


async def look(source: Server, target: Server, /, **settings: Any) -> Report:
    """One check, without waiting for a write rate."""
    values: dict[str, Any] = {"source": source.url, "target": target.url} | settings
    return await check(Settings(**values), sample_seconds=0.01)


def levels(report: Report, subject: str) -> set[Level]:
    """The levels of the findings about something."""
    return {finding.level for finding in report.findings if finding.subject == subject}


def one(report: Report, subject: str) -> Finding:
    """The only finding about something."""
    (found,) = [finding for finding in report.findings if finding.subject == subject]
    return found


def client_of(server: Server, db: int = 0) -> Any:
    """A client without redis-py's types, which do not know every command."""
    return server.client(db)


async def test_two_good_servers_pass(matrix: Pair) -> None:
    """Between any two versions nothing is an error, and neither end is changed: no key, no snapshot, no replica."""
    report = await look(matrix.source, matrix.target)
    assert [finding for finding in report.findings if finding.level is Level.ERROR] == []
    assert levels(report, "source.permissions.psync") == {Level.OK}
    for server in matrix:
        assert client_of(server).dbsize() == 0
        info = server.info()
        assert (info["sync_full"], info["connected_slaves"], info["rdb_bgsave_in_progress"]) == (0, 0, 0)
    older = not matrix.target.binary.at_least(redis=(7, 0), valkey=(0,))
    newer = matrix.source.binary.at_least(redis=(7, 0), valkey=(0,))
    assert any("function libraries" in each.what for each in report.findings if each.level is Level.WARNING) == (
        older and newer
    )


async def test_commands_without_another_form_are_named(matrix: Pair) -> None:
    """Those that only the source's release knows and that nothing else does on the target's; the rest is fine."""
    source, target = matrix
    found = one(await look(source, target), "target.commands")
    radius = source.binary.at_least(redis=(6, 2), valkey=(0,)) and not target.binary.at_least(redis=(6, 2), valkey=(0,))
    polygon = source.binary.at_least(valkey=(9, 0)) and not target.binary.at_least(valkey=(9, 0))
    assert ("GEOSEARCHSTORE BYBOX or ANY" in found.what) == radius
    assert ("GEOSEARCHSTORE BYPOLYGON" in found.what) == polygon
    assert found.level is (Level.WARNING if radius or polygon else Level.OK)


async def test_a_user_without_scripts_is_told_what_takes_them(servers: ServerFactory) -> None:
    """Where EVAL is forbidden, commands whose other form is a script become dead letters."""
    older = find("redis6.2")
    if older is None or not binaries()[0].valkey:
        pytest.skip("takes Redis 6.2 and a Valkey")
    source, target = servers(binaries()[0]), servers(older)
    client_of(target).acl_setuser("weak", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-eval"])
    found = one(await look(source, target, target=f"redis://weak:pw@127.0.0.1:{target.port}"), "target.commands")
    assert found.level is Level.WARNING
    assert "XCLAIM of deleted messages" in found.what
    assert "+eval" in found.action


async def test_a_user_without_psync_is_told(binary: Any, servers: ServerFactory) -> None:
    """PSYNC that is not allowed is an error with the exit code for permissions; found without a snapshot being made."""
    if not binary.at_least(redis=(6, 0), valkey=(0,)):
        pytest.skip("the server has no users")
    source, target = servers(binary), servers(binary)
    client_of(source).acl_setuser("weak", enabled=True, passwords=["+pw"], commands=["+ping", "+replconf", "+info"])
    report = await look(source, target, source=f"redis://weak:pw@127.0.0.1:{source.port}")
    found = one(report, "source.permissions.psync")
    assert (found.level, report.exit_code) == (Level.ERROR, os.EX_NOPERM)
    assert "+psync" in found.action
    assert levels(report, "source.permissions.replconf") == {Level.OK}
    assert "CONFIG GET" in one(report, "source.permissions.asking").what
    assert source.info("stats")["sync_full"] == 0


async def test_the_least_user_of_the_source_is_enough(source: Server, target: Server) -> None:
    """A user that may do no more than replicate passes; what cannot be asked is said."""
    client_of(source).acl_setuser("least", enabled=True, passwords=["+pw"], commands=["+ping", "+replconf", "+psync"])
    report = await look(source, target, source=f"redis://least:pw@127.0.0.1:{source.port}")
    assert [finding.subject for finding in report.findings if finding.level is Level.ERROR] == []
    assert one(report, "versions").level is Level.INFO


async def test_target_permissions(source: Server, target: Server) -> None:
    """Needed commands, useful commands and keys that our user may not touch are named."""
    client_of(target).acl_setuser(
        "weak", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-zadd", "-unlink"]
    )
    url = f"redis://weak:pw@127.0.0.1:{target.port}"
    report = await look(source, target, target=url)
    assert "zadd" in one(report, "target.permissions.needed").what
    assert one(report, "target.permissions.unlink").level is Level.WARNING
    assert report.exit_code == os.EX_NOPERM
    client_of(target).acl_setuser(
        "weak", reset=True, enabled=True, passwords=["+pw"], keys=["app:*"], commands=["+@all"]
    )
    report = await look(source, target, target=url)
    assert levels(report, "target.permissions.keys") == {Level.ERROR}
    assert levels(report, "target.permissions.checkpoint") == {Level.ERROR}
    assert client_of(target).dbsize() == 0


async def test_ends_that_are_not_there(source: Server, target: Server) -> None:
    """Nobody listening is 69, a wrong password 77; the other end is still looked at."""
    report = await look(source, target, target=f"redis://127.0.0.1:{free_port()}")
    assert (one(report, "target.reachable").level, report.exit_code) == (Level.ERROR, os.EX_UNAVAILABLE)
    assert levels(report, "source.permissions.psync") == {Level.OK}
    report = await look(source, target, source=f"redis://nobody:wrong@127.0.0.1:{source.port}")
    assert (one(report, "source.reachable").level, report.exit_code) == (Level.ERROR, os.EX_NOPERM)


async def test_a_password_that_is_missing(servers: ServerFactory, target: Server) -> None:
    """A source that wants a password says so."""
    source = servers(requirepass="secret")
    report = await look(source, target, source=f"redis://127.0.0.1:{source.port}")
    assert "password" in one(report, "source.reachable").what
    assert report.exit_code == os.EX_NOPERM


async def test_the_same_server_twice(source: Server) -> None:
    """Two addresses of one process are found by its run_id."""
    report = await look(source, source, target=source.unix_url)
    assert one(report, "ends").level is Level.ERROR


async def test_a_checkpoint_that_cannot_be_read(source: Server, target: Server) -> None:
    """Nobody is told to empty a target because its checkpoint is hidden."""
    client_of(target).set("k", "v")
    client_of(target).acl_setuser(
        "blind", enabled=True, passwords=["+pass"], commands=["+@all", "-hgetall"], keys=["*"], channels=["*"]
    )
    report = await look(source, target, target=f"redis://blind:pass@127.0.0.1:{target.port}")
    finding = one(report, "target.keys")
    assert finding.level is Level.ERROR
    assert "cannot be read" in finding.what
    assert "empty it" not in finding.action


async def test_contents_of_the_target(source: Server, target: Server) -> None:
    """Foreign keys are an error, a warning with --existing, and fine where a checkpoint of the link is."""
    client_of(target).set("k", "v")
    report = await look(source, target)
    assert (one(report, "target.keys").level, report.exit_code) == (Level.ERROR, os.EX_CONFIG)
    assert "wrong way round" in one(report, "target.keys").why
    report = await look(source, target, existing=Existing.REPLACE)
    assert (one(report, "target.keys").level, report.exit_code) == (Level.WARNING, 1)


async def test_a_full_sync_that_would_be_held(servers: ServerFactory) -> None:
    """Another source is an error, since a start would wait; fewer keys in the one that is followed are a warning."""
    first, second, target = servers(), servers(), servers()
    first.client().mset({f"key {number}": "1" for number in range(100)})
    with Portd(first, target, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    finding = one(await look(first, target), "target.keys")
    assert finding.level is Level.OK
    assert "resume" in finding.what
    finding = one(await look(second, target), "target.keys")
    assert finding.level is Level.ERROR
    assert "source-changed" in finding.why
    finding = one(await look(second, target, accept_source=True), "target.keys")
    assert finding.level is Level.WARNING
    first.client().flushall()
    finding = one(await look(first, target), "target.keys")
    assert finding.level is Level.WARNING
    assert "source-empty" in finding.why
    with Wire(first) as wire:
        wire.call("DEBUG", "CHANGE-REPL-ID")
    finding = one(await look(first, target), "target.keys")
    assert finding.level is Level.ERROR


async def test_a_full_sync_that_begins_again(source: Server, target: Server) -> None:
    """A history that is lost, and a full sync that was broken off, are copied anew: what may be held then is said."""
    source.client().mset({f"key {number}": "1" for number in range(100)})
    with Portd(source, target, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    key = "portd:checkpoint:default"
    target.client().hset(key, "state", "snapshot")
    finding = one(await look(source, target), "target.keys")
    assert (finding.level, "begins with a full sync" in finding.why) == (Level.INFO, True)
    source.client().flushall()
    finding = one(await look(source, target), "target.keys")
    assert (finding.level, "source-empty" in finding.why) == (Level.ERROR, True)
    target.client().hset(key, "accepted", "1")
    assert one(await look(source, target), "target.keys").level is Level.OK
    target.client().hset(key, mapping={"state": "stream", "accepted": "0"})
    source.client().mset({f"other {number}": "1" for number in range(100)})
    assert one(await look(source, target), "target.keys").level is Level.OK
    with Wire(source) as wire:
        wire.call("DEBUG", "CHANGE-REPL-ID")
    finding = one(await look(source, target), "target.keys")
    assert (finding.level, "10 % of these keys" in finding.why) == (Level.INFO, True)


async def test_a_full_sync_that_its_snapshot_decides(source: Server, target: Server) -> None:
    """Another process with another history at the address is a warning; a source that tells nothing is worth a note."""
    source.client().mset({f"key {number}": "1" for number in range(100)})
    with Portd(source, target, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    source.restart()
    source.client().mset({f"other {number}": "1" for number in range(100)})
    finding = one(await look(source, target), "target.keys")
    assert finding.level is Level.WARNING
    assert "another process" in finding.what
    assert "holds it" in finding.why
    with Wire(source) as wire:
        wire.call("ACL", "SETUSER", "reader", "on", ">secret", "+ping", "+replconf", "+psync")
    finding = one(await look(source, target, source=f"redis://reader:secret@127.0.0.1:{source.port}"), "target.keys")
    assert (finding.level, "does not tell" in finding.what) == (Level.INFO, True)


async def test_databases_of_the_target(source: Server, servers: ServerFactory) -> None:
    """A database that the target does not have: a sync goes on without it, or does not begin, as it is told to."""
    client_of(source, 9).set("k", "v")
    target = servers(databases=4)
    for policy, level in ("continue", Level.WARNING), ("stop", Level.ERROR):
        finding = one(await look(source, target, on_refusal=policy), "target.databases")
        assert "9" in finding.what
        assert finding.level is level


async def test_memory_of_the_target(source: Server, servers: ServerFactory) -> None:
    """A source that does not fit is an error; a policy that takes the checkpoint is a warning, another one is mentioned."""
    fill_strings(source, 20_000, 200)
    report = await look(source, servers(maxmemory="4mb", maxmemory_policy="allkeys-lru"))
    found = one(report, "target.memory")
    assert (found.level, "evicted" in found.why) == (Level.ERROR, True)
    report = await look(source, servers(maxmemory="900mb", maxmemory_policy="allkeys-lru"))
    found = one(report, "target.memory")
    assert (found.level, "evict the checkpoint" in found.why) == (Level.WARNING, True)
    report = await look(source, servers(maxmemory="900mb", maxmemory_policy="volatile-lru"))
    found = one(report, "target.memory")
    assert (found.level, "checkpoint" in found.why) == (Level.INFO, False)


async def test_settings_that_stall(servers: ServerFactory) -> None:
    """Disk-based snapshots, appendfsync always and missing replicas are found."""
    source = servers(repl_diskless_sync=False)
    target = servers(appendonly=True, appendfsync="always", min_replicas_to_write=1)
    report = await look(source, target)
    assert one(report, "source.diskless").level is Level.WARNING
    assert one(report, "target.appendfsync").level is Level.WARNING
    assert one(report, "target.min-replicas").level is Level.ERROR


async def test_roles(source: Server, servers: ServerFactory) -> None:
    """A read-only target is an error; a source without its own primary too."""
    replica = servers()
    replica.replicate(source)
    await wait_for(lambda: replica.info("replication")["master_link_status"] == "up")
    report = await look(servers(), replica)
    assert one(report, "target.role").level is Level.ERROR
    assert one(await look(replica, servers()), "source.role").level is Level.INFO
    orphan = servers()
    client_of(orphan).replicaof("127.0.0.1", free_port())
    assert one(await look(orphan, servers()), "source.role").level is Level.ERROR


async def test_cluster_nodes(source: Server, servers: ServerFactory) -> None:
    """A cluster node is no target, and as a source it is only a part of the data."""
    node = servers(cluster_enabled=True)
    assert one(await look(source, node), "target.cluster").level is Level.ERROR
    assert one(await look(node, source), "source.cluster").level is Level.ERROR
    assert one(await look(node, source, one_shard=True), "source.cluster").level is Level.WARNING


async def test_buffers_against_the_write_rate(servers: ServerFactory, target: Server) -> None:
    """A backlog that is short and an output buffer that is small for the writes going on are warnings."""
    source = servers(repl_backlog_size="16kb", client_output_buffer_limit="replica 64kb 64kb 60", save='""')
    fill_strings(source, 100_000, 500)
    replica = servers()
    replica.replicate(source)
    await wait_for(lambda: replica.info("replication")["master_link_status"] == "up")
    stop = threading.Event()

    def write() -> None:
        client = client_of(source)
        while not stop.wait(0.005):
            client.set("k", "v" * 5000)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        settings = Settings(source=source.url, target=target.url)
        rate = await write_rate(settings.source_endpoint(), 0.2)
        report = await check(settings, sample_seconds=0.2)
    finally:
        stop.set()
        writer.join()
    assert rate is not None
    assert rate.exact
    assert rate.per_second > 100_000
    assert one(report, "source.backlog").level is Level.WARNING
    assert one(report, "source.output-buffer").level is Level.WARNING


async def test_no_room_for_the_spool(source: Server, target: Server, tmp_path: Path) -> None:
    """A spool that is off or small is a warning."""
    fill_strings(source, 20_000, 500)
    report = await look(source, target, spool_dir=tmp_path / "not" / "there", spool_max_bytes=1 << 20)
    assert one(report, "spool").level is Level.WARNING
    assert not (tmp_path / "not").exists()
    assert one(await look(source, target, spool_dir="off"), "spool").level is Level.WARNING


@pytest.mark.parametrize(
    ("words", "code"), [([], 78), (["--existing", "replace"], 1), (["--existing", "skip", "-q"], 1)]
)
def test_the_command_prints_and_exits(source: Server, target: Server, words: list[str], code: int) -> None:
    """Text without a terminal, JSON on demand; the exit code is that of the worst finding."""
    client_of(target).set("k", "v")
    command = [sys.executable, "-m", "portd", "check", "--source", source.url, "--target", target.url]
    command += ["--sample-seconds", "0", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTD_")}
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60, "env": environment}
    shown = subprocess.run(command, check=False, **options)
    assert (shown.returncode, shown.stderr) == (code, "")
    assert "target.keys: it holds 1 keys" in shown.stdout
    shown = subprocess.run([*command, "--json"], check=False, **options)
    report = json.loads(shown.stdout)
    assert (report["exit_code"], shown.returncode) == (code, code)
    assert {"level", "subject", "what", "why", "action"} == set(report["findings"][0])


def test_rules_show_what_they_do(servers: ServerFactory) -> None:
    """Shares of keys, rules that fit nothing, names that become one, commands taken in part, other links and other rules."""
    source, target = servers(), servers()
    client = source.client()
    client.mset({f"user:{number}": "x" * 100 for number in range(30)} | {f"old:{number}": "x" for number in range(10)})
    client.set("new:1", "1")
    client.rename("old:9", "old:90")
    flags = [
        "--include",
        "user:",
        "--include",
        "old:",
        "--include",
        "new:",
        "--exclude",
        "usr:",
        "--rename-prefix",
        "old:=new:",
    ]
    with Portd(source, target, stop_after="snapshot", link="eu", add_prefix="eu:") as sync:
        assert sync.wait() == os.EX_OK
    found = findings(source, target, *flags, "--exclude-db", "7")
    assert "100.0 % of 41 keys" in found["rules.taken"][0]
    told = "\n".join(found["rules.rule"])
    assert "include user:: 73.2 % of 41 keys" in told
    assert "exclude usr:: fits none of 41 keys" in told
    assert "exclude_db 7: fits none" in told
    assert "share their name in the target with another one" in found["rules.names"][0]
    assert "rename (1)" in found["rules.commands"][0]
    assert "the link eu writes into all databases, eu:*: apart from" in found["rules.links"][0]
    found = findings(source, target, "--link", "eu", "--add-prefix", "us:")
    assert "rename_prefix and add_prefix changed" in found["rules.changed"][0]


def findings(source: Server, target: Server, *words: str) -> dict[str, list[str]]:
    """What a check finds, by what it looked at."""
    command = [sys.executable, "-m", "portd", "check", "--source", source.url, "--target", target.url, "--json"]
    done = subprocess.run(
        [*command, "--sample-seconds", "0", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    by_subject: dict[str, list[str]] = {}
    for each in json.loads(done.stdout)["findings"]:
        by_subject.setdefault(each["subject"], []).append(each["what"])
    return by_subject
