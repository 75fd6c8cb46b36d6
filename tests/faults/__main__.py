"""Faults of all kinds against a running portd, then both ends compared.

`python -m tests.faults --seconds N --seed S` strikes at random while the sync goes on; `--late N` delivers bytes late, N
times, see `tests.faults.late`; `--standby N` strikes alternating holders of a link, N times, see `tests.faults.standby`;
`--cluster N` strikes N times from cluster to cluster, see `tests.faults.clusters`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.faults.clusters import run_cluster_deck
from tests.faults.kinds import KINDS
from tests.faults.late import run_deck
from tests.faults.run import Run
from tests.faults.sampler import Sampler
from tests.faults.standby import Couple
from tests.faults.world import Failure, World
from tests.servers import Binary, binaries, find

LOG_LETTERS = 20_000  # of portd's log that are shown


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument("--faults", type=int, help="end after this many faults, even if there is time left")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of schedule and workload")
    parser.add_argument("--rate", type=float, default=800.0, help="commands per second (default 800)")
    parser.add_argument("--only", default="", help="only kinds whose name contains this")
    parser.add_argument("--skip", action="append", default=[], help="no kinds whose name contains this")
    parser.add_argument("--expiring", action="store_true", help="also keys that expire soon")
    parser.add_argument(
        "--expiry-gap", default="auto", help="the setting of portd, hold where the target has no import mode"
    )
    parser.add_argument("--source", default="", help="binary: " + ", ".join(each.name for each in binaries()))
    parser.add_argument("--target", default="", help="binary")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds without faults between two of them")
    parser.add_argument("--sample", type=Path, help="JSON lines file for memory and open files of portd")
    parser.add_argument("--late", type=int, metavar="N", help="the deck of late bytes instead: N strikes")
    parser.add_argument("--cluster", type=int, metavar="N", help="from cluster to cluster instead: N faults")
    parser.add_argument(
        "--moves",
        action="store_true",
        help="with --cluster: slots of both sides move, nodes join, bytes come late, too",
    )
    parser.add_argument("--log", type=Path, help="with --cluster: a file for all that portd logged, where it fails")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="with --cluster: of portd")
    parser.add_argument("--rules", action="store_true", help="with --cluster: keys are left out, and renamed")
    parser.add_argument("--delay", type=float, default=0.0, help="with --late: some deliveries are later by up to this")
    parser.add_argument("--standby", type=int, metavar="N", help="alternating holders of one link instead: N strikes")
    parser.add_argument("--quiet", action="store_true", help="only the table at the end")
    return parser.parse_args()


def _binary(name: str) -> Binary | None:
    """A server; the default one without a name."""
    return find(name) if name else None


async def _run(options: argparse.Namespace) -> int:
    kinds = [
        each for each in KINDS if options.only in each.name and not any(word in each.name for word in options.skip)
    ]
    world = World(
        random.Random(f"world {options.seed}"),
        rate=options.rate,
        source=_binary(options.source),
        target=_binary(options.target),
        expiring=options.expiring,
        expiry_gap=options.expiry_gap,
    )
    run = Run(world, options.seed, kinds, verbose=not options.quiet, pause_seconds=options.pause)
    print(f"seed {options.seed}, {len(kinds)} kinds", flush=True)
    async with Sampler(world, options.sample):
        try:
            report = await run.run(faults=options.faults, seconds=options.seconds)
        except Failure as error:
            print(f"FAILED, seed {options.seed}\n{error}")
            return 1
    print(report.table())
    print(json.dumps(report.summary()))
    return 0


async def _run_standby(options: argparse.Namespace) -> int:
    print(f"seed {options.seed}", flush=True)
    try:
        async with Couple(
            options.seed, rate=options.rate, source=_binary(options.source), target=_binary(options.target)
        ) as couple:
            report = await couple.run(options.standby, tell=not options.quiet)
    except Failure as error:
        print(f"FAILED, seed {options.seed}\n{error}")
        return 1
    print(report.table())
    return 0


def _run_late(options: argparse.Namespace) -> int:
    report = run_deck(
        options.late, options.seed, only=options.only, delay_seconds=options.delay, tell=not options.quiet
    )
    print(f"seed {options.seed}\n{report.table()}")
    return int(bool(report.failures))


def _run_cluster(options: argparse.Namespace) -> int:
    print(f"seed {options.seed}", flush=True)
    try:
        report = run_cluster_deck(
            options.cluster,
            options.seed,
            source=_binary(options.source),
            target=_binary(options.target),
            rules=options.rules,
            moves=options.moves,
            options=dict(each.split("=", 1) for each in options.option),
            tell=not options.quiet,
        )
    except Failure as error:
        words, log = error.args
        Path(options.log or os.devnull).write_text(log)
        print(f"FAILED, seed {options.seed}\n{words}\n{log[-LOG_LETTERS:]}")
        return 1
    print(report.table())
    return 0


def main() -> int:
    """Runs what the arguments say; 0 when nothing was lost or doubled."""
    options = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no server or process stays behind
    if options.standby is not None:
        return asyncio.run(_run_standby(options))
    if options.cluster is not None:
        return _run_cluster(options)
    return asyncio.run(_run(options)) if options.late is None else _run_late(options)


if __name__ == "__main__":
    sys.exit(main())
