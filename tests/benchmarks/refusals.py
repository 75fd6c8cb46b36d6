"""``python -m tests.benchmarks.refusals``: what a sync costs in which the target refuses every tenth command or key.

The target stands still until the whole stream is written, and then takes it as fast as it can: without a refusal,
with commands that fail when they run (WRONGTYPE), with commands that are not even queued (NOPERM), and the same inside of
one transaction that is larger than a group. A snapshot in which every tenth key may not be written comes last. Beside the
speed stands how long the event loop was held at the most, as portd itself has measured it.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from portd.kernel.replies import MAX_ELEMENT_NOTES
from tests.benchmarks.command import binary_of, keep, parser_of
from tests.benchmarks.load import cpu_seconds
from tests.process import Portd
from tests.servers import Server
from tests.wire import Wire, pack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Binary

KINDS = ("none", "when run", "when queued")
EVERY = 10
KEYS = 1000  # of commands that are refused, and as many of the others
BLOCK = 500  # commands of one block
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One run.

    Attributes:
        per_second: commands, or keys, from the moment the target takes them until the last one has arrived.
        share: of the speed of the same without refusals.
        cpu: seconds that portd spent.
        held: seconds that the loop was held at the most.
        held_own: the same as CPU time of the loop's thread, which a busy machine does not lengthen.
        letters: dead letters.
        sent: replies for each of them: more than one says that they were sent several times.
    """

    per_second: float
    share: float
    cpu: float
    held: float
    held_own: float
    letters: int
    sent: float


def main() -> None:
    """Runs all of them, prints a table."""
    parser = parser_of("tests.benchmarks.refusals", __doc__)
    parser.add_argument("--commands", type=int, default=500_000)
    parser.add_argument("--keys", type=int, default=500_000, help="of the snapshot")
    arguments = parser.parse_args()
    binary = binary_of(arguments.server)
    results: dict[str, Figures] = {}
    for one in (False, True):
        plain = 0.0
        for kind in KINDS:
            name = f"stream{', one transaction' if one else ''}: {kind}"
            results[name] = stream(binary, arguments.commands, kind, one_transaction=one, plain=plain)
            plain = plain or results[name].per_second
    results["snapshot: none"] = snapshot(binary, arguments.keys, refused=False, plain=0.0)
    plain = results["snapshot: none"].per_second
    results["snapshot: keys"] = snapshot(binary, arguments.keys, refused=True, plain=plain)
    show(results)
    keep(arguments.json, {name: asdict(each) for name, each in results.items()})


def show(results: dict[str, Figures]) -> None:
    """Prints a table."""
    table = Table(title=f"every {EVERY}th command or key refused")
    for column in ("", "/s", "of plain", "CPU s", "loop held ms", "own ms", "letters", "sent"):
        table.add_column(column, justify="right" if column else "left")
    for name, each in results.items():
        held = (f"{each.held * 1000:.1f}", f"{each.held_own * 1000:.1f}")
        counts = (f"{each.letters:,}", f"{each.sent:.2f}")
        table.add_row(name, f"{each.per_second:,.0f}", f"{each.share:.0%}", f"{each.cpu:.2f}", *held, *counts)
    Console().print(table)


