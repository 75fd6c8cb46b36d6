"""``python -m tests.benchmarks.bound [case ...]``: the memory bound at full size, with default settings.

The same cases run in CI at reduced size (tests/integration/test_memory_bound.py). Each line is one case: the highest resident
set of portd (VmHWM), its CPU, and whether both ends hold the same (DEBUG DIGEST). Exit code 1 when a bound or a digest breaks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import datasets
from tests.process import Portd
from tests.proxy import Proxy
from tests.servers import Server, find
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MIB = 1 << 20
PROMISE_BYTES = 100_000_000
PATIENCE_SECONDS = 1800.0
ROOM: dict[str, Any] = {"proto_max_bulk_len": "4gb", "client_query_buffer_limit": "4gb", "list_max_listpack_size": -1}
WIDE: dict[str, Any] = {**ROOM, "client_output_buffer_limit": "replica 0 0 0"}
PACKED: dict[str, Any] = {
    f"{kind}_max_listpack_{what}": 1 << 30 for kind in ("hash", "zset") for what in ("entries", "value")
}

MANY: dict[str, Callable[[Server, int], None]] = {
    "hash": lambda source, members: datasets.fill_big_hash(source, b"big", members),
    "zset": lambda source, members: datasets.fill_big_zset(source, b"big", members),
    "set": lambda source, members: datasets.fill_big_set(source, b"big", members),
    "list": lambda source, members: datasets.fill_big_list(source, b"big", members),
    "stream": lambda source, members: datasets.fill_big_stream(source, b"big", members, pending=members // 100),
}


def element(size: int, *, packable: bool) -> bytes:
    """Bytes that LZF packs well, or not at all."""
    return b"\xa5" * size if packable else os.urandom(MIB) * (size // MIB)


def string(source: Server, *, packable: bool) -> None:
    """One string of 512 MB."""
    datasets.fill_big_string(source, b"big", 512 * MIB, packable=packable)


def field(source: Server, *, packable: bool) -> None:
    """One hash field of 400 MB between small ones."""
    with Wire(source) as wire:
        wire.call("HSET", "big", "a", "1", "huge", element(400 * MIB, packable=packable), "z", "2")


def node(source: Server, *, command: str, packable: bool) -> None:
    """A listpack, or a node of a quicklist, of 100 MB."""
    with Wire(source) as wire:
        for number in range(100):
            value = element(MIB, packable=packable) + b"%d" % number
            arguments: dict[str, tuple[bytes | str | int, ...]] = {
                "HSET": (f"f{number}", value),
                "ZADD": (number, value),
                "RPUSH": (value,),
            }
            wire.call(command, "big", *arguments[command])


ELEMENTS: dict[str, Callable[[Server], None]] = {
    "string of 512 MB": lambda source: string(source, packable=False),
    "string of 512 MB, LZF": lambda source: string(source, packable=True),
    "hash field of 400 MB": lambda source: field(source, packable=False),
    "hash field of 400 MB, LZF": lambda source: field(source, packable=True),
    "listpack of 100 MB": lambda source: node(source, command="HSET", packable=False),
    "listpack of 100 MB, LZF": lambda source: node(source, command="HSET", packable=True),
    "zset listpack of 100 MB": lambda source: node(source, command="ZADD", packable=False),
    "quicklist node of 100 MB": lambda source: node(source, command="RPUSH", packable=False),
}


def huge_set(wire: Wire) -> None:
    """A SET of 512 MB."""
    wire.call("SET", "big", element(512 * MIB, packable=False))


def huge_multi(wire: Wire) -> None:
    """A transaction of 300 MB."""
    value = element(MIB, packable=False)
    wire.many([("MULTI",), *[("SET", f"key:{n}", value) for n in range(300)], ("INCR", "sum"), ("EXEC",)])


STREAM: dict[str, Callable[[Wire], None]] = {"SET of 512 MB": huge_set, "MULTI of 300 MB": huge_multi}


class Bound:
    """Runs cases and prints a line for each.

    Args:
        server: name of the server for both ends.
        members: of a big key.
        report: receives a JSON line a case; None for none.
    """

    def __init__(self, server: str, members: int, report: Path | None) -> None:
        binary = find(server)
        if binary is None:
            raise SystemExit(f"no server {server} was found")
        self.broken = False
        self._binary = binary
        self._members = members
        self._report = report

    async def run(self, wanted: list[str]) -> None:
        """The cases whose names hold one of the words; all without words."""
        cases: dict[str, Callable[[str], Awaitable[None]]] = {f"{kind} of many": self._many for kind in MANY}
        cases |= dict.fromkeys(ELEMENTS, self._element) | dict.fromkeys(STREAM, self._stream)
        cases["target at 1 MB/s"] = self._slow_target
        cases["target that stands still for a minute"] = self._standing_target
        cases["50 MB/s of writes, source at its default limits"] = self._default_limits
        for name, case in cases.items():
            if not wanted or any(word in name for word in wanted):
                await case(name)

    # -- cases

    async def _many(self, name: str) -> None:
        with Server(self._binary) as source, Server(self._binary) as target:
            await asyncio.to_thread(datasets.fill_strings, source, self._members // 28)
            await asyncio.to_thread(MANY[name.partition(" ")[0]], source, self._members)
            await self._copy(name, source, target, members=self._members)

    async def _element(self, name: str) -> None:
        with Server(self._binary, **WIDE, **PACKED) as source, Server(self._binary, **WIDE) as target:
            await asyncio.to_thread(ELEMENTS[name], source)
            await self._copy(name, source, target)

    async def _copy(self, name: str, source: Server, target: Server, **figures: Any) -> None:
        with Portd(source, target) as portd:
            await asyncio.to_thread(portd.until, _streaming, PATIENCE_SECONDS)
            await self._judge(name, portd, source, target, **figures)

    async def _stream(self, name: str) -> None:
        with (
            Server(self._binary, **WIDE) as source,
            Server(self._binary, **WIDE) as target,
            Portd(source, target) as portd,
        ):
            await asyncio.to_thread(portd.until, _streaming)
            with Wire(source) as wire:
                await asyncio.to_thread(STREAM[name], wire)
            await asyncio.to_thread(_until_applied, portd, source)
            await self._judge(name, portd, source, target)

    async def _slow_target(self, name: str) -> None:
        with Server(self._binary, **WIDE) as source, Server(self._binary, **WIDE) as target:
            async with Proxy(target.port) as proxy:
                proxy.to_server.bytes_per_second = MIB // 4  # of each of four lanes
                await asyncio.to_thread(datasets.fill_strings, source, 120_000, 2000)
                with Portd(source, proxy.url) as portd:
                    await asyncio.to_thread(portd.until, lambda status: status["snapshot"]["keys_applied"] > 0)
                    await asyncio.sleep(60)
                    applied = portd.status()
                    proxy.to_server.flow()
                    await asyncio.to_thread(portd.until, _streaming, PATIENCE_SECONDS)
                    assert applied is not None
                    await self._judge(name, portd, source, target, keys_in_60_s=applied["snapshot"]["keys_applied"])

    async def _standing_target(self, name: str) -> None:
        with Server(self._binary) as source, Server(self._binary) as target:
            async with Proxy(target.port) as proxy:
                with Portd(source, proxy.url, silence_seconds=300) as portd:
                    await asyncio.to_thread(portd.until, _streaming)
                    proxy.to_server.stall()
                    writes = asyncio.create_task(asyncio.to_thread(datasets.fill_strings, source, 500_000, 2000))
                    await asyncio.sleep(60)
                    await writes
                    proxy.to_server.flow()
                    await asyncio.to_thread(_until_applied, portd, source)
                    await self._judge(name, portd, source, target, **_spool(portd))

    async def _default_limits(self, name: str) -> None:
        """``client-output-buffer-limit replica 256mb 64mb 60`` is what a server has when nobody sets it."""
        default: dict[str, Any] = {"client_output_buffer_limit": "replica 256mb 64mb 60"}
        with Server(self._binary, **default) as source, Server(self._binary) as target:
            async with Proxy(target.port) as proxy:
                with Portd(source, proxy.url) as portd:
                    await asyncio.to_thread(portd.until, _streaming)
                    proxy.to_server.bytes_per_second = 5 * MIB
                    began = time.monotonic()
                    written = await asyncio.to_thread(_write_at, source, 50 * MIB, 75.0)
                    seconds = time.monotonic() - began
                    proxy.to_server.flow()
                    await asyncio.to_thread(_until_applied, portd, source)
                    figures = {"written_mb_per_s": round(written / seconds / 1e6, 1), **_spool(portd)}
                    await self._judge(name, portd, source, target, **figures)

    # -- verdict

    async def _judge(self, name: str, portd: Portd, source: Server, target: Server, **figures: Any) -> None:
        status = portd.status()
        assert status is not None
        highest, cpu = _peak(portd), _cpu(portd)
        code = await asyncio.to_thread(portd.terminate)
        equal = await asyncio.to_thread(_same, source, target)
        connects = status["source"]["connects"]
        good = highest <= PROMISE_BYTES and equal and code == os.EX_OK and connects == 1
        self.broken |= not good
        extra = ", ".join(f"{key}={value}" for key, value in figures.items())
        print(
            f"{'ok ' if good else 'BAD'} {name}: peak {highest / MIB:.1f} MiB, CPU {cpu:.1f} s, "
            f"{'equal' if equal else 'DIFFERENT'}, links made {connects}, exit code {code}{', ' if extra else ''}{extra}",
            flush=True,
        )
        if self._report:
            line = {
                "case": name,
                "peak_bytes": highest,
                "cpu_seconds": cpu,
                "equal": equal,
                "links": connects,
                **figures,
            }
            with self._report.open("a") as file:
                file.write(json.dumps(line) + "\n")


def _streaming(status: dict[str, Any]) -> bool:
    return bool(status["phase"] == "streaming")


def _until_applied(portd: Portd, source: Server) -> None:
    end = int(source.client(socket_timeout=600.0).info("replication")["master_repl_offset"])
    portd.until(lambda status: status["stream"]["checkpointed_offset"] >= end, PATIENCE_SECONDS)


def _write_at(source: Server, bytes_per_second: int, seconds: float) -> int:
    """Writes SETs of 10 KB at a steady rate; bytes written."""
    value = element(MIB, packable=False)[:10_000]
    written, began = 0, time.monotonic()
    with Wire(source) as wire:
        while (passed := time.monotonic() - began) < seconds:
            if written > passed * bytes_per_second:
                time.sleep(0.005)
                continue
            wire.many([("SET", f"key:{(written // 10_000 + n) % 20_000}", value) for n in range(50)])
            written += 50 * 10_000
    return written


def _spool(portd: Portd) -> dict[str, int]:
    memory = json.loads(portd.get("debug/memory"))
    return {"spool_peak_mib": memory["pipeline"]["spool"]["peak_disk_bytes"] // MIB}


def _peak(portd: Portd) -> int:
    text = Path(f"/proc/{portd.process.pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


def _cpu(portd: Portd) -> float:
    fields = Path(f"/proc/{portd.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _same(source: Server, target: Server) -> bool:
    """Equal digests, once the checkpoint of the finished sync is out of the way."""
    keys = list(target.client(socket_timeout=600.0).scan_iter("portd:*", count=100_000))
    if keys:
        target.client(socket_timeout=600.0).delete(*keys)
    digests = set()
    for end in (source, target):
        with Wire(end, timeout=1800.0) as wire:
            digests.add(wire.call("DEBUG", "DIGEST"))
    return len(digests) == 1


def main() -> None:
    """Parses arguments and runs the cases."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bound", description=__doc__)
    parser.add_argument("cases", nargs="*", help="words of the names of cases; all without")
    parser.add_argument("--members", type=int, default=28_000_000, help="of a key of many elements")
    parser.add_argument("--server", default="valkey9.1", help="which of the servers found")
    parser.add_argument("--json", type=Path, help="file to add a line a case to")
    arguments = parser.parse_args()
    bound = Bound(arguments.server, arguments.members, arguments.json)
    asyncio.run(bound.run(arguments.cases))
    sys.exit(bound.broken)


if __name__ == "__main__":
    main()
