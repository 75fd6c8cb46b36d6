"""A link that another process has, watched until it is free: what a standby waits for.

It costs less than a command a second. ``BLPOP`` waits at a list that is never there; behind it ``PTTL`` tells whether the lease
is renewed, and now and then all of it is read. Who gives the link back in order pushes into that list, and takes it away
again: a standby is woken at once. Where ``BLPOP`` is forbidden, or refused for now, the lease is looked at every second.

==============================  ===================================================================
the lease                       the link is free
==============================  ===================================================================
is not there, nobody had it     at once
was given back                  at once
is of a process of this         at once
machine that has ended
is not renewed for 3 s, and     at once, where our user may ``CLIENT LIST``
its connection is gone
has run out before our eyes     at once
was removed by others, as by    after 3 s: a holder that is there puts it back within one
a flush, before its time
ran out while the target was    when a whole lease has passed since: the holder could not renew it, either
away
==============================  ===================================================================
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portd.errors import TargetBusy
from portd.log import get_logger
from portd.model import LEASE_SECONDS, ConnectionState
from portd.net.backoff import Backoff
from portd.net.identity import run_id_of
from portd.net.resp import request
from portd.target.connection import ConnectionOptions, Disconnected, connect, text_of, while_connected
from portd.target.kept.checkpoint import LEASE_SUFFIX
from portd.target.kept.epoch import EPOCH_SUFFIX, FIELD, GIVEN_BACK, check
from portd.target.kept.lease import (
    BELL_SUFFIX,
    LATE_MILLISECONDS,
    LATE_SECONDS,
    LEASE,
    RENEW_SECONDS,
    Holder,
    has_left,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.net.endpoint import Endpoint
    from portd.target.connection import Connection

_log = get_logger("target")

BELL_SECONDS: Final = 3  # longest wait at the bell; whole seconds: servers before Redis 6.0 know no others
MISSING: Final = -2  # what PTTL says of a key that is not there
SHORT_LOOKS: Final = 5  # looks at the time that is left between two at all of it
SLACK_SECONDS: Final = 0.5  # a lease that is gone so shortly before its end has run out: the answer took its time


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of a link at one look.

    Attributes:
        holder: who has it; None when nobody does.
        left: milliseconds of the lease; negative where it does not run out, `MISSING` where it is not there.
        given_back: it was given back in order, and not taken since.
    """

    holder: Holder | None
    left: int
    given_back: bool


