"""SIGHUP: reads the TOML file again, and tells what changed, what takes effect now, and what needs a restart.

The standard library does it, since the process that works does not carry what reads settings (`portd.cli.worker`), and has
no room for another process that does. A file that the next start would refuse changes nothing.
"""

from __future__ import annotations

import operator
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, get_args, get_origin, get_type_hints

from portd.config.settings import REQUIRED, SECRETS, SETTINGS, Settings
from portd.errors import ConfigError
from portd.memory.cgroup import find_cgroup
from portd.memory.plan import plan_memory
from portd.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS: Final = frozenset({"max_target_bytes_per_second", "max_target_ops"})  # integers
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

    Attributes:
        live: new values that can take effect, by setting.
        hidden: settings that changed in the file, but that a flag or variable overrides.
        restart: settings that changed and take effect at the next start.
    """

    live: dict[str, Any] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)


class ConfigFile:
    """A TOML file as it was when it was last read.

    Args:
        path: the file.
        pinned: settings that flags or variables set, which win over the file.
        settings: what is in use.
    """

    def __init__(self, path: Path, pinned: frozenset[str], settings: Settings) -> None:
        self.path = path
        self.log_format = settings.log_format  # it does not change
        self._pinned = pinned
        self._settings = settings
        self._values = _read(path)

    def reread(self) -> Changes:
        """Reads the file again.

        Raises:
            ConfigError: it cannot be read, a value is wrong, or it contradicts others; nothing changes then.
        """
        values, changes = _read(self.path), Changes()
        settings = self._settings_of(values)
        for name in sorted(values.keys() | self._values.keys()):
            if values.get(name) == self._values.get(name):
                continue
            if name in self._pinned:
                changes.hidden.append(name)
            elif name in LIVE:
                changes.live[name] = getattr(settings, name)
            else:
                changes.restart.append(name)
        # What needs a restart is told again at the next signal, until there was one.
        self._values = {**values, **{name: self._values.get(name) for name in changes.restart}}
        return changes

    def _settings_of(self, values: dict[str, Any]) -> Settings:
        """What the next start would make of the file.

        Raises:
            ConfigError: it would not start.
        """
        known: dict[str, Any] = {}
        for name, kind in get_type_hints(Settings).items():
            if name in self._pinned or (name in SECRETS and name not in values and name not in self._values):
                known[name] = getattr(self._settings, name)  # of a flag, a variable, a credential
            elif name in values:
                known[name] = _parsed(name, kind, values[name])
            elif SETTINGS[name].default is REQUIRED:
                raise ConfigError(f"{name} is not set any more", hint="nothing was changed")
        try:
            settings = Settings(**known)
            cgroup = find_cgroup()
            plan_memory(settings, cgroup.limit() if cgroup else None)
        except ConfigError as error:
            raise ConfigError(str(error.args[0]), hint=f"nothing was changed; {error.hint}") from None
        return settings


def _parsed(name: str, kind: Any, value: Any) -> Any:
    """A value of the file as the setting has it; takes what `portd.config.load` takes.

    Raises:
        ConfigError: it is none. What could be a secret is not repeated.
    """
    about, kinds = SETTINGS[name].metadata, get_args(kind) or (kind,)
    try:
        found = _converted(kinds, about["unit"], value)
        if not all(_LIMITS[limit](found, bound) for limit, bound in about["limits"].items()):
            _no(value)
    except (TypeError, ValueError, OverflowError):
        shown = "that" if about["secret"] else repr(value)
        raise ConfigError(
            f"{name}: {shown} is not a value for it", hint="nothing was changed; see docs/configuration.md"
        ) from None
    return found


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


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            values = {name.replace("-", "_"): value for name, value in tomllib.load(stream).items()}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file {path} cannot be read again: {error}", hint="nothing was changed") from None
    for name in values:
        if name not in SETTINGS:
            raise ConfigError(f"the file {path} sets {name}, which is not a setting", hint="nothing was changed")
    return values
