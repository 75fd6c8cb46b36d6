"""Names that are no setting: variables that nobody reads, and what may have been meant."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from portd import ENV_PREFIX
from portd.config.settings import SETTINGS
from portd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# Variables that are not ours: what Kubernetes tells of a Service named portd, and what this project's tests read.
_OTHERS: Final = re.compile(ENV_PREFIX + r"(SERVICE_(HOST|PORT)|PORT(_[0-9]|$)|TESTS?_|FUZZ$)")
ALL_SETTINGS: Final = "docs/configuration.md lists all settings"


def check_variables(environment: Mapping[str, str]) -> None:
    """Refuses ``PORTD_*`` variables that nothing reads: probably misspelt, and a default would hold in silence.

    Raises:
        ConfigError: there are some.
    """
    known = {f"{ENV_PREFIX}{name}".upper() for name in [*SETTINGS, "config"]}
    unknown = sorted(  # those in small letters as well: not all that reads variables would see them
        name
        for name in environment
        if name.upper().startswith(ENV_PREFIX) and name not in known and not _OTHERS.match(name)
    )
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)} is set in the environment, which is not a setting",
            hint=similar(unknown[0].upper(), known, f"{ALL_SETTINGS}; unset it"),
        )


def similar(name: str, known: Collection[str] = SETTINGS, otherwise: str = ALL_SETTINGS) -> str:
    """A hint for a name that is no setting: which of *known* may be meant, or *otherwise*."""
    from difflib import get_close_matches  # noqa: PLC0415 - only where something is wrong

    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else otherwise
