"""The control plane: questions to the target over redis-py, with its errors turned into ours."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from portd.backoff import Backoff
from portd.errors import TargetBusy, TargetError, TargetLost
from portd.target.connection import Disconnected
from portd.target.replies import Verdict, classify, presentable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    from portd.endpoint import Endpoint

ResultT = TypeVar("ResultT")


@asynccontextmanager
async def control(endpoint: Endpoint, what: str) -> AsyncIterator[Redis]:
    """A control client for the length of the block.

    Args:
        endpoint: the target.
        what: what is done, for messages: "reading the checkpoint".

    Raises:
        TargetLost: the target cannot be reached.
        TargetBusy: it refuses for now.
        TargetError: it refuses.
    """
    from redis.exceptions import RedisError  # noqa: PLC0415 - heavy, loaded with the first client

    client = endpoint.client()
    try:
        yield client
    except (RedisError, OSError) as error:
        raise _translate(error, what) from None
    finally:
        await client.aclose()


async def patiently(action: Callable[[], Awaitable[ResultT]], note: Callable[[str], None]) -> ResultT:
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
            note(str(error))
            await asyncio.sleep(backoff.next_wait())


def reply_text(error: RedisError) -> str:
    """The error reply as the target sent it; redis-py cuts the codes off that it knows."""
    code = getattr(error, "status_code", None)
    text = str(error)
    return f"{code} {text}" if code and not text.startswith(code) else text


def _translate(error: RedisError | OSError, what: str) -> TargetError:
    from redis import exceptions  # noqa: PLC0415

    if isinstance(error, exceptions.AuthenticationError):
        return TargetError(
            f"the target refused the credentials while {what}", hint="check user and password of the target"
        )
    if isinstance(error, (exceptions.BusyLoadingError, exceptions.ReadOnlyError, exceptions.MasterDownError)):
        return TargetBusy(f"the target is not ready while {what}: {presentable(reply_text(error))}")
    if isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError, OSError)):
        return TargetLost(f"the target cannot be reached while {what}: {error}", hint="check host, port and TLS")
    text = reply_text(error)
    if classify(text) is Verdict.RETRY:
        return TargetBusy(f"the target refuses for now while {what}: {presentable(text)}")
    hint = "see the documentation for the permissions portd needs" if text.startswith("NOPERM") else None
    return TargetError(f"the target refused while {what}: {presentable(text)}", hint=hint)
