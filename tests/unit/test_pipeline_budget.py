"""The byte budget: order, limits, cancellation, accounts."""

from __future__ import annotations

import asyncio
import random

import pytest

from portd.pipeline import ByteBudget


async def _settle() -> None:
    """Lets every task run until it waits for something."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_takes_within_the_limit_at_once() -> None:
    """Bytes that fit are granted without waiting, and are accounted to their owner."""
    budget = ByteBudget(100)
    await budget.acquire("a", 60)
    await budget.acquire("b", 40)
    assert (budget.held("a"), budget.held("b"), budget.used) == (60, 40, 100)
    assert not budget.try_acquire("a", 1)


async def test_waits_for_room_in_order() -> None:
    """A small request never overtakes a large one that asked before."""
    budget = ByteBudget(100)
    await budget.acquire("held", 100)
    order: list[str] = []

    async def take(name: str, size: int) -> None:
        await budget.acquire(name, size)
        order.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(take("large", 80), name="large")
        await _settle()
        group.create_task(take("small", 1), name="small")
        await _settle()
        budget.release("held", 50)
        await _settle()
        assert order == []
        assert not budget.try_acquire("third", 1)
        budget.release("held", 50)
    assert order == ["large", "small"]


async def test_admits_an_oversized_item_alone() -> None:
    """An item above the limit waits until all else is released, then goes in, and nothing beside it."""
    budget = ByteBudget(10)
    await budget.acquire("a", 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(budget.acquire("big", 1000), name="big")
        await _settle()
        assert budget.held("big") == 0
        budget.release("a", 1)
    assert budget.held("big") == 1000
    assert not budget.try_acquire("a", 1)
    budget.release("big", 1000)
    assert budget.try_acquire("a", 1)
    assert budget.statistics().peak == 1000


async def test_cancelled_wait_takes_nothing_and_wakes_the_next() -> None:
    """Cancelling the head of the line lets the next one in."""
    budget = ByteBudget(10)
    await budget.acquire("a", 5)
    head = asyncio.create_task(budget.acquire("head", 10))
    await _settle()
    tail = asyncio.create_task(budget.acquire("tail", 5))
    await _settle()
    head.cancel()
    with pytest.raises(asyncio.CancelledError):
        await head
    await tail
    assert (budget.held("head"), budget.held("tail")) == (0, 5)


async def test_cancelled_after_grant_gives_back() -> None:
    """A waiter that is granted and cancelled in the same turn of the loop holds nothing."""
    budget = ByteBudget(10)
    await budget.acquire("a", 10)
    waiter = asyncio.create_task(budget.acquire("b", 10))
    await _settle()
    budget.release("a", 10)
    assert budget.held("b") == 10
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert budget.used == 0


@pytest.mark.parametrize("seed", range(5))
async def test_random_load_never_locks_up_or_exceeds(seed: int) -> None:
    """Whatever is asked, released and cancelled, the sum stays within the limit and everybody gets through."""
    rng = random.Random(seed)
    budget = ByteBudget(100)

    async def client(name: str) -> None:
        for _ in range(50):
            size = rng.randint(0, 100)
            await budget.acquire(name, size)
            assert budget.used <= 100
            try:
                for _ in range(rng.randint(0, 3)):
                    await asyncio.sleep(0)
            finally:
                budget.release(name, size)

    tasks = [asyncio.create_task(client(f"c{i}")) for i in range(8)]
    for _ in range(100):
        await asyncio.sleep(0)
    for task in tasks[:2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[2:] == [None] * 6
    assert budget.waiting == 0
    assert budget.used == 0


async def test_statistics_keep_peaks() -> None:
    """Peaks and their times survive the release, per owner and in total."""
    budget = ByteBudget(100)
    await budget.acquire("a", 70)
    budget.move("a", "b", 30)
    budget.release("a", 40)
    statistics = budget.statistics()
    assert (statistics.owners["a"].peak, statistics.owners["b"].now) == (70, 30)
    assert (statistics.used, statistics.peak) == (30, 70)
    assert statistics.peak_at > 0


async def test_refuses_to_release_what_is_not_held() -> None:
    """Giving back more than was taken is a bug that shows at once."""
    budget = ByteBudget(100)
    await budget.acquire("a", 1)
    with pytest.raises(ValueError, match="does not hold"):
        budget.release("a", 2)
    with pytest.raises(ValueError, match="does not hold"):
        budget.move("b", "a", 1)
    with pytest.raises(ValueError, match="at least one"):
        ByteBudget(0)


async def test_clear_takes_back_what_its_owners_hold() -> None:
    """What owners that are gone held is free again, and who waited for it goes on; nobody else loses a byte."""
    budget = ByteBudget(10)
    await budget.acquire("lane-0", 7)
    await budget.acquire("other", 3)
    waiting = asyncio.create_task(budget.acquire("queue", 4))
    await asyncio.sleep(0)
    budget.clear("lane-0", "never seen")
    await waiting
    assert (budget.used, budget.held("queue"), budget.held("other")) == (7, 4, 3)
    assert budget.held("lane-0") == 0
    assert budget.statistics().peak == 10
    budget.release("other", 3)
    assert budget.used == 4
