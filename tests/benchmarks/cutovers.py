"""``python -m tests.benchmarks.cutovers``: for how long writes stand still when an end, or both, are clusters of three.

Clients write at every primary of the source all the while, and are refused when it is over. Told is what `portd cutover` reports:
the standstill and its parts.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from portd.kernel.slots import key_slot
from tests.benchmarks.command import binary_of, keep, parser_of
from tests.clusters import SLOTS, Cluster
from tests.cutovers import USER, ClusterWriters, Writers, cut_over
from tests.process import Portd
from tests.servers import Server
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.servers import Binary

KINDS = {"1 -> 1": (False, False), "1 -> 3": (False, True), "3 -> 1": (True, False), "3 -> 3": (True, True)}
VALUE = b"v" * 32


def main() -> None:
    """Parses arguments, runs, prints."""
    parser = parser_of("tests.benchmarks.cutovers", __doc__)
    parser.add_argument("--keys", type=int, default=300_000, help="strings of 32 bytes, over all shards")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    binary = binary_of(arguments.server)
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for _ in range(arguments.rounds):
        for kind, rounds in found.items():
            rounds.append(measure(binary, arguments.keys, *KINDS[kind]))
    show(found, arguments.keys)
    keep(arguments.json, found)


def measure(binary: Binary, keys: int, from_cluster: bool, into_cluster: bool) -> dict[str, Any]:  # noqa: FBT001
    """One cut-over; its report."""
    with ExitStack() as stack:
        source, target = (
            _end(stack, binary, clustered=from_cluster),
            _end(stack, binary, clustered=into_cluster),
        )
        nodes = source.owners() if isinstance(source, Cluster) else {source: [(0, SLOTS - 1)]}
        names = [b"key:%09d" % number for number in range(keys)]
        slots = [key_slot(name) for name in names]
        for node, ranges in nodes.items():
            with Wire(node) as wire:
                wire.load_commands(
                    ("SET", name, VALUE)
                    for name, slot in zip(names, slots, strict=True)
                    if any(first <= slot <= last for first, last in ranges)
                )
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="portd-test-")))
        path = directory / "socket"
        portd = stack.enter_context(Portd(source.url, target.url, control_socket=path, spool_dir=directory))
        portd.until(lambda status: all(each["phase"] == "streaming" for each in status.get("links", [status])))
        writers: Writers | ClusterWriters = (
            ClusterWriters(source, expiring=False)
            if isinstance(source, Cluster)
            else Writers(source, 6, expiring=False)
        )
        stack.enter_context(writers)
        writers.moved(100)
        report = cut_over(source.url, target.url, path, fence_user=USER, keep_paused=0)
        portd.wait()
        writers.end()
        return report


def _end(stack: ExitStack, binary: Binary, *, clustered: bool) -> Server | Cluster:
    """An empty one."""
    if clustered:
        return stack.enter_context(Cluster(binary))
    return stack.enter_context(Server(binary))


def show(found: dict[str, list[dict[str, Any]]], keys: int) -> None:
    """A table of medians."""
    parts = ("stop", "drain", "expiries", "compare", "end")
    table = Table(title=f"{keys:,} keys, milliseconds, medians")
    for column in ("ends", "standstill", "largest", *parts, "read again", "at the end"):
        table.add_column(column, justify="right")
    for kind, rounds in found.items():
        whole = [each["standstill_seconds"] * 1000 for each in rounds]
        table.add_row(
            kind,
            f"{statistics.median(whole):.0f}",
            f"{max(whole):.0f}",
            *(f"{statistics.median(each['seconds'][part] * 1000 for each in rounds):.0f}" for part in parts),
            f"{statistics.median(each['proof']['changed'] for each in rounds):.0f}",
            f"{statistics.median(each['proof']['last'] for each in rounds):.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
