"""``python -m tests.benchmarks.sink``: what one portd process can push at most.

The target (``sink.c``, compiled on demand) acknowledges everything and keeps nothing; the source sends a file. Neither
does any work worth mentioning, so that portd is the limit. CPU for each key is that of the process, without what it
takes to start and to sync nothing. The stream is committed in transactions with real checkpoints.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
from rich.console import Console
from rich.table import Table

from tests.benchmarks.command import binary_of, parser_of
from tests.datasets import fill_mixed, fill_strings
from tests.servers import Binary, Server, free_port
from tests.wire import pack

if TYPE_CHECKING:
    from collections.abc import Iterator

CODE = Path(__file__).with_name("sink.c")
MB = 1_000_000
POLL_SECONDS = 0.002


@dataclass(slots=True)
class Push:
    """One run.

    Attributes:
        units: keys, or commands of the stream.
        seconds: in which they passed; without the start of the process.
        cpu_each: seconds of portd's CPU for each, start not counted.
        read: bytes from the source.
        written: bytes of data commands at the target.
    """

    units: int
    seconds: float
    cpu_each: float
    read: int
    written: int


def build(directory: Path) -> Path:
    """Compiles the sink."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("there is no C compiler on the PATH (cc)")
    program = directory / "sink"
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(program), str(CODE), "-lpthread"], check=True)
    return program


