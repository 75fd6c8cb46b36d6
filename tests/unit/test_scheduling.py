"""How cores are asked for while a snapshot is copied."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from portd.scheduling import bulk_work

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Whatever a test does, the next one begins with the usual policy."""
    yield
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_bulk_work_waits_its_turn_and_no_longer() -> None:
    """Inside of the block it interrupts nobody; behind it, also behind an error, it does again."""
    found = []
    with contextlib.suppress(LookupError), bulk_work():
        found.append(os.sched_getscheduler(0))
        raise LookupError
    assert found == [os.SCHED_BATCH]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_copies_side_by_side_end_with_the_last() -> None:
    """Two links copy at a time: what the first one to end does is not the end for the other."""
    first, second = bulk_work(), bulk_work()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.sched_getscheduler(0) == os.SCHED_BATCH
    second.__exit__(None, None, None)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_what_was_set_from_outside_is_left_alone() -> None:
    """CPUSchedulingPolicy= of a unit file means what it says, before and after."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with bulk_work():
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_BATCH


def test_a_sandbox_that_forbids_it_is_no_reason_not_to_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """SystemCallFilter=~@resources answers EPERM: the copy goes on as it would without."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    done = []
    with bulk_work():
        done.append(os.sched_getscheduler(0))
    monkeypatch.undo()
    assert done == [os.SCHED_OTHER]
