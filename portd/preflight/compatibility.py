"""Does the target understand what the source holds?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.kernel.forms import FORMS, NONE, SCRIPT, lacking
from portd.net.endpoint import is_cluster
from portd.preflight.findings import error, fine, note, warning
from portd.target.capabilities import OLDEST_REDIS as OLDEST_TARGET
from portd.target.kept.importmode import has_import_mode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portd.config.settings import Settings
    from portd.net.identity import ServerIdentity
    from portd.preflight.findings import Finding
    from portd.preflight.survey import Survey
    from portd.target.capabilities import Capabilities

NEVER: Final = (999, 0)
OLDEST_REDIS: Final = (2, 8)  # PSYNC
NEWEST_RDB: Final = {"redis": 15, "valkey": 80}  # that this build decodes
# What releases brought: first release of each family, and what becomes of it on a target without.
_FEATURES: Final = (
    ("streams", (5, 0), (0, 0), "streams become dead letters"),
    ("function libraries", (7, 0), (0, 0), "function libraries become dead letters"),
    ("expiry times of hash fields", (7, 4), (9, 0), "such fields are copied without their expiry and live for ever"),
    ("arrays", (8, 8), NEVER, "arrays become dead letters"),
    ("vector sets", (8, 0), NEVER, "vector sets become dead letters"),
)


def versions(survey: Survey, target: Capabilities) -> list[Finding]:
    """Releases, RDB versions, types that the target cannot take."""
    source = survey.identity
    if not source.family:
        return [
            note(
                "versions",
                f"the source does not tell its version; the target is {target.name}",
                "whether the target can take every type of the source is not known",
            )
        ]
    findings = []
    if source.family == "redis" and source.version[:2] < OLDEST_REDIS:
        findings.append(
            error("source.version", source.name, "it does not know PSYNC", "upgrade the source to 2.8 or newer")
        )
    known = source.rdb_version
    if (source.family == "valkey" and source.version[:2] > (9, 1)) or known > NEWEST_RDB[source.family]:
        findings.append(
            note(
                "source.version",
                f"{source.name} is newer than this build knows",
                "it may send types that cannot be decoded",
                "try a sync with --stop-after snapshot into an empty server first, or upgrade portd",
            )
        )
    if target.too_old:
        findings.append(
            error(
                "target.version",
                target.name,
                f"portd writes to Redis {'.'.join(map(str, OLDEST_TARGET))} or newer",
                "upgrade the target",
            )
        )
    lost = _lost_features(source, target)
    findings += [
        warning(
            "target.types",
            f"{source.name} has {what}, {target.name} has not",
            f"if the source uses them, {loss}",
            "upgrade the target, or make sure that the source does not use them",
        )
        for what, loss in lost
    ]
    values = "values go as they are" if _same_types(source, target, known) else "newer encodings are rewritten"
    findings.append(
        fine("versions", f"{source.name} (RDB {known}) into {target.name} (RDB {target.rdb_version}): {values}")
    )
    return findings


def _same_types(source: ServerIdentity, target: Capabilities, known: int) -> bool:
    same_family = source.family == target.family
    return known <= target.rdb_version and (same_family or known <= 11)  # up to RDB 11 both families agree


def _lost_features(source: ServerIdentity, target: Capabilities) -> list[tuple[str, str]]:
    found = []
    for what, redis, valkey, loss in _FEATURES:
        first = {"redis": redis, "valkey": valkey}
        has = source.version[:2] >= first[source.family]
        takes = target.version[:2] >= first[target.family]
        if has and not takes:
            found.append((what, loss))
    return found


def commands(survey: Survey, target: Capabilities) -> list[Finding]:
    """Commands that the source may send and the target does not know, and what becomes of them."""
    source = survey.identity
    if not source.family:
        return [note("target.commands", "which commands the source sends is not known")]
    lacking_there = lacking(target.family, target.version) - lacking(source.family, source.version)
    forms = [form for form in FORMS if form.name in lacking_there]
    scripts = "eval" in target.commands
    refused = [form.name for form in forms if form.becomes == NONE or (form.becomes == SCRIPT and not scripts)]
    if refused:
        return [
            warning(
                "target.commands",
                f"{target.name} has no other form of {'; '.join(refused)}",
                "where the source's clients use them, they become dead letters",
                "upgrade the target, or make sure that nobody uses them" + ("" if scripts else "; scripts need +eval"),
            )
        ]
    names = "; ".join(form.name for form in forms)
    return [fine("target.commands", f"rewritten for {target.name}: {names}" if names else "all of them are known")]


def modules(source: Survey, target: Capabilities) -> list[Finding]:
    """Modules that the target lacks."""
    missing = sorted(source.modules - target.modules)
    if missing:
        return [
            warning(
                "target.modules",
                f"the target lacks the modules {', '.join(missing)}",
                "values of these modules become dead letters, and so do their commands in the stream",
                "load them into the target (MODULE LOAD), the same or a newer version",
            )
        ]
    return [fine("target.modules", ", ".join(sorted(source.modules)) or "the source has none")]


def open_gap(nodes: Iterable[Capabilities]) -> str:
    """What is to be said of the expiry gap of a target cluster."""
    return (
        "" if all(map(has_import_mode, nodes)) else ", and the expiry gap is open: import mode of Valkey 8.1 closes it"
    )


def cluster(settings: Settings, source: Survey, target: Capabilities) -> list[Finding]:
    """Cluster mode of either end."""
    findings = []
    if target.cluster_enabled and not is_cluster(settings.target):
        findings.append(
            error(
                "target.cluster",
                "the target is a cluster node",
                "a sync into one node cannot write the keys of the others",
                "name the cluster: redis+cluster://host:port,host:port",
            )
        )
    elif target.cluster_enabled:
        findings.append(
            note(
                "target.cluster",
                "the target is a cluster; every slot has an owner and none is on its way",
                "of commands over several slots MSET, MSETNX, MSETEX, DEL, UNLINK, TOUCH and SMOVE are cut, keys that others write are copied; "
                f"transactions are cut by slot{open_gap([target])}",
                "",
            )
        )
    if source.cluster:
        what = "the source is a node of a cluster"
        why = "a sync copies the slots of this node only, and slots that move meanwhile are lost"
        findings.append(
            warning(
                "source.cluster",
                what,
                why,
                "do not reshard meanwhile; a sync for each primary, with --link of its own, copies all",
            )
            if settings.one_shard
            else error("source.cluster", what, why, "--one-shard, if the keys of this node are all that is wanted")
        )
    elif source.cluster is None:
        findings.append(
            note(
                "source.cluster",
                "whether the source is a node of a cluster is not told",
                "such a source is refused",
                "",
            )
        )
    return findings or [fine("cluster", "both ends are standalone servers")]


def databases(settings: Settings, source: Survey, target: Capabilities) -> list[Finding]:
    """Whether the target has every database that the source uses."""
    count, used = target.databases, source.keys
    if not count or not used:
        return [note("target.databases", f"{count}; the source is empty" if count else "not known")]
    if max(used) >= count:
        ends = settings.on_refusal == "stop"
        return [
            (error if ends else warning)(
                "target.databases",
                f"the source uses database {max(used)}, the target has {count}",
                "a sync refuses to start"
                if ends
                else "keys and commands of databases that the target lacks become dead letters",
                f"set databases to {max(used) + 1} or more in the target's configuration and restart it",
            )
        ]
    return [fine("target.databases", f"{count}; the source uses {len(used)}, up to {max(used)}")]
