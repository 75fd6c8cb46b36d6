"""`max_target_bytes_per_second` and `max_target_ops` on real servers: never faster, changed live, seen by operators."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from tests.commands import command, environment, run
from tests.compare import assert_equal
from tests.datasets import fill_big_list, fill_strings
from tests.process import Portd
from tests.servers import PATIENCE_SECONDS, wait_for_sync
from tests.wire import Wire, pack

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

BATCH_BYTES = 320 * 1024  # of one batch on credit
WARNING = "the limit on the target is below what the source writes"


def received(server: Server) -> tuple[int, int]:
    """Bytes and commands that a server has received."""
    stats = server.client().info("stats")
    return int(stats["total_net_input_bytes"]), int(stats["total_commands_processed"])


def test_the_snapshot_is_not_faster_than_the_limit(source: Server, target: Server) -> None:
    """What the target received in the time of the snapshot is the limit's, but for one batch and the burst."""
    limit = 2_000_000
    fill_strings(source, 30_000, 100)
    fill_big_list(source, b"list", 30_000)
    before, _ = received(target)
    with Portd(source, target, max_target_bytes_per_second=limit) as portd:
        status = portd.until(lambda status: bool(status["snapshot"]["finished_at"]))
        after, _ = received(target)
        seconds = status["snapshot"]["finished_at"] - status["snapshot"]["started_at"]
        assert after - before > 2 * limit
        assert seconds >= (after - before - BATCH_BYTES - 0.1 * limit) / limit
        found = portd.until(lambda status: status["phase"] == "streaming")["target"]["limit"]
        assert found["bytes_per_second"] == limit
        assert found["waited_seconds"] > 0
        assert '\nportd_target_limit_rate_bytes{link="default"} 2e+06\n' in portd.get("metrics")
        assert "waited for it" in portd.get("", accept="text/html")
    assert_equal(source, target)


def test_the_stream_is_not_faster_than_the_limit(source: Server, target: Server) -> None:
    """Commands of ours count as well; a group is on credit."""
    limit = 2000
    with Portd(source, target, max_target_ops=limit) as portd:
        portd.until(lambda status: status["phase"] == "streaming")
        _, before = received(target)
        begun = time.monotonic()
        with Wire(source) as wire:
            wire.load((pack("INCR", f"key:{number % 10}"), 1) for number in range(6000))
        portd.until_applied(source)
        _, after = received(target)
        seconds = time.monotonic() - begun
        group = 0.1 * limit
        beside = 10 * seconds + 20  # lease and probes
        assert after - before >= 6000
        assert seconds >= (after - before - beside - 2 * group) / limit
        assert portd.terminate() == os.EX_OK, portd.log()
    assert_equal(source, target)


def test_a_hangup_lifts_a_limit_that_would_take_hours(source: Server, target: Server, tmp_path: Path) -> None:
    """The snapshot waits under the limit of the file, and finishes once the file says otherwise."""
    fill_strings(source, 20_000, 100)
    file = tmp_path / "portd.toml"
    file.write_text('max_target_bytes_per_second = "1KiB"\n')
    with Portd(source, target, config=file) as portd:
        portd.until(lambda status: status["target"]["limit"]["waiting"] > 0)
        file.write_text('max_target_bytes_per_second = "no"\n')
        portd.signal(signal.SIGHUP)
        wait_for_sync(lambda: "reload failed" in portd.log(), dump=portd.log)
        file.write_text('max_target_bytes_per_second = "1GiB"\nmax_target_ops = 0\n')
        portd.signal(signal.SIGHUP)
        status = portd.until(lambda status: status["phase"] == "streaming")
        assert status["target"]["limit"]["bytes_per_second"] == 1 << 30
        assert 'changed="max_target_bytes_per_second max_target_ops"' in portd.log()
    assert_equal(source, target)


def test_a_limit_below_the_write_rate_is_seen_as_lag(source: Server, target: Server, tmp_path: Path) -> None:
    """The lag grows and is warned about once; the source is read on, and a raised limit lets the stream catch up."""
    file = tmp_path / "portd.toml"
    file.write_text("max_target_bytes_per_second = 50000\n")
    with Portd(source, target, config=file) as portd, Wire(source) as wire:
        portd.until(lambda status: status["phase"] == "streaming")

        def warned() -> bool:
            wire.load((pack("SET", f"key:{number}", b"x" * 500), 1) for number in range(100))
            return WARNING in portd.log()

        wait_for_sync(warned, dump=portd.log)
        offset = int(source.client().info("replication")["master_repl_offset"])
        status = portd.until(lambda status: status["stream"]["read_offset"] >= offset)
        assert status["stream"]["lag_bytes"] > 100_000
        file.write_text("")
        portd.signal(signal.SIGHUP)
        portd.until_applied(source)
        assert portd.log().count(WARNING) == 1
        assert portd.terminate() == os.EX_OK, portd.log()
    assert_equal(source, target)


def test_restore_keeps_the_limits(source: Server, target: Server, tmp_path: Path) -> None:
    """Snapshot and commands of files are held to the same limits; SIGHUP lifts them where there is a file."""
    fill_strings(source, 20_000, 100)
    dump, file = tmp_path / "dump.rdb", tmp_path / "portd.toml"
    run("dump", "--source", source.url, "-o", dump)
    begun = time.monotonic()
    run("restore", dump, "--target", target.url, "--max-target-ops", 20_000)
    assert time.monotonic() - begun >= (20_000 - 4000) / 20_000
    assert_equal(source, target)
    target.client().flushall()
    file.write_text("max_target_ops = 1\n")
    words = command("restore", dump, "--target", target.url, "--config", file)
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment())
    try:
        wait_for_sync(lambda: target.client().dbsize() > 0, dump=log.read_text)
        file.write_text("max_target_ops = 0\n")
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE_SECONDS) == os.EX_OK, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert_equal(source, target)


def test_values_that_make_no_sense_are_refused(source: Server, target: Server) -> None:
    """Exit code 78 and the name of the setting."""
    for option, value in (("max-target-ops", -1), ("max-target-ops", "many"), ("max-target-bytes-per-second", "fast")):
        ended = run("sync", "--source", source.url, "--target", target.url, f"--{option}", value, expect=os.EX_CONFIG)
        assert option.replace("-", "_") in ended.err
