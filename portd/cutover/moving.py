"""The operator's command that moves the clients: it gets the report, and says by its exit code whether they have moved."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from typing import TYPE_CHECKING, Final

from portd.cutover.doubt import Doubt
from portd.text import dumps

if TYPE_CHECKING:
    from portd.cutover.options import Options
    from portd.cutover.report import Report

END_SECONDS: Final = 5.0  # from SIGTERM to SIGKILL


async def move(options: Options, report: Report) -> None:
    """Runs it.

    Raises:
        Doubt: it failed, or took too long; it has ended.
    """
    with tempfile.TemporaryFile() as told:  # a pipe would have to be read by somebody
        told.write(dumps(report.shown()).encode() + b"\n")
        told.seek(0)
        process = await asyncio.create_subprocess_shell(options.then, stdin=told, start_new_session=True)
    try:
        async with asyncio.timeout(options.then_seconds):
            await process.wait()
    except TimeoutError:
        raise Doubt(
            f"the command of --then took longer than {options.then_seconds:g} s", hint="--then-seconds"
        ) from None
    finally:
        await _end(process)
    if process.returncode:
        raise Doubt(f"the command of --then ended with {process.returncode}", hint="its output stands above")


async def _end(process: asyncio.subprocess.Process) -> None:
    """It, and what it has started, runs no more."""
    if process.returncode is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
        except TimeoutError:
            continue
        return
