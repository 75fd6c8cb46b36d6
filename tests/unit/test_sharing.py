"""Answers that several ask for at once."""

from __future__ import annotations

import asyncio

import pytest

from portd.sharing import Shared


class Looks:
    """Looks that end when they are told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()

    async def look(self) -> int:
        """The number of the look; the second one fails."""
        self.begun += 1
        number = self.begun
        await self.may_end.wait()
        if number == 2:
            raise OSError("the second one")
        return number


async def test_one_look_answers_all_who_waited_for_it_and_none_who_came_behind_its_beginning() -> None:
    """The first look answers who asked for it alone; those who came meanwhile share the next one that does not fail."""
    looks, shared = Looks(), Shared[int]()
    first = asyncio.create_task(shared.ask(looks.look), name="first")
    await asyncio.sleep(0.001)  # the clock goes on
    later = [asyncio.create_task(shared.ask(looks.look), name=f"later {n}") for n in range(20)]
    await asyncio.sleep(0)
    looks.may_end.set()
    assert await first == 1
    with pytest.raises(OSError, match="second"):
        await later[0]
    assert {await each for each in later[1:]} == {3}
    assert looks.begun == 3


async def test_an_answer_may_be_good_for_a_while() -> None:
    """Who comes within that time gets it, whoever asked for it."""
    looks, shared = Looks(), Shared[int](seconds=3600.0)
    looks.may_end.set()
    assert [await shared.ask(looks.look) for _ in range(5)] == [1] * 5


async def test_one_who_is_cancelled_leaves_the_look_to_the_next() -> None:
    """A look that is cancelled says nothing."""
    looks, shared = Looks(), Shared[int]()
    first = asyncio.create_task(shared.ask(looks.look), name="first")
    await asyncio.sleep(0)
    looks.begun = 5
    second = asyncio.create_task(shared.ask(looks.look), name="second")
    await asyncio.sleep(0)
    first.cancel()
    looks.may_end.set()
    assert await second == 6
    assert first.cancelled()
