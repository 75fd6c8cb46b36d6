"""The applier of a cluster: brings the stream to each slot exactly once.

A place of the data is a slot (docs/design/0006). What comes is sorted by slot, and every node gets window after window: a
transaction for each slot that is touched, with the slot's record in it. One window a node is in flight, and so one
transaction a slot; the next one grows meanwhile.

Whatever goes wrong with the map, all of it begins anew, as a *round*: the map is read, every primary is connected, whoever else
writes is ended, and all records are read. What they have is done, the rest is sorted by the new map and goes. So
failovers, moved slots, lost connections and lost answers are one thing. A node that is away is left behind meanwhile
(`portd.target.cluster.turns`), and a round begins with it when it is back.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from portd.errors import TargetBusy, first_cause
from portd.groups import TaskGroup
from portd.kernel.keyspecs import KeySpecs
from portd.kernel.slotgroups import NO_RECORD, SlotGroups
from portd.kernel.slots import SLOTS
from portd.log import get_logger
from portd.net.backoff import Backoff
from portd.net.replies import code_of, presentable
from portd.net.topology import slots_of
from portd.target.cluster.absent import Absent, Back
from portd.target.cluster.barrier import Barrier, Markers
from portd.target.cluster.clearing import Clearing
from portd.target.cluster.entering import Entered, Entering
from portd.target.cluster.intake import Intake, Portion, SlotSource
from portd.target.cluster.owing import Owing
from portd.target.cluster.records import record_head
from portd.target.cluster.recovery import Recovery
from portd.target.cluster.redrawing import Redrawing, Redrawn
from portd.target.cluster.shard import Shard, culprit, judge
from portd.target.cluster.strand import Marks, SlotStrands
from portd.target.cluster.turns import Turns
from portd.target.connection import Disconnected
from portd.target.kept.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from portd.target.limiter import LagWatch
from portd.target.stream.account import Account, done_by_sibling
from portd.target.stream.applying import ApplierOptions, ApplierStatistics
from portd.target.stream.group import Culprit
from portd.target.stream.scripts import missing_script
from portd.target.stream.strand import Unconfirmed
from portd.troubles import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from portd.kernel.slotwindow import Window
    from portd.kernel.stream import Piece
    from portd.model import Progress
    from portd.target.clusternodes import ClusterNode
    from portd.target.destination import Destination

_log = get_logger("target")

FLOOR_SECONDS: Final = 1.0  # between two writes of the link's hash


class ClusterApplier:
    """Applies the stream of one source to a cluster; used as `portd.target.stream.applier.Applier` is.

    Args:
        destination: the target; its checkpoint is the link's hash.
        source: where pieces come from; it is rewound to *start* first.
        start: the link's hash as it is in the target now.
        progress: ``stream``, ``position``, ``lanes`` (one a node) and ``errors`` are kept up to date.
        options: see there.
    """

    def __init__(
        self,
        destination: Destination,
        source: SlotSource,
        start: Checkpoint,
        progress: Progress,
        options: ApplierOptions,
    ) -> None:
        cluster, records, letters = destination.cluster, destination.records, destination.letters
        assert cluster is not None, "a server has an applier of its own"
        self._cluster = cluster
        self._home = cluster.endpoint
        self._source = source
        self._key = destination.key
        self._prefix = records
        self._lease = destination.lease
        self._progress = progress
        self._letters = letters
        self._options = options
        self._owing = owing = Owing()
        self._strands = SlotStrands(start, owing)
        self._account = Account(self._strands, progress, letters, options.caught_up_seconds)
        self.caught_up = self._account.caught_up
        self.postponed = self._strands.postponed
        self._groups = SlotGroups(records.encode(), KeySpecs(cluster.capabilities.key_specs))
        self._head = record_head(self._strands.writer)
        self._limiter = options.limiter
        self._watch = LagWatch(options.limiter, progress.stream)
        self._claimed = False
        self._renamed = False  # the hash in the target has another id of the history
        share = len(slots_of(cluster.slots)) / SLOTS
        self._intake = Intake(
            source, self._groups, owing, self._account, progress, letters, options.limiter, start, share
        )
        self._intake.before_piece = self._prepare
        self._markers = Markers(records, destination.key, cluster.endpoint.slot)
        self._shards: list[Shard] = []  # of the round, as far as they are connected
        self._away: list[ClusterNode] = []  # that are not
        self._recovery = Recovery(
            self._home, self._key, options, self._strands, self._groups, owing, self._intake, self._markers
        )
        self._entering = Entering(destination.lease, options, records, self._markers, progress)
        self._absent = Absent(records, options.epoch, progress)
        self.narrow = (redrawing := Redrawing(self._strands, self._groups, self._intake, records)).ask
        self._redrawing = redrawing
        self._turns = Turns(self._groups, self._intake, self._absent, self._settle_floor)
        self._group: TaskGroup | None = None  # of the round
        self._tasks: list[asyncio.Task[None]] = []  # in it, but for the work itself
        self._stirred: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # something else has changed
        self._away_since = 0.0  # unix time; of nodes that were, and have no slots any more
        self._failed = 0  # commands, since something was confirmed
        self._unsettled: list[tuple[Window, Marks]] = []  # in flight when a round ended
        self._barrier_at = NO_RECORD  # markers of this barrier are on the nodes
        self._asking = asyncio.Lock()  # held while nodes are asked over their connections: nothing else is sent there
        self._rounds = 0
        self._backoff = Backoff(options.connection.retry_first_seconds, options.connection.retry_limit_seconds)
        progress.stream.waiting_since = 0.0

    # -- what others see

    @property
    def on_getack(self) -> Callable[[], None] | None:
        """Called when the source asked for an acknowledgement."""
        return self._intake.on_getack

    @on_getack.setter
    def on_getack(self, call: Callable[[], None] | None) -> None:
        self._intake.on_getack = call

    @property
    def checkpoint(self) -> Checkpoint:
        """The link's hash, which says the floor."""
        return self._strands.record

    @property
    def behind(self) -> bool:
        """Something was left behind, and is to be read again."""
        return self._turns.pending

    async def reach(self, offset: int) -> None:
        """Waits until every slot has everything up to *offset*."""
        await self._account.reach(offset)

    def adopt(self, replid: str) -> None:
        """The source continues under another id (a failover); the hash says so before any record is behind that."""
        self._strands.adopt(replid)
        self._renamed = True

    def statistics(self) -> ApplierStatistics:
        """What is held."""
        in_flight = sum(lane.in_flight_bytes for lane in self._progress.lanes)
        growing = sum(window.size for window in self._groups.growing) + self._intake.open_bytes
        return ApplierStatistics(in_flight, growing, 0)

    # -- rounds

    async def run(self) -> None:
        """Applies until the source ends; everything that can be applied is recorded then.

        Raises:
            ScriptMissing: the stream needs a script that nobody knows.
            TargetLost: the target lost data: sync anew from what it has.
            LinkTaken: another process has the link.
            TargetError: it refuses everything.
            TargetRejected: a command was refused and the policy is to stop.
            PortdError: what the source of pieces raised.
        """
        try:
            while True:
                try:
                    await self._round()
                except (Back, Redrawn):
                    continue
                except Disconnected as error:
                    self._note(error, error.reason)
                except TargetBusy as error:
                    self._progress.troubles.note(TARGET, error.code, str(error.args[0]))
                    self._progress.errors.note(str(error))
                else:
                    return
                waiting = self._oldest() or self._progress.stream.waiting_since or time.time()
                self._progress.stream.waiting_since = waiting
                await asyncio.sleep(self._backoff.next_wait())
        finally:
            self._account.bury_now()
            self._intake.close()
            self._absent.keep(())

    def _note(self, error: Disconnected, reason: str) -> None:
        self._progress.errors.note(str(error))
        if not self._progress.troubles.note_loss(reason, str(error)):
            _log.warning(
                "a node of the target is not there", reason=reason, error=str(error), offset=self._strands.offset
            )

    async def _round(self) -> None:
        """Until the source ends, or something has changed at the target."""
        async with AsyncExitStack() as stack:
            entered = await self._enter(stack)
            await self._redrawing.begin(entered)
            await self._recover(entered)
            self._rounds += 1
            if (choice := await self._redrawing.take_up(self._write_hash)) is not None:
                self._options = replace(self._options, choice=choice)
            elif self._rounds > 1:
                _log.info("the target's slots are written again", nodes=len(self._shards), offset=self._strands.offset)
            try:
                async with TaskGroup() as self._group:
                    for shard in self._shards:
                        self._start(self._watch_over(shard), f"{shard.connection.name}-watch")
                    for node in self._away:
                        self._start(self._absent.until_back(node, self._cluster), f"{node.address} away")
                    self._start(self._keep_floor(), "floor")
                    self._start(self._redrawing.interrupt(), "rules")
                    await self._work()
                    for task in self._tasks:
                        task.cancel()
                await self._write_floor()
                for shard in self._shards:
                    with suppress(Disconnected):  # a marker that stays goes at the next start
                        await shard.quiet()
            except BaseExceptionGroup as errors:
                raise first_cause(errors, less=Disconnected) from None
            finally:
                self._group = None
                self._tasks.clear()
                for shard in self._shards:
                    self._set_aside(shard)
                self._shards = []

    def _start(self, work: Coroutine[object, object, None], name: str) -> None:
        """Something that is done beside the work of a round."""
        assert self._group is not None, "it is done in a round"
        self._tasks.append(self._group.create_task(work, name=name))

    async def _watch_over(self, shard: Shard) -> None:
        try:
            await shard.connection.watch()
        except Disconnected as error:
            self._lose(shard, error)

    def _lose(self, shard: Shard, error: Disconnected) -> None:
        """The connection to a node is lost: the others go on, if there are some.

        Raises:
            Disconnected: there are none.
        """
        if shard.gone:
            return
        if len(self._shards) == 1:
            raise error
        self._note(error, error.reason)
        shard.gone = True
        self._shards.remove(shard)
        self._set_aside(shard)
        self._away.append(shard.node)
        self._groups.leave(shard.node.number)
        self._absent.note(shard.node, error.reason)
        self._start(self._absent.until_back(shard.node, self._cluster), f"{shard.node.address} away")
        if not self._stirred.done():
            self._stirred.set_result(None)

    def _set_aside(self, shard: Shard) -> None:
        """What is in flight to a node is not answered any more: its records will tell."""
        if shard.window is not None and shard.marks is not None:
            self._unsettled.append((shard.window, shard.marks))
        shard.window = shard.marks = shard.answer = None
        shard.state.in_flight_bytes = shard.state.in_flight_batches = 0

    async def _enter(self, stack: AsyncExitStack) -> Entered:
        """Every primary that is there. The first round needs all: what a slot has that the source lost is looked for then."""
        self._cluster = self._redrawing.widen(self._cluster)
        entered = await self._entering.enter(self._cluster, stack, all_of_them=not self._claimed)
        self._cluster = replace(self._cluster, topology=entered.topology)
        self._away_since = self._absent.keep(node.address for node in entered.topology.nodes)
        self._shards = [shard for shard, _ in entered.shards]
        self._away = [node for node, _ in entered.away]
        for node, reason in entered.away:
            self._absent.note(node, reason)
        return entered

    async def _recover(self, entered: Entered) -> None:
        """Finds out what every slot has, and sorts what is missing by the map."""
        expected: dict[int, int] = {}
        for window, _ in self._unsettled:
            expected |= dict(window.slots())
        await self._recovery.look(entered, expected)
        if not self._claimed:
            await self._recovery.require_branch(self._shards)
            self._strands.claim(await read_checkpoint(self._home, self._key))
            await self._write_hash()
            self._claimed = True
            self._account.show()
            owed, since = self._owing.again(), self._groups.highest
            self._source.rewind(self._strands.offset, self._strands.record.db, owed, since)
        self._sort_again(len(self._cluster.topology.nodes))

    def _sort_again(self, nodes: int) -> None:
        """Windows of the round before, by the map of this one; what is for nodes that are away is left behind."""
        groups, table = self._groups, self._cluster.topology.table
        before = list(zip(groups.growing, self._intake.marks, strict=True))
        unsettled, self._unsettled = self._unsettled, []
        leave = self._turns.carry(table)
        groups.route(table, nodes)
        for node in self._away:
            groups.leave(node.number)
        self._intake.marks = [Marks() for _ in range(nodes)]
        done = 0
        marks = [each for _, each in (*unsettled, *before) if each.since]
        for window, each in unsettled:
            commands = window.commands
            done += commands - groups.again(window, leave=True) - window.commands
            if window.kept:
                self._unsettled.append((window, each))
        for window, _ in before:
            groups.again(window, leave=True)
        behind = leave()
        for window, gap, each in zip(groups.growing, groups.gaps, self._intake.marks, strict=True):
            if marks and (window.entries or gap.entries):
                each.since = min(mark.since for mark in marks)
                each.newest = max(mark.newest for mark in marks)
        self._absent.look([shard.node for shard in self._shards], behind, self._away_since)
        if done:
            self._confirm(done)

    # -- the work of a round

    async def _work(self) -> None:
        """Window after window, until the source ends."""
        while True:
            if self._renamed:
                await self._write_hash()
            await self._intake.take_pending()
            waits = [await self._send_all(), self._turns.leave_slow(self._shards), await self._turns.turn(self._shards)]
            busy = [shard for shard in self._shards if shard.answer is not None]
            if not busy and self._is_whole():
                if self._intake.held is not None:
                    if not self._away:
                        async with self._asking:
                            await self._pass_barrier(self._intake.held)
                        continue
                else:
                    if not self._intake.open_since:
                        self._rest()
                    if self._intake.broken is not None:
                        raise self._intake.broken
                    if self._intake.ended:
                        return
            self._note_waiting()
            await self._account.bury()
            await self._next(busy, min((wait for wait in waits if wait is not None), default=None))
            for shard in busy:
                if shard.answer is not None and shard.answer.done():
                    self._take_answer(shard)
            await self._intake.take_read()

    def _is_whole(self) -> bool:
        """Nothing waits to be sent, and nothing is left behind."""
        growing = any(window.entries for window in self._groups.growing)
        return not growing and not self._unsettled and not self._turns.pending and not self._intake.is_behind

    async def _next(self, busy: list[Shard], wait: float | None) -> None:
        """Waits for an answer, for a piece where there is room for one, for a change, or so many seconds."""
        if self._stirred.done():
            self._stirred = asyncio.get_running_loop().create_future()
            return
        waits: set[asyncio.Future[object]] = {shard.answer for shard in busy if shard.answer is not None}  # type: ignore[misc]
        if (reading := self._intake.reading()) is not None:
            waits.add(reading)  # type: ignore[arg-type]
        waits.add(self._stirred)  # type: ignore[arg-type]
        await asyncio.wait(waits, timeout=wait, return_when=asyncio.FIRST_COMPLETED)

    async def _send_all(self) -> float | None:
        """Sends every window that may go; seconds until one may that must rest, None when none must."""
        loop = asyncio.get_running_loop()
        wait: float | None = None
        for shard in tuple(self._shards):
            number = shard.node.number
            if shard not in self._shards or shard.answer is not None or not self._groups.growing[number].entries:
                continue
            if shard.rests_until > loop.time():
                wait = min(wait or 3600.0, shard.rests_until - loop.time())
                continue
            shard.window, shard.marks = self._groups.renew(number), self._intake.marks[number].take()
            data, replies = self._groups.render(shard.window, self._head, self._owing.texts)
            await self._limiter.take(len(data), replies)
            if shard not in self._shards:  # it was lost meanwhile
                continue
            shard.state.in_flight_bytes, shard.state.in_flight_batches = len(data), 1
            shard.sent_at = loop.time()
            try:
                shard.answer = shard.connection.confirm([data], replies)
            except Disconnected as error:
                self._lose(shard, error)
        return wait

    # -- scripts

    async def _prepare(self, piece: Piece) -> None:
        """Gives every node the texts that a piece needs; again does no harm."""
        self.postponed.note(piece)
        scripts = self._options.scripts
        scripts.note(piece)
        if piece.digests or piece.loaded or piece.flushed:
            for shard in self._turns.takers(self._shards):
                commands = await scripts.before(shard.node.endpoint, [piece])
                if commands and not shard.gone:
                    shard.tell(commands)

    # -- what concerns all nodes

    async def _pass_barrier(self, portion: Portion) -> None:
        """Everything before it is in the target: does it on every node, once, and goes on behind it."""
        shards = tuple(self._shards)
        for shard in shards:
            await shard.quiet()
        if portion.clears:
            await self._clear(portion)
            return
        command = self._groups.command(portion.data, portion.next)
        offset, behind = portion.place()
        if behind > self._intake.passed:
            await self._limiter.going()
            prefix, writer, owed = self._prefix, self._strands.writer, self._owing.texts
            empty = Clearing(self._options, behind, prefix, writer, owed).empty
            barrier = Barrier(command, behind, self._markers, prefix, writer, empty, owed)
            self._barrier_at = behind
            ours = [*self._strands.record.commands(self._key), *self._options.restated()]
            refused = await barrier.run(shards, self._groups, self._recovery.missing, ours)
            if refused and not done_by_sibling(refused, self._options.choice):
                culprit = Culprit(offset, 0, barrier.name, b"")
                self._failed += 1
                self._account.keep({0: refused}, lambda _: [culprit])
            self._intake.pass_by(behind)
            self._confirm(1)
        portion.next += 1
        self._intake.sort(portion)

    async def _clear(self, portion: Portion) -> None:
        """Removes what rules cover from all slots, and goes on behind that."""
        self._recovery.cleared_at = portion.end
        prefix, writer, owed = self._prefix, self._strands.writer, self._owing.texts
        clearing = Clearing(self._options, portion.end, prefix, writer, owed, portion.trims)
        await clearing.run(tuple(self._shards), self._groups)
        self._intake.pass_by(portion.end)
        self._intake.sort(portion)
        self._confirm(0)

    # -- answers

    def _take_answer(self, shard: Shard) -> None:
        """A window was answered, or the connection was lost."""
        try:
            self._answered(shard)
        except Disconnected as error:
            if not shard.connection.is_lost:
                raise
            self._lose(shard, error)

    def _answered(self, shard: Shard) -> None:
        """A window was answered."""
        window, marks, answer = shard.window, shard.marks, shard.answer
        assert window is not None
        assert marks is not None
        assert answer is not None
        notes = answer.result()
        shard.answer = None
        shard.refused_since = 0.0 if not notes else shard.refused_since
        shard.state.in_flight_bytes = shard.state.in_flight_batches = 0
        shard.state.replies += window.entries + 3 * window.transactions
        shard.state.errors += len(notes)
        unnoted, shard.connection.counter.unnoted = shard.connection.counter.unnoted, 0
        self._failed += unnoted
        if not notes:
            self._groups.confirm(window)
            self._owing.confirm(window)
            shard.window = shard.marks = None
            self._confirm(window.commands)
            return
        found = judge(window, notes)
        for slot, behind in found.executed:
            self._groups.set_record(slot, behind)
        self._owing.confirm(window, found.executed)
        if found.failed:
            self._failed += len(found.failed) - len(found.copies)
            self._progress.stream.keys_copied -= len(set(found.copies))
            self._account.keep_all(found.failed)
        if found.scripts:
            raise missing_script()
        self._leave_out(window, found.refused)
        if found.elsewhere:
            self._progress.errors.note(f"{shard.node.address}: {presentable(found.elsewhere)}")
            raise Disconnected(f"{shard.node.address}: {presentable(found.elsewhere)}", code_of(found.elsewhere))
        commands = window.commands
        left = self._intake.put_back(shard.node.number, window, marks)
        shard.window = shard.marks = None
        if found.trouble:
            shard.state.retries += 1
            self._progress.errors.note(f"{shard.node.address}: {presentable(found.trouble)}")
            self._progress.troubles.note(TARGET, code_of(found.trouble), presentable(found.trouble))
            shard.refusal = presentable(found.trouble)
            shard.refused_since = shard.refused_since or asyncio.get_running_loop().time()
            shard.rests_until = asyncio.get_running_loop().time() + self._backoff.next_wait()
        else:
            shard.refused_since = 0.0
        self._confirm(commands - left, settled=not found.trouble)

    def _leave_out(self, window: Window, refused: dict[int, dict[int, str]]) -> None:
        """Commands that no node ever queues: dead letters."""
        for slot, texts in refused.items():
            told = [(culprit(*window.command(slot, number)), text) for number, text in texts.items()]
            self._progress.stream.commands_failed += window.leave_out(slot, list(texts))
            self._account.keep_all(told)

    # -- books

    def _confirm(self, commands: int, *, settled: bool = True) -> None:
        """So many commands are in the target."""
        if settled:
            self._backoff.reset()
        self._raise_floor()
        counts = self._intake.take_counts()
        failed, self._failed = self._failed, 0
        counts.commands = commands
        oldest = self._oldest()
        position = self._strands.record.position
        self._account.confirm(Unconfirmed(position, 0, counts, oldest or self._intake.newest or time.time()), failed)
        self._progress.stream.checkpointed_offset = self._strands.written
        self._watch.look(caught_up=self.caught_up.is_set())
        self._source.release(self._strands.offset)

    def _rest(self) -> None:
        """Nothing is on its way and nothing is to be sent."""
        if self._intake.boundary > self._strands.offset or self._intake.uncounted:
            self._confirm(0)
        self._account.catch_up(self._source.waiting_since)

    def _settle_floor(self) -> tuple[int, int]:
        self._raise_floor()
        return self._strands.offset, self._strands.record.db

    def _raise_floor(self) -> None:
        floors = [window.floor for window, _ in self._unsettled if window.entries]
        floors += [window.floor for window in self._groups.growing if window.entries]
        floors += [gap.floor for gap in self._groups.gaps if gap.entries]
        floors += [shard.window.floor for shard in self._shards if shard.window is not None]
        floor = min(floors, default=self._intake.boundary)
        self._strands.rise(floor, self._intake.database_at(floor))

    def _oldest(self) -> float:
        """Unix time at which the oldest byte was received that is taken and not in the target; 0 when there is none."""
        marks = [*self._intake.marks, *(marks for _, marks in self._unsettled)]
        marks += [shard.marks for shard in self._shards if shard.marks is not None]
        times = [self._intake.open_since, *(each.since for each in marks)]
        return min(filter(None, times), default=0.0)

    def _note_waiting(self) -> None:
        self._progress.stream.waiting_since = self._oldest() or self._source.waiting_since

    # -- the link's hash

    async def _keep_floor(self) -> None:
        """Writes the floor now and then."""
        while True:
            await asyncio.sleep(FLOOR_SECONDS)
            try:
                await self._write_floor()
            except (Disconnected, TargetBusy) as error:
                self._options.connection.note(error)

    async def _write_floor(self) -> None:
        if self._strands.offset > self._strands.written:
            await self._write_hash()
        if NO_RECORD < self._barrier_at <= self._strands.written and not self._asking.locked():
            self._barrier_at = NO_RECORD
            for shard in self._shards:
                self._markers.forget(shard)

    async def _write_hash(self) -> None:
        record = self._strands.record
        await write_checkpoint(self._home, self._key, record, self._options.epoch, self._options.connection)
        self._renamed = record.position.replid != self._strands.record.position.replid  # again, meanwhile
        self._strands.written = record.position.offset
        self._progress.stream.checkpointed_offset = self._strands.written
