"""``python -m tests.benchmarks.clusters``: a cluster of three into another one, beside three syncs of single servers at once.

The full sync is ``portd sync --stop-after snapshot`` from start to end; three such processes side by side are the measure. Then each
source is written to while nothing follows it, and ``--stop-after caught-up`` drains its backlog: commands a second between the
partial syncs and the moment at which the last link has caught up.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from portd.kernel.slots import key_slot
from tests.benchmarks.command import binary_of, keep, parser_of
from tests.benchmarks.contenders import run_process
from tests.clusters import SLOTS, Cluster
from tests.servers import Server
from tests.wire import Wire, pack

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from tests.servers import Binary

SHARDS = 3
BLOCK = 512  # commands of one block
SETTINGS: dict[str, Any] = {"repl_backlog_size": "512mb", "client_output_buffer_limit": "replica 0 0 0"}
MIB = 1 << 20


@dataclass(slots=True)
class Figures:
    """Of one round.

    Attributes:
        wall: seconds of the full sync.
        cpu: own seconds of it, all processes together.
        peak: resident bytes; of the largest process.
        rate: commands a second of the stream, all shards together.
        stream_cpu: own seconds a million commands of it.
    """

    wall: float
    cpu: float
    peak: int
    rate: float
    stream_cpu: float


def main() -> None:
    """Parses arguments, runs, prints."""
    parser = parser_of("tests.benchmarks.clusters", __doc__)
    parser.add_argument("--keys", type=int, default=300_000, help="strings of 32 bytes, over all shards")
    parser.add_argument("--commands", type=int, default=900_000, help="SETs of the stream, over all shards")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    binary = binary_of(arguments.server)
    found: dict[str, list[Figures]] = {"servers": [], "clusters": []}
    for _ in range(arguments.rounds):
        for kind, rounds in found.items():
            rounds.append(measure(binary, arguments, clustered=kind == "clusters"))
    show(found, arguments)
    keep(arguments.json, {kind: [asdict(each) for each in rounds] for kind, rounds in found.items()})


def measure(binary: Binary, arguments: argparse.Namespace, *, clustered: bool) -> Figures:
    """One round: three pairs of servers, or two clusters."""
    with ExitStack() as stack:
        if clustered:
            source, target = (stack.enter_context(Cluster(binary, **SETTINGS)) for _ in range(2))
            sources, pairs = source.primaries, [(source.url, target.url)]
        else:
            sources = [stack.enter_context(Server(binary, **SETTINGS)) for _ in range(SHARDS)]
            targets = [stack.enter_context(Server(binary)) for _ in range(SHARDS)]
            pairs = [(one.url, other.url) for one, other in zip(sources, targets, strict=True)]
        names = [list(_names(number, arguments.keys // SHARDS)) for number in range(SHARDS)]
        for server, mine in zip(sources, names, strict=True):
            with Wire(server) as wire:
                wire.load(_sets(mine, len(mine)))
        copied = _run(pairs, "snapshot")
        commands = arguments.commands // SHARDS
        for server, mine in zip(sources, names, strict=True):
            with Wire(server) as wire:
                wire.load(_sets(mine, commands))
        followed = _run(pairs, "caught-up")
        began = min(_times(followed, "partial sync"))
        seconds = max(_times(followed, "caught up")) - began
        return Figures(
            max(each.wall for each in copied),
            sum(each.cpu for each in copied),
            max(each.peak for each in copied),
            commands * SHARDS / seconds,
            sum(each.cpu for each in followed) / (commands * SHARDS) * 1e6,
        )


@dataclass(slots=True)
class Ended:
    """One portd that has ended."""

    wall: float
    cpu: float
    peak: int
    events: list[dict[str, Any]]


def _run(pairs: list[tuple[str, str]], until: str) -> list[Ended]:
    """A portd for each pair, side by side."""
    with ThreadPoolExecutor(len(pairs)) as pool:
        return list(pool.map(lambda pair: _portd(pair[0], pair[1], until), pairs))


def _portd(source: str, target: str, until: str) -> Ended:
    command = [
        sys.executable, "-m", "portd", "sync", "--source", source, "--target", target, "--stop-after", until,
        "--http", "off", "--log-level", "info", "--log-format", "json",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        cpu, peak = run_process(command, stderr=said)
        wall = time.perf_counter() - started
        said.seek(0)
        return Ended(wall, cpu, peak, [json.loads(line) for line in said if line.startswith(b"{")])


def _times(ended: list[Ended], event: str) -> list[float]:
    """When an event was logged, unix seconds."""
    return [
        datetime.fromisoformat(each["ts"]).timestamp() for one in ended for each in one.events if each["event"] == event
    ]


def _names(shard: int, count: int) -> Iterator[bytes]:
    """Keys that a shard has."""
    first, last = shard * SLOTS // SHARDS, (shard + 1) * SLOTS // SHARDS
    number = found = 0
    while found < count:
        name = b"key:%09d" % number
        number += 1
        if first <= key_slot(name) < last:
            found += 1
            yield name


def _sets(names: list[bytes], count: int) -> Iterator[tuple[bytes, int]]:
    """SETs of these keys in turn, in blocks."""
    for begin in range(0, count, BLOCK):
        block = [names[(begin + n) % len(names)] for n in range(min(BLOCK, count - begin))]
        yield b"".join(pack("SET", name, b"x" * 32) for name in block), len(block)


def show(found: dict[str, list[Figures]], arguments: argparse.Namespace) -> None:
    """A row for each kind, and their ratio."""
    title = (
        f"{arguments.keys:,} strings, {arguments.commands:,} SETs, {SHARDS} shards, median of {arguments.rounds} rounds"
    )
    table = Table(title=title)
    for column in ("", "full sync s", "own CPU s", "peak MiB", "commands/s", "a target", "own CPU µs a command"):
        table.add_column(column, justify="right" if column else "left")
    middle = {
        kind: {name: statistics.median(asdict(each)[name] for each in rounds) for name in asdict(rounds[0])}
        for kind, rounds in found.items()
    }
    for kind, of in middle.items():
        table.add_row(
            f"{SHARDS} {kind}" if kind == "servers" else kind, f"{of['wall']:.2f}", f"{of['cpu']:.2f}", f"{of['peak'] / MIB:.0f}",
            f"{of['rate']:,.0f}", f"{of['rate'] / SHARDS:,.0f}", f"{of['stream_cpu']:.2f}",
        )  # fmt: skip
    ratio = {name: middle["clusters"][name] / middle["servers"][name] for name in middle["servers"]}
    table.add_row(
        "ratio", f"{ratio['wall']:.2f}", f"{ratio['cpu']:.2f}", f"{ratio['peak']:.2f}", f"{ratio['rate']:.2f}", "",
        f"{ratio['stream_cpu']:.2f}",
    )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
