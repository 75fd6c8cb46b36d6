"""The forecast: what the source queues for us, against its limits, and how long until it would drop our connection.

A source keeps what a replica has not read in an output buffer, and drops the replica when that passes
`client-output-buffer-limit replica` (networking.c:checkClientOutputBufferLimits). What it has dropped can only go on while
the backlog still holds the next byte. Both are asked for every few seconds over a connection of their own. A user that may
not ask is no error: what is not allowed is left out, and said once.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from portd.log import get_logger
from portd.net.control import Refused, open_control, parse_info
from portd.net.shapes import whole
from portd.source.info import OutputLimit, parse_output_limit
from portd.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.model import Progress, SourceOutlook
    from portd.net.control import Control
    from portd.net.endpoint import Endpoint

ASK_SECONDS = 3.0
LIMIT_SECONDS = 60.0  # limits are asked for again after this long: CONFIG SET may change them
WARN_SECONDS = 60.0  # a connection that would be lost within this time is worth a warning
WARN_SHARE = 0.5  # and so is an output buffer that has reached this share of a limit
QUIET_SECONDS = 60.0  # between two warnings
SMOOTHING = 0.5  # weight of the newest rate

log = get_logger("forecast")


@dataclass(slots=True)
class _Rate:
    """Bytes per second of a figure, smoothed."""

    value: float = 0.0
    _last: tuple[float, int] | None = None

    def note(self, at: float, figure: int) -> None:
        """Takes a figure; one that went back begins anew."""
        if self._last is not None and at > self._last[0]:
            rate = (figure - self._last[1]) / (at - self._last[0])
            self.value += SMOOTHING * (rate - self.value)
        self._last = at, figure


class Outlook:
    """Arithmetic of the forecast, without I/O.

    Args:
        outlook: filled with what is known.
    """

    def __init__(self, outlook: SourceOutlook) -> None:
        self._outlook = outlook
        self._limit = OutputLimit(0, 0, 0)
        self._writes, self._growth = _Rate(), _Rate()
        self._soft_since: float | None = None  # monotonic; None while the soft limit is not passed

    def limits(self, limit: OutputLimit) -> None:
        """The source's limits for replicas, now."""
        self._limit = limit
        outlook = self._outlook
        outlook.output_hard_bytes, outlook.output_soft_bytes = limit.hard_bytes, limit.soft_bytes
        outlook.output_soft_seconds = limit.soft_seconds

    def output(self, at: float, size: int) -> None:
        """What the source queues for us.

        Args:
            at: monotonic seconds.
            size: bytes.
        """
        outlook, limit = self._outlook, self._limit
        self._growth.note(at, size)
        outlook.output_bytes = size
        outlook.output_growth = growth = self._growth.value
        if not limit.soft_bytes or size <= limit.soft_bytes:
            self._soft_since = None
        elif self._soft_since is None:
            self._soft_since = at
        hard = _seconds_to(size, limit.hard_bytes, growth)
        if self._soft_since is not None:
            soft = max(0.0, self._soft_since + limit.soft_seconds - at)
        else:
            soft = _seconds_to(size, limit.soft_bytes, growth) + limit.soft_seconds
        outlook.seconds_left = min(hard, soft)

    def backlog(self, at: float, written: int, received: int, size: int) -> None:
        """How far we are behind what the source keeps for a connection that breaks.

        Args:
            at: monotonic seconds.
            written: the source's offset.
            received: ours; 0 before the first byte of a stream.
            size: of the backlog.
        """
        outlook = self._outlook
        self._writes.note(at, written)
        outlook.write_rate = rate = max(0.0, self._writes.value)
        outlook.backlog_bytes = size
        outlook.backlog_behind_bytes = behind = max(0, written - received) if received else 0
        outlook.backlog_seconds_left = _seconds_to(behind, size, rate)


def _seconds_to(size: int, limit: int, growth: float) -> float:
    """Until *size* passes *limit* at this pace; infinite without a limit, or while it does not grow."""
    if not limit:
        return math.inf
    if size > limit:
        return 0.0
    return (limit - size) / growth if growth > 0 else math.inf


