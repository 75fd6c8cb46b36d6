"""`portd restore` on real servers: round trips through files, append-only files, refusals, and bad input."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import command, environment, run
from tests.compare import assert_equal
from tests.datasets import fill_every_encoding, fill_mixed
from tests.integration.test_sync import assert_carried
from tests.oracle.model import Entry, HashValue, Snapshot
from tests.oracle.rdbwrite import encode
from tests.process import Portd
from tests.servers import PATIENCE_SECONDS, find, wait_for_sync
from tests.wire import pack

if TYPE_CHECKING:
    from tests.conftest import Pair, ServerFactory
    from tests.servers import Server

SOME = Snapshot(False, 9, [Entry(0, b"hash", 4, HashValue({b"a": b"1"})), Entry(2, b"text", 0, b"value")])


def test_dump_then_restore_gives_the_same_data(matrix: Pair, tmp_path: Path) -> None:
    """From every server into every server through a file; on an older one only what no command carries may be missing."""
    source, target = matrix
    fill_every_encoding(source)
    file = tmp_path / "dump.rdb"
    run("dump", "--source", source.url, "-o", file)
    run("restore", file, "--target", target.url)
    assert_carried(source, target)


def test_files_of_every_kind_are_taken(target: Server, tmp_path: Path) -> None:
    """Plain, .gz and standard input bring the same; nothing of ours stays in the target."""
    plain, packed = tmp_path / "a.rdb", tmp_path / "a.rdb.gz"
    plain.write_bytes(encode(SOME))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for words, stdin in (([plain], None), ([packed], None), (["-"], plain)):
        run("restore", *words, "--target", target.url, stdin=stdin)
        assert target.client().hgetall("hash") == {b"a": b"1"}
        assert target.client(db=2).get("text") == b"value"
        assert target.client().keys() == [b"hash"]
        target.client().flushall()


def test_zstd_by_name_or_a_hint(target: Server, tmp_path: Path) -> None:
    """A .zst is decompressed where the package is there; otherwise the message says how to get it."""
    file = tmp_path / "a.rdb.zst"
    try:
        import zstandard
    except ImportError:
        file.write_bytes(b"\x28\xb5\x2f\xfd")
        assert "portd[zstd]" in run("restore", file, "--target", target.url, expect=os.EX_CONFIG).err
        return
    file.write_bytes(zstandard.ZstdCompressor().compress(encode(SOME)))
    run("restore", file, "--target", target.url)
    assert target.client().hgetall("hash") == {b"a": b"1"}


def test_existing_data_is_guarded(target: Server, tmp_path: Path) -> None:
    """A target with data is refused unless told what to do with it, as sync does."""
    file = tmp_path / "a.rdb"
    file.write_bytes(encode(SOME))
    target.client().mset({"hash": "other", "mine": "1"})
    assert "not empty" in run("restore", file, "--target", target.url, expect=os.EX_CONFIG).err
    run("restore", file, "--target", target.url, "--existing", "skip")
    assert target.client().get("hash") == b"other"
    run("restore", file, "--target", target.url, "--existing", "replace")
    assert target.client().hgetall("hash") == {b"a": b"1"}
    assert target.client().get("mine") == b"1"
    run("restore", file, "--target", target.url, "--existing", "flush")
    assert target.client().get("mine") is None


def test_refused_values_become_dead_letters(target: Server, tmp_path: Path) -> None:
    """A value the target cannot hold is named in the file; with --on-refusal stop it ends the restore."""
    file, letters = tmp_path / "a.rdb", tmp_path / "letters"
    from tests.oracle.model import ModuleValue

    module = Entry(0, b"module", 7, ModuleValue("vectorset", 1, [("uint", 1)]))
    file.write_bytes(encode(Snapshot(False, 9, [module, *SOME.entries])))
    run("restore", file, "--target", target.url, "--dead-letters", letters)
    (letter,) = [json.loads(line) for line in letters.read_text().splitlines()]
    assert (letter["key"], letter["code"]) == ("module", "unsupported")
    assert target.client(db=2).get("text") == b"value"
    run("restore", file, "--target", target.url, "--existing", "flush", "--on-refusal", "stop", expect=os.EX_DATAERR)


def test_dead_letters_are_taken_up_again(servers: ServerFactory, tmp_path: Path) -> None:
    """Once the target takes them, the keys that were dead letters are restored, and nothing else is touched."""
    file, letters = tmp_path / "a.rdb", tmp_path / "letters"
    long = b"x" * (3 << 20)
    entries = [Entry(1, b"\xff long", 0, long), Entry(1, b"short", 0, b"1"), Entry(2, b"other long", 0, long)]
    file.write_bytes(encode(Snapshot(False, 9, entries)))
    target = servers(proto_max_bulk_len="1mb")
    run("restore", file, "--target", target.url, "--dead-letters", letters)
    assert target.client(db=1).keys() == [b"short"]
    target.client().config_set("proto-max-bulk-len", "512mb")
    target.client(db=1).set("short", "2")
    again = ("restore", file, "--target", target.url, "--existing", "replace", "--only-letters")
    run(*again, letters)
    assert target.client(db=1).mget(b"\xff long", "short") == [long, b"2"]
    assert target.client(db=2).get("other long") == long
    assert "line 1" in run(*again, file, expect=os.EX_CONFIG).err
    assert "no such file" in run(*again, tmp_path / "missing", expect=os.EX_CONFIG).err


def test_redacted_dead_letters_name_no_key(servers: ServerFactory, tmp_path: Path) -> None:
    """Neither file nor log tells the key, and such a file is no list of what to restore."""
    file, letters = tmp_path / "a.rdb", tmp_path / "letters"
    file.write_bytes(encode(Snapshot(False, 9, [Entry(1, b"whose", 0, b"x" * (3 << 20))])))
    target = servers(proto_max_bulk_len="1mb")
    done = run("restore", file, "--target", target.url, "--dead-letters", letters, "--redact-keys")
    assert json.loads(letters.read_text())["key"] == "(redacted)"
    assert "whose" not in letters.read_text() + done.err
    assert "redacted" in done.err
    again = run("restore", file, "--target", target.url, "--only-letters", letters, expect=os.EX_CONFIG)
    assert "line 1 does not name its key" in again.err


@pytest.mark.parametrize("preamble", ["yes", "no", "timestamps"])
def test_append_only_files_are_taken(preamble: str, servers: ServerFactory, tmp_path: Path) -> None:
    """An append-only file of several parts, with a snapshot or commands as its base, gives what the server holds."""
    timed = preamble == "timestamps"
    source = servers(
        appendonly="yes",
        aof_use_rdb_preamble="no" if timed else preamble,
        aof_timestamp_enabled="yes" if timed else "no",
    )
    target = servers()
    fill_mixed(source, 500)
    client = source.client()
    client.bgrewriteaof()
    wait_for_sync(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
    wait_for_sync(lambda: not client.info("persistence")["aof_rewrite_scheduled"])
    client.mset({"after": "1", "rewrite": "2"})
    client.config_set("appendfsync", "always")
    client.set("last", "1")
    directory = source.directory / "appendonlydir"  # the server's default name
    copied = shutil.copytree(directory, tmp_path / "aof")
    (manifest,) = copied.glob("*.manifest")
    run("restore", manifest, "--target", target.url)
    assert_equal(source, target)
    assert "give its manifest" in run("restore", copied, "--target", target.url, expect=os.EX_NOINPUT).err


def test_the_names_that_a_manifest_quotes_are_found(servers: ServerFactory, tmp_path: Path) -> None:
    """Servers write anything but printable ASCII in the name of a file as an escape."""
    source = servers(appendonly="yes", appendfilename='"caf\\xc3\\xa9 \\"x\\" \\xff.aof"')
    target = servers()
    client = source.client()
    client.config_set("appendfsync", "always")
    client.set("key", "value")
    copied = shutil.copytree(source.directory / "appendonlydir", tmp_path / "aof")
    (manifest,) = copied.glob("*.manifest")
    assert b"\\xc3\\xa9" in manifest.read_bytes()
    run("restore", manifest, "--target", target.url)
    assert target.client().keys() == [b"key"]


def test_timestamps_may_begin_in_the_middle_of_a_file(servers: ServerFactory, tmp_path: Path) -> None:
    """They are a setting that can be switched on while the server runs; the same bytes in a value are data."""
    source = servers(appendonly="yes", appendfsync="always", aof_timestamp_enabled="no")
    target = servers()
    client = source.client()
    client.set("before", "\r\n#TS:1\r\n")
    client.config_set("aof-timestamp-enabled", "yes")
    client.set("after", "x" * 300_000 + "\r\n#TS:1\r\n")
    client.set("last", "1")
    copied = shutil.copytree(source.directory / "appendonlydir", tmp_path / "aof")
    (manifest,) = copied.glob("*.manifest")
    (increment,) = copied.glob("*.incr.aof")
    assert increment.read_bytes().startswith(b"*")
    run("restore", manifest, "--target", target.url)
    assert_equal(source, target)


def test_pending_entries_of_deleted_messages_stay(servers: ServerFactory, tmp_path: Path) -> None:
    """A stream goes to an older server in that server's own form: XCLAIM could not bring what its message is gone of."""
    older = find("redis7.0") or find("redis6.2")
    if older is None:
        pytest.skip("no older server here")
    source, target = servers(), servers(older)
    client = source.client()
    for number in (1, 2):
        client.xadd("stream", {"f": "v"}, id=f"{number}-1")
    client.xgroup_create("stream", "group", 0)
    client.xreadgroup("group", "consumer", {"stream": ">"})
    client.xdel("stream", "1-1")
    file = tmp_path / "dump.rdb"
    run("dump", "--source", source.url, "-o", file)
    ended = run("restore", file, "--target", target.url)
    assert target.client().xpending("stream", "group")["pending"] == 2
    assert "stream-meta" in ended.err  # the time of last activity


