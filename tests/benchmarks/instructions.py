"""``python -m tests.benchmarks.instructions``: what the kernel costs, in instructions: a figure that no other load moves.

Each job runs under ``valgrind --tool=callgrind`` with one pass over its data and with three; half the difference is one
pass, without the interpreter's start. The data is made from a formula, so that the figures compare across machines of
one architecture and across releases. ``--check`` fails when a job is more than a tenth above the baseline (unless another
compiler made that: then nothing can be said);
``--record NAME`` writes the baseline and adds a row to docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from portd.kernel.crc64 import crc64
from tests.oracle.model import Entry, HashValue, ListValue, SetValue, Snapshot, Value, ZsetValue
from tests.oracle.rdbwrite import encode
from tests.wire import pack

BASELINE = Path(__file__).with_name("instructions.json")
PAGE = Path(__file__).parents[2] / "docs/performance.md"
MARK = "<!-- instructions: rows are added by `python -m tests.benchmarks.instructions --record NAME` -->"
TOLERANCE = 1.10
KEYS = 20_000
FIELDS = 50_000
COLLECTED = re.compile(r"Collected : (\d+)")
STRING, HASH, HASH_LISTPACK, LIST, SET, SET_LISTPACK, ZSET, ZSET_LISTPACK = 0, 4, 16, 18, 2, 20, 5, 17  # rdb.h


def _hexadecimal(number: int, size: int) -> bytes:
    """Text that LZF cannot shorten."""
    state, text = number * 2 + 1, b""
    while len(text) < size:
        state = (state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        text += b"%016x" % state
    return text[:size]


def _snapshot(entries: list[Entry]) -> bytes:
    data = encode(Snapshot(valkey=True, version=80, entries=entries), lzf=False, crc=0)
    return data[:-8] + crc64(data[:-8]).to_bytes(8, "little")


def _strings() -> tuple[bytes, int]:
    entries = [Entry(0, b"key:%010d" % n, STRING, _hexadecimal(n, 32)) for n in range(KEYS)]
    return _snapshot(entries), KEYS


def _collection(number: int, size: int) -> tuple[int, Value]:
    elements = [_hexadecimal(number * 1000 + n, 4 + n % 20) + b"%d" % n for n in range(size)]
    small = size < 100
    match number % 4:
        case 0:
            fields = {b"field:%d" % n: each for n, each in enumerate(elements)}
            return HASH_LISTPACK if small else HASH, HashValue(fields)
        case 1:
            return LIST, ListValue(elements)
        case 2:
            return SET_LISTPACK if small else SET, SetValue(set(elements))
        case _:
            return ZSET_LISTPACK if small else ZSET, ZsetValue({each: n * 1.25 for n, each in enumerate(elements)})


def _mixed_entries() -> tuple[list[Entry], int]:
    entries, elements = [], 0
    for number in range(KEYS):
        expire = 4_000_000_000_000 + number if number % 5 == 0 else None
        if number % 9 < 5:
            value: Value = _hexadecimal(number, 8 + number % 56)
            kind, size = STRING, 1
        else:
            size = 200 if number % 225 == 5 else 1 + number % 12
            kind, value = _collection(number // 9, size)
        elements += size
        entries.append(Entry(number % 4, b"mixed:%d" % number, kind, value, expire))
    entries.sort(key=lambda entry: entry.db)
    return entries, elements


def _mixed() -> tuple[bytes, int]:
    entries, _ = _mixed_entries()
    return _snapshot(entries), len(entries)


def _elements() -> tuple[bytes, int]:
    entries, elements = _mixed_entries()
    return _snapshot(entries), elements


def _big_hash() -> tuple[bytes, int]:
    value = HashValue({b"f%010d" % n: _hexadecimal(n, 32) for n in range(FIELDS)})
    return _snapshot([Entry(0, b"big", HASH, value)]), FIELDS


def _stream() -> tuple[bytes, int]:
    commands = [pack("SELECT", 0)]
    for number in range(KEYS):
        key = b"key:%08d" % number
        kinds = (
            pack("SET", key, _hexadecimal(number, 32)),
            pack("HSET", key, "field", number),
            pack("INCR", key),
            pack("SET", key, "x", "PXAT", 4_000_000_000_000),
            pack("PEXPIREAT", key, 4_000_000_000_000),
            pack("RPUSH", key, "a", "b", "c"),
        )
        commands.append(kinds[number % len(kinds)])
    return b"".join(commands), len(commands)


def _replies() -> tuple[bytes, int]:
    once = b"+OK\r\n" * 8 + b"+QUEUED\r\n" * 20 + b"*20\r\n" + b"+OK\r\n" * 8 + b":1\r\n" * 8 + b"$4\r\nabcd\r\n" * 4
    return once * 1000, 49_000  # of them 20 in an array


JOBS = {
    "strings": ("a key", _strings),
    "mixed": ("a key", _mixed),
    "elements": ("an element", _elements),
    "big-hash": ("a field", _big_hash),
    "stream": ("a command", _stream),
    "replies": ("a reply", _replies),
}


def main() -> int:
    """Counts, prints, compares."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.instructions", description=__doc__)
    parser.add_argument("jobs", nargs="*", help=f"of {', '.join(JOBS)}; all when none is named")
    parser.add_argument("--check", action="store_true", help="fail when a job is more than 10 % above the baseline")
    parser.add_argument("--record", metavar="NAME", help="make this the baseline, under the name of a release")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("skipped: there is no valgrind on the PATH (Debian: apt-get install valgrind)")
        return 0
    jobs = arguments.jobs or list(JOBS)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # counts do not change with what runs beside
        found = dict(zip(jobs, pool.map(measure, jobs), strict=True))
    baseline: dict[str, Any] = (
        json.loads(BASELINE.read_text()) if BASELINE.exists() else {"jobs": {}, "compiler": compiler()}
    )
    worse = show(found, baseline["jobs"])
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    if arguments.record:
        record(arguments.record, found)
    if arguments.check and baseline["compiler"] != compiler():
        print(f"not compared: the baseline is of {baseline['compiler']}, this is {compiler()}")
    elif arguments.check and worse:
        print(f"more than 10 % above the baseline: {', '.join(worse)}", file=sys.stderr)
        return 1
    return 0


