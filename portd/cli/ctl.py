"""`portd ctl`: a word to a sync that runs, through its control socket."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from portd.cli.failures import say
from portd.config.settings import DEFAULT_LINK, control_name

EPILOG = "Exit codes: 0 done, 1 the sync refused, 64 usage, 69 nobody listens there, 77 we may not ask."
RUNTIME = Path("/run/portd")  # of the unit: RuntimeDirectory=portd
COMMANDS = ("accept",)


def ctl(
    command: Annotated[str, typer.Argument(metavar="COMMAND", help=f"One of {', '.join(COMMANDS)}.")],
    socket: Annotated[
        Path | None,
        typer.Option(
            "--control-socket",
            "--socket",
            metavar="PATH",
            help="The sync's control_socket.",
            show_default=False,
            envvar="PORTD_CONTROL_SOCKET",
        ),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(
            "--link",
            metavar="TEXT",
            help="Name of the link that is meant, of a process with several; also tells where the socket is when it is where "
            "systemd puts it: $RUNTIME_DIRECTORY or /run/portd, and /run/portd-NAME with portd@NAME.service.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as one JSON object.")] = False,
) -> None:
    """Tell a running sync something: accept lets a held full sync go on.

    Example: portd ctl accept --control-socket /run/portd/portd-default.sock
    """
    from portd.controlsocket import ask  # noqa: PLC0415 - not wanted by the other commands' help

    if command not in COMMANDS:
        raise typer.BadParameter(f"there is no command {command!r}; there is {', '.join(COMMANDS)}")
    path = socket or _socket_of(link)
    try:
        answer = ask(path, command, {} if link is None else {"link": link})
    except PermissionError:
        say(f"{path} may not be opened", hint="ask as the user that runs the sync, or as root")
        raise typer.Exit(os.EX_NOPERM) from None
    except OSError as error:
        say(
            f"no sync answers at {path}: {error.strerror or error}",
            hint="give its control_socket with --control-socket; a sync that has none was started without",
        )
        raise typer.Exit(os.EX_UNAVAILABLE) from None
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    elif answer["ok"]:
        typer.echo(answer.get("text", "done"))
    else:
        say(str(answer.get("error", "refused")), hint=str(answer.get("hint", "")))
    raise typer.Exit(0 if answer["ok"] else 1)


def _socket_of(link: str | None) -> Path:
    """Where the socket of that link is: its own, that of a process with several links, or that of a unit for this link."""
    directory = Path(os.environ.get("RUNTIME_DIRECTORY", str(RUNTIME)).split(":")[0])
    name = control_name(link or DEFAULT_LINK)
    own, several = directory / name, directory / control_name("")
    of_unit = directory.with_name(f"{directory.name}-{link or DEFAULT_LINK}") / name  # portd@.service
    return next((path for path in (own, several, of_unit) if path.exists()), own)
