"""What ended a command, as words for people and an exit code for scripts (sysexits.h)."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from portd.errors import PortdError
from portd.text import hide_logins, plain

if TYPE_CHECKING:
    from collections.abc import Iterator


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside of groups of groups, in order."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


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
    """Logs what ended a command; returns the exit code."""
    from portd.log import get_logger  # noqa: PLC0415 - the process that reads settings does without a log

    log = get_logger("cli")
    found, code = cause(error), exit_code(error)
    if isinstance(found, PortdError):
        log.error("failed", error=str(found.args[0]), hint=found.hint, exit_code=code)
    else:
        log.error("failed", error=f"{type(found).__name__}: {found}", exit_code=code, exc_info=error)
    for other in leaves(error):
        if other is not found and isinstance(other, Exception):
            log.warning("failed with it", error=f"{type(other).__name__}: {other.args[0] if other.args else ''}")
    return code


def report_plainly(error: PortdError) -> int:
    """Says what is wrong before there is a log; returns the exit code."""
    print(f"portd: {plain(hide_logins(str(error)))}", file=sys.stderr)
    return error.exit_code
