"""Rates and the time left, as the bar, the log and the status page show them."""

from __future__ import annotations

import pytest

from portd.model import Progress
from portd.watch.pace import Pace
from tests.clock import Clock


def test_rates_are_those_of_the_last_seconds() -> None:
    """What was long ago does not slow the rate down, and nothing is divided by zero at the start."""
    progress, clock = Progress(), Clock()
    pace = Pace(progress, clock)
    assert pace.read().keys == 0
    for second in range(60):
        clock.now += 1
        progress.snapshot.keys_applied += 1000 if second >= 40 else 10
        pace.sample()
    assert pace.read().keys == pytest.approx(1000, rel=0.01)


def test_the_time_left_follows_bytes_where_the_size_is_known() -> None:
    """A transfer with a length has a share and an end."""
    progress, clock = Progress(), Clock()
    progress.snapshot.bytes_total = 1000
    pace = Pace(progress, clock)
    clock.now += 5
    progress.snapshot.bytes_decoded = 250
    reading = pace.read()
    assert (reading.done, reading.eta_seconds, reading.decoded_bytes) == (0.25, 15.0, 50.0)


def test_bytes_that_wait_are_not_done() -> None:
    """What is decoded and waits for the target is still to come, however much smaller or larger it is as commands."""
    progress, clock = Progress(), Clock()
    snapshot = progress.snapshot
    snapshot.bytes_total = 1000
    pace = Pace(progress, clock)
    clock.now += 5
    snapshot.bytes_decoded, snapshot.bytes_made, snapshot.bytes_settled = 800, 8000, 1000
    assert (pace.read().done, pace.read().eta_seconds) == (0.1, 45.0)
    snapshot.bytes_settled = 8000
    assert pace.read().done == 0.8


def test_the_time_left_follows_keys_where_only_they_are_announced() -> None:
    """A diskless transfer has no length, but a hint of how many keys come."""
    progress, clock = Progress(), Clock()
    progress.snapshot.keys_announced = 100
    pace = Pace(progress, clock)
    clock.now += 1
    progress.snapshot.keys_read, progress.snapshot.keys_applied = 30, 20  # ten are on their way
    assert (pace.read().done, pace.read().eta_seconds) == (0.2, 4.0)
    progress.snapshot.keys_read = progress.snapshot.keys_applied = 150  # the hint was wrong
    assert pace.read().done == 0.999  # all of it is decoded, and its end is still to come


def test_the_total_is_that_of_all_databases() -> None:
    """Hints come with each database as it begins; the source has told how many keys there are in all."""
    progress, clock = Progress(), Clock()
    progress.snapshot.keys_announced, progress.snapshot.keys_total = 100, 1000
    pace = Pace(progress, clock)
    clock.now += 1
    progress.snapshot.keys_read, progress.snapshot.keys_applied = 150, 50
    progress.snapshot.keys_filtered, progress.snapshot.keys_expired, progress.snapshot.keys_failed = 30, 15, 5
    assert (pace.read().done, pace.read().eta_seconds) == (0.1, 9.0)


def test_unknown_stays_unknown() -> None:
    """Nothing announced, or nothing moving: no time left is made up."""
    progress, clock = Progress(), Clock()
    pace = Pace(progress, clock)
    clock.now += 1
    assert (pace.read().done, pace.read().eta_seconds) == (None, None)
    progress.snapshot.bytes_total = 10
    assert (pace.read().done, pace.read().eta_seconds) == (0.0, None)
    progress.snapshot.finished_at = 1.0
    assert (pace.read().done, pace.read().eta_seconds) == (1.0, 0.0)


def test_a_new_full_sync_does_not_count_backwards() -> None:
    """Counters that begin again show no negative rate, and the stream's first offset is no progress."""
    progress, clock = Progress(), Clock()
    progress.snapshot.keys_read = progress.snapshot.keys_applied = 5000
    pace = Pace(progress, clock)
    clock.now += 1
    progress.snapshot.keys_read = progress.snapshot.keys_applied = 10
    progress.stream.applied_offset = 10**12
    reading = pace.read()
    assert (reading.keys, reading.stream_bytes) == (0, 0)
