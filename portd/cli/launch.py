"""How `portd sync` starts: one process reads the settings while another one loads what does the work.

Reading settings takes libraries (pydantic, typer) that weigh 12 MB and load as long as all the rest, and Python cannot give
an imported library back. So the program forks at once. The child reads, checks, answers for what is wrong, hands the settings
over and ends. The parent, with the process id, the terminal and the supervisor, becomes `portd.cli.worker` and loads
meanwhile. Secrets in flags and variables stay behind: neither the command line nor the environment of the worker has them.

Only what the interpreter has loaded anyway is imported here, and signal, which both need at once.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import portd
from portd import ENV_PREFIX
from portd.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Flags that tell one sync from another in the output of ps(1).
_SHOWN = ("--source", "--target", "--link", "--config", "-c")

_outbox: int | None = None  # where the worker waits for its settings, in the process that reads them


def split() -> None:
    """Forks; returns in the child, which is to call `hand_over` or to end with a code of its own."""
    global _outbox  # noqa: PLW0603 - a process is split once
    # Where whoever started us ignores it, the kernel keeps no exit code of the child for the worker.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    inbox, outbox = os.pipe()
    reader = os.fork()
    if reader:
        os.close(outbox)
        _become_worker(inbox, reader)
    os.close(inbox)
    _outbox = outbox
    gc.disable()  # it imports, hands over and ends: nothing becomes garbage that matters


def hand_over(*things: Any) -> None:
    """Gives the worker what it waits for.

    Raises:
        InternalError: the process was not split.
    """
    if _outbox is None:
        raise InternalError("no worker waits for settings")
    import pickle  # noqa: PLC0415 - the process that becomes the worker does without

    try:
        with open(_outbox, "wb") as pipe:  # noqa: PTH123 - a descriptor
            pipe.write(pickle.dumps(things))
    except BrokenPipeError:
        return  # the worker was ended, and whoever did that knows


def _become_worker(inbox: int, reader: int) -> NoReturn:
    """Executes the worker in our own place.

    An interrupt waits until the worker takes it: the interpreter would show a traceback, or lose it, while it starts.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.set_inheritable(inbox, True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    package = os.path.dirname(os.path.abspath(portd.__file__))  # noqa: PTH100, PTH120 - pathlib takes time to load
    # -P keeps a directory named portd that happens to lie here from being taken for ours.
    here = os.path.dirname(package) == os.getcwd() and not sys.flags.safe_path  # noqa: PTH109, PTH120 - the same
    words = [sys.executable, *([] if here else ["-P"]), "-m", "portd.cli.worker", str(inbox), str(reader)]
    os.execve(sys.executable, [*words, *shown(sys.argv[2:])], environment)  # noqa: S606 - there is no shell


def shown(words: Sequence[str]) -> Iterator[str]:
    """What of a command line may be seen by all: which sync it is, addresses without users, passwords and queries."""
    flag = ""
    for word in words:
        name, equals, value = word.partition("=")
        if flag:
            yield from (flag, _without_login(word))
            flag = ""
        elif equals and name in _SHOWN:
            yield f"{name}={_without_login(value)}"
        elif word in _SHOWN:
            flag = word


def _without_login(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    if not scheme.replace("+", "").isalnum():
        scheme, separator, rest = "", "", address
    return scheme + separator + rest.rpartition("@")[2].partition("?")[0]
