"""``python -m tests.benchmarks.growth``: full syncs of more and more keys: time and CPU grow with them, memory does not.

Small strings, 0.1 to 10 million, from a source that is filled by DEBUG POPULATE (where it has that; MSET otherwise) into a
real target. A line is fitted through the sizes; the worst distance from it and the growth of the peak are told, and
make the command fail when they are too large. ``python -m tests.benchmarks.picture --growth FILE`` draws the JSON.
"""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, Any

import redis
from rich.console import Console
from rich.table import Table

from tests.benchmarks.command import binary_of, keep, parser_of
from tests.benchmarks.contenders import Run, by_portd
from tests.datasets import fill_strings
from tests.servers import Server
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.servers import Binary

SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
VALUE_BYTES = 32
MIB = 1 << 20
OFF_LINE = 0.25  # of the figure that the line says
FLAT = 16 * MIB  # that the peak of the largest may be above that of the smallest that fills the buffers
FILLS_BUFFERS = 1_000_000


def main() -> int:
    """Runs all sizes, prints a table; fails when growth is not linear or memory not flat."""
    parser = parser_of("tests.benchmarks.growth", __doc__)
    parser.add_argument("sizes", nargs="*", type=float, help="millions of keys; 0.1 0.3 1 3 10 when none is named")
    parser.add_argument("--rounds", type=int, default=3, help="of each size; medians are shown")
    arguments = parser.parse_args()
    binary = binary_of(arguments.server)
    sizes = [round(size * 1_000_000) for size in arguments.sizes] or list(SIZES)
    points = [measure(binary, keys, arguments.rounds) for keys in sizes]
    found = {"points": points, "lines": {name: line(points, name) for name in ("wall", "cpu")}}
    complaints = judge(found)
    show(found)
    keep(arguments.json, found)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


def measure(binary: Binary, keys: int, rounds: int) -> dict[str, Any]:
    """Medians of one size."""
    with Server(binary, repl_backlog_size="64mb") as source:
        fill(source, keys)
        runs = [_run(source, binary, keys) for _ in range(rounds)]
    return {
        "keys": keys,
        "wall": statistics.median(run.wall for run in runs),
        "cpu": statistics.median(run.cpu for run in runs),
        "rss": max(run.rss for run in runs),
        "block": max(run.block for run in runs),
        "own_block": max(run.own_block for run in runs),
        "rounds": [run.as_dict() for run in runs],
    }


def _run(source: Server, binary: Binary, keys: int) -> Run:
    with Server(binary) as target:
        run = by_portd(source, target)
        held = target.client().dbsize() - len(target.client().keys("portd:checkpoint:*"))
        if held != keys:
            raise SystemExit(f"the target has {held} keys, the source {keys}")
        return run


def fill(server: Server, keys: int) -> None:
    """Small strings, as fast as the server can make them."""
    try:
        with Wire(server, timeout=600.0) as wire:
            wire.call("DEBUG", "POPULATE", keys, "key", VALUE_BYTES)
    except redis.ResponseError:
        fill_strings(server, keys, VALUE_BYTES)


def line(points: list[dict[str, Any]], name: str) -> dict[str, float]:
    """The line through the points with the least relative error: small sizes count as much as large ones.

    Returns:
        ``base`` in seconds, ``million`` in seconds for each million keys, ``off``: the worst distance of a point as a
        share of what the line says.
    """
    weighted = [(point["keys"] / 1e6, point[name], point[name] ** -2) for point in points]
    whole = sum(weight for _, _, weight in weighted)
    mean_x = sum(x * weight for x, _, weight in weighted) / whole
    mean_y = sum(y * weight for _, y, weight in weighted) / whole
    spread = sum(weight * (x - mean_x) ** 2 for x, _, weight in weighted)
    slope = sum(weight * (x - mean_x) * (y - mean_y) for x, y, weight in weighted) / spread if spread else 0.0
    base = mean_y - slope * mean_x
    off = max(abs(y / (base + slope * x) - 1) for x, y, _ in weighted)
    return {"base": base, "million": slope, "off": off}


def judge(found: dict[str, Any]) -> list[str]:
    """What is wrong with the growth."""
    complaints = [
        f"{name} is up to {fitted['off']:.0%} away from a line"
        for name, fitted in found["lines"].items()
        if fitted["off"] > OFF_LINE
    ]
    peaks = [point["rss"] for point in found["points"] if point["keys"] >= FILLS_BUFFERS]
    if peaks and max(peaks) - min(peaks) > FLAT:
        complaints.append(f"the peak grows by {(max(peaks) - min(peaks)) / MIB:.0f} MiB with the data")
    return complaints


def show(found: dict[str, Any]) -> None:
    """A row for each size, and the lines."""
    table = Table(title="growth, small strings")
    columns = (
        "million keys",
        "wall s",
        "line s",
        "own CPU s",
        "line s",
        "µs CPU/key",
        "peak MiB",
        "block ms",
        "own ms",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for point in found["points"]:
        millions = point["keys"] / 1e6
        said = {name: fitted["base"] + fitted["million"] * millions for name, fitted in found["lines"].items()}
        table.add_row(
            f"{millions:g}",
            f"{point['wall']:.2f}",
            f"{said['wall']:.2f}",
            f"{point['cpu']:.2f}",
            f"{said['cpu']:.2f}",
            f"{(point['cpu'] - found['lines']['cpu']['base']) / millions:.2f}",
            f"{point['rss'] / MIB:.0f}",
            f"{point['block'] * 1000:.1f}",
            f"{point['own_block'] * 1000:.1f}",
        )
    Console().print(table)
    for name, fitted in found["lines"].items():
        print(
            f"{name}: {fitted['base']:.2f} s + {fitted['million']:.3f} s for each million keys; "
            f"no point is more than {fitted['off']:.0%} off"
        )


if __name__ == "__main__":
    sys.exit(main())
