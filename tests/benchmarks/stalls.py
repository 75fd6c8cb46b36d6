"""``python -m tests.benchmarks.stalls``: what a sync makes the target's other clients wait for.

The target notes every command above a threshold (SLOWLOG, LATENCY) while portd copies data of every shape and size,
with live writes going on, and then a burst of the stream. Commands are told apart by the name of the connection. A PING
probe runs meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tests import datasets
from tests.benchmarks.command import binary_of, parser_of
from tests.benchmarks.contenders import ping_probe
from tests.process import Portd
from tests.servers import Server
from tests.traffic import LiveTraffic
from tests.wire import Wire, pack

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

MIDDLE = 16_000  # elements of collections that are just small enough to go whole
SLOWLOG_KEPT = 10_000
HEAVY_EVERY = 50  # commands of the burst; the heavy one takes about half a millisecond
HEAVY_MEMBERS = 1000


@dataclass(slots=True)
class Slow:
    """A command of portd's that the target found slow.

    Attributes:
        command: its name and its second word, where that is a key.
        connection: as portd named it.
        times: how often.
        worst: of them, seconds.
    """

    command: str
    connection: str
    times: int = 0
    worst: float = 0.0


def main() -> None:
    """Fills a source, copies it with traffic going on, prints what was slow."""
    parser = parser_of("tests.benchmarks.stalls", __doc__)
    parser.add_argument("--threshold", type=float, default=10.0, help="milliseconds from which a command is slow")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the data, 1 for a million elements each")
    parser.add_argument("--portd-option", action="append", default=[], help="name=value of portd sync, may be repeated")
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments))
    show(found, arguments.threshold)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2, default=asdict) + "\n")


def fill(source: Server, scale: float) -> None:
    """Every shape: mixed keys, big keys of each type, and collections that are just below the size of big ones."""
    many = int(1_000_000 * scale)
    datasets.fill_mixed(source, many // 4)
    datasets.fill_strings(source, many // 4)
    datasets.fill_big_hash(source, b"big:hash", many)
    datasets.fill_big_zset(source, b"big:zset", many)
    datasets.fill_big_set(source, b"big:set", many)
    datasets.fill_big_list(source, b"big:list", many)
    datasets.fill_big_stream(source, b"big:stream", many // 5)
    datasets.fill_big_string(source, b"big:string", 30 * many)
    datasets.fill_big_string(source, b"big:packed", 30 * many, packable=True)
    for number in range(2):
        datasets.fill_big_zset(source, b"burst:zset:%d" % number, HEAVY_MEMBERS)
    for number in range(int(20 * scale)):
        datasets.fill_big_hash(source, b"middle:hash:%d" % number, MIDDLE, 16)
        datasets.fill_big_zset(source, b"middle:zset:%d" % number, MIDDLE, 16)
        datasets.fill_big_set(source, b"middle:set:%d" % number, MIDDLE, 16)
        datasets.fill_big_list(source, b"middle:list:%d" % number, MIDDLE, 16)
        datasets.fill_big_stream(source, b"middle:stream:%d" % number, MIDDLE)


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of snapshot and stream."""
    binary = binary_of(arguments.server)
    options = dict(option.split("=", 1) for option in arguments.portd_option)
    micros = int(arguments.threshold * 1000)
    with Server(binary, repl_backlog_size="256mb") as source, Server(binary) as target:
        fill(source, arguments.scale)
        client = target.client()
        client.config_set("slowlog-max-len", SLOWLOG_KEPT)
        client.config_set("slowlog-log-slower-than", micros)
        client.config_set("latency-monitor-threshold", max(1, micros // 1000))
        found: dict[str, Any] = {}
        with Portd(source, target, log_level="warning", **options) as portd:
            async with LiveTraffic(source, rate=2000):
                with ping_probe(target) as latencies:
                    await asyncio.to_thread(portd.until, lambda status: status["phase"] == "streaming", 600)
                found["snapshot"] = _read(target, latencies)
            with ping_probe(target) as latencies:
                await asyncio.to_thread(_burst, source, int(500_000 * arguments.scale))
                await asyncio.to_thread(portd.until_applied, source)
            found["stream"] = _read(target, latencies)
    return found


def _burst(source: Server, commands: int) -> None:
    """As fast as it goes, small commands and now and then such as take a while by themselves."""

    def parts() -> Iterator[tuple[bytes, int]]:
        for number in range(commands):
            if number % HEAVY_EVERY == 0:
                yield pack("ZUNIONSTORE", "union", 2, "burst:zset:0", "burst:zset:1"), 1
            yield pack("SET", f"key:{number % 100_000:08d}", b"x" * 32), 1

    with Wire(source) as wire:
        wire.load(parts())


def _read(target: Server, latencies: list[float]) -> dict[str, Any]:
    """What the target noted since the last time."""
    slow: dict[tuple[str, str], Slow] = {}
    events: dict[str, list[int]] = defaultdict(list)
    with Wire(target) as wire:
        for entry in wire.call("SLOWLOG", "GET", SLOWLOG_KEPT):
            _, _, micros, words, *client = entry
            name = client[1].decode() if len(client) > 1 else ""
            if not name.startswith("portd"):
                continue
            shown = " ".join(word.decode(errors="replace")[:24] for word in words[:2])
            each = slow.setdefault((shown, name), Slow(shown, name))
            each.times += 1
            each.worst = max(each.worst, micros / 1e6)
        for event, _, _, worst, *_ in wire.call("LATENCY", "LATEST"):
            events[event.decode()] = [worst, len(wire.call("LATENCY", "HISTORY", event))]
        wire.call("SLOWLOG", "RESET")
        wire.call("LATENCY", "RESET")
    latencies.sort()
    at = {f"p{share * 100:g}": latencies[int(len(latencies) * share)] for share in (0.5, 0.99, 0.999) if latencies}
    return {
        "ping": {**at, "worst": latencies[-1] if latencies else 0.0, "probes": len(latencies)},
        "slow": sorted(slow.values(), key=lambda each: each.worst, reverse=True),
        "latency_events": dict(events),
    }


def show(found: dict[str, Any], threshold: float) -> None:
    """Tables for people."""
    for phase, figures in found.items():
        ping = ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in figures["ping"].items() if name != "probes")
        table = Table(title=f"{phase}: PING {ping}; commands of portd above {threshold:g} ms")
        for column in ("command", "connection", "times", "worst ms"):
            table.add_column(column)
        for each in figures["slow"][:30]:
            table.add_row(each.command, each.connection, str(each.times), f"{each.worst * 1000:.1f}")
        Console().print(table)
        for event, (worst, times) in figures["latency_events"].items():
            print(f"LATENCY {event}: worst {worst} ms, {times} seconds with one")


if __name__ == "__main__":
    main()
