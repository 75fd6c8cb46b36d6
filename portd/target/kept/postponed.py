"""Postponed expiries: how a key renewed at the last moment stays alive on a target without import mode.

While portd lags, an expiry time that would pass before it has caught up is sent later by a fixed shift of more than a
thousand years. So a postponed expiry tells by itself that it is one, in whatever key, database or process it turns up
later. The source's own DEL removes what really expired. Once the stream has caught up, a sweep sets back what is left;
see docs/design/0002-expiry-gap.md.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import TYPE_CHECKING, Any, Final

from portd.errors import LinkTaken, TargetBusy, TargetError
from portd.log import get_logger
from portd.model import ConnectionState
from portd.net.backoff import Backoff
from portd.net.control import MOST_DATABASES, Refused
from portd.net.resp import request
from portd.net.shapes import kind_of, whole
from portd.target.connection import Connection, ConnectionOptions, Disconnected, connect, while_connected
from portd.target.control import control
from portd.target.kept.epoch import Fenced, check

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from portd.kernel.stream import Piece
    from portd.model import Progress
    from portd.net.endpoint import Endpoint
    from portd.target.capabilities import Capabilities
    from portd.target.kept.epoch import Epoch
    from portd.target.limiter import Limiter

_log = get_logger("target")

LINK_MS: Final = 1 << 42  # later than any expiry that is postponed (the year 2109): links are that far apart
LEAST_SHIFT_MS: Final = 8 * LINK_MS  # 1115 years: nobody's own expiry is so far out
LINKS: Final = 1000  # shifts; sums stay below 2^53, which Lua's numbers hold exactly

SNAPSHOT_MARGIN_SECONDS: Final = 3600.0  # a snapshot and what follows is hoped to be applied within this
STREAM_MARGIN_SECONDS: Final = 60.0  # and a lagging stream within this, and LAGS times the lag
LAGS: Final = 10
LONGEST_MARGIN_SECONDS: Final = 86400.0
STEADY_MARGIN_SECONDS: Final = 0.1  # from splitting a command off to its execution, without lag
LAG_SECONDS: Final = 1.0  # data older than this when it is read: the stream lags
FRESH_SECONDS: Final = 0.5  # and does not any more
LEAST_LAG_SECONDS: Final = 2.0  # once it lags: what the source holds for us is not seen

SWEEP_KEYS: Final = 200  # the target looks at in one script, well below a millisecond, while it has other work
FINISH_KEYS: Final = 1000  # and when nothing else is sent
SWEEP_SHARE: Final = 4  # of this many parts of the time, the target sweeps for one at most
SETTLE_SECONDS: Final = 1.0  # without lag before a sweep begins, or goes on
GRACE_MS: Final = 2000  # nothing is set back to earlier than this from now: its renewal may be on its way

# Walks one page of SCAN and sets back what carries the shift. PEXPIRETIME came with 7.0; before, two readings of the
# clock that agree around PTTL tell the same (expire.c:ttlGenericCommand).
SWEEP_SCRIPT: Final = """
if redis.replicate_commands then redis.replicate_commands() end
local shift, width, grace = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function expiry(key)
  return redis.call('PEXPIRETIME', key)
end
if type(redis.pcall('PEXPIRETIME', KEYS[1])) == 'table' then
  expiry = function(key)
    local before, left
    repeat
      before = clock()
      left = redis.call('PTTL', key)
    until clock() == before
    return left < 0 and left or before + left
  end
end
local earliest = clock() + grace
local page = redis.call('SCAN', ARGV[1], 'COUNT', ARGV[2])
local corrected = 0
for _, key in ipairs(page[2]) do
  local at = expiry(key) - shift
  if at >= 0 and at < width then
    redis.call('PEXPIREAT', key, string.format('%.0f', math.max(at, earliest)))
    corrected = corrected + 1
  end
end
return {page[1], #page[2], corrected}
"""

# Takes the flag back, if the checkpoint is still ours.
CLEAR_SCRIPT: Final = """
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] then redis.call('HSET', KEYS[1], 'postponed', '0') end
"""


def shift_of(link: str) -> int:
    """By how many ms a link's expiries are postponed; links into one target tell theirs apart by it."""
    return LEAST_SHIFT_MS + zlib.crc32(link.encode()) % LINKS * LINK_MS


async def usable(endpoint: Endpoint, capabilities: Capabilities, key: str) -> bool:
    """Whether postponed expiries could be set back on this target; says why not.

    Args:
        endpoint: the target.
        capabilities: what it can do.
        key: of the checkpoint.

    Raises:
        TargetLost: it cannot be reached.
    """
    if not capabilities.pxat:
        _log.warning("expiries are not postponed", reply="the target is older than Redis 6.2")
        return False
    async with control(endpoint, "trying the script for postponed expiries") as client:
        try:
            await client.call("EVAL", SWEEP_SCRIPT, 1, key, 0, 1, LINK_MS * LINKS * 2, 0, 0)  # corrects nothing
        except Refused as refusal:
            _log.warning(
                "expiries are not postponed", reply=refusal.text, hint="allow +eval +scan +pttl +time +pexpireat"
            )
            return False
    return True


