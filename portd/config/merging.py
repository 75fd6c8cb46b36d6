"""Whether two names of the source can become one in the target: said of the rules as they are written, never of data.

Where one link writes both, the last one wins, and whatever removes keys means both. Where two links do, such as those of two
shards of a cluster, nothing tells whose the key is: a flush of one shard would take what the other one has.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

from portd.config.narrowing import prefix_of
from portd.config.rules import beginning_of

if TYPE_CHECKING:
    from portd.config.rulesettings import RuleSettings


def merged(settings: RuleSettings) -> tuple[bytes, bytes] | None:
    """Beginnings of two names that may become one; None where no two do. What is not seen to be apart counts as one.

    Args:
        settings: checked.
    """
    swaps = {b"": b""} | settings.renames()  # what is put in front of all keys changes nothing here
    for one, other in permutations(swaps, 2):
        if not swaps[one].startswith(swaps[other]):
            continue
        beside = other + swaps[one].removeprefix(swaps[other])  # what the other swap makes the same of
        if all(_arises(settings, name, by, swaps) for name, by in ((one, one), (beside, other))):
            return one, beside
    return None


def _arises(settings: RuleSettings, beginning: bytes, by: bytes, swaps: dict[bytes, bytes]) -> bool:
    """Whether names that begin so may be taken, and renamed by that swap: of several that fit, the longest counts."""
    elsewhere = [old for old in swaps if len(old) > len(by)]
    left = [each for pattern in settings.patterns("exclude") if (each := prefix_of(pattern)) is not None]
    for taken in [beginning_of(each) for each in settings.patterns("include")] or [b""]:
        if taken.startswith(beginning) or beginning.startswith(taken):
            longer = max(taken, beginning, key=len)
            if not longer.startswith((*elsewhere, *left)):
                return True
    return False
