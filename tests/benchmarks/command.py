"""What the commands of the benchmarks have in common: flags, the server they name, the file of figures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers import find

if TYPE_CHECKING:
    from tests.servers import Binary


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with `--server` and `--json`.

    Args:
        module: as it is run with ``python -m``.
        description: the module's docstring.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--server", default="valkey9.1", help="which of the servers found: valkey9.1, redis7.0, ...")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def binary_of(name: str) -> Binary:
    """The server of that name; without one there is nothing to measure."""
    binary = find(name)
    if binary is None:
        raise SystemExit(f"no server {name} was found")
    return binary


def keep(path: Path | None, figures: Any) -> None:
    """Writes figures where `--json` says."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")
