"""The most telling rounds of the deck of late bytes; `python -m tests.faults --late 300` is the long one."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.faults.late import PERMISSIONS, STRIKES, Ends, Round

if TYPE_CHECKING:
    from collections.abc import Iterator

BY_NAME = {each.name: each for each in STRIKES}
ROUNDS = {
    "all": (
        ("lane: MSET", "reset"),
        ("lane: any bytes", "takeover"),
        ("lane: RPUSH", "expiry"),
        ("checkpoint behind the snapshot", "reset"),
        ("pruning: UNLINK", "partition"),
        ("sweeper: EVAL", "kill"),
    ),
    "least": (
        ("lane: MSET", "reset"),
        ("lane: epoch renewed", "kill"),
        ("lane: RPUSH", "partition"),
        ("checkpoint behind the snapshot", "reset"),
        ("pruning: UNLINK", "takeover"),
        ("marker", "expiry"),
    ),
}


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    """One source and one target for all rounds."""
    with Ends() as both:
        yield both


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("permissions", "strike", "action"),
    [
        pytest.param(permissions, strike, action, id=f"{strike}-{action}-{permissions}")
        for permissions in PERMISSIONS
        for strike, action in ROUNDS[permissions]
    ],
)
def test_late_bytes_change_nothing(ends: Ends, permissions: str, strike: str, action: str) -> None:
    """What portd sent before it lost a connection or the link takes no effect behind what was written since."""
    outcome = Round(ends, BY_NAME[strike], action, permissions, random.Random(f"{strike} {action}")).run()
    assert not outcome.trouble, "\n".join(outcome.trouble)
    assert outcome.struck, "the sync was through before the bytes came up"
