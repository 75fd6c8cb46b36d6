"""Who copies a source into a target: portd, `redis-cli --pipe`, a native REPLICAOF. Each is timed as a whole."""

from __future__ import annotations

import compileall
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import portd
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from tests.servers import Server

PROBE_GAP_SECONDS = 0.002
POLL_SECONDS = 0.002


@dataclass(slots=True)
class Run:
    """One timed copy.

    Attributes:
        wall: seconds from start until the target holds everything.
        cpu: user and system seconds of the copying process; 0 where the servers copy by themselves.
        rss: its peak resident set, bytes.
        target_cpu: seconds the target spent.
        ping_p99: of a PING probe at the target during the copy, seconds.
        ping_worst: the slowest of them.
        block: longest time portd's event loop was held, seconds; 0 for others.
        own_block: the same, only what it computed.
    """

    wall: float
    cpu: float
    rss: int
    target_cpu: float
    ping_p99: float = 0.0
    ping_worst: float = 0.0
    block: float = 0.0
    own_block: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def by_portd(source: Server, target: Server, *options: str) -> Run:
    """``portd sync --stop-after snapshot`` as an operator would start it."""
    _compile_portd()
    command = [
        sys.executable, "-m", "portd", "sync", "--source", source.url, "--target", target.url,
        "--stop-after", "snapshot", "--http", "off", "--log-level", "info", "--log-format", "json", *options,
    ]  # fmt: skip
    with tempfile.TemporaryFile() as said:

        def copy() -> tuple[float, int]:
            try:
                return run_process(command, stderr=said)
            except RuntimeError:
                said.seek(0)
                sys.stderr.write(said.read().decode(errors="replace"))
                raise

        run = _measure(target, copy)
        said.seek(0)
        events = [json.loads(line) for line in said if line.startswith(b"{")]
    for event in events:
        if event["event"] == "event loop":
            run.block, run.own_block = event["longest_block_seconds"], event["own"]
    return run


@cache
def _compile_portd() -> None:
    """Byte code as pip leaves it in an installed package: a working tree may have none, or be kept from writing it."""
    compileall.compile_dir(Path(portd.__file__).parent, quiet=1)


def by_pipe(commands: Path, target: Server) -> Run:
    """``redis-cli --pipe`` with a file of element commands."""

    def copy() -> tuple[float, int]:
        with commands.open("rb") as file:
            return run_process(["redis-cli", "-p", str(target.port), "--pipe"], stdin=file, stdout=subprocess.DEVNULL)

    return _measure(target, copy)


def by_replicaof(source: Server, target: Server) -> Run:
    """The target becomes a replica until it is in sync, then a primary again."""

    def copy() -> tuple[float, int]:
        with Wire(target) as wire:
            wire.call("REPLICAOF", "127.0.0.1", source.port)
            while not _in_sync(wire):
                time.sleep(POLL_SECONDS)
            wire.call("REPLICAOF", "NO", "ONE")
        return 0.0, 0

    return _measure(target, copy)


def _in_sync(wire: Wire) -> bool:
    with contextlib.suppress(Exception):  # -LOADING: not yet
        info = wire.call("INFO", "replication")
        return b"master_link_status:up" in info and b"master_sync_in_progress:0" in info
    return False


def run_process(command: list[str], **streams: Any) -> tuple[float, int]:
    """Runs a command; its CPU seconds and peak RSS in bytes, from the kernel's own accounting.

    As where it is installed, its modules are compiled once, not at every start: that would make a start cost a third more.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, **{"env": environment, **streams})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[:4]} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def _measure(target: Server, copy: Callable[[], tuple[float, int]]) -> Run:
    before = _target_cpu(target)
    with ping_probe(target) as latencies:
        started = time.perf_counter()
        cpu, rss = copy()
        wall = time.perf_counter() - started
    run = Run(wall, cpu, rss, _target_cpu(target) - before)
    if latencies:
        latencies.sort()
        run.ping_p99 = latencies[int(len(latencies) * 0.99)]
        run.ping_worst = latencies[-1]
    return run


def _target_cpu(target: Server) -> float:
    with Wire(target) as wire:
        lines = wire.call("INFO", "cpu").split(b"\r\n")
    values = dict(line.split(b":", 1) for line in lines if b":" in line)
    return float(values[b"used_cpu_user"]) + float(values[b"used_cpu_sys"])


def give_own_core(target: Server) -> None:
    """Leaves one core to a target; `leave_a_core` was called before anything else was started."""
    for thread in os.listdir(f"/proc/{target.pid}/task"):  # noqa: PTH208 - numbers are wanted
        os.sched_setaffinity(int(thread), {0})


def leave_a_core() -> None:
    """Keeps this process, and what it starts from now on, off the first core."""
    rest = os.sched_getaffinity(0) - {0}
    if not rest:
        raise SystemExit("a core of its own for the target needs two cores")
    os.sched_setaffinity(0, rest)


def _apart(target: Server) -> bool:
    assert target.pid is not None
    return os.sched_getaffinity(0).isdisjoint(os.sched_getaffinity(target.pid))


@contextlib.contextmanager
def ping_probe(target: Server) -> Iterator[list[float]]:
    """Latencies of a PING every few milliseconds, from a process of its own, while the block runs."""
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_probe, args=(target, theirs), kwargs={"apart": _apart(target)}, daemon=True
    )
    process.start()
    latencies: list[float] = []
    try:
        yield latencies
    finally:
        ours.send(None)
        latencies.extend(ours.recv())
        process.join()


def _probe(target: Server, stop: Connection, *, apart: bool) -> None:
    if apart:  # what a PING waits for is the target then: the probe itself is not to wait for a core
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    latencies = []
    with Wire(target) as wire:
        while not stop.poll(PROBE_GAP_SECONDS):
            started = time.perf_counter()
            with contextlib.suppress(Exception):  # a replica that loads answers -LOADING: an answer too
                wire.call("PING")
            latencies.append(time.perf_counter() - started)
    stop.send(latencies)
