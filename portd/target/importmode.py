"""Import mode: a Valkey target (8.1 and later) that expires nothing by its own clock while portd brings the data.

A key whose time ends before the stream has caught up would die there although the source renewed it meanwhile. In
import mode the target keeps such keys for the connections that said ``CLIENT IMPORT-SOURCE ON``, shows them to nobody
else, and waits for the source's own DEL (server.c:serverCron, db.c:keyIsExpired). It does not evict meanwhile either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portd.control import Refused
from portd.log import get_logger
from portd.target.control import control

if TYPE_CHECKING:
    from portd.endpoint import Endpoint
    from portd.target.capabilities import Capabilities

_log = get_logger("target")

SETTING = "import-mode"


async def enter(endpoint: Endpoint, capabilities: Capabilities) -> bool:
    """Turns import mode on where the target has it and we may.

    Returns:
        Data connections are to say that they import.

    Raises:
        TargetLost: the target cannot be reached.
    """
    if capabilities.family != "valkey" or capabilities.version < (8, 1):
        return False
    async with control(endpoint, "turning import mode on") as client:
        try:
            await client.call("CONFIG", "SET", SETTING, "yes")
        except Refused as refusal:
            _log.warning(
                "no import mode", reply=refusal.text,
                hint="allow +config|set",
            )  # fmt: skip
            return False
    return True


async def leave(endpoint: Endpoint) -> None:
    """Lets the target expire and evict again.

    Raises:
        TargetError: it cannot be reached, or refuses.
    """
    async with control(endpoint, "turning import mode off") as client:
        await client.call("CONFIG", "SET", SETTING, "no")
