"""How a setting is declared: a field of a dataclass that says all that is to be known of it."""

from __future__ import annotations

import dataclasses
from typing import Any

REQUIRED: Any = dataclasses.MISSING


def option(
    default: Any,
    description: str,
    *,
    group: str,
    unit: str = "",
    secret: bool = False,
    process: bool = False,
    split: str = "",
    **limits: Any,
) -> Any:
    """A setting.

    Args:
        default: `REQUIRED` where there is none. A tuple makes a list of it: its flag may be given several times.
        description: sentences for `--help` and the reference.
        group: heading it stands under.
        unit: of the value; `bytes` may be written with units such as 16MiB.
        secret: may be in a credential, is never shown.
        process: of the process, whatever links it has; all others are a link's.
        split: of a list: what stands between several in one text.
        limits: `ge`, `gt`, `le`, `min_length`, `pattern`, as pydantic knows them.
    """
    metadata = {"description": description, "group": group, "unit": unit, "secret": secret, "process": process}
    metadata |= {"split": split, "limits": limits}
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


def separated(value: Any, split: str) -> Any:
    """A list as it is given: one text with several in it (a variable), or a list of texts each of which may hold several.

    Args:
        value: what was given; anything but text, and lists of it, is returned as it is.
        split: what stands between several, beside or instead of white space in a text of its own; "": nothing, as where it may be a part of each.
    """
    if isinstance(value, str):
        value = (value.replace(split, " ") if split else value).split()
    if not split or not isinstance(value, list | tuple):
        return value
    parts: list[Any] = []
    for each in value:
        parts += [part.strip() for part in each.split(split)] if isinstance(each, str) else [each]
    return parts
