"""``python -m tests.benchmarks.backlog``: a backlog in the spool, drained at full speed while reading goes on.

The target is stopped (SIGSTOP) while the source is written to; what it cannot take waits in portd's spool, on disk. Then it
runs again, with writes going on: how fast the backlog drains, and how far reading falls behind meanwhile. A native
replica that was stopped in the same way is the measure; its backlog waits in the source's memory.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.command import binary_of, keep, parser_of
from tests.benchmarks.load import cpu_seconds, steady, writes
from tests.process import Portd
from tests.servers import Server, wait_for_sync
from tests.wire import Wire, pack

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

MB = 1_000_000
POLL_SECONDS = 0.01
PATIENCE_SECONDS = 900.0
FOR_EVER = 1e6


@dataclass(slots=True)
class Drain:
    """One follower.

    Attributes:
        backlog: bytes that waited when the target ran again.
        filled: seconds in which they were written.
        drained: seconds until the target had them.
        commands: in the backlog.
        cpu: seconds the follower spent draining.
        target_cpu: seconds the target spent meanwhile; near to *drained* when it is the limit.
        behind: the most bytes that were written at the source and not read yet, while the backlog drained; of portd.
        peak_rss: bytes; of portd.
        block: longest time portd's event loop was held, seconds.
        own_block: the same, only what it computed.
    """

    backlog: int
    filled: float
    drained: float
    commands: int
    cpu: float
    target_cpu: float
    behind: int = 0
    peak_rss: int = 0
    block: float = 0.0
    own_block: float = 0.0


def main() -> None:
    """Runs both followers, prints a table."""
    parser = parser_of("tests.benchmarks.backlog", __doc__)
    parser.add_argument("--bytes", type=float, default=1e9, help="of the stream, to pile up")
    parser.add_argument("--value-bytes", type=int, default=200)
    parser.add_argument("--rate", type=int, default=20_000, help="commands a second that are written while it drains")
    arguments = parser.parse_args()
    results = {follower: measure(follower, arguments) for follower in ("portd", "replica")}
    show(results, arguments)
    keep(arguments.json, {name: asdict(found) for name, found in results.items()})


def measure(follower: str, arguments: argparse.Namespace) -> Drain:
    """One follower, from the first byte that waits to the last."""
    binary = binary_of(arguments.server)
    with ExitStack() as stack:
        source = Server(binary, client_output_buffer_limit="replica 0 0 0", repl_backlog_size="64mb", repl_timeout=3600)
        stack.enter_context(source)
        target = stack.enter_context(Server(binary, repl_timeout=3600))
        wire = stack.enter_context(Wire(source))
        if follower == "portd":
            spool = stack.enter_context(tempfile.TemporaryDirectory())
            room = int(arguments.bytes * 2)
            portd = Portd(
                source, target, log_level="warning", spool_dir=spool, spool_max_bytes=room, silence_seconds=3600
            )
            stack.enter_context(portd)
            return _portd(portd, source, target, wire, arguments)
        target.replicate(source)
        wait_for_sync(lambda: target.client().info("replication")["master_link_status"] == "up", 30)
        return _replica(source, target, wire, arguments)


def _portd(portd: Portd, source: Server, target: Server, wire: Wire, arguments: argparse.Namespace) -> Drain:
    portd.until(lambda status: status["phase"] == "streaming")
    filled, commands = _pile_up(wire, target, arguments)
    end = _offset(wire)
    behind = [0]

    def stream() -> dict[str, Any]:
        status = portd.status()
        if status is None:
            raise SystemExit(f"portd is gone\n{portd.log()}")
        behind.append(_offset(wire) - int(status["stream"]["read_offset"]))
        found: dict[str, Any] = status["stream"]
        return found

    _until(lambda: int(stream()["read_offset"]) >= end)
    behind.clear()
    at = stream()
    backlog = int(at["read_offset"]) - int(at["applied_offset"])
    pid = portd.process.pid
    drained, cpu, spent = _drain(source, target, pid, arguments.rate, lambda: int(stream()["applied_offset"]) >= end)
    status = portd.status()
    assert status is not None
    peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return Drain(
        backlog, filled, drained, commands, cpu, spent, max(behind), int(peak.split()[1]) * 1024,
        status["loop"]["longest_seconds"], status["loop"]["longest_own_seconds"],
    )  # fmt: skip


def _replica(source: Server, target: Server, wire: Wire, arguments: argparse.Namespace) -> Drain:
    before = _offset(wire)
    filled, commands = _pile_up(wire, target, arguments)
    end = _offset(wire)
    pid = target.pid
    assert pid is not None

    def arrived() -> bool:
        return int(target.info("replication")["slave_repl_offset"]) >= end

    drained, cpu, spent = _drain(source, target, pid, arguments.rate, arrived)
    return Drain(end - before, filled, drained, commands, cpu, spent)


def _pile_up(wire: Wire, target: Server, arguments: argparse.Namespace) -> tuple[float, int]:
    """Stops the target and writes; seconds and commands."""
    one = len(pack("SET", f"key:{0:08d}", b"x" * arguments.value_bytes))
    commands = int(arguments.bytes / one)
    target.signal(signal.SIGSTOP)
    started = time.perf_counter()
    wire.load(writes(commands, arguments.value_bytes))
    return time.perf_counter() - started, commands


def _drain(source: Server, target: Server, pid: int, rate: int, done: Callable[[], bool]) -> tuple[float, float, float]:
    """Lets the target go on, with writes; seconds, the follower's CPU, and the target's, until it is done."""
    load = multiprocessing.get_context("fork").Process(target=steady, args=(source, rate, FOR_EVER), daemon=True)
    load.start()
    assert target.pid is not None
    try:
        cpu, spent = cpu_seconds(pid), cpu_seconds(target.pid)
        started = time.perf_counter()
        target.signal(signal.SIGCONT)
        _until(done)
        return time.perf_counter() - started, cpu_seconds(pid) - cpu, cpu_seconds(target.pid) - spent
    finally:
        load.terminate()
        load.join()


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if done():
                return
        if time.monotonic() > deadline:
            sys.exit(f"not done within {PATIENCE_SECONDS:g} s")
        time.sleep(POLL_SECONDS)


def _offset(wire: Wire) -> int:
    """The source's replication offset."""
    lines = wire.call("INFO", "replication").split(b"\r\n")
    return int(next(line for line in lines if line.startswith(b"master_repl_offset:")).split(b":")[1])


def show(results: dict[str, Drain], arguments: argparse.Namespace) -> None:
    """A row for each follower."""
    table = Table(title=f"a backlog of {arguments.bytes / MB:,.0f} MB, {arguments.rate:,} writes/s going on")
    columns = (
        "",
        "fill MB/s",
        "drain s",
        "MB/s",
        "commands/s",
        "CPU s",
        "target CPU s",
        "unread MB",
        "MiB",
        "block (own) ms",
    )
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for follower, found in results.items():
        table.add_row(
            follower,
            f"{found.backlog / found.filled / MB:.0f}",
            f"{found.drained:.1f}",
            f"{found.backlog / found.drained / MB:.0f}",
            f"{found.commands / found.drained:,.0f}",
            f"{found.cpu:.1f}",
            f"{found.target_cpu:.1f}",
            f"{found.behind / MB:.1f}" if follower == "portd" else "",
            f"{found.peak_rss / (1 << 20):.0f}" if found.peak_rss else "",
            f"{found.block * 1000:.1f} ({found.own_block * 1000:.1f})" if found.block else "",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
