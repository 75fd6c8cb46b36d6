"""`portd sync`: copy a live server into another one and keep it there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import typer

from portd import ENV_PREFIX
from portd.cli.division import divided
from portd.cli.failures import report_plainly
from portd.cli.launch import hand_over
from portd.cli.options import settings_flags
from portd.config import load as configload
from portd.errors import PortdError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


EPILOG = (
    "Every option is also a variable, PORTD_SOURCE for --source, and a line of the TOML file, source = ...; "
    "docs/configuration.md explains them. Exit codes: 0 done or stopped, 64 usage, 65 bad data, 69 a server is "
    "not there, 70 a bug, 74 disk, 75 another portd has the link, or stopped while held, 77 a server refused us, 78 settings."
)


def sync(file: Path | None, flags: Mapping[str, Any]) -> None:
    """Copy a live server into another one and keep it there.

    Example: portd sync --source redis://old:6379 --target redis://new:6379
    """
    try:
        described = configload.load_links(flags, file)
        links = divided(described)
    except PortdError as error:
        raise typer.Exit(report_plainly(error)) from None
    variables = {name.removeprefix(ENV_PREFIX).lower() for name in os.environ if name.startswith(ENV_PREFIX)}
    hand_over(
        links,
        file.absolute() if file is not None else None,
        frozenset({*flags, *variables}),
        described,
    )


sync_command = settings_flags(sync)
