"""Whether rules take nothing that others do not: the one place that says which changes a running sync may follow.

Said of the rules as they are written, never of data: what is not seen to be narrower from them alone is not taken for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.config.rules import GLOB, KINDS, beginning_of
from portd.config.rulesettings import REGEX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from portd.config.rulesettings import RuleSettings

_MAPS: Final = (*KINDS["map"], *KINDS["names"])
_OF_SNAPSHOTS: Final = (*KINDS["types"], *KINDS["sizes"], *KINDS["times"])
_DATABASES: Final = KINDS["databases"]


def widened(old: RuleSettings, new: RuleSettings) -> list[str]:
    """In what rules may take, or map, otherwise than others: words for each; empty where they take the same or less.

    Args:
        old: rules that are in force.
        new: rules that may follow them.
    """
    words = [f"{name} maps otherwise" for name in _MAPS if _set(old, name) != _set(new, name)]
    words += [f"{name} is for snapshots" for name in _OF_SNAPSHOTS if _set(old, name) != _set(new, name)]
    had, has = old.patterns("include") or (b"",), new.patterns("include") or (b"",)
    words += [
        f"include {_shown(each)} is within none of those before" if each else "include is gone: every name is taken"
        for each in has
        if not _within_one(each, had)
    ]
    words += [
        f"exclude {_shown(each)} is gone"
        for each in old.patterns("exclude")
        if not _within_one(each, new.patterns("exclude"))
    ]
    words += _databases(old, new)
    before, now = _slots(old), _slots(new)
    if before and (not now or now - before):
        words.append("include_slots has more slots" if now else "include_slots is gone")
    back = {each.upper() for each in old.exclude_command} - {each.upper() for each in new.exclude_command}
    words += [f"exclude_command {name} is gone" for name in sorted(back)]
    return words


def _set(settings: RuleSettings, name: str) -> object:
    """A setting, such that the order in which its values were given does not matter."""
    if name == "map_db":
        return settings.databases()
    if name == "rename_prefix":
        return settings.renames()
    value = getattr(settings, name)
    return frozenset(value) if isinstance(value, tuple) else value


def _databases(old: RuleSettings, new: RuleSettings) -> list[str]:
    """In what more databases may be taken."""
    if all(_set(old, name) == _set(new, name) for name in _DATABASES):
        return []
    if new.all_dbs_to is not None or new.map_db_many:
        return ["include_db or exclude_db changed, and databases share a place in the target"]
    had, left_before = set(old.include_db), set(old.exclude_db)
    has, left_now = set(new.include_db), set(new.exclude_db)
    if has:
        more = {each for each in has - left_now if each in left_before or (had and each not in had)}
        return [f"database {', '.join(map(str, sorted(more)))} is taken"] if more else []
    if had:
        return ["include_db is gone: every database is taken"]
    back = left_before - left_now
    return [f"exclude_db {', '.join(map(str, sorted(back)))} is gone"] if back else []


def _slots(settings: RuleSettings) -> set[int]:
    return {slot for first, last in settings.slot_ranges() for slot in range(first, last + 1)}


def _within_one(pattern: bytes, others: Iterable[bytes]) -> bool:
    """Whether every name that a pattern fits, one of the others fits, as far as their letters tell."""
    return any(_within(pattern, other) for other in others)


def _within(pattern: bytes, other: bytes) -> bool:
    if pattern == other:
        return True
    prefix = prefix_of(other)
    return prefix is not None and beginning_of(pattern).startswith(prefix)


def prefix_of(pattern: bytes) -> bytes | None:
    """What a pattern asks of the beginning of names, where that is all it asks: `user:`, and `user:*`."""
    if pattern.startswith(REGEX):
        return None
    stem = pattern.rstrip(b"*")
    if stem == pattern:
        return None if any(byte in GLOB for byte in pattern) else pattern
    # Behind a backslash the first of the stars is a letter, and the rest says nothing of that one.
    if any(byte in GLOB for byte in stem) or b"\\" in stem:
        return None
    return stem


def _shown(pattern: bytes) -> str:
    return repr(pattern.decode("utf-8", "backslashreplace"))
