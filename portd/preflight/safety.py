"""Could a sync hurt somebody? The wrong way round, the same server twice, failovers, persistence that stalls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from portd.errors import PortdError
from portd.hold import Facts
from portd.preflight.findings import error, fine, note, warning
from portd.units import human_count

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.hold import Hold
    from portd.preflight.findings import Finding
    from portd.preflight.survey import Survey
    from portd.target.capabilities import Capabilities


def same_server(source: Survey, target: Capabilities) -> list[Finding]:
    """The two addresses may lead to one process, and one end may replicate the other."""
    run_id = source.info.get("run_id")
    if run_id is None:
        return [note("ends", "the source does not tell its run_id", "whether both are the same server is not known")]
    if run_id == target.run_id:
        return [
            error(
                "ends",
                "source and target are the same server",
                "its own changes would come back to it without end",
                "check both addresses",
            )
        ]
    return [fine("ends", "two different servers")]


def roles(source: Survey, target: Capabilities) -> list[Finding]:
    """Primary or replica, and whether that works."""
    findings = []
    if target.read_only:
        findings.append(
            error("target.role", "a read-only replica", "it takes no writes", "point --target at its primary")
        )
    elif target.role == "slave":
        findings.append(
            warning(
                "target.role",
                "a writable replica",
                "its own primary overwrites what is written into it",
                "REPLICAOF NO ONE on the target, if it is to live on its own",
            )
        )
    if source.info.get("role") == "slave":
        if source.info.get("master_link_status") == "up":
            findings.append(
                note("source.role", "a replica: its primary is spared, changes arrive with its delay", "", "")
            )
        else:
            findings.append(
                error(
                    "source.role",
                    "a replica without a link to its primary",
                    "it refuses to be replicated",
                    "repair its replication, or read from the primary",
                )
            )
    return findings or [fine("roles", "two primaries")]


@dataclass(frozen=True, slots=True)
class Held:
    """A full sync of this source into this target would wait for an operator.

    Attributes:
        hold: why.
        certain: the next start begins with a full sync: the source does not have the history.
    """

    hold: Hold
    certain: bool


def contents(
    settings: Settings, source: Survey, target: Capabilities, *, resumable: bool | Held | Facts | PortdError
) -> list[Finding]:
    """What is in the target already; *resumable*: a checkpoint of this link is there, what then, or why it is not known."""
    if isinstance(resumable, PortdError):
        return [
            error(
                "target.keys",
                f"whether there is a checkpoint of link {settings.link} cannot be read: {resumable.args[0]}",
                "a sync cannot start, and what it would do with the keys is not known",
                resumable.hint or "see target.permissions",
                exit_code=resumable.exit_code,
            )
        ]
    held, offered = sum(target.keys.values()), sum(source.keys.values())
    what = f"{human_count(held)} keys"
    if isinstance(resumable, Held | Facts):
        return [_waits(settings, resumable, what)]
    if resumable:
        return [
            fine("target.keys", f"{what}, and a checkpoint of link {settings.link}: a sync will resume or repeat it")
        ]
    if not held:
        return [fine("target.keys", "empty")]
    if settings.existing == "refuse":
        wrong_way = offered < held / 10 and source.info
        return [
            error(
                "target.keys",
                f"it holds {what}, and no checkpoint of link {settings.link}",
                "a sync refuses to start"
                + (", and the source has far fewer: are the ends the wrong way round?" if wrong_way else ""),
                "empty it, or choose --existing replace, skip or flush",
            )
        ]
    fate = {"replace": "those of the same name are overwritten", "skip": "those stay as they are"}
    return [
        warning(
            "target.keys",
            f"it holds {what}, --existing is {settings.existing}",
            fate.get(settings.existing.value, "all of them are deleted first"),
            "make sure that this is meant",
        )
    ]


def _waits(settings: Settings, found: Held | Facts, what: str) -> Finding:
    return _held(settings, found, what) if isinstance(found, Held) else _doubtful(settings, found, what)


def _held(settings: Settings, held: Held, what: str) -> Finding:
    """A start that waits at its full sync, or would if the source cannot continue the stream."""
    there = f"{what}, and a checkpoint of link {settings.link}"
    if settings.accept_source:
        return warning(
            "target.keys",
            f"{there}; {held.hold.words}",
            "--accept-source is given: a full sync overwrites and removes without asking",
            "make sure that this is meant",
        )
    if not held.certain:
        return warning(
            "target.keys",
            f"{there}; {held.hold.words}",
            f"a sync will resume; should it need a full sync instead, that is held ({held.hold.reason.value})",
            "make sure that the source has its data",
        )
    return error(
        "target.keys",
        f"{there}; {held.hold.words}",
        f"a sync begins with a full sync, and holds it before anything changes ({held.hold.reason.value})",
        "check --source and its data; if it is meant, start with --accept-source, or portd ctl accept",
    )


def _doubtful(settings: Settings, facts: Facts, what: str) -> Finding:
    """A start that cannot be judged by what the source says of itself."""
    there = f"{what}, and a checkpoint of link {settings.link}"
    if not facts.source.run_id:
        return note(
            "target.keys",
            f"{there}; the source does not tell who it is",
            "whether a sync resumes is not known; a full sync is held if its snapshot shows another server, or an empty one",
        )
    if not facts.doubtful:
        return note(
            "target.keys",
            f"{there}; the stream cannot be continued from it",
            f"a sync begins with a full sync, and removes up to {settings.prune_limit:g} % of these keys by itself: "
            "should its snapshot lack more of them, it is held",
        )
    return warning(
        "target.keys",
        f"{there}; the source is another process with another history at the address that was followed",
        "a sync begins with a full sync, and holds it if its snapshot shows other keys than those of the target",
        "make sure that the source has its data",
    )


def failover(source: Survey) -> list[Finding]:
    """Whether a Sentinel may take us for a replica to promote."""
    replicas = [value for name, value in source.info.items() if name.startswith("slave") and name[5:].isdigit()]
    strays = [each for each in replicas if "port=0" in each.split(",")]
    text = (
        "portd announces port 0, which Sentinels and orchestrators ignore when they look for a replica to promote; "
        "min-replicas-to-write and WAIT count it, however"
    )
    findings = [note("source.failover", text)]
    if strays:
        findings.append(
            note(
                "source.replicas",
                f"{len(strays)} replicas with port 0 are connected already",
                "another portd, or a similar tool, is copying this source",
            )
        )
    return findings


def persistence(source: Survey, target: Survey) -> list[Finding]:
    """Settings that make an end stall under a sync."""
    findings = []
    if source.config.get("repl-diskless-sync") == "no":
        findings.append(
            warning(
                "source.diskless",
                "repl-diskless-sync is no",
                "the snapshot is written to the source's disk first: it needs room there, and the sync waits for it",
                "CONFIG SET repl-diskless-sync yes on the source",
            )
        )
    if source.info.get("rdb_last_bgsave_status") == "err":
        findings.append(
            warning(
                "source.bgsave",
                "its last background save failed",
                "the snapshot for a sync may fail for the same reason: memory for fork, or disk space",
                "see the source's log",
            )
        )
    if target.config.get("appendonly") == "yes" and target.config.get("appendfsync") == "always":
        findings.append(
            warning(
                "target.appendfsync",
                "appendfsync is always",
                "every write waits for the target's disk: a sync runs at the disk's pace",
                "CONFIG SET appendfsync everysec on the target until the snapshot is applied",
            )
        )
    if target.info.get("rdb_last_bgsave_status") == "err" and target.config.get("stop-writes-on-bgsave-error") == "yes":
        findings.append(
            error(
                "target.bgsave",
                "its last background save failed, and it takes no writes until one works",
                "every write is answered with MISCONF",
                "see the target's log, or CONFIG SET stop-writes-on-bgsave-error no",
            )
        )
    wanted, there = target.number("min-replicas-to-write") or 0, target.number("connected_slaves") or 0
    if wanted > there:
        findings.append(
            error(
                "target.min-replicas",
                f"min-replicas-to-write is {wanted}, and {there} replicas are connected",
                "every write is answered with NOREPLICAS",
                "connect its replicas, or lower the setting until they are",
            )
        )
    return findings or [fine("persistence", "nothing that would stall a sync")]
