"""Why a cut-over does not begin, or does not go on."""

from __future__ import annotations

import os
from typing import ClassVar

from portd.errors import PortdError


class Doubt(PortdError):
    """It is not certain that the target has everything, or that it can take over: writes go on at the source."""

    exit_code: ClassVar[int] = 1


class SyncAway(PortdError):
    """No sync answers at its control socket."""

    exit_code: ClassVar[int] = os.EX_UNAVAILABLE


class NotAllowed(PortdError):
    """The control socket is somebody else's."""

    exit_code: ClassVar[int] = os.EX_NOPERM
