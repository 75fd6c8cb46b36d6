"""A cancellation always comes through a group of tasks, also where an error ends the group at the same time."""

from __future__ import annotations

import asyncio
import sys

import pytest

from portd.groups import TaskGroup


class Lingering:
    """A task of a group that needs a while to end.

    Attributes:
        ending: it was cancelled.
        may_end: lets it end.
    """

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self.may_end = asyncio.Event()

    async def run(self) -> None:
        """Runs until it is cancelled and may end."""
        try:
            await asyncio.Event().wait()
        finally:
            self.ending.set()
            await self.may_end.wait()


async def again_and_again(lingering: Lingering, tries: list[int]) -> None:
    """Takes an error for a reason to try again, as whoever writes to a target does."""
    while len(tries) < 3:
        tries.append(len(tries))
        try:
            async with TaskGroup() as group:
                group.create_task(lingering.run())
                group.create_task(refused())
        except* ConnectionError:
            pass
        await asyncio.sleep(0)


async def refused() -> None:
    """An error in the group."""
    await asyncio.sleep(0)
    raise ConnectionError


async def test_a_cancellation_that_meets_an_error_is_not_lost() -> None:
    """It arrives while the group waits for its tasks to end: whoever tries again after errors does not."""
    lingering, tries = Lingering(), list[int]()
    task = asyncio.create_task(again_and_again(lingering, tries))
    await lingering.ending.wait()
    task.cancel()
    lingering.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tries == [0]


async def test_errors_alone_are_told() -> None:
    """Without a cancellation nothing is otherwise."""
    lingering, tries = Lingering(), list[int]()
    lingering.may_end.set()
    await again_and_again(lingering, tries)
    assert tries == [0, 1, 2]


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="asyncio tells who was cancelled of it again")
async def test_whoever_was_cancelled_before_may_clean_up() -> None:
    """A cancellation that was told does not come again with an error."""
    lingering, tries = Lingering(), list[int]()
    lingering.may_end.set()

    async def cleaning() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await again_and_again(lingering, tries)

    task = asyncio.create_task(cleaning())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tries == [0, 1, 2]
