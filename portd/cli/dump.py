"""`portd dump`: keep a live server's snapshot as an RDB file, and the stream behind it if wanted."""

from __future__ import annotations

import sys
from contextlib import closing
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portd import log
from portd.cli.extra_flags import ALL_RULES, NO_TARGET, SNAPSHOT_RULES, SOURCE, flags
from portd.cli.failures import report_plainly
from portd.config import load as configload
from portd.config.rules import choice_of
from portd.errors import ConfigError, PortdError
from portd.files.outputs import STDOUT, Output
from portd.net.endpoint import is_cluster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portd.config.settings import Settings

_NAMES = (*SOURCE, "one_shard", "progress_seconds", *SNAPSHOT_RULES)
_OWN = {
    "output": (
        Annotated[
            str,
            typer.Option(
                "--output",
                "-o",
                metavar="FILE|-",
                help="The RDB file, or - for standard output; of a cluster, the manifest: NAME.json.",
            ),
        ],
        Parameter.empty,
    ),
    "follow": (
        Annotated[bool, typer.Option("--follow", help="Go on with the stream, into FILE.stream, until stopped.")],
        False,
    ),
}


def _dump(file: Path | None, given: Mapping[str, Any], *, output: str, follow: bool) -> None:
    """Keep a live server's snapshot as an RDB file; of a cluster, one for each shard and a manifest.

    The file has its name only when all of it is there and its checksum agrees. The source is asked for no stream where
    it knows that, so that none piles up in its memory.

    Example: portd dump --source redis://old:6379 --output dump.rdb
    """
    log.configure("auto", "info" if output != STDOUT or not sys.stderr.isatty() else "warning")
    try:
        settings = configload.load_settings(given, file, {"target": NO_TARGET, **ALL_RULES})
        if follow and output == STDOUT:
            raise ConfigError("--follow needs a file", hint="name one with --output; the stream goes to FILE.stream")
        if follow and settings.ruled:
            raise ConfigError(
                "--follow records the stream as it comes, and rules leave out a part of the snapshot",
                hint="record all of it, and give the rules to restore",
            )
        if is_cluster(settings.source):
            code = run_cluster_dump(settings, output, follow=follow)
        else:
            code = run_dump(settings, output, Path(f"{output}.stream") if follow else None)
    except PortdError as error:
        raise typer.Exit(report_plainly(error)) from None
    raise typer.Exit(code)


dump = flags(_dump, _NAMES, _OWN)


def run_cluster_dump(settings: Settings, path: str, *, follow: bool) -> int:
    """Dumps every shard beside *path*, the manifest; the exit code.

    Raises:
        ConfigError: *path* is no name for one, or a stream is wanted.
    """
    from portd.cli.runner import run_blocking  # noqa: PLC0415 - uvloop and the like, which help does not need
    from portd.files.manifest import SUFFIX, is_manifest  # noqa: PLC0415 - the same
    from portd.offline.clusterdump import ClusterDump  # noqa: PLC0415 - the same

    if follow:
        raise ConfigError(
            "--follow cannot be had of a cluster",
            hint="record the shards by themselves, with --one-shard and the URL of a node",
        )
    if not is_manifest(path):
        raise ConfigError(
            "the snapshot of a cluster is several files, and --output names their manifest",
            hint=f"give it a name that ends with {SUFFIX}, such as backup{SUFFIX}; the files are beside it",
        )
    return run_blocking(lambda: ClusterDump(settings, Path(path)), settings)


def run_dump(settings: Settings, path: str, follow: Path | None) -> int:
    """Dumps into *path*; the exit code.

    Raises:
        OutputError: the file cannot be created.
    """
    from portd.cli.runner import run_blocking  # noqa: PLC0415 - uvloop and the like, which help does not need
    from portd.offline.dump import Dump  # noqa: PLC0415 - the same

    with closing(Output(path)) as output:
        endpoint, choice = settings.source_endpoint(), choice_of(settings)
        return run_blocking(
            lambda: Dump(endpoint, output, follow, one_shard=settings.one_shard, choice=choice), settings
        )
