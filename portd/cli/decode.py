"""`portd decode`: show what is in a snapshot, element by element, key by key, or as a report."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from portd import log
from portd.cli.failures import report_plainly
from portd.cli.rule_flags import (
    Exclude,
    ExcludeDb,
    ExcludeType,
    Include,
    IncludeDb,
    IncludeSlots,
    MaxBytes,
    MaxTtl,
    MinBytes,
    MinTtl,
    rule_settings,
)
from portd.config.choices import KeyType
from portd.config.option import separated
from portd.config.rules import choice_of
from portd.config.variables import check_variables
from portd.errors import OutputClosed, PortdError
from portd.feed.choosing import choose
from portd.files.outputs import STDOUT, Output
from portd.kernel.events import EventHandler
from portd.kernel.snapshot import DEFAULT_CHUNK_BYTES, SnapshotDecoder
from portd.kernel.tally import KeyHandler, StatsHandler
from portd.net.endpoint import Endpoint, Tls, read_secret
from portd.offline.decode import decode_file, decode_source
from portd.offline.stats import Stats, render_html, render_json, render_text

if TYPE_CHECKING:
    from portd.config.rules import Choice
    from portd.kernel.handler import Handler

PART_BYTES = 128 * 1024
FILE_TYPES = ("function", "aux")  # of the file itself
TYPES = (*KeyType, *FILE_TYPES)
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


PasswordFile = Annotated[
    Path | None,
    typer.Option(help="File whose first line is the source's password.", envvar="PORTD_SOURCE_PASSWORD_FILE"),
]
TlsCa = Annotated[Path | None, typer.Option(help="PEM file of the authorities to trust.", envvar="PORTD_SOURCE_TLS_CA")]
TlsCert = Annotated[Path | None, typer.Option(help="PEM file of our certificate.", envvar="PORTD_SOURCE_TLS_CERT")]
TlsKey = Annotated[Path | None, typer.Option(help="PEM file of its private key.", envvar="PORTD_SOURCE_TLS_KEY")]
TlsInsecure = Annotated[bool, typer.Option("--tls-insecure", help="Do not check the source's certificate.")]


def decode(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-|URL", help="An RDB file (.gz and .zst too), - for standard input, or a live server."
        ),
    ],
    form: Annotated[
        Format,
        typer.Option("--format", "-f", help="jsonl: a line for each element; csv; keys: a line for each key; stats."),
    ] = Format.JSONL,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE|-", help="Where to write.")] = STDOUT,
    include: Include = None,
    match: Annotated[
        list[str] | None, typer.Option("--match", "-m", metavar="GLOB", help="Only keys like this, as in KEYS.")
    ] = None,
    exclude: Exclude = None,
    include_type: Annotated[
        list[str] | None,
        typer.Option("--include-type", "--type", "-t", help=f"Only these types; of {', '.join(TYPES)}."),
    ] = None,
    exclude_type: ExcludeType = None,
    include_db: IncludeDb = None,
    exclude_db: ExcludeDb = None,
    include_slots: IncludeSlots = None,
    min_bytes: MinBytes = None,
    max_bytes: MaxBytes = None,
    min_ttl: MinTtl = None,
    max_ttl: MaxTtl = None,
    report: Annotated[Report, typer.Option(help="How stats are shown.")] = Report.TEXT,
    top: Annotated[int, typer.Option(min=0, max=10_000, help="How many of the biggest keys stats shows.")] = 20,
    separator: Annotated[str, typer.Option(help="What ends a key's prefix, for stats.")] = ":",
    password_file: PasswordFile = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_insecure: TlsInsecure = False,
) -> None:
    """Show what is in an RDB file or a live server's snapshot.

    Example: portd decode dump.rdb --type hash --match 'user:*' | head
    """
    log.configure("auto", "warning")
    signal.signal(signal.SIGTERM, _end)
    try:
        words = separated(include_type, ",") or []
        kinds = [word for word in words if word not in FILE_TYPES]
        settings = rule_settings(
            DEFAULT_CHUNK_BYTES, include=[*(include or ()), *map(as_glob, match or ())], exclude=exclude,
            include_type=kinds, exclude_type=[*KeyType] if words and not kinds else exclude_type,
            include_db=include_db, exclude_db=exclude_db, include_slots=include_slots, min_bytes=min_bytes,
            max_bytes=max_bytes, min_ttl=min_ttl, max_ttl=max_ttl,
        )  # fmt: skip
        handler = make_handler(form, top, separator, functions=not words or "function" in words, aux="aux" in words)
        choice = choice_of(settings)
        endpoint = source_endpoint(source, password_file, Tls(tls_ca, tls_cert, tls_key, verify=not tls_insecure))
        run(source, endpoint, handler, output, report, choice)
    except OutputClosed:
        raise typer.Exit(os.EX_OK) from None
    except PortdError as error:
        raise typer.Exit(report_plainly(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None


def _end(number: int, _frame: object) -> NoReturn:
    """Ends in order: a half-written file is removed."""
    raise SystemExit(128 + number)


def run(
    source: str, endpoint: Endpoint | None, handler: Handler, path: str, report: Report, choice: Choice | None = None
) -> None:
    """Decodes into *path*, which appears when all of it is written."""
    decoder = SnapshotDecoder(handler)
    if choice is not None:
        choose(decoder, choice)
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


def make_handler(form: Format, top: int, separator: str, *, functions: bool = True, aux: bool = False) -> Handler:
    """What hears the values."""
    if form is Format.STATS:
        return StatsHandler(top=top, separator=separator.encode())
    if form is Format.KEYS:
        return KeyHandler(functions=functions, aux=aux, part_bytes=PART_BYTES)
    return EventHandler(csv=form is Format.CSV, functions=functions, aux=aux, part_bytes=PART_BYTES)


def as_glob(pattern: str) -> str:
    """A pattern that fits what KEYS finds by it: a name without special letters is a whole one, not a prefix."""
    if any(letter in pattern for letter in "*?["):
        return pattern
    if pattern[:1] == "\\":
        return f"[{pattern[:2]}]{pattern[2:]}"
    return f"[\\{pattern[:1]}]{pattern[1:]}"


def source_endpoint(source: str, password_file: Path | None, tls: Tls) -> Endpoint | None:
    """The server to read from; None when the source is a file.

    Raises:
        ConfigError: the URL or the password cannot be used.
    """
    if not source.startswith(URL_SCHEMES):
        return None
    check_variables(os.environ)
    password = os.environ.get("PORTD_SOURCE_PASSWORD") or None
    if password_file is not None:
        password = read_secret(password_file, "password_file")
    return Endpoint.parse(source, password=password, tls=tls)
