"""What has to be so before writes are stopped: rules over what the sync and both servers say, without I/O."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from portd.cutover.options import Proof
from portd.net.identity import ServerIdentity
from portd.net.shapes import whole
from portd.preflight.findings import Level, error, fine, note, warning
from portd.units import human_bytes, human_count, human_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portd.cutover.options import Options
    from portd.preflight.findings import Finding

MEMORY_SHARE: Final = 0.9  # of maxmemory, above which a target is about to be full
SHOWN: Final = 4  # different words for what is well


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules look at: of each link of the sync, and of each server.

    Attributes:
        syncs: as the sync says it, by the name of the link.
        sources: INFO, by the server's URL.
        targets: likewise.
        settings: CONFIG of the targets, as far as it was told, likewise.
    """

    syncs: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, Mapping[str, str]]
    targets: Mapping[str, Mapping[str, str]]
    settings: Mapping[str, Mapping[str, str]]


def check(facts: Facts, options: Options) -> list[Finding]:
    """Everything that was looked at, in order; an error among it means that nothing is stopped."""
    links = {
        name: [*_sync(each, options), *_letters(each, options), *_verified(each, options)]
        for name, each in facts.syncs.items()
    }
    servers = {
        where: [*_persistence(each), *_memory(each, facts.settings.get(where, {})), *_keys(facts.sources, each)]
        for where, each in facts.targets.items()
    }
    return [*_named(links), *_named(servers)]


def _named(found: Mapping[str, list[Finding]]) -> list[Finding]:
    """What was found of several: what is well in a line each, all else with the name of the one that it is about."""
    if len(found) == 1:
        return [each for those in found.values() for each in those]
    by_subject: dict[str, list[Finding]] = {}
    well: dict[str, dict[str, None]] = {}
    for name, those in found.items():
        for each in those:
            told = by_subject.setdefault(each.subject, [])
            if each.level is Level.OK:
                well.setdefault(each.subject, {})[each.what] = None
            else:
                told.append(replace(each, what=f"{name}: {each.what}"))
    for subject, whats in well.items():
        words = list(whats)
        more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
        by_subject[subject].insert(0, fine(subject, ", ".join(words[:SHOWN]) + more))
    return [each for those in by_subject.values() for each in those]


def _sync(sync: Mapping[str, Any], options: Options) -> list[Finding]:
    """Whether it streams, and is close behind."""
    if sync["held"]:
        return [
            error(
                "sync.held",
                f"a full sync is held: {sync['held']['words']}",
                "the target is not what the source is",
                "portd ctl accept",
            )
        ]
    if sync.get("paused"):
        return [error("sync.paused", "it is paused", "nothing reaches the target", "portd ctl resume")]
    if not sync["ready"] or sync["phase"] not in {"streaming", "catching-up"}:
        return [
            error(
                "sync.phase",
                f"{sync['phase']}, {sync['reason']}",
                "the target has not caught up",
                "wait until portd ctl status says streaming",
            )
        ]
    found = [fine("sync.phase", sync["phase"])]
    lag = sync["stream"]["lag_seconds"]
    if lag is None or lag > options.lag_seconds:
        told = "not known" if lag is None else f"{lag:.3f} s, {human_bytes(sync['stream']['lag_bytes'] or 0)}"
        found.append(
            error(
                "sync.lag",
                told,
                "writes would stand still for as long",
                f"wait until it is below {options.lag_seconds:g} s (--lag-seconds)",
            )
        )
    else:
        found.append(fine("sync.lag", f"{lag:.3f} s"))
    refused = [f"{each['side']} {each['code']}" for each in sync["refusals"]["now"]]
    if refused:
        found.append(
            error(
                "sync.refused",
                f"refused for now: {', '.join(refused)}",
                "an end does not take what is sent",
                "see the log of the sync",
            )
        )
    if sync["expiries_to_correct"]:
        found.append(
            error(
                "sync.expiries",
                "postponed expiry times are to be set back",
                "it takes as long as there are keys",
                "wait until portd_expiries_waiting is 0",
            )
        )
    return found


def _letters(sync: Mapping[str, Any], options: Options) -> list[Finding]:
    letters: Mapping[str, int] = sync["dead_letters"]
    if not letters:
        return [fine("sync.dead-letters", "none since its start")]
    what = f"{human_count(sum(letters.values()))} since its start: " + ", ".join(
        f"{code} {n}" for code, n in sorted(letters.items())
    )
    if options.accept_letters:
        return [note("sync.dead-letters", what, "accepted by --accept-dead-letters")]
    return [
        error(
            "sync.dead-letters",
            what,
            "what the target refused is missing there",
            "look at each; --accept-dead-letters goes on all the same",
        )
    ]


def _verified(sync: Mapping[str, Any], options: Options) -> list[Finding]:
    """What the sync's own comparison says."""
    verify = sync["verify"]
    result, age = verify["result"], time.time() - verify["finished_at"] if verify["finished_at"] else math.inf
    told = f"{result}, {human_seconds(age)} ago" if math.isfinite(age) else "never"
    if options.proof is Proof.ALL:
        return [note("sync.verified", told, "all keys are compared now")]
    if result != "equal" or age > options.verified_seconds:
        return [
            error(
                "sync.verified", told, f"--proof changes needs an equal one, not older than {human_seconds(options.verified_seconds)}",
                "portd ctl verify --wait, or verify_every",
            )
        ]  # fmt: skip
    return [fine("sync.verified", told)]


def _persistence(target: Mapping[str, str]) -> list[Finding]:
    """Whether the target is a primary, and keeps what it has."""
    identity = ServerIdentity.of(target)
    found = []
    if identity.role != "master":
        found.append(
            error(
                "target.role", identity.role or "not known", "a replica takes no writes of clients", "REPLICAOF NO ONE"
            )
        )
    if target.get("loading", "0") != "0":
        found.append(error("target.loading", "it loads its file", "it serves nobody", "wait"))
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if target.get(name, "ok") != "ok"
    ]
    if failed:
        found.append(
            error(
                "target.persistence",
                f"failed: {', '.join(failed)}",
                "it may refuse writes, or lose them",
                "see its log",
            )
        )
    else:
        kept = (
            "append-only file" if target.get("aof_enabled") == "1" else "snapshots or nothing (its save setting says)"
        )
        found.append(fine("target.persistence", kept))
    return found


def _memory(target: Mapping[str, str], settings: Mapping[str, str]) -> list[Finding]:
    used, limit = whole(target.get("used_memory", "")), whole(target.get("maxmemory", settings.get("maxmemory", "")))
    if used is None or limit is None:
        return [note("target.memory", "not known")]
    if not limit:
        return [fine("target.memory", f"{human_bytes(used)}, no limit")]
    told = f"{human_bytes(used)} of {human_bytes(limit)}"
    if used > MEMORY_SHARE * limit:
        return [
            error(
                "target.memory", told, "it is about to be full: it will refuse writes, or evict", "raise its maxmemory"
            )
        ]
    return [fine("target.memory", told)]


def _keys(sources: Mapping[str, Mapping[str, str]], target: Mapping[str, str]) -> list[Finding]:
    """What clients may miss that is not data."""
    policy = target.get("maxmemory_policy")
    others = sorted(
        {found for each in sources.values() if (found := each.get("maxmemory_policy")) not in {None, policy}}
    )
    if policy is None or not others:
        return []
    return [
        warning(
            "target.policy",
            f"maxmemory-policy {policy}, the source's is {', '.join(others)}",
            "other keys are evicted",
            "set it as you want it",
        )
    ]
