"""Flags made of the settings model: same names, same checks, one place for defaults and help."""

from __future__ import annotations

import inspect
from dataclasses import MISSING
from enum import EnumType
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer

from portd.config.settings import SETTINGS, Settings
from portd.units import show_size

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from dataclasses import Field

CONFIG_HELP = "TOML file with settings, named as the flags are. Flags and PORTD_* variables win over it."


def settings_flags(
    command: Callable[..., None], *, names: Collection[str] = tuple(SETTINGS), more: Mapping[str, Any] | None = None
) -> Callable[..., None]:
    """Gives *command* one flag for every setting, and `--config`.

    Args:
        command: takes `config: Path | None` and the given flags as keywords; flags that are not given are not passed.
        names: settings that get a flag.
        more: annotations of further parameters, which come first; those that cannot be None have to be given.
    """

    def run(**given: Any) -> None:
        command(given.pop("config"), given_flags(given))

    config = Annotated[
        Path | None, typer.Option("--config", "-c", help=CONFIG_HELP, metavar="FILE", envvar="PORTD_CONFIG")
    ]
    parameters = [
        _parameter(name, annotation, required=NoneType not in get_args(get_args(annotation)[0]))
        for name, annotation in (more or {}).items()
    ]
    parameters += [_parameter("config", config)]
    parameters += [_parameter(name, _flag(each)) for name, each in SETTINGS.items() if name in names]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it from here
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def given_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given; a list that was not is empty."""
    return {name: value for name, value in given.items() if value is not None and value != []}


def choices(setting: Field[Any]) -> list[str]:
    """The words a setting may be, where it is one of a few; empty elsewhere."""
    kind = kind_of(setting)
    kind = get_args(kind)[0] if get_origin(kind) is tuple else kind
    members: list[Any] = list(kind) if isinstance(kind, EnumType) else []
    return [str(member.value) for member in members]


def kind_of(setting: Field[Any]) -> Any:
    """The type of a setting."""
    return _KINDS[setting.name]


def show_default(setting: Field[Any]) -> str:
    """A default as one would write it; empty where there is none."""
    default = setting.default
    if default in (MISSING, None, ()):
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, int) and setting.metadata["unit"] == "bytes":
        return show_size(default)
    if isinstance(default, float):
        return f"{default:g}"
    return str(getattr(default, "value", default))


_KINDS = get_type_hints(Settings)


def _parameter(name: str, annotation: Any, *, required: bool = False) -> inspect.Parameter:
    default = inspect.Parameter.empty if required else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _flag(setting: Field[Any]) -> Any:
    about = setting.metadata
    switch = kind_of(setting) is bool  # given or not; a variable can say no where the TOML file says yes
    words, default = choices(setting), show_default(setting)
    text = [
        about["description"],
        f"One of {', '.join(words)}." if words else "",
        f"Default: {default}." if default else "",
        "May be given several times." if isinstance(setting.default, tuple) else "",
    ]
    kind = "WORD" if words else "NUMBER" if kind_of(setting) is int else "TEXT"
    option = typer.Option(
        "--" + setting.name.replace("_", "-"),
        help=about["description"] if switch else " ".join(part for part in text if part),
        metavar=None if switch else about["unit"].upper() or kind,
        rich_help_panel=about["group"],
        show_default=False,
    )
    if isinstance(setting.default, tuple):
        return Annotated[list[str] | None, option]
    return Annotated[bool | None if switch else str | None, option]
