"""``python -m tests.benchmarks.rules``: what rules cost in a full sync.

The same keys, once as they are and once under twenty prefixes to take, one to leave out and one to rename, in turn; the time is that
from the beginning of the snapshot to the last answer, as portd has measured it. All keys are taken, so that the target has the
same to do.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tests.benchmarks.command import binary_of, keep, parser_of
from tests.process import Portd
from tests.servers import Server
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.servers import Binary

PREFIXES = 20
BLOCK = 10_000
PATIENCE_SECONDS = 600.0
SECONDS = re.compile(r'event="snapshot applied".* seconds=([0-9.]+)')


@dataclass(frozen=True, slots=True)
class Figures:
    """One kind of run: keys a second, and that as a share of the speed without rules."""

    per_second: float
    share: float


def main() -> None:
    """Runs them, prints a table."""
    parser = parser_of("tests.benchmarks.rules", __doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    binary = binary_of(arguments.server)
    rules: dict[str, object] = {
        "include": [f"prefix{number}:" for number in range(PREFIXES)],
        "exclude": "prefix1:left-out",
        "rename_prefix": "prefix7:=another:",
    }
    plain: list[float] = []
    ruled: list[float] = []
    with Server(binary) as source:
        fill(source, arguments.keys)
        for _ in range(arguments.rounds):
            plain.append(copied(source, binary, {}))
            ruled.append(copied(source, binary, rules))
    share = statistics.median(one / other for one, other in zip(plain, ruled, strict=True))
    found = {
        "without rules": Figures(arguments.keys / statistics.median(plain), 1.0),
        "twenty prefixes and a rename": Figures(arguments.keys / statistics.median(ruled), share),
    }
    table = Table(title=f"{arguments.keys:,} strings of 32 bytes")
    for column in ("", "keys/s", "share"):
        table.add_column(column, justify="right" if column else "left")
    for name, figures in found.items():
        table.add_row(name, f"{figures.per_second:,.0f}", f"{figures.share:.2f}")
    Console().print(table)
    keep(arguments.json, {name: asdict(figures) for name, figures in found.items()})


def fill(source: Server, keys: int) -> None:
    """Strings under all prefixes."""
    with Wire(source) as wire:
        for start in range(0, keys, BLOCK):
            numbers = range(start, min(start + BLOCK, keys))
            wire.many([("SET", b"prefix%d:%d" % (number % PREFIXES, number), b"%032d" % number) for number in numbers])


def copied(source: Server, binary: Binary | None, rules: dict[str, object]) -> float:
    """Seconds that the snapshot took."""
    with Server(binary) as target, Portd(source, target, stop_after="snapshot", log_format="logfmt", **rules) as portd:
        if portd.wait(PATIENCE_SECONDS):
            raise SystemExit(portd.log())
        found = SECONDS.search(portd.log())
    if found is None:
        raise SystemExit("portd did not say how long it took")
    return float(found[1])


if __name__ == "__main__":
    main()
