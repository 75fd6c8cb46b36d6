"""What the rules of a link do: to a sample of the source's keys, beside other links, and to commands in use.

SCAN tells keys in the order of a hash table, which is as good as chance. Nothing is changed, and values are not read.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from portd.config.choices import OnRulesChange
from portd.config.rules import changed, choice_of
from portd.errors import PortdError, printable
from portd.kernel.rules import Patterns
from portd.kernel.slots import key_slot
from portd.link.crossing import PARTLY
from portd.net.control import Refused, calls_by_command, open_control, parse_info
from portd.net.resp import request
from portd.preflight.findings import error, fine, note, warning
from portd.preflight.merging import ByNode, named
from portd.preflight.permissions import copying_permissions
from portd.target.kept.checkpoint import read_checkpoint
from portd.target.kept.directory import Directory
from portd.target.kept.images import images_of_others, is_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from portd.config.rules import Choice
    from portd.config.settings import Settings
    from portd.net.control import Control
    from portd.net.endpoint import Endpoint
    from portd.net.topology import Ranges
    from portd.preflight.findings import Finding

KEYS: Final = 5000  # looked at, in all databases together
COUNT: Final = 500
SHOWN: Final = 3  # names in a finding

Key = tuple[int, bytes, str, int]  # database, name, type, bytes in memory (0: not told)


@dataclass(slots=True)
class Sample:
    """Keys that were looked at."""

    keys: list[Key] = field(default_factory=list)

    def share(self, picked: list[Key]) -> str:
        """How much of it some keys are, in words."""
        size, all_of_it = (sum(each[3] for each in keys) for keys in (picked, self.keys))
        bytes_ = f" and {100 * size / all_of_it:.1f} % of their bytes" if all_of_it else ""
        return f"{100 * len(picked) / len(self.keys):.1f} % of {len(self.keys)} keys that were looked at{bytes_}"


@dataclass(frozen=True, slots=True)
class Place:
    """A server of the source.

    Attributes:
        where: its address, for people.
        endpoint: of it alone.
        databases: how many keys each holds.
        slots: of a cluster: those that it has.
    """

    where: str
    endpoint: Endpoint
    databases: Mapping[int, int]
    slots: Ranges = ()


async def rules(settings: Settings, places: Sequence[Place], links: Sequence[Settings] = ()) -> list[Finding]:
    """All findings about rules; none where there are no rules.

    Args:
        settings: of the link as the operator describes it.
        places: servers of the source; what is found of them is told together.
        links: that are made of it; the link itself where there are none.
    """
    try:
        choice = choice_of(settings, settings.checkpoint_key)
    except PortdError as problem:
        return [error("rules", str(problem.args[0]), "a sync with it does not start", problem.hint or "mend the rule")]
    found = await _beside(settings, links or (settings,))
    if not choice:
        return found
    told = ByNode(len(places))
    for place in places:
        told.add(place.where, await copying_permissions(place.endpoint, place.slots[0][0] if place.slots else None))
    found += told.told()
    try:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(open_control(place.endpoint)) for place in places]
            sample, total = Sample(), max(1, sum(sum(place.databases.values()) for place in places))
            for client, place in zip(clients, places, strict=True):
                await _add(sample, client, place.databases, total)
            found += _shares(settings, choice, sample)
            found += await _collisions(clients, places, choice, sample)
            found += await _commands(clients)
    except (Refused, OSError) as problem:
        found.append(
            note(
                "rules.sample",
                f"the source's keys cannot be looked at: {problem}",
                "",
                "allow +scan +type +memory|usage",
            )
        )
    return found


async def _add(sample: Sample, client: Control, databases: Mapping[int, int], total: int) -> None:
    """Keys of all databases of a server, of each as many as its share of the *total* of all servers is, and one at least."""
    for db, keys in sorted(databases.items()):
        wanted, cursor, names = max(1, KEYS * keys // total), b"0", dict[bytes, None]()
        await client.call("SELECT", db)
        while len(names) < wanted:
            cursor, more = await client.call("SCAN", cursor, "COUNT", min(COUNT, wanted))
            names.update(dict.fromkeys(more))
            if cursor == b"0":
                break
        picked = list(names)[:wanted]
        for start in range(0, len(picked), COUNT):
            part = picked[start : start + COUNT]
            answers = await client.ask(
                *(request("TYPE", name) for name in part), *(request("MEMORY", "USAGE", name) for name in part)
            )
            for name, kind, size in zip(part, answers, answers[len(part) :], strict=False):
                word = kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)
                sample.keys.append((db, name, word, size if isinstance(size, int) else 0))


def _shares(settings: Settings, choice: Choice, sample: Sample) -> list[Finding]:
    """What is taken, and what each rule fits."""
    if not sample.keys:
        return [note("rules.taken", "the source is empty, or does not tell its databases")]
    taken = [each for each in sample.keys if _takes(settings, choice, each)]
    found = [fine("rules.taken", sample.share(taken))] if taken else [
        warning("rules.taken", f"none of {len(sample.keys)} keys that were looked at", "a sync would copy nothing or little", "look at the rules below")
    ]  # fmt: skip
    return found + [
        _one(rule, sample, [each for each in sample.keys if fits(each)]) for rule, fits in _each_rule(settings)
    ]


def _each_rule(settings: Settings) -> Iterator[tuple[str, Callable[[Key], bool]]]:
    """Every rule that asks for names, types or databases: its words, and what tells whether it fits a key."""
    for name in ("include", "exclude"):
        for text, pattern in zip(getattr(settings, name), settings.patterns(name), strict=True):
            one = Patterns([pattern])
            yield f"{name} {text}", lambda key, one=one: one.matches(key[1])  # type: ignore[misc]
    for old in settings.renames():
        text = f"rename_prefix {old.decode('utf-8', 'backslashreplace')}"
        yield text, lambda key, old=old: key[1].startswith(old)  # type: ignore[misc]
    for name in ("include_type", "exclude_type"):
        for word in getattr(settings, name):
            yield f"{name} {word}", lambda key, word=word: key[2] == word  # type: ignore[misc]
    for name, databases in (
        ("include_db", settings.include_db),
        ("exclude_db", settings.exclude_db),
        ("map_db", settings.databases()),
    ):
        for db in databases:
            yield f"{name} {db}", lambda key, db=db: key[0] == db  # type: ignore[misc]


def _takes(settings: Settings, choice: Choice, key: Key) -> bool:
    """Whether a key is taken by its database, name and type; sizes and times are not looked at."""
    db, name, kind, _ = key
    typed = not settings.include_type or kind in settings.include_type
    by_type = typed and kind not in settings.exclude_type
    return by_type and db not in choice.blocked and (choice.rules is None or choice.rules.takes(name, db))


def _one(rule: str, sample: Sample, picked: list[Key]) -> Finding:
    if picked:
        return fine("rules.rule", f"{rule}: {sample.share(picked)}")
    return warning(
        "rules.rule", f"{rule}: fits none of {len(sample.keys)} keys that were looked at",
        "a rule that fits nothing is often misspelt", "look at its spelling, or leave it out",
    )  # fmt: skip


async def _collisions(
    clients: Sequence[Control], places: Sequence[Place], choice: Choice, sample: Sample
) -> list[Finding]:
    """Names of the source of which two become one."""
    if choice.mapping is None:
        return []
    met: list[str] = []
    for db, name, _, _ in sample.keys:
        if choice.rules is not None and not choice.rules.takes(name, db):
            continue
        others = [each for each in choice.mapping.origins(choice.mapping.renamed(name)) if each != name]
        for other in others:
            if choice.rules is not None and not choice.rules.takes(other, db):
                continue
            client = _owner(clients, places, other)
            await client.call("SELECT", db)
            if await client.call("EXISTS", other):
                met.append(f"{printable(name)} and {printable(other)} in db {db}")
    if not met:
        return []
    return [
        warning(
            "rules.names", f"{len(met)} keys that were looked at share their name in the target with another one: "
            + "; ".join(met[:SHOWN]), "the last one that is written wins", "choose another prefix, or exclude one of the two",
        )
    ]  # fmt: skip


def _owner(clients: Sequence[Control], places: Sequence[Place], name: bytes) -> Control:
    """Who of the source would have a key."""
    slot = key_slot(name)
    owners = (
        client
        for client, place in zip(clients, places, strict=True)
        if any(first <= slot <= last for first, last in place.slots)
    )
    return next(owners, clients[0])


async def _commands(clients: Sequence[Control]) -> list[Finding]:
    """Commands in use of which rules may take a part."""
    calls_of: Counter[str] = Counter()
    for client in clients:
        calls_of.update(calls_by_command(parse_info(await client.call("INFO", "commandstats"))))
    used = {name: count for name, count in calls_of.items() if name in PARTLY}
    if not used:
        return [fine("rules.commands", "no command in use that rules could take a part of")]
    calls = ", ".join(f"{name} ({count})" for name, count in sorted(used.items()))
    return [
        note(
            "rules.commands", f"commands of several keys or databases were called since the source started: {calls}",
            "where rules take only some of their keys, they are taken apart, or keys are copied from the source", "docs/filters.md says which becomes what",
        )
    ]  # fmt: skip


async def _beside(settings: Settings, links: Sequence[Settings]) -> list[Finding]:
    """What the target has of these links, which are made of one, and of others."""
    choices = {each.link: choice_of(each, each.checkpoint_key) for each in links}
    changes: dict[str, list[str]] = {}  # links by what has changed
    try:
        async with Directory(settings, "looking for other links' keys") as there:
            others = await images_of_others(there, there.links if any(choices.values()) else None)
        for each in links:
            checkpoint = await read_checkpoint(each.target_endpoint(), each.checkpoint_name())
            if checkpoint is not None and checkpoint.rules != choices[each.link].digest:
                words = ", ".join(changed(checkpoint.rules, choices[each.link].digest))
                changes.setdefault(words, []).append(each.link)
    except PortdError as problem:
        return [note("rules.links", f"the target does not tell of other links: {problem.args[0]}")]
    tell = error if settings.on_rules_change is OnRulesChange.REFUSE else warning
    found = [
        tell("rules.changed", f"the data in the target was made by other rules: {words}" + (f" (links {named(which)})" if len(links) > 1 else ""),
             "a start refuses, or copies the snapshot again, as on_rules_change says", "take the old rules, or set on_rules_change to full-sync")
        for words, which in changes.items()
    ]  # fmt: skip
    for link, (where, shared) in sorted(others.items()):
        if link in choices or (settings.divided and is_shard(link, settings.link)):
            continue
        image = next((each.image for each in choices.values() if each.image.meets(where)), None)
        if image is None:
            apart = choices[links[0].link].image if len(links) == 1 else "those of all shards"
            found.append(fine("rules.links", f"the link {link} writes into {where}: apart from {apart}"))
        else:
            allowed = shared or settings.share_image
            tell = warning if allowed else error
            found.append(
                tell("rules.links", f"the link {link} writes into {where}, this one into {image}: a key may be in both",
                     "the last one to write a key wins" if allowed else "the start is refused", "keep them apart by include, map_db or add_prefix")
            )  # fmt: skip
    return found