@contextmanager
def sink(program: Path, backend: Server, *files: Path) -> Iterator[int]:
    """Runs it in front of a server, with a snapshot and a stream when it is to be a source; its port."""
    port = free_port()
    command = [str(program), str(port), str(backend.port), *map(str, files)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise SystemExit(f"{command} did not start")
        yield port
        process.stdin.close()


def counts(port: int) -> tuple[int, int]:
    """Data commands and their bytes that a sink has taken."""
    with redis.Redis(port=port, protocol=2) as client:
        taken, size = client.execute_command("SINK.STATS")
    return int(taken), int(size)


def main() -> None:
    """Runs, prints."""
    parser = parser_of("tests.benchmarks.sink", __doc__)
    parser.add_argument("datasets", nargs="*", help="of strings, values, mixed, stream; all when none is named")
    parser.add_argument("--keys", type=int, default=2_000_000, help="of strings; a tenth values, a quarter mixed")
    parser.add_argument("--commands", type=int, default=2_000_000, help="of the stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--portd-option", action="append", default=[], help="handed to portd sync, may be repeated")
    arguments = parser.parse_args()
    binary = binary_of(arguments.server)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(binary, Path(name), arguments.portd_option)
        results = {}
        for dataset in arguments.datasets or ("strings", "values", "mixed", "stream"):
            bench.prepare(dataset, arguments.keys, arguments.commands)
            results[dataset] = [bench.push(dataset) for _ in range(arguments.rounds)]
    show(results)
    if arguments.json:
        found = {dataset: [asdict(run) for run in runs] for dataset, runs in results.items()}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


class Bench:
    """Files to send, and the runs.

    Args:
        binary: the server behind both sinks.
        directory: for files.
        options: handed to portd sync.
    """

    def __init__(self, binary: Binary, directory: Path, options: list[str]) -> None:
        self._binary = binary
        self._directory = directory
        self._options = options
        self._program = build(directory)
        self._commands = 0
        self._snapshot("empty", 0)
        self._idle = min(self._run("empty")[0] for _ in range(2))

    def prepare(self, dataset: str, keys: int, commands: int) -> None:
        """Makes the file of a dataset."""
        if dataset == "stream":
            self._commands = commands
            with (self._directory / "stream.resp").open("wb") as file:
                file.write(pack("SELECT", 0))
                for start in range(0, commands, 1000):
                    numbers = range(start, min(start + 1000, commands))
                    file.write(b"".join(pack("SET", b"key:%08d" % (n % 100_000), b"x" * 32) for n in numbers))
        else:
            self._snapshot(dataset, keys)

    def _snapshot(self, dataset: str, keys: int) -> None:
        with Server(self._binary) as server:
            if dataset == "strings":
                fill_strings(server, keys)
            elif dataset == "values":
                fill_strings(server, keys // 10, 4096)
            elif dataset == "mixed":
                fill_mixed(server, keys // 4)
            server.client(socket_timeout=600.0).save()
            shutil.copy(server.directory / "dump.rdb", self._directory / f"{dataset}.rdb")

    def push(self, dataset: str) -> Push:
        """One run of one dataset."""
        if dataset == "stream":
            return self._push_stream()
        cpu, events, (_, written) = self._run(dataset)
        applied = next(event for event in events if event["event"] == "snapshot applied")
        each = (cpu - self._idle) / applied["keys"]
        return Push(applied["keys"], applied["seconds"], each, applied["bytes"], written)

    @contextmanager
    def _between(self, *files: str) -> Iterator[tuple[list[str], int]]:
        """A source and a target; the command that syncs them, and the target's port."""
        with ExitStack() as stack:
            backends = [stack.enter_context(Server(self._binary)) for _ in range(2)]
            source = stack.enter_context(sink(self._program, backends[0], *(self._directory / file for file in files)))
            target = stack.enter_context(sink(self._program, backends[1]))
            command = [sys.executable, "-m", "portd", "sync", "--source", f"redis://127.0.0.1:{source}"]
            command += ["--target", f"redis://127.0.0.1:{target}", "--http", "off", "--log-format", "json"]
            yield command + self._options, target

    def _run(self, dataset: str) -> tuple[float, list[dict[str, Any]], tuple[int, int]]:
        """A full sync; CPU seconds, what was logged, what the sink counted."""
        with self._between(f"{dataset}.rdb") as (command, target), tempfile.TemporaryFile() as said:
            process = subprocess.Popen([*command, "--stop-after", "snapshot"], stderr=said)
            cpu = _finish(process)
            said.seek(0)
            text = said.read().decode(errors="replace")
            if process.returncode:
                raise SystemExit(f"portd ended with {process.returncode}\n{text}")
            return cpu, [json.loads(line) for line in text.splitlines() if line.startswith("{")], counts(target)

    def _push_stream(self) -> Push:
        size = (self._directory / "stream.resp").stat().st_size
        with self._between("empty.rdb", "stream.resp") as (command, target):
            process = subprocess.Popen([*command, "--log-level", "warning"])
            begun = _reach(target, 1, process)
            seconds = _reach(target, self._commands, process) - begun
            process.send_signal(signal.SIGTERM)
            each = (_finish(process) - self._idle) / self._commands
            if process.returncode:
                raise SystemExit(f"portd ended with {process.returncode}")
            return Push(self._commands, seconds, each, size, counts(target)[1])


def _finish(process: subprocess.Popen[bytes]) -> float:
    """Waits for its end; its CPU seconds."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _reach(port: int, commands: int, process: subprocess.Popen[bytes]) -> float:
    """When the sink had taken so many commands."""
    with redis.Redis(port=port, protocol=2) as client:
        while int(client.execute_command("SINK.STATS")[0]) < commands:
            if process.poll() is not None:
                raise SystemExit(f"portd ended with {process.returncode}")
            time.sleep(POLL_SECONDS)
    return time.perf_counter()


def show(results: dict[str, list[Push]]) -> None:
    """A row for each dataset."""
    table = Table(title="one portd process, medians")
    for column in ("", "a second", "MB/s read", "MB/s written", "own CPU µs each", "at a whole core"):
        table.add_column(column, justify="right" if column else "left")
    for dataset, runs in results.items():
        rate = statistics.median(run.units / run.seconds for run in runs)
        cpu = statistics.median(run.cpu_each for run in runs)
        table.add_row(
            f"{dataset}, {'commands' if dataset == 'stream' else 'keys'}",
            f"{rate:,.0f}",
            f"{statistics.median(run.read / run.seconds for run in runs) / MB:.0f}",
            f"{statistics.median(run.written / run.seconds for run in runs) / MB:.0f}",
            f"{cpu * 1e6:.2f}",
            f"{1 / cpu:,.0f}/s" if cpu > 0 else "",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
