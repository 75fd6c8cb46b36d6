"""Refusals that pass: said once, then once a minute, counted by a closed set of codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import structlog.testing

from portd.net.replies import RETRY_CODES
from portd.source.refusals import _BUSY
from portd.troubles import CODES, OTHER, OVER_SECONDS, TELL_SECONDS, Troubles
from tests.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """What is logged."""
    with structlog.testing.capture_logs() as found:
        yield found


def test_a_refusal_is_told_once_and_then_once_a_minute(lines: list[Any]) -> None:
    """Ten minutes of refusals every five seconds are eleven lines, whose counts add up."""
    clock = Clock()
    troubles = Troubles(clock)
    for _ in range(121):
        troubles.note("target", "OOM", "OOM command not allowed")
        clock.now += 5
    assert len(lines) == 11
    assert [line["refusals"] for line in lines] == [1, *[TELL_SECONDS / 5] * 10]
    assert {(line["side"], line["code"], line["log_level"]) for line in lines} == {("target", "OOM", "warning")}
    assert lines[-1]["seconds"] == 600


def test_one_that_comes_and_goes_is_not_told_more_often(lines: list[Any]) -> None:
    """A target at its limit refuses for a moment, again and again: still one line a minute."""
    clock = Clock()
    troubles = Troubles(clock)
    for _ in range(20):
        troubles.note("target", "OOM", "x")
        clock.now += OVER_SECONDS + 1
    assert len(lines) == 1 + 20 * (OVER_SECONDS + 1) // TELL_SECONDS - 1


def test_what_has_passed_is_shown_no_more(lines: list[Any]) -> None:
    """Counts stay, the badge goes; each code and side is told for itself."""
    clock = Clock()
    troubles = Troubles(clock)
    troubles.note("target", "OOM", "x")
    troubles.note("source", "LOADING", "y")
    assert {(side, code) for side, code, _ in troubles.current()} == {("target", "OOM"), ("source", "LOADING")}
    assert len(lines) == 2
    clock.now += OVER_SECONDS + 1
    assert troubles.current() == []
    assert troubles.counts()["target", "OOM"] == 1


def test_a_code_is_found_in_a_sentence() -> None:
    """Where only a message is at hand, the first known code in it counts; a reason of a loss does, if it is one."""
    troubles = Troubles()
    troubles.note("target", "", "the target refuses for now while writing: NOREPLICAS Not enough good replicas")
    troubles.note("target", "", "something else")
    troubles.note_loss("readonly", "x")
    troubles.note_loss("reset", "x")
    found = {where: count for where, count in troubles.counts().items() if count}
    assert found == {("target", "NOREPLICAS"): 1, ("target", OTHER): 1, ("target", "READONLY"): 1}


def test_every_code_that_is_waited_out_is_known() -> None:
    """The tables follow what the parts wait out."""
    assert set(CODES["target"]) == RETRY_CODES | {OTHER}
    assert set(CODES["source"]) == set(_BUSY) | {OTHER}
