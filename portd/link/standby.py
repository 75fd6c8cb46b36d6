"""A link while another process has it: waits until it is free, and knows meanwhile whether it could be taken over.

When the link is free is told by `portd.target.kept.vacancy`. Beside that, both ends are looked at every ten seconds: is the
source still the one whose data is in the target, were the rules the same, does the source's backlog reach back to the
checkpoint? The spool of the process that has the link is lost with it, so that the backlog is all that a partial sync
can go on from. A standby that a start would refuse says so while there is time, and does not take the link.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from portd.errors import ConfigError, LinkTaken, PortdError, first_cause
from portd.groups import TaskGroup
from portd.hold import Identity
from portd.link.gate import followed_by
from portd.log import get_logger
from portd.model import Standby
from portd.net.backoff import Backoff
from portd.net.control import Refused, open_control, parse_info
from portd.net.shapes import whole
from portd.source.forecast import Outlook
from portd.source.losses import connect_error
from portd.target.connection import ConnectionOptions
from portd.target.control import control
from portd.target.kept.checkpoint import State, held_checkpoint
from portd.target.kept.vacancy import Vacancy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from portd.link.ruling import Ruling
    from portd.model import Progress
    from portd.net.control import Control
    from portd.target.kept.checkpoint import Checkpoint
    from portd.target.kept.lease import Holder

log = get_logger("standby")

LOOK_SECONDS: Final = 10.0  # between two looks at both ends
AGAIN_SECONDS: Final = 5.0  # longest wait before a link is looked at again that could not be taken, or was lost
UNFIT_SECONDS: Final = 3.0  # between two looks at a link that is free and cannot be taken
_FIRST: Final = "repl_backlog_first_byte_offset"


class StandingBy:
    """Waits for one link, as often as another process has it.

    Args:
        ruling: of the link.
        progress: `standby` is there while it waits; `outlook` tells of the source's backlog.
        stop: set when the process is to end.
        examine: looks at both ends as a start does, and raises what that would refuse.
    """

    def __init__(
        self,
        ruling: Ruling,
        progress: Progress,
        stop: asyncio.Event,
        examine: Callable[[], Awaitable[None]],
    ) -> None:
        self._ruling = ruling
        self._settings = settings = ruling.settings
        self._progress = progress
        self._stop = stop
        self._examine = examine
        self._source = settings.source_endpoint()
        self._target = settings.target_endpoint()
        self._examined = False
        self._state = Standby()
        self._had = ""  # who had the link last while it was waited for
        self._fit = asyncio.Event()
        self._tries = Backoff(first_seconds=0.2, limit_seconds=AGAIN_SECONDS)
        self._pause = 0.0  # before the next look
        self._failed = ""  # why the link could not be taken when it was free; until both ends were looked at again
        self._applied = 0  # transactions of the stream when the link was taken last

    async def turn(self) -> bool:
        """Waits until it is this process's turn; False when a stop came first.

        Raises:
            PortdError: the first time, what a start refuses for good; later, what the target does.
        """
        progress = self._progress
        state = self._state = progress.standby = Standby(unfit=self._failed)
        if self._failed:
            self._fit.clear()
        self._had = ""
        progress.lease.renewed_at = 0.0
        progress.stream.following = progress.stream.caught_up = False
        standing = asyncio.create_task(self._stand(state), name="standby")
        stopped = asyncio.create_task(self._stop.wait(), name="stop of the standby")
        try:
            await asyncio.wait({standing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                return False
            standing.result()
        finally:
            stopped.cancel()
            standing.cancel()
            await asyncio.gather(standing, return_exceptions=True)
            progress.standby = None
        self._applied = progress.stream.transactions
        return True

    def note_taken(self) -> None:
        """The link is this process's now."""
        if self._had:
            self._progress.takeovers += 1

    def endure(self, error: PortdError) -> None:
        """The link was lost, or could not be taken: it is waited for again, unless that cannot help.

        Raises:
            PortdError: it cannot.
        """
        if not error.retriable and not isinstance(error, LinkTaken):
            raise error
        if self._progress.stream.transactions > self._applied:
            self._tries.reset()
        self._pause = self._tries.next_wait()
        self._failed = "" if isinstance(error, LinkTaken) else str(error.args[0])
        self._progress.errors.note(str(error.args[0]))
        log.warning("standing by again", error=str(error.args[0]))

    async def _stand(self, state: Standby) -> None:
        """Until the link is free and nothing is known that would keep us from taking it."""
        await asyncio.sleep(self._pause)
        await self._examine_once()
        vacancy = Vacancy(
            self._target,
            self._settings.checkpoint_name(),
            ConnectionOptions(troubles=self._progress.troubles),
            self._see,
        )
        try:
            async with TaskGroup() as group:
                looking = group.create_task(self._keep_looking(), name="outlook of the standby")
                await vacancy.wait()
                while state.unfit:
                    state.holder = ""
                    await self._until_fit()
                    await vacancy.wait()
                looking.cancel()
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from None
        if self._had:
            log.info("the link is free", had_it=self._had, waited_seconds=round(time.time() - state.since, 1))

    async def _until_fit(self) -> None:
        """Until the link could be taken over, or somebody else may have taken it."""
        try:
            async with asyncio.timeout(UNFIT_SECONDS):
                await self._fit.wait()
        except TimeoutError:
            return

    async def _examine_once(self) -> None:
        """What a start refuses for good is refused before anybody relies on this process."""
        if self._examined:
            return
        try:
            await self._examine()
        except PortdError as error:
            if not error.retriable:
                raise
            self._judge(error)
        self._examined = True

    def _see(self, holder: Holder | None) -> None:
        """Somebody has the link; who had it last is told once nobody does."""
        if holder is not None and str(holder) != self._state.holder:
            self._had = self._state.holder = str(holder)
            log.info("standing by", holder=self._state.holder)

    # -- could it be taken over?

    async def _keep_looking(self) -> None:
        """Looks at both ends until cancelled."""
        backoff = Backoff(first_seconds=1.0, limit_seconds=LOOK_SECONDS)
        outlook = Outlook(self._progress.outlook)
        while True:
            try:
                async with open_control(self._source) as source, control(self._target, "standing by") as target:
                    while True:
                        told = await self._told(source)
                        checkpoint = await held_checkpoint(target, self._settings.checkpoint_name())
                        await self._weigh(checkpoint, told, outlook)
                        backoff.reset()
                        await asyncio.sleep(LOOK_SECONDS)
            except PortdError as error:
                self._judge(error)
            except (OSError, Refused) as error:  # of the source, before it could be asked
                failure = error if isinstance(error, OSError) else ConnectionRefusedError(str(error))
                self._judge(connect_error(self._source.display, failure))
            await asyncio.sleep(backoff.next_wait())

    async def _told(self, source: Control) -> dict[str, str]:
        """What the source says of itself; empty where our user may not ask.

        Raises:
            SourceError: it does not answer.
        """
        told: dict[str, str] = {}
        try:
            for section in ("server", "replication"):
                told |= parse_info(await source.call("INFO", section))
        except Refused:
            return {}
        except OSError as error:
            raise connect_error(self._source.display, error) from error
        return told

    async def _weigh(self, checkpoint: Checkpoint | None, told: Mapping[str, str], outlook: Outlook) -> None:
        """What both ends say, against what a start would want of them."""
        try:
            rules = await self._ruling.others(checkpoint)
            self._refuse_others(checkpoint, told)
        except ConfigError as error:
            self._judge(error)
            return
        self._state.full_sync = why_full(checkpoint, told, rules)
        end, size = whole(told.get("master_repl_offset", "")), whole(told.get("repl_backlog_size", ""))
        if checkpoint is not None and end is not None and size is not None:
            outlook.backlog(time.monotonic(), end, checkpoint.position.offset, size)
            self._progress.outlook.asked_at = time.time()
        self._judge(None)

    def _refuse_others(self, checkpoint: Checkpoint | None, told: Mapping[str, str]) -> None:
        """Makes sure that the source is the one whose data is in the target, as far as it tells.

        Raises:
            ConfigError: it is another one.
        """
        if checkpoint is None or (checkpoint.first and checkpoint.sole) or self._settings.accept_source:
            return
        source = Identity(
            replid=told.get("master_replid", ""),
            replid2=told.get("master_replid2", ""),
            run_id=told.get("run_id", ""),
            address=self._source.display,
        )
        followed = followed_by(checkpoint)
        if told and not followed.continues(source) and followed.address != source.address:
            raise ConfigError(
                f"its source {source.address} is not the server whose data is in the target, {followed.address}: neither history "
                "nor process is the one that is followed",
                hint="both processes need the same settings",
            )

    def _judge(self, error: PortdError | None) -> None:
        """Notes that the link could be taken over, or why not. The log says so when it changes."""
        state = self._state
        reason = "" if error is None else str(error.args[0])
        if reason and not state.unfit:
            log.warning("the link could not be taken over", why=reason, hint=error.hint if error else None)
        elif state.unfit and not reason:
            log.info("the link could be taken over again")
        state.unfit = reason
        if reason:
            self._fit.clear()
        else:
            self._fit.set()


def why_full(checkpoint: Checkpoint | None, told: Mapping[str, Any], rules: str = "") -> str:
    """Why whoever takes the link now would have to copy everything; "" when it would not, as far as is known.

    Args:
        checkpoint: in the target; None when there is none.
        told: INFO of the source.
        rules: what of them has changed.
    """
    if checkpoint is None or checkpoint.state is State.SNAPSHOT:
        return "no snapshot is whole in the target yet"
    if rules:
        return f"the rules are others ({rules})"
    replid, offset = checkpoint.position.replid, checkpoint.position.offset
    known = {name: whole(str(told.get(name, ""))) for name in ("master_repl_offset", "second_repl_offset", _FIRST)}
    end, first = known["master_repl_offset"], known[_FIRST]
    if replid != told.get("master_replid", replid):
        if replid != told.get("master_replid2"):
            return "the source has another history than the checkpoint"
        end = (known["second_repl_offset"] or 1) - 1  # what begins there is another history's
    if end is None or first is None:
        return ""
    there = told.get("repl_backlog_active") == "1" and first - 1 <= offset <= end
    return "" if there else "the source's backlog does not reach back to the checkpoint"
