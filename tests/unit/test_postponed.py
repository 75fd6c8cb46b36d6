"""When expiries of a stream are postponed, and when a sweep behind it is through."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from portd.kernel.stream import StreamSplitter
from portd.target.kept import postponed
from portd.target.kept.postponed import LINK_MS, Horizon, Postponed, margin_seconds
from tests.oracle.resp import pack

if TYPE_CHECKING:
    from portd.kernel.stream import Piece

NOW = 1_800_000_000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is; moved by assignment."""
    moment = [NOW]
    monkeypatch.setattr(time, "time", lambda: moment[0])
    return moment


def seconds_ahead(horizon: Horizon) -> float:
    """How far from now on it reaches."""
    return horizon.ms() / 1000 - time.time()


def test_a_stream_without_lag_looks_a_moment_ahead(clock: list[float]) -> None:
    """Only what would pass on the way to the target is postponed."""
    assert seconds_ahead(Horizon(1)) == pytest.approx(0.1, abs=0.01)
    clock[0] += 100
    assert seconds_ahead(Horizon(1)) == pytest.approx(0.1, abs=0.01)


def test_lag_reaches_further_the_longer_it_lasts(clock: list[float]) -> None:
    """A minute and ten times the lag, up to a day."""
    horizon = Horizon(1, NOW - 30)
    assert seconds_ahead(horizon) == pytest.approx(360, abs=1)
    clock[0] += 30
    assert seconds_ahead(horizon) == pytest.approx(660, abs=1)
    assert margin_seconds(1e9) == 86400


def test_fresh_bytes_end_the_lag_but_not_at_once(clock: list[float]) -> None:
    """What the source still holds for us is not seen: the first two seconds count as lag."""
    horizon = Horizon(1, NOW - 30)
    horizon.received(NOW)
    assert horizon.since == NOW - 30
    clock[0] += 3
    horizon.received(clock[0] - 0.8)  # neither fresh nor late
    assert horizon.since
    horizon.received(clock[0])
    assert not horizon.since


def test_bytes_that_waited_begin_a_lag(clock: list[float]) -> None:
    """The oldest of them says since when."""
    horizon = Horizon(1)
    horizon.received(clock[0] - 5)
    horizon.received(clock[0] - 4)
    assert horizon.since == NOW - 5


def test_always_means_all_that_can_be_postponed(clock: list[float]) -> None:
    """Everything before the range of the next link."""
    assert Horizon(1, always=True).ms() == LINK_MS
    assert postponed.snapshot_margin_ms(always=True) + int(clock[0] * 1000) == LINK_MS


def piece(*command: bytes) -> Piece:
    """A piece with one command that is due."""
    splitter = StreamSplitter(100, 0)
    splitter.postpone(10_000, 1 << 45)
    splitter.feed(pack(list(command)), 0)
    found = splitter.next_piece(1000, 10)
    assert found is not None
    return found


def test_a_sweep_is_through_when_nothing_came_in_between() -> None:
    """Something postponed behind its beginning, or moved and found, needs another one."""
    postponing, moving = piece(b"PEXPIREAT", b"k", b"5000"), piece(b"RENAME", b"k", b"l")
    known = Postponed(there=False)
    assert not known.wanted.is_set()
    known.note(postponing)
    assert known.there
    assert not known.applied(100)
    end = postponing.end_offset
    assert known.applied(end)
    mark = known.mark(end)
    known.note(moving)
    assert not known.swept(mark, corrected=1)
    assert known.swept(mark, corrected=0), "it looked everywhere and found nothing"
    assert not known.wanted.is_set()


def test_what_is_on_its_way_when_a_sweep_begins_counts_as_in_between() -> None:
    """A RENAME that was taken and not applied may pass the sweep by."""
    moving = piece(b"RENAME", b"k", b"l")
    known = Postponed(there=True)
    known.note(moving)
    assert not known.swept(known.mark(moving.end_offset - 1), corrected=1)
    assert known.swept(known.mark(moving.end_offset), corrected=1)


def test_a_checkpoint_that_says_so_is_enough() -> None:
    """What an earlier process postponed is wanted from the start."""
    assert Postponed(there=True).there
