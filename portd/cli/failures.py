"""What ended a command, as words for people and an exit code for scripts (sysexits.h).

There is one form: `portd: what failed, and where`, and `HINT: what to do` on a line of its own. A command that keeps a log (sync,
dump, restore) says the same as a line of its log. Either is the last that is said.
"""

from __future__ import annotations

import os
import sys
import traceback

from portd.errors import PortdError, leaves
from portd.text import hide_logins, plain


def cause(error: BaseException) -> BaseException:
    """The one that matters most: a bug, then an error that will not pass, then one that may, then the rest."""

    def rank(leaf: BaseException) -> int:
        if not isinstance(leaf, PortdError):
            return 0 if isinstance(leaf, Exception) else 3  # cancellation and the like only follow from others
        return 2 if leaf.retriable else 1

    return min(leaves(error), key=rank)


def exit_code(error: BaseException) -> int:
    """The code to exit with."""
    found = cause(error)
    return found.exit_code if isinstance(found, PortdError) else os.EX_SOFTWARE


def report(error: BaseException) -> int:
    """Logs what ended a command that keeps a log, as its last line; returns the exit code."""
    from portd.log import get_logger  # noqa: PLC0415 - the process that reads settings does without a log

    log = get_logger("cli")
    found, code = cause(error), exit_code(error)
    for other in leaves(error):
        if other is not found and isinstance(other, Exception):
            log.warning("failed with it", error=f"{type(other).__name__}: {other.args[0] if other.args else ''}")
    if isinstance(found, PortdError):
        log.error("failed", error=str(found.args[0]), hint=found.hint, exit_code=code)
    else:
        log.error("failed", error=f"{type(found).__name__}: {found}", exit_code=code, exc_info=error)
    return code


def report_plainly(error: BaseException) -> int:
    """Says what ended a command that keeps no log, or has none yet; returns the exit code."""
    found, code = cause(error), exit_code(error)
    if isinstance(found, PortdError):
        say(str(found))
        return code
    lines = traceback.format_exception(error)
    print(plain(hide_logins("".join(lines), bare=True)), end="", file=sys.stderr)
    say(f"{type(found).__name__}: {found}", hint="this is a fault of portd: please report it with what stands above")
    return code


def say(text: str, *, hint: str = "") -> None:
    """What is wrong, in the form that all errors have."""
    print(
        f"portd: {plain(hide_logins(text))}" + (f"\nHINT: {plain(hide_logins(hint))}" if hint else ""), file=sys.stderr
    )
