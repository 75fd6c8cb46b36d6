"""A cluster as source: the links that are made of one, and what an earlier start with other shards has left.

Done once, by the process that reads settings, before any link begins.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, count
from typing import TYPE_CHECKING

from portd.config.choices import Existing, OnRulesChange, Prune
from portd.config.merging import merged
from portd.config.settings import MOST_LINK_LETTERS
from portd.errors import ConfigError, LinkTaken, SourceError
from portd.kernel.slots import SLOTS
from portd.log import get_logger
from portd.net.topology import ALL_SLOTS, common, ranges_of, slots_of, spelled, written
from portd.source.nodeview import view
from portd.source.shards import Assignment, read_map, refuse_moves
from portd.target.kept.checkpoint import IMAGES_SUFFIX, LEASE_SUFFIX
from portd.target.kept.directory import Directory
from portd.target.kept.images import drawn_there, shards_there

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from portd.config.settings import Settings
    from portd.net.topology import Node, Ranges, Topology

_log = get_logger("sync")


async def divide_all(links: Iterable[Settings]) -> tuple[Settings, ...]:
    """Links with one for each shard in the place of one whose source is a cluster.

    Raises:
        PortdError: see `divide`.
    """
    found: list[Settings] = []
    for each in links:
        found += await divide(each) if each.divided else [each]
    return tuple(found)


async def divide(settings: Settings) -> list[Settings]:
    """A link for each shard of the source, by the map as it is now. Lets the target forget links that an earlier start had.

    Args:
        settings: of the link that the operator described.

    Raises:
        ConfigError: the source is no cluster; something cannot be had of one yet; or the target has data of other shards.
        SlotsMoved: slots have no owner, or are on their way.
        SourceError: the map cannot be read.
        LinkTaken: a process has one of the links that are over.
        TargetError: the target cannot be asked.
    """
    check_settings(settings)
    wanted: Ranges = tuple(settings.slot_ranges()) or ALL_SLOTS
    topology, marks = await read_map(settings.source_endpoint())
    if links := await _go_on(settings, topology, wanted):
        return links
    refuse_moves(topology, marks, wanted)
    links = links_of(settings, topology)
    await _forget_others(settings, links)
    return links


async def _go_on(settings: Settings, topology: Topology, wanted: Ranges) -> list[Settings]:
    """The links that an earlier start had, where they can go on: together they have all slots, and each has a node.

    Slots that have moved since, or are on their way, are followed from where each stream is. Some may have been about to come to
    a link that was to be copied for them, and have left the one that had them: whoever has their node copies them.
    """
    links, about_to_come = await _links_there(settings)
    slots = {each.link: frozenset(slots_of(tuple(each.slot_ranges()))) for each in links}
    have, all_of_them = frozenset().union(*slots.values()), frozenset(slots_of(wanted))
    pending = all_of_them - have
    if not slots or have - all_of_them or pending - about_to_come:
        return []
    found = Assignment(topology, slots, pending)
    nodes = found.nodes({})
    strangers = found.strangers(nodes)
    if found.gaps or (len(nodes) < len(slots) and strangers):
        return []
    new = {node.name: node for node in (*strangers, *await _idle(settings, nodes.values()))}
    numbers = {int(each.link.rpartition(".")[2]) for each in links}
    for node in new.values():
        number = next(each for each in chain(slots_of(node.slots), count(SLOTS)) if each not in numbers)
        numbers.add(number)
        made = link_of_shard(settings, (), str(number))
        links.append(replace(made, shard_node=f"{node.name} {node.host} {node.port}"))
        _log.info("a shard of the source is new: its link begins without slots, and takes what comes", link=made.link)
    return [replace(each, shard_pending=written(ranges_of(sorted(pending)))) for each in links] if pending else links


async def _links_there(settings: Settings) -> tuple[list[Settings], frozenset[int]]:
    """The links of shards that the target follows, with the slots that they have by now; and those that they have or are to have."""
    async with Directory(settings, "looking for shards of before") as directory:
        there = await drawn_there(directory)
        noted = await shards_there(directory)
    links = [link_of_shard(settings, ranges, name.rpartition(".")[2]) for name, ranges in there.items()]
    about_to_come = chain.from_iterable(slots_of(ranges) for ranges in noted.values())  # of one without slots yet, too
    return links, frozenset(about_to_come)


async def links_now(settings: Settings, topology: Topology) -> list[Settings]:
    """The links of a sync that runs, or that would begin: as the target has them, else by a map.

    Raises:
        ConfigError: a name is too long.
        TargetError: the target cannot be asked.
    """
    links, _ = await _links_there(settings)
    return links or links_of(settings, topology)


async def _idle(settings: Settings, nodes: Iterable[Node]) -> list[Node]:
    """Primaries of the source that have no slots, as the first of these nodes tells that can be asked."""
    for each in nodes:
        try:
            told = await view(settings.source_endpoint(), each)
        except SourceError as error:
            _log.warning("the source's nodes do not tell whether some have no slots yet", error=str(error.args[0]))
            return []
        if told is not None:
            return list(told.idle)
    return []


def links_of(settings: Settings, topology: Topology) -> list[Settings]:
    """A link for each primary that has some of the slots that are wanted, by a map; nothing is looked at.

    Raises:
        ConfigError: its name is too long.
    """
    wanted: Ranges = tuple(settings.slot_ranges()) or ALL_SLOTS
    return [link_of_shard(settings, shard) for node in topology.nodes if (shard := common(node.slots, wanted))]


def check_settings(settings: Settings) -> None:
    """Raises: ConfigError: something is set that cannot be had."""
    if settings.existing is Existing.FLUSH:
        raise ConfigError("existing flush cannot be had with a cluster as source yet", hint="leave it out")
    if found := merged(settings):
        one, other = (each.decode("utf-8", "backslashreplace") for each in found)
        raise ConfigError(
            f"rename_prefix makes one name of {one}* and {other}*, and the source is a cluster: they may be of two shards, "
            "and a flush or a full sync of one would remove the keys of the other",
            hint="exclude the one that the source does not have, or include only the other",
        )
    if (settings.rename_prefix or settings.add_prefix) and not settings.share_image:
        raise ConfigError(
            "names are mapped, and the source is a cluster: the keys of its shards lie among each other in the target",
            hint="set share_image if that may be",
        )


def link_of_shard(settings: Settings, ranges: Ranges, number: str = "") -> Settings:
    """The link of one shard, named by the lowest slot that it had at its first start.

    Raises:
        ConfigError: the name is too long.
    """
    number = number or str(ranges[0][0])
    name = f"{settings.link}.{number}"
    if len(name) > MOST_LINK_LETTERS:
        raise ConfigError(
            f"the name {name} is too long: the links of a cluster's shards have a slot behind {settings.link}",
            hint=f"choose a link with at most {MOST_LINK_LETTERS - 6} letters",
        )
    letters = settings.dead_letters
    return replace(
        settings,
        link=name,
        shard_of=settings.link,
        include_slots=written(ranges),
        one_shard=True,
        dead_letters=letters and _beside(letters, number),
    )


def _beside(file: Path, number: str) -> Path:
    """A file for each shard: ``letters.jsonl`` becomes ``letters.5461.jsonl``."""
    return file.with_name(f"{file.stem}.{number}{file.suffix}")


async def _forget_others(settings: Settings, links: Sequence[Settings]) -> None:
    """Looks for checkpoints of shards that had other slots. What they say is of streams that have other keys by now.

    Raises:
        ConfigError: there are some, and nobody said that everything is to be copied again.
        LinkTaken: a process has one of them.
        TargetError: the target refuses, or cannot be reached.
    """
    now: dict[str, Ranges] = {each.link: tuple(each.slot_ranges()) for each in links}
    async with Directory(settings, "looking for shards of before") as directory:
        there = await shards_there(directory)
        over = {name: had for name, had in there.items() if name not in now or (had and had != now[name])}
        if not over:
            return
        _refuse_others(settings, over)
        for name in over:
            if await directory.call("EXISTS", settings.checkpoint_of(name) + LEASE_SUFFIX):
                raise LinkTaken(
                    f"a process has the link {name}, whose shard had other slots",
                    hint="end it first; the lease of one that was killed ends after some seconds",
                )
        for name in over:
            await directory.forget(name)
        await directory.call("HDEL", settings.checkpoint_key + IMAGES_SUFFIX, *over)
    _log.warning("slots of the source have moved: its shards are copied again", forgotten=" ".join(over))


def _refuse_others(settings: Settings, over: dict[str, Ranges]) -> None:
    """Raises: ConfigError: not everything is set that makes up for slots that moved while nobody looked."""
    given = (settings.on_rules_change, settings.existing, settings.prune)
    if given != (OnRulesChange.FULL_SYNC, Existing.REPLACE, Prune.PRUNE):
        words = "; ".join(f"{name} had {spelled(slots) if slots else 'others'}" for name, slots in over.items())
        raise ConfigError(
            f"slots of the source have moved since the data in the target was made: {words}",
            hint="set on_rules_change to full-sync, existing to replace and prune to prune: all shards whose slots changed are "
            "copied again, and keys that the source has deleted meanwhile go from the target",
        )
