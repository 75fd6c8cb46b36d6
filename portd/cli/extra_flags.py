"""Flags for commands beside `sync`: some of the settings' flags, and some of their own."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portd.cli.options import given_flags, settings_flags
from portd.config.choices import StopAfter
from portd.config.rulesettings import GROUP
from portd.config.settings import SETTINGS
from portd.errors import ConfigError
from portd.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

ENDS = (
    *("source", "target", "source_password", "source_password_file", "target_password", "target_password_file"),
    *("source_address_map", "target_address_map", "psync_command", "link", "checkpoint_key", "connect_seconds"),
    *(name for name, each in SETTINGS.items() if each.metadata["group"] == "TLS"),
)
RULES = tuple(name for name, each in SETTINGS.items() if each.metadata["group"] == GROUP)
# Of them, those that say which keys of a snapshot are taken.
SNAPSHOT_RULES = tuple(
    name for name in RULES if name.startswith(("include", "exclude", "min_", "max_")) and name != "exclude_command"
)
# For commands that read keys and follow no stream: rules that need the values can be kept, too.
ALL_RULES: Mapping[str, object] = {"stop_after": StopAfter.SNAPSHOT}

LARGEST_BYTES = (
    Annotated[
        str,
        typer.Option(
            "--largest-bytes", metavar="BYTES", help="Values that take more memory are not read again by DUMP."
        ),
    ],
    "256MiB",
)

# Of a command that reads one server: the same names as everywhere, since a file or a variable may be shared with a sync.
SOURCE = (*(name for name in ENDS if name.startswith("source")), "link", "connect_seconds")
NO_TARGET = "unix:///no-target-is-needed"  # settings want one, such a command does not
NO_SOURCE = "unix:///no-source-is-needed"


def parsed_largest(text: str) -> int:
    """What `LARGEST_BYTES` was given.

    Raises:
        ConfigError: it is no size.
    """
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"largest_bytes: {error}") from None


def flags(
    command: Callable[..., None], names: Collection[str], own: Mapping[str, tuple[Any, Any]]
) -> Callable[..., None]:
    """Gives *command* the flags of some settings, `--config`, and flags of its own.

    Args:
        command: takes `config`, the settings' flags that were given as a mapping, and its own flags as keywords.
        names: settings that have a flag here; the others can still come from variables and the TOML file.
        own: annotation and default by name.
    """
    everything = settings_flags(lambda config, given: None)  # noqa: ARG005 - only its signature is wanted
    wanted = [
        parameter
        for parameter in inspect.signature(everything).parameters.values()
        if parameter.name == "config" or parameter.name in names
    ]
    wanted += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in own.items()
    ]

    def run(**given: Any) -> None:
        mine = {name: given.pop(name) for name in own}
        config = given.pop("config")
        command(config, given_flags(given), **mine)

    run.__signature__ = inspect.Signature(wanted)  # type: ignore[attr-defined]  # typer reads it from here
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in wanted}
    run.__name__, run.__doc__ = command.__name__.removeprefix("_"), command.__doc__
    return run