def margin_seconds(lag_seconds: float) -> float:
    """How far from now on a stream that lags postpones."""
    return min(STREAM_MARGIN_SECONDS + LAGS * max(lag_seconds, 0.0), LONGEST_MARGIN_SECONDS)


def snapshot_margin_ms(*, always: bool) -> int:
    """How far from the moment of decoding a snapshot's expiries are postponed; *always*: all of them."""
    return LINK_MS - int(time.time() * 1000) if always else int(SNAPSHOT_MARGIN_SECONDS * 1000)


class Horizon:
    """Up to which time the expiries of a stream are postponed.

    Args:
        shift_ms: of the link; 0 postpones nothing.
        since: unix time from which on the target misses something; 0.0 when it misses nothing.
        always: all of them, whether it lags or not.

    Attributes:
        shift_ms: see above.
        since: the stream lags since then; 0.0 when it does not.
    """

    def __init__(self, shift_ms: int, since: float = 0.0, *, always: bool = False) -> None:
        self.shift_ms = shift_ms
        self._always = always
        self.since = 0.0
        self._until = 0.0  # it is not believed before that the lag is over
        if since:
            self.lag(since)

    def lag(self, since: float = 0.0) -> None:
        """The stream lags since unix time *since*, or since a moment that nobody knows."""
        now = time.time()
        since = since or now
        self.since = min(self.since or since, since)
        self._until = now + LEAST_LAG_SECONDS

    def received(self, at: float) -> None:
        """Bytes that came at unix time *at* are read."""
        age = time.time() - at
        if age > LAG_SECONDS:
            self.lag(at)
        elif age < FRESH_SECONDS:
            self.end()

    def end(self) -> None:
        """The lag is over, as far as can be seen."""
        if self.since and time.time() >= self._until:
            self.since = 0.0

    def ms(self) -> int:
        """Unix ms; expiries before are postponed."""
        if self._always:
            return LINK_MS
        now = time.time()
        margin = margin_seconds(now - self.since) if self.since else STEADY_MARGIN_SECONDS
        return int((now + margin) * 1000)


class Postponed:
    """What is known about postponed expiries in the target.

    Args:
        there: there may be some.

    Attributes:
        wanted: set while there may be some: a sweep is wanted.
        told: the checkpoint in the target may say so, still.
    """

    def __init__(self, *, there: bool) -> None:
        self.wanted = asyncio.Event()
        self.told = there
        if there:
            self.wanted.set()
        self._postponed_to = 0  # offset behind the last command that was postponed
        self._moved_to = 0  # and behind the last one that takes an expiry to another key

    @property
    def there(self) -> bool:
        """Postponed expiries may be in the target; what the checkpoint says."""
        return self.wanted.is_set()

    def note(self, piece: Piece) -> None:
        """A piece is about to be applied."""
        if piece.moves:
            self._moved_to = max(self._moved_to, piece.end_offset)
        if piece.postponed:  # a copy of a key stands behind what ends there
            self._postponed_to = max(self._postponed_to, piece.end_offset + piece.settles)
            self.wanted.set()
            self.told = True

    def applied(self, offset: int) -> bool:
        """Everything postponed so far is in the target, which has applied the stream up to *offset*."""
        return self._postponed_to <= offset

    def mark(self, offset: int) -> tuple[int, int]:
        """What a sweep that begins now, with the stream applied up to *offset*, is compared with by `swept`."""
        return self._postponed_to, min(self._moved_to, offset)

    def swept(self, mark: tuple[int, int], corrected: int) -> bool:
        """A sweep that began at *mark* is through and corrected some; tells whether none can be left.

        A key that was renamed meanwhile may have been missed by it, unless it found nothing at all.
        """
        if self._postponed_to != mark[0] or (self._moved_to != mark[1] and corrected):
            return False
        self.wanted.clear()
        return True


