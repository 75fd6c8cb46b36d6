"""`portd status`: how far a link is, read from the target; and what its process says, where that is asked."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
import urllib.parse
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portd import log
from portd.cli.extra_flags import ENDS, NO_SOURCE, flags
from portd.cli.failures import report_plainly, say
from portd.config import load as configload
from portd.errors import PortdError
from portd.text import hide_logins, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from portd.config.settings import Settings

EPILOG = (
    "Exit codes: 0 the target is complete up to the checkpoint, 1 there is none, 69 the target (or --ask) cannot be reached, "
    "75 not complete: a full sync is under way, or was broken off, 77 it refuses us, 78 settings."
)
ASK_SECONDS = 5.0
_NAMES = tuple(name for name in ENDS if "source" not in name and name != "psync_command")
_OWN = {
    "as_json": (Annotated[bool, typer.Option("--json", help="Print one JSON object.")], False),
    "ask": (
        Annotated[
            str,
            typer.Option(
                "--ask",
                metavar="HOST:PORT",
                help="Address of the running portd's pages (its --http); its state is shown as well.",
                show_default=False,
            ),
        ],
        "",
    ),
}


def _status(file: Path | None, given: Mapping[str, Any], *, as_json: bool, ask: str) -> None:
    """Show how far a link is, or each of a file's links: checkpoint and holder, as the target has them; changes nothing.

    Example: portd status --target redis://new:6379 --link default --ask 127.0.0.1:8899
    """
    try:
        links = configload.load_links(given, file, {"source": NO_SOURCE})
    except PortdError as error:
        raise typer.Exit(report_plainly(error)) from None
    log.configure("auto", "warning")
    try:
        states = [found for settings in links for found in asyncio.run(_look_at_all(settings))]
        for found in states if ask else ():
            found["process"] = _ask(ask, found["link"])
    except (PortdError, ExceptionGroup) as error:
        raise typer.Exit(report_plainly(error)) from None
    except OSError as error:
        text = f"{hide_logins(ask, bare=True)} does not answer: {hide_logins(str(error), bare=True)}"
        say(text, hint="give the address of its pages: its --http")
        raise typer.Exit(os.EX_UNAVAILABLE) from None
    if as_json:
        typer.echo(json.dumps({"links": states} if len(states) > 1 else states[0], indent=2))
    else:
        for number, (shards_of, group) in enumerate(itertools.groupby(states, key=lambda found: found.get("shard_of"))):
            if number:
                typer.echo()
            if shards_of is None:
                _show_each(list(group))
            else:
                _show_shards(shards_of, list(group))
    raise typer.Exit(max(_exit_code(found["checkpoint"]) for found in states))


status_command = flags(_status, _NAMES, _OWN)


def _exit_code(checkpoint: Mapping[str, Any] | None) -> int:
    if checkpoint is None:
        return 1
    return os.EX_OK if checkpoint["state"] == "stream" else os.EX_TEMPFAIL


async def _look_at_all(settings: Settings) -> list[dict[str, Any]]:
    """A link; those of its shards instead, where its source is a cluster."""
    from portd.target.kept.directory import Directory  # noqa: PLC0415 - not wanted by the other commands' help
    from portd.target.kept.images import shards_there  # noqa: PLC0415 - the same

    found = await _look(settings)
    if found["checkpoint"] is not None:
        return [found]
    async with Directory(settings, "looking for the shards of a link") as there:
        shards = await shards_there(there)
    told = [await _look(replace(settings, link=name)) for name in shards]
    return [each | {"shard_of": settings.link} for each in told] or [found]


async def _look(settings: Settings) -> dict[str, Any]:
    """Checkpoint and lease as plain data."""
    from portd.target.kept.checkpoint import read_checkpoint  # noqa: PLC0415 - not wanted by the other commands' help
    from portd.target.kept.lease import read_lease  # noqa: PLC0415 - the same

    target, key = settings.target_endpoint(), settings.checkpoint_name()
    checkpoint = await read_checkpoint(target, key)
    holder = await read_lease(target, key)
    found: dict[str, Any] = {"target": target.display, "link": settings.link, "key": key, "checkpoint": None}
    if checkpoint is not None:
        found["checkpoint"] = {
            "state": checkpoint.state.value,
            "replid": checkpoint.position.replid,
            "offset": checkpoint.position.offset,
            "db": checkpoint.db,
            "written_at": checkpoint.time_ms / 1000,
            "written_seconds_ago": round(time.time() - checkpoint.time_ms / 1000, 3),
            "epoch": checkpoint.epoch,
            "source_run_id": checkpoint.source_run_id,
            "source_address": checkpoint.source_address,
            "snapshot_id": checkpoint.snapshot_id,
            "sole": checkpoint.sole,
            "postponed": checkpoint.postponed,
        }
    found["holder"] = {"host": holder.host, "pid": holder.pid} if holder is not None else None
    return found


def _ask(address: str, link: str) -> dict[str, Any]:
    """``/status`` of that link in the process, without its settings.

    Raises:
        OSError: it does not answer, or has no such link.
    """
    request = urllib.request.Request(f"http://{address}/status?link={urllib.parse.quote(link)}")
    with urllib.request.urlopen(request, timeout=ASK_SECONDS) as answer:  # noqa: S310 - the same
        status: dict[str, Any] = json.loads(answer.read())
    status.pop("settings", None)
    return status


def _show_each(states: Sequence[Mapping[str, Any]]) -> None:
    """Links one below the other."""
    for number, found in enumerate(states):
        if number:
            typer.echo()
        _show(found)


def _show_shards(link: str, states: Sequence[Mapping[str, Any]]) -> None:
    """The shards of one link, a row for each."""
    complete = sum(found["checkpoint"] is not None and found["checkpoint"]["state"] == "stream" for found in states)
    rows = [_row(link, found) for found in states]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = [names, *([row.get(name, "") for name in names] for row in rows)]
    widths = [max(len(line[at]) for line in table) for at in range(len(names))]
    typer.echo(plain(f"{link} in {states[0]['target']}: {len(states)} shards, {complete} of them complete"))
    for line in table:
        typer.echo(plain("  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()))
    from portd.watch.summary import troubles  # noqa: PLC0415 - not wanted by the other commands' help

    for found in states:
        if process := found.get("process"):
            for name, value in troubles(process).items():
                typer.echo(plain(f"{found['link']} {name}: {value}"))


def _row(link: str, found: Mapping[str, Any]) -> dict[str, str]:
    """One shard, by column; it is named by its lowest slot."""
    checkpoint, holder, process = found["checkpoint"], found["holder"], found.get("process")
    row = {"shard": found["link"].removeprefix(f"{link}.")}
    if checkpoint is None:
        row |= {"state": "none", "offset": "", "written": "", "followed": ""}
    else:
        row |= {
            "state": "complete" if checkpoint["state"] == "stream" else "full sync",
            "offset": str(checkpoint["offset"]),
            "written": f"{checkpoint['written_seconds_ago']:.0f} s ago",
            "followed": checkpoint["source_address"] or "unknown",
        }
    row["held by"] = f"{holder['pid']} on {holder['host']}" if holder else "nobody"
    if process is not None:
        stream = process["stream"]
        seconds = stream["lag_seconds"]
        row |= {
            "phase": process["phase"],
            "ready": "yes" if process["ready"] else f"no: {process['reason']}",
            "lag": "not known" if seconds is None else f"{seconds:.3f} s, {stream['lag_bytes']} bytes",
            "full syncs": str(sum(process["full_syncs"].values())),
            "dead letters": str(sum(process["dead_letters"].values())),
        }
    return row


def _show(found: Mapping[str, Any]) -> None:
    """Lines of a name and a value."""
    lines = {"link": f"{found['link']} in {found['target']}"}
    checkpoint, holder, process = found["checkpoint"], found["holder"], found.get("process")
    if checkpoint is None:
        lines["checkpoint"] = f"none ({found['key']} is not there): the next start begins with a full sync"
    else:
        whole = checkpoint["state"] == "stream"
        written = datetime.fromtimestamp(checkpoint["written_at"], UTC)
        lines |= {
            "state": "the target is complete up to" if whole else "a full sync is under way, or was broken off, from",
            "position": f"{checkpoint['replid']} {checkpoint['offset']}, database {checkpoint['db']}",
            "written": f"{written:%Y-%m-%d %H:%M:%S} UTC, {checkpoint['written_seconds_ago']:.0f} s ago",
            "followed": checkpoint["source_address"] or "unknown",
            "source run id": checkpoint["source_run_id"] or "unknown",
            "alone in target": "yes" if checkpoint["sole"] else "no, or not known: other data is left alone",
        }
        if checkpoint["postponed"]:
            lines["expiries"] = "some may be postponed until portd has caught up"
    lines["held by"] = f"process {holder['pid']} on {holder['host']}" if holder else "nobody"
    if process is not None:
        from portd.watch.summary import status_lines  # noqa: PLC0415 - not wanted by the other commands' help

        lines |= status_lines(process)
    for name, value in lines.items():
        typer.echo(plain(f"{name:<16} {value}"))
