"""`portd cutover`: the target becomes the server, with a proof that it has everything."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from portd import log
from portd.cli.extra_flags import ALL_RULES, ENDS, LARGEST_BYTES, RULES, flags, parsed_largest
from portd.cli.failures import report_plainly, say
from portd.config.choices import VerifyMethod
from portd.cutover.options import Options, Proof, Stop
from portd.errors import ConfigError
from portd.files.outputs import STDOUT, Output
from portd.text import dumps, plain

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from portd.config.settings import Settings
    from portd.cutover.report import Report

EPILOG = (
    "Exit codes: 0 done, 1 there was a doubt: writes go on at the source, and the report says why, 64 usage, 69 an end or the sync is "
    "not there, 74 disk, 75 interrupted: writes go on at the source, 77 an end or the sync refused us, 78 settings. "
    "docs/guides/cut-over.md tells how it is done."
)
_NAMES = (*ENDS, "one_shard", "spool_dir", "expiry_gap", "silence_seconds", "log_level", *RULES)
_DEFAULTS: Final = Options()


def _seconds(flag: str, text: str, most: float = 86400.0, least: float = 0.1) -> Any:
    return Annotated[float, typer.Option(flag, help=text, min=least, max=most, metavar="SECONDS")]


def _command(flag: str, text: str) -> Any:
    return Annotated[str, typer.Option(flag, help=text, metavar="COMMAND", show_default=False)]


_OWN: dict[str, tuple[Any, Any]] = {
    "control_socket": (
        Annotated[
            Path | None,
            typer.Option(
                "--control-socket",
                metavar="PATH",
                help="The sync's control_socket. Unset: where systemd puts it, as for portd ctl.",
                show_default=False,
                envvar="PORTD_CONTROL_SOCKET",
            ),
        ],
        None,
    ),
    "rehearse": (
        Annotated[bool, typer.Option("--rehearse", help="Do everything but stop the writes and what follows from it.")],
        False,
    ),
    "stop": (
        Annotated[
            Stop,
            typer.Option(
                "--stop-writes",
                help="How writes are stopped at the source. pause: clients wait (Redis 6.2, Valkey), and go on by themselves should "
                "this command be killed. acl: the users of --fence-user may not write (6.0). replicas: min-replicas-to-write. "
                "command: --stop-command.",
            ),
        ],
        _DEFAULTS.stop,
    ),
    "users": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--fence-user",
                metavar="NAME",
                help="A user of the source who may not write any more when it is done (ACL SETUSER NAME -@write): what waits then is "
                "refused. May be given several times.",
                show_default=False,
            ),
        ],
        None,
    ),
    "stop_command": (_command("--stop-command", "With --stop-writes command: what stops them, run by a shell."), ""),
    "resume_command": (_command("--resume-command", "What undoes it."), ""),
    "primary": (
        Annotated[
            str,
            typer.Option(
                "--primary",
                metavar="URL",
                help="Where clients write, when the source is a replica. Without a login in it, the source's is used.",
                show_default=False,
            ),
        ],
        "",
    ),
    "most_seconds": (
        _seconds("--most-seconds", "Longest time for which writes may stand still before it goes back.", 600.0),
        _DEFAULTS.most_seconds,
    ),
    "keep_seconds": (
        _seconds(
            "--keep-paused",
            "How long clients wait on when it is done (pause). What they have sent is executed at the source behind that, unless "
            "--fence-user keeps them from it.",
            86400.0,
            0.0,
        ),
        _DEFAULTS.keep_seconds,
    ),
    "proof": (
        Annotated[
            Proof,
            typer.Option(
                "--proof",
                help="What is compared. all: every key, before writes are stopped. changes: what changes during this command; the "
                "sync's own last comparison speaks for the rest.",
            ),
        ],
        _DEFAULTS.proof,
    ),
    "method": (
        Annotated[
            VerifyMethod,
            typer.Option(
                "--method", help="How every key is read: psync, scan, or auto: PSYNC, or SCAN where it is refused."
            ),
        ],
        _DEFAULTS.method,
    ),
    "verified_seconds": (
        _seconds("--verified-within", "With --proof changes: how old the sync's last comparison may be.", 30 * 86400.0),
        _DEFAULTS.verified_seconds,
    ),
    "lag_seconds": (
        _seconds("--lag-seconds", "Largest lag of the sync with which writes are stopped.", 3600.0, 0.01),
        _DEFAULTS.lag_seconds,
    ),
    "wait_seconds": (
        _seconds("--wait-seconds", "How long to wait for the lag to be that small.", 86400.0, 0.0),
        _DEFAULTS.wait_seconds,
    ),
    "largest_bytes": LARGEST_BYTES,
    "accept_letters": (
        Annotated[
            bool, typer.Option("--accept-dead-letters", help="Go on although the sync has dead letters: they are told.")
        ],
        False,
    ),
    "then": (
        _command(
            "--then",
            "What moves the clients, run by a shell when the target is complete, with the report on its standard input.",
        ),
        "",
    ),
    "then_seconds": (_seconds("--then-seconds", "How long that may take.", 3600.0), _DEFAULTS.then_seconds),
    "key": (
        Annotated[
            Path | None,
            typer.Option(
                "--sign-key", metavar="FILE", help="File with a secret that the report is signed with (HMAC-SHA-256)."
            ),
        ],
        None,
    ),
    "output": (
        Annotated[
            Path | None, typer.Option("--report", metavar="FILE", help="Write the report as JSON to a file, too.")
        ],
        None,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")], False),
}


def _cutover(
    file: Path | None,
    given: Mapping[str, Any],
    *,
    control_socket: Path | None,
    users: list[str] | None,
    primary: str,
    largest_bytes: str,
    output: Path | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Make the target of a running sync the server: stop writes, drain, prove that both ends are equal, end the sync. Any doubt goes back.

    Example: portd cutover --config /etc/portd/portd.toml --rehearse
    """
    from portd.config.load import load_settings  # noqa: PLC0415 - heavy, and other commands do without

    try:
        settings = load_settings(given, file, ALL_RULES)
        options = Options(users=tuple(users or ()), largest_bytes=parsed_largest(largest_bytes), **chosen)
        key = _key(options.key)
        log.configure(settings.log_format, settings.log_level)
        with ExitStack() as stack:
            screen = stack.enter_context(closing(Output(STDOUT)))
            copy = stack.enter_context(closing(Output(str(output)))) if output is not None else None
            import uvloop  # noqa: PLC0415 - the same

            report = uvloop.run(_until_told(_made(settings, options, control_socket, primary)))
            if copy is not None:
                copy.write(dumps(report.shown(key), indent=2).encode() + b"\n")
                copy.commit()
            shown = dumps(report.shown(key), indent=2) if as_json else report.text(key)
            screen.write("\n".join(plain(line) for line in shown.splitlines()).encode() + b"\n")
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - whatever it is becomes words and an exit code
        raise typer.Exit(report_plainly(error)) from None
    if report.doubt:
        say(report.doubt, hint=report.hint)
    raise typer.Exit(report.exit_code)


