"""The state of a link in a few lines, for a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def status_lines(status: Mapping[str, Any]) -> dict[str, str]:
    """What people are told of a link that runs, by name.

    Args:
        status: as `portd.http.status.describe` makes it.
    """
    stream = status["stream"]
    seconds = stream["lag_seconds"]
    refused = [f"{each['side']} {each['code']}, {each['seconds']:.0f} s" for each in status["refusals"]["now"]]
    lines = {
        "role": status["role"],
        "phase": status["phase"],
        "ready": "yes" if status["ready"] else f"no: {status['reason']}",
        "lag": "not known" if seconds is None else f"{seconds:.3f} s, {stream['lag_bytes']} bytes",
        **({"refuses for now": "; ".join(refused)} if refused else {}),
        "full syncs": ", ".join(f"{count} ({reason})" for reason, count in status["full_syncs"].items()) or "none",
        "dead letters": str(sum(status["dead_letters"].values())),
    }
    if paused := status.get("paused"):
        lines["paused since"] = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(paused["since"]))
    return lines | troubles(status)


def troubles(status: Mapping[str, Any]) -> dict[str, str]:
    """What of it somebody should read, by name; empty where there is nothing.

    Args:
        status: see `status_lines`.
    """
    found: dict[str, str] = {}
    if held := status["held"]:
        found["waits for"] = f"an operator ({held['reason']}): {held['words']}"
    if status["failure"]:
        found["failure"] = status["failure"]
    if status["last_error"]:
        found["last error"] = status["last_error"]
    return found