class Sweeper:
    """Sets postponed expiries back.

    Args:
        endpoint: the target.
        key: of the checkpoint.
        epoch: what every correction is fenced by.
        shift_ms: of the link.
        postponed: what there may be.
        progress: `expiries_corrected` is kept up to date.
        connection: how the connection is made.
        limiter: says when nothing may be written; sweeps count for no limit.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        key: str,
        epoch: Epoch,
        shift_ms: int,
        postponed: Postponed,
        progress: Progress,
        connection: ConnectionOptions,
        limiter: Limiter,
    ) -> None:
        self._endpoint = endpoint
        self._key = key
        self._epoch = epoch
        self._shift_ms = shift_ms
        self._postponed = postponed
        self._progress = progress
        self._options = connection
        self._limiter = limiter

    async def follow(self, caught_up: asyncio.Event, lagging: Callable[[], bool], offset: Callable[[], int]) -> None:
        """Sweeps in the background whenever something was postponed and the stream has caught up.

        Args:
            caught_up: set while the target's side has.
            lagging: whether the source's side lags.
            offset: up to where the stream is applied.
        """

        async def calm() -> None:
            while True:
                await caught_up.wait()
                if not lagging() and self._postponed.applied(offset()):
                    return
                await asyncio.sleep(SETTLE_SECONDS)

        async def once(connection: Connection) -> None:
            mark = self._postponed.mark(offset())
            corrected = await self._sweep(connection, SWEEP_KEYS, calm)
            if self._postponed.swept(mark, corrected):
                self._progress.expiries_to_correct = False
                _log.info("postponed expiries are set back", corrected=self._progress.expiries_corrected)

        backoff = Backoff.quick()
        while True:
            await self._postponed.wanted.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            await calm()
            begun = time.monotonic()
            if not await self._try(once, backoff):
                return
            if self._postponed.there:  # a target that is always swept has less time for others
                await asyncio.sleep(time.monotonic() - begun)

    async def finish(self, epoch: str) -> None:
        """Sets everything back as fast as the target does it, and says so in the checkpoint; nothing else writes.

        Args:
            epoch: that the checkpoint carries.
        """

        async def once(connection: Connection) -> None:
            if self._postponed.there:
                await self._sweep(connection, FINISH_KEYS, None)
                _log.info("postponed expiries are set back", corrected=self._progress.expiries_corrected)
            clear = request("EVAL", CLEAR_SCRIPT, 1, self._key, epoch)
            (answer,) = await Fenced(connection, self._epoch).execute(clear, what="the checkpoint")
            check(answer, "to be swept")
            self._postponed.wanted.clear()
            self._postponed.told = self._progress.expiries_to_correct = False

        backoff = Backoff.quick()
        while self._postponed.told and await self._try(once, backoff):
            continue

    async def _try(self, work: Callable[[Connection], Coroutine[Any, Any, None]], backoff: Backoff) -> bool:
        """Does *work* over a connection of its own; False when the target never will."""
        try:
            connection = await connect(self._endpoint, "expiries", ConnectionState(), self._options)
            try:
                await while_connected(connection, work(connection))
            finally:
                connection.close()
        except (Disconnected, TargetBusy) as error:
            if not self._options.note(error):
                _log.warning("setting postponed expiries back was interrupted and is taken up again", error=str(error))
            await asyncio.sleep(backoff.next_wait())
        except LinkTaken:
            raise
        except TargetError as error:
            _log.error(
                "postponed expiries stay in the target", error=str(error),
                hint="it takes +eval +scan +pttl +time +pexpireat; the next start tries again",
            )  # fmt: skip
            return False
        else:
            backoff.reset()
        return True

    async def _sweep(self, connection: Connection, keys: int, calm: Callable[[], Awaitable[None]] | None) -> int:
        """One pass over all databases; how many were corrected."""
        corrected = 0
        (keyspace,) = await connection.ask(request("INFO", "keyspace"))
        check(keyspace, "to be swept")
        fenced = Fenced(connection, self._epoch)
        for line in keyspace.decode("utf-8", "replace").splitlines():
            name, _, facts = line.partition(":")
            db = whole(name[2:], MOST_DATABASES) if name.startswith("db") else None
            if db is not None and ",expires=0," not in facts:
                corrected += await self._sweep_database(fenced, db, keys, calm)
        await fenced.leave()
        return corrected

    async def _sweep_database(
        self, fenced: Fenced, db: int, keys: int, calm: Callable[[], Awaitable[None]] | None
    ) -> int:
        corrected = 0
        cursor = b"0"
        while True:
            await self._limiter.going()
            begun = time.monotonic()
            page = request("EVAL", SWEEP_SCRIPT, 1, self._key, cursor, keys, self._shift_ms, LINK_MS, GRACE_MS)
            (answer,) = await fenced.execute(page, db=db, what="corrected expiries")
            check(answer, "to be swept")
            if not (isinstance(answer, list) and len(answer) == 3 and isinstance(answer[2], int)):
                raise TargetError(f"the target answers the script for postponed expiries with {kind_of(answer)}")
            cursor, found = answer[0], answer[2]
            corrected += found
            self._progress.expiries_corrected += found
            if cursor == b"0":
                return corrected
            if calm is not None:
                await asyncio.sleep((SWEEP_SHARE - 1) * (time.monotonic() - begun))
                await calm()
