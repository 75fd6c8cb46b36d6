"""The process that does the work: settings are read in one program, which then becomes another one that runs them.

Reading settings takes libraries (pydantic, typer) that weigh 12 MB, and Python cannot give an imported library back. So
`portd sync` reads, checks, and executes this module in its own place: same process id, same terminal, same supervisor.
It also leaves the secrets of flags and variables behind: neither the command line nor the environment has them any more.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import portd
from portd.config import ENV_PREFIX
from portd.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.config import Settings

_CHUNK_BYTES = 1 << 16


def become_worker(
    settings: Settings, warnings: Sequence[str], file: Path | None = None, pinned: frozenset[str] = frozenset()
) -> NoReturn:
    """Replaces this program by the worker; only returns by its exit.

    Args:
        settings: handed over through a pipe that is not in the file system.
        warnings: variables that no setting reads, for its log.
        file: TOML file, to be read again at SIGHUP.
        pinned: settings that the file cannot change, since a flag or variable set them.
    """
    inbox, outbox = os.pipe()
    data = pickle.dumps((settings, list(warnings), file, pinned))
    if len(data) > _CHUNK_BYTES:
        raise InternalError("settings do not fit into a pipe")  # it holds 64 KiB, and nobody reads yet
    os.write(outbox, data)
    os.close(outbox)
    os.set_inheritable(inbox, True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    # -P keeps a directory named portd that happens to lie here from being taken for ours.
    here = Path(portd.__file__).parents[1] == Path.cwd() and not sys.flags.safe_path
    words = [sys.executable, *([] if here else ["-P"]), "-m", __name__, str(inbox)]
    words += [settings.source_endpoint().display, settings.target_endpoint().display, settings.link]  # for ps
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, words, environment)  # noqa: S606 - there is no shell


def main() -> NoReturn:
    """Takes the settings over and runs the service."""
    import redis.asyncio  # noqa: F401, PLC0415 - always needed in the end: loaded before the interpreter is weighed

    from portd import log  # noqa: PLC0415 - the program that becomes this one does not need it
    from portd.cli.reload import ConfigFile  # noqa: PLC0415 - the same
    from portd.cli.runner import run_blocking  # noqa: PLC0415 - the same
    from portd.service import Service  # noqa: PLC0415 - the same

    with open(int(sys.argv[1]), "rb") as inbox:  # noqa: PTH123 - a descriptor
        settings, warnings, file, pinned = pickle.load(inbox)  # noqa: S301 - our own, through a pipe of our own
    log.configure(settings.log_format, settings.log_level)
    for name in warnings:
        log.get_logger("cli").warning("variable is not a setting", variable=name)
    reread = ConfigFile(file, pinned, settings.log_format) if file is not None else None
    sys.exit(run_blocking(lambda: Service(settings), settings, reread))


if __name__ == "__main__":
    main()
