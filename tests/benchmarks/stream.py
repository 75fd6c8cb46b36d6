"""``python -m tests.benchmarks.stream``: the command stream, portd beside a native replica under the same load.

Throughput: a source is written to as fast as it goes; the time until the follower has everything, and its CPU. Lag: at
a steady rate, how long a write takes until it can be read from the follower.
"""

from __future__ import annotations

import multiprocessing
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.command import binary_of, keep, parser_of
from tests.benchmarks.load import cpu_seconds, steady, writes
from tests.process import Portd
from tests.servers import Server, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

VALUE_BYTES = 32
RULED = "portd with rules"
RULES: dict[str, object] = {  # what is written, what the lag is measured by, and others
    "include": ["key:", "last", "probe", *(f"app{number:02}:" for number in range(17))],
    "rename_prefix": "key:=renamed:",
}


@dataclass(slots=True)
class Figures:
    """One follower.

    Attributes:
        per_second: commands from the first write until the last one has arrived.
        cpu: seconds the follower spent; of portd the process, of a replica the server.
        lag_p50: seconds at the steady rate.
        lag_p99: the same.
        lag_worst: the same.
    """

    per_second: float
    cpu: float
    lag_p50: float
    lag_p99: float
    lag_worst: float


def main() -> None:
    """Runs both followers one after the other, prints a table."""
    parser = parser_of("tests.benchmarks.stream", __doc__)
    parser.add_argument("--commands", type=int, default=2_000_000)
    parser.add_argument("--rate", type=int, default=20_000, help="commands per second for the lag")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the steady rate")
    parser.add_argument("--io-threads", type=int, default=1, help="of the target; needs Valkey 8 or Redis 6 and later")
    parser.add_argument("--rules", action="store_true", help="portd also with twenty prefixes and a renamed one")
    arguments = parser.parse_args()
    followers = ("portd", *((RULED,) if arguments.rules else ()), "replica")
    results = {follower: measure(follower, arguments) for follower in followers}
    table = Table(title=f"stream, {arguments.commands} commands, lag at {arguments.rate}/s")
    for column in ("", "commands/s", "CPU s", "lag p50 ms", "p99 ms", "worst ms"):
        table.add_column(column, justify="right" if column else "left")
    for follower, figures in results.items():
        lags = (figures.lag_p50, figures.lag_p99, figures.lag_worst)
        table.add_row(
            follower, f"{figures.per_second:,.0f}", f"{figures.cpu:.2f}", *(f"{lag * 1000:.2f}" for lag in lags)
        )
    Console().print(table)
    keep(arguments.json, {name: asdict(found) for name, found in results.items()})


def measure(follower: str, arguments: argparse.Namespace) -> Figures:
    """Throughput, then lag, of one follower."""
    binary = binary_of(arguments.server)
    with ExitStack() as stack:
        source = stack.enter_context(Server(binary, repl_backlog_size="256mb"))
        target = stack.enter_context(Server(binary, io_threads=arguments.io_threads))
        pid = target.pid
        if follower in ("portd", RULED):
            rules: dict[str, object] = RULES if follower == RULED else {}
            portd = stack.enter_context(Portd(source, target, log_level="warning", **rules))
            portd.until(lambda status: status["phase"] == "streaming")
            pid = portd.process.pid
        else:
            target.client().replicaof("127.0.0.1", source.port)
            wait_for_sync(lambda: target.client().info("replication")["master_link_status"] == "up", 30)
        assert pid is not None
        before = cpu_seconds(pid)
        started = time.perf_counter()
        with Wire(source) as wire:
            wire.load(writes(arguments.commands, VALUE_BYTES))
        _until_arrived(source, target)
        seconds = time.perf_counter() - started
        cpu = cpu_seconds(pid) - before
        lags = sorted(_lags(source, target, arguments.rate, arguments.seconds))
    at = [lags[int(len(lags) * share)] for share in (0.5, 0.99)]
    return Figures(arguments.commands / seconds, cpu, at[0], at[1], lags[-1])


def _until_arrived(source: Server, target: Server) -> None:
    with Wire(source) as wire:
        wire.call("SET", "last", time.time_ns())
        last = wire.call("GET", "last")
    with Wire(target) as wire:
        while wire.call("GET", "last") != last:
            time.sleep(0.001)


def _lags(source: Server, target: Server, rate: int, seconds: float) -> list[float]:
    """Seconds from the write of a time at the source until it is read at the target."""
    context = multiprocessing.get_context("fork")
    load = context.Process(target=steady, args=(source, rate, seconds), daemon=True)
    load.start()
    lags = list(_watch(target, load))
    load.join()
    return lags


def _watch(target: Server, load: Any) -> Iterator[float]:
    seen = None
    with Wire(target) as wire:
        while load.is_alive():
            value = wire.call("GET", "probe")
            if value != seen:
                seen = value
                yield (time.time_ns() - int(value)) / 1e9
            time.sleep(0.0002)


if __name__ == "__main__":
    main()
