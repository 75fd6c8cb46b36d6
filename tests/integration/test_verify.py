"""`portd verify` on real servers: every planted difference is found, nothing else, and repair makes the ends equal."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from portd.config.settings import Settings
from portd.errors import ConfigError, HandshakeError, SourceLost
from portd.verify.options import Method, Options
from portd.verify.verification import verify
from tests import commands
from tests.compare import assert_equal
from tests.datasets import fill_every_encoding, fill_mixed
from tests.process import Portd
from tests.relay import Relay, holding
from tests.servers import PATIENCE_SECONDS, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from portd.verify.report import Found, Report
    from tests.conftest import Pair, ServerFactory
    from tests.servers import Binary, Server

    Plant = Callable[[Server], dict[tuple[int, bytes], str]]

QUICK = Options(settle_seconds=0.09)
DAY_MS = 86_400_000


async def run(
    source: Server, target: Server, tmp_path: Path, options: Options = QUICK, /, **settings: Any
) -> tuple[Report, dict[tuple[int, bytes], Found]]:
    """One verification; the report and what was found by key."""
    found: dict[tuple[int, bytes], Found] = {}

    def note(key: Found) -> None:
        found[key.db, key.name] = key

    values: dict[str, Any] = {"source": source.url, "target": target.url, "spool_dir": tmp_path / "spool"} | settings
    report = await verify(Settings(**values), options, note)
    assert not list((tmp_path / "spool").iterdir()), "nothing stays on disk"
    assert report.different == sum(not key.note for key in found.values())
    return report, found


def client_of(server: Server, db: int = 0) -> Any:
    """A client without redis-py's types, which know neither bytes nor every command."""
    return server.client(db)


async def twins(source: Server, target: Server, keys: int = 500) -> None:
    """Fills the source and makes the target an equal server of its own."""
    fill_every_encoding(source, big_bytes=20_000)
    fill_mixed(source, keys)
    target.replicate(source)
    await wait_for(lambda: target.info("replication")["master_link_status"] == "up")
    await wait_for(
        lambda: source.info("replication")["master_repl_offset"] == target.info("replication")["master_repl_offset"]
    )
    client_of(target).execute_command("REPLICAOF", "NO", "ONE")


def plant(server: Server) -> dict[tuple[int, bytes], str]:
    """Changes keys of every type in every way; tells what should be found."""
    client, other = client_of(server), client_of(server, 3)
    now = time.time_ns() // 1_000_000
    planted: dict[tuple[int, bytes], str] = {}

    def expect(key: str, kind: str, db: int = 0) -> str:
        planted[db, key.encode()] = kind
        return key

    client.delete(expect("p:gone", "missing"))
    client.set(expect("p:new", "extra"), "x")
    other.set(expect("p:new", "extra", 3), "x")
    client.set(expect("p:string", "value"), "other")
    client.delete(expect("p:type", "type"))
    client.set("p:type", "a")
    client.execute_command("PEXPIREAT", expect("p:ttl", "ttl"), now + DAY_MS + 1)
    client.persist(expect("p:persisted", "ttl"))
    client.execute_command("PEXPIREAT", expect("p:ephemeral", "ttl"), now + DAY_MS)
    client.execute_command("RPOPLPUSH", expect("p:list", "value"), "p:list")
    client.srem(expect("p:set", "value"), "a")
    client.zadd(expect("p:zset", "value"), {"a": 1.0000000000000002})
    client.hset(expect("p:hash", "value"), "a", "2")
    client.xadd(expect("p:stream", "value"), {"f": "v"}, id="9-9")
    client.xgroup_create(expect("p:group", "value"), "g2", "0")
    client.xreadgroup("g", "consumer", {expect("p:pending", "value"): ">"}, count=1)
    client.setbit(expect("p:long", "value"), 3_000_000 * 8 - 1, 1)
    if server.binary.at_least(redis=(7, 4), valkey=(9, 0)):
        client.execute_command("HPEXPIREAT", expect("p:field", "field-ttl"), now + DAY_MS, "FIELDS", 1, "a")
    return planted


