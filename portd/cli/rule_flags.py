"""Flags of rules for commands that are about a snapshot and have no settings file: dump and decode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from portd import ENV_PREFIX
from portd.config.option import separated
from portd.config.rulesettings import RuleSettings
from portd.config.settings import SETTINGS
from portd.errors import ConfigError
from portd.units import parse_size, show_size

if TYPE_CHECKING:
    from collections.abc import Iterable


def _option(name: str, *further: str) -> Any:
    """The flag of a setting, with other names that it has here."""
    about = SETTINGS[name].metadata
    flag = "--" + name.replace("_", "-")
    return typer.Option(
        flag, *further, help=about["description"], envvar=ENV_PREFIX + name.upper(), rich_help_panel=about["group"]
    )


Include = Annotated[list[str] | None, _option("include")]
Exclude = Annotated[list[str] | None, _option("exclude")]
IncludeType = Annotated[list[str] | None, _option("include_type", "--type", "-t")]
ExcludeType = Annotated[list[str] | None, _option("exclude_type")]
IncludeDb = Annotated[list[str] | None, _option("include_db", "--db")]
ExcludeDb = Annotated[list[str] | None, _option("exclude_db")]
IncludeSlots = Annotated[list[str] | None, _option("include_slots")]
MinBytes = Annotated[str | None, _option("min_bytes")]
MaxBytes = Annotated[str | None, _option("max_bytes")]
MinTtl = Annotated[float | None, _option("min_ttl")]
MaxTtl = Annotated[float | None, _option("max_ttl")]


def rule_settings(largest_bytes: int, **given: Any) -> RuleSettings:
    """The settings that flags make.

    Args:
        largest_bytes: sizes are known up to here.
        given: by name of the setting; None where it was not.

    Raises:
        ConfigError: one cannot be understood.
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        if value in (None, []):
            continue
        about = SETTINGS[name]
        if name in {"min_bytes", "max_bytes"}:
            values[name] = _size(name, value, largest_bytes)
        elif isinstance(about.default, tuple):
            values[name] = tuple(_words(name, separated(value, about.metadata["split"])))
        else:
            values[name] = value
    settings = RuleSettings(**values)
    settings.check()
    return settings


def _words(name: str, values: Iterable[str]) -> Iterable[Any]:
    """The elements of a list as the setting has them."""
    for each in values:
        if name.endswith("_type"):
            yield _type(name, each)
        elif name.endswith("_db"):
            if not each.isdecimal():
                raise ConfigError(f"{name}: {each!r} is not a database", hint="databases are numbers from 0 on")
            yield int(each)
        else:
            yield each


def _type(name: str, word: str) -> str:
    from portd.config.choices import KeyType  # noqa: PLC0415 - for its members only

    try:
        return KeyType(word)
    except ValueError:
        raise ConfigError(f"{name}: no such type: {word}", hint=f"the types are {', '.join(KeyType)}") from None


def _size(name: str, text: str, largest: int) -> int:
    try:
        size = parse_size(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
    if size > largest:
        raise ConfigError(
            f"{name} is above {show_size(largest)}, and larger values are not measured before they are told",
            hint="decode --format keys tells the size of every key",
        )
    return size
