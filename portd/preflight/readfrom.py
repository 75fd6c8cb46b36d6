"""Whether each shard of a source cluster has a replica that can be read, where that is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from portd.config.choices import ReadFrom
from portd.net.control import Refused, open_control, parse_info
from portd.net.topology import shown
from portd.preflight import permissions
from portd.preflight.ends import each_of
from portd.preflight.findings import Level, error, fine, warning
from portd.preflight.merging import ByNode, named

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.net.endpoint import Endpoint
    from portd.preflight.ends import End
    from portd.preflight.findings import Finding

SUBJECT = "source.read-from"


async def read_from(settings: Settings, source: End) -> list[Finding]:
    """Findings about the replicas of a source; none where primaries are read."""
    wanted = settings.source_read_from
    if wanted is ReadFrom.PRIMARY or not source.is_cluster:
        return []
    places = [
        (member, replace(source.endpoint, host=host, port=port, seeds=None))
        for member in source.members
        for host, port in member.replicas
    ]
    answers = await each_of([place for _, place in places], lambda place: _look(place, settings.psync_command))
    told = ByNode(len(places))
    usable, reasons = dict[str, str](), list[str]()
    for (member, place), (why, findings) in zip(places, answers, strict=True):
        address = shown(place.host, place.port)
        told.add(address, findings)
        if why:
            reasons.append(f"{address}: {why}")
        elif not any(each.level is Level.ERROR for each in findings):
            usable.setdefault(member.where, address)
    found = [each for each in told.told() if each.level is not Level.OK]
    lacking = [member.where for member in source.members if member.where not in usable]
    if not lacking:
        return [*found, fine(SUBJECT, f"replicas are read: {named(list(usable.values()))}")]
    words = f"no replica of {named(lacking)} can be read" + (f" ({'; '.join(reasons)})" if reasons else "")
    action = "give each primary a replica, and write something to it: before that the cluster does not announce it"
    if wanted is ReadFrom.REPLICA:
        return [*found, error(SUBJECT, words, "links of these shards wait until one can", action, exit_code=69)]
    return [*found, warning(SUBJECT, words, "these primaries are read: they fork, and keep our output buffer", action)]


async def _look(place: Endpoint, psync_command: str) -> tuple[str, list[Finding]]:
    """Why a replica cannot be read, "" where it can; and what our user may do there."""
    try:
        async with open_control(place) as asked:
            info = parse_info(await asked.call("INFO", "replication"))
    except Refused as refusal:
        return (refusal.text if refusal.login else ""), await permissions.source_permissions(place, psync_command)
    except OSError as problem:
        return problem.strerror or str(problem) or type(problem).__name__, []
    if info.get("role") != "slave":
        return "it is no replica", []
    if info.get("master_link_status") != "up":
        return "it has no link to its primary", []
    return "", await permissions.source_permissions(place, psync_command)