class Forecast:
    """Asks the source every few seconds, as long as it answers.

    Args:
        endpoint: tells the server whose stream is read.
        progress: `outlook` is filled; `source` says which client of the source we are, `stream` how far.
    """

    def __init__(self, endpoint: Callable[[], Endpoint], progress: Progress) -> None:
        self._endpoint = endpoint
        self._progress = progress
        self._outlook = Outlook(progress.outlook)
        self._refused: set[str] = set()
        self._limits_at = -math.inf
        self._warned_at = -math.inf

    async def run(self) -> None:
        """Asks until cancelled, or until there is nothing left that the source lets us ask."""
        while not self._told_nothing:
            await asyncio.sleep(ASK_SECONDS)
            if not self._progress.source.connected:
                continue
            try:
                async with open_control(self._endpoint()) as control:
                    await self._ask_on(control)
            except (Refused, OSError):  # the receiver says what is wrong with the source
                continue
            except Exception:  # a forecast is not worth a sync
                log.exception("no forecast from here on")
                return

    @property
    def _told_nothing(self) -> bool:
        return {"INFO", "CLIENT LIST"} <= self._refused

    async def _ask_on(self, control: Control) -> None:
        """Asks over one connection, for as long as it lasts."""
        while not self._told_nothing:
            if self._progress.source.connected:
                await self._ask(control)
            await asyncio.sleep(ASK_SECONDS)

    async def _ask(self, control: Control) -> None:
        now = time.monotonic()
        if now - self._limits_at > LIMIT_SECONDS:
            reply = await self._allowed(control, "CONFIG GET", b"client-output-buffer-limit")
            limit = parse_output_limit(reply[1].decode("utf-8", "replace")) if reply else None
            if limit is not None:
                self._outlook.limits(limit)
            self._limits_at = now
        clients = await self._allowed(control, "CLIENT LIST", b"TYPE", b"replica")
        size = None if clients is None else our_output(clients.decode("utf-8", "replace"), self._progress.source.local)
        if size is not None:
            self._outlook.output(time.monotonic(), size)
        reply = await self._allowed(control, "INFO", b"replication")
        if reply is not None:
            info = parse_info(reply)
            written, kept = (info.get(name, "") for name in ("master_repl_offset", "repl_backlog_size"))
            end, size = whole(written), whole(kept)
            if end is not None and size is not None:
                received = self._progress.stream.read_offset
                self._outlook.backlog(time.monotonic(), end, received, size)
        self._progress.outlook.asked_at = time.time()
        self._warn(time.monotonic())

    async def _allowed(self, control: Control, command: str, *arguments: bytes) -> Any:
        """The reply, or None where the user may not ask; that is said once."""
        if command in self._refused:
            return None
        try:
            return await control.call(*command.split(), *arguments)
        except Refused:
            self._refused.add(command)
            log.info("source does not let us ask", command=command, missing="forecast of its output buffer and backlog")
            return None

    def _warn(self, now: float) -> None:
        outlook = self._progress.outlook
        limit = min((size for size in (outlook.output_hard_bytes, outlook.output_soft_bytes) if size), default=0)
        near = limit and outlook.output_bytes > WARN_SHARE * limit
        if not near and outlook.seconds_left > WARN_SECONDS:
            return
        if now - self._warned_at < QUIET_SECONDS:
            return
        self._warned_at = now
        left = outlook.seconds_left
        log.warning(
            "the source may drop our connection",
            seconds_left=round(left, 1) if math.isfinite(left) else "unknown",
            output_buffer=human_bytes(outlook.output_bytes),
            grows_per_second=human_bytes(outlook.output_growth),
            hard_limit=human_bytes(outlook.output_hard_bytes),
            soft_limit=human_bytes(outlook.output_soft_bytes),
            soft_seconds=outlook.output_soft_seconds,
            hint="raise client-output-buffer-limit replica on the source, or find out why it is not read: a full spool, the network",
        )


def our_output(clients: str, local: str) -> int | None:
    """What the source holds for our connection, in bytes.

    Args:
        clients: reply to CLIENT LIST TYPE replica.
        local: our address as the source sees it, `ip:port`; where the network changes it, a single replica is ours.

    Returns:
        None when our connection is not among them.
    """
    lines = [dict(word.partition("=")[::2] for word in line.split()) for line in clients.splitlines() if line]
    ours = [fields for fields in lines if fields.get("addr") == local] or (lines if len(lines) == 1 else [])
    if not ours:
        return None
    size = ours[0].get("omem", "")
    return whole(size)
