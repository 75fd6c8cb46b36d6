"""A check where an end, or both, are clusters: every node is looked at, and one report tells of all."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Final

from portd.config.rules import choice_of
from portd.errors import ConfigError, PortdError
from portd.link import clusters
from portd.link.crossing import Crossing, may_cross
from portd.link.divide import check_settings, link_of_shard
from portd.memory.cgroup import find_cgroup
from portd.memory.plan import plan_memory
from portd.net.control import Refused, open_control, parse_info
from portd.net.topology import ALL_SLOTS
from portd.preflight import access, capacity, compatibility, permissions, safety
from portd.preflight.checkpoints import resumable
from portd.preflight.ends import SLOTS, each_of, survey_end
from portd.preflight.findings import error, fine, note, warning
from portd.preflight.merging import ByNode
from portd.preflight.names import own_names
from portd.preflight.readfrom import read_from
from portd.preflight.rules import Place, rules
from portd.preflight.survey import Rate, write_rate
from portd.target.kept.directory import Directory
from portd.target.kept.images import shards_there
from portd.target.probe import inspect
from portd.units import human_bytes, human_count

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Ranges
    from portd.preflight.ends import End, Member
    from portd.preflight.findings import Finding, Report
    from portd.target.capabilities import Capabilities

RECORD_BYTES: Final = 300  # that a record of a slot takes in the target, key and value


async def check_clusters(settings: Settings, report: Report, sample_seconds: float) -> None:
    """Looks at both ends, of which one at least is a cluster, and adds what is found to the report."""
    wanted: Ranges = tuple(settings.slot_ranges()) or ALL_SLOTS
    source, target = await asyncio.gather(
        asyncio.create_task(survey_end("source", settings.source_endpoint(), wanted, report), name="survey-source"),
        asyncio.create_task(survey_end("target", settings.target_endpoint(), ALL_SLOTS, report), name="survey-target"),
    )
    report.findings.sort(key=lambda finding: finding.subject.startswith("target"))
    if source is not None:
        report.findings += await _source(settings, source, sample_seconds)
    found: list[Capabilities] = []
    if target is not None:
        found = await _target(settings, target, report)
    if source is not None and target is not None and found:
        report.findings += await _both(settings, source, target, found)
        report.findings += await _rules(settings, source)
    report.findings += _plan(settings, source)


async def _rules(settings: Settings, source: End) -> list[Finding]:
    """What the rules do, of all nodes together."""
    places = [Place(each.where, each.endpoint, each.survey.keys, each.slots) for each in source.members]
    try:
        links = [link_of_shard(settings, each.slots) for each in source.members] if settings.divided else []
    except ConfigError as problem:
        return [error("rules", str(problem.args[0]), "a sync does not start", problem.hint or "choose another link")]
    return await rules(settings, places, links)


async def _source(settings: Settings, source: End, sample_seconds: float) -> list[Finding]:
    """Each node as a source."""
    rates: list[Rate | None] = await each_of(source.members, lambda each: _rate(each, sample_seconds))
    told = ByNode(len(source.members))
    for member, rate in zip(source.members, rates, strict=True):
        here = member.survey
        told.add(
            member.where,
            [
                *await permissions.source_permissions(member.endpoint, settings.psync_command),
                *permissions.unanswered("source", here),
                *capacity.output_buffer(here, rate),
                *capacity.backlog(here, rate),
                *capacity.fork_memory(here, local=access.is_local(member.endpoint)),
                *safety.failover(here),
                *await own_names(member.endpoint, settings),
            ],
        )
    known = [rate for rate in rates if rate is not None]
    total = Rate(sum(each.per_second for each in known), all(each.exact for each in known)) if known else None
    return [*told.told(), *await read_from(settings, source), *capacity.spool_space(settings, source.summed, total)]


async def _rate(member: Member, seconds: float) -> Rate | None:
    return await write_rate(member.endpoint, seconds) if member.survey.info else None


async def _target(settings: Settings, target: End, report: Report) -> list[Capabilities]:
    """Each node as a target; what each of them can do, nothing where one does not tell."""
    places = [
        replace(target.endpoint, host=each.endpoint.host, port=each.endpoint.port, slot=each.slots[0][0])
        if target.is_cluster
        else each.endpoint
        for each in target.members
    ]
    told = ByNode(len(places))
    found = await each_of(places, _inspect)
    for member, each in zip(target.members, found, strict=True):
        if isinstance(each, PortdError):
            what = error(
                "target.probe",
                str(each.args[0]),
                "what it can do is not known",
                each.hint or "see the target's log",
                exit_code=each.exit_code,
            )
            told.add(member.where, [what])
            continue
        told.add(member.where, await _permissions(member.endpoint, each, settings))
        if target.is_cluster and not each.evicts:
            told.add(
                member.where,
                [
                    error(
                        "target.permissions.client", "our user may not end connections (CLIENT LIST, KILL, SETNAME, ID)",
                        "in a cluster nothing else keeps late writes of a lost connection away: a sync does not start",
                        "on every node of the target: ACL SETUSER <user> +client|list +client|kill +client|setname +client|id", exit_code=77,
                    )
                ],
            )  # fmt: skip
    report.findings += told.told()
    return [each for each in found if not isinstance(each, PortdError)] if target.whole else []


async def _inspect(endpoint: Endpoint) -> Capabilities | PortdError:
    try:
        return await inspect(endpoint)
    except PortdError as problem:
        return problem


async def _permissions(endpoint: Endpoint, found: Capabilities, settings: Settings) -> list[Finding]:
    try:
        return await permissions.target_permissions(endpoint, found, settings.checkpoint_name())
    except PortdError as problem:
        what = str(problem.args[0])
        return [
            error(
                "target.permissions",
                what,
                "what we may do there is not known",
                problem.hint or "try again",
                exit_code=problem.exit_code,
            )
        ]


async def _both(settings: Settings, source: End, target: End, found: list[Capabilities]) -> list[Finding]:
    """Ends against each other."""
    here = ByNode(len(source.members))
    oldest = min(found, key=lambda each: each.version)
    for member in source.members:
        here.add(
            member.where,
            [
                *safety.roles(member.survey, oldest),
                *compatibility.versions(member.survey, oldest),
                *compatibility.commands(member.survey, oldest),
                *compatibility.modules(member.survey, oldest),
            ],
        )
    there = ByNode(len(target.members))
    choice = choice_of(settings, settings.checkpoint_key)
    apart = choice.mapping is not None and choice.mapping.names  # names that had one slot may have several
    used = source.summed.number("used_memory")
    for member, each in zip(target.members, found, strict=True):
        share = (
            replace(source.summed, info=dict(source.summed.info) | {"used_memory": str(int(used * member.share))})
            if used and target.is_cluster
            else source.summed
        )
        offered = "its share of the source is" if target.is_cluster else "the source uses"
        there.add(member.where, capacity.target_memory(share, each, offered))
        there.add(member.where, safety.persistence(source.members[0].survey, member.survey))
        if target.is_cluster:
            there.add(member.where, _records(member, each, len(source.members) if apart else 1))
    return [
        *_same(source, found),
        *_modes(settings, source, target, found),
        *here.told(),
        *compatibility.databases(
            settings, source.summed, replace(oldest, databases=1) if target.is_cluster else oldest
        ),
        *there.told(),
        *await _contents(settings, source, target, found),
        *_clocks(source, target),
        *(await _crossing(settings, source) if target.is_cluster else ()),
    ]


def _same(source: End, found: list[Capabilities]) -> list[Finding]:
    ours = {each.survey.info.get("run_id", "") for each in source.members} - {""}
    if not ours:
        return [note("ends", "the source does not tell its run_id", "whether both are the same servers is not known")]
    if both := ours & {each.run_id for each in found}:
        return [
            error(
                "ends", f"{len(both)} servers belong to both ends", "their own changes would come back to them without end",
                "check both addresses",
            )
        ]  # fmt: skip
    return [fine("ends", "different servers")]


def _modes(settings: Settings, source: End, target: End, found: list[Capabilities]) -> list[Finding]:
    """Cluster mode of either end, and what cannot be had of clusters."""
    told: list[Finding] = []
    if source.is_cluster and settings.divided:
        try:
            check_settings(settings)
        except ConfigError as problem:
            told.append(
                error("source.cluster", str(problem.args[0]), "a sync does not start", problem.hint or "leave it out")
            )
        else:
            told.append(
                note(
                    "source.cluster", f"a cluster: {len(source.members)} shards, a link for each of them",
                    "slots that move while it is copied end the sync, and their shards are copied again then", "do not reshard meanwhile",
                )
            )  # fmt: skip
    elif source.members[0].survey.cluster and not source.is_cluster:
        told += compatibility.cluster(settings, source.members[0].survey, replace(found[0], cluster_enabled=False))
    if target.is_cluster:
        families = sorted({each.family for each in found})
        if len(families) > 1:
            told.append(
                error(
                    "target.cluster",
                    f"its nodes are of {' and '.join(families)}",
                    "a sync does not start",
                    "finish the upgrade of the cluster first",
                )
            )
        told.append(
            note(
                "target.cluster", f"a cluster of {len(found)} shards",
                "of commands over several slots MSET, MSETNX, MSETEX, DEL, UNLINK, TOUCH and SMOVE are cut, keys that others write are copied; "
                f"transactions are cut by slot{compatibility.open_gap(found)}",
            )
        )  # fmt: skip
    elif found[0].cluster_enabled:
        told.append(
            error(
                "target.cluster", "the target is a cluster node", "a sync into one node cannot write the keys of the others",
                "name the cluster: redis+cluster://host:port,host:port",
            )
        )  # fmt: skip
    return told


def _records(member: Member, found: Capabilities, links: int) -> list[Finding]:
    """Whether what we keep of each slot fits, and stays; each of *links* does."""
    count = int(SLOTS * member.share) * links
    wanted = count * RECORD_BYTES
    what = f"{human_count(count)} small keys of ours, about {human_bytes(wanted)}"
    if found.maxmemory > 0 and found.used_memory + wanted > found.maxmemory:
        return [
            warning(
                "target.records", f"{what}; {human_bytes(max(0, found.maxmemory - found.used_memory))} are free",
                "writes are refused with OOM, and the sync waits", f"CONFIG SET maxmemory {found.used_memory + 2 * wanted} on the node, or 0",
            )
        ]  # fmt: skip
    if found.maxmemory > 0 and found.evicts_any_key:
        return [
            warning(
                "target.records", f"{what}; policy {found.maxmemory_policy}",
                "a record that was evicted means a full sync", "CONFIG SET maxmemory-policy noeviction on every node while it is synced",
            )
        ]  # fmt: skip
    return [fine("target.records", what)]


async def _contents(settings: Settings, source: End, target: End, found: list[Capabilities]) -> list[Finding]:
    """What is in the target already, and whether links of ours have made it."""
    try:
        keys = (
            {0: await clusters.count_keys(settings, choice_of(settings, settings.checkpoint_key))}
            if target.is_cluster
            else found[0].keys
        )
    except PortdError as problem:
        return [
            error(
                "target.keys",
                f"what is there cannot be told: {problem.args[0]}",
                "a sync does not start",
                problem.hint or "try again",
                exit_code=problem.exit_code,
            )
        ]
    there = replace(found[0], keys={db: count for db, count in keys.items() if count})
    if not source.is_cluster:
        return safety.contents(settings, source.summed, there, resumable=await resumable(settings, source.summed))
    async with Directory(settings, "looking for the shards of the link") as where:
        shards = await shards_there(where)
    if not shards:
        return safety.contents(settings, source.summed, there, resumable=False)
    held = (
        f"{human_count(sum(there.keys.values()))} keys, and checkpoints of {len(shards)} shards of link {settings.link}"
    )
    now = {each.slots for each in source.members}
    if {tuple(sorted(slots)) for slots in shards.values()} == now:
        return [fine("target.keys", f"{held}: a sync will resume them, or copy them again")]
    return [
        warning(
            "target.keys", f"{held}, which had other slots than the source's shards have now",
            "a sync does not start as it is: keys of slots that moved may be missing",
            "set on_rules_change to full-sync, existing to replace and prune to prune: these shards are copied again",
        )
    ]  # fmt: skip


def _clocks(source: End, target: End) -> list[Finding]:
    """The two nodes whose clocks differ most."""
    worst: tuple[float, list[Finding]] = (-1.0, [])
    for one, other in product(source.members, target.members):
        here, there = one.survey, other.survey
        apart = abs((there.clock_ahead or 0.0) - (here.clock_ahead or 0.0))
        if here.clock_ahead is None or there.clock_ahead is None:
            apart = 0.0
        if apart > worst[0]:
            found = capacity.clocks(here, there)
            worst = apart, [replace(each, what=f"{one.where} and {other.where}: {each.what}") for each in found]
    return worst[1]


async def _crossing(settings: Settings, source: End) -> list[Finding]:
    """Commands in use whose keys may lie in several slots of the target."""
    choice = choice_of(settings, settings.checkpoint_key)
    if not may_cross(source.endpoint, choice):
        return [fine("target.cross-slot", "the source is a cluster: keys of one command are in one slot")]
    told = []
    try:
        for member in source.members:
            async with open_control(member.endpoint) as client:
                told.append(parse_info(await client.call("INFO", "commandstats")))
    except (Refused, OSError) as problem:
        return [
            note(
                "target.cross-slot",
                f"which commands are in use is not told: {problem}",
                "keys that those over several slots write are copied from the source one by one",
                "allow +info",
            )
        ]
    found = Crossing.of(told)
    if not found.used:
        return [fine("target.cross-slot", "no command in use that could not be cut by slot")]
    allowed = ByNode(len(source.members))
    if not choice:  # else rules have asked for it
        for member in source.members:
            slot = member.slots[0][0] if member.slots else None
            allowed.add(member.where, await permissions.copying_permissions(member.endpoint, slot))
    return [
        note(
            "target.cross-slot", f"commands of several keys were called since the source started: {found}",
            "where their keys are not in one slot of the target, the keys that they write are copied from the source one by one",
            "give such keys a common {tag} where they are many",
        ),
        *allowed.told(),
    ]  # fmt: skip


def _plan(settings: Settings, source: End | None) -> list[Finding]:
    """Whether the memory is enough for a link for each shard."""
    links = len(source.members) if source is not None and settings.divided else 1
    cgroup = find_cgroup()
    limit = cgroup.limit() if cgroup else None
    try:
        plan = plan_memory(settings, limit, links)
    except ConfigError as problem:
        return [error("memory", str(problem.args[0]), "a sync does not start", problem.hint or "raise memory_budget")]
    return [
        fine(
            "memory",
            f"{human_bytes(plan.budget_bytes)} for each of {links} links, {human_bytes(plan.ceiling_bytes)} for the process at most",
        )
    ]
