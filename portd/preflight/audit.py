"""Puts a check together: surveys both ends at once, then lets every rule say what it thinks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from portd.errors import PortdError
from portd.preflight import access, capacity, compatibility, permissions, safety
from portd.preflight.checkpoints import resumable
from portd.preflight.clusters import check_clusters
from portd.preflight.findings import Report, error
from portd.preflight.names import own_names
from portd.preflight.rules import Place, rules
from portd.preflight.survey import Rate, Survey, Unreachable, survey, write_rate
from portd.target.probe import inspect

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.hold import Facts
    from portd.net.endpoint import Endpoint
    from portd.preflight.findings import Finding
    from portd.preflight.safety import Held
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
    if source.seeds is not None or target.seeds is not None:
        await check_clusters(settings, report, sample_seconds)
        return report
    here, there = await asyncio.gather(
        asyncio.create_task(_survey("source", source, report), name="survey-source"),
        asyncio.create_task(_survey("target", target, report), name="survey-target"),
    )
    report.findings.sort(key=lambda finding: finding.subject.startswith("target"))
    rate = await write_rate(source, sample_seconds) if here is not None and here.info else None
    found = await _inspect(target, report) if there is not None else None
    if here is not None:
        report.findings += await permissions.source_permissions(source, settings.psync_command)
        report.findings += permissions.unanswered("source", here)
        report.findings += _source(settings, source, here, rate)
        report.findings += await own_names(source, settings)
    if there is not None and found is not None:
        report.findings += await _target_permissions(target, found, settings)
    if here is not None and there is not None and found is not None:
        known = await resumable(settings, here)
        report.findings += _both(settings, here, there, found, resumable=known)
        report.findings += await rules(settings, [Place("", source, here.keys)])
    return report


async def _survey(side: str, endpoint: Endpoint, report: Report) -> Survey | None:
    try:
        found = await survey(endpoint)
    except Unreachable as problem:
        report.findings.append(access.unreachable(side, endpoint, problem))
        return None
    report.findings += access.reached(side, endpoint, found)
    return found


async def _inspect(endpoint: Endpoint, report: Report) -> Capabilities | None:
    try:
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