class Vacancy:
    """Watches a link until it is free.

    Args:
        endpoint: the target.
        checkpoint_key: of the link.
        connection: how connections are made.
        seen: told who has the link, as often as all of it is looked at.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        checkpoint_key: str,
        connection: ConnectionOptions,
        seen: Callable[[Holder | None], None],
    ) -> None:
        self._endpoint = endpoint
        self._key = checkpoint_key + LEASE_SUFFIX
        self._epoch_key = checkpoint_key + EPOCH_SUFFIX
        self._bell = checkpoint_key + BELL_SUFFIX
        self._options = connection
        self._seen = seen
        self._me = Holder.me()
        self._known: Holder | None = None  # who had it last
        # A connection that owes an answer for longer than that is given up.
        self._bell_seconds = min(BELL_SECONDS, int(endpoint.silence_seconds / 2))
        self._rings = self._bell_seconds > 0  # as far as is known, we may wait at the bell

    async def wait(self) -> None:
        """Returns when the link is free, as far as can be seen: `Lease.acquire` has the last word.

        Raises:
            TargetError: the target refuses for good.
        """
        backoff = Backoff.quick()
        while True:
            try:
                connection = await connect(self._endpoint, "standby", ConnectionState(), self._options)
                try:
                    await while_connected(connection, self._watch(connection, backoff))
                finally:
                    connection.close()
            except (Disconnected, TargetBusy) as error:
                self._options.note(error)
                _log.debug("the link is not looked at", error=str(error))
            else:
                return
            await asyncio.sleep(backoff.next_wait())

    async def _watch(self, connection: Connection, backoff: Backoff) -> None:
        """Until the link is free, over one connection."""
        (info,) = await connection.ask(request("INFO", "server"))
        run_id = "" if text_of(info) else run_id_of(info)
        verdict = Verdict(self._me, self._known)
        woken = False
        while True:
            sight = await self._look(connection)
            backoff.reset()
            self._known = sight.holder or self._known
            self._seen(sight.holder)
            if verdict.is_free(sight, woken=woken) or (
                verdict.is_late(sight, run_id)
                and sight.holder is not None
                and await has_left(connection, sight.holder, run_id)
            ):
                return
            woken = await self._nap(connection, sight, verdict)

    async def _nap(self, connection: Connection, sight: Sight, verdict: Verdict) -> bool:
        """Until all of it is worth another look; whether the bell has rung."""
        left = sight.left
        for _ in range(SHORT_LOOKS):
            if await self._wait(connection, left):
                return True
            if left < LATE_MILLISECONDS:
                return False
            (answer,) = await connection.ask(request("PTTL", self._key))
            check(answer, LEASE, self._key)
            left = answer
            verdict.note(left)
            if left < LATE_MILLISECONDS or verdict.knows_dead:
                return False
        return False

    async def _wait(self, connection: Connection, left: int) -> bool:
        """Until there may be something new: not behind the end of the lease; whether the bell has rung."""
        if left < self._bell_seconds * 1000 or not self._rings:
            await asyncio.sleep(min(RENEW_SECONDS, left / 1000 + 0.01) if left >= 0 else RENEW_SECONDS)
            return False
        (answer,) = await connection.ask(request("BLPOP", self._bell, self._bell_seconds))
        if text := text_of(answer):
            self._rings = not text.startswith(("NOPERM", "ERR"))
            await asyncio.sleep(RENEW_SECONDS)
            return False
        return answer is not None

    async def _look(self, connection: Connection) -> Sight:
        """All that there is to see."""
        answers = await connection.ask(
            request("HGETALL", self._key),
            request("PTTL", self._key),
            request("HGET", self._epoch_key, FIELD),
            request("HGET", self._epoch_key, GIVEN_BACK),
        )
        for answer, key in zip(answers, 2 * (self._key,) + 2 * (self._epoch_key,), strict=True):
            check(answer, LEASE, key)
        held, left, epoch, given_back = answers
        return Sight(Holder.parse(held), left, given_back=epoch is not None and epoch == given_back)


class Verdict:
    """What follows from all that was seen over one connection.

    Args:
        me: this process.
        known: who had the link when it was seen last, over an earlier connection; None when nobody had.
    """

    def __init__(self, me: Holder, known: Holder | None) -> None:
        self._me = me
        self._known = known
        self._loop = asyncio.get_running_loop()
        self._runs_out = math.nan  # when the lease runs out; not known before it was seen
        self._missing_since = math.inf  # the lease, as far as it was looked at

    @property
    def knows_dead(self) -> bool:
        """Who had the link last was a process of this machine, and is none any more."""
        return self._known is not None and self._me.knows_dead(self._known)

    def note(self, left: int) -> None:
        """So many milliseconds are left of the lease now; negative where it does not run out, `MISSING` where it is not there."""
        now = self._loop.time()
        if left != MISSING:
            self._missing_since = math.inf
        if left >= 0:
            self._runs_out = now + left / 1000

    def is_free(self, sight: Sight, *, woken: bool) -> bool:
        """Whether the link may be taken, by what this look shows and those before."""
        now = self._loop.time()
        if sight.holder is not None:
            self._known = sight.holder
            self.note(sight.left)
            return self.knows_dead
        if self._known is None or sight.given_back or woken or self.knows_dead:
            return True
        if now >= self._runs_out - SLACK_SECONDS:
            return True
        self._missing_since = min(self._missing_since, now)
        patience = LEASE_SECONDS if math.isnan(self._runs_out) else LATE_SECONDS
        return now - self._missing_since >= patience

    def is_late(self, sight: Sight, run_id: str) -> bool:
        """Whether the holder has not renewed its lease as it should. One of another process of the target runs out by itself."""
        return sight.holder is not None and sight.holder.run_id == run_id and sight.left < LATE_MILLISECONDS
