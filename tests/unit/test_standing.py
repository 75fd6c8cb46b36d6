"""Phase, readiness and reason: one rule, for all combinations of what may be so."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from itertools import product

import pytest

from portd.cli.display import one_line
from portd.model import LEASE_SECONDS, NodeAway, Phase, Progress, Role, Standby, Work
from portd.watch.pace import Pace
from portd.watch.standing import SMALL_LAG_SECONDS, End, Facts, look, stand


def test_ready_is_what_has_the_snapshot_and_both_ends() -> None:
    """Of all combinations, ready are exactly those that follow the stream with nobody away, no stop asked for and no end."""
    switches = product((False, True), repeat=4)
    for work, source, target, switch in product(Work, End, (End.THERE, End.AWAY), tuple(switches)):
        stopping, ended, caught_up, introduced = switch
        found = stand(
            Facts(
                work=work,
                source=source,
                target=target,
                stopping=stopping,
                ended=ended,
                caught_up=caught_up,
                introduced=introduced,
            )
        )
        follows = work is Work.FOLLOWING
        there = source is target is End.THERE
        assert found.ready == (follows and there and not stopping and not ended), (work, source, target, switch)
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
    found = stand(Facts(work=Work.FOLLOWING, caught_up=True, source=source, target=target))
    assert (found.phase, found.reason) == (Phase.CONNECTING, reason)
    found = stand(Facts(work=Work.COPYING, source=source, target=target))
    assert found.phase is Phase.SNAPSHOT
    assert found.reason.endswith(reason)


def test_a_node_that_is_left_behind_is_named() -> None:
    """A target cluster is not ready while one of its nodes lacks what others have; the reason says which and why."""
    progress = Progress(introduced=True, work=Work.FOLLOWING)
    progress.source.connected = True
    assert look(progress).ready
    progress.nodes_away["a:1"] = NodeAway("a:1", "0-5460", "closed", time.time())
    found = look(progress)
    assert (found.phase, found.ready) == (Phase.CONNECTING, False)
    assert found.reason == "the target's node a:1 (slots 0-5460) is left behind: closed"


def test_a_lag_that_is_not_small_is_no_streaming() -> None:
    """A target that falls behind catches up again; it may still be read."""
    for lag, phase in ((None, Phase.STREAMING), (SMALL_LAG_SECONDS, Phase.STREAMING), (11.0, Phase.CATCHING_UP)):
        found = stand(Facts(work=Work.FOLLOWING, caught_up=True, lag_seconds=lag))
        assert (found.phase, found.ready) == (phase, True)


@pytest.mark.parametrize(
    ("facts", "phase", "reason"),
    [
        (Facts(introduced=False), Phase.STARTING, "both ends are being asked who they are"),
        (Facts(), Phase.CONNECTING, "the source is not connected"),
        (Facts(introduced=False, failure="no such host"), Phase.CONNECTING, "no such host; it is tried again"),
        (Facts(introduced=False, failure="no such host", stopping=True), Phase.DRAINING, "it was told to stop"),
        (Facts(ended=True), Phase.STOPPED, "it has stopped"),
        (Facts(ended=True, failure="wrong password", stopping=True), Phase.FAILED, "wrong password"),
        (Facts(held="source-empty: x"), Phase.HELD, "source-empty: x"),
        (Facts(work=Work.COPYING, held="prune-limit: x", stopping=True), Phase.DRAINING, "it was told to stop"),
    ],
)
def test_what_is_not_at_work_says_why(facts: Facts, phase: Phase, reason: str) -> None:
    """Before the first byte and behind the last one, the phase and its reason follow from what has happened."""
    found = stand(facts)
    assert (found.phase, found.reason, found.ready) == (phase, reason, False)


def test_work_is_over_where_its_block_is() -> None:
    """Also behind an error: nobody has to undo a phase."""
    progress = Progress(introduced=True)
    with contextlib.suppress(LookupError), progress.doing(Work.COPYING):
        assert look(progress).phase is Phase.SNAPSHOT
        raise LookupError
    assert look(progress).phase is Phase.CONNECTING


def test_a_source_that_prepares_is_waited_for() -> None:
    """Between the agreement on a full sync and its first byte."""
    progress = Progress(introduced=True, preparing=True)
    assert look(progress).phase is Phase.WAITING


def test_a_command_without_a_source_lacks_none() -> None:
    """`restore` reads a file, `dump` writes one: neither has a lag, and nobody is away."""
    progress = Progress(work=Work.FOLLOWING)
    progress.stream.read_offset = progress.stream.decoded_offset = 10**9
    assert look(progress).phase is Phase.CATCHING_UP
    assert "lag" not in one_line(progress, Pace(progress).read())
    progress.stream.caught_up = True
    progress.source.connects, progress.source.connected = 1, True
    assert (progress.lag_bytes, progress.lag_seconds) == (None, None)
    assert "lag" not in one_line(progress, Pace(progress).read())


def test_a_standby_is_not_ready_whatever_it_did_before() -> None:
    """The link is another process's. It is a spare one as long as it could take over, and did not end."""
    for work, caught_up, unfit in product(Work, (False, True), (False, True)):
        facts = Facts(work=work, caught_up=caught_up, standby="process 7 has the link", unfit=unfit)
        found = stand(facts)
        assert (found.phase, found.ready, found.reason) == (Phase.STANDBY, False, "process 7 has the link")
        assert found.spare is not unfit
        assert not stand(replace(facts, stopping=True)).spare
        assert stand(replace(facts, ended=True)).phase is Phase.STOPPED