def compiler() -> str:
    """The compiler that kernels are built with here, its machine, and what the kernel asks of the processor (crc64.h)."""
    words = [[shutil.which("cc") or "gcc", word] for word in ("-dumpfullversion", "-dumpmachine")]
    said = [subprocess.run(each, capture_output=True, text=True, check=False).stdout.strip() for each in words]
    folds = " pclmulqdq " in Path("/proc/cpuinfo").read_text()
    return " ".join([*said, *(["pclmulqdq"] if folds else [])])


def measure(job: str) -> float:
    """Instructions for one unit."""
    data, units = JOBS[job][1]()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "data"
        path.write_bytes(data)
        once, thrice = (_instructions(job, path, times) for times in (1, 3))
    return round((thrice - once) / 2 / units, 1)


def _instructions(job: str, path: Path, times: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    command += ["-m", "tests.benchmarks.kernel_work", job, str(path), str(times)]
    environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    counted = COLLECTED.search(done.stderr)
    if done.returncode or counted is None:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-2000:]}")
    return int(counted[1])


def show(found: dict[str, float], before: dict[str, float]) -> list[str]:
    """Prints the table; the jobs that are worse than they may be."""
    table = Table(title="instructions of the kernel")
    for column in ("", "for", "instructions", "baseline", "change"):
        table.add_column(column, justify="left" if column in ("", "for") else "right")
    for job, figure in found.items():
        was = before.get(job)
        change = f"{(figure / was - 1) * 100:+.1f} %" if was else ""
        table.add_row(job, JOBS[job][0], f"{figure:.1f}", f"{was:.1f}" if was else "", change)
    Console().print(table)
    return [job for job, figure in found.items() if job in before and figure > before[job] * TOLERANCE]


def record(name: str, found: dict[str, float]) -> None:
    """Makes *found* the baseline, and a row of the page; a row of the same name is replaced."""
    if set(found) != set(JOBS):
        raise SystemExit("a baseline needs all jobs")
    BASELINE.write_text(json.dumps({"release": name, "compiler": compiler(), "jobs": found}, indent=2) + "\n")
    row = f"| {name} | " + " | ".join(f"{found[job]:.0f}" for job in JOBS) + " |"
    lines = [line for line in PAGE.read_text(encoding="utf-8").split("\n") if not line.startswith(f"| {name} | ")]
    if MARK not in lines:
        raise SystemExit(f"{PAGE} has no line {MARK}")
    at = lines.index(MARK)
    lines.insert(at, row)
    PAGE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