def test_a_snapshot_with_commands_behind_it(target: Server, tmp_path: Path) -> None:
    """The single file of Redis 4 to 6: a snapshot, then commands, in one."""
    file = tmp_path / "appendonly.aof"
    commands = b"*2\r\n$6\r\nSELECT\r\n$1\r\n2\r\n*3\r\n$6\r\nAPPEND\r\n$4\r\ntext\r\n$1\r\n!\r\n"
    file.write_bytes(encode(SOME) + commands)
    run("restore", file, "--target", target.url)
    assert target.client(db=2).get("text") == b"value!"
    assert target.client().keys() == [b"hash"]


def test_a_cut_append_only_file_is_applied_up_to_the_cut(target: Server, tmp_path: Path) -> None:
    """Whole commands are applied, the cut one is told, and the exit code is 65."""
    file = tmp_path / "a.aof"
    whole = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n"
    file.write_bytes(whole + whole.replace(b"a", b"b")[:-4])
    ended = run("restore", file, "--target", target.url, expect=os.EX_DATAERR)
    assert "inside of a command" in ended.err
    assert target.client().mget("a", "b") == [b"1", None]
    assert target.client().keys() == [b"a"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"GIF89a", "neither a snapshot nor an append-only file"),
        (encode(SOME)[:-12], "before its end mark"),
        (encode(SOME)[:-1] + b"\x01", "CRC64"),
        (b"*1\r\n:5\r\n", "argument should begin"),
    ],
    ids=["empty", "foreign", "truncated", "checksum", "not RESP"],
)
def test_bad_files_are_named(content: bytes, words: str, target: Server, tmp_path: Path) -> None:
    """Exit code 65 and a message that says what is wrong."""
    file = tmp_path / "bad"
    file.write_bytes(content)
    ended = run("restore", file, "--target", target.url, expect=os.EX_DATAERR)
    assert re.search(words, ended.err), ended.err


