"""``python -m tests.benchmarks.shards``: one process, more and more shards, the same keys and commands.

Source and target are pretended (`tests.pretend`): a hundred primaries each, in one other process, which is the limit; so CPU and
memory of portd tell something, and the wall does not. CPU of a key is without that of a start that copies next to nothing; CPU of
a command without what goes on at rest. Nothing goes to disk, which would only say how slow the other process is.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.table import Table

from tests.benchmarks.command import binary_of, keep, parser_of
from tests.pretend import BLOCK, Pretended, commands_of
from tests.process import Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    import argparse

SHARDS = (1, 2, 3, 6, 12, 100)
REST_SECONDS = 5.0
MIB = 1 << 20


@dataclass(slots=True)
class Figures:
    """Of one number of shards.

    Attributes:
        shards: of each end.
        start: own CPU seconds until next to nothing is copied and all links have caught up.
        key: own CPU seconds of each key beyond that.
        rest: own CPU seconds a second when nothing is to be done.
        command: own CPU seconds of each command of the stream.
        rate: commands a second.
        peak: resident bytes, the most.
        planned: what the log says of it at the start.
        questions: to the target, at a start, of each shard; without the records of slots, which are always as many.
    """

    shards: int
    start: float
    key: float
    rest: float
    command: float
    rate: float
    peak: int
    planned: int
    questions: float


def main() -> None:
    """Parses arguments, runs, prints."""
    parser = parser_of("tests.benchmarks.shards", __doc__)
    parser.add_argument("shards", nargs="*", type=int, default=SHARDS, help="of each end")
    parser.add_argument("--keys", type=int, default=2_000_000, help="strings of 32 bytes, over all shards")
    parser.add_argument("--commands", type=int, default=4_000_000, help="SETs of the stream, over all shards")
    arguments = parser.parse_args()
    commands = commands_of(binary_of(arguments.server))
    found = [measure(count, arguments, commands) for count in arguments.shards]
    show(found, arguments)
    keep(arguments.json, [asdict(each) for each in found])


def measure(count: int, arguments: argparse.Namespace, commands: bytes) -> Figures:
    """One number of shards."""
    with Pretended(count, count, count, commands) as both, Running(both, count) as portd:
        start, asked = portd.cpu(), questions(both.order("TELL"))
    with Pretended(count, count, arguments.keys, commands) as both, Running(both, count) as portd:
        copied = portd.cpu()
        time.sleep(REST_SECONDS)
        rest = (portd.cpu() - copied) / REST_SECONDS
        used, begun = portd.cpu(), time.perf_counter()
        each = arguments.commands // count // BLOCK * BLOCK
        wanted = both.order("GO", each)["sets"] + each * count
        wait_for_sync(lambda: portd.goes_on() and both.order("TELL")["sets"] >= wanted)
        seconds, used = time.perf_counter() - begun, portd.cpu() - used
        return Figures(
            shards=count,
            start=start,
            key=(copied - start) / both.keys,
            rest=rest,
            command=(used - rest * seconds) / (each * count),
            rate=each * count / seconds,
            peak=portd.peak(),
            planned=portd.planned(),
            questions=asked / count,
        )


def questions(told: dict[str, Any]) -> int:
    """Asked of the target in all, but for the records of slots: their number is always the same."""
    return sum(count for name, count in told["target"]["asked"].items() if name not in {"GET", "SET"})


class Running:
    """A portd between the two, from when every link has caught up; a context manager.

    Args:
        both: the clusters.
        links: that it will have.
    """

    def __init__(self, both: Pretended, links: int) -> None:
        self._links = links
        self._portd = Portd(*both.urls(), http="off", spool_dir="off", log_format="json")

    def __enter__(self) -> Self:
        self._portd.start()
        wait_for_sync(lambda: self.goes_on() and len(self._said("caught up")) >= self._links)
        return self

    def __exit__(self, *exc: object) -> None:
        self._portd.__exit__(*exc)

    def goes_on(self) -> bool:
        """True; one that has ended ends the benchmark."""
        if not self._portd.alive:
            raise SystemExit(f"portd ended\n{self._portd.log()}")
        return True

    def _said(self, event: str) -> list[dict[str, Any]]:
        lines = (
            json.loads(line) for line in self._portd.log().rpartition("\n")[0].splitlines() if line.startswith("{")
        )
        return [each for each in lines if each["event"] == event]

    def cpu(self) -> float:
        """Own seconds so far."""
        return cpu_of(self._portd.process.pid)

    def peak(self) -> int:
        """Resident bytes, the most so far."""
        return peak_of(self._portd.process.pid)

    def planned(self) -> int:
        """Resident bytes, as it says itself."""
        return int(self._said("memory plan")[0]["ceiling_bytes"])


def cpu_of(pid: int) -> float:
    """Own seconds of a process so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123 - no file of anybody
        facts = stat.read().rpartition(")")[2].split()
    return (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")


def peak_of(pid: int) -> int:
    """Most resident bytes that a process has had."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:  # noqa: PTH123 - no file of anybody
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def show(found: list[Figures], arguments: argparse.Namespace) -> None:
    """A row for each number of shards."""
    table = Table(title=f"{arguments.keys:,} strings, then {arguments.commands:,} SETs, pretended clusters")
    columns = ("shards", "start, CPU s", "a key, CPU µs", "at rest, CPU", "a command, CPU µs", "commands/s", "peak MiB", "planned MiB", "questions a shard")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="right")
    for each in found:
        table.add_row(
            str(each.shards), f"{each.start:.2f}", f"{each.key * 1e6:.2f}", f"{each.rest:.1%}", f"{each.command * 1e6:.2f}",
            f"{each.rate:,.0f}", f"{each.peak / MIB:.0f}", f"{each.planned / MIB:.0f}", f"{each.questions:.0f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