def prepare(server: Server) -> None:
    """What `plant` changes later."""
    client = client_of(server)
    now = time.time_ns() // 1_000_000
    for key in ("gone", "string", "ephemeral"):
        client.set(f"p:{key}", "a")
    client.rpush("p:type", "a")
    for key in ("ttl", "persisted"):
        client.set(f"p:{key}", "a")
        client.execute_command("PEXPIREAT", f"p:{key}", now + DAY_MS)
    client.rpush("p:list", "a", "b", "c")
    client.sadd("p:set", "a", "b")
    client.zadd("p:zset", {"a": 1, "b": 2})
    for key in ("hash", "field"):
        client.hset(f"p:{key}", mapping={"a": "1", "b": "2"})
    for key in ("stream", "group", "pending"):
        client.xadd(f"p:{key}", {"f": "v"}, id="1-1")
        client.xgroup_create(f"p:{key}", "g", "0")
        client.execute_command("XGROUP", "CREATECONSUMER", f"p:{key}", "g", "consumer")
    client.setrange("p:long", 3_000_000 - 1, b"\0")


@pytest.mark.parametrize("method", [Method.PSYNC, Method.SCAN])
async def test_every_kind_of_difference_is_found(
    source: Server, target: Server, tmp_path: Path, method: Method
) -> None:
    """Each planted difference is reported with its kind, and no other key is."""
    prepare(source)
    await twins(source, target)
    options = Options(settle_seconds=0.09, method=method)
    report, found = await run(source, target, tmp_path, options)
    assert (report.exit_code, report.different, report.unsettled, report.functions) == (os.EX_OK, 0, 0, "")
    assert (report.source.method, report.source.keys) == (method.name, report.target.keys)
    assert report.source.unreadable == 0
    planted = plant(target)
    report, found = await run(source, target, tmp_path, options)
    assert {key: each.shown()["differs"] for key, each in found.items()} == {
        key: [kind] for key, kind in planted.items()
    }
    assert report.exit_code == 1


async def test_repair_makes_the_ends_equal(source: Server, target: Server, tmp_path: Path) -> None:
    """Differing keys are copied, extra ones removed; an independent comparison agrees."""
    prepare(source)
    await twins(source, target)
    planted = plant(target)
    report, found = await run(source, target, tmp_path, Options(settle_seconds=0.09, repair=True))
    assert (report.repaired, report.exit_code, found) == (len(planted), os.EX_OK, {})
    assert_equal(source, target)


async def repair_over_a_write(source: Server, target: Server, directory: Path, at: bytes) -> None:
    """Repairs key a; a sync writes it at both ends before the bytes *at* reach the target, and what it wrote stays."""

    def as_a_sync_does() -> None:
        for server in (source, target):
            server.client().set("a", "written since")

    with Relay(target.port) as relay:
        hold = relay.hold(holding(at), on_caught=as_a_sync_does)
        hold.release()
        through = f"redis://127.0.0.1:{relay.port}"
        options = Options(settle_seconds=0.09, repair=True)
        report, found = await run(source, target, directory, options, target=through)
    assert hold.caught.is_set()
    assert target.client().get("a") == source.client().get("a") == b"written since"
    assert (report.exit_code, found) == (os.EX_OK, {})


@pytest.mark.parametrize("kind", ["value", "missing", "extra"])
async def test_a_key_changed_on_the_way_of_its_repair(
    source: Server, target: Server, tmp_path: Path, kind: str
) -> None:
    """What is written between WATCH and EXEC stays, and the second look tells whether that is right."""
    for server in (source, target):
        server.client().mset({"a": "same", "b": "same"})
    if kind != "extra":
        source.client().set("a", "as it was")
    if kind == "extra":
        source.client().delete("a")
    if kind == "missing":
        target.client().delete("a")
    await repair_over_a_write(source, target, tmp_path, b"\r\nEXEC\r\n")


async def test_a_key_changed_just_before_its_repair(source: Server, target: Server, tmp_path: Path) -> None:
    """The target's key is watched before the source's is read: no older value goes over one that a sync has written."""
    source.client().set("a", "as it was")
    target.client().set("a", "different")
    await repair_over_a_write(source, target, tmp_path, b"\r\nWATCH\r\n$1\r\na\r\n")


