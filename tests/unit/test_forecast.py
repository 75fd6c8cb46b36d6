"""The forecast's arithmetic: which limit is reached first, and when."""

from __future__ import annotations

import math

import pytest

from portd.model import SourceOutlook
from portd.source.forecast import Outlook, our_output
from portd.source.info import OutputLimit

MIB = 1 << 20


@pytest.fixture
def outlook() -> Outlook:
    """With the limits that servers have by default."""
    found = Outlook(SourceOutlook())
    found.limits(OutputLimit(256 * MIB, 64 * MIB, 60))
    return found


def told(outlook: Outlook) -> SourceOutlook:
    """What it has filled in."""
    return outlook._outlook


def test_nothing_queued_is_no_danger(outlook: Outlook) -> None:
    """A link that is read as fast as the source writes has all the time in the world."""
    for second in range(10):
        outlook.output(float(second), 0)
    assert told(outlook).seconds_left == math.inf


def test_a_growing_buffer_reaches_the_hard_limit(outlook: Outlook) -> None:
    """At 20 MiB/s the hard limit comes long before the soft one has lasted its 60 s."""
    for second in range(12):
        outlook.output(float(second), second * 20 * MIB)
    assert told(outlook).output_growth == pytest.approx(20 * MIB, rel=0.01)
    assert told(outlook).seconds_left == pytest.approx((256 - 220) / 20, rel=0.05)


def test_the_soft_limit_counts_from_when_it_was_passed(outlook: Outlook) -> None:
    """A buffer that stays at 100 MiB lives for 60 s; one that falls below 64 MiB begins anew."""
    outlook.output(0.0, 100 * MIB)
    outlook.output(10.0, 100 * MIB)
    assert told(outlook).seconds_left == pytest.approx(50)
    outlook.output(20.0, 10 * MIB)
    assert told(outlook).seconds_left == math.inf
    outlook.output(30.0, 100 * MIB)
    assert told(outlook).seconds_left <= 60


def test_without_limits_nothing_is_lost() -> None:
    """client-output-buffer-limit replica 0 0 0."""
    outlook = Outlook(SourceOutlook())
    outlook.limits(OutputLimit(0, 0, 0))
    for second in range(5):
        outlook.output(float(second), second * MIB)
    assert told(outlook).seconds_left == math.inf


def test_the_backlog_lasts_as_long_as_what_is_written_fits(outlook: Outlook) -> None:
    """100 MiB of backlog at 1 MiB/s, 10 MiB behind: 90 s."""
    for second in range(12):
        outlook.backlog(float(second), (50 + second) * MIB, (40 + second) * MIB, 100 * MIB)
    assert told(outlook).backlog_behind_bytes == 10 * MIB
    assert told(outlook).backlog_seconds_left == pytest.approx(90, rel=0.01)


def test_our_client_is_found_by_address() -> None:
    """Among several replicas the one with our address; a single one whatever its address, for NAT; none is unknown."""
    line = "id=3 addr={} laddr=10.0.0.1:6379 name= flags=S omem={} tot-mem=9 cmd=psync\n"
    two = line.format("10.0.0.2:1000", 5) + line.format("10.0.0.3:1000", 7)
    assert our_output(two, "10.0.0.3:1000") == 7
    assert our_output(two, "10.0.0.4:1000") is None
    assert our_output(line.format("10.0.0.2:1000", 5), "192.168.0.1:1") == 5
    assert our_output("", "10.0.0.3:1000") is None