def test_a_missing_file_is_said_before_the_target_is_asked(tmp_path: Path) -> None:
    """Exit code 66, though there is no target either."""
    run("restore", tmp_path / "none", "--target", "redis://127.0.0.1:1", expect=os.EX_NOINPUT)


def test_sigterm_says_that_a_part_is_there(target: Server, tmp_path: Path) -> None:
    """A restore that was told to stop ends with exit code 75, not as if it had done its work."""
    data = encode(SOME)
    words = command("restore", "-", "--target", target.url)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(data[:-9])
        process.stdin.flush()
        wait_for_sync(lambda: b"restore" in process.stderr.readline(), PATIENCE_SECONDS)  # type: ignore[union-attr]
        process.send_signal(signal.SIGTERM)  # while it waits for more
        assert process.wait(PATIENCE_SECONDS) == os.EX_TEMPFAIL


def test_a_stop_before_the_first_write_says_so(target: Server) -> None:
    """Nothing came through the pipe yet: nothing is in the target, and nothing has to be replaced there."""
    words = command("restore", "-", "--target", target.url)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        pid = process.pid
        wait_for_sync(lambda: catches(pid, signal.SIGTERM), PATIENCE_SECONDS)
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE_SECONDS)
        assert process.stderr is not None
        err = process.stderr.read()
    assert code == os.EX_TEMPFAIL, err
    assert b"stopped before anything was written" in err
    assert target.client().dbsize() == 0


