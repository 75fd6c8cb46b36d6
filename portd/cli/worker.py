"""The process that does the work; `portd.cli.launch` makes one of `portd sync` and leaves the settings to another process."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from portd.memory.cgroup import find_cgroup

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from portd.config.settings import Settings

# What the worker and the process that reads settings weigh together at most, with room to spare. A cgroup with a lower limit
# has one after the other.
BESIDE_BYTES = 128 << 20


def main() -> NoReturn:
    """Takes the settings over and runs the service.

    ``sys.argv[1:3]`` are a descriptor to read settings from, and the id of the child that writes them.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to say about an interrupt before there is something to stop
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # `launch` let it wait
    inbox, reader = int(sys.argv[1]), int(sys.argv[2])
    cgroup = find_cgroup()
    limit = cgroup.limit() if cgroup else None
    if limit is not None and limit < BESIDE_BYTES:
        data = _take_over(inbox, reader)
        _load()
    else:
        _load()
        data = _take_over(inbox, reader)
    sys.exit(_run(*pickle.loads(data)))  # noqa: S301 - our own, through a pipe of our own


def _take_over(inbox: int, reader: int) -> bytes:
    """Waits for the settings and for the end of the process that read them; exits as that one did if there are none."""
    with open(inbox, "rb") as pipe:
        data = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1])
    if not data:
        sys.exit(code if code >= 0 else 128 - code)
    return data


def _load() -> None:
    """Loads what the service needs."""
    gc.disable()  # nothing that is loaded becomes garbage
    for module in ("portd.cli.runner", "portd.process"):
        import_module(module)
    gc.enable()


def _run(links: Sequence[Settings], file: Path | None, pinned: frozenset[str], described: Sequence[Settings]) -> int:
    """Runs the service; returns its exit code.

    Args:
        links: what each of them is to do.
        file: TOML file, to be read again at SIGHUP.
        pinned: settings that the file cannot change, since a flag or variable set them.
        described: the links as the operator has them, with one where there is one for each shard of a source.
    """
    from portd import log  # noqa: PLC0415 - loaded by now
    from portd.cli.division import divided  # noqa: PLC0415 - the same
    from portd.cli.failures import report  # noqa: PLC0415 - the same
    from portd.cli.runner import run_blocking  # noqa: PLC0415 - the same
    from portd.errors import PortdError, redact_keys  # noqa: PLC0415 - the same
    from portd.process import Service  # noqa: PLC0415 - the same

    settings = links[0]  # what belongs to the process is the same in all
    log.configure(settings.log_format, settings.log_level)
    redact_keys(on=settings.redact_keys)
    reread = None
    if file is not None:
        from portd.cli.reload import ConfigFile  # noqa: PLC0415 - nothing can be read again where there is no file

        reread = ConfigFile(file, pinned, *described, narrows=True)
    while True:
        made: list[Service] = []

        def build() -> Service:
            made.append(Service(*links))  # noqa: B023 - called before it changes
            return made[-1]  # noqa: B023 - the same

        code = run_blocking(build, settings, reread)
        if not (made and made[-1].divides):
            return code
        try:
            links = divided(reread.in_use if reread is not None else described)
        except PortdError as error:
            return report(error)


if __name__ == "__main__":
    main()
