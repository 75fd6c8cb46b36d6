"""``python -m tests.benchmarks.wire``: `portd decode`, `dump` and `verify`, whole commands, in MB of RDB a second.

About 500 MB: strings of 200 bytes and mixed keys. `dump` and `verify` run against real servers, whose snapshot children
take their share of the machine, and against a source that only sends the file (``sink.c``), which shows portd alone.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tests.benchmarks.command import binary_of, parser_of
from tests.benchmarks.contenders import run_process
from tests.benchmarks.sink import build, sink
from tests.datasets import fill_mixed, fill_strings
from tests.servers import Server

if TYPE_CHECKING:
    from collections.abc import Callable

MB = 1_000_000
STRINGS, STRING_BYTES, MIXED = 1_200_000, 200, 1_000_000


@dataclass(slots=True)
class Timing:
    """One run of a command.

    Attributes:
        size: bytes of RDB it went through; of `verify` those of both ends.
        wall: seconds, start of the process included.
        cpu: its own seconds.
        rss: its peak, bytes.
    """

    size: int
    wall: float
    cpu: float
    rss: int


def main() -> None:
    """Runs all commands, prints a table."""
    parser = parser_of("tests.benchmarks.wire", __doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is about 500 MB")
    parser.add_argument("--rounds", type=int, default=3, help="medians are shown")
    arguments = parser.parse_args()
    binary = binary_of(arguments.server)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source = stack.enter_context(Server(binary))
        fill_strings(source, round(STRINGS * arguments.scale), STRING_BYTES)
        fill_mixed(source, round(MIXED * arguments.scale))
        source.client(socket_timeout=600.0).save()
        rdb = folder / "data.rdb"
        shutil.copy(source.directory / "dump.rdb", rdb)
        target = Server(binary)
        shutil.copy(rdb, target.directory / "dump.rdb")
        stack.enter_context(target)
        program = build(folder)
        ports = [stack.enter_context(sink(program, server, rdb)) for server in (source, target)]
        sent = [f"redis://127.0.0.1:{port}" for port in ports]
        jobs = _jobs(rdb, folder, (source.url, target.url), (sent[0], sent[1]))
        results = {name: [job() for _ in range(arguments.rounds)] for name, job in jobs.items()}
    show(results)
    if arguments.json:
        found = {name: [asdict(run) for run in runs] for name, runs in results.items()}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def _jobs(rdb: Path, folder: Path, real: tuple[str, str], sent: tuple[str, str]) -> dict[str, Callable[[], Timing]]:
    """What is timed, by name."""
    size = rdb.stat().st_size

    def job(size: int, *words: str) -> Callable[[], Timing]:
        return lambda: _time(size, list(words))

    jobs = {
        f"decode -f {form}": job(size, "decode", str(rdb), "-f", form, "-o", "/dev/null")
        for form in ("jsonl", "csv", "keys", "stats")
    }
    for kind, (source, target) in {"real servers": real, "files sent": sent}.items():
        jobs[f"dump, {kind}"] = job(size, "dump", "--source", source, "-o", str(folder / "dumped.rdb"))
        jobs[f"verify, {kind}"] = job(2 * size, "verify", "--source", source, "--target", target)
    return jobs


def _time(size: int, words: list[str]) -> Timing:
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        try:
            cpu, rss = run_process([sys.executable, "-m", "portd", *words], stdout=subprocess.DEVNULL, stderr=said)
        except RuntimeError as error:
            said.seek(0)
            raise SystemExit(f"{error}\n{said.read().decode(errors='replace')}") from None
        return Timing(size, time.perf_counter() - started, cpu, rss)


def show(results: dict[str, list[Timing]]) -> None:
    """A row for each command."""
    table = Table(title="offline commands")
    for column in ("", "MB", "wall s", "MB/s", "own CPU s", "peak MiB"):
        table.add_column(column, justify="right" if column else "left")
    for name, runs in results.items():
        wall = statistics.median(run.wall for run in runs)
        table.add_row(
            name,
            f"{runs[0].size / MB:.0f}",
            f"{wall:.2f}",
            f"{runs[0].size / wall / MB:.0f}",
            f"{statistics.median(run.cpu for run in runs):.2f}",
            f"{max(run.rss for run in runs) / (1 << 20):.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
