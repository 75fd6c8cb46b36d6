"""Phase, readiness and reason: one rule, for all combinations of what may be so."""

from __future__ import annotations

from itertools import product

import pytest

from portd.cli.display import one_line
from portd.model import Phase, Progress
from portd.watch.pace import Pace
from portd.watch.standing import SMALL_LAG_SECONDS, End, Facts, look, stand


def test_ready_is_what_has_the_snapshot_and_both_ends() -> None:
    """Of all combinations, ready are exactly those that follow the stream with nobody away and no stop asked for."""
    for work, source, target, stopping in product(Phase, End, (End.THERE, End.AWAY), (False, True)):
        found = stand(Facts(work=work, source=source, target=target, stopping=stopping))
        follows = work in {Phase.CATCHING_UP, Phase.STREAMING}
        assert found.ready == (follows and source is target is End.THERE and not stopping), (work, source, target)
        assert bool(found.reason) != found.ready
        assert not found.ready or found.phase in {Phase.CATCHING_UP, Phase.STREAMING}


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (End.AWAY, End.THERE, "the source is not connected"),
        (End.THERE, End.AWAY, "the target is not connected"),
        (End.AWAY, End.AWAY, "the source and the target are not connected"),
    ],
)
def test_the_end_that_is_gone_is_named(source: End, target: End, reason: str) -> None:
    """In the stream an end that is gone is a phase of its own; a snapshot goes on with what has come."""
    found = stand(Facts(work=Phase.STREAMING, source=source, target=target))
    assert (found.phase, found.reason) == (Phase.CONNECTING, reason)
    found = stand(Facts(work=Phase.SNAPSHOT, source=source, target=target))
    assert found.phase is Phase.SNAPSHOT
    assert found.reason.endswith(reason)


def test_a_lag_that_is_not_small_is_no_streaming() -> None:
    """A target that falls behind catches up again; it may still be read."""
    for lag, phase in ((None, Phase.STREAMING), (SMALL_LAG_SECONDS, Phase.STREAMING), (11.0, Phase.CATCHING_UP)):
        found = stand(Facts(work=Phase.STREAMING, lag_seconds=lag))
        assert (found.phase, found.ready) == (phase, True)


def test_a_source_that_prepares_is_waited_for() -> None:
    """Between the agreement on a full sync and its first byte."""
    progress = Progress(phase=Phase.CONNECTING, preparing=True)
    assert look(progress).phase is Phase.WAITING


def test_a_command_without_a_source_lacks_none() -> None:
    """`restore` reads a file, `dump` writes one: neither has a lag, and nobody is away."""
    progress = Progress(phase=Phase.CATCHING_UP)
    progress.stream.read_offset = progress.stream.decoded_offset = 10**9
    assert look(progress).phase is Phase.CATCHING_UP
    assert "lag" not in one_line(progress, Pace(progress).read())
    progress.phase = Phase.STREAMING
    progress.source.connects, progress.source.connected = 1, True
    assert (progress.lag_bytes, progress.lag_seconds) == (None, None)
    assert "lag" not in one_line(progress, Pace(progress).read())
