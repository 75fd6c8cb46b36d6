"""`portd dump`: keep a live server's snapshot as an RDB file, and the stream behind it if wanted."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from portd import log
from portd.cli.decode import PasswordFile, TlsCa, TlsCert, TlsInsecure, TlsKey, source_endpoint
from portd.cli.failures import report_plainly
from portd.cli.rule_flags import (
    Exclude,
    ExcludeDb,
    ExcludeType,
    Include,
    IncludeDb,
    IncludeSlots,
    IncludeType,
    MaxBytes,
    MaxTtl,
    MinBytes,
    MinTtl,
    rule_settings,
)
from portd.config.rules import choice_of
from portd.errors import ConfigError, PortdError
from portd.files.outputs import STDOUT, Output
from portd.kernel.snapshot import DEFAULT_CHUNK_BYTES
from portd.net.endpoint import Tls

if TYPE_CHECKING:
    from portd.config.rulesettings import RuleSettings
    from portd.net.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Watching:
    """How a command is watched, for `portd.cli.runner`."""

    progress_seconds: float
    memtrace: float = 0.0


def dump(
    source: Annotated[str, typer.Option(metavar="URL", envvar="PORTD_SOURCE", help="The server: redis://host:port.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE|-", help="The RDB file, or - for standard output.")
    ],
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with the stream, into FILE.stream, until stopped.")
    ] = False,
    one_shard: Annotated[
        bool,
        typer.Option("--one-shard", help="The server is a node of a cluster, and its keys are all that is wanted."),
    ] = False,
    include: Include = None,
    exclude: Exclude = None,
    include_type: IncludeType = None,
    exclude_type: ExcludeType = None,
    include_db: IncludeDb = None,
    exclude_db: ExcludeDb = None,
    include_slots: IncludeSlots = None,
    min_bytes: MinBytes = None,
    max_bytes: MaxBytes = None,
    min_ttl: MinTtl = None,
    max_ttl: MaxTtl = None,
    password_file: PasswordFile = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_insecure: TlsInsecure = False,
    progress_seconds: Annotated[float, typer.Option(min=0, help="How often progress is logged.")] = 5.0,
) -> None:
    """Keep a live server's snapshot as an RDB file.

    The file has its name only when all of it is there and its checksum agrees. The source is asked for no stream where
    it knows that, so that none piles up in its memory.

    Example: portd dump --source redis://old:6379 --output dump.rdb
    """
    log.configure("auto", "info" if output != STDOUT or not sys.stderr.isatty() else "warning")
    try:
        endpoint = source_endpoint(source, password_file, Tls(tls_ca, tls_cert, tls_key, verify=not tls_insecure))
        if endpoint is None:
            raise ConfigError("--source is not a URL", hint="write redis://host:port, rediss:// or unix:///path")
        if follow and output == STDOUT:
            raise ConfigError("--follow needs a file", hint="name one with --output; the stream goes to FILE.stream")
        rules = rule_settings(
            DEFAULT_CHUNK_BYTES, include=include, exclude=exclude, include_type=include_type, exclude_type=exclude_type,
            include_db=include_db, exclude_db=exclude_db, include_slots=include_slots, min_bytes=min_bytes,
            max_bytes=max_bytes, min_ttl=min_ttl, max_ttl=max_ttl,
        )  # fmt: skip
        if follow and rules.ruled:
            raise ConfigError(
                "--follow records the stream as it comes, and rules leave out a part of the snapshot",
                hint="record all of it, and give the rules to restore",
            )
        stream = Path(f"{output}.stream") if follow else None
        code = run_dump(endpoint, output, stream, progress_seconds, one_shard=one_shard, rules=rules)
    except PortdError as error:
        raise typer.Exit(report_plainly(error)) from None
    raise typer.Exit(code)


def run_dump(
    endpoint: Endpoint, path: str, follow: Path | None, progress_seconds: float, *, one_shard: bool, rules: RuleSettings
) -> int:
    """Dumps into *path*; the exit code.

    Raises:
        OutputError: the file cannot be created.
    """
    from portd.cli.runner import run_blocking  # noqa: PLC0415 - uvloop and the like, which help does not need
    from portd.offline.dump import Dump  # noqa: PLC0415 - the same

    with closing(Output(path)) as output:
        choice = choice_of(rules)
        return run_blocking(
            lambda: Dump(endpoint, output, follow, one_shard=one_shard, choice=choice), Watching(progress_seconds)
        )