def test_the_line_of_a_standby_says_for_whom_it_waits() -> None:
    """And how much of the backlog is left, where that is known."""
    progress = Progress(standby=Standby(holder="process 7 on a"))
    assert one_line(progress, Pace(progress).read()) == "standby: process 7 on a has the link"
    progress.outlook.backlog_bytes, progress.outlook.backlog_behind_bytes = 3 << 20, 1 << 20
    assert one_line(progress, Pace(progress).read()).endswith("has the link, 2.00 MiB of backlog left")


def test_a_role_ends_with_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that could not renew for 15 s has nothing any more, as far as it knows."""
    progress, roles, now = Progress(), [], time.time()
    roles.append(progress.role)
    progress.lease.renewed_at = now
    roles.append(progress.role)
    monkeypatch.setattr(time, "time", lambda: now + LEASE_SECONDS + 0.1)
    roles.append(progress.role)
    progress.standby = Standby()
    roles.append(progress.role)
    assert roles == [Role.NONE, Role.HOLDER, Role.NONE, Role.STANDBY]


def test_a_pause_is_shown_whatever_goes_on_beside_it() -> None:
    """Nothing is ready then, the reason says what else is missing; a hold, a stop and an end are more."""
    found = stand(Facts(work=Work.FOLLOWING, caught_up=True, paused=True))
    assert (found.phase, found.ready) == (Phase.PAUSED, False)
    assert found.reason == "paused by an operator: nothing is written to the target"
    assert stand(Facts(work=Work.COPYING, paused=True)).reason.endswith("; and the snapshot is not applied yet")
    assert stand(Facts(source=End.AWAY, work=Work.FOLLOWING, paused=True)).reason.endswith(
        "and the source is not connected"
    )
    assert stand(Facts(paused=True, held="why")).phase is Phase.HELD
    assert stand(Facts(paused=True, stopping=True)).phase is Phase.DRAINING
    assert stand(Facts(paused=True, ended=True)).phase is Phase.STOPPED
    progress = Progress(work=Work.FOLLOWING)
    progress.limit.paused_since = 1.0
    assert look(progress).phase is Phase.PAUSED
    assert one_line(progress, Pace(progress).read()).startswith("paused: ")
