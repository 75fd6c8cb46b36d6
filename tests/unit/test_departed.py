"""Shards of a source cluster whose node may be gone."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from portd.link import departed
from portd.link.departed import GONE_SECONDS, Departed
from tests.clock import Clock

if TYPE_CHECKING:
    import pytest

PRIMARY, REPLICA = SimpleNamespace(primary=True), SimpleNamespace(primary=False)


async def test_a_node_is_gone_when_it_was_silent_for_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has no slots, as any that has just joined, is not gone because it does not answer once."""
    clock, answers = Clock(), [None, PRIMARY, None, REPLICA, None]
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: SimpleNamespace(time=clock))

    async def view(*_: object) -> Any:
        return answers.pop(0)

    monkeypatch.setattr(departed, "view", view)
    party: Any = SimpleNamespace(name="one", node=object(), gone=False)
    anything: Any = None
    watch = Departed(anything, {"one": party}, anything)
    watch.note(["one"])
    found = []
    for seconds in (GONE_SECONDS - 1, GONE_SECONDS, 1, GONE_SECONDS - 2, 1):
        clock.now += seconds
        watch.note(["one"])
        found.append(await watch.over() == [party])
        assert party.gone is found[-1]
    assert found == [False, False, False, False, True]
    watch.note([])
    assert not party.gone, "it has slots again"
    assert await watch.over() == []
