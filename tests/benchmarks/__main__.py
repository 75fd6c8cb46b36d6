"""``python -m tests.benchmarks``: full syncs by portd, `redis-cli --pipe` and REPLICAOF, interleaved, as a table.

Figures are medians over the rounds; ratios are taken within a round first, so that they hold when the machine drifts.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.command import binary_of, parser_of
from tests.benchmarks.contenders import Run, by_pipe, by_portd, by_replicaof, give_own_core, leave_a_core
from tests.benchmarks.element_commands import write_element_commands
from tests.datasets import fill_big_hash, fill_mixed, fill_strings
from tests.servers import Server

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

MIB = 1 << 20


def _databases(source: Server) -> None:
    for db in range(16):
        fill_strings(source, 62_500, db=db)


DATASETS: dict[str, Callable[[Server], object]] = {
    "strings": lambda source: fill_strings(source, 2_000_000),
    "mixed": lambda source: fill_mixed(source, 500_000),
    "values": lambda source: fill_strings(source, 200_000, 4096),
    "big-hash": lambda source: fill_big_hash(source, b"big", 5_000_000),
    "databases": _databases,
}


def main() -> None:
    """Parses arguments, runs, prints."""
    parser = parser_of("tests.benchmarks", __doc__)
    parser.add_argument("datasets", nargs="*", help=f"of {', '.join(DATASETS)}; all when none is named")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--io-threads", type=int, default=1, help="of the target; needs Valkey 8 or Redis 6 and later")
    parser.add_argument(
        "--own-core", action="store_true", help="for the target: what its users wait for, wherever portd is"
    )
    parser.add_argument(
        "--one-by-one", action="store_true", help="also --pipe with one element a command, as rdbtools writes"
    )
    parser.add_argument("--portd-option", action="append", default=[], help="handed to portd sync, may be repeated")
    arguments = parser.parse_args()
    if arguments.own_core:
        leave_a_core()
    results = {}
    for name in arguments.datasets or DATASETS:
        results[name] = measure(name, arguments)
        if arguments.json:  # after each: it takes long
            arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All contenders on one dataset; prints a table, returns the figures."""
    binary = binary_of(arguments.server)
    runs: dict[str, list[Run]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as directory, Server(binary, repl_backlog_size="64mb") as source:
        DATASETS[name](source)
        commands, singly = Path(directory) / "commands.resp", Path(directory) / "singly.resp"
        write_element_commands(source, commands)
        contenders: dict[str, Callable[[Server], Run]] = {
            "portd": lambda target: by_portd(source, target, *arguments.portd_option),
            "pipe": lambda target: by_pipe(commands, target),
            "replicaof": lambda target: by_replicaof(source, target),
        }
        if arguments.one_by_one:
            write_element_commands(source, singly, elements=1)
            contenders["pipe, one by one"] = lambda target: by_pipe(singly, target)
        for _ in range(arguments.rounds):
            for contender, copy in contenders.items():
                with Server(binary, io_threads=arguments.io_threads) as target:
                    if arguments.own_core:
                        give_own_core(target)
                    runs[contender].append(copy(target))
                    _check(source, target)
    core = ", a core for the target" if arguments.own_core else ""
    threads = f", target with {arguments.io_threads} io-threads" if arguments.io_threads > 1 else ""
    show(f"{name}, {binary.name}{threads}{core}", runs)
    return {contender: [run.as_dict() for run in listed] for contender, listed in runs.items()}


def _check(source: Server, target: Server) -> None:
    """A copy that lost something is not a result."""

    def keys(server: Server) -> int:
        client = server.client()
        held = sum(int(db["keys"]) for db in client.info("keyspace").values())
        return held - len(client.keys("portd:checkpoint:*"))

    if keys(source) != keys(target):
        raise SystemExit(f"the target has {keys(target)} keys, the source {keys(source)}")


def show(name: str, runs: dict[str, list[Run]]) -> None:
    """One row a contender, ratios against it beside portd's row."""
    table = Table(title=f"{name}, median of {len(runs['portd'])} rounds")
    for column in (
        "",
        "wall s",
        "own CPU s",
        "peak MiB",
        "target CPU s",
        "PING p99 ms",
        "worst ms",
        "block (own) ms",
        "portd ÷ this",
    ):
        table.add_column(column, justify="right" if column else "left")
    for contender, listed in runs.items():
        ratios = [ours.wall / theirs.wall for ours, theirs in zip(runs["portd"], listed, strict=True)]
        table.add_row(
            contender,
            f"{statistics.median(run.wall for run in listed):.2f}",
            f"{statistics.median(run.cpu for run in listed):.2f}",
            f"{max(run.rss for run in listed) / MIB:.0f}",
            f"{statistics.median(run.target_cpu for run in listed):.2f}",
            f"{statistics.median(run.ping_p99 for run in listed) * 1000:.1f}",
            f"{max(run.ping_worst for run in listed) * 1000:.1f}",
            _blocks(listed),
            f"{statistics.median(ratios):.2f}",
        )
    Console().print(table)


def _blocks(runs: list[Run]) -> str:
    """The longest time the event loop was held, and the most of it that was computing."""
    longest, own = (max(getattr(run, name) for run in runs) * 1000 for name in ("block", "own_block"))
    return f"{longest:.1f} ({own:.1f})" if longest else ""


if __name__ == "__main__":
    main()
