"""Reads settings: flags, `PORTD_*` variables, systemd credentials and a TOML file become one `portd.config.settings.Settings`.

A pydantic-settings model is made from the fields of `Settings`. The highest that has a value wins: flags, environment,
credentials, TOML, defaults.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from contextvars import ContextVar
from dataclasses import MISSING
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import BeforeValidator, Field, ValidationError, create_model
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from portd import ENV_PREFIX
from portd.config.settings import SECRETS, SETTINGS, Settings, check_variables
from portd.errors import ConfigError
from portd.net.endpoint import read_secret
from portd.text import hide_logins
from portd.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

_toml_values: ContextVar[Mapping[str, Any] | None] = ContextVar("_toml_values", default=None)


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
    """Secrets that systemd put into ``$CREDENTIALS_DIRECTORY``, one file per setting, named like it."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - signature
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if field_name not in SECRETS or not directory:
            return None, field_name, False
        for name in (field_name, field_name.replace("_", "-")):
            file = Path(directory, name)
            if file.exists():
                return read_secret(file, f"credential {name}"), field_name, False
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {name: self.get_field_value(None, name)[0] for name in SECRETS}
        return {name: value for name, value in values.items() if value}  # an empty credential is none


def load_settings(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Settings:
    """Settings from everywhere, checked.

    Args:
        flags: values by setting name; text is parsed as it is elsewhere.
        config: TOML file.

    Raises:
        ConfigError: all that is wrong, in one message that repeats no secret.
    """
    check_variables(os.environ)
    token = _toml_values.set(read_toml(config) if config is not None else None)
    try:
        values = _model()(**dict(flags or {}))
    except ValidationError as error:
        problems = [_problem(detail["loc"], detail["type"], detail["msg"]) for detail in error.errors()]
        raise ConfigError("; ".join(dict.fromkeys(problems)), hint="see portd sync --help") from None
    finally:
        _toml_values.reset(token)
    return Settings(**{name: getattr(values, name) for name in SETTINGS})


def read_toml(file: Path) -> dict[str, Any]:
    """The settings of a TOML file, names with underscores.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or names a setting that does not exist.
    """
    shown = hide_logins(str(file), bare=True)
    try:
        with file.open("rb") as stream:
            values = {name.replace("-", "_"): value for name, value in tomllib.load(stream).items()}
    except OSError as error:
        raise ConfigError(f"the file {shown} cannot be read: {error.strerror}", hint="check --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the file {shown} is not TOML: {error}", hint='settings are lines such as writers = 4 or link = "eu-1"'
        ) from None
    for name in values:
        if name not in SETTINGS:
            raise ConfigError(f"the file {shown} sets {name}, which is not a setting", hint=_similar(name))
    return values


@cache
def _model() -> type[_Base]:
    """The fields of `Settings` as a model that parses and checks each of them."""
    definitions: dict[str, Any] = {}
    for name, kind in get_type_hints(Settings).items():
        about = SETTINGS[name]
        parsed = Annotated[kind, BeforeValidator(_size)] if about.metadata["unit"] == "bytes" else kind
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
        return f"{name} is not a setting; {_similar(name)}"
    text = message.removeprefix("Value error, ")
    return f"{name}: {text[:1].lower()}{text[1:]}"


def _similar(name: str) -> str:
    near = difflib.get_close_matches(name, SETTINGS, n=1)
    return f"did you mean {near[0]}?" if near else "docs/configuration.md lists all settings"
