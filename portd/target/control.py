"""The control plane: questions to the target, with what goes wrong turned into our errors."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from portd.errors import ConfigError, TargetBusy, TargetLost, TargetRefused
from portd.net.backoff import Backoff
from portd.net.control import Refused, open_control
from portd.net.endpoint import TLS_HINT, tls_failure
from portd.net.replies import error_of
from portd.net.topology import NoCluster
from portd.target.connection import Disconnected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from portd.net.control import Control
    from portd.net.endpoint import Endpoint

ResultT = TypeVar("ResultT")


def unmapped(error: OSError) -> ConfigError | TargetLost:
    """What it means that a target's map cannot be read."""
    if isinstance(error, NoCluster):
        return ConfigError(f"the target is no cluster: {error}", hint="redis://host:port is the URL of one server")
    return TargetLost(f"the target's map cannot be read: {error}", hint="check hosts, ports and TLS")


@asynccontextmanager
async def control(endpoint: Endpoint, what: str) -> AsyncIterator[Control]:
    """A control connection for the length of the block.

    Args:
        endpoint: the target.
        what: what is done, for messages: "reading the checkpoint".

    Raises:
        TargetLost: the target cannot be reached.
        TargetBusy: it refuses for now.
        TargetRefused: it refuses our credentials, or what our user may not do.
        TargetError: it refuses for another reason.
    """
    try:
        async with open_control(endpoint) as connection:
            yield connection
    except Refused as refusal:
        raise error_of(
            refusal.text,
            f"refused while {what}",
            who=f"the target {endpoint.display}",
            for_now=f"refuses for now while {what}",
            login=refusal.login,
        ) from None
    except OSError as error:
        if why := tls_failure(error):
            raise TargetRefused(f"TLS with the target {endpoint.display} failed: {why}", hint=TLS_HINT) from None
        reason = error.strerror or str(error) or "no answer in time"
        raise TargetLost(
            f"the target {endpoint.display} cannot be reached while {what}: {reason}", hint="check host, port and TLS"
        ) from None


async def patiently(
    action: Callable[[], Awaitable[ResultT]], note: Callable[[TargetBusy | Disconnected], None]
) -> ResultT:
    """Does *action*, again and again while the target refuses for now (out of memory, loading, too few replicas).

    The same when a data connection of its own is lost.

    Args:
        action: may be repeated.
        note: told of every refusal and loss.

    Raises:
        TargetError: another one than these.
    """
    backoff = Backoff.quick()
    while True:
        try:
            return await action()
        except (TargetBusy, Disconnected) as error:
            note(error)
            await asyncio.sleep(backoff.next_wait())
