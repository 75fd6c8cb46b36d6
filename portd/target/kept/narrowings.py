"""Which rules followed which while a sync ran, where its source has several shards: they do not take them up together.

A field of the hash of images (`portd.target.kept.images`), ``rules of <link>`` with the link as the operator named it: pairs of digests
without slots, as JSON. It is written before any shard takes narrower rules up. So whoever finds a shard that has not
done that, behind a kill, knows that it may: the data was made by rules that took more.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from portd.config.rules import without_slots
from portd.target.kept.checkpoint import IMAGES_SUFFIX
from portd.target.kept.directory import Directory

if TYPE_CHECKING:
    from portd.config.settings import Settings

MOST: Final = 32  # pairs that are remembered


async def note(settings: Settings, before: str, now: str) -> None:
    """Narrower rules are to follow others.

    Args:
        settings: of the link of a shard.
        before: digest of those in force.
        now: of the others.

    Raises:
        TargetError: the target refuses, or cannot be reached.
    """
    pair = [without_slots(before), without_slots(now)]
    async with Directory(settings, "telling which rules follow") as there:
        pairs = await _pairs(there)
        if pair not in pairs:
            told = json.dumps([*pairs, pair][-MOST:])
            await there.call("HSET", settings.checkpoint_key + IMAGES_SUFFIX, _field(settings), told)


async def follow(settings: Settings, before: str, now: str) -> bool:
    """Whether rules follow others by which the data of a shard was made, as `note` was told; raises as that does."""
    async with Directory(settings, "looking which rules followed") as there:
        pairs = await _pairs(there)
    reached, todo = set[str](), [without_slots(before)]
    while todo:
        one = todo.pop()
        reached.add(one)
        todo += [new for old, new in pairs if old == one and new not in reached]
    return without_slots(now) in reached


async def _pairs(there: Directory) -> list[list[str]]:
    found = await there.call("HGET", there.settings.checkpoint_key + IMAGES_SUFFIX, _field(there.settings))
    return [[str(old), str(new)] for old, new in json.loads(found)] if found else []


def _field(settings: Settings) -> str:
    return f"rules of {settings.described}"
