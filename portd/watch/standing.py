"""Where a sync stands: phase, readiness and the reason, all from the same facts.

Whoever tells an operator or a machine how it goes asks here: `/readyz`, `/status`, the pages, `/metrics`, the log, systemd.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from portd.model import Phase, Work

if TYPE_CHECKING:
    from portd.model import Progress

SMALL_LAG_SECONDS: Final = 10.0  # a sync that has caught up is said to stream up to this lag
PAUSED: Final = "paused by an operator: nothing is written to the target"

_READY: Final = frozenset({Phase.CATCHING_UP, Phase.STREAMING})
_REASONS: Final = {
    Phase.STARTING: "both ends are being asked who they are",
    Phase.CONNECTING: "the source is not connected",
    Phase.WAITING: "the source prepares its snapshot",
    Phase.SNAPSHOT: "the snapshot is not applied yet",
    Phase.DRAINING: "it was told to stop",
    Phase.STOPPED: "it has stopped",
    Phase.FAILED: "it has failed, see the log",
}


class End(StrEnum):
    """One end of a sync."""

    THERE = "there"
    AWAY = "away"
    PREPARING = "preparing"  # the source, its snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What decides.

    Attributes:
        work: what the target's side does.
        caught_up: the target had caught up since the source was connected last.
        introduced: both ends have said who they are.
        source: the source.
        target: the target; THERE as long as no connection was asked for.
        behind: which nodes of it are left behind while others go on; "" when none is.
        stopping: told to stop.
        ended: nothing more is done.
        failure: why it has ended, or is tried again; "" when it was to end, or goes on.
        lag_seconds: None where it is not known.
        held: why a full sync waits for an operator; "" when none does.
        standby: who has the link that is waited for; "" when none is.
        unfit: it could not be taken over.
        paused: an operator wants nothing written to the target for now.
    """

    work: Work = Work.NOTHING
    caught_up: bool = False
    introduced: bool = True
    source: End = End.THERE
    target: End = End.THERE
    behind: str = ""
    stopping: bool = False
    ended: bool = False
    failure: str = ""
    lag_seconds: float | None = None
    held: str = ""
    standby: str = ""
    unfit: bool = False
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """Where it stands.

    Attributes:
        phase: as it is shown.
        ready: the target may be read: it has the snapshot, and what the source writes reaches it.
        reason: why it is not ready; empty when it is.
        spare: it waits for the link, and could take it over.
    """

    phase: Phase
    ready: bool
    reason: str = ""
    spare: bool = False


def stand(facts: Facts) -> Standing:
    """What follows from the facts."""
    phase, reason = _phase(facts)
    ready = phase in _READY
    spare = phase is Phase.STANDBY and not facts.unfit
    return Standing(phase, ready, "" if ready else reason or _REASONS.get(phase, str(phase)), spare)


def _phase(facts: Facts) -> tuple[Phase, str]:
    """The phase, and the reason where it has one of its own."""
    if facts.ended:
        return (Phase.FAILED if facts.failure else Phase.STOPPED), facts.failure
    if facts.stopping:
        return Phase.DRAINING, ""
    if facts.standby or facts.held:
        return (Phase.STANDBY, facts.standby) if facts.standby else (Phase.HELD, facts.held)
    if facts.paused:
        beside = stand(replace(facts, paused=False))
        return Phase.PAUSED, PAUSED if beside.ready else f"{PAUSED}; and {beside.reason}"
    if facts.source is End.PREPARING:
        return Phase.WAITING, ""
    return _working(facts) if facts.work is not Work.NOTHING else _beginning(facts)


def _beginning(facts: Facts) -> tuple[Phase, str]:
    """There is nothing to do for the target's side yet."""
    if facts.failure:
        return Phase.CONNECTING, f"{facts.failure}; it is tried again"
    return (Phase.CONNECTING if facts.introduced else Phase.STARTING), ""


def _working(facts: Facts) -> tuple[Phase, str]:
    """The target's side has something to do."""
    away = " and ".join(f"the {name}" for name, end in _ends(facts) if end is End.AWAY)
    missing = f"{away} {'is' if ' and ' not in away else 'are'} not connected" if away else ""
    if facts.work is Work.COPYING:
        return Phase.SNAPSHOT, f"{_REASONS[Phase.SNAPSHOT]}, and {missing}" if missing else ""
    if missing or facts.behind:
        return Phase.CONNECTING, missing or facts.behind
    small = (facts.lag_seconds or 0.0) <= SMALL_LAG_SECONDS
    return (Phase.STREAMING if facts.caught_up and small else Phase.CATCHING_UP), ""


def _ends(facts: Facts) -> tuple[tuple[str, End], ...]:
    return ("source", facts.source), ("target", facts.target)


def look(progress: Progress) -> Standing:
    """Where a sync stands now."""
    source = End.PREPARING if progress.preparing else End.THERE if progress.source_there else End.AWAY
    lanes = progress.lanes
    return stand(
        Facts(
            work=progress.work,
            caught_up=progress.stream.caught_up,
            introduced=progress.introduced,
            source=source,
            target=End.AWAY
            if lanes and not any(lane.connection.connected or lane.finished for lane in lanes)
            else End.THERE,
            behind="; ".join(node.words for node in progress.nodes_away.values()),
            stopping=progress.stopping,
            lag_seconds=progress.lag_seconds,
            ended=progress.ended,
            failure=progress.failure,
            held=f"{progress.held.reason}: {progress.held.words}" if progress.held else "",
            standby=progress.standby.words if progress.standby else "",
            unfit=progress.standby is not None and progress.standby.unfit != "",
            paused=progress.limit.paused_since > 0,
        )
    )
