"""Groups of tasks, cancelled at any moment: what is cancelled ends, what is not goes on."""

from __future__ import annotations

import ast
import asyncio
import contextlib
from pathlib import Path

import pytest

import portd
from portd.errors import first_cause
from portd.groups import TaskGroup

TURNS = range(1, 25)  # of the loop, behind which a cancellation comes


class Trouble(Exception):
    """Something that passes."""


async def reluctant() -> None:
    """Ends some turns after it was told to."""
    try:
        await asyncio.Event().wait()
    finally:
        for _ in range(3):
            await asyncio.sleep(0)


async def fails(turns: int) -> None:
    """Does, after some turns."""
    for _ in range(turns):
        await asyncio.sleep(0)
    raise Trouble


async def tries_again() -> None:
    """What fails and is tried again, for ever."""
    while True:
        try:
            async with TaskGroup() as group:
                group.create_task(reluctant(), name="reluctant")
                await fails(1)
        except* Trouble:
            pass


async def fails_beside() -> None:
    """The same, where it is a task that fails."""
    while True:
        try:
            async with TaskGroup() as group:
                group.create_task(reluctant(), name="reluctant")
                group.create_task(fails(2), name="fails")
                await asyncio.sleep(0)
        except* Trouble:
            pass


async def nested() -> None:
    """A group in a group, the inner one of which is tried again."""
    async with TaskGroup() as group:
        group.create_task(tries_again(), name="tries again")
        await fails_beside()


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("work", [tries_again, fails_beside, nested])
async def test_a_cancellation_is_never_lost(work: object, turns: int) -> None:
    """Whenever it comes, also while a group ends because of something else."""
    task = asyncio.create_task(work(), name="work")  # type: ignore[operator]
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    for _ in range(50):
        await asyncio.sleep(0)
    assert task.done()
    assert task.cancelled()


async def test_a_group_that_fails_cancels_nobody_later() -> None:
    """Its own cancellations are taken back: a timeout behind it is a timeout."""
    owner = asyncio.current_task()
    assert owner is not None
    for turns in range(6):
        try:
            async with TaskGroup() as group:
                group.create_task(fails(turns), name="fails")
                for _ in range(3):
                    await asyncio.sleep(0)
        except* Trouble:
            pass
        assert owner.cancelling() == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.Event().wait()


@pytest.mark.parametrize("turns", TURNS)
async def test_a_timeout_stays_one(turns: int) -> None:
    """A timeout that comes while a group ends ends its block, and nothing behind it."""
    try:
        async with asyncio.timeout(None) as limit:
            expiring = asyncio.create_task(_expire(limit, turns), name="expire")
            async with TaskGroup() as group:
                group.create_task(reluctant(), name="reluctant")
                await fails(10)
    except* (Trouble, TimeoutError):
        pass
    await expiring
    owner = asyncio.current_task()
    assert owner is not None
    assert owner.cancelling() == 0


async def _expire(limit: asyncio.Timeout, turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    with contextlib.suppress(RuntimeError):  # it is over
        limit.reschedule(asyncio.get_running_loop().time())


async def test_who_was_cancelled_before_may_clean_up() -> None:
    """In a `finally`, a failure is what it is, and no second cancellation."""
    seen: list[BaseException] = []

    async def cleans_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            try:
                async with TaskGroup() as group:
                    group.create_task(reluctant(), name="reluctant")
                    await fails(1)
            except BaseExceptionGroup as errors:
                seen.append(first_cause(errors))

    task = asyncio.create_task(cleans_up(), name="cleans up")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [type(each) for each in seen] == [Trouble]


def test_nobody_uses_the_one_of_asyncio() -> None:
    """It loses cancellations before Python 3.13."""
    for path in Path(portd.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "TaskGroup" and path.name != "groups.py":
                raise AssertionError(f"{path}:{node.lineno}")
