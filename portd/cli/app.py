"""The `portd` command: its help and its subcommands."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperGroup

from portd import __version__
from portd.cli.failures import say
from portd.cli.once import Command
from portd.text import hide_logins

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Where each command is, in the order of the help. Only the one that is asked for is loaded: a daemon that was killed is to
# be back at once.
COMMANDS: Final = {
    "sync": ("portd.cli.sync", "sync_command"),
    "check": ("portd.cli.check", "check_command"),
    "verify": ("portd.cli.verify", "verify_command"),
    "cutover": ("portd.cli.cutover", "cutover_command"),
    "decode": ("portd.cli.decode", "decode"),
    "ctl": ("portd.cli.ctl", "ctl"),
    "status": ("portd.cli.status", "status_command"),
    "dump": ("portd.cli.dump", "dump"),
    "restore": ("portd.cli.restore", "restore_command"),
    "demo": ("portd.cli.demo", "demo"),
    "reference": ("portd.cli.reference", "reference"),
}
_HIDDEN: Final = {"reference"}


class _Commands(TyperGroup):
    """The commands; what it says of a wrong command line shows no password, wherever on it one stands."""

    def make_context(self, *words: Any, **options: Any) -> Any:
        """Reads what stands before the command."""
        with _discreet():
            return super().make_context(*words, **options)

    def invoke(self, ctx: Any) -> Any:
        """Reads the rest, and runs the command."""
        with _discreet():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                raise typer.Exit(128 + signal.SIGINT) from None


@contextmanager
def _discreet() -> Iterator[None]:
    """Takes logins out of usage errors, and words that nobody knows: a password may be among them."""
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str) and hasattr(error, "format_message"):
            if message.startswith("Got unexpected extra argument"):
                message = "Got unexpected extra arguments; they may be secret, so they are not shown"
            error.message = hide_logins(message, bare=True)  # type: ignore[attr-defined]  # of typer's own click
        raise


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"portd {__version__}")
        raise typer.Exit


def _root(
    _version_flag: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_version, is_eager=True
    ),
) -> None:
    """Takes the options that stand before a command."""


def build(names: Iterable[str]) -> typer.Typer:
    """The command line with these commands."""
    app = typer.Typer(
        name="portd",
        cls=_Commands,
        help=(
            "Copies a live Redis or Valkey server into another one and keeps it there.\n\n"
            "It connects to the source as a replica does, writes the snapshot into the target with several connections, "
            "then follows the stream of changes until it is stopped. Memory stays within a budget, whatever the data is."
            "\n\nTry it with: portd demo"
        ),
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    app.callback()(_root)
    for name in names:
        where, command = COMMANDS[name]
        module = import_module(where)
        app.command(name, cls=Command, epilog=getattr(module, "EPILOG", None), hidden=name in _HIDDEN)(
            getattr(module, command)
        )
    return app


def main() -> None:
    """Runs the command line and exits with its code."""
    asked = [word for word in sys.argv[1:2] if word in COMMANDS]
    app = build(asked or COMMANDS)
    try:
        code = app(standalone_mode=False, prog_name="portd")  # also as python -m portd
    except typer.Abort:
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        raise SystemExit(_usage(error)) from None
    raise SystemExit(code if isinstance(code, int) else 0)


def _usage(error: Any) -> int:
    """Says what is wrong with the command line; the exit code."""
    if (
        type(error).__name__ == "NoArgsIsHelpError"
    ):  # nothing was asked for; where it is drawn, the help is shown already
        print(error.format_message(), end="", file=sys.stderr)
        return os.EX_USAGE
    context, text = getattr(error, "ctx", None), error.format_message()
    where = context.command_path if context is not None else "portd"
    say(text[:1].lower() + text[1:].rstrip("."), hint=f"{where} --help lists what there is")
    return os.EX_USAGE
