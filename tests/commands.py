"""Commands other than sync as processes of their own, the way operators run them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.servers import PATIENCE_SECONDS

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: bytes
    err: str


def environment() -> dict[str, str]:
    """Ours without settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PORTD_")}


def command(*words: object) -> list[str]:
    """The words of a command line."""
    return [sys.executable, "-m", "portd", *map(str, words)]


def run(*words: object, stdin: bytes | Path | None = None, expect: int | None = os.EX_OK) -> Ended:
    """Runs a command to its end.

    Args:
        words: of the command line.
        stdin: bytes, or a file.
        expect: exit code; None takes any.
    """
    data = stdin if isinstance(stdin, bytes) else None
    source = stdin.open("rb") if stdin is not None and not isinstance(stdin, bytes) else None
    given: dict[str, object] = {"input": data} if data is not None else {"stdin": source or subprocess.DEVNULL}
    try:
        done = subprocess.run(  # type: ignore[call-overload]
            command(*words), capture_output=True, timeout=PATIENCE_SECONDS, env=environment(), check=False, **given
        )
    finally:
        if source is not None:
            source.close()
    ended = Ended(done.returncode, done.stdout, done.stderr.decode(errors="replace"))
    assert expect is None or ended.code == expect, f"exit code {ended.code}\n{ended.err}"
    return ended
