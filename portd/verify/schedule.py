"""Comparing both ends now and then while a sync follows the stream between them.

A run happens only while the stream is followed: then decoder, queue and lanes of the snapshot hold nothing, and its
buffers have their place. It scans slowly by default, and judges no key before the target has what the source had.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from portd.errors import REDACTED, PortdError, printable
from portd.log import get_logger

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.model import Progress, VerifyProgress
    from portd.verify.report import Found, Report
    from portd.verify.verification import Verification

SCAN_SHARE: Final = 0.25  # of the time; the sync beside us and the servers' clients have the rest
NAMED_KEYS: Final = 20  # differing keys of a run that the log names

log = get_logger("verify")


class Schedule:
    """Compares the ends every so often; its `run` is cancelled when the stream is no longer followed.

    Args:
        settings: of the sync.
        progress: of the sync; `verify` is filled.
        turn: held while it compares: of several links, such as the shards of a cluster, one compares at a time.

    Attributes:
        settings: see above; the next comparison goes by them.
        usable: the stream is followed, and the target had caught up: a comparison can begin.
    """

    def __init__(self, settings: Settings, progress: Progress, turn: asyncio.Lock) -> None:
        self._turn = turn
        self.settings = settings
        self._progress = progress
        self._every = settings.verify_every
        self._changed = asyncio.Event()
        self._ended = 0.0  # monotonic end of the last run; 0 before the first
        self._work: Verification | None = None
        self._named = 0
        self._wanted = False  # now
        self._awaited: list[asyncio.Future[str]] = []  # those who wait for the next result
        self.usable = False

    async def run(self) -> None:
        """Waits and compares, for ever. A comparison that fails is told; it does not end the sync."""
        self._ended = self._ended or time.monotonic()
        self.usable = True
        try:
            while True:
                await self._until_due()
                async with self._turn:
                    await self._compare()
        finally:
            self.usable = self._wanted = False
            self._tell_awaited("abandoned")  # it was wanted, and the stream ended first

    def begin(self) -> asyncio.Future[str]:
        """Wants a comparison now; the result, as a word of `VerifyProgress.result`, of that or of the one that runs already.

        To be called while it is `usable`.
        """
        result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._awaited.append(result)
        if not self._progress.verify.running:
            self._wanted = True
            self._changed.set()
        return result

    def _tell_awaited(self, result: str) -> None:
        awaited, self._awaited = self._awaited, []
        for each in awaited:
            if not each.done():
                each.set_result(result)

    def change(self, seconds: float) -> None:
        """Another time between two runs; 0 for none. A run that goes on goes on."""
        self._every = seconds
        self._changed.set()

    def held_bytes(self) -> int:
        """Buffers of the run that goes on."""
        return self._work.held_bytes() if self._work is not None else 0

    async def _until_due(self) -> None:
        """Returns when the next run is due, which may change while we wait."""
        while not self._wanted:
            self._changed.clear()
            left = self._ended + self._every - time.monotonic() if self._every else None
            try:
                async with asyncio.timeout(left if left is None else max(0.0, left)):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def _compare(self) -> None:
        """One run."""
        from portd.verify.options import Options  # noqa: PLC0415 - as below
        from portd.verify.verification import Verification  # noqa: PLC0415 - a sync that never compares does without

        state = self._progress.verify
        self._wanted = False
        state.running, state.started_at, self._named = True, time.time(), 0
        result = "abandoned"
        settings = self.settings
        options = Options(method=settings.verify_method, share=SCAN_SHARE)
        log.info("comparing both ends", method=options.method.value)
        try:
            self._work = Verification(settings, options, self._name, self._applied)
            report = await self._work.run()
            state.error = ""
            if self.settings is settings:
                result = report.outcome
                self._tell(report, state, result)
            else:
                log.info("comparison abandoned: the rules have changed meanwhile")
        except Exception as error:  # noqa: BLE001 - whatever it is, the sync goes on, and operators are told
            result, state.error = "failed", str(error)
            hint = (
                error.hint if isinstance(error, PortdError) else f"a bug in portd ({type(error).__name__}): report it"
            )
            log.warning("comparison failed", error=state.error, hint=hint)
        finally:
            self._work = None
            self._ended = time.monotonic()
            state.running, state.finished_at, state.result = False, time.time(), result
            state.runs[result] += 1
            self._tell_awaited(result)

    def _applied(self) -> int:
        return self._progress.stream.applied_offset

    def _name(self, key: Found) -> None:
        """The log names some of the keys that differ."""
        self._named += 1
        if self._named <= NAMED_KEYS:
            name = REDACTED if self.settings.redact_keys else printable(key.name)
            log.warning("key differs", db=key.db, key=name, differs=" ".join(key.differs), note=key.note)

    def _tell(self, report: Report, state: VerifyProgress, result: str) -> None:
        missing, extra = report.kinds["missing"], report.kinds["extra"]
        state.keys = {
            "equal": report.equal + report.settled,
            "missing": missing,
            "extra": extra,
            "different": report.different - missing - extra,
            "undecided": report.unsettled,
        }
        state.functions = report.functions
        tell = log.warning if result == "different" else log.info
        seconds = round(time.time() - state.started_at, 1)
        shards = {"one_shard": report.shards} if report.shards else {}
        tell("compared both ends", result=result, **state.keys, functions=report.functions, seconds=seconds, **shards)
