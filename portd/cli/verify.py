"""`portd verify`: are two live servers equal?"""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portd import log
from portd.cli.extra_flags import ALL_RULES, ENDS, LARGEST_BYTES, RULES, flags, parsed_largest
from portd.cli.failures import report_plainly
from portd.errors import PortdError, printable
from portd.files.outputs import STDOUT, Output
from portd.text import dumps, plain
from portd.verify.options import Method, Options

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from portd.verify.report import Found, Report

EPILOG = (
    "Works while writes go on: keys that differ are read again until they settle. Exit codes: 0 equal, 1 different, 75 "
    "some keys could not be decided, 64 usage, 65 bad data, 69 an end is not there, 74 disk, 77 an end refused us, "
    "78 settings. docs/verify.md tells how it works and what it costs the servers."
)
_NAMES = (*ENDS, "one_shard", "spool_dir", "silence_seconds", "log_level", *RULES)
_DEFAULTS = Options()
_OWN: dict[str, tuple[Any, Any]] = {
    "method": (
        Annotated[
            Method,
            typer.Option(
                "--method", help="How keys are read: psync, scan, or auto: PSYNC, or SCAN where it is refused."
            ),
        ],
        _DEFAULTS.method,
    ),
    "repair": (
        Annotated[bool, typer.Option("--repair", help="Copy differing keys to the target, remove extra ones there.")],
        False,
    ),
    "settle_seconds": (
        Annotated[
            float,
            typer.Option(
                "--settle-seconds",
                min=0.03,
                max=3600,
                metavar="SECONDS",
                help="A key differs when it stands still for so long and still differs. Longer than the sync's lag.",
            ),
        ],
        _DEFAULTS.settle_seconds,
    ),
    "rounds": (
        Annotated[int, typer.Option("--rounds", min=4, max=10_000, help="How often a key is read again at most.")],
        _DEFAULTS.rounds,
    ),
    "largest_bytes": LARGEST_BYTES,
    "show": (Annotated[int, typer.Option("--show", min=0, help="Differing keys to print at most.")], 20),
    "as_json": (
        Annotated[bool, typer.Option("--json", help="Print JSON lines: every differing key, then a summary.")],
        False,
    ),
    "output": (
        Annotated[
            Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the JSON lines to a file too.")
        ],
        None,
    ),
}


def _verify(
    file: Path | None,
    given: Mapping[str, Any],
    *,
    method: Method,
    repair: bool,
    settle_seconds: float,
    rounds: int,
    largest_bytes: str,
    show: int,
    as_json: bool,
    output: Path | None,
) -> None:
    """Compare every key of two live servers: value, type, expiry, field expiries, stream groups.

    Example: portd verify --source redis://old:6379 --target redis://new:6379
    """
    from portd.config.load import load_settings  # noqa: PLC0415 - heavy, and other commands do without

    try:
        settings = load_settings(given, file, ALL_RULES)
        options = Options(
            method=method,
            repair=repair,
            settle_seconds=settle_seconds,
            rounds=rounds,
            largest_bytes=parsed_largest(largest_bytes),
        )
    except PortdError as error:
        raise typer.Exit(report_plainly(error)) from None
    log.configure(settings.log_format, settings.log_level)
    import uvloop  # noqa: PLC0415 - the same

    from portd.verify.verification import verify  # noqa: PLC0415 - the same

    with ExitStack() as stack:
        try:
            screen = stack.enter_context(closing(Output(STDOUT)))
            file_output = stack.enter_context(closing(Output(str(output)))) if output is not None else None
            printer = _Printer(screen, file_output, show=show, as_json=as_json)
            found = uvloop.run(_until_terminated(verify(settings, options, printer.found)))
            printer.end(found)
        except KeyboardInterrupt:
            raise typer.Exit(128 + signal.SIGINT) from None
        except asyncio.CancelledError:
            raise typer.Exit(128 + signal.SIGTERM) from None
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - whatever it is becomes words and an exit code
            raise typer.Exit(report_plainly(error)) from None
    raise typer.Exit(found.exit_code)


verify_command = flags(_verify, _NAMES, _OWN)


async def _until_terminated(work: Coroutine[Any, Any, Report]) -> Report:
    """SIGTERM cancels the work, so that nothing is left on disk."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


class _Printer:
    """Prints differing keys as they are known, then the outcome."""

    def __init__(self, screen: Output, file: Output | None, *, show: int, as_json: bool) -> None:
        self._screen = screen
        self._file = file
        self._show = show
        self._as_json = as_json
        self._shown = 0

    def found(self, key: Found) -> None:
        """One differing key."""
        line = key.shown()
        self._write(line)
        if self._as_json:
            return
        if self._shown < self._show:
            note = f" ({key.note})" if key.note else ""
            origin = "" if key.source is None else f" (source: db {key.source[0]} key {printable(key.source[1])})"
            self._print(f"db {key.db} key {printable(key.name)}{origin}: {', '.join(line['differs'])}{note}")
        elif self._shown == self._show:
            self._print("... more: --show, --json and --output tell them all")
        self._shown += 1

    def end(self, outcome: Report) -> None:
        """The outcome."""
        self._write(outcome.shown())
        if not self._as_json:
            self._print(outcome.text())
        if self._file is not None:
            self._file.commit()

    def _write(self, line: Mapping[str, Any]) -> None:
        text = dumps(line)
        if self._file is not None:
            self._file.write(text.encode() + b"\n")
        if self._as_json:
            self._print(text)

    def _print(self, text: str) -> None:
        self._screen.write(plain(text).encode() + b"\n")
