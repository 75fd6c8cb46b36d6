"""`portd decode`: show what is in a snapshot, element by element, key by key, or as a report."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import closing
from enum import StrEnum
from inspect import Parameter
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from portd import log
from portd.cli.extra_flags import ALL_RULES, NO_SOURCE, NO_TARGET, SNAPSHOT_RULES, SOURCE, flags
from portd.cli.failures import report_plainly
from portd.cli.options import given_flags
from portd.config.choices import KeyType
from portd.config.load import load_settings
from portd.config.option import separated
from portd.config.rules import choice_of
from portd.errors import OutputClosed, PortdError
from portd.feed.choosing import choose
from portd.files.manifest import files_of
from portd.files.outputs import STDOUT, Output
from portd.kernel.events import EventHandler
from portd.kernel.snapshot import SnapshotDecoder
from portd.kernel.tally import KeyHandler, StatsHandler
from portd.offline.decode import decode_cluster, decode_file, decode_source
from portd.offline.stats import Stats, render_json, render_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from portd.config.rules import Choice
    from portd.config.settings import Settings
    from portd.kernel.handler import Handler

PART_BYTES = 128 * 1024
FILE_TYPES = ("function", "aux")  # of the file itself
TYPES = (*KeyType, *FILE_TYPES)
URL_SCHEMES = ("redis://", "rediss://", "unix://", "redis+", "rediss+")


class Format(StrEnum):
    """How a snapshot is shown."""

    JSONL = "jsonl"  # one JSON object for each element
    CSV = "csv"  # one row for each element
    KEYS = "keys"  # one JSON object for each key
    STATS = "stats"  # a report


class Report(StrEnum):
    """How a report is shown."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"


_OWN = {
    "path": (
        Annotated[
            str,
            typer.Argument(
                metavar="FILE|-|URL",
                help="An RDB file (.gz and .zst too), the manifest of a dumped cluster, - for standard input, or a live server or cluster.",
            ),
        ],
        Parameter.empty,
    ),
    "form": (
        Annotated[
            Format,
            typer.Option(
                "--format", "-f", help="jsonl: a line for each element; csv; keys: a line for each key; stats."
            ),
        ],
        Format.JSONL,
    ),
    "output": (Annotated[str, typer.Option("--output", "-o", metavar="FILE|-", help="Where to write.")], STDOUT),
    "types": (
        Annotated[
            list[str] | None,
            typer.Option("--include-type", "--type", "-t", help=f"Only these types; one of {', '.join(TYPES)}."),
        ],
        None,
    ),
    "match": (
        Annotated[
            list[str] | None, typer.Option("--match", "-m", metavar="GLOB", help="Only keys like this, as in KEYS.")
        ],
        None,
    ),
    "database": (
        Annotated[list[str] | None, typer.Option("--include-db", "--db", help="Only these databases.")],
        None,
    ),
    "report": (Annotated[Report, typer.Option(help="How stats are shown.")], Report.TEXT),
    "top": (Annotated[int, typer.Option(min=0, max=10_000, help="How many of the biggest keys stats shows.")], 20),
    "separator": (Annotated[str, typer.Option(help="What ends a key's prefix, for stats.")], ":"),
}


def _decode(
    file: Path | None,
    given: Mapping[str, Any],
    *,
    path: str,
    form: Format,
    output: str,
    types: list[str] | None,
    match: list[str] | None,
    database: list[str] | None,
    report: Report,
    top: int,
    separator: str,
) -> None:
    """Show what is in an RDB file or a live server's snapshot.

    Flags about the source are for a live server, as for sync.

    Example: portd decode dump.rdb --type hash --match 'user:*' | head
    """
    log.configure("auto", "warning")
    signal.signal(signal.SIGTERM, _end)
    try:
        words = separated(types, ",") or []
        kinds = [word for word in words if word not in FILE_TYPES]
        rules = dict(given)
        rules["include"] = [*given.get("include", ()), *map(as_glob, match or ())]
        rules["include_db"] = database or []
        rules["include_type"] = kinds
        if words and not kinds:
            rules["exclude_type"] = [*KeyType]
        is_server = path.startswith(URL_SCHEMES)
        source = path if is_server else NO_SOURCE
        settings = load_settings(given_flags(rules), file, {"source": source, "target": NO_TARGET, **ALL_RULES})
        handler = make_handler(form, top, separator, functions=not words or "function" in words, aux="aux" in words)
        run(path, settings if is_server else None, handler, output, report, choice_of(settings))
    except OutputClosed:
        raise typer.Exit(os.EX_OK) from None
    except PortdError as error:
        raise typer.Exit(report_plainly(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None


_DECIDED = ("source", "include_type", "include_db")  # by what has other names here
decode = flags(_decode, [name for name in (*SOURCE, *SNAPSHOT_RULES) if name not in _DECIDED], _OWN)


def _end(number: int, _frame: object) -> NoReturn:
    """Ends in order: a half-written file is removed."""
    raise SystemExit(128 + number)


def run(source: str, settings: Settings | None, handler: Handler, path: str, report: Report, choice: Choice) -> None:
    """Decodes into *path*, which appears when all of it is written.

    Args:
        source: a file, a manifest of several, or a URL.
        settings: of the server that the URL names; None for files.
        handler: makes what is written, of all snapshots.
        path: where to.
        report: how stats are shown.
        choice: which keys are shown.
    """
    decoders: list[SnapshotDecoder] = []

    def fresh(choice: Choice) -> SnapshotDecoder:
        decoders.append(decoder := SnapshotDecoder(handler))
        choose(decoder, choice)
        return decoder

    with closing(Output(path)) as output:
        if settings is None:
            for file in files_of(source):
                decode_file(file, fresh(choice), output)
        elif settings.source_endpoint().seeds is not None:
            asyncio.run(decode_cluster(settings, fresh, output))
        else:
            asyncio.run(decode_source(settings.source_endpoint(), fresh(choice), output))
        if isinstance(handler, StatsHandler):
            name = source if settings is None else settings.source_endpoint().display
            size, keys = (sum(each) for each in zip(*map(_size_of, decoders), strict=True))
            stats = Stats(name, handler.report(), decoders[0].aux, size, keys, time.time())
            output.write(_rendered(stats, report).encode("utf-8", "backslashreplace"))
        output.commit()


def _size_of(decoder: SnapshotDecoder) -> tuple[int, int]:
    """Bytes and keys of a snapshot."""
    return decoder.offset, decoder.statistics()["keys"]


def _rendered(stats: Stats, report: Report) -> str:
    if report is Report.HTML:
        from portd.offline.report import render_html  # noqa: PLC0415 - the pages' look is not wanted by the others

        return render_html(stats)
    return render_text(stats) if report is Report.TEXT else render_json(stats)


def make_handler(form: Format, top: int, separator: str, *, functions: bool = True, aux: bool = False) -> Handler:
    """What hears the values."""
    if form is Format.STATS:
        return StatsHandler(top=top, separator=separator.encode())
    if form is Format.KEYS:
        return KeyHandler(part_bytes=PART_BYTES)
    return EventHandler(csv=form is Format.CSV, functions=functions, aux=aux, part_bytes=PART_BYTES)


def as_glob(pattern: str) -> str:
    """A pattern that fits what KEYS finds by it: a name without special letters is a whole one, not a prefix."""
    if any(letter in pattern for letter in "*?["):
        return pattern
    if pattern[:1] == "\\":
        return f"[{pattern[:2]}]{pattern[2:]}"
    return f"[\\{pattern[:1]}]{pattern[1:]}"