@pytest.mark.parametrize("size", [2, 60_000])
async def test_a_repair_that_comes_late_does_nothing(source: Server, target: Server, tmp_path: Path, size: int) -> None:
    """Its connection is gone, others have written the key since: a removal or a value that was held does not undo that."""
    source.client().rpush("a", *(f"element {number}" for number in range(size)))
    target.client().set("b", "extra")
    with Relay(target.port) as relay:
        holds = [relay.hold(holding(b"\r\nEXEC\r\n"), reset=True)]
        through = f"redis://127.0.0.1:{relay.port}"
        options = Options(settle_seconds=0.09, repair=True)
        with pytest.raises(SourceLost):
            await run(source, target, tmp_path, options, target=through)
        await run(source, target, tmp_path, options)
        source.client().set("b", "made anew")
        source.client().rpush("a", "new")
        await run(source, target, tmp_path, options)
        for hold in holds:
            hold.release()
            assert await asyncio.to_thread(hold.over.wait, 30)
    assert_equal(source, target)


async def test_servers_of_all_versions_are_comparable(matrix: Pair, tmp_path: Path) -> None:
    """Values that both understand have the same digest whatever the versions; what only one has is not compared."""
    commands = [
        ("SET", "s", "v" * 100),
        ("SET", "n", "12345"),
        ("RPUSH", "l", *range(300)),
        ("SADD", "is", *range(600)),
        ("SADD", "ss", "a", "b"),
        ("ZADD", "z", "1.5", "a", "-inf", "b", "1e20", "c", "0.1", "d"),
        ("HSET", "h", *[f"f{n}" for n in range(400)]),
        ("XADD", "x", "1-1", "f", "v"),
        ("XGROUP", "CREATE", "x", "g", "1-1"),
        ("PEXPIREAT", "s", time.time_ns() // 1_000_000 + DAY_MS),
    ]
    for command in commands:
        for server in matrix:
            client_of(server).execute_command(*command)
    report, found = await run(matrix.source, matrix.target, tmp_path)
    assert (found, report.exit_code, report.equal) == ({}, os.EX_OK, 8)


async def test_what_a_sync_copied_is_equal(binary: Binary, servers: ServerFactory, tmp_path: Path) -> None:
    """Every encoding of every source version, written into another server by RESTORE and by element commands."""
    source, target = servers(binary), servers()
    fill_every_encoding(source, big_bytes=150_000)
    words = ["sync", "--source", source.url, "--target", target.url, "--stop-after", "snapshot", "--http", "off"]
    await asyncio.to_thread(commands.run, *words, "--chunk-bytes", "128KiB")
    report, found = await run(source, target, tmp_path)
    assert {name: key.shown() for name, key in found.items()} == {}
    assert (report.exit_code, report.equal) == (os.EX_OK, report.source.keys)


async def test_no_false_difference_while_writes_go_on(source: Server, target: Server, tmp_path: Path) -> None:
    """A replica that follows is equal although no key stands still; what was planted there is found nevertheless."""
    fill_mixed(source, 3000)
    target.replicate(source)
    await wait_for(lambda: target.info("replication")["master_link_status"] == "up")
    client_of(target).config_set("replica-read-only", "no")
    client_of(target).set("planted", "x")
    stop = threading.Event()

    def write() -> None:
        client, number = client_of(source), 0
        while not stop.wait(0.002):
            number += 1
            client.incr("hot")
            client.rpush("hot:list", number)
            client.set(f"mixed:0:{number % 500}", number, px=50 if number % 7 else None)
            client.delete(f"mixed:0:{number * 7 % 500}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        report, found = await run(source, target, tmp_path, Options(method=Method.SCAN, settle_seconds=0.3, rounds=50))
    finally:
        stop.set()
        writer.join()
    assert list(found) == [(0, b"planted")]
    assert report.suspects > 1


async def test_what_has_expired_and_checkpoints_do_not_count(source: Server, target: Server, tmp_path: Path) -> None:
    """Keys that are only waiting to be removed, and the bookkeeping of a sync, are no differences."""
    client_of(source).execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    client_of(source).set("dying", "x", px=1)
    client_of(target).hset("portd:checkpoint:default", "offset", "1")
    for server in (source, target):
        client_of(server).set("k", "v")
    await wait_for(lambda: client_of(source).execute_command("PEXPIRETIME", "dying") == -2)
    report, found = await run(source, target, tmp_path)
    assert (found, report.exit_code, report.equal) == ({}, os.EX_OK, 1)


async def test_function_libraries_count(source: Server, target: Server, tmp_path: Path) -> None:
    """A library that is missing, or has other code, makes the ends different."""
    code = "#!lua name=lib\nredis.register_function('f', function() return 1 end)"
    client_of(source).execute_command("FUNCTION", "LOAD", code)
    report, _ = await run(source, target, tmp_path)
    assert (report.functions, report.exit_code) == ("lib", 1)


async def test_repair_brings_function_libraries(source: Server, target: Server, tmp_path: Path) -> None:
    """Missing libraries are loaded, those with other code replaced, extra ones removed; unseen ones are left alone."""

    def load(server: Server, name: str, result: int) -> None:
        code = f"#!lua name={name}\nredis.register_function('{name}_f', function() return {result} end)"
        client_of(server).execute_command("FUNCTION", "LOAD", code)

    for name in ("missing", "differs", "same"):
        load(source, name, 1)
    for name, result in (("differs", 2), ("same", 1), ("extra", 1)):
        load(target, name, result)
    client_of(source).execute_command("ACL", "SETUSER", "few", "on", ">secret", "~*", "+@all", "-function|list")
    url = source.url.replace("redis://", "redis://few:secret@")
    repair = dataclasses.replace(QUICK, repair=True)
    report, _ = await run(source, target, tmp_path, repair, source=url)
    assert len(client_of(target).function_list()) == 3
    report, _ = await run(source, target, tmp_path)
    assert (report.functions, report.exit_code) == ("differs, extra, missing", 1)
    report, _ = await run(source, target, tmp_path, repair)
    assert (report.functions, report.exit_code) == ("", os.EX_OK)
    assert client_of(target).fcall("missing_f", 0) == client_of(target).fcall("differs_f", 0) == 1
    assert len(client_of(target).function_list()) == 3


async def test_scan_where_psync_is_forbidden(source: Server, target: Server, tmp_path: Path) -> None:
    """An end that refuses PSYNC is scanned; with --method psync it is an error that names the end."""
    await twins(source, target, 100)
    commands = ["+info", "+select", "+dump", "+pexpiretime", "+memory|usage", "+scan", "+ping"]
    client_of(source).acl_setuser("reader", enabled=True, passwords=["+pw"], keys=["*"], commands=commands)
    url = f"redis://reader:pw@127.0.0.1:{source.port}"
    report, found = await run(source, target, tmp_path, source=url)
    assert (found, report.source.method, report.target.method) == ({}, "SCAN", "PSYNC")
    with pytest.raises(HandshakeError, match="the source's user may not run REPLCONF") as caught:
        await run(source, target, tmp_path, Options(method=Method.PSYNC), source=url)
    assert "on the source: ACL SETUSER" in (caught.value.hint or "")
    with pytest.raises(HandshakeError, match="the target's user may not run REPLCONF") as caught:
        await run(target, source, tmp_path, Options(method=Method.PSYNC), target=url)
    assert "on the target: ACL SETUSER" in (caught.value.hint or "")


async def test_one_server_is_not_compared_with_itself(source: Server, tmp_path: Path) -> None:
    """Two addresses of one process are a mistake, not equality."""
    with pytest.raises(ConfigError, match="same server"):
        await run(source, source, tmp_path, source=source.unix_url)


async def test_values_too_large_to_read_again_are_undecided(source: Server, target: Server, tmp_path: Path) -> None:
    """They are not read by DUMP, not taken for equal, and not said to differ: one may have been written meanwhile."""
    for number in range(3):
        client_of(source).set(f"big:{number}", "x" * 100_000)
        client_of(target).set(f"big:{number}", "y" * 100_000)
    report, found = await run(source, target, tmp_path, Options(settle_seconds=0.03, largest_bytes=50_000))
    assert [key.shown()["differs"] for key in found.values()] == [["value"]] * 3
    assert {key.note for key in found.values()} == {"in the snapshots; too large to be read again"}
    assert (report.exit_code, report.different, report.unsettled) == (os.EX_TEMPFAIL, 0, 3)


async def test_an_end_that_goes_away_is_an_error(source: Server, target: Server, tmp_path: Path) -> None:
    """Silence is not equality."""
    target.kill()
    with pytest.raises(SourceLost):
        await run(source, target, tmp_path)


def test_the_command_reports_and_exits(source: Server, target: Server, tmp_path: Path) -> None:
    """Text for people, JSON lines for programs, the outcome as exit code; nothing but JSON on standard output."""
    client_of(source).set(b"\xff", "x")
    arguments = ["verify", "--source", source.url, "--target", target.url, "--settle-seconds", "0.06"]
    shown = commands.run(*arguments, "--json", "--output", tmp_path / "out.jsonl", expect=1)
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert lines[0] == {"db": 0, "key_base64": "/w==", "differs": ["missing"]}
    assert (lines[-1]["equal"], lines[-1]["different"], lines[-1]["kinds"]) == (False, 1, {"missing": 1})
    assert (tmp_path / "out.jsonl").read_bytes() == shown.out
    commands.run(*arguments, "--repair")
    assert commands.run(*arguments).out.endswith(b"EQUAL\n")


def test_a_terminated_run_leaves_nothing_on_disk(source: Server, target: Server, tmp_path: Path) -> None:
    """SIGTERM in the middle: exit code 143, and the directory is as it was."""
    client_of(source).set("k", "v")
    words = ["--source", source.url, "--target", target.url, "--spool-dir", str(tmp_path), "--settle-seconds", "3600"]
    process = subprocess.Popen(
        [sys.executable, "-m", "portd", "verify", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        while "looked again" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.communicate()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("full", [["--output", "/dev/full"], ["--json"]])
def test_output_that_cannot_be_written_is_an_error(
    source: Server, target: Server, tmp_path: Path, full: list[str]
) -> None:
    """A full disk, below a file or standard output, has a message and exit code 74, and no traceback."""
    client_of(source).set("a", "1")
    words = [sys.executable, "-m", "portd", "verify", "--source", source.url, "--target", target.url]
    words += ["--settle-seconds", "0.05", "--spool-dir", str(tmp_path), *full]
    with open("/dev/full", "wb") as screen:  # noqa: PTH123 - a device
        ended = subprocess.run(words, stdout=screen, stderr=subprocess.PIPE, timeout=PATIENCE_SECONDS, check=False)
    assert ended.returncode == os.EX_IOERR, ended.stderr
    assert b"no space left" in ended.stderr
    assert b"Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode), "a device is not replaced by a file"  # noqa: PTH116


@pytest.mark.parametrize("native", [True, False], ids=["replica", "portd"])
async def test_groups_that_were_read_are_equal(
    binary: Binary, servers: ServerFactory, tmp_path: Path, *, native: bool
) -> None:
    """What a source does not tell of a group's reading is no difference, be the target fed by itself or by a sync."""
    if not binary.at_least(redis=(5, 0), valkey=(0,)):
        pytest.skip("needs streams")
    source, target = servers(binary), servers(binary)
    client = client_of(source)
    portd = None if native else Portd(source, target).start()
    if native:
        target.replicate(source)
        await wait_for(lambda: target.info("replication")["master_link_status"] == "up")
    elif portd is not None:
        await wait_for(lambda: (portd.status() or {"phase": ""})["phase"] == "streaming")
    try:
        for number in range(3):
            client.xadd("stream", {"a": number})
        more = ["ENTRIESREAD", "0"] if binary.at_least(redis=(7, 0), valkey=(0,)) else []
        client.execute_command("XGROUP", "CREATE", "stream", "known", "0", *more)
        client.xgroup_create("stream", "unknown", "0")
        for group in ("known", "unknown"):
            client.xreadgroup(group, "consumer", {"stream": ">"}, count=2)
            client.xreadgroup(group, "idle", {"stream": ">"}, count=1, noack=True)
        if portd is not None:
            await asyncio.to_thread(portd.until_applied, source)
        else:
            await wait_for(
                lambda: len({end.info("replication")["master_repl_offset"] for end in (source, target)}) == 1
            )
        report, found = await run(source, target, tmp_path)
    finally:
        if portd is not None:
            portd.__exit__(None, None, None)
    assert (report.exit_code, found) == (os.EX_OK, {})
