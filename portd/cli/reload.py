"""SIGHUP: reads the TOML file again, and tells what changed, what takes effect now, and what needs a restart.

The standard library does it, since the process that works does not carry what reads settings (`portd.cli.worker`).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from portd.config import SETTINGS, LogLevel
from portd.errors import ConfigError
from portd.units import parse_size

if TYPE_CHECKING:
    from pathlib import Path

LIMITS: Final = frozenset({"max_target_bytes_per_second", "max_target_ops"})  # integers
LIVE: Final = LIMITS | {"log_level", "progress_seconds", "memtrace", "verify_every"}  # take effect without a restart


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
        log_format: of the log in use; it does not change.
    """

    def __init__(self, path: Path, pinned: frozenset[str], log_format: str = "auto") -> None:
        self.path = path
        self.log_format = log_format
        self._pinned = pinned
        self._values = _read(path)

    def reread(self) -> Changes:
        """Reads the file again.

        Raises:
            ConfigError: it cannot be read, or a value is wrong; nothing changes then.
        """
        values, changes = _read(self.path), Changes()
        for name in sorted(values.keys() | self._values.keys()):
            if values.get(name) == self._values.get(name):
                continue
            if name in self._pinned:
                changes.hidden.append(name)
            elif name in LIVE:
                changes.live[name] = _checked(name, values.get(name, SETTINGS[name].default))
            else:
                changes.restart.append(name)
        # What needs a restart is told again at the next signal, until there was one.
        self._values = {**values, **{name: self._values.get(name) for name in changes.restart}}
        return changes


def _checked(name: str, value: Any) -> Any:
    """A value of a setting that can change live.

    Raises:
        ConfigError: it is none.
    """
    try:
        if name == "log_level":
            return LogLevel(value)
        number = _integer(name, value) if name in LIMITS else float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= SETTINGS[name].metadata["limits"].get("le", 0):
        raise ConfigError(
            f"{name}: {value!r} is not a value for it", hint="nothing was changed; see docs/configuration.md"
        )
    return number


def _integer(name: str, value: Any) -> int:
    """A whole number; a size with a unit where it counts bytes.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str):
        return parse_size(value) if SETTINGS[name].metadata["unit"] == "bytes" else int(value)
    if isinstance(value, bool) or value != int(value):
        raise ValueError(value)
    return int(value)


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
