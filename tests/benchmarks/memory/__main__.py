"""``python -m tests.benchmarks.memory --members N``: the incident again, the naive way against portd.

One hash of N members beside a string for every 28 of them, as in the incident (28 million, and a million strings). Each
contender copies it into an empty server; the resident set is watched, and written as CSV and as a picture.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portd.config.settings import MAX_BUDGET_BYTES
from portd.memory.plan import PROCESS_BYTES
from tests.benchmarks.memory.picture import MIB, Track, write_csv, write_svg
from tests.datasets import fill_big_hash, fill_strings
from tests.servers import Server, find

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLE_SECONDS = 0.02
STRING_FOR_MEMBERS = 28
WIDE: dict[str, Any] = {
    "proto_max_bulk_len": "8gb",
    "client_query_buffer_limit": "16gb",
    "client_output_buffer_limit": "replica 0 0 0",
}


def main() -> None:
    """Parses arguments, runs both, writes."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    parser.add_argument("--members", type=int, default=1_000_000)
    parser.add_argument("--server", default="valkey", help="which of the servers found: valkey9.1, redis7.0, ...")
    parser.add_argument("--docs", type=Path, help="directory for the CSV and the picture; none are written without it")
    parser.add_argument("--only", choices=["naive", "portd"], help="run one of the two")
    parser.add_argument("--portd-option", action="append", default=[], help="handed to portd sync, may be repeated")
    arguments = parser.parse_args()
    binary = find(arguments.server)
    if binary is None:
        raise SystemExit(f"no server {arguments.server} was found")
    tracks = []
    with Server(binary, repl_timeout=3600, **WIDE) as source:
        strings = arguments.members // STRING_FOR_MEMBERS
        print(f"{binary.name}: a hash of {arguments.members:,} members and {strings:,} strings", flush=True)
        fill_big_hash(source, b"big", arguments.members)
        fill_strings(source, strings)
        for name in (arguments.only,) if arguments.only else ("naive", "portd"):
            with Server(binary, **WIDE) as target:
                track = measure(name, _command(name, source, target, arguments.portd_option))
                if (held := target.client().hlen("big")) != arguments.members:
                    raise SystemExit(f"{name} copied {held} members only")
            print(f"{name}: peak {track.peak / MIB:.1f} MiB, {track.wall:.2f} s, own CPU {track.cpu:.2f} s", flush=True)
            tracks.append(track)
    if arguments.docs:
        title = f"Copying a hash of {arguments.members:,} members and {strings:,} strings"
        ceiling = PROCESS_BYTES + MAX_BUDGET_BYTES
        write_csv(arguments.docs / "memory-rss.csv", tracks)
        write_svg(arguments.docs / "memory-rss.svg", tracks, title, ceiling=ceiling)


def _command(name: str, source: Server, target: Server, options: Sequence[str]) -> list[str]:
    if name == "naive":
        return [sys.executable, "-m", "tests.benchmarks.memory.naive", str(source.port), str(target.port)]
    return [
        sys.executable, "-m", "portd", "sync", "--source", source.url, "--target", target.url,
        "--stop-after", "snapshot", "--http", "127.0.0.1:0", "--log-level", "warning", *options,
    ]  # fmt: skip


def measure(name: str, command: list[str]) -> Track:
    """Runs a command and watches its resident set."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    points: list[tuple[float, int]] = []
    peak = 0
    while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        rss, highest = _resident(process.pid)
        if rss:
            points.append((time.perf_counter() - started, rss))
        peak = max(peak, highest)
        time.sleep(SAMPLE_SECONDS)
    wall = time.perf_counter() - started
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}")
    return Track(name, points, peak, wall, usage.ru_utime + usage.ru_stime)


def _resident(pid: int) -> tuple[int, int]:
    """Resident set now and at its peak, of the program the process runs now; 0 when it has just ended.

    The peak that wait4 tells also counts the program before an exec: portd reads its settings in one and runs in another.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
    return int(fields.get("VmRSS", 0)) * 1024, int(fields.get("VmHWM", 0)) * 1024


if __name__ == "__main__":
    main()
