"""Flags made of the settings model: same names, same checks, one place for defaults and help."""

from __future__ import annotations

import inspect
from enum import EnumType
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from portd.config import Settings
from portd.units import show_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic.fields import FieldInfo

CONFIG_HELP = "TOML file with settings, named as the flags are. Flags and PORTD_* variables win over it."


def settings_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Gives *command* one flag for every setting, and `--config`.

    Args:
        command: takes `config: Path | None` and the given flags as keywords; flags that are not given are not passed.
    """

    def run(**given: Any) -> None:
        command(given.pop("config"), {name: value for name, value in given.items() if value is not None})

    config = Annotated[
        Path | None, typer.Option("--config", "-c", help=CONFIG_HELP, metavar="FILE", envvar="PORTD_CONFIG")
    ]
    parameters = [_parameter("config", config)]
    parameters += [_parameter(name, _flag(name, field)) for name, field in Settings.model_fields.items()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it from here
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def choices(field: FieldInfo) -> list[str]:
    """The words a setting may be, where it is one of a few; empty elsewhere."""
    return [str(member.value) for member in field.annotation] if isinstance(field.annotation, EnumType) else []


def show_default(field: FieldInfo) -> str:
    """A default as one would write it; empty where there is none."""
    if field.is_required() or field.default is None:
        return ""
    if isinstance(field.default, bool):
        return "yes" if field.default else "no"
    if isinstance(field.default, int) and extra(field)["unit"] == "bytes":
        return show_size(field.default)
    if isinstance(field.default, float):
        return f"{field.default:g}"
    return str(getattr(field.default, "value", field.default))


def extra(field: FieldInfo) -> dict[str, str]:
    """Group and unit of a setting."""
    assert isinstance(field.json_schema_extra, dict)
    return {name: str(value) for name, value in field.json_schema_extra.items()}


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _flag(name: str, field: FieldInfo) -> Any:
    about = extra(field)
    switch = isinstance(field.default, bool)  # given or not; a variable can say no where the TOML file says yes
    words, default = choices(field), show_default(field)
    text = [
        field.description,
        f"One of {', '.join(words)}." if words else "",
        f"Default: {default}." if default else "",
    ]
    kind = "WORD" if words else "NUMBER" if field.annotation is int else "TEXT"
    option = typer.Option(
        "--" + name.replace("_", "-"),
        help=field.description if switch else " ".join(part for part in text if part),
        metavar=None if switch else about["unit"].upper() or kind,
        rich_help_panel=about["group"],
        show_default=False,
    )
    return Annotated[bool | None if switch else str | None, option]
