"""A short deck of kills of alternating holders; `python -m tests.faults --standby 100` is the long one."""

from __future__ import annotations

import pytest

from tests.faults.standby import Couple


@pytest.mark.deep
async def test_kills_of_alternating_holders_lose_and_double_nothing() -> None:
    """Each kind of end comes up, and whoever takes over goes on exactly where the other one has ended."""
    async with Couple(4) as couple:
        report = await couple.run(10)
    assert set(report.takeovers) == {"SIGKILL", "SIGTERM", "SIGSTOP, SIGCONT"}
    assert report.full_syncs == 0
    assert report.counted > 0
