"""`portd sync`: copy a live server into another one and keep it there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import typer

from portd import config, log
from portd.cli.failures import report_plainly
from portd.errors import PortdError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EPILOG = (
    "Every option is also a variable, PORTD_SOURCE for --source, and a line of the TOML file, source = ...; "
    "docs/configuration.md explains them. Exit codes: 0 done or stopped, 64 usage, 65 bad data, 69 a server is "
    "not there, 70 a bug, 74 disk, 77 a server refused us, 78 settings."
)


def sync(file: Path | None, flags: Mapping[str, Any]) -> None:
    """Copy a live server into another one and keep it there.

    Example: portd sync --source redis://old:6379 --target redis://new:6379
    """
    try:
        settings = config.load(flags, file)
    except PortdError as error:
        raise typer.Exit(report_plainly(error)) from None
    log.configure(settings.log_format, settings.log_level)
    for name in config.unknown_variables(os.environ):
        log.get_logger("cli").warning("variable is not a setting", variable=name)

    from portd.cli.runner import run_blocking  # noqa: PLC0415 - help and bad settings should not wait for all of portd
    from portd.service import Service  # noqa: PLC0415 - the same

    raise typer.Exit(run_blocking(lambda: Service(settings), settings))
