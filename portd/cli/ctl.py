"""`portd ctl`: a word to a sync that runs, through its control socket."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from portd.cli.failures import say
from portd.config.settings import DEFAULT_LINK, control_name
from portd.text import plain
from portd.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

EPILOG = (
    "Exit codes: 0 done, 1 the sync refused (verify --wait: the ends differ), 64 usage, 69 nobody listens there, 75 verify --wait: "
    "not decided, 77 we may not ask."
)
RUNTIME = Path("/run/portd")  # of the unit: RuntimeDirectory=portd
ANSWER_SECONDS: Final = 15.0  # for an answer, behind what the command itself may take


@dataclass(frozen=True, slots=True)
class Order:
    """One of the commands.

    Attributes:
        about: what it does, in a sentence or two.
        example: a line to copy.
        flags: that only some commands have, by their names as arguments.
        lasts: the answer comes when it comes.
        of_process: it is for no link in particular.
    """

    about: str
    example: str
    flags: frozenset[str] = frozenset()
    lasts: bool = False
    of_process: bool = False


COMMANDS: Final = {
    "status": Order(
        "How far each link is, as portd status --ask tells it, without an address to know.", "portd ctl status --json"
    ),
    "position": Order(
        "Offsets: what the source has written by now, and what of it is received and applied.",
        "portd ctl position --link eu",
    ),
    "drain": Order(
        "Answers when everything up to an offset is applied: of the source as it is now, or --offset. Refused after --timeout (60 s).",
        "portd ctl drain --timeout 10",
        frozenset({"offset", "timeout"}),
        lasts=True,
    ),
    "pause": Order(
        "Writes nothing more to the target; the source is read on into the spool. Until resume, or the next start.",
        "portd ctl pause",
    ),
    "resume": Order("Ends a pause.", "portd ctl resume"),
    "limit": Order(
        "Shows the limits on the load of the target, and sets them until the next reload or start; 0 is none.",
        "portd ctl limit --max-target-ops 20000 --max-target-bytes-per-second 20MiB",
        frozenset({"max_target_ops", "max_target_bytes_per_second"}),
    ),
    "verify": Order(
        "Compares both ends now, beside the sync. With --wait, answers with the result and exits as portd verify does.",
        "portd ctl verify --wait",
        frozenset({"wait", "timeout"}),
        lasts=True,
    ),
    "accept": Order("Lets a full sync go on that is held.", "portd ctl accept --link eu"),
    "full-sync": Order(
        "Copies everything anew, whatever the checkpoint says; it is held where any full sync would be. Asks for the link's name, or "
        "needs --yes.",
        "portd ctl full-sync --link eu --yes",
        frozenset({"yes"}),
    ),
    "handover": Order(
        "Ends a link in order: applies what was received, writes the checkpoint, gives the lease back, and answers when another process "
        "can have it. The process ends with its last link.",
        "portd ctl handover",
        lasts=True,
    ),
    "reload": Order(
        "Reads the file of --config again, as SIGHUP does, and says what changed or what is wrong with it. Rules that take less are taken up.",
        "portd ctl reload",
        lasts=True,
        of_process=True,
    ),
}


def _completed(incomplete: str) -> list[tuple[str, str]]:
    """Commands that begin so, for the shell."""
    return [(name, order.about) for name, order in COMMANDS.items() if name.startswith(incomplete)]


def ctl(
    command: Annotated[
        str, typer.Argument(metavar="COMMAND", help=f"One of {', '.join(COMMANDS)}.", autocompletion=_completed)
    ],
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
            help="Name of the link that is meant, of a process with several; without it a command is for each of them, but accept and "
            "full-sync, which want a name. Also tells where the socket is when it is where systemd puts it: $RUNTIME_DIRECTORY or "
            "/run/portd, and /run/portd-NAME with portd@NAME.service.",
            show_default=False,
        ),
    ] = None,
    offset: Annotated[
        int | None,
        typer.Option(
            "--offset",
            metavar="NUMBER",
            min=0,
            help="Of drain: the source's replication offset to wait for.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0.001,
            max=7 * 86400,
            help="Of drain and verify --wait: how long to wait.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Of verify: wait for the result.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Of full-sync: do not ask.")] = False,
    max_target_ops: Annotated[
        int | None,
        typer.Option(
            "--max-target-ops", metavar="NUMBER", min=0, help="Of limit: commands per second.", show_default=False
        ),
    ] = None,
    max_target_bytes_per_second: Annotated[
        str | None,
        typer.Option(
            "--max-target-bytes-per-second", metavar="BYTES", help="Of limit: bytes per second.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as one JSON object.")] = False,
) -> None:
    """Tell a running sync something, or ask it."""
    order = _order(command)
    given = {
        "offset": offset,
        "timeout": timeout,
        "wait": wait or None,
        "yes": yes or None,
        "max_target_ops": max_target_ops,
    }
    given["max_target_bytes_per_second"] = _size(max_target_bytes_per_second)
    arguments: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in arguments.keys() - order.flags:
        raise typer.BadParameter(f"{command} has no --{name.replace('_', '-')}")
    if timeout is not None and command == "verify" and not wait:
        raise typer.BadParameter("verify waits for nothing without --wait")
    if command == "full-sync":
        arguments["confirm"] = arguments.pop("yes", None) or _typed_name()
    if link is not None and not order.of_process:
        arguments["link"] = link
    answer = _asked(socket or socket_of(link), command, arguments, lasts=order.lasts)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    elif text := answer.get("text"):
        typer.echo("\n".join(plain(line) for line in text.splitlines()))
    if not answer["ok"] and not as_json:
        say(str(answer.get("error", "refused")), hint=str(answer.get("hint", "")))
    raise typer.Exit(_exit_code(answer))


ctl.__doc__ = "\n\n".join(
    [
        str(ctl.__doc__),
        *(f"{name}: {order.about} ({order.example})" for name, order in COMMANDS.items()),
        "Example: portd ctl pause --link eu",
    ]
)


def _order(command: str) -> Order:
    """The command of that name; wrong usage where there is none."""
    if command not in COMMANDS:
        raise typer.BadParameter(f"there is no command {command!r}; there is {', '.join(COMMANDS)}")
    return COMMANDS[command]


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(f"--max-target-bytes-per-second: {error}") from None


def _typed_name() -> str:
    """The link's name as somebody types it who means it."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("a full sync has to be confirmed; give --yes")
    return str(typer.prompt("A full sync copies everything again. Type the link's name to begin it", err=True))


