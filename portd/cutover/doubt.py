"""Why a cut-over does not go on."""

from __future__ import annotations

from typing import ClassVar

from portd.errors import PortdError


class Doubt(PortdError):
    """It is not certain that the target has everything, or that it can take over: writes go on at the source."""

    exit_code: ClassVar[int] = 1
