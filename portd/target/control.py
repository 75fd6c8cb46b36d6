"""The control plane: questions to the target, with what goes wrong turned into our errors."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from portd.backoff import Backoff
from portd.control import Refused, open_control
from portd.endpoint import TLS_HINT, tls_failure
from portd.errors import TargetBusy, TargetError, TargetLost, TargetRefused
from portd.target.connection import Disconnected
from portd.target.replies import BUSY_HINT, Verdict, classify, code_of, is_refusal, login_refused, presentable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from portd.control import Control
    from portd.endpoint import Endpoint

ResultT = TypeVar("ResultT")


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
        raise _translate(refusal, f"the target {endpoint.display}", what) from None
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


def _translate(refusal: Refused, who: str, what: str) -> TargetError:
    text = presentable(refusal.text)
    if classify(refusal.text) is Verdict.RETRY:
        return TargetBusy(f"{who} refuses for now while {what}: {text}", hint=BUSY_HINT, code=code_of(text))
    if refusal.login:
        return login_refused(who, text)
    if is_refusal(text):
        return TargetRefused(
            f"{who} refused while {what}: {text}", hint="docs/operations.md lists what portd's user needs"
        )
    return TargetError(f"{who} refused while {what}: {text}")
