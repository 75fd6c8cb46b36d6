"""`python -m portd` and the `portd` script."""

from __future__ import annotations

from portd.cli.app import main

if __name__ == "__main__":
    main()
