"""`portd demo` as a stranger runs it."""

from __future__ import annotations

import pytest

from tests.commands import run
from tests.servers import free_port


@pytest.mark.parametrize("more", [[], ["--cluster"]], ids=["servers", "clusters"])
def test_the_demo_ends_with_both_ends_equal(more: list[str]) -> None:
    """One command, no server needed: it tells the address of the status page and compares both ends."""
    address = f"127.0.0.1:{free_port()}"  # the usual one is another demo's, perhaps, when the sync begins to listen
    words = ["demo", "--keys", "2000", "--hash-fields", "20000", "--seconds", "0.5", "--http", address, *more]
    shown = run(*words)
    said = shown.out.decode()
    assert f"Look at http://{address}/" in said
    assert "event=progress" in shown.err
    assert said.count("  equal\n") == 5
    assert said.endswith("Both ends are equal.\n")
