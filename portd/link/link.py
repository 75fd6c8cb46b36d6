"""One sync from beginning to end: which history is followed, and what happens when either end is lost.

A *session* follows one history of the source: it begins with a full or a partial sync and lasts until the source no
longer knows where we are. Within it the source is connected again as often as that breaks, and the target's side never notices:
the spool is between them. A new session begins from the checkpoint in the target, or with a full sync.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from portd.config.choices import ExpiryGap, StopAfter
from portd.errors import (
    ConfigError,
    DataLost,
    Interrupted,
    LinkTaken,
    PortdError,
    ScriptMissing,
    SourceBusy,
    SourceLost,
    TargetBusy,
    TargetError,
    TargetNotEmpty,
    first_cause,
)
from portd.groups import TaskGroup
from portd.link import clusters, expirygap
from portd.link.gate import Gate, HeldBack, Stopped
from portd.link.inflow import Inflow
from portd.link.membership import Membership
from portd.link.reaching import Reaching
from portd.link.report import Report
from portd.link.ruling import Ruling
from portd.link.session import Anew, Session
from portd.link.standby import StandingBy
from portd.log import get_logger
from portd.net.backoff import Backoff
from portd.pipeline import ByteBudget
from portd.source import cluster as one_shard
from portd.source.handshake import HandshakeOptions
from portd.source.info import ask_keys, read_info
from portd.source.keeper import HistoryLost
from portd.source.receiver import Receiver, ReceiverOptions
from portd.spool import Spool
from portd.target.capabilities import ALLKEYS, KEEP_KEYS
from portd.target.connection import ConnectionOptions
from portd.target.deadletter import DeadLetters
from portd.target.destination import Destination
from portd.target.kept.checkpoint import SLOT_STRANDS, State, guard, read_checkpoint
from portd.target.kept.contents import keys_there
from portd.target.kept.lease import Lease
from portd.target.kept.neighbours import Neighbours
from portd.target.limiter import Limiter
from portd.target.pulse import Pulse
from portd.target.stream.scriptbook import ScriptBook, script_path
from portd.troubles import TARGET

if TYPE_CHECKING:
    from portd.config.settings import Settings
    from portd.link.following import Beside
    from portd.memory.plan import MemoryPlan
    from portd.model import Position, Progress
    from portd.net.control import Control
    from portd.net.topology import Node
    from portd.source.handshake import Transfer
    from portd.spool import DiskRoom
    from portd.target.capabilities import Capabilities
    from portd.target.clusternodes import ClusterTarget
    from portd.target.kept.checkpoint import Checkpoint

log = get_logger("sync")

RETRY_SECONDS = 5.0  # longest wait before a session that costs no fork; a refusal is shown as one for longer than that
FULL_SYNC_SECONDS = 60.0  # longest wait between full syncs that follow one another: each one costs the source a fork
LEAVE_SECONDS = 2.0  # for turning import mode off at the end
LASTING_SECONDS = 60.0  # a full sync that was of use for this long was none of them


class Link:
    """Runs sessions one after the other until told to stop.

    Args:
        settings: what to do.
        plan: how much memory each part has.
        progress: counters.
        stop: set when the sync is to end in order.
        beside: runs while the stream is followed, from when the target has caught up; cancelled when that ends.
        room: on disk, with other links; None has all of it.
        neighbours: shared with other links of the process.

    Attributes:
        limiter: on the load of the target; it may be changed while the replication runs.
        reached: what `stop_after` asks for is done.
        gate: where full syncs wait for an operator.
        report: what it holds and how full it is.
        reaching: where an offset is waited for.
        ruling: its rules, and settings with them.
        read_now: tells the server whose stream is read.
        released: the lease is free: another process may have the link at once.
        member: of a source cluster's shard, what it has to do with others; None for other sources.
    """

    def __init__(
        self,
        settings: Settings,
        plan: MemoryPlan,
        progress: Progress,
        stop: asyncio.Event,
        beside: Beside | None = None,
        room: DiskRoom | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        self.reached = self.released = False
        self._begun = False  # a session was tried: the target may be another process by now
        self.reaching = Reaching()
        self._beside = beside
        self._neighbours = neighbours or Neighbours()
        self.ruling = Ruling(settings, self._neighbours)
        self._plan = plan
        self._progress = progress
        self._stop = stop
        self.member = Membership() if settings.shard_of else None
        self._source = settings.source_endpoint()
        if self.member is not None:
            self._source = replace(self._source, whereabouts=self.member.whereabouts)
        self.gate = Gate(self.ruling, progress, stop, self._source)
        self._target = settings.target_endpoint()
        self._letters = DeadLetters.of(settings, progress, self.ruling.choice)
        self._scripts = ScriptBook(script_path(settings))
        self._spool = Spool(
            memory_bytes=plan.spool_bytes,
            directory=settings.spool_directory(),
            max_disk_bytes=settings.spool_max_bytes,
            room=room,
        )
        self._budget = ByteBudget(plan.queue_bytes)
        self.limiter = Limiter.of(settings, progress.limit)
        handshake = HandshakeOptions(psync_command=settings.psync_command)
        options = ReceiverOptions(handshake=handshake, read_from=settings.source_read_from)
        self._receiver = Receiver(self._source, self._spool, progress, options=options)
        self.read_now = self._receiver.place
        self._session: Session | None = None
        self._forks = Backoff(first_seconds=1.0, limit_seconds=FULL_SYNC_SECONDS)
        self._copied_at = 0.0  # time.monotonic() of the last snapshot that was applied; 0 when it has been looked at
        self._spacing = 0.0  # of the next session
        self._asked = settings.full_sync  # a full sync comes first
        self._anew = asyncio.Event()  # and the session that goes on ends for it
        self._afresh = False  # the checkpoint in the target is worth nothing: a script was lost
        self._copying = False  # a full sync is under way, or failed: another one costs the source a fork
        self._lease: Lease | None = None
        self._taken = False  # somebody else has the link by now
        self._pulse = Pulse(self._target, progress)
        self._imports = False  # the target is in import mode because of us
        self._import_mode = clusters.import_mode(
            self._target, settings.checkpoint_key, settings.link, progress, lambda: self.ruling.choice.slots
        )
        self._standing = StandingBy(self.ruling, progress, stop, self._examine) if settings.standby else None
        self._keys_at_start: int | None = None  # of the source; good for a snapshot that begins at once
        self.report = Report(progress, self._spool, self._budget, self._scripts, lambda: self._session)

    async def run(self) -> None:
        """Replicates until told to stop or until ``stop_after`` is reached. May be run again when it has failed.

        A standby waits for the link before, and again when it has lost it.

        Raises:
            PortdError: what an operator has to mend; also an end that cannot be reached at the first try.
        """
        if self._standing is None:
            await self._replicate()
            return
        while await self._standing.turn():
            try:
                await self._replicate()
            except PortdError as error:
                self._standing.endure(error)
            else:
                return

    async def _replicate(self) -> None:
        """Takes the link, and replicates until told to stop."""
        try:
            self._taken = self.released = self._begun = False
            destination = await self._prepare()
            self._progress.introduced, self._progress.failure = True, ""
            if self._standing is not None:
                self._standing.note_taken()
            async with TaskGroup() as group:
                keepers = [group.create_task(self._pulse.keep(), name="pulse")]
                if self._lease:
                    keepers.append(group.create_task(self._lease.keep(), name="lease"))
                if self._imports:
                    keepers.append(group.create_task(self._import_mode.keep(), name="import mode"))
                await self._follow(destination)
                for keeper in keepers:
                    keeper.cancel()
        except BaseExceptionGroup as group:
            cause = first_cause(group)
            if isinstance(cause, LinkTaken):
                self._imports = False  # the mode is the other one's by now
                self._taken = True
            raise cause from None
        finally:
            await self._leave()

    async def _leave(self) -> None:
        """Whatever ended the sync, the target expires keys again, and the link is free; a killed process leaves both."""
        if self._imports:
            try:
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._import_mode.leave()
            except (TargetError, TimeoutError) as error:
                reason = str(error) or "it does not answer"
                log.warning("target stays in import mode", error=reason, hint="CONFIG SET import-mode no ends it")
        lease, self._lease, self._imports = self._lease, None, False
        if lease is not None:
            try:
                self.released = await lease.release(forget=lease.fresh and self._session is None)
            finally:
                lease.close()
                if not self._taken:
                    self._progress.lease.renewed_at = 0.0

    async def _follow(self, destination: Destination) -> None:
        """Session after session."""
        backoff = Backoff(limit_seconds=RETRY_SECONDS)
        transfer: Transfer | None = None
        while not self._stop.is_set():
            done = self._progress.stream.transactions
            try:
                with ExitStack() as stack:
                    stack.callback(self._receiver.close)  # whatever ends it: the source need not keep a snapshot for us
                    transfer = await self._run_session(destination, transfer)
                    stack.pop_all()
            except HeldBack as held:
                transfer = None
                await self._wait_held(held)
                backoff.reset()
            except Anew:
                transfer = None
                backoff.reset()
            except PortdError as error:
                if isinstance(error, DataLost) and (policy := self._evicting()):
                    error.hint = f"a full sync starts over; perhaps the target evicted the key ({policy}): {KEEP_KEYS}"
                self._afresh = isinstance(error, ScriptMissing)
                if not error.retriable or (isinstance(error, SourceLost) and not self._progress.source.connects):
                    raise
                self._progress.errors.note(str(error))
                if self._progress.stream.transactions > done:  # it worked for a while
                    backoff.reset()
                wait = self._fork_wait() if self._copying or self._afresh else backoff.next_wait()
                if not self._passes(error):
                    log.warning("session ended", error=str(error), retry_seconds=round(wait, 1))
                transfer = None
                await self._pause(wait)
            else:
                if transfer is None:
                    return
                backoff.reset()

    def _passes(self, error: PortdError) -> bool:
        """An end refuses for now, which is told in a place of its own."""
        if isinstance(error, TargetBusy):
            self._progress.troubles.note(TARGET, error.code, str(error.args[0]))
        return isinstance(error, TargetBusy | SourceBusy)  # the receiver has noted those of the source

    async def _wait_held(self, held: HeldBack) -> None:
        """Until a full sync may be tried again, or a stop comes.

        Raises:
            Interrupted: see `_end_held`.
        """
        self._copying = False
        try:
            await self.gate.wait(held)
        except Stopped:
            self._end_held()

    def _end_held(self) -> None:
        """A stop came while a full sync was held.

        Raises:
            Interrupted: an end was asked for that was not reached.
        """
        log.warning("stopped while held", hint="nothing was overwritten or removed; the next start looks again")
        if self.ruling.settings.stop_after is not StopAfter.NONE:
            raise Interrupted(
                f"stopped while the sync was held, before --stop-after {self.ruling.settings.stop_after.value}",
                hint="see the log for what it waited for",
            )

    def _evicting(self) -> str:
        """The policy by which the target may have evicted a key of ours; "" when it has none."""
        told = self._progress.target_info
        policy = told.get("maxmemory_policy", "")
        return policy if policy.startswith(ALLKEYS) and told.get("maxmemory") != "0" else ""

    async def _pause(self, seconds: float) -> None:
        """Sleeps, unless a stop comes first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _meet(self) -> tuple[Capabilities, ClusterTarget | None]:
        """Asks both ends who they are, and refuses what cannot be right. Changes nothing."""
        progress, settings = self._progress, self.ruling.settings
        capabilities, cluster = await clusters.look_at(self._target, self.ruling.choice, self._neighbours)
        progress.target_info = capabilities.shown()
        log.info("target", url=self._target.display, **progress.target_info)
        source = await read_info(self._source)
        progress.source_info = source.shown()
        self._keys_at_start = source.keys
        log.info("source", url=self._source.display, **progress.source_info)
        if self._source.seeds is None:  # of a cluster, it is known which shard this is
            one_shard.admit(self._source, source.cluster, one_shard=settings.one_shard)
        self.ruling.refuse_collisions(source.databases)
        self.ruling.require_databases(source.databases, capabilities.databases, stops=self._letters.stops)
        return capabilities, cluster

    async def _examine(self) -> None:
        """Refuses what a start would refuse, before the link is anybody's; raises as `_prepare` does."""
        await self._guard(*await self._meet())
        await self.ruling.others(await read_checkpoint(self._target, self.ruling.settings.checkpoint_name()))

    async def _prepare(self) -> Destination:
        """Takes the link, where both ends are what they should be."""
        progress, settings = self._progress, self.ruling.settings
        capabilities, cluster = await self._meet()
        self._lease = Lease(
            self._target,
            settings.checkpoint_name(),
            settings.link,
            run_id=capabilities.run_id,
            connection=ConnectionOptions(troubles=progress.troubles),
            evicts=capabilities.evicts,
            state=progress.lease,
        )
        epoch = await self._lease.acquire(takeover=settings.takeover)
        await self._guard(capabilities, cluster)
        await self.ruling.look()
        self._imports, postpones = await expirygap.close(settings, self._target, capabilities, self._import_mode)
        if not self._imports:  # it evicts nothing in import mode
            capabilities.warn_of_eviction()
        return Destination(
            settings=settings,
            endpoint=self._target,
            capabilities=capabilities,
            connection=replace(self._lease.options(), imports=self._imports),
            limiter=self.limiter,
            budget=self._budget,
            letters=self._letters,
            scripts=self._scripts,
            lease=self._lease,
            epoch=epoch,
            choice=self.ruling.choice,
            postpones=postpones,
            holds=postpones and settings.expiry_gap is ExpiryGap.HOLD,
            cluster=cluster,
        )

    def _place(self, checkpoint: Checkpoint | None) -> tuple[Position | None, str]:
        """Where the stream may go on, None for nowhere; and why a full sync comes, should the source agree to nothing else."""
        if self._afresh:
            return None, "script"
        if checkpoint is None:
            return None, "first"
        if self._asked:
            return None, "asked"
        if not self.ruling.made(checkpoint):
            return None, "rules"
        if (checkpoint.strands == SLOT_STRANDS) is not (self._target.seeds is not None):
            raise ConfigError(
                "the target's checkpoint was written by a sync into another kind of target, and came from there with the data",
                hint=f"delete the key {self.ruling.settings.checkpoint_name()!r} there to start with a full sync",
            )
        if checkpoint.state is not State.STREAM:
            return None, "interrupted"
        return checkpoint.position, "backlog"

    async def _run_session(self, destination: Destination, transfer: Transfer | None) -> Transfer | None:
        """One session.

        Args:
            destination: what is written to.
            transfer: a full sync that the source has agreed to already.

        Returns:
            None when the sync is over; the full sync to begin with next otherwise.
        """
        checkpoint = None
        reason = "backlog"  # the source refused to continue the session before
        self._spool.reset()
        self._progress.stream.following = False
        if self._begun:  # nothing of the one before changes the checkpoint any more that is read now
            destination = await self._recognise_target(destination)
            destination = replace(destination, epoch=await destination.lease.begin())
        self._begun = True
        if transfer is None:
            checkpoint = await read_checkpoint(self._target, self.ruling.settings.checkpoint_name())
            position, reason = self._place(checkpoint)
            if self.member is not None:
                self.member.drawn = True
            self._copying = False  # an attempt that does not get as far costs no fork
            if position is None:
                await self._permit()
            transfer = await self._connect(position)
            if transfer is None:
                log.info("stopped before anything was copied")
                return None
        if transfer.full:
            checkpoint = None
            self._copying = True
            reason, destination = await self._admit(transfer, reason, destination)
            self.gate.begin(reason)
            self._progress.begin_snapshot()
            self._progress.snapshot.bytes_total = transfer.length
            self._progress.snapshot.keys_total = await self._count_keys()
            log.info("full sync", reason=reason, replid=transfer.position.replid, offset=transfer.position.offset)
        else:
            destination = await self._of_its_slots(destination)
            self.gate.passed()
            self._progress.partial_syncs += 1
            log.info("partial sync", replid=transfer.position.replid, offset=transfer.position.offset)
        destination = replace(destination, settings=self.ruling.settings, choice=self.ruling.choice)
        self._progress.position = transfer.position
        self._copying = transfer.full
        spacing, self._spacing = self._spacing, 0.0
        inflow = Inflow(self._receiver, self._spool, self._progress, transfer, spacing=spacing)
        self._session = Session(
            self._plan,
            self._progress,
            self.gate,
            destination,
            inflow,
            checkpoint,
            self.reaching,
            self.ruling,
            self.member,
        )
        try:
            await self._session.run(self._stop, self._anew, self._copied, self._beside)
            self.reached = self._session.reached
        except HistoryLost as lost:
            self._spacing = self._fork_wait()
            log.warning(
                "source lost our place",
                hint="raise repl-backlog-size at the source: it has to hold what is written while the link is made again",
                next_wait_seconds=round(self._spacing, 1),
            )
            return lost.transfer
        except Stopped:
            self._tell_stopped()
        return None

    def _tell_stopped(self) -> None:
        """A stop came when nothing could be drained, or was to be.

        Raises:
            Interrupted: see `_end_held`.
        """
        if self.gate.broken_off:
            self._end_held()
        if self._progress.stream.following:
            log.warning(
                "stopped while paused", lag_bytes=self._progress.lag_bytes,
                hint="what was received and not applied is asked for again by the next start",
            )  # fmt: skip
        else:
            log.warning("stopped inside a snapshot", hint="the target is not complete; the next start begins it anew")

    async def _admit(self, transfer: Transfer, reason: str, destination: Destination) -> tuple[str, Destination]:
        """The full sync that the source has agreed to may begin; why it does, and into what.

        Raises:
            HeldBack: it has to wait.
            PortdError: an end cannot be asked.
        """
        await self._permit()  # slots may have moved since the source was asked
        reason = await self.gate.admit(transfer.position.replid) or reason
        self._anew.clear()
        self.reaching.forget()
        self.ruling.begin_anew(transfer.position.offset)
        return reason, await clusters.take(await self._of_its_slots(destination))

    async def _permit(self) -> None:
        """A full sync may begin, as far as other shards of the source are concerned.

        Raises:
            SourceBusy: it has to wait.
        """
        if self.member is not None and self.member.permit is not None:
            self.member.border.reset()  # what was found out before means nothing any more
            await self.member.permit()

    async def _of_its_slots(self, destination: Destination) -> Destination:
        """The same, with the nodes of a cluster that have the link's slots: some may have come since it was looked at."""
        if destination.cluster is None or destination.cluster.slots == self.ruling.choice.slots:
            return destination
        return await self._recognise_target(destination)

    async def _guard(self, capabilities: Capabilities, cluster: ClusterTarget | None) -> None:
        """Lets a target pass that is empty, or holds our checkpoint, or whose data the settings speak of.

        Raises:
            ConfigError: it is none of them, or the source itself.
            TargetError: it cannot be asked.
        """
        settings = self.ruling.settings
        source_run_id = self._progress.source_info.get("run_id", "")
        if cluster is not None:
            await clusters.guard(cluster, settings, self.ruling.choice, source_run_id)
            return
        await guard(
            self._target,
            capabilities,
            settings.checkpoint_name(),
            settings.checkpoint_key,
            settings.existing.value,
            source_run_id=source_run_id,
            covers=self._covered if self.ruling.choice else None,
        )

    async def _covered(self, client: Control) -> dict[int, int]:
        settings = self.ruling.settings
        return await keys_there(client, settings.checkpoint_key, settings.checkpoint_name(), self.ruling.choice)

    async def _recognise_target(self, destination: Destination) -> Destination:
        """Asks the target again who it is: it may be another process or version by now, or another server with data of its own."""
        try:
            capabilities, cluster = await clusters.look_at(self._target, self.ruling.choice, self._neighbours)
            if capabilities.run_id != destination.capabilities.run_id:
                await self._guard(capabilities, cluster)
        except (ConfigError, TargetNotEmpty) as error:  # it was usable before: perhaps a failover is under way
            raise TargetBusy(str(error.args[0]), hint=error.hint) from error
        self._progress.target_info = capabilities.shown()
        return replace(destination, capabilities=capabilities, cluster=cluster)

    async def _connect(self, position: Position | None) -> Transfer | None:
        """Makes the link, which waits for the source's snapshot for as long as that takes; None at a stop."""
        connecting = asyncio.create_task(self._receiver.connect(position), name="connect")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait({connecting, stop}, return_when=asyncio.FIRST_COMPLETED)
            return connecting.result() if connecting.done() else None
        finally:
            stop.cancel()
            connecting.cancel()
            await asyncio.wait({connecting})

    async def _count_keys(self) -> int | None:
        """Keys in all databases of the source, for how much is done of a snapshot that begins."""
        told, self._keys_at_start = self._keys_at_start, None
        return told if told is not None else await ask_keys(self._source)

    def _copied(self) -> None:
        self.gate.passed()
        self._copying = self._asked = False
        self._copied_at = time.monotonic()

    def _fork_wait(self) -> float:
        """Seconds before the source may be made to fork again; they grow unless the last copy was of use for a while."""
        if self._copied_at and time.monotonic() - self._copied_at > LASTING_SECONDS:
            self._forks.reset()
        self._copied_at = 0.0
        return self._forks.next_wait()

    def ask_full_sync(self) -> None:
        """An operator wants everything copied anew, whatever the checkpoint says; the gate looks at it as ever."""
        self._asked = True
        self._anew.set()

    def follow(self, node: Node) -> None:
        """All slots of the source have another owner: the connection to any other node is given up, and made again there."""
        self._receiver.leave_others(node)

    def end(self) -> None:
        """Ends it in order."""
        self._stop.set()

    @property
    def ends_for_copy(self) -> bool:
        """It is to be copied again."""
        return self._anew.is_set()

    @property
    def replid(self) -> str:
        """Of the history that is followed; "" before there is one."""
        return self._session.replid if self._session is not None else ""

    def close(self) -> None:
        """Ends connections and removes the spool's files; idempotent."""
        self._receiver.close()
        for each in (self._lease, self._spool, self._letters, self._scripts):
            if each is not None:
                each.close()
