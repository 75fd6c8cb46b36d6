"""The TOML file: settings of the process, and those of its links: one outside of tables, or several in `[[link]]` tables.

A table takes what belongs to a link, `name` included; what belongs to the process stays outside. Read by the process that
starts a sync and by the one that works (SIGHUP), so the standard library does it.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from portd.config.choices import Existing, Prune
from portd.config.settings import OF_THE_PROCESS, SETTINGS
from portd.config.variables import similar
from portd.errors import ConfigError
from portd.text import hide_logins

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from portd.config.settings import Settings

TABLE: Final = "link"  # [[link]]
NAME: Final = "name"  # in a table: the setting `link`
EXAMPLE: Final = '[[link]]\nname = "eu"\nsource = "redis://..."\ntarget = "redis://..."'


@dataclass(frozen=True, slots=True)
class FileValues:
    """What a file sets.

    Attributes:
        common: outside of tables.
        tables: in them, by the name of the link, in the order of the file; empty where there are none.
    """

    common: dict[str, Any]
    tables: dict[str, dict[str, Any]]

    def of_link(self, name: str) -> dict[str, Any]:
        """Everything that is set for one link; without tables, there is but one."""
        return {**self.common, **self.tables[name]} if self.tables else self.common

    def flat(self) -> dict[str, Any]:
        """Every value by what an operator calls it: the setting, in a table with the name of the link before it."""
        inside = {f"{name}.{key}": value for name, values in self.tables.items() for key, value in values.items()}
        return {**self.common, **inside}


def read_file(path: Path) -> FileValues:
    """The settings of a TOML file, names with underscores.

    Raises:
        ConfigError: the file cannot be read, is not TOML, names a setting that does not exist, or one in the wrong place.
    """
    shown = hide_logins(str(path), bare=True)
    try:
        with path.open("rb") as stream:
            values = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"the file {shown} cannot be read: {error.strerror}", hint="check --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the file {shown} is not TOML: {error}", hint='settings are lines such as writers = 4 or link = "eu-1"'
        ) from None
    return sort_values(values, shown)


def sort_values(values: dict[str, Any], shown: str) -> FileValues:
    """Tells what belongs to the process from what belongs to which link.

    Args:
        values: as they are in the file.
        shown: the file, for messages.

    Raises:
        ConfigError: see `read_file`.
    """
    common = _named(values, f"the file {shown}")
    tables = common.get(TABLE)
    if isinstance(tables, dict):
        raise ConfigError(f"the file {shown} has a table [link]", hint="two brackets begin a link: [[link]]")
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        return FileValues(common, {})
    del common[TABLE]
    for name in common:
        if name not in OF_THE_PROCESS:
            raise ConfigError(
                f"the file {shown} sets {name} outside of its [[link]] tables, and it belongs to a link",
                hint="put it into the table of each link that it is meant for",
            )
    found: dict[str, dict[str, Any]] = {}
    for number, table in enumerate(tables, 1):
        name, inside = _table(table, number, shown)
        if name in found:
            raise ConfigError(f"the file {shown} has two links named {name}", hint="give each a name of its own")
        found[name] = inside
    if not found:
        raise ConfigError(f"the file {shown} has no link in its list of links", hint=f"begin one with\n{EXAMPLE}")
    return FileValues(common, found)


def _table(table: dict[str, Any], number: int, shown: str) -> tuple[str, dict[str, Any]]:
    """Name and settings of one table."""
    where = f"the [[link]] table number {number} of the file {shown}"
    if TABLE in table:
        raise ConfigError(f"{where} sets link", hint=f"in a table, the name of the link is {NAME}")
    name = table.get(NAME)
    if not isinstance(name, str):
        raise ConfigError(f"{where} has no name", hint=f"begin it with a line such as {NAME} = 'eu'")
    inside = _named({key: value for key, value in table.items() if key != NAME}, where)
    for key in inside:
        if key in OF_THE_PROCESS:
            raise ConfigError(
                f"{where} sets {key}, which belongs to the process, not to a link",
                hint="put it above the first [[link]]",
            )
    return name, {**inside, TABLE: name}


def _named(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values with names as settings have them.

    Raises:
        ConfigError: one is no setting.
    """
    found = {name.replace("-", "_"): value for name, value in values.items()}
    for name in found:
        if name not in SETTINGS:
            raise ConfigError(f"{where} sets {name}, which is not a setting", hint=similar(name))
    return found


def check_together(links: Sequence[Settings]) -> None:
    """Refuses links that would destroy what the other one does.

    Raises:
        ConfigError: two have one name, one checkpoint in one target or one file of dead letters, copy in a circle, or one
            deletes everything in a target that another one writes to.
    """
    ends = [(each.source_endpoint().place, each.target_endpoint().place) for each in links]
    for (one, (first_source, first_target)), (other, (source, target)) in combinations(
        zip(links, ends, strict=True), 2
    ):
        who = f"the links {one.link} and {other.link}"
        if one.link == other.link:
            raise ConfigError(f"there are two links named {one.link}", hint="give each a name of its own")
        into = first_target == target
        if into and one.checkpoint_name() == other.checkpoint_name():
            raise ConfigError(
                f"{who} keep one checkpoint, {one.checkpoint_name()!r}, in one target, {one.target_endpoint().display}",
                hint="give them one checkpoint_key, or names that do not continue it",
            )
        for flushes, loses in ((one, other), (other, one)) if into else ():
            if flushes.prune is Prune.FLUSH or flushes.existing is Existing.FLUSH:
                raise ConfigError(
                    f"the link {flushes.link} flushes its target, and the link {loses.link} writes into it, too",
                    hint="let it prune or replace instead: see prune and existing",
                )
        if (first_source, first_target) == (target, source):
            raise ConfigError(
                f"{who} copy in a circle between {one.source_endpoint().display} and {one.target_endpoint().display}",
                hint="a server is the source of the other one, or its target",
            )
        if one.dead_letters is not None and one.dead_letters == other.dead_letters:
            raise ConfigError(
                f"{who} have one file for dead letters, {one.dead_letters}", hint="give each a file of its own"
            )