def stream(binary: Binary, commands: int, kind: str, *, one_transaction: bool, plain: float) -> Figures:
    """A stream that is written while the target stands still, and is then applied."""
    with Server(binary, repl_backlog_size="1gb") as source, Server(binary) as target:
        with Wire(source) as wire:
            wire.load([(b"".join(pack("RPUSH", f"list:{number}", "x") for number in range(KEYS)), KEYS)])
        letters = source.directory / "letters.jsonl"
        with Portd(source, target, log_level="warning", dead_letters=letters) as portd:
            portd.until(lambda status: status["phase"] == "streaming")
            with Wire(target) as wire:
                refuse(wire, kind)
            assert target.pid is not None
            os.kill(target.pid, signal.SIGSTOP)
            with Wire(source, timeout=PATIENCE_SECONDS) as wire:
                wire.load(blocks(commands, one_transaction=one_transaction))
                end = int(wire.call("INFO", "replication").split(b"master_repl_offset:")[1].split()[0])
            refused = (
                min(commands // EVERY, MAX_ELEMENT_NOTES if one_transaction else commands) if kind != "none" else 0
            )
            race = Race(portd, letters, commands, refused, cpu_seconds(portd.process.pid), time.perf_counter())
            os.kill(target.pid, signal.SIGCONT)
            return race.until(end, plain)


def refuse(wire: Wire, kind: str) -> None:
    """Lets the target refuse what goes to the lists, in one way or the other."""
    if kind == "when run":
        for number in range(KEYS):
            wire.call("SET", f"list:{number}", "no list any more")
    elif kind == "when queued":
        wire.call("ACL", "SETUSER", "default", "-rpush")


def blocks(commands: int, *, one_transaction: bool) -> Iterator[tuple[bytes, int]]:
    """Commands of which every tenth goes to a list, for `Wire.load`; each block is made once."""
    made: list[bytes] = []
    for first in range(0, KEYS, BLOCK // EVERY):
        parts = []
        for number in range(BLOCK):
            if number % EVERY == EVERY - 1:
                parts.append(pack("RPUSH", f"list:{first + number // EVERY}", "x"))
            else:
                parts.append(pack("SET", f"key:{(first * EVERY + number) % KEYS:08d}", "v" * 32))
        made.append(b"".join(parts))
    if one_transaction:
        yield pack("MULTI"), 1
    for number in range(commands // BLOCK):
        yield made[number % len(made)], BLOCK
    if one_transaction:
        yield pack("EXEC"), 1


def snapshot(binary: Binary, keys: int, *, refused: bool, plain: float) -> Figures:
    """A snapshot, of whose keys every tenth may not be written."""
    with Server(binary) as source, Server(binary) as target:
        with Wire(source) as wire:
            for first in range(0, keys, BLOCK):
                wire.load([(b"".join(_key(number) for number in range(first, first + BLOCK)), BLOCK)])
        if refused:
            with Wire(target) as wire:
                wire.call("ACL", "SETUSER", "default", "resetkeys", "~ok:*", "~portd:*")
        letters = source.directory / "letters.jsonl"
        started = time.perf_counter()
        with Portd(source, target, log_level="warning", dead_letters=letters) as portd:
            return Race(portd, letters, keys, keys // EVERY if refused else 0, 0.0, started).until(1, plain)


def _key(number: int) -> bytes:
    name = f"{'no' if number % EVERY == EVERY - 1 else 'ok'}:{number:08d}"
    return pack("SADD", name, "a", "b", "c") if number % 2 else pack("SET", name, "v" * 32)


@dataclass(slots=True)
class Race:
    """What is measured from a moment on.

    Attributes:
        portd: that is looked at.
        letters: its file.
        count: commands or keys.
        refused: how many of them are, and are told.
        cpu: seconds it had spent then.
        started: seconds of `time.perf_counter`.
    """

    portd: Portd
    letters: Path
    count: int
    refused: int
    cpu: float
    started: float

    def until(self, end: int, plain: float) -> Figures:
        """Waits until the offset *end* is applied; *plain* is the speed of the same without refusals, 0 if this is it."""
        self.portd.until(lambda status: status["stream"]["checkpointed_offset"] >= end, PATIENCE_SECONDS)
        per_second = self.count / (time.perf_counter() - self.started)
        status = self.portd.until(lambda status: sum(status["dead_letters"].values()) >= self.refused, PATIENCE_SECONDS)
        return Figures(
            per_second=per_second,
            share=per_second / plain if plain else 1.0,
            cpu=cpu_seconds(self.portd.process.pid) - self.cpu,
            held=status["loop"]["longest_seconds"],
            held_own=status["loop"]["longest_own_seconds"],
            letters=self.letters.read_bytes().count(b"\n"),
            sent=sum(lane["replies"] for lane in status["target"]["lanes"]) / self.count,
        )


if __name__ == "__main__":
    main()
