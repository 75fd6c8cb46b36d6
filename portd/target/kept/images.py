"""Whose keys of a target are whose: where each link that has rules can put keys.

A hash in db 0, ``<prefix>:images`` with the prefix of checkpoints, of a cluster at the node that has its slot: for each link with rules what `portd.config.rules.Image`
makes of them, behind a ``+`` where it was told to share. An entry counts as long as the link has a checkpoint or somebody holds
its lease. A link without rules has none: it is found by its checkpoint, and its keys can be anywhere.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from portd.config.rules import EVERYTHING, Image
from portd.errors import ConfigError
from portd.log import get_logger
from portd.net.control import parse_pairs
from portd.net.topology import NONE, read_written
from portd.target.kept.checkpoint import IMAGES_SUFFIX, LEASE_SUFFIX, Checkpoint
from portd.target.kept.directory import Directory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from portd.config.settings import Settings
    from portd.net.topology import Ranges
    from portd.target.kept.neighbours import Neighbours

_log = get_logger("target")
SHARED: Final = "+"  # before an image: other links may write there, too


async def claim(settings: Settings, image: Image, neighbours: Neighbours, *, ruled: bool, thorough: bool) -> None:
    """Says where keys of this link can be, and refuses a start beside a link whose keys can be there, too.

    Two links without any rules are let be: nothing says whose a key is, and they may well have different ones.

    Args:
        settings: of the link.
        image: where its keys can be.
        neighbours: finds links without rules.
        ruled: it has rules.
        thorough: look for links without rules, too, for which all keys of db 0 may have to be looked at.

    Raises:
        ConfigError: another link may write the same keys, and nobody said that they share them.
        TargetError: the target refuses, or cannot be reached.
    """
    key, link = settings.checkpoint_key + IMAGES_SUFFIX, settings.link
    async with Directory(settings, "looking for other links' keys") as there:
        links = partial(neighbours.links, there) if ruled and thorough else None
        others = await images_of_others(there, links, near=image)
        for other, (where, shared) in sorted(others.items()):
            if not is_shard(other, settings.shard_of):  # what both have just moves from one to the other
                _meet(settings, image, other, where, shared=shared or settings.share_image)
        if settings.shard_pending:
            return  # what stands there says who is to be copied with them
        if ruled:
            await there.call("HSET", key, link, (SHARED if settings.share_image else "") + image.text())
        elif others:
            await there.call("HDEL", key, link)


async def note(settings: Settings, image: Image) -> None:
    """Says where keys of this link can be by now: slots of its source moved from, or to, a link of the same source.

    Raises:
        TargetError: the target refuses, or cannot be reached.
    """
    async with Directory(settings, "telling where keys are") as there:
        text = (SHARED if settings.share_image else "") + image.text()
        await there.call("HSET", settings.checkpoint_key + IMAGES_SUFFIX, settings.link, text)


def _meet(settings: Settings, image: Image, other: str, where: Image, *, shared: bool) -> None:
    """Another link may write the same keys.

    Raises:
        ConfigError: nobody said that it may.
    """
    if shared:
        _log.warning(
            "another link writes to the same target, and its keys may have the same names", other=other,
            hint="the last one to write such a key wins; include, map_db or add_prefix keep them apart",
        )  # fmt: skip
        return
    raise ConfigError(
        f"the link {other} writes into {where} of the target, and this one into {image}: a key may be in both",
        hint="keep them apart by include, map_db or add_prefix, or set share_image; "
        f"a link that is over is forgotten when {settings.checkpoint_of(other)!r} is deleted there",
    )


async def images_of_others(
    there: Directory, links: Callable[[], Awaitable[set[str]]] | None, near: Image = EVERYTHING
) -> dict[str, tuple[Image, bool]]:
    """Where keys of other links can be, and whether they share that, by link.

    Args:
        there: what the target has of links.
        links: finds all of them, for those without rules; None leaves those out.
        near: only those that can have a key in here.
    """
    settings = there.settings
    told = parse_pairs(await there.call("HGETALL", settings.checkpoint_key + IMAGES_SUFFIX))
    found: dict[str, tuple[Image, bool]] = {}
    for name, text in told.items():
        key, where = settings.checkpoint_of(name), Image.parse(text.removeprefix(SHARED))
        if name != settings.link and near.meets(where) and await there.call("EXISTS", key, key + LEASE_SUFFIX):
            found[name] = (where, text.startswith(SHARED))
    unruled = await links() - told.keys() if links is not None else set()
    return found | {name: (EVERYTHING, False) for name in unruled if name != settings.link}


def is_shard(name: str, link: str) -> bool:
    """Whether a link is of a shard of the source cluster of another one, as an operator named that."""
    base, _, number = name.rpartition(".")
    return base == link and number.isdecimal()


async def drawn_there(there: Directory) -> dict[str, Ranges]:
    """Links of a source cluster's shards that the target has, with the slots that their checkpoints tell.

    Args:
        there: see `shards_there`.

    Returns:
        Nothing where one of them does not tell.
    """
    found: dict[str, Ranges] = {}
    for name in await shards_there(there):
        checkpoint = Checkpoint.parse(await there.call("HGETALL", there.settings.checkpoint_of(name)))
        if checkpoint is not None and checkpoint.slots.split(" ")[0] == NONE:
            continue  # all of them moved to others
        ranges = read_written(checkpoint.slots.split()) if checkpoint is not None else ()
        if not ranges:
            return {}
        found[name] = ranges
    return found


async def shards_there(there: Directory) -> dict[str, Ranges]:
    """Links of a source cluster's shards that have a checkpoint in the target, with their slots as far as those are known.

    Args:
        there: what the target has of links; the link is as the operator named it: they have a slot behind that.
    """
    settings = there.settings
    found: dict[str, Ranges] = {}
    for name, text in parse_pairs(await there.call("HGETALL", settings.checkpoint_key + IMAGES_SUFFIX)).items():
        if is_shard(name, settings.link) and await there.call("EXISTS", settings.checkpoint_of(name)):
            found[name] = Image.parse(text.removeprefix(SHARED)).slots
    return dict(sorted(found.items(), key=lambda each: int(each[0].rpartition(".")[2])))
