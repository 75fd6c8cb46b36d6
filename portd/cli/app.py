"""The `portd` command: its help and its subcommands."""

from __future__ import annotations

import os

import typer

from portd import __version__
from portd.cli.check import EPILOG as CHECK_EPILOG
from portd.cli.check import check_command
from portd.cli.decode import decode
from portd.cli.demo import demo
from portd.cli.dump import dump
from portd.cli.options import settings_flags
from portd.cli.reference import reference
from portd.cli.restore import EPILOG as RESTORE_EPILOG
from portd.cli.restore import restore_command
from portd.cli.status import EPILOG as STATUS_EPILOG
from portd.cli.status import status_command
from portd.cli.sync import EPILOG, sync
from portd.cli.verify import EPILOG as VERIFY_EPILOG
from portd.cli.verify import verify_command

_CLICK_USAGE = 2  # what click exits with when an option is wrong; elsewhere in portd sysexits.h is followed

app = typer.Typer(
    name="portd",
    help=(
        "Copies a live Redis or Valkey server into another one and keeps it there.\n\n"
        "It connects to the source as a replica does, writes the snapshot into the target with several connections, "
        "then follows the stream of changes until it is stopped. Memory stays within a budget, whatever the data is.\n\n"
        "Try it with: portd demo"
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command(epilog=EPILOG)(settings_flags(sync))
app.command(epilog=CHECK_EPILOG)(check_command)
app.command(epilog=VERIFY_EPILOG)(verify_command)
app.command()(decode)
app.command(epilog=STATUS_EPILOG)(status_command)
app.command()(dump)
app.command(epilog=RESTORE_EPILOG)(restore_command)
app.command()(demo)
app.command(hidden=True)(reference)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"portd {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version_flag: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_version, is_eager=True
    ),
) -> None:
    """Takes the options that stand before a command."""


def main() -> None:
    """Runs the command line and exits with its code."""
    try:
        app()
    except SystemExit as exit_:
        if exit_.code == _CLICK_USAGE:
            raise SystemExit(os.EX_USAGE) from None
        raise
