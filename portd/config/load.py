"""Reads settings: flags, `PORTD_*` variables, systemd credentials and a TOML file become one `portd.config.settings.Settings`.

A pydantic-settings model is made from the fields of `Settings`. The highest that has a value wins: flags, environment,
credentials, TOML, defaults.
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from dataclasses import MISSING
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import BeforeValidator, Field, ValidationError, create_model
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from portd import ENV_PREFIX
from portd.config.option import separated
from portd.config.settings import OF_THE_PROCESS, SECRETS, SETTINGS, Settings
from portd.config.tables import TABLE, FileValues, check_together, read_file
from portd.config.variables import check_variables, similar
from portd.errors import ConfigError
from portd.net.endpoint import read_secret
from portd.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

_toml_values: ContextVar[Mapping[str, Any] | None] = ContextVar("_toml_values", default=None)
_table: ContextVar[str] = ContextVar("_table", default="")  # name of the [[link]] table that is read; "" without tables


class _Base(BaseSettings):
    """Where values come from."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not used: no .env files
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - replaced by our own
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, credentials, TOML: the first that has a value wins."""
        toml = InitSettingsSource(settings_cls, dict(_toml_values.get() or {}))
        return init_settings, env_settings, _Credentials(settings_cls), toml


class _Credentials(PydanticBaseSettingsSource):
    """Secrets that systemd put into ``$CREDENTIALS_DIRECTORY``, one file per setting, named like it.

    Where the file has tables, the name of the link stands before it: ``eu.source_password``.
    """

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - signature
        before = f"{_table.get()}." if _table.get() else ""
        return _credential(field_name, before) if field_name in SECRETS else None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(None, name)[0] for name in SECRETS}
        return {name: value for name, value in values.items() if value}  # an empty credential is none


def load_settings(
    flags: Mapping[str, Any] | None = None, config: Path | None = None, fixed: Mapping[str, Any] | None = None
) -> Settings:
    """Settings of one link from everywhere, checked: for commands that are about one.

    Args:
        flags: see `load_links`.
        config: see there.
        fixed: see there.

    Raises:
        ConfigError: see there; also where the file has several links, and no one was named.
    """
    links = load_links(flags, config, fixed)
    if len(links) > 1:
        raise ConfigError(
            f"the file of --config has several links: {', '.join(each.link for each in links)}",
            hint="name one of them with --link",
        )
    return links[0]


def load_links(
    flags: Mapping[str, Any] | None = None, config: Path | None = None, fixed: Mapping[str, Any] | None = None
) -> tuple[Settings, ...]:
    """Settings of every link from everywhere, checked: of one, or of those that the file has tables for.

    Where there are tables, flags and variables are for the process; `link` picks one of them.

    Args:
        flags: values by setting name; text is parsed as it is elsewhere.
        config: TOML file.
        fixed: settings that the command does not leave to anybody.

    Raises:
        ConfigError: all that is wrong, in one message that repeats no secret.
    """
    check_variables(os.environ)
    given, fixed = dict(flags or {}), dict(fixed or {})
    file = read_file(config) if config is not None else FileValues({}, {})
    if not file.tables:
        return (_load({**given, **fixed}, file.common, ""),)
    picked = _picked(given, file)
    links = tuple(
        _load({**given, **fixed, TABLE: name}, file.of_link(name), name)
        for name in file.tables
        if picked in {None, name}
    )
    check_together(links)
    return links


def _picked(given: Mapping[str, Any], file: FileValues) -> str | None:
    """The link that flags or variables name; None for all.

    Raises:
        ConfigError: there is no such table, or something is set for a link where nobody can say which.
    """
    variables = {name: os.environ.get(f"{ENV_PREFIX}{name.upper()}") for name in SETTINGS}
    for name in SETTINGS:
        if name == TABLE or name in OF_THE_PROCESS:
            continue
        hint = "put it into the table of the link that it is meant for"
        if name in given:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} belongs to a link, and the file has [[link]] tables", hint=hint)
        if variables[name]:
            raise ConfigError(
                f"{ENV_PREFIX}{name.upper()} belongs to a link, and the file has [[link]] tables", hint=hint
            )
        if name in SECRETS and _credential(name):
            raise ConfigError(
                f"the credential {name} belongs to a link, and the file has [[link]] tables",
                hint=f"put the name of its link before it: {next(iter(file.tables))}.{name}",
            )
    picked: str | None = given.get(TABLE) or variables[TABLE] or None
    if picked is not None and picked not in file.tables:
        raise ConfigError(f"the file of --config has no link named {picked}", hint=f"it has {', '.join(file.tables)}")
    return picked


def _load(flags: Mapping[str, Any], values: Mapping[str, Any], table: str) -> Settings:
    """Settings of one link.

    Args:
        flags: win over everything.
        values: of the file.
        table: the name of its table; "" without tables.
    """
    tokens = _toml_values.set(values), _table.set(table)
    before = f"link {table}: " if table else ""
    try:
        found = _model()(**dict(flags))
        return Settings(**{name: getattr(found, name) for name in SETTINGS})
    except ValidationError as error:
        problems = [before + _problem(detail["loc"], detail["type"], detail["msg"]) for detail in error.errors()]
        raise ConfigError("; ".join(dict.fromkeys(problems)), hint="see portd sync --help") from None
    except ConfigError as error:
        raise ConfigError(f"{before}{error.args[0]}", hint=error.hint) from None
    finally:
        _toml_values.reset(tokens[0])
        _table.reset(tokens[1])


def _credential(name: str, before: str = "") -> str | None:
    """What the file of a credential holds, its name written as that of a flag or as that of a setting; None without a file."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    for each in (name, name.replace("_", "-")) if directory else ():
        file = Path(directory or "", before + each)
        if file.exists():
            return read_secret(file, f"credential {before}{each}")
    return None


@cache
def _model() -> type[_Base]:
    """The fields of `Settings` as a model that parses and checks each of them."""
    definitions: dict[str, Any] = {}
    kinds = get_type_hints(Settings)
    for name, about in SETTINGS.items():
        kind = kinds[name]
        parsed: Any = Annotated[kind, BeforeValidator(_size)] if about.metadata["unit"] == "bytes" else kind
        if isinstance(about.default, tuple):
            parsed = Annotated[kind, NoDecode, BeforeValidator(partial(separated, split=about.metadata["split"]))]
        default = ... if about.default is MISSING else about.default
        definitions[name] = (parsed, Field(default, **about.metadata["limits"]))
    model: type[_Base] = create_model("Settings", __base__=_Base, **definitions)
    return model


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _problem(location: tuple[int | str, ...], kind: str, message: str) -> str:
    name = str(location[0]) if location else "settings"
    if kind == "missing":
        flag = "--" + name.replace("_", "-")
        return f"{name} is not set: give {flag}, {ENV_PREFIX}{name.upper()} or a line in the file of --config"
    if kind == "extra_forbidden":
        return f"{name} is not a setting; {similar(name)}"
    text = message.removeprefix("Value error, ")
    return f"{name}: {text[:1].lower()}{text[1:]}"
