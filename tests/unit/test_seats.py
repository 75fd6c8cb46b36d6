"""Which lanes take batches: one for a near target, more where the distance is what bounds the sync."""

from __future__ import annotations

import asyncio

import pytest

from portd.target.snapshot import seats as module
from portd.target.snapshot.seats import Seats
from tests.loops import both_loops
from tests.servers import PATIENCE_SECONDS

FAR = 0.05  # seconds there and back


@pytest.fixture(autouse=True)
def decide_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every note is a decision."""
    monkeypatch.setattr(module, "DECIDE_SECONDS", 0.0)


@both_loops
async def test_seats_are_taken_in_turn() -> None:
    """No more lanes than seats at a time; who waits first sits first; a cancelled wait takes no seat."""
    seats = Seats(4)
    await seats.take()
    waiting = [asyncio.ensure_future(seats.take()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    seats.give()
    await asyncio.wait(waiting[:2])
    assert waiting[1].done()
    assert not waiting[2].done()
    seats.give()
    await waiting[2]


@both_loops
async def test_a_seat_given_to_a_cancelled_lane_goes_on() -> None:
    """It was handed over and not used: the next one has it."""
    seats = Seats(4)
    await seats.take()
    first, second = (asyncio.ensure_future(seats.take()) for _ in range(2))
    await asyncio.sleep(0)
    seats.give()
    first.cancel()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await second


@both_loops
async def test_distance_brings_seats_and_waiting_takes_them_away() -> None:
    """A full window that spends its time on the way wants more lanes; one that waits at the target wants fewer."""
    seats = Seats(3)
    await seats.take()
    others = [asyncio.ensure_future(seats.take()) for _ in range(2)]
    seats.note(1.2 * FAR, FAR, full=False)
    assert seats.count == 1
    for _ in range(5):
        seats.note(1.2 * FAR, FAR, full=True)
    await asyncio.gather(*others)
    assert seats.count == 3
    for _ in range(5):
        seats.note(10 * FAR, FAR, full=True)
    assert seats.count == 1
    assert seats.crowded


def test_a_near_target_has_one_lane_whatever_it_does() -> None:
    """Round trips on a machine or in a rack are no distance."""
    seats = Seats(4)
    for _ in range(5):
        seats.note(0.0002, 0.0001, full=True)
        seats.note(0.02, 0.0001, full=True)
    assert seats.count == 1