cutover_command = flags(_cutover, _NAMES, _OWN)


async def _made(settings: Settings, options: Options, control_socket: Path | None, primary: str) -> Report:
    from dataclasses import replace  # noqa: PLC0415 - the same

    from portd.cli.ctl import socket_of  # noqa: PLC0415 - the same
    from portd.cutover.cutover import Cutover  # noqa: PLC0415 - the same
    from portd.cutover.sync import Sync  # noqa: PLC0415 - the same
    from portd.net.endpoint import Endpoint  # noqa: PLC0415 - the same

    source = settings.source_endpoint()
    where = None
    if primary:
        where = Endpoint.parse(primary, tls=source.tls if primary.startswith("rediss") else None)
        where = replace(where, connect_seconds=source.connect_seconds, silence_seconds=source.silence_seconds)
        if where.username is None and where.password is None:
            where = replace(where, username=source.username, password=source.password)
    return await Cutover(
        settings, options, Sync(control_socket or socket_of(settings.link), settings.link), where
    ).run()


async def _until_told(work: Coroutine[Any, Any, Report]) -> Report:
    """The first SIGINT or SIGTERM goes back in order; the next one ends the process, and a pause of writes ends by itself."""
    loop, task = asyncio.get_running_loop(), asyncio.create_task(work, name="cut-over")

    def on_signal() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return await task


def _key(path: Path | None) -> bytes | None:
    """What the report is signed with.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    if path is None:
        return None
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"the key {path} cannot be read: {error.strerror or error}") from None
    if not key:
        raise ConfigError(f"the key {path} is empty", hint="a line of 32 random bytes is one: openssl rand -hex 32")
    return key
