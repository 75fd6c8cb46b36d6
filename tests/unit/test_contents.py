"""What of a target is a link's, by names."""

from __future__ import annotations

import asyncio

import pytest

from portd.target.kept.contents import covered


@pytest.mark.parametrize("seconds", [-1.0, 3600.0])
async def test_many_names_leave_others_their_turns(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the rules make of a name, the event loop is not held for a whole page of them."""
    monkeypatch.setattr("portd.target.kept.contents.TURN_SECONDS", seconds)
    names = [b"%d" % number for number in range(100)]
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count(), name="count")
    assert await covered(names, lambda name: name.endswith(b"0")) == names[::10]
    counting.cancel()
    assert turns >= 100 if seconds < 0 else turns == 0
