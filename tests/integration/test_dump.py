"""`portd dump` on real servers: the file is what a server would have written, and never half of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import command, environment, run
from tests.compare import assert_equal
from tests.datasets import fill_every_encoding, fill_mixed
from tests.lines import expected, read_lines
from tests.oracle.rdb import decode
from tests.servers import PATIENCE_SECONDS, free_port, wait_for_sync

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerFactory
    from tests.servers import Binary, Server


def test_the_dump_is_a_snapshot_that_servers_load(binary: Binary, servers: ServerFactory, tmp_path: Path) -> None:
    """A server of the same version starts from the file with the source's data; the checker accepts it."""
    source = servers(binary)
    fill_every_encoding(source)
    file = tmp_path / "dump.rdb"
    run("dump", "--source", source.url, "--output", file)
    assert decode(file.read_bytes()).size == file.stat().st_size
    loaded = servers(binary)
    directory = loaded.client().config_get("dir")["dir"]
    shutil.copy(file, f"{directory}/{loaded.client().config_get('dbfilename')['dbfilename']}")
    loaded.restart(crash=True)
    assert_equal(source, loaded)
    # The checker is the server itself under another name; that of another version may not know this one's header.
    words = [f"{binary.family}-check-rdb", str(file)]
    checked = subprocess.run(words, executable=binary.path, capture_output=True, timeout=PATIENCE_SECONDS, check=False)
    assert checked.returncode == 0, checked.stdout
    assert b"Checksum OK" in checked.stdout
    assert b"RDB looks OK" in checked.stdout


def test_a_dump_goes_through_a_pipe(source: Server) -> None:
    """`portd dump -o - | portd decode -` tells what the server holds, with nothing else on standard output."""
    fill_mixed(source, 500)
    dumped = run("dump", "--source", source.url, "-o", "-")
    told, _ = read_lines(run("decode", "-", stdin=dumped.out).out)
    assert told.keys() == expected(decode(dumped.out)).keys()
    direct, _ = read_lines(run("decode", source.url).out)
    assert direct.keys() == told.keys()


def test_follow_records_whole_commands(source: Server, target: Server, tmp_path: Path) -> None:
    """The stream's file holds what was written after the snapshot, through a lost link, and restore applies both."""
    fill_mixed(source, 500)
    file = tmp_path / "dump.rdb"
    words = command("dump", "--source", source.url, "--output", file, "--follow", "--progress-seconds", 0)
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=environment()) as process:
        try:
            wait_for_sync(lambda: file.with_name("dump.rdb.stream").exists(), PATIENCE_SECONDS)
            client: Any = source.client(db=3)
            for number in range(100):
                client.incr("counter")
                client.rpush("list", number)
                if number == 50:
                    client.execute_command("CLIENT", "KILL", "TYPE", "replica")
            stream = file.with_name("dump.rdb.stream")
            wait_for_sync(lambda: stream.read_bytes().count(b"INCR") + stream.read_bytes().count(b"incr") >= 100)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == os.EX_OK
        finally:
            process.kill()
    run("restore", file, "--target", target.url, "--then-follow", stream)
    assert_equal(source, target)
    assert target.client(db=3).get("counter") == b"100"


@pytest.mark.parametrize("place", ["missing/dump.rdb", ""])
def test_a_place_that_cannot_be_written_is_said_before_anything_is_asked(place: str, tmp_path: Path) -> None:
    """A missing directory, or a directory as the file: exit code 74, and the source is not even connected to."""
    ended = run("dump", "--source", "redis://127.0.0.1:1", "-o", tmp_path / place, expect=os.EX_IOERR)
    assert "HINT" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_away_leaves_no_file(tmp_path: Path) -> None:
    """A refused connection is exit code 69, and there is no file, under any name."""
    run("dump", "--source", f"redis://127.0.0.1:{free_port()}", "-o", tmp_path / "d.rdb", expect=os.EX_UNAVAILABLE)
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_dies_leaves_no_half_file(servers: ServerFactory, tmp_path: Path) -> None:
    """A dump that was cut, by the source or by a signal, leaves the older file of that name as it was."""
    source = servers()
    fill_mixed(source, 20_000)
    file = tmp_path / "dump.rdb"
    file.write_bytes(b"older")
    source.client().config_set("rdb-key-save-delay", 1000)
    for end in ("signal", "source"):
        words = command("dump", "--source", source.url, "--output", file)
        with subprocess.Popen(words, stderr=subprocess.DEVNULL, env=environment()) as process:
            try:
                wait_for_sync(lambda: any(each.stat().st_size > 20_000 for each in tmp_path.iterdir()))
                if end == "signal":
                    process.send_signal(signal.SIGTERM)
                else:
                    source.kill()
                assert process.wait(PATIENCE_SECONDS) != os.EX_OK
            finally:
                process.kill()
        assert file.read_bytes() == b"older"
        assert [each.name for each in tmp_path.iterdir()] == ["dump.rdb"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110 - not a file of ours
def test_a_full_disk_is_an_error_with_a_hint(source: Server, tmp_path: Path) -> None:
    """Exit code 74, and the hint says to make room."""
    fill_mixed(source, 500)
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            command("dump", "--source", source.url, "-o", "-"),
            stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE_SECONDS, env=environment(), check=False,
        )  # fmt: skip
    assert done.returncode == os.EX_IOERR
    assert b"make room" in done.stderr
