"""`portd demo` as a stranger runs it."""

from __future__ import annotations

import re

import pytest

from tests.commands import run


@pytest.mark.parametrize("more", [[], ["--cluster"]], ids=["servers", "clusters"])
def test_the_demo_ends_with_both_ends_equal(more: list[str]) -> None:
    """One command, no server needed: it tells the address of the status page and compares both ends."""
    words = ["demo", "--keys", "2000", "--hash-fields", "20000", "--seconds", "0.5", *more]
    shown = run(*words)
    said = shown.out.decode()
    assert re.search(r"Look at http://127\.0\.0\.1:\d+/", said)
    assert "event=progress" in shown.err
    assert said.count("  equal\n") == 5
    assert said.endswith("Both ends are equal.\n")
