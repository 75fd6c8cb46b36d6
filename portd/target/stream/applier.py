"""The applier: brings the stream to the target by group commit, exactly once.

One transaction is in flight; while it is, the next group grows: ``MULTI``, the commands as they came, the checkpoint,
``EXEC``. A group that fails as a whole is sent again, and nothing overtakes it. After a lost connection the checkpoint
in the target says whether the group arrived; the source is rewound to it. A transaction of the source is never split:
one that cannot be held is passed on as it comes (`portd.target.stream.passing`), inside of one transaction of ours.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from portd.errors import PortdError, SourceLost, TargetBusy, TargetError, TargetLost
from portd.log import get_logger
from portd.net.backoff import Backoff
from portd.net.replies import RECONNECT_CODES, abort_cause, code_of, error_of, fatal, presentable, sort_out
from portd.net.resp import request
from portd.target.connection import Connection, Disconnected, connect, set_up, text_of, while_connected
from portd.target.databases import Databases
from portd.target.deadletter import unsupported
from portd.target.groupsize import GroupSize
from portd.target.judge import Outcome, inside, outcome
from portd.target.kept.checkpoint import Checkpoint
from portd.target.kept.epoch import FIELD
from portd.target.limiter import LagWatch
from portd.target.names import FilteredNames
from portd.target.stream.account import Account, done_by_sibling
from portd.target.stream.applying import ApplierOptions, ApplierStatistics
from portd.target.stream.clearing import clear
from portd.target.stream.group import Frame, Group, PieceSource, frame
from portd.target.stream.passing import Passage, Search
from portd.target.stream.scripts import disown, lacked, load_refused, missing_script
from portd.target.stream.strand import Strand, Unconfirmed
from portd.target.stream.trial import Trials
from portd.target.transactions import CheckpointGuard, Transactions
from portd.troubles import TARGET

if TYPE_CHECKING:
    from collections.abc import Callable

    from portd.config.rules import Choice
    from portd.kernel.stream import Piece
    from portd.model import Progress
    from portd.net.endpoint import Endpoint
    from portd.target.deadletter import DeadLetters

_log = get_logger("target")

NAME: Final = "applier"
MOST_SCRIPTS: Final = 32  # texts that go with one group, before the piece that reaches it
TRANSACTION_COMMANDS: Final = 4  # WATCH, HGET, MULTI and EXEC around a group


class _Narrowed(Exception):
    """Narrower rules wait: the work of a connection ends for them."""


class Applier:
    """Applies the stream of one source to one target.

    Args:
        endpoint: the target.
        source: where pieces come from; it is rewound to *start* first.
        start: the checkpoint as it is in the target now, perhaps with another replid after a ``+CONTINUE``. The applier
            takes it over: state ``stream``, an epoch of its own.
        key: of the checkpoint.
        progress: ``stream``, ``position``, ``lanes`` (one) and ``errors`` are kept up to date.
        letters: receives refusals.
        options: see there.

    Attributes:
        caught_up: set while the target has all that was received, but for what came a moment ago.
        postponed: expiries in the target that are to be set back.
        on_getack: called when the source asked for an acknowledgement.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        source: PieceSource,
        start: Checkpoint,
        key: str,
        progress: Progress,
        letters: DeadLetters,
        options: ApplierOptions,
    ) -> None:
        self.on_getack: Callable[[], None] | None = None
        self._endpoint = endpoint
        self._source = source
        self._progress = progress
        self._options = options
        self._strand = Strand(key, start, source, self._options.others, self._options.choice)
        self._account = Account(self._strand, progress, letters, self._options.caught_up_seconds)
        self.caught_up = self._account.caught_up
        self.postponed = self._strand.postponed
        self._claimed = False
        self._letters = letters
        self._names = FilteredNames()
        self._databases = Databases(endpoint)
        self._trials = Trials()
        self._lacked = False  # a script that was not there has left the target without what it does
        self._broken: PortdError | None = None  # what the source will say behind the growing group
        self._since = 0.0  # unix time at which the oldest byte in flight was received; 0 when nothing is
        self._backoff = Backoff(
            self._options.connection.retry_first_seconds, self._options.connection.retry_limit_seconds
        )
        progress.stream.waiting_since = 0.0
        (self._state,) = progress.take_lanes(1)
        self._size = GroupSize(self._options.max_bytes, self._options.max_commands)
        self._caps = (0, 0)  # bytes and commands of the group that grows
        self._limiter = self._options.limiter
        self._paid = (0, 0)  # bytes and commands that the limiter let through and that were not sent
        self._watch = LagWatch(self._limiter, progress.stream)
        self._narrower: tuple[Choice, Callable[[int], None]] | None = None  # rules that wait
        self._waits = asyncio.Event()  # some do
        self._measure()

    @property
    def checkpoint(self) -> Checkpoint:
        """The newest checkpoint known to be in the target."""
        return self._strand.record

    async def reach(self, offset: int) -> None:
        """Waits until the target has everything up to *offset*."""
        await self._account.reach(offset)

    def adopt(self, replid: str) -> None:
        """The source continues under another id (a failover): checkpoints carry it from now on."""
        self._strand.adopt(replid)

    def narrow(self, choice: Choice, adopt: Callable[[int], None]) -> None:
        """Other rules, which take less: between two transactions, over a new connection, which tells what is in the target.

        Args:
            choice: they.
            adopt: called with the offset when the record says that the data was made by them, before the source is rewound.
        """
        self._narrower = choice, adopt
        self._waits.set()

    async def run(self) -> None:
        """Applies until the source ends; everything that can be applied is checkpointed then.

        Raises:
            ScriptMissing: the stream needs a script that nobody knows: a full sync makes up for it.
            TargetLost: the target lost its data or went back to an older checkpoint: sync anew from what it has.
            TargetError: it refuses everything, or another portd writes to this link.
            TargetRejected: a command was refused and the policy is to stop.
            PortdError: what the source of pieces raised.
        """
        lost = False
        while True:
            try:
                connection = await self._connect()
                if lost:
                    _log.info("applier is connected again", target=self._endpoint.display)
                lost = False
                try:
                    await while_connected(connection, self._work(connection), self._interrupt())
                finally:
                    connection.close()
                    self._account.bury_now()
            except _Narrowed:
                self._sending(None)
            except Disconnected as error:
                lost = True
                self._progress.errors.note(str(error))
                self._state.connection.losses[error.reason] += 1
                if not self._progress.troubles.note_loss(error.reason, str(error)):
                    _log.warning(
                        "applier has no connection", target=self._endpoint.display, reason=error.reason,
                        offset=self._strand.offset,
                    )  # fmt: skip
                waiting_since = self._progress.stream.waiting_since or time.time()
                self._sending(None)
                self._progress.stream.waiting_since = waiting_since  # nobody looks at the spool meanwhile
                await asyncio.sleep(self._backoff.next_wait())
            else:
                return

    def statistics(self) -> ApplierStatistics:
        """What is held."""
        return ApplierStatistics(self._state.in_flight_bytes, self._strand.growing.size, len(self._strand.excluded))

    # -- connection

    async def _connect(self) -> Connection:
        connection = await connect(self._endpoint, NAME, self._state.connection, self._options.connection)
        async with set_up(connection, self._endpoint.silence_seconds):
            self._databases.forget()
            await (self._recover(connection) if self._claimed else self._claim(connection))
        connection.establish()
        return connection

    async def _read(self, connection: Connection) -> Checkpoint | None:
        """The record as it is in the target, watched like the epoch: a transaction fails if they change behind this."""
        key, epoch = self._strand.key, self._options.epoch
        _, fields, stands = await connection.ask(
            request("WATCH", key, epoch.key), request("HGETALL", key), request("HGET", epoch.key, FIELD)
        )
        self._check_ready(text_of(fields))
        self._check_ready(text_of(stands), epoch.key)
        found = Checkpoint.parse(fields)
        if found is not None:
            epoch.check(stands)
        return found

    async def _claim(self, connection: Connection) -> None:
        """Takes the record over."""
        mine = self._strand.claim(await self._read(connection))
        answers = await connection.ask(request("MULTI"), *mine.commands(self._strand.key), request("EXEC"))
        for answer in answers:
            self._check_ready(text_of(answer))
        if answers[-1] is None:
            raise Disconnected(f"{NAME}: the checkpoint was touched while it was taken over", "contended")
        self._claimed = True
        self._strand.claimed(mine)
        self._account.show()
        self._rewind()

    async def _recover(self, connection: Connection) -> None:
        """Finds out what became of the group in flight, and rewinds the source to behind what the target has."""
        done = self._strand.resolve(await self._read(connection))
        if done is not None:
            self._confirm(done, 0)  # replies that told of refusals inside are lost
        if self._narrower is not None:
            await self._take_up(connection, *self._narrower)
        self._rewind()

    async def _interrupt(self) -> None:
        await self._waits.wait()
        raise _Narrowed

    async def _take_up(self, connection: Connection, choice: Choice, adopt: Callable[[int], None]) -> None:
        """The data was made by these rules from here on. Nothing is in flight, and the record is watched."""
        mine = self._strand.ruled(choice)
        answers = await connection.ask(request("MULTI"), *mine.commands(self._strand.key), request("EXEC"))
        for answer in answers:
            self._check_ready(text_of(answer))
        if answers[-1] is None:
            raise Disconnected(f"{NAME}: the checkpoint was touched while its rules were written", "contended")
        self._strand.narrowed(choice, mine)
        self._options = replace(self._options, choice=choice)
        adopt(self._strand.offset)
        if self._narrower == (choice, adopt):
            self._narrower = None
            self._waits.clear()

    def _check_ready(self, text: str, key: str = "") -> None:
        """Raises what an error means; *key* that was asked for, the checkpoint when empty."""
        if not text:
            return
        self._trouble(text)
        if text.startswith("EXECABORT"):
            raise Disconnected(f"{NAME}: the target is not ready: {text}", code_of(text))
        hint = f"portd's user needs to write {self._strand.key!r}"
        raise error_of(text, "refuses the checkpoint", hint=hint, key=key or self._strand.key, busy=Disconnected)

    def _rewind(self) -> None:
        """What was taken from the source is dropped, and comes again."""
        self._strand.rewind()
        self._broken = None

    # -- groups

    async def _work(self, connection: Connection) -> None:
        """Commits group after group until the source ends."""
        transactions = Transactions(
            connection, CheckpointGuard(self._strand.key, self._strand.writer, self._options.epoch)
        )
        if self._lacked:
            await self._disown(transactions)
        while await self._gather(self._strand.growing):
            group, self._strand.growing = self._strand.growing.split()
            if group.mixed or await self._lacks(group.databases):
                self._rewind()
                continue
            self._sending(group)
            self._measure()
            if group.clears is not None:
                await clear(self._endpoint, self._options, group.clears, group.trims)
            if group.complete:
                await self._commit(transactions, group)
            elif not await self._pass_on(transactions, group):
                return
            self._sending(None)

    def _sending(self, group: Group | None) -> None:
        """Notes what is in flight."""
        self._state.in_flight_bytes = group.size if group else 0
        self._state.in_flight_batches = 1 if group else 0
        self._since = group.since if group else 0.0
        self._note_waiting()

    def _note_waiting(self) -> None:
        self._progress.stream.waiting_since = self._since or self._strand.growing.since or self._source.waiting_since

    async def _gather(self, group: Group) -> bool:
        """Waits for something to commit and takes what is there, up to the caps; False when the source has ended."""
        while True:
            self._take_pending(group)
            if self._is_full(group) or group.committable:
                return True
            if self._broken is not None:
                raise self._broken
            if not group.pieces:
                self._account.catch_up(self._source.waiting_since)
                self._note_waiting()
            await self._account.bury()
            piece = await self._source.next_piece(*self._room(group))
            if piece is None:
                return False
            self._take(piece)
            group.add(piece, self._source.received_at)
            self._note_waiting()

    def _take_pending(self, group: Group) -> None:
        """Takes pieces that are there, without waiting. What is wrong behind them waits until they are applied."""
        try:
            while self._broken is None and not self._is_full(group):
                piece = self._source.pending(*self._room(group))
                if piece is None:
                    return
                self._take(piece)
                group.add(piece, self._source.received_at)
        except PortdError as error:
            self._broken = error

    def _measure(self) -> None:
        """Decides how large the next group may become."""
        most_bytes, most_commands = self._limiter.share() if self._limiter.limited else (0, 0)
        size = self._size
        self._caps = min(size.bytes, most_bytes or size.bytes), min(size.commands, most_commands or size.commands)

    def _room(self, group: Group) -> tuple[int, int]:
        return max(1, self._caps[0] - group.size), max(1, self._caps[1] - group.commands)

    def _is_full(self, group: Group) -> bool:
        return group.size >= self._caps[0] or group.weight >= self._caps[1] or group.scripts >= MOST_SCRIPTS

    def _take(self, piece: Piece) -> None:
        """Looks at a piece that the source handed out.

        Raises:
            TargetRejected: it begins with what cannot be written there, and the policy is to stop before that.
        """
        if piece.refusals and self._letters.stops:
            first = piece.refusals[0]
            raise self._letters.refusal(unsupported("stream", first.command, first))
        if piece.names or piece.own:
            self._names.note(piece)
        if piece.getack and self.on_getack is not None:
            self.on_getack()
        self.postponed.note(piece)
        self._options.scripts.note(piece)

    async def _lacks(self, databases: set[int] | frozenset[int]) -> bool:
        """Whether one of these turns out not to be there; the source of pieces is told, and must be rewound then.

        Raises:
            Disconnected: that cannot be asked for now.
        """
        try:
            missing = await self._databases.find_missing(databases)
        except (TargetBusy, TargetLost) as error:
            raise Disconnected(f"{NAME}: {error.args[0]}", "databases") from None
        if missing:
            self._source.lack(missing)
        return bool(missing)

    async def _commit(self, transactions: Transactions, group: Group) -> None:
        """Commits a group, however often it has to be sent, without the commands that cannot be queued."""
        strand, account = self._strand, self._account
        scripts = await self._options.scripts.before(self._endpoint, group.pieces)
        if refused := await self._trials.run(transactions, group):
            self._leave_out(group, refused)
        while True:
            expected = strand.expect(group.end_offset, group.db_after, group.counts, group.received_at, group.owes)
            before = self._databases.selectable(group.selected)
            around = strand.frame(before, expected, self._options.restated() if group.swaps else None).behind(scripts)
            data = [each for each in (around.head, *group.data, around.tail) if each]
            replies = around.head_commands + group.commands + around.tail_commands
            if not await self._turn(group, sum(map(len, data)), replies + TRANSACTION_COMMANDS):
                self._rewind()
                return
            await transactions.opened()
            sent = time.monotonic()
            strand.attempt(expected)
            answer = transactions.execute(data, replies)
            self._take_pending(self._strand.growing)
            await account.bury()
            notes = await answer
            self._state.replies += replies + 1
            self._state.errors += len(notes)
            result = outcome(notes, replies)
            if result.nil:  # somebody touched the checkpoint, or an older connection of ours was served late
                raise Disconnected(f"{NAME}: the checkpoint was touched", "contended")
            if result.committed:
                self._progress.commits.note(time.monotonic() - sent)
                round_trip = transactions.connection.round_trip_seconds
                self._size.note(transactions.exec_seconds, group.size, group.commands, round_trip)
                failed = {
                    number: text
                    for number, text in result.failed.items()
                    if number >= around.scripts and not done_by_sibling(text, self._options.choice)
                }
                self._lacked |= lacked(result)
                self._confirm(expected, len(failed) + transactions.take_unnoted())
                if self._lacked:
                    await self._disown(transactions)
                account.keep(inside(failed, around.head_commands, group.commands), group.locate)
                if self._aged(time.monotonic() - sent):
                    self._rewind()
                return
            strand.refused(expected)
            await self._aborted(group, around, result)
            if self._aged(time.time() - self._since):
                self._rewind()
                return

    async def _turn(self, group: Group, size: int, commands: int) -> bool:
        """Waits until the limiter lets a group through; False when that took so long that it has to be made anew.

        What is made of it then postpones for longer than it waits, and its turn is paid for.
        """
        paid, self._paid = self._paid, (0, 0)
        await self._limiter.take(max(0, size - paid[0]), max(0, commands - paid[1]))
        if paid == (0, 0) and self._aged(time.monotonic() - group.taken_at):
            self._paid = size, commands
            return False
        return True

    def _aged(self, seconds: float) -> bool:
        """What has waited this long is taken from the source again: expiries that became due are to be postponed."""
        return self._options.ages and seconds > self._options.caught_up_seconds

    async def _aborted(self, group: Group, around: Frame, result: Outcome) -> None:
        """Nothing of the group took effect: takes out what never will, and waits when it was refused for now."""
        cause = abort_cause(result.aborted)
        found = sort_out(result.queued, cause)
        if found.fatal:
            raise fatal(found.fatal)
        if found.refused:
            if min(found.refused) < around.scripts:
                raise load_refused(found.refused[min(found.refused)])
            self._leave_out(group, inside(found.refused, around.head_commands, group.commands))
        elif not found.trouble:
            raise TargetError(f"the target refuses transactions: {presentable(result.aborted)}")
        if found.trouble:
            await self._wait(found.trouble)

    def _leave_out(self, group: Group, refused: dict[int, str]) -> None:
        """Takes commands out of a group that can never be queued; all of them at once, however many they are."""
        numbers = sorted(refused)
        culprits = group.locate(numbers)
        texts = [refused[number] for number in numbers]
        self._trials.note(culprits)
        self._account.leave_out(list(zip(culprits, texts, strict=True)), group.leave_out(numbers))

    async def _pass_on(self, transactions: Transactions, group: Group) -> bool:
        """Passes a transaction on that cannot be held; False when the source ended inside of it.

        When it fails the connection is given up, and with it the open transaction; the source is rewound then.
        """
        connection = transactions.connection
        passage = Passage(connection, group.selected, self._options.max_bytes)
        await transactions.opened()
        begun = time.monotonic()
        before = self._databases.selectable(group.selected)
        around = frame(b"", before=before, after=0, clear=self._strand.keys)
        opened = connection.confirm([around.head], around.head_commands)
        received_at = group.received_at
        piece: Piece | None = None
        pieces, group.pieces = group.pieces, []
        for piece in pieces:
            await self._limiter.take(len(piece.data), piece.replies)
            await self._send_on(passage, piece)
        del pieces
        while piece is None or not piece.boundary:
            await passage.room()
            await self._check_passage(passage)
            piece = await self._source.next_piece(self._options.max_bytes, self._options.max_commands)
            if piece is None:
                return False
            received_at = self._source.received_at
            self._take(piece)
            if piece.mixed:
                raise Disconnected(f"{NAME}: a large command names keys of portd among others", "names")
            if await self._lacks(piece.databases):
                raise Disconnected(f"{NAME}: a large transaction needs a database that is not there", "databases")
            await self._limiter.take(len(piece.data), piece.replies)
            await self._send_on(passage, piece)
        await passage.settled()
        await self._check_passage(passage)
        if passage.incomplete:
            raise Disconnected(f"{NAME}: commands inside a large transaction have to be left out", "refused")
        if notes := await opened:
            self._check_ready(notes[0].text or "nil")
        expected = self._strand.expect(piece.end_offset, piece.db, passage.counts, received_at, piece.owed)
        await self._execute_passage(transactions, passage, expected, around.head_commands)
        self._progress.commits.note(time.monotonic() - begun)
        self._strand.growing = Group(piece.db, piece.selected, piece.owed)
        return True

    async def _send_on(self, passage: Passage, piece: Piece) -> None:
        """Sends a piece of a large transaction, and the scripts it needs before it."""
        passage.give(await self._options.scripts.before(self._endpoint, [piece]))
        passage.send(piece)

    async def _execute_passage(
        self, transactions: Transactions, passage: Passage, expected: Unconfirmed, head_commands: int
    ) -> None:
        strand = self._strand
        around = strand.frame(-1, expected, self._options.restated())  # the head has cleared them
        strand.attempt(expected)
        notes = await transactions.execute([around.tail], around.tail_commands)
        result = outcome(notes, around.tail_commands)
        if result.nil:
            raise Disconnected(f"{NAME}: the checkpoint was touched", "contended")
        if result.aborted:
            strand.refused(expected)
            self._check_ready(abort_cause(result.aborted) or next(iter(result.queued.values()), result.aborted))
        errors = passage.without_ours(result.failed, head_commands)
        self._lacked |= lacked(result)
        failed = len(errors) + transactions.take_unnoted()
        inner = inside(errors, head_commands, passage.counts.commands)
        moved = bool(inner) and not self._lacked and self._go_back()
        try:
            if moved:
                await self._look_again(passage.search(sorted(inner)))
        finally:  # it has taken effect, whatever ends the search
            self._confirm(expected, failed, moved=moved)
            if not self._lacked:
                self._account.keep(inner, passage.places)
        if self._lacked:
            await self._disown(transactions)

    async def _disown(self, transactions: Transactions) -> None:
        """A script was forgotten between our question and the transaction that ran it: raises that, told to the target."""
        text = await disown(transactions, self._strand.record, self._strand.key)
        self._check_ready(text)
        raise missing_script()

    def _go_back(self) -> bool:
        """Lets the source begin before a transaction that took effect, of which nothing is held; False if it cannot."""
        try:
            self._rewind()
        except (SourceLost, TargetLost) as error:
            _log.warning("refused commands cannot be told exactly", error=str(error))
            return False
        return True

    async def _look_again(self, search: Search) -> None:
        """Takes pieces, to see what refused commands of them were."""
        while not search.over:
            piece = await self._source.next_piece(self._options.max_bytes, self._options.max_commands)
            if piece is None:
                return
            search.look(piece)
            await asyncio.sleep(0)

    async def _check_passage(self, passage: Passage) -> None:
        """Gives a passage up whose transaction cannot be executed any more.

        One of which commands were refused goes on to its end, so that all of them are known when it is sent again.
        """
        if passage.fatal:
            raise fatal(passage.fatal)
        if passage.trouble:
            self._check_ready(passage.trouble)
        if refused := passage.take_refused():
            self._account.leave_out(refused, len(refused))
            await self._account.bury()

    # -- waiting and accounting

    def _trouble(self, text: str) -> None:
        self._state.retries += 1
        self._progress.errors.note(f"{NAME}: {presentable(text)}")

    async def _wait(self, text: str) -> None:
        """Waits before the same bytes go again; over a new connection where this one will not recover."""
        self._trouble(text)
        if code_of(text) in RECONNECT_CODES:
            raise Disconnected(f"{NAME}: the target is not ready: {presentable(text)}", code_of(text).lower())
        self._progress.troubles.note(TARGET, code_of(text), presentable(text))
        await asyncio.sleep(self._backoff.next_wait())

    def _confirm(self, done: Unconfirmed, failed: int, *, moved: bool = False) -> None:
        """A group is in the target; the source goes to its end if it has been *moved* meanwhile."""
        self._backoff.reset()
        self._strand.confirm(done)
        self._account.confirm(done, failed)
        if moved:
            self._source.rewind(done.position.offset, done.db, done.owed)
        self._watch.look(caught_up=self.caught_up.is_set())
        self._source.release(done.position.offset, done.owed)
