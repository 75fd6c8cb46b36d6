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
from portd.cli.extra_flags import NO_TARGET, SOURCE, flags
from portd.cli.failures import report_plainly
from portd.errors import ConfigError, OutputClosed, PortdError
from portd.files.outputs import STDOUT, Output
from portd.kernel.events import EventHandler
from portd.kernel.selection import DEFAULT_TYPES, TYPES, Selection
from portd.kernel.snapshot import DEFAULT_CHUNK_BYTES, SnapshotDecoder
from portd.kernel.tally import KeyHandler, StatsHandler
from portd.offline.decode import decode_file, decode_source
from portd.offline.stats import Stats, render_html, render_json, render_text
from portd.units import parse_size, show_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from portd.kernel.handler import Handler
    from portd.net.endpoint import Endpoint

PART_BYTES = 128 * 1024
RENDERERS = {"text": render_text, "json": render_json, "html": render_html}
URL_SCHEMES = ("redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://")


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
                metavar="FILE|-|URL", help="An RDB file (.gz and .zst too), - for standard input, or a live server."
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
        Annotated[list[str] | None, typer.Option("--type", "-t", help=f"Only these types; one of {', '.join(TYPES)}.")],
        None,
    ),
    "match": (
        Annotated[
            list[str] | None, typer.Option("--match", "-m", metavar="GLOB", help="Only keys like this, as in KEYS.")
        ],
        None,
    ),
    "database": (Annotated[list[int] | None, typer.Option("--db", help="Only these databases.")], None),
    "min_bytes": (
        Annotated[str | None, typer.Option(help="Only values of at least this size, in the snapshot.")],
        None,
    ),
    "max_bytes": (Annotated[str | None, typer.Option(help="Only values of at most this size.")], None),
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
    database: list[int] | None,
    min_bytes: str | None,
    max_bytes: str | None,
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
        selection = make_selection(types, match, database, min_bytes, max_bytes)
        handler = make_handler(form, selection, top, separator)
        run(path, source_endpoint(path, file, given), handler, output, report)
    except OutputClosed:
        raise typer.Exit(os.EX_OK) from None
    except PortdError as error:
        raise typer.Exit(report_plainly(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None


decode = flags(_decode, [name for name in SOURCE if name != "source"], _OWN)


def _end(number: int, _frame: object) -> NoReturn:
    """Ends in order: a half-written file is removed."""
    raise SystemExit(128 + number)


def run(source: str, endpoint: Endpoint | None, handler: Handler, path: str, report: Report) -> None:
    """Decodes into *path*, which appears when all of it is written."""
    decoder = SnapshotDecoder(handler)
    with closing(Output(path)) as output:
        if endpoint is None:
            decode_file(source, decoder, output)
        else:
            asyncio.run(decode_source(endpoint, decoder, output))
        if isinstance(handler, StatsHandler):
            name = source if endpoint is None else endpoint.display
            counters = decoder.statistics()
            stats = Stats(name, handler.report(), decoder.aux, decoder.offset, counters["keys"], time.time())
            output.write(RENDERERS[report.value](stats).encode("utf-8", "backslashreplace"))
        output.commit()


def make_handler(form: Format, selection: Selection, top: int, separator: str) -> Handler:
    """What hears the values."""
    if form is Format.STATS:
        return StatsHandler(selection=selection, top=top, separator=separator.encode())
    if form is Format.KEYS:
        return KeyHandler(selection=selection, part_bytes=PART_BYTES)
    return EventHandler(csv=form is Format.CSV, selection=selection, part_bytes=PART_BYTES)


def make_selection(
    types: list[str] | None,
    match: list[str] | None,
    databases: list[int] | None,
    min_bytes: str | None,
    max_bytes: str | None,
) -> Selection:
    """The filters.

    Raises:
        ConfigError: one of them cannot be understood.
    """
    least, most = (_size(name, text) for name, text in (("--min-bytes", min_bytes), ("--max-bytes", max_bytes)))
    try:
        return Selection(
            types=types or DEFAULT_TYPES,
            patterns=[os.fsencode(pattern) for pattern in match or ()],
            databases=databases or (),
            min_bytes=least or 0,
            max_bytes=most,
        )
    except ValueError as error:
        raise ConfigError(str(error), hint=f"the types are {', '.join(TYPES)}") from None


def _size(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        size = parse_size(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
    if size > DEFAULT_CHUNK_BYTES:
        raise ConfigError(
            f"{name} is above {show_size(DEFAULT_CHUNK_BYTES)}, and larger values are not measured before they are told",
            hint="--format keys tells the size of every key; pick from its lines",
        )
    return size


def source_endpoint(source: str, file: Path | None, given: Mapping[str, Any]) -> Endpoint | None:
    """The server to read from; None when the source is a file.

    Raises:
        ConfigError: the settings cannot be used.
    """
    if not source.startswith(URL_SCHEMES):
        return None
    from portd.config.load import load_settings  # noqa: PLC0415 - heavy, and files do without

    return load_settings(given, file, {"source": source, "target": NO_TARGET}).source_endpoint()
