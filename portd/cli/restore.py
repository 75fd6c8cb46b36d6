"""`portd restore`: bring an RDB file or an append-only file into a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from portd import ENV_PREFIX, log
from portd.cli.extra_flags import ALL_RULES, NO_SOURCE, RULES
from portd.cli.failures import report_plainly
from portd.cli.options import settings_flags
from portd.cli.reload import ConfigFile
from portd.config import load as configload
from portd.config.settings import SETTINGS
from portd.errors import ConfigError, PortdError, redact_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from portd.config.settings import Settings

SETTINGS_USED: Final = (
    *(name for name in SETTINGS if name.startswith("target")),
    *("existing", "on_refusal", "dead_letters", "checkpoint_key"),
    *(
        "writers",
        "max_target_bytes_per_second",
        "max_target_ops",
        "memory_budget",
        "chunk_bytes",
        "command_bytes",
        "command_elements",
    ),
    *("log_format", "log_level", "progress_seconds", "memtrace", "redact_keys"),
    *RULES,
)
EPILOG = "Options are also variables and lines of the TOML file, as for sync. docs/restore.md tells more."

_Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE...|-",
        help="RDB files, or the manifest of a dumped cluster; or one append-only file, or its manifest; .gz and .zst are decompressed.",
        show_default=False,
    ),
]
_Follow = Annotated[
    Path | None,
    typer.Option("--then-follow", metavar="FILE", help="A stream that dump --follow recorded, to apply behind it."),
]
_Only = Annotated[
    Path | None,
    typer.Option(
        "--only-letters",
        metavar="FILE",
        help="Restore only the keys that this file of dead letters names, once what stood in their way is mended.",
    ),
]


def restore(file: Path | None, flags: Mapping[str, Any]) -> None:
    """Bring RDB files or an append-only file into a server or a cluster.

    Example: portd restore dump.rdb --target redis://new:6379
    """
    given = dict(flags)
    paths, follow, only = given.pop("paths"), given.pop("then_follow", None), given.pop("only_letters", None)
    try:
        settings = configload.load_settings(given, file, {"source": NO_SOURCE, "http": "off", **ALL_RULES})
        if only is not None and follow is not None:
            raise ConfigError(
                "--only-letters takes keys of a snapshot, not of a stream", hint="leave --then-follow out"
            )
        code = run_restore(settings, paths, follow, only, _config_file(settings, file, flags))
    except PortdError as error:
        raise typer.Exit(report_plainly(error)) from None
    raise typer.Exit(code)


def _config_file(settings: Settings, file: Path | None, flags: Mapping[str, Any]) -> ConfigFile | None:
    """What SIGHUP reads again."""
    if file is None:
        return None
    variables = {name.removeprefix(ENV_PREFIX).lower() for name in os.environ if name.startswith(ENV_PREFIX)}
    return ConfigFile(file, frozenset({*flags, *variables, "source", "http"}), settings)


def run_restore(
    settings: Settings, paths: Sequence[str], follow: Path | None, only: Path | None, file: ConfigFile | None
) -> int:
    """Restores *paths*; the exit code."""
    from portd.cli.runner import run_blocking  # noqa: PLC0415 - uvloop and the like, which help does not need
    from portd.offline.restore import Restore  # noqa: PLC0415 - the same

    log.configure(settings.log_format, settings.log_level)
    redact_keys(on=settings.redact_keys)
    return run_blocking(lambda: Restore(settings, paths, follow, only), settings, file)


restore_command = settings_flags(
    restore, names=SETTINGS_USED, more={"paths": _Files, "then_follow": _Follow, "only_letters": _Only}
)
