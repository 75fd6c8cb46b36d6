"""Is there room: in the source's buffers, for its fork, in the target, on our disk?"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portd.preflight.findings import error, fine, note, warning
from portd.source.info import parse_output_limit
from portd.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.preflight.findings import Finding
    from portd.preflight.survey import Rate, Survey
    from portd.target.capabilities import Capabilities

SNAPSHOT_BYTES_PER_SECOND: Final = (
    60e6  # of used memory, that a source writes as a snapshot; the slower of what is seen
)
SHORT_CUT_SECONDS: Final = 60  # a connection cut for so long should find its place in the backlog again
CLOCK_SECONDS: Final = 0.5  # a difference worth a warning: expiry times are absolute
TARGET_SLACK: Final = 1.2  # the same data may take more memory in another release
FORK_SLACK: Final = 0.5  # of used memory, that copies of pages written meanwhile may take


def output_buffer(source: Survey, rate: Rate | None) -> list[Finding]:
    """Whether the source will drop us: what is written during the snapshot waits in its output buffer."""
    limit = parse_output_limit(source.config.get("client-output-buffer-limit", ""))
    used = source.number("used_memory")
    if limit is None or used is None:
        return [note("source.output-buffer", "not known", "a source that drops slow replicas restarts the snapshot")]
    bounds = [size for size in (limit.hard_bytes, limit.soft_bytes) if size]
    seconds = used / SNAPSHOT_BYTES_PER_SECOND
    what = (
        f"client-output-buffer-limit for replicas is {human_bytes(limit.hard_bytes)} hard, "
        f"{human_bytes(limit.soft_bytes)} for {limit.soft_seconds} s"
        if bounds
        else "no limit for replicas"
    )
    if not bounds or rate is None:
        return [fine("source.output-buffer", what if not bounds else f"{what}; its write rate is not known")]
    waiting = rate.per_second * seconds
    if waiting < min(bounds) / 2:
        return [fine("source.output-buffer", f"{what}; about {human_bytes(waiting)} are written during a snapshot")]
    return [
        warning(
            "source.output-buffer",
            f"{what}; with {rate} written, about {human_bytes(waiting)} are written during a snapshot",
            "the source drops our connection when the limit is reached, and the snapshot begins again",
            f"CONFIG SET client-output-buffer-limit 'replica {int(waiting * 4)} {int(waiting * 2)} 300' on the source "
            "while it has the memory, or sync at a quieter time",
        )
    ]


def backlog(source: Survey, rate: Rate | None) -> list[Finding]:
    """How long the connection to the source may be cut before a full sync is needed."""
    size = source.number("repl_backlog_size") or source.number("repl-backlog-size")
    if size is None:
        return [note("source.backlog", "not known")]
    what = f"{human_bytes(size)}"
    if rate is None:
        return [
            note(
                "source.backlog",
                f"{what}; its write rate is not known",
                "how long the connection to the source may be cut before it costs a full sync is not known",
            )
        ]
    if rate.per_second * 60 < 4096:  # pings and our own questions
        return [fine("source.backlog", f"{what}; the source is hardly written to")]
    seconds = size / rate.per_second
    if seconds >= SHORT_CUT_SECONDS:
        return [fine("source.backlog", f"{what}, good for {human_seconds(seconds)} with {rate} written")]
    return [
        warning(
            "source.backlog",
            f"{what}, good for {human_seconds(seconds)} with {rate} written",
            "a connection that is cut for longer, a restart of portd included, costs a full sync",
            f"CONFIG SET repl-backlog-size {int(rate.per_second * 10 * SHORT_CUT_SECONDS)} on the source",
        )
    ]


def fork_memory(source: Survey, *, local: bool) -> list[Finding]:
    """Whether the source can fork for a snapshot."""
    used, rss = source.number("used_memory"), source.number("used_memory_rss")
    total = source.number("total_system_memory")
    if used is None or not total:
        return [note("source.fork", "its memory is not known", "a fork for the snapshot needs free memory")]
    resident = max(used, rss or 0)
    what = f"it uses {human_bytes(resident)} of {human_bytes(total)}"
    pause = source.number("latest_fork_usec") or 0
    if pause:
        what += f"; its latest fork took {human_seconds(pause / 1e6)}"
    if resident * (1 + FORK_SLACK) > total:
        return [
            warning(
                "source.fork",
                what,
                "pages written during the snapshot are copied: the machine may run out of memory",
                "sync from a replica, or while few writes happen",
            )
        ]
    if local and _overcommit() == "2":
        return [
            warning(
                "source.fork",
                f"{what}; vm.overcommit_memory is 2",
                "the kernel wants memory for the whole fork in advance and may refuse it",
                "sysctl vm.overcommit_memory=1",
            )
        ]
    if resident * 2 > total and (not local or _overcommit() != "1"):
        return [
            note(
                "source.fork",
                what,
                "with vm.overcommit_memory 0 the kernel may refuse a fork of more than half of the memory",
                "sysctl vm.overcommit_memory=1 on the source's machine",
            )
        ]
    return [fine("source.fork", what)]


def _overcommit() -> str:
    path = Path("/proc/sys/vm/overcommit_memory")
    return path.read_text(encoding="ascii").strip() if path.exists() else ""


def target_memory(source: Survey, target: Capabilities, offered: str = "the source uses") -> list[Finding]:
    """Whether the source's data fits the target, and what happens if not; *offered* says what *source* is about."""
    used = source.number("used_memory")
    if target.maxmemory < 0 or used is None:
        return [note("target.memory", "not known", "a full target refuses writes or evicts keys")]
    evicts = target.maxmemory_policy not in {"", "noeviction"}
    if not target.maxmemory:
        return [fine("target.memory", f"no maxmemory; {offered} {human_bytes(used)}")]
    what = (
        f"maxmemory {human_bytes(target.maxmemory)}, {human_bytes(target.used_memory)} used, "
        f"policy {target.maxmemory_policy or 'unknown'}; {offered} {human_bytes(used)}"
    )
    wanted = target.used_memory + used * TARGET_SLACK
    if wanted > target.maxmemory:
        make = error if used > target.maxmemory else warning
        return [
            make(
                "target.memory",
                what,
                "keys are evicted, and the ends differ"
                if evicts
                else "writes are refused with OOM, and the sync waits",
                f"CONFIG SET maxmemory {int(wanted)} on the target, or 0",
            )
        ]
    if evicts:
        return [
            (warning if target.evicts_any_key else note)(
                "target.memory",
                what,
                "a target that evicts keys on its own can come to differ from the source"
                + (", and may evict the checkpoint: the sync starts over then" if target.evicts_any_key else ""),
                "CONFIG SET maxmemory-policy noeviction on the target while it is being synced",
            )
        ]
    return [fine("target.memory", what)]