def catches(pid: int, number: int) -> bool:
    """A process has a handler for this signal."""
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_memory_stays_bounded(target: Server, tmp_path: Path) -> None:
    """Values larger than a chunk are cut on their way; the process stays below 100 MB."""
    fields = {b"field:%d" % number: os.urandom(30) for number in range(300_000)}
    file = tmp_path / "big.rdb"
    file.write_bytes(encode(Snapshot(False, 9, [Entry(0, b"big", 4, HashValue(fields))]), lzf=False))
    script = (
        "import resource, subprocess, sys\n"
        "print(subprocess.call(sys.argv[1:]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    words = [command()[0], "-c", script, *command("restore", file, "--target", target.url)]
    done = subprocess.run(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=PATIENCE_SECONDS,
        env=environment(),
        check=True,
    )
    code, peak = map(int, done.stdout.split())
    assert (code, target.client().hlen("big")) == (os.EX_OK, len(fields))
    assert peak < 100_000  # KiB


def portd_keys(target: Server) -> list[bytes]:
    """What of ours stands in the target."""
    keys: Any = target.client().keys("portd:*")
    return sorted(keys)


def test_a_restore_that_fails_leaves_nothing_of_ours(target: Server, tmp_path: Path) -> None:
    """After a refusal the checkpoint is gone: the next restore is guarded, and --existing flush does flush."""
    file = tmp_path / "a.aof"
    file.write_bytes(pack("SET", "a", "1") + pack("RPUSH", "a", "x") + pack("SET", "b", "1"))
    run("restore", file, "--target", target.url, "--on-refusal", "stop", expect=os.EX_DATAERR)
    assert portd_keys(target) == []
    assert target.client().exists("a")
    assert "not empty" in run("restore", file, "--target", target.url, expect=os.EX_CONFIG).err
    target.client().set("mine", "1")
    run("restore", file, "--target", target.url, "--existing", "flush")
    assert sorted(target.client().keys()) == [b"a", b"b"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_restore_that_is_cut_off_does_not_confuse_the_next(target: Server, tmp_path: Path, end: int) -> None:
    """Stopped, it takes its checkpoint away; killed, it cannot, and the next restore guards the target all the same."""
    words = command("restore", "-", "--target", target.url)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdin is not None
        process.stdin.write(pack("SET", "a", "1"))
        process.stdin.flush()
        wait_for_sync(lambda: target.client().exists("a"), PATIENCE_SECONDS)
        process.send_signal(end)
        process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == (os.EX_TEMPFAIL if end == signal.SIGTERM else -signal.SIGKILL)
    assert bool(portd_keys(target)) == (end == signal.SIGKILL)
    file = tmp_path / "a.aof"
    file.write_bytes(pack("SET", "b", "1"))
    assert "not empty" in run("restore", file, "--target", target.url, expect=os.EX_CONFIG).err
    run("restore", file, "--target", target.url, "--existing", "flush")
    assert target.client().keys() == [b"b"]


def test_a_restore_never_touches_the_checkpoint_of_a_sync(source: Server, target: Server, tmp_path: Path) -> None:
    """A link may have any name, also the one that a restore once had: it goes on where it was."""
    file = tmp_path / "a.aof"
    file.write_bytes(pack("SET", "b", "1"))
    source.client().set("a", "1")
    with Portd(source, target, link="restore") as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        run("restore", file, "--target", target.url, "--existing", "replace")
        source.client().set("a", "2")
        portd.until_applied(source)
        assert portd.terminate() == 0
    before = target.client().hgetall("portd:checkpoint:restore")
    run("restore", file, "--target", target.url, "--existing", "replace")
    assert before
    assert target.client().hgetall("portd:checkpoint:restore") == before
    with Portd(source, target, link="restore") as portd:
        portd.until_applied(source)
        status = portd.status()
        assert status is not None
        assert sum(status["full_syncs"].values()) == 0
