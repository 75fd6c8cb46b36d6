"""One session: follows one history of the source, from a full or partial sync until the history is lost.

Two tasks, with the spool between them: one keeps the link, making it again as often as it breaks; the other applies
the snapshot, then the stream. Neither waits for the other, and a broken link is no news for the target's side.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from portd.config.choices import Existing, ExpiryGap, StopAfter
from portd.errors import SourceBusy, SourceError, SourceLost
from portd.feed.snapshot import SnapshotCopy, stream_database
from portd.feed.stream import StreamFeed
from portd.kernel.snapshot import SnapshotDecoder
from portd.link.catchup import CatchUp
from portd.link.gate import Stopped
from portd.link.glimpse import Glimpse
from portd.link.resync import NotingSink, Resync
from portd.log import get_logger
from portd.model import Phase, Position
from portd.net.backoff import Backoff
from portd.net.shapes import whole
from portd.scheduling import bulk_work
from portd.target.connection import ConnectionOptions, Disconnected
from portd.target.control import patiently
from portd.target.deadletter import Letter
from portd.target.kept.checkpoint import IMPORTS_SUFFIX, MOST_OFFSET, Checkpoint, write_checkpoint
from portd.target.kept.postponed import Horizon, Postponed, Sweeper, shift_of, snapshot_margin_ms
from portd.target.snapshot.writers import Writers
from portd.target.snapshot.writing import WriterOptions
from portd.target.stream.applier import Applier
from portd.target.stream.applying import ApplierOptions
from portd.target.stream.scripts import Scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from portd.config.settings import Settings
    from portd.errors import TargetBusy
    from portd.kernel.snapshot import CurrentKey, DeadLetter
    from portd.link.gate import Gate
    from portd.memory.plan import MemoryPlan
    from portd.model import Progress
    from portd.net.endpoint import Endpoint
    from portd.pipeline import ByteBudget
    from portd.source.handshake import Transfer
    from portd.source.receiver import Receiver
    from portd.spool import Spool
    from portd.target.capabilities import Capabilities
    from portd.target.deadletter import DeadLetters
    from portd.target.kept.epoch import Epoch
    from portd.target.kept.lease import Lease
    from portd.target.limiter import Limiter
    from portd.target.stream.scriptbook import ScriptBook

log = get_logger("sync")

RECONNECT_SECONDS = 5.0  # longest wait for the source: asking for the stream costs it nothing
LASTING_SECONDS = 1.0  # a link that lasted no longer did not work: the wait for the next one goes on growing


class HistoryLost(Exception):
    """The source answered the wish to continue with a full sync; *transfer* is already agreed on."""

    def __init__(self, transfer: Transfer) -> None:
        super().__init__("the source cannot continue where we are")
        self.transfer = transfer


@dataclass(slots=True)
class Parts:
    """What outlives a session; built once by the replication.

    Attributes:
        settings: what to do.
        plan: how much memory each part has.
        progress: counters.
        target: the target's address.
        capabilities: what the target understands.
        link: to the source.
        spool: between link and decoder.
        budget: bounds queue and lanes.
        limiter: bounds the load on the target.
        letters: receives refusals.
        scripts: texts that the source may call by their SHA1.
        stop: set when the sync is to end in order.
        gate: where removals wait that are too many.
        lease: on the link.
        epoch: fences every write of a snapshot, and its successor those of the stream behind it; a stream that is
            continued is fenced by the epoch itself.
        connection: how connections that write are made.
        postpones: expiries that are near are sent later while the target lags.
        beside: runs while the stream is followed, from when it has caught up; cancelled when that ends.
    """

    settings: Settings
    plan: MemoryPlan
    progress: Progress
    target: Endpoint
    capabilities: Capabilities
    receiver: Receiver
    spool: Spool
    budget: ByteBudget
    limiter: Limiter
    letters: DeadLetters
    scripts: ScriptBook
    stop: asyncio.Event
    gate: Gate
    lease: Lease
    epoch: Epoch
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)
    postpones: bool = False
    beside: Callable[[], Coroutine[None, None, None]] | None = None

    @property
    def shift_ms(self) -> int:
        """By how much they are later; 0 when they are not."""
        return shift_of(self.settings.link) if self.postpones else 0

    @property
    def holds(self) -> bool:
        """All of them are, until the end."""
        return self.postpones and self.settings.expiry_gap is ExpiryGap.HOLD


class Session:
    """Runs one session.

    Args:
        parts: see there.
        transfer: what the source agreed to; the link is connected and does not run yet.
        checkpoint: where a partial sync continues; None for a full one.
        on_snapshot: called when a snapshot is applied and its checkpoint written.
        spacing: seconds to wait at the least before a lost link is made again: full syncs follow one another, and the
            next loss may cost the source the next fork.
    """

    def __init__(
        self,
        parts: Parts,
        transfer: Transfer,
        checkpoint: Checkpoint | None,
        on_snapshot: Callable[[], None],
        *,
        spacing: float = 0.0,
    ) -> None:
        self.copy: SnapshotCopy | None = None
        self.largest: list[CurrentKey] = []  # of a snapshot that is over
        self.writers: Writers | None = None
        self.resync: Resync | None = None
        self.feed: StreamFeed | None = None
        self.applier: Applier | None = None
        self._parts = parts
        self._transfer = transfer
        self._checkpoint = checkpoint
        self._on_snapshot = on_snapshot
        self._spacing = spacing
        self._epoch = parts.epoch  # of what is written now
        self._replid = transfer.position.replid
        self.reached = False  # what `stop_after` asks for: all that follows is finishing
        self._linked = asyncio.Event()  # the link is connected
        self._linked.set()
        self._relinked = asyncio.Event()  # it was made again since the target was last known to have caught up
        self._caught_up = asyncio.Event()  # once
        self._input_ended = asyncio.Event()
        self._decoded = asyncio.Event()  # the snapshot is in the spool to its end
        parts.spool.watch(self._let_go)

    async def run(self) -> None:
        """Replicates until told to stop, or until ``stop_after`` is reached.

        Raises:
            HistoryLost: the source begins another full sync.
            PortdError: an end failed in a way that needs a new session, or an operator.
        """
        try:
            async with asyncio.TaskGroup() as group:
                link = group.create_task(self._keep_receiving(), name="receiver")
                apply = group.create_task(self._apply(), name="apply")
                stop = group.create_task(self._watch_stop(), name="stop")
                await apply
                for task in (link, stop):
                    task.cancel()
        except BaseExceptionGroup as group:
            cause = first_cause(group)
            if not isinstance(cause, HistoryLost):  # then the link is connected, and the next session's
                self._parts.receiver.close()
            raise cause from None
        except asyncio.CancelledError:
            self._parts.receiver.close()
            raise
        self._parts.receiver.close()

    # -- the source's side

    async def _keep_receiving(self) -> None:
        """Receives into the spool; a lost link is made again where it broke, without the target's side knowing."""
        receiver, parts = self._parts.receiver, self._parts
        backoff = Backoff(limit_seconds=RECONNECT_SECONDS)
        while not self._input_ended.is_set():
            begun = time.monotonic()
            try:
                await receiver.run()
            except SourceLost as error:
                self._linked.clear()
                if self._input_ended.is_set():
                    return
                log.warning(
                    "link lost", reason=str(getattr(error, "reason", "")), offset=parts.progress.stream.read_offset
                )
                if receiver.position is None:
                    # Perhaps all of the snapshot came before; the decoder will tell, or fail at the cut.
                    parts.spool.end(error)
                    await self._decoded.wait()
                    if receiver.position is None:
                        raise
                if time.monotonic() - begun > LASTING_SECONDS:
                    backoff.reset()
                await self._connect_again(backoff)

    async def _connect_again(self, backoff: Backoff) -> None:
        receiver, progress = self._parts.receiver, self._parts.progress
        lost_at = progress.source.last_received_at
        while True:
            await asyncio.sleep(max(backoff.next_wait(), self._spacing))
            if self._input_ended.is_set():
                return
            try:
                transfer = await receiver.connect(receiver.position)
            except SourceError as error:
                if not error.retriable:
                    raise
                progress.last_error = str(error)
                if not isinstance(error, SourceBusy):  # the link has noted that
                    log.warning("source is not there", error=str(error), attempt=backoff.attempts)
                continue
            if self._input_ended.is_set():  # meanwhile: nothing more may come into the spool
                receiver.close()
                return
            if transfer.full:
                raise HistoryLost(transfer)
            self._spacing = 0.0  # its backlog is large enough
            if progress.phase is Phase.STREAMING:  # what was written meanwhile is still to come
                progress.phase = Phase.CATCHING_UP
            progress.partial_syncs += 1
            self._adopt(transfer.position.replid)
            if self.feed is not None:
                self.feed.lag(lost_at)
            self._linked.set()
            self._relinked.set()
            log.info("link continues", replid=transfer.position.replid, offset=transfer.position.offset)
            return

    def _adopt(self, replid: str) -> None:
        """The history goes on under another id: the source was promoted."""
        if replid != self._replid:
            log.info("history has a new id", replid=replid, was=self._replid)
            self._replid = replid
            if self.applier is not None:
                self.applier.adopt(replid)

    async def _watch_stop(self) -> None:
        """A stop ends the input; what is in the spool is still applied. A snapshot cannot be kept half."""
        await self._parts.stop.wait()
        if self.applier is None:
            raise Stopped
        self._end_input()

    def _let_go(self) -> None:
        """A transaction fills the spool and nothing can be spilled: let it pass, at the price of asking the source for it
        again should the target fail now.
        """  # noqa: D205
        self._parts.spool.release(self._parts.spool.cursor)

    def _end_input(self) -> None:
        self._parts.receiver.close()
        self._parts.spool.end()
        self._input_ended.set()

    # -- the target's side

    async def _apply(self) -> None:
        parts = self._parts
        if self._transfer.full:
            with bulk_work():
                await self._apply_snapshot()
        assert self._checkpoint is not None
        if parts.settings.stop_after is StopAfter.SNAPSHOT:
            if not self._transfer.full:
                log.info("snapshot was applied by an earlier start", offset=self._checkpoint.position.offset)
            await self._sweeper(Postponed(there=self._checkpoint.postponed)).finish(self._checkpoint.epoch)
            self.reached = True
            return
        if not self._transfer.full:
            self._begin_feed(
                parts.spool.cursor,
                self._checkpoint.position.offset,
                self._checkpoint.db,
                self._checkpoint.time_ms / 1000,
            )
        await self._apply_stream()

    async def _apply_snapshot(self) -> None:
        parts, transfer = self._parts, self._transfer
        progress, settings = parts.progress, parts.settings
        progress.phase = Phase.SNAPSHOT
        key, epoch, patience = settings.checkpoint_name(), parts.epoch, parts.connection
        await self._examine()
        self.resync = resync = Resync(settings, parts.target, parts.capabilities, parts.limiter, patience, epoch)
        await patiently(resync.begin, self._note_refusal)
        marker = Checkpoint.begin(transfer.position, progress.source_info.get("run_id", ""), sole=resync.sole)
        marker = replace(
            marker, postponed=parts.postpones or resync.postponed, first=resync.first, accepted=parts.gate.accepted,
            source_replid2=progress.source_info.get("replid2", ""), source_address=settings.source_endpoint().display,
            keys_before=resync.keys_before,
        )  # fmt: skip
        await patiently(partial(write_checkpoint, parts.target, key, marker, epoch, patience), self._note_refusal)
        decoder = self._make_decoder()
        self.writers = Writers(parts.target, parts.budget, progress, parts.letters, self._writer_options())
        sink = NotingSink(self.writers, resync)
        self.copy = SnapshotCopy(
            parts.spool, decoder, sink, progress.snapshot, transfer, self._on_letter, parts.scripts.add
        )
        self.copy.refuse_node = None if settings.one_shard else settings.source_endpoint().display
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.writers.run(), name="writers")
                index = await self.copy.run()
                self._find_position(decoder)
                parts.receiver.stream_begins(index, self._transfer.position)
                self._decoded.set()
                await self.writers.flush()
                self.writers.close()
            counters = decoder.statistics()
            await resync.finish(counters["keys_failed"] - counters["keys_lacking"], self._permit)
            progress.keys_pruned += resync.removed
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        finally:
            self.writers.discard()
            resync.close()
        self._note_dropped(decoder)
        self.drop_copy()
        self.writers = None
        position = self._transfer.position
        checkpoint = replace(
            Checkpoint.following(position, stream_database(decoder.aux), marker.source_run_id, marker.snapshot_id),
            sole=marker.sole,
            source_replid2=marker.source_replid2,
            source_address=marker.source_address,
            postponed=resync.postponed or progress.snapshot.keys_postponed > 0,
        )
        run_id = parts.capabilities.run_id
        write = partial(write_checkpoint, parts.target, key, checkpoint, epoch, patience, run_id=run_id, closes=True)
        await patiently(write, self._note_refusal)
        self._epoch = epoch.successor
        self._checkpoint = checkpoint
        progress.stream.applied_offset = progress.stream.checkpointed_offset = position.offset
        snapshot = progress.snapshot
        snapshot.finished_at = time.time()
        log.info(
            "snapshot applied", keys=snapshot.keys_read, applied=snapshot.keys_applied, filtered=snapshot.keys_filtered,
            expired=snapshot.keys_expired, postponed=snapshot.keys_postponed, failed=snapshot.keys_failed, bytes=snapshot.bytes_decoded,
            seconds=round(snapshot.finished_at - snapshot.started_at, 3),
        )  # fmt: skip
        self._on_snapshot()
        self._begin_feed(index, position.offset, checkpoint.db, snapshot.started_at)

    def _make_decoder(self) -> SnapshotDecoder:
        parts, settings = self._parts, self._parts.settings
        decoder = SnapshotDecoder(
            parts.capabilities.dialect(),
            chunk_bytes=parts.capabilities.chunk_bytes(settings.chunk_bytes),
            batch_bytes=parts.capabilities.batch_bytes(parts.plan.batch_bytes),
            command_bytes=settings.command_bytes,
            command_elements=settings.command_elements,
            skip_existing=settings.existing is Existing.SKIP,
        )
        decoder.spare(settings.checkpoint_key.encode())
        decoder.postpone(snapshot_margin_ms(always=parts.holds), parts.shift_ms)
        return decoder

    def drop_copy(self) -> None:
        """Lets go of the decoder and its buffers; what it has counted and found stays. Idempotent."""
        if self.copy is not None:
            self.largest = self.copy.largest.read()
            counters = self.copy.decoder.statistics()
            self._parts.progress.earlier.update({name: counters[name] for name in ("elements", "batches")})
            self.copy = None

    async def _examine(self) -> None:
        """Where the source has left a doubt whether it is the one that was followed, its snapshot has to tell.

        Raises:
            HeldBack: the full sync has to wait.
        """
        parts = self._parts
        if parts.gate.doubtful:
            glimpse = Glimpse(parts.spool, parts.capabilities.dialect(), parts.plan.spool_bytes // 4)
            parts.gate.examine(await glimpse.read(parts.target))

    async def _permit(self, ghosts: int, keys: int) -> None:
        """Removing keys may have to wait; the stream waits in the spool meanwhile, and the link is kept."""
        await self._parts.gate.permit(ghosts, keys)

    def _find_position(self, decoder: SnapshotDecoder) -> None:
        """A source that renamed PSYNC tells the position inside of the snapshot only (rdb.c:rdbSaveInfoAuxFields)."""
        if self._transfer.announced:
            return
        replid, offset = decoder.aux.get("repl-id", ""), decoder.aux.get("repl-offset", "")
        position = whole(offset, MOST_OFFSET)
        if not replid or position is None:
            raise SourceError(
                "the source told its position neither before nor inside of the snapshot",
                hint="give the name of the real PSYNC command with --psync-command",
            )
        self._transfer = replace(self._transfer, position=Position(replid, position))
        self._replid = replid

    def _note_refusal(self, error: TargetBusy | Disconnected) -> None:
        self._parts.progress.last_error = str(error)
        if not self._parts.connection.note(error):
            log.warning("target is not there, it is tried again", error=str(error))

    def _writer_options(self) -> WriterOptions:
        parts = self._parts
        lanes = parts.settings.writers
        return WriterOptions(
            epoch=parts.epoch,
            eviction=parts.lease.eviction,
            writers=lanes,
            seats=parts.capabilities.io_threads,
            window_bytes=max(parts.plan.batch_bytes, parts.plan.queue_bytes // (2 * lanes)),
            skip_existing=parts.settings.existing is Existing.SKIP,
            run_id=parts.capabilities.run_id,
            limiter=parts.limiter,
            connection=parts.connection,
        )

    def _begin_feed(self, index: int, offset: int, db: int, since: float) -> None:
        """The stream begins at spool index *index*; the target has nothing of it since unix time *since*."""
        parts = self._parts
        self.feed = StreamFeed(
            parts.spool,
            parts.progress.stream,
            index=index,
            offset=offset,
            db=db,
            max_argument=parts.capabilities.proto_max_bulk_bytes,
            forms=parts.capabilities.stream_forms(
                parts.progress.source_info,
                own=parts.settings.checkpoint_key,
                publish=not parts.settings.skip_messages,
                stops=parts.letters.stops,
            ),
            horizon=Horizon(parts.shift_ms, since, always=parts.holds),
        )

    async def _apply_stream(self) -> None:
        parts, feed = self._parts, self.feed
        assert feed is not None
        assert self._checkpoint is not None
        progress = parts.progress
        progress.phase = Phase.CATCHING_UP
        self.applier = Applier(
            parts.target,
            feed,
            self._followed(self._checkpoint),
            parts.settings.checkpoint_name(),
            progress,
            parts.letters,
            ApplierOptions(
                epoch=self._epoch,
                limiter=parts.limiter,
                ages=parts.postpones,
                connection=parts.connection,
                beside=parts.lease.restated,
                scripts=Scripts.of(parts.scripts, parts.capabilities),
                others=(parts.settings.checkpoint_key + IMPORTS_SUFFIX,),
            ),
        )
        applier = self.applier
        sweeper = self._sweeper(applier.postponed)
        self.applier.on_getack = parts.receiver.acknowledge_now
        if parts.stop.is_set():
            self._end_input()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.applier.run(), name="applier")
                caught_up = group.create_task(self._watch_caught_up(applier), name="caught up")
                sweep = sweeper.follow(applier.caught_up, feed.lagging, lambda: applier.checkpoint.position.offset)
                tasks = [caught_up]
                if parts.holds:
                    sweep.close()
                else:
                    tasks.append(group.create_task(sweep, name="expiries"))
                if parts.beside is not None:
                    tasks.append(group.create_task(self._run_beside(parts.beside), name="beside the stream"))
                await self._input_ended.wait()
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        log.info("stream ended", offset=progress.stream.checkpointed_offset)
        if not parts.holds or parts.settings.stop_after is not StopAfter.NONE:
            await sweeper.finish(applier.checkpoint.epoch)
        self.reached = self._caught_up.is_set()

    def _followed(self, known: Checkpoint) -> Checkpoint:
        """The checkpoint with what the source is by now: it continued that history, whatever its name was then."""
        info, position = self._parts.progress.source_info, known.position
        before = known.source_replid2 if self._replid == position.replid else position.replid
        return replace(
            known,
            position=Position(self._replid, position.offset),
            source_run_id=info.get("run_id", known.source_run_id),
            source_replid2=info.get("replid2", before),
            source_address=self._parts.settings.source_endpoint().display,
        )

    def _sweeper(self, postponed: Postponed) -> Sweeper:
        parts = self._parts
        key, shift_ms = parts.settings.checkpoint_name(), shift_of(parts.settings.link)
        return Sweeper(parts.target, key, self._epoch, shift_ms, postponed, parts.progress, parts.connection)

    async def _watch_caught_up(self, applier: Applier) -> None:
        """Keeps the phase; ends the input where catching up is all that is wanted."""
        parts, stream = self._parts, self._parts.progress.stream
        catching_up = CatchUp(parts.receiver.endpoint, parts.spool, stream, applier, self._linked, self._relinked)
        while True:
            self._relinked.clear()
            source_offset = await catching_up.wait()
            if self._relinked.is_set():
                continue
            stream.caught_up_at = stream.caught_up_at or time.time()
            parts.progress.phase = Phase.STREAMING
            self._caught_up.set()
            told = "unknown" if source_offset is None else source_offset
            log.info("caught up", offset=stream.applied_offset, source_offset=told)
            if parts.settings.stop_after is StopAfter.CAUGHT_UP:
                self._end_input()
            await self._relinked.wait()

    async def _run_beside(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        await self._caught_up.wait()
        await work()

    # -- what the decoder found

    def _on_letter(self, letter: DeadLetter) -> None:
        databases = self._parts.capabilities.databases
        if self.resync is not None and (letter.db < databases or not databases):  # there is nothing to prune in others
            self.resync.note_letter(letter)
        self._parts.letters.add(
            Letter(
                phase="snapshot",
                db=letter.db,
                key=letter.key,
                command=letter.type,
                offset=letter.offset,
                reply=f"unsupported {letter.reason}",
            )
        )

    def _note_dropped(self, decoder: SnapshotDecoder) -> None:
        """What was applied without something that the target, or a command, cannot carry."""
        counters = decoder.statistics()
        for name in ("idle", "freq", "field_ttl", "stream_meta", "meta"):
            if count := counters[f"{name}_dropped"]:
                self._parts.progress.attributes_dropped[name.replace("_", "-")] += count
        note_own(counters["keys_own"])


def note_own(keys: int) -> None:
    """Says that keys were left out because of their names."""
    if keys:
        log.warning(
            "the source has keys named like those of portd: they are not copied", keys=keys,
            hint="harmless when the source is itself the target of a portd; rename them, or set checkpoint_key, otherwise",
        )  # fmt: skip


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a group: its first leaf."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
