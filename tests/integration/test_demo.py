"""`portd demo` as a stranger runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest


@pytest.mark.parametrize("more", [[], ["--cluster"]], ids=["servers", "clusters"])
def test_the_demo_ends_with_both_ends_equal(more: list[str]) -> None:
    """One command, no server needed: it tells the address of the status page and compares both ends."""
    words = ["demo", "--keys", "2000", "--hash-fields", "20000", "--seconds", "0.5", *more]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTD_")}
    shown = subprocess.run(
        [sys.executable, "-m", "portd", *words],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    assert shown.returncode == os.EX_OK, shown.stdout + shown.stderr
    assert re.search(r"Look at http://127\.0\.0\.1:\d+/", shown.stdout)
    assert "event=progress" in shown.stderr
    assert shown.stdout.count("  equal\n") == 5
    assert shown.stdout.endswith("Both ends are equal.\n")
