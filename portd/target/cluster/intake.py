"""What is taken from the stream for a cluster: sorted by slot into the windows that grow."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from portd.errors import PortdError
from portd.kernel.slots import SLOTS
from portd.target.deadletter import unsupported
from portd.target.names import FilteredNames
from portd.target.stream.group import Counts, Culprit, PieceSource

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from portd.kernel.rules import Rules
    from portd.kernel.slotgroups import SlotGroups
    from portd.kernel.slotwindow import Window
    from portd.kernel.stream import Piece
    from portd.model import Progress
    from portd.target.cluster.owing import Key, Owing
    from portd.target.cluster.strand import Marks
    from portd.target.deadletter import DeadLetters
    from portd.target.kept.checkpoint import Checkpoint
    from portd.target.limiter import Limiter
    from portd.target.stream.account import Account

PIECE_BYTES: Final = 256 * 1024  # taken from the stream at once; a transaction up to this size is not cut
PIECE_COMMANDS: Final = 4096
# Nothing more is taken when a node's window has its share of these. So however many nodes there are, they hold the same
# together, and under load a slot's transaction has as many commands, on the average; links that share the slots of a cluster
# share these, too.
WINDOWS_BYTES: Final = 3 * 1024 * 1024
WINDOWS_COMMANDS: Final = 3 * SLOTS
LEAST_WINDOWS: Final = 512 * 1024  # of all nodes, however few slots a link has
LEAST_BYTES: Final = 32 * 1024
CROSS_SLOT: Final = "cross_slot"  # codes of dead letters
KEYS_UNKNOWN: Final = "keys_unknown"


class SlotSource(PieceSource, Protocol):
    """A source of which parts may be read again for some nodes."""

    def rewind(self, offset: int, db: int, owed: str = "", copied_since: int = 0) -> None:
        """Makes the next piece begin behind *offset*, with *db* in effect and keys *owed*; copies from before *copied_since* are no good."""

    def reread(self, offset: int, db: int, owed: str = "", copied_since: int = 0) -> None:
        """Makes the next piece begin behind *offset*, as `rewind` does, where a part of the target has what follows.

        What was handed out before comes in pieces that end where it ended, and is not counted again.
        """


OwedSince: TypeAlias = tuple[int, "Key", int]  # offset of a command's first byte, key, and its slot


@dataclass(slots=True)
class Portion:
    """Commands that are sorted in.

    Attributes:
        data: whole commands.
        offsets: of each, as in `Piece`.
        end: position behind them.
        boundary: a checkpoint may stand there.
        db: database in effect there.
        received_at: unix time of the newest byte.
        next: number of the first command that is not sorted in.
        clears: it is a FLUSHDB or FLUSHALL under rules, and no bytes.
        trims: slots of the source of which alone that is so; None: all.
        owing: keys that are owed from commands on that were left out of it, as `Piece.owing` tells them.
        settled: it is a copy of this key of that slot, or says that there will be none; None: it is of the stream.
    """

    data: bytes
    offsets: bytes
    end: int
    boundary: bool
    db: int
    received_at: float
    next: int = 0
    clears: bool = False
    trims: frozenset[int] | None = None
    owing: tuple[OwedSince, ...] = ()
    settled: tuple[Key, int] | None = None

    def place(self) -> tuple[int, int]:
        """Offset of the first byte of the next command, and the position behind it."""
        of = memoryview(self.offsets).cast("Q")
        return of[self.next], of[self.next + 1] - 1 if self.next + 1 < len(of) else self.end


class Intake:
    """Takes pieces of the stream as long as there is room, and knows how far that is.

    Args:
        source: where they come from.
        groups: sorts them.
        owing: is told of keys that are owed to slots.
        account: keeps dead letters.
        progress: counters.
        letters: the policy about refusals.
        limiter: bounds what is sent at once.
        start: where the stream begins.
        share: of all slots that the link writes to; windows are so much smaller.

    Attributes:
        on_getack: called when the source asked for an acknowledgement.
        before_piece: awaited with each piece before it is sorted in; may fail, and is awaited again then.
        boundary: the last place for a checkpoint that everything before is sorted in.
        taken: everything up to here was sorted in, since the last `restart`.
        passed: commands that concern all nodes up to here were done by all of them.
        databases: boundaries, and the database in effect from there on.
        marks: of the growing windows, by number of the node.
        held: a command that concerns all nodes is its next one, or all of it; nothing is taken meanwhile.
        newest: unix time of the newest byte that was sorted in.
        broken: what the source said behind all that was taken.
        ended: nothing more comes.
        rests: nothing is taken for now.
    """

    def __init__(
        self,
        source: SlotSource,
        groups: SlotGroups,
        owing: Owing,
        account: Account,
        progress: Progress,
        letters: DeadLetters,
        limiter: Limiter,
        start: Checkpoint,
        share: float = 1.0,
    ) -> None:
        self.on_getack: Callable[[], None] | None = None
        self.before_piece: Callable[[Piece], Awaitable[None]] | None = None
        self.boundary = self.taken = self.passed = self._counted = start.position.offset
        self.databases = [(start.position.offset, start.db)]
        self.marks: list[Marks] = []
        self.held: Portion | None = None
        self.newest = 0.0
        self.broken: PortdError | None = None
        self.ended = self.rests = False
        self._source = source
        self._groups = groups
        self._owing = owing
        self._account = account
        self._progress = progress
        self._letters = letters
        self._limiter = limiter
        self._most = max(LEAST_WINDOWS, int(WINDOWS_BYTES * share)), max(1, int(WINDOWS_COMMANDS * share))
        self._names = FilteredNames()
        self._piece: Piece | None = None  # in hand
        self._parts: list[bytes] = []  # of a command larger than a piece
        self._since: list[OwedSince] = []  # keys that are owed since commands of the next portion
        self._open: list[Portion] = []  # of a transaction whose end has not come
        self._cut = False  # the one whose end has not come is too large to be held, and goes in parts
        self._counts = Counts()  # of what was left out since that was asked for
        self._told = (0, 0)  # skipped and left, as far as they are counted
        self._reading: asyncio.Task[Piece | None] | None = None
        self._db = start.db

    def close(self) -> None:
        """Nothing more is taken; idempotent."""
        if self._reading is not None:
            self._reading.cancel()

    # -- how far it is

    @property
    def uncounted(self) -> bool:
        """Something was left out since `take_counts`."""
        return bool(self._counts.filtered or self._counts.dead or self._counts.copied)

    def take_counts(self) -> Counts:
        """What was left out since this was called."""
        counts, self._counts = self._counts, Counts()
        return counts

    @property
    def database(self) -> int:
        """The one in effect at the boundary."""
        return self._db

    @property
    def is_behind(self) -> bool:
        """It reads what it has read before."""
        return self.taken < self._groups.known and self.held is None

    @property
    def is_dry(self) -> bool:
        """All that was received is taken."""
        return not self._source.waiting_since

    @property
    def unread_since(self) -> float:
        """Unix time at which what it reads next was received, or what it read last."""
        return self._source.waiting_since or self.newest

    def database_at(self, floor: int) -> int:
        """The database in effect at a boundary; none before it will be asked for."""
        while len(self.databases) > 1 and self.databases[1][0] <= floor:
            del self.databases[0]
        return self.databases[0][1]

    @property
    def open_since(self) -> float:
        """Unix time of the first bytes of a transaction that waits for its end; 0 when none does."""
        return self._open[0].received_at if self._open else 0.0

    @property
    def open_bytes(self) -> int:
        """Held of it."""
        return sum(len(each.data) + len(each.offsets) for each in self._open)

    # -- pieces

    def _has_room(self) -> bool:
        if self.held is not None or self.ended or self.broken is not None or self.rests:
            return False
        gaps = self._groups.gaps
        return not self.full() and not all(gap.open for gap in gaps)

    def full(self) -> list[int]:
        """Numbers of the nodes whose windows have no room for more, and what comes for them is not left behind."""
        nodes = len(self._groups.growing)
        size, commands = max(LEAST_BYTES, self._most[0] // nodes), max(1, self._most[1] // nodes)
        if self._limiter.limited:
            most_bytes, most_commands = self._limiter.share()
            size, commands = min(size, most_bytes or size), min(commands, most_commands or commands)
        gaps = self._groups.gaps
        return [
            number
            for number, window in enumerate(self._groups.growing)
            if (window.size >= size or window.entries >= commands) and not gaps[number].open
        ]

    def reading(self) -> asyncio.Task[Piece | None] | None:
        """What waits for the next piece; None where there is no room for one."""
        if not self._has_room():
            return None
        if self._reading is None:
            self._reading = asyncio.create_task(self._source.next_piece(PIECE_BYTES, PIECE_COMMANDS), name="next piece")
        return self._reading

    async def take_pending(self) -> None:
        """Takes pieces that are there, without waiting. What is wrong behind them waits until they are applied."""
        if self._piece is not None:
            await self._take(self._piece)
        while self._reading is None and self._has_room():
            try:
                piece = self._source.pending(PIECE_BYTES, PIECE_COMMANDS)
            except PortdError as error:
                self.broken = error
                return
            if piece is None:
                return
            await self._take(piece)

    async def take_read(self) -> None:
        """Takes the piece that was waited for, if it has come."""
        if self._reading is None or not self._reading.done():
            return
        reading, self._reading = self._reading, None
        try:
            piece = reading.result()
        except PortdError as error:
            self.broken = error
            return
        if piece is None:
            self.ended = True
        else:
            await self._take(piece)

    async def _take(self, piece: Piece) -> None:
        """Sorts a piece in, or holds it where a command concerns all nodes."""
        if piece.refusals and self._letters.stops:
            first = piece.refusals[0]
            raise self._letters.refusal(unsupported("stream", first.command, first))
        self._piece = piece  # until it is sorted in, whatever ends the wait
        if self.before_piece is not None:
            await self.before_piece(piece)
        self._piece = None
        if piece.names or piece.own:
            self._names.note(piece)
        if piece.getack and self.on_getack is not None:
            self.on_getack()
        if piece.mixed:  # it is left out when it comes again
            self.rewind()
            return
        self._count(piece)
        self._since += piece.owing
        data = piece.data
        if piece.part or self._parts:
            self._parts.append(data)
            if piece.part:
                return
            data, self._parts = b"".join(self._parts), []
        part = Portion(data, piece.offsets, piece.end_offset, piece.boundary, piece.db, self._source.received_at)
        if (portion := self._wait_for_end(part, whole=piece.settles)) is None:
            return
        portion.owing, portion.settled = tuple(self._since), piece.settled
        self._since.clear()
        if piece.settled is not None:
            self._settle(portion, *piece.settled, copied=piece.copied)
            return
        if piece.clears is not None and portion.end > max(self.taken, self.passed):
            portion.clears, portion.trims = True, piece.trims
            self.held = portion
        else:
            self.sort(portion)

    def rewind(self) -> None:
        """What was taken behind the last boundary comes again; what of it was sorted in is known."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        self._piece = None
        self._parts.clear()
        self._since.clear()
        self._open.clear()
        self._cut = False
        self._source.rewind(self.boundary, self._db, self._owing.sorted_in, self._groups.highest)

    def _wait_for_end(self, portion: Portion, *, whole: bool) -> Portion | None:
        """All of a transaction whose end has come, in one; None while it has not. One that is too large goes in parts.

        A copy (*whole*) goes in one in any case: a slot has it once, in one transaction with the record that names the key no more.
        """
        self._open.append(portion)
        if not portion.boundary and not self._cut:
            held = sum(len(each.offsets) // 8 for each in self._open)
            if whole or (self.open_bytes < PIECE_BYTES and held < PIECE_COMMANDS):
                return None
        self._cut = not portion.boundary
        parts, self._open = self._open, []
        if len(parts) == 1:
            return portion
        data, offsets = b"".join(each.data for each in parts), b"".join(each.offsets for each in parts)
        return Portion(data, offsets, portion.end, portion.boundary, portion.db, portion.received_at)

    def _count(self, piece: Piece) -> None:
        """Counts what the splitter left out."""
        if piece.settles:
            self._counts.refusals += piece.refusals
        if piece.end_offset <= self._counted or piece.settles:
            return
        self._counted = piece.end_offset
        counts = Counts()
        counts.add(piece)
        self._counts.filtered += counts.filtered
        self._counts.dead += counts.dead
        self._counts.own += counts.own
        self._counts.add_ruled(piece)
        self._counts.refusals += counts.refusals

    def sort(self, portion: Portion) -> None:
        """Sorts commands in, up to one that concerns all nodes; those that were sorted in before a rewind are known.

        One that clears has been done.
        """
        if portion.next == 0:
            portion.next = bisect_right(memoryview(portion.offsets).cast("Q"), self.taken)
        groups = self._groups
        taken = self.taken
        known = self._known()
        while True:
            owing = portion.owing and self._since_then(portion, taken)
            portion.next = groups.take(portion.data, portion.offsets, portion.end, self.boundary, portion.next, owing)
            if owing:
                self._owe(portion, owing)
            if portion.next == len(portion.offsets) // 8 or portion.place()[1] > self.passed:
                break
            portion.next += 1  # all nodes have done it
        self._mark(known, portion.received_at)
        self._tell_left()
        self.newest = max(self.newest, portion.received_at)
        if portion.next < len(portion.offsets) // 8:
            self.held = portion
            groups.known = max(groups.known, portion.place()[0] - 1)
            return
        self.held = None
        self.taken = max(self.taken, portion.end)
        groups.known = max(groups.known, self.taken)
        if portion.boundary:
            self.boundary, self._db = portion.end, portion.db
            self._note_database()

    def _since_then(self, portion: Portion, taken: int) -> tuple[OwedSince, ...]:
        """Keys that are owed since commands of a portion behind those that are sorted in."""
        if portion.next:
            taken = max(taken, memoryview(portion.offsets).cast("Q")[portion.next - 1])
        return tuple(each for each in portion.owing if each[0] > taken)

    def _owe(self, portion: Portion, owing: tuple[OwedSince, ...]) -> None:
        """Notes keys that are owed since commands before the one that the portion goes on with; the rest comes then."""
        behind = portion.place()[0] if portion.next < len(portion.offsets) // 8 else portion.end + 1
        for offset, key, slot in owing:
            if offset < behind and self._groups.takes(slot):
                self._owing.owe(slot, key, offset)

    def _settle(self, portion: Portion, key: Key, slot: int, *, copied: bool) -> None:
        """Sorts the copy of a key in, behind all else that is there; where there is none, its slot's record is written without it."""
        groups = self._groups
        known = self._known()
        if groups.takes(slot):
            self._owing.settle(slot, key)
            self._counts.copied += copied
        if portion.data:
            groups.take(portion.data, portion.offsets, portion.end, self.boundary, 0, (), copies=True)
        else:
            groups.note(slot, portion.end + 1, portion.end, self.boundary)
        self._mark(known, portion.received_at)

    def _known(self) -> list[int]:
        """How much each node is to get, or is left behind for it."""
        groups = self._groups
        return [window.entries + gap.entries for window, gap in zip(groups.growing, groups.gaps, strict=True)]

    def _mark(self, known: list[int], received_at: float) -> None:
        """Notes when that was received what nodes are to get beyond what was *known*."""
        for now, before, marks in zip(self._known(), known, self.marks, strict=True):
            if now > before:
                marks.note(received_at)

    def keep(self, rules: Rules) -> None:
        """Only these are taken from the boundary on: records name no other key."""
        for slot in self._owing.keep(lambda key: rules.takes(key[1], key[0])):
            self._groups.note(slot, self.boundary + 1, self.boundary, self.boundary)

    def pass_by(self, position: int) -> None:
        """All nodes have done a command that concerns them; *position* is behind it."""
        self.taken = self.passed = position
        self._groups.known = max(self._groups.known, position)

    def _note_database(self) -> None:
        """Notes which database is in effect at the boundary. Behind what is left behind, only whether it was another than 0."""
        pinned = min((gap.floor for gap in self._groups.gaps if gap.entries), default=self.boundary)
        last, db = self.databases[-1]
        if last > pinned:
            self.databases[-1] = (last, db or self._db)
        elif self._db != db:
            self.databases.append((self.boundary, self._db))

    async def restart(self, offset: int, db: int) -> None:
        """Takes what is behind a boundary again; records say who has it. What was held of it comes by once more.

        Args:
            offset: the boundary. It may be the floor, or where it was before a `restart` there.
            db: in effect there.

        Raises:
            SourceLost: it is not there any more.
        """
        if self._reading is not None:
            reading, self._reading = self._reading, None
            reading.cancel()
            await asyncio.wait({reading})
        self._source.reread(offset, db, self._owing.again(), self._groups.highest)
        self._piece = self.held = self.broken = None
        self.ended = self._cut = False
        self.newest = 0.0
        self._parts.clear()
        self._since.clear()
        self._open.clear()
        self.boundary = self.taken = offset
        self._db = db
        if offset <= self.databases[-1][0]:
            self.databases = [(offset, db)]
        else:
            self._note_database()

    def put_back(self, number: int, window: Window, marks: Marks) -> int:
        """What of a window is not in the target goes in front of what grows; how many commands that is.

        Args:
            number: of the node.
            window: that was sent to it.
            marks: when that was received.
        """
        later, mine = self._groups.renew(number), self.marks[number]
        left = self._groups.again(window)
        self._groups.again(later)
        if self._groups.growing[number].entries > later.entries:
            mine.since = min(mine.since or marks.since, marks.since)
            mine.newest = max(mine.newest, marks.newest)
        return left

    def _tell_left(self) -> None:
        """Counts what the records had, and keeps dead letters of what has no place."""
        skipped, left = self._told
        self._told = self._groups.skipped, self._groups.left
        self._counts.filtered += self._groups.skipped - skipped
        count = self._groups.left - left
        if not count:
            return
        self._progress.stream.commands_failed += count
        told = self._groups.take_left()
        if len(told) < count:
            self._letters.count(CROSS_SLOT, count - len(told))
        culprits = [
            Culprit(each.offset, 0, each.name.decode("ascii", "backslashreplace").upper(), each.key) for each in told
        ]
        texts = {
            number: f"{CROSS_SLOT} its keys are in several slots"
            if each.several
            else f"{KEYS_UNKNOWN} nobody tells where its keys are"
            for number, each in enumerate(told)
        }
        self._account.keep(texts, lambda numbers: [culprits[number] for number in numbers])
