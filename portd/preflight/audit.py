"""Puts a check together: surveys both ends at once, then lets every rule say what it thinks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from portd.config.rules import choice_of
from portd.errors import PortdError
from portd.hold import Facts, Identity, judge
from portd.link import clusters
from portd.link.gate import followed_by, gather
from portd.preflight import access, capacity, compatibility, permissions, safety
from portd.preflight.findings import Report, error
from portd.preflight.names import own_names
from portd.preflight.rules import rules
from portd.preflight.safety import Held
from portd.preflight.survey import Rate, Survey, Unreachable, survey, write_rate
from portd.target.kept.checkpoint import State, read_checkpoint
from portd.target.probe import inspect

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.net.endpoint import Endpoint
    from portd.preflight.findings import Finding
    from portd.target.capabilities import Capabilities


async def check(settings: Settings, *, sample_seconds: float) -> Report:
    """Looks at both ends with the eyes of a sync of these settings. Changes nothing.

    Args:
        settings: of the sync to be.
        sample_seconds: over which the source's write rate is measured.

    Raises:
        ConfigError: a TLS file cannot be used.
    """
    source, target = settings.source_endpoint(), settings.target_endpoint()
    report = Report(source.display, target.display)
    here, there = await asyncio.gather(
        asyncio.create_task(_survey("source", source, report), name="survey-source"),
        asyncio.create_task(_survey("target", target, report), name="survey-target"),
    )
    report.findings.sort(key=lambda finding: finding.subject.startswith("target"))
    rate = await write_rate(source, sample_seconds) if here is not None and here.info else None
    found = await _inspect(target, settings, report) if there is not None else None
    if here is not None:
        report.findings += await permissions.source_permissions(source, settings.psync_command)
        report.findings += permissions.unanswered("source", here)
        report.findings += _source(settings, source, here, rate)
        report.findings += await own_names(source, settings)
    if there is not None and found is not None:
        report.findings += await _target_permissions(target, found, settings)
    if here is not None and there is not None and found is not None:
        resumable = await _resumable(settings, here)
        report.findings += _both(settings, here, there, found, resumable=resumable)
        report.findings += await rules(settings, here)
    return report


async def _survey(side: str, endpoint: Endpoint, report: Report) -> Survey | None:
    try:
        found = await survey(endpoint)
    except Unreachable as problem:
        report.findings.append(access.unreachable(side, endpoint, problem))
        return None
    report.findings += access.reached(side, endpoint, found)
    return found


async def _inspect(endpoint: Endpoint, settings: Settings, report: Report) -> Capabilities | None:
    try:
        if endpoint.seeds is not None:
            choice = choice_of(settings, settings.checkpoint_key)
            found, _ = await clusters.look_at(endpoint, choice)
            return replace(found, keys={0: count} if (count := await clusters.count_keys(settings, choice)) else {})
        return await inspect(endpoint)
    except PortdError as problem:
        report.findings.append(_unknown("target.probe", problem, "what it can do is not known", "see the target's log"))
        return None


def _unknown(subject: str, problem: PortdError, consequence: str, action: str) -> Finding:
    return error(subject, str(problem.args[0]), consequence, problem.hint or action, exit_code=problem.exit_code)


async def _target_permissions(endpoint: Endpoint, found: Capabilities, settings: Settings) -> list[Finding]:
    try:
        return await permissions.target_permissions(endpoint, found, settings.checkpoint_name())
    except PortdError as problem:
        return [_unknown("target.permissions", problem, "what we may do there is not known", "try again")]


async def _resumable(settings: Settings, here: Survey) -> bool | Held | Facts | PortdError:
    """A checkpoint of this link lies in the target, and perhaps a full sync would be held; or why that cannot be told.

    Facts are of a full sync that is judged by its snapshot.
    """
    try:
        checkpoint = await read_checkpoint(settings.target_endpoint(), settings.checkpoint_name())
        if checkpoint is None or (checkpoint.first and checkpoint.sole):
            return checkpoint is not None
        info = here.info
        source = Identity(
            replid=info.get("master_replid", ""),
            replid2=info.get("master_replid2", ""),
            run_id=info.get("run_id", ""),
            address=settings.source_endpoint().display,
        )
        broken_off = checkpoint.state is State.SNAPSHOT
        if broken_off and checkpoint.accepted and followed_by(checkpoint).continues(source):
            return True
        choice, used = choice_of(settings, settings.checkpoint_key), here.keys if info else None
        facts = await gather(settings, checkpoint, source, used, choice)
    except PortdError as problem:
        return problem
    hold = judge(facts, settings.prune_limit)
    known = {source.replid, source.replid2} - {""}
    certain = broken_off or checkpoint.position.replid not in known
    if hold is None:
        open_yet = facts.doubtful or (certain and facts.removes and facts.target_keys > 0)
        return facts if open_yet and not checkpoint.first else True
    return Held(hold, certain=certain)


def _source(settings: Settings, endpoint: Endpoint, here: Survey, rate: Rate | None) -> list[Finding]:
    return [
        *capacity.output_buffer(here, rate),
        *capacity.backlog(here, rate),
        *capacity.fork_memory(here, local=access.is_local(endpoint)),
        *capacity.spool_space(settings, here, rate),
        *safety.failover(here),
    ]


def _both(
    settings: Settings, here: Survey, there: Survey, found: Capabilities, *, resumable: bool | Held | Facts | PortdError
) -> list[Finding]:
    return [
        *safety.same_server(here, found),
        *safety.roles(here, found),
        *compatibility.cluster(settings, here, found),
        *compatibility.versions(here, found),
        *compatibility.commands(here, found),
        *compatibility.modules(here, found),
        *compatibility.databases(settings, here, found),
        *safety.contents(settings, here, found, resumable=resumable),
        *capacity.target_memory(here, found),
        *capacity.clocks(here, there),
        *safety.persistence(here, there),
    ]