def spool_space(settings: Settings, source: Survey, rate: Rate | None) -> list[Finding]:
    """Whether what the target cannot take yet fits our disk."""
    directory = settings.spool_directory()
    if directory is None:
        return [
            warning(
                "spool",
                "spool_dir is off",
                "when the target is slower than the source, the source has to wait and may cut the connection",
                "give a directory on a local disk",
            )
        ]
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    try:
        free = shutil.disk_usage(existing).free
    except OSError as problem:
        return [
            error(
                "spool", f"{directory}: {problem.strerror}", "nothing can be spilled there", "choose another spool_dir"
            )
        ]
    room = min(free, settings.spool_max_bytes)
    used = source.number("used_memory")
    if used is None:
        return [note("spool", f"{human_bytes(room)} in {directory}; the size of the source is not known")]
    wanted = used + (rate.per_second if rate else 0) * used / SNAPSHOT_BYTES_PER_SECOND
    what = f"{human_bytes(room)} free in {directory}; a snapshot and its stream may take {human_bytes(wanted)} at most"
    if room < wanted:
        return [
            warning(
                "spool",
                what,
                "if the target is slow and the spool fills up, the source has to wait and may cut the connection",
                "choose a spool_dir with more room, or raise spool_max_bytes",
            )
        ]
    return [fine("spool", what)]


def clocks(source: Survey, target: Survey) -> list[Finding]:
    """Whether expiry times mean the same on both ends."""
    if source.clock_ahead is None or target.clock_ahead is None:
        return [note("clocks", "an end does not tell its time", "expiry times are absolute: clocks must agree")]
    ahead = target.clock_ahead - source.clock_ahead
    uncertain = source.clock_error + target.clock_error
    direction = "ahead of" if ahead > 0 else "behind"
    what = f"the target is {human_seconds(abs(ahead))} {direction} the source (within {human_seconds(uncertain)})"
    if abs(ahead) - uncertain > CLOCK_SECONDS:
        return [
            warning(
                "clocks",
                what,
                "expiry times are absolute: keys live longer or shorter on the target",
                "let NTP set both clocks",
            )
        ]
    return [fine("clocks", what)]
