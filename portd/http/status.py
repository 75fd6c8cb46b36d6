"""A link, or several, described as plain data: what `/status` returns and the status page draws."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from portd import __version__
from portd.watch.standing import look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.config.settings import Settings
    from portd.model import ConnectionState, LaneState, LoopState, SourceOutlook, VerifyProgress
    from portd.troubles import Troubles
    from portd.watch.track import Track
    from portd.watch.view import View


def describe_all(links: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is known about a process with several links.

    Args:
        links: what `describe` says of each.
    """
    waiting = [f"link {each['link']}: {each['phase']}, {each['reason']}" for each in links if not each["ready"]]
    return {
        "version": __version__,
        "ready": not waiting,
        "reason": "; ".join(waiting),
        "uptime_seconds": max(each["uptime_seconds"] for each in links),
        "loop": links[0]["loop"],
        "links": list(links),
    }


def describe(view: View, settings: Settings, loop: LoopState) -> dict[str, Any]:
    """Everything known about a link while it runs, JSON-able and without secrets.

    Args:
        view: its counters and rates.
        settings: shown without secrets.
        loop: for how long the event loop was held.
    """
    progress, rates = view.progress, view.pace.read()
    now = time.time()
    shown = settings.shown()
    snapshot, stream = progress.snapshot, progress.stream
    standing = look(progress)
    return {
        "version": __version__,
        "link": settings.link,
        "phase": standing.phase.value,
        "ready": standing.ready,
        "reason": standing.reason,
        "role": progress.role.value,
        "standby": asdict(progress.standby) if progress.standby else None,
        "takeovers": progress.takeovers,
        "held": asdict(progress.held) if progress.held else None,
        "paused": {"since": progress.limit.paused_since} if progress.limit.paused_since else None,
        "uptime_seconds": round(now - progress.started_at, 1),
        "source": {
            "url": shown["source"],
            "info": progress.source_info,
            "read_from": progress.read_from,
            "outlook": _outlook(progress.outlook),
            **_connection(progress.source, now),
        },
        "target": {
            "url": shown["target"],
            "info": progress.target_info,
            "lanes": [_lane(lane, now) for lane in progress.lanes],
            "nodes_away": [asdict(node) for node in progress.nodes_away.values()],
            "limit": {
                "bytes_per_second": progress.limit.bytes_per_second,
                "ops_per_second": progress.limit.ops_per_second,
                "temporary": progress.limit.temporary,
                "waited_seconds": round(progress.limit.waited_until_now, 3),
                "waiting": progress.limit.waiting,
            },
            "memory_bytes": progress.pulse.memory_bytes,
            "memory_limit_bytes": progress.pulse.memory_limit_bytes,
        },
        "position": asdict(progress.position) if progress.position else None,
        "full_syncs": dict(progress.full_syncs),
        "partial_syncs": progress.partial_syncs,
        "keys_pruned": progress.keys_pruned,
        "expiries_corrected": progress.expiries_corrected,
        "expiries_to_correct": progress.expiries_to_correct,
        "snapshot": {
            **asdict(snapshot),
            "keys_settled": snapshot.keys_settled,
            "done": rates.done,
            "eta_seconds": rates.eta_seconds,
            "keys_per_second": round(rates.keys),
            "bytes_per_second": round(rates.decoded_bytes),
        },
        "stream": {
            **asdict(stream),
            "lag_bytes": progress.lag_bytes,
            "lag_seconds": progress.lag_seconds,
            "commands_per_second": round(rates.commands),
            "bytes_per_second": round(rates.stream_bytes),
        },
        "loop": asdict(loop),
        "verify": _verify(progress.verify),
        "conflicts": {other: asdict(conflict) for other, conflict in progress.conflicts.items()},
        "dead_letters": dict(progress.dead_letters),
        "attributes_dropped": dict(progress.dropped()),
        "refusals": _refusals(progress.troubles),
        "last_error": progress.last_error,
        "errors": [{"text": text, **asdict(seen)} for text, seen in reversed(progress.errors.found.items())],
        "happened": _happened(view.track),
        "warnings": [asdict(alarm) for alarm in view.track.alarms.now],
        "failure": progress.failure,
        "settings": shown,
    }


def _connection(state: ConnectionState, now: float) -> dict[str, Any]:
    return {
        "connected": state.connected,
        "connects": state.connects,
        "losses": dict(state.losses),
        "bytes_received": state.bytes_received,
        "bytes_sent": state.bytes_sent,
        "last_received_seconds_ago": round(now - state.last_received_at, 3) if state.last_received_at else None,
        "last_sent_seconds_ago": round(now - state.last_sent_at, 3) if state.last_sent_at else None,
    }


def _verify(verify: VerifyProgress) -> dict[str, Any]:
    return {
        "running": verify.running,
        "runs": dict(verify.runs),
        "result": verify.result,
        "started_at": verify.started_at,
        "finished_at": verify.finished_at,
        "seconds": round(verify.seconds, 3),
        "keys": verify.keys,
        "functions": verify.functions,
        "error": verify.error,
    }


def _refusals(troubles: Troubles) -> dict[str, Any]:
    """Refusals that pass: those that have not, and how many there were of each."""
    now = troubles.clock()
    current = [
        {
            "side": side,
            "code": code,
            "text": trouble.text,
            "seconds": round(now - trouble.since, 1),
            "count": trouble.count,
        }
        for side, code, trouble in troubles.current()
    ]
    return {"now": current, "total": {f"{side} {code}": n for (side, code), n in troubles.counts().items() if n}}


def _happened(track: Track) -> dict[str, dict[str, float]]:
    """When a counter was last found to have moved, unix seconds, by its name and label."""
    found: dict[str, dict[str, float]] = {}
    for (name, label), at in track.happened.items():
        found.setdefault(name, {})[label] = round(at, 3)
    return found


def _outlook(outlook: SourceOutlook) -> dict[str, Any] | None:
    """None while the source has told nothing; JSON has no infinity, so "never" is None too."""
    if not outlook.asked_at:
        return None
    values = asdict(outlook)
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _lane(lane: LaneState, now: float) -> dict[str, Any]:
    return {
        "lane": lane.index,
        "in_flight_bytes": lane.in_flight_bytes,
        "in_flight_batches": lane.in_flight_batches,
        "replies": lane.replies,
        "errors": lane.errors,
        "retries": lane.retries,
        **_connection(lane.connection, now),
    }