def _asked(path: Path, command: str, arguments: Mapping[str, Any], *, lasts: bool) -> dict[str, Any]:
    """The answer of the sync that listens there; exits where there is none."""
    from portd.controlsocket import ask  # noqa: PLC0415 - not wanted by the other commands' help

    try:
        return asyncio.run(ask(path, command, arguments, seconds=None if lasts else ANSWER_SECONDS))
    except PermissionError:
        say(f"{path} may not be opened", hint="ask as the user that runs the sync, or as root")
        raise typer.Exit(os.EX_NOPERM) from None
    except OSError as error:
        say(
            f"no sync answers at {path}: {error.strerror or error or 'it is silent'}",
            hint="give its control_socket with --control-socket; a sync that has none was started without",
        )
        raise typer.Exit(os.EX_UNAVAILABLE) from None


def _exit_code(answer: Mapping[str, Any]) -> int:
    """Of the link that has the worst to tell."""
    codes = [each.get("exit_code", 0) if each["ok"] else 1 for each in answer.get("links", ())]
    return max([*codes, 0 if answer["ok"] else 1])


def socket_of(link: str | None) -> Path:
    """Where the socket of that link is: its own, that of a process with several links, or that of a unit for this link."""
    directory = Path(os.environ.get("RUNTIME_DIRECTORY", str(RUNTIME)).split(":")[0])
    name = control_name(link or DEFAULT_LINK)
    own, several = directory / name, directory / control_name("")
    of_unit = directory.with_name(f"{directory.name}-{link or DEFAULT_LINK}") / name  # portd@.service
    return next((path for path in (own, several, of_unit) if path.exists()), own)
