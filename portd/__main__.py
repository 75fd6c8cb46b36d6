"""`python -m portd` and the `portd` script."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command that was asked for, and exits with its code."""
    if sys.argv[1:2] == ["sync"]:
        from portd.cli.launch import split  # noqa: PLC0415 - before anything else is loaded

        split()
    from portd.cli import app  # noqa: PLC0415 - the process that does the work has no use for it

    app.main()


if __name__ == "__main__":
    main()
