"""`portd check`: will a sync between these ends work? Changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portd import log
from portd.cli.extra_flags import ENDS, RULES, flags
from portd.cli.failures import report_plainly
from portd.errors import OutputError, PortdError
from portd.preflight.findings import Level
from portd.text import plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from portd.preflight.findings import Report

EPILOG = (
    "Exit codes: 0 nothing stands in the way, 1 there are warnings, 69 an end cannot be reached, 77 an end does not let "
    "us do what a sync does, 78 a sync cannot work for another reason. docs/check.md explains every finding."
)
SAMPLE_SECONDS = 2.0  # over which the write rate is measured
_STYLES = {Level.OK: "green", Level.INFO: "cyan", Level.WARNING: "yellow", Level.ERROR: "bold red"}
_NAMES = (
    *ENDS,
    "source_read_from",
    "one_shard",
    "existing",
    "prune",
    "prune_limit",
    "accept_source",
    "spool_dir",
    "spool_max_bytes",
    "stop_after",
    *RULES,
)
_OWN = {
    "as_json": (Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")], False),
    "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors only.")], False),
    "sample_seconds": (
        Annotated[
            float,
            typer.Option(
                "--sample-seconds",
                min=0,
                max=60,
                metavar="SECONDS",
                help=f"How long to measure the source's write rate. Default: {SAMPLE_SECONDS:g}.",
                show_default=False,
            ),
        ],
        SAMPLE_SECONDS,
    ),
}


def _check(file: Path | None, given: Mapping[str, Any], *, as_json: bool, quiet: bool, sample_seconds: float) -> None:
    """Look at both ends and say what would go wrong in a sync; changes nothing.

    Example: portd check --source redis://old:6379 --target redis://new:6379
    """
    from portd.config.load import load_settings  # noqa: PLC0415 - heavy, and other commands do without

    try:
        settings = load_settings(given, file)
    except PortdError as error:
        raise typer.Exit(report_plainly(error)) from None
    log.configure("auto", "warning")
    from portd.preflight.audit import check  # noqa: PLC0415 - the same

    try:
        found = asyncio.run(check(settings, sample_seconds=sample_seconds))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except Exception as error:  # noqa: BLE001 - whatever it is becomes words and an exit code
        raise typer.Exit(report_plainly(error)) from None
    try:
        if as_json:
            print(json.dumps(found.shown(), indent=2))
        else:
            _show(found, quiet=quiet)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still holds at its exit
        reason = (error.strerror or str(error)).lower()
        problem = OutputError(f"standard output cannot be written: {reason}", hint="write elsewhere")
        raise typer.Exit(report_plainly(problem)) from None
    raise typer.Exit(found.exit_code)


check_command = flags(_check, _NAMES, _OWN)


def _show(found: Report, *, quiet: bool) -> None:
    """A table on a terminal, blocks of plain text elsewhere."""
    shown = [each for each in found.findings if not quiet or each.level in {Level.WARNING, Level.ERROR}]
    if not sys.stdout.isatty():
        for each in shown:
            print(plain(f"{each.level:<8} {each.subject}: {each.what}"))
            for name, text in (("why", each.why), ("do", each.action)):
                if text:
                    print(plain(f"         {name}: {text}"))
        print(_summary(found))
        return
    from rich.console import Console  # noqa: PLC0415 - only for terminals
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=f"{found.source} → {found.target}", title_justify="left", expand=True, show_lines=False)
    for name, ratio in (("", None), ("looked at", 3), ("found", 6), ("why it matters, and what to do", 9)):
        table.add_column(name, ratio=ratio, overflow="fold")
    for each in shown:
        advice = Text(plain(each.why))
        if each.action:
            advice.append(plain(("\n" if each.why else "") + each.action), style="bold")
        table.add_row(
            Text(each.level.value, style=_STYLES[each.level]), Text(each.subject), Text(plain(each.what)), advice
        )
    console = Console()
    console.print(table)
    console.print(_summary(found), style=_STYLES[found.worst])


def _summary(found: Report) -> str:
    counts = {level: sum(each.level is level for each in found.findings) for level in Level}
    if found.worst is Level.ERROR:
        verdict = "a sync cannot work"
    elif found.worst is Level.WARNING:
        verdict = "a sync can run; look at the warnings first"
    else:
        verdict = "nothing stands in the way of a sync"
    return f"{counts[Level.ERROR]} errors, {counts[Level.WARNING]} warnings: {verdict}"
