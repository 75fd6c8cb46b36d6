"""The gate that a full sync passes before it changes the target, and again before it removes keys.

The rules are in `portd.hold`; here both ends are asked for what the rules look at, and here is the one place where a sync
waits for an operator. Whoever waits here holds no link to the source that would cost it anything, and has changed nothing.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from portd.config.choices import Prune
from portd.errors import PortdError
from portd.hold import Facts, Identity, Reason, judge, judge_removal, judge_sample
from portd.link import clusters
from portd.log import get_logger
from portd.model import Held
from portd.net.backoff import Backoff
from portd.source.info import read_info
from portd.target.control import control
from portd.target.kept.checkpoint import State, read_checkpoint
from portd.target.kept.contents import keys_there
from portd.target.kept.directory import other_links

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from portd.config.rules import Choice
    from portd.config.settings import Settings
    from portd.hold import Hold, Sample
    from portd.link.ruling import Ruling
    from portd.model import Progress
    from portd.net.endpoint import Endpoint
    from portd.source.info import SourceInfo
    from portd.target.kept.checkpoint import Checkpoint

log = get_logger("sync")

AGAIN_SECONDS: Final = 60.0  # longest wait before a source that is held back is looked at again
COPY_SECONDS: Final = 600.0  # longest wait before it is asked for a snapshot again, where only that can tell
HINT: Final = "if it is meant: portd ctl accept, or start with --accept-source; else mend the source or --source"


class Stopped(Exception):
    """There is nothing to drain."""


class HeldBack(Exception):
    """The source sends a full sync that has to wait; the link is closed.

    Attributes:
        hold: why.
        seen: who was found wanting by its snapshot; None for one that says enough of itself.
    """

    def __init__(self, hold: Hold, seen: Identity | None = None) -> None:
        super().__init__(hold.words)
        self.hold = hold
        self.seen = seen


class Gate:
    """Lets full syncs pass, or makes them wait.

    Args:
        ruling: which keys are copied; and both ends, what is removed and how much of it may go.
        progress: `held` and `source_info` are kept up to date.
        stop: set when the sync is to end.
        source: where the source is.

    Attributes:
        source: see above.
        accepted: an operator said that this source is meant; until its snapshot is applied.
        broken_off: a stop came while something waited here.
    """

    def __init__(self, ruling: Ruling, progress: Progress, stop: asyncio.Event, source: Endpoint) -> None:
        self.source = source
        self._ruling = ruling
        self.accepted = ruling.settings.accept_source
        self.broken_off = False
        self._progress = progress
        self._stop = stop
        self._word = asyncio.Event()  # an operator's
        self._found: Reason | None = None  # why a snapshot that was looked at had to wait
        self._doubt: Facts | None = None  # about the full sync that was let in last
        self._reason = ""  # why that one comes, as it is counted
        self._copies = Backoff(first_seconds=AGAIN_SECONDS / 2, limit_seconds=COPY_SECONDS)

    def accept(self) -> Held | None:
        """An operator says that what waits here is meant. Returns what waited; None when nothing does."""
        held = self._progress.held
        if held is not None:
            self.accepted = True
            self._word.set()
        return held

    def passed(self) -> None:
        """A snapshot is applied, or the history goes on: what comes next is another question."""
        self.accepted = False
        self._let_in()

    def _let_in(self) -> None:
        self._progress.held = self._found = None
        self._copies.reset()

    @property
    def doubtful(self) -> bool:
        """The snapshot of the full sync that was let in has to be looked at: `examine`."""
        return self._doubt is not None and not self.accepted

    def examine(self, sample: Sample) -> None:
        """Looks at the beginning of that snapshot, before anything of it is written.

        Raises:
            HeldBack: it has to wait.
        """
        assert self._doubt is not None, "nothing is doubtful"
        hold = judge_sample(self._doubt, sample, self._ruling.settings.prune_limit)
        if hold is not None:
            self._found = hold.reason
            raise HeldBack(hold, self._doubt.source)
        self._let_in()
        self._progress.full_syncs[self._reason] += 1

    def begin(self, reason: str) -> None:
        """A full sync that was admitted begins, and counts: now, or when `examine` lets it in. One that waits begins again
        and again, and none of its tries is a full sync.
        """  # noqa: D205
        self._reason = reason
        if not self.doubtful:
            self._progress.full_syncs[reason] += 1

    async def admit(self, replid: str) -> Reason | None:
        """Looks at a full sync that the source has agreed to.

        Args:
            replid: the history it belongs to; "" when the source did not tell.

        Returns:
            None when there is nothing to say; the reason when it would wait, and is accepted.

        Raises:
            HeldBack: it has to wait.
            SourceError: the source cannot be asked.
            TargetError: the target cannot be asked.
        """
        hold = await self._look(replid)
        if hold is None:
            return self._found if self.accepted else None
        if not self.accepted:
            raise HeldBack(hold)
        log.warning("a full sync that would wait goes on", reason=hold.reason.value, why=hold.words)
        return hold.reason

    async def wait(self, held: HeldBack) -> None:
        """Waits until an operator accepts, or both ends are as they should be. The source is asked who it is now and then,
        which costs it no fork. Where only a snapshot tells, it is asked for another one when it has become another process
        or history, and after some minutes.

        Raises:
            Stopped: a stop came first.
        """  # noqa: D205
        seen = held.seen
        if seen is None:
            await self._wait(held.hold, lambda: self._look(""))
            return
        again_at = time.monotonic() + self._copies.next_wait()
        await self._wait(held.hold, lambda: self._changed(held.hold, seen, again_at), tries=True)

    async def _changed(self, hold: Hold, seen: Identity, again_at: float) -> Hold | None:
        """None when the source may have become the one that is wanted."""
        now = identify(self._ruling.settings, await read_info(self.source), "")
        other = seen.run_id != now.run_id or (now.replid not in {"", seen.replid} and now.replid2 != seen.replid)
        return None if other or time.monotonic() >= again_at else hold

    async def permit(self, ghosts: int, keys: int) -> None:
        """Returns when *ghosts* may be removed from a target that had *keys* before the full sync, at once as a rule.

        Raises:
            Stopped: a stop came first.
        """
        hold = judge_removal(ghosts, keys, self._ruling.settings.prune_limit)
        if hold is None:
            return
        if self.accepted:
            log.warning("a removal that would wait goes on", reason=hold.reason.value, why=hold.words)
            return
        await self._wait(hold, None)

    # -- waiting

    async def _wait(
        self, hold: Hold, look: Callable[[], Awaitable[Hold | None]] | None, *, tries: bool = False
    ) -> None:
        """Waits for a word, a stop, or *look* to find nothing; where that only means another try, it stays shown as held."""
        self._word.clear()
        tasks = [
            asyncio.create_task(self._word.wait(), name="accept"),
            asyncio.create_task(self._stop.wait(), name="stop while held"),
        ]
        backoff = Backoff(first_seconds=1.0, limit_seconds=AGAIN_SECONDS)
        self._show(hold)
        try:
            while True:
                wait = backoff.next_wait() if look is not None else None
                await asyncio.wait(tasks, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                if self._stop.is_set():
                    raise Stopped
                if self.accepted:
                    log.warning("accepted by an operator, the sync goes on", reason=hold.reason.value)
                    return
                if look is not None:
                    found = await self._look_again(look, hold)
                    if found is None and tries:
                        log.info("held: the source is asked for another snapshot", reason=hold.reason.value)
                        return
                    if found is None:
                        log.warning("the source is what it was, the sync goes on", reason=hold.reason.value)
                        return
                    if found != hold:
                        hold = found
                        self._show(hold)
        finally:
            self.broken_off = self._stop.is_set() and not self.accepted
            if not tries or self.accepted or self._stop.is_set():
                self._progress.held = None
            for task in tasks:
                task.cancel()

    def _show(self, hold: Hold) -> None:
        progress, known = self._progress, self._progress.held
        if known is None or known.reason != hold.reason:
            log.warning("held: nothing is overwritten or removed", reason=hold.reason.value, why=hold.words, hint=HINT)
        progress.held = Held(hold.reason.value, hold.words, known.since if known else time.time())

    async def _look_again(self, look: Callable[[], Awaitable[Hold | None]], hold: Hold) -> Hold | None:
        """What holds now; an end that cannot be asked changes nothing."""
        try:
            return await look()
        except PortdError as error:
            text = str(error.args[0])
            if text != self._progress.last_error:
                log.warning("an end cannot be asked while the sync is held", error=text)
            self._progress.errors.note(text)
            return hold

    # -- looking

    async def _look(self, replid: str) -> Hold | None:
        """Asks both ends. *replid* is what the source has announced; "" to go by what it says of itself."""
        settings = self._ruling.settings
        self._doubt = None
        checkpoint = await read_checkpoint(settings.target_endpoint(), settings.checkpoint_name())
        info = await read_info(self.source)
        self._progress.source_info = info.shown() or self._progress.source_info
        if checkpoint is None or (checkpoint.first and checkpoint.sole):
            return None  # the guard has looked at what is there; half a first snapshot is worth nothing
        source = identify(settings, info, replid)
        followed = followed_by(checkpoint)
        if checkpoint.state is State.SNAPSHOT and checkpoint.accepted and followed.continues(source):
            self.accepted = True  # and was broken off
            return None
        facts = await gather(
            settings, checkpoint, source, None if info.keys is None else info.databases, self._ruling.newest_choice
        )
        if facts.doubtful and not checkpoint.first:
            self._doubt = facts
        return judge(facts, settings.prune_limit)


def identify(settings: Settings, info: SourceInfo, replid: str = "") -> Identity:
    """Who the source is."""
    return Identity(
        replid=replid or info.replid or "",
        replid2=info.replid2 or "",
        run_id=info.run_id or "",
        address=settings.source_endpoint().display,
    )


def followed_by(checkpoint: Checkpoint) -> Identity:
    """Whom the data beside a checkpoint came from."""
    return Identity(
        replid=checkpoint.position.replid,
        replid2=checkpoint.source_replid2,
        run_id=checkpoint.source_run_id,
        address=checkpoint.source_address,
    )


async def gather(
    settings: Settings, checkpoint: Checkpoint, source: Identity, source_keys: Mapping[int, int] | None, choice: Choice
) -> Facts:
    """What a full sync from *source* would do; asks the target.

    Where only some keys are copied, only those of the target count that these can be. How many the source has of them is
    not known, unless it is none.

    Raises:
        TargetError: it cannot be asked.
    """
    key, prefix, mode = settings.checkpoint_name(), settings.checkpoint_key, settings.prune
    compares = mode is Prune.PRUNE or (
        mode is Prune.AUTO and checkpoint.sole and settings.spool_directory() is not None and not choice.of_values
    )
    removes = not checkpoint.first and (compares or mode is Prune.FLUSH)
    known = None if source_keys is None else choice.keys_of(source_keys)
    target = settings.target_endpoint()
    of_cluster = await clusters.count_keys(settings, choice) if target.seeds is not None else None
    async with control(target, "counting the target's keys") as client:
        facts = Facts(
            followed=followed_by(checkpoint),
            source=source,
            source_keys=known,
            target_keys=of_cluster
            if of_cluster is not None
            else sum((await keys_there(client, prefix, key, choice if removes else None)).values()),
            removes=removes,
            at_once=mode is Prune.FLUSH,
        )
        hold = judge(facts, settings.prune_limit)
        empty = facts.source_keys is None if hold is None else hold.reason is Reason.SOURCE_EMPTY
    if mode is Prune.AUTO and facts.removes and empty and not choice and await other_links(settings):
        return replace(facts, removes=False)  # their keys may not go, so none do
    return facts
