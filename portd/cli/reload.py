"""SIGHUP: reads the TOML file again, and tells what changed, what takes effect now, and what needs a restart.

The standard library does it, since the process that works does not carry what reads settings (`portd.cli.worker`), and has
no room for another process that does. A file that the next start would refuse changes nothing.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, get_args, get_origin, get_type_hints

from portd.config.choices import OnRulesChange
from portd.config.narrowing import widened
from portd.config.option import REQUIRED, separated
from portd.config.rulesettings import RULES
from portd.config.settings import OF_THE_PROCESS, SECRETS, SETTINGS, Settings
from portd.config.tables import TABLE, FileValues, check_together, read_file
from portd.errors import ConfigError
from portd.memory.cgroup import find_cgroup
from portd.memory.plan import plan_memory
from portd.target.limiter import LIMITS
from portd.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

LIVE: Final = LIMITS | {"log_level", "progress_seconds", "memtrace", "verify_every"}  # take effect without a restart

# What `portd.config.settings.option` can bound, and the words of a switch.
_LIMITS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "min_length": lambda value, bound: len(value) >= bound,
    "pattern": lambda value, bound: re.search(bound, value) is not None,
}
_SWITCH: Final = {
    **dict.fromkeys(("true", "yes", "on", "y", "t", "1"), True),
    **dict.fromkeys(("false", "no", "off", "n", "f", "0"), False),
}


@dataclass(frozen=True, slots=True)
class Changes:
    """What a file says now, compared with what it said before.

    Where the file has tables, the settings of a link have its name before their own: ``eu.max_target_ops``.

    Attributes:
        live: new values that can take effect, by setting.
        hidden: settings that changed in the file, but that a flag or variable overrides.
        restart: settings that changed and take effect at the next start.
        narrower: settings of the links whose rules take less than those in force, by link ("" is the only one).
    """

    live: dict[str, Any] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)
    narrower: dict[str, Settings] = field(default_factory=dict)


class ConfigFile:
    """A TOML file as it was when it was last read.

    Args:
        path: the file.
        pinned: settings that flags or variables set, which win over the file.
        links: what is in use, for each link.
        narrows: rules that take less can follow those in force.
    """

    def __init__(self, path: Path, pinned: frozenset[str], *links: Settings, narrows: bool = False) -> None:
        self.path = path
        self._narrows = narrows
        self.log_format = links[0].log_format  # it does not change
        self._pinned = pinned
        self._links = {each.link: each for each in links}
        self._file = self._read()
        self._values = self._last = self._file.flat()  # what is in force of it, and what it said when it was read last

    @property
    def in_use(self) -> tuple[Settings, ...]:
        """Every link, with the rules that are in force."""
        return tuple(self._links.values())

    def reread(self) -> Changes:
        """Reads the file again.

        Raises:
            ConfigError: it cannot be read, a value is wrong, or it contradicts others; nothing changes then.
        """
        file, changes = self._read(), Changes()
        links = self._settings_of(file)
        values = file.flat()
        ruled: dict[str, list[str]] = {}
        for name in sorted(values.keys() | self._values.keys()):
            if values.get(name) == self._values.get(name):
                continue
            link, _, setting = name.rpartition(".")
            known = link in self._links if link else bool(self._file.tables) == bool(file.tables)
            if not link and name in self._pinned:
                changes.hidden.append(name)
            elif setting in LIVE and known and (not link or link in file.tables):
                changes.live[name] = getattr(links[link] if link else next(iter(links.values())), setting)
            elif self._narrows and setting in RULES and known and link in {"", *file.tables}:
                ruled.setdefault(link, []).append(name)
            else:
                changes.restart.append(name)
        for link, names in ruled.items():
            self._look_at_rules(link, names, links[link] if link else next(iter(links.values())), changes)
        changes.restart.sort()
        # What needs a restart is told again at the next signal, until there was one.
        self._last = values
        waiting = {name for names in ruled.values() for name in names}
        self._values = {**values, **{name: self._values.get(name) for name in {*changes.restart, *waiting}}}
        return changes

    def _look_at_rules(self, link: str, names: list[str], new: Settings, changes: Changes) -> None:
        """Rules changed: narrower ones can follow those in force, others want a start.

        Raises:
            ConfigError: the next start would refuse them; nothing changes.
        """
        old = self._links[link] if link else next(iter(self._links.values()))
        words = widened(old, new)
        if old.divided and old.include_slots != new.include_slots:
            words.append("include_slots of a cluster that is the source changed")
        if not words:
            changes.narrower[link] = new
        elif new.on_rules_change is OnRulesChange.FULL_SYNC:
            changes.restart.extend(names)
        else:
            of_link = f"link {link}: " if link else ""
            raise ConfigError(
                f"{of_link}the rules are not narrower than those in force: {', '.join(words)}",
                hint="nothing was changed; the next start refuses them, too (78), unless on_rules_change is full-sync, which copies anew",
            )

    def follow(self, link: str, settings: Settings) -> None:
        """Rules of a link are in force, or will be: those of *settings*."""
        old = self._links[link] if link else next(iter(self._links.values()))
        self._links[old.link] = replace(old, **{name: getattr(settings, name) for name in RULES})
        for name in RULES:
            full = f"{link}.{name}" if link else name
            self._values[full] = self._last.get(full)

    def _read(self) -> FileValues:
        """The file as it is now, without links that were not picked."""
        try:
            file = read_file(self.path)
        except ConfigError as error:
            raise ConfigError(str(error.args[0]), hint="nothing was changed") from None
        if TABLE not in self._pinned or not file.tables:
            return file
        picked = {name: values for name, values in file.tables.items() if name in self._links}
        if not picked:
            raise ConfigError("the link is not in the file any more", hint="nothing was changed")
        return FileValues(file.common, picked)

    def _settings_of(self, file: FileValues) -> dict[str, Settings]:
        """What the next start would make of the file, by link.

        Raises:
            ConfigError: it would not start.
        """
        tables = file.tables or [""]
        try:
            links = [self._link_of(file.of_link(name), name) for name in tables]
            check_together(links)
            cgroup = find_cgroup()
            for each in links:
                plan_memory(each, cgroup.limit() if cgroup else None, len(links))
        except ConfigError as error:
            hint = f"nothing was changed; {error.hint}" if error.hint else "nothing was changed"
            raise ConfigError(str(error.args[0]), hint=hint) from None
        return {each.link: each for each in links}

    def _link_of(self, values: dict[str, Any], table: str) -> Settings:
        """Settings of one link: what the file says, and what it does not and others said at the start."""
        now = self._links.get(table) if table else next(iter(self._links.values()))
        first = now or next(iter(self._links.values()))  # for settings of the process
        known: dict[str, Any] = {}
        kinds = get_type_hints(Settings)
        for name, about in SETTINGS.items():
            kind = kinds[name]
            secret = now is not None and name in SECRETS and name not in values and not self._was_in_file(name, table)
            if name in self._pinned and (name in OF_THE_PROCESS or not table):
                known[name] = getattr(first, name)  # of a flag, or a variable
            elif secret:
                known[name] = getattr(now, name)  # the same, or of a credential
            elif name in values:
                known[name] = _parsed(name, kind, values[name])
            elif about.default is REQUIRED:
                raise ConfigError(f"{f'link {table}: ' if table else ''}{name} is not set any more")
        return Settings(**known)

    def _was_in_file(self, name: str, table: str) -> bool:
        return (f"{table}.{name}" if table else name) in self._values


def _parsed(name: str, kind: Any, value: Any) -> Any:
    """A value of the file as the setting has it; takes what `portd.config.load` takes.

    Raises:
        ConfigError: it is none. What could be a secret is not repeated.
    """
    about, kinds = SETTINGS[name].metadata, get_args(kind) or (kind,)
    try:
        if get_origin(kind) is tuple:
            found: Any = _listed(kinds[0], separated(value, about["split"]))
        else:
            found = _converted(kinds, about["unit"], value)
        if not all(_LIMITS[limit](found, bound) for limit, bound in about["limits"].items()):
            _no(value)
    except (TypeError, ValueError, OverflowError):
        shown = "that" if about["secret"] else repr(value)
        raise ConfigError(
            f"{name}: {shown} is not a value for it", hint="nothing was changed; see docs/configuration.md"
        ) from None
    return found


def _listed(kind: Any, values: Any) -> tuple[Any, ...]:
    """The values of a list.

    Raises:
        TypeError, ValueError, OverflowError: one of them is none, or there is no list.
    """
    return tuple(_converted((kind,), "", each) for each in (values if isinstance(values, list) else _no(values)))


def _converted(kinds: tuple[Any, ...], unit: str, value: Any) -> Any:
    """A value of the first of *kinds* that is not None.

    Raises:
        TypeError, ValueError, OverflowError: it is none.
    """
    kind = kinds[0]
    if kind is bool:
        return _SWITCH[str(value).lower()] if str(value).lower() in _SWITCH else _no(value)
    if kind is int:
        if isinstance(value, str):
            return parse_size(value) if unit == "bytes" else int(value)
        return int(value) if not isinstance(value, bool) and value == int(value) else _no(value)
    if kind is float:
        return float(value) if not isinstance(value, bool) else _no(value)
    if not isinstance(value, str):
        _no(value)
    if kind is Path and any(get_origin(other) is Literal and value in get_args(other) for other in kinds):
        return value
    return kind(value)


def _no(value: Any) -> NoReturn:
    raise ValueError(value)
