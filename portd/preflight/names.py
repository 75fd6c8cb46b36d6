"""Does the source hold keys that are named like those of portd?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from portd.net.control import Refused, open_control
from portd.net.resp import request
from portd.preflight.findings import warning

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.net.control import Control
    from portd.net.endpoint import Endpoint
    from portd.preflight.findings import Finding

SUFFIXES: Final = ("", ":lease", ":epoch")  # of the keys of one link
ROUNDS: Final = 20  # of SCAN; a large source is not searched to its end
COUNT: Final = 500


async def own_names(endpoint: Endpoint, settings: Settings) -> list[Finding]:
    """Looks for this link's names, and at the first keys of the source for others; nothing where we may not ask."""
    try:
        async with open_control(endpoint) as control:
            found = await _look(control, settings)
    except (Refused, OSError):
        return []
    if not found:
        return []
    return [
        warning(
            "source.names",
            f"keys begin with {settings.checkpoint_key!r}: {', '.join(sorted(found)[:3])}",
            "they are not copied, for the target's keys of these names are portd's own",
            "nothing to do when the source is itself the target of a portd; rename them, or set checkpoint_key, otherwise",
        )
    ]


async def _look(control: Control, settings: Settings) -> set[str]:
    names = [settings.checkpoint_name() + suffix for suffix in SUFFIXES]
    answers = await control.ask(*(request("EXISTS", name) for name in names))
    found = {name for name, answer in zip(names, answers, strict=True) if answer == 1}
    prefix = settings.checkpoint_key.encode()
    cursor = b"0"
    for _ in range(ROUNDS):
        cursor, keys = await control.call("SCAN", cursor, "COUNT", COUNT)
        found |= {key.decode("utf-8", "backslashreplace") for key in keys if key.startswith(prefix)}
        if cursor == b"0":
            break
    return found
