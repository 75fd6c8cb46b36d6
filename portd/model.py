"""The words the parts share: position, phase, progress.

Plain data without behaviour; every counter is a plain integer that its owner bumps and that ``/metrics`` and
``/status`` read at scrape. Offsets stand in one order everywhere: read >= decoded >= applied >= checkpointed.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from portd.troubles import Troubles

if TYPE_CHECKING:
    from collections.abc import Iterator


MOST_ERRORS: Final = 20  # kept to be shown
ERROR_LENGTH: Final = 1000  # characters of them


class Work(StrEnum):
    """What the target's side of a link does."""

    NOTHING = "nothing"
    COPYING = "copying"  # a snapshot is received, decoded and applied
    FOLLOWING = "following"  # the stream is applied


class Role(StrEnum):
    """What a process is to a link."""

    HOLDER = "holder"  # it has the lease
    STANDBY = "standby"  # it waits for it
    NONE = "none"


class Phase(StrEnum):
    """Where a sync stands; nobody sets it: it follows from facts, in `portd.watch.standing`."""

    STARTING = "starting"  # reading settings, probing both ends
    STANDBY = "standby"  # another process has the link, and this one waits for it
    CONNECTING = "connecting"  # an end is not connected: handshake, or waiting to try again
    HELD = "held"  # a full sync waits until an operator says that it is meant
    PAUSED = "paused"  # an operator wants nothing written to the target for now
    WAITING = "waiting"  # full sync agreed, the source prepares its snapshot
    SNAPSHOT = "snapshot"  # snapshot bytes are decoded and applied
    CATCHING_UP = "catching-up"  # stream is applied, lag not small
    STREAMING = "streaming"  # the target has caught up, and the lag is small
    DRAINING = "draining"  # told to stop: finishing what was read
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a source's history: the replication id (40 hex digits) and the offset of the last byte processed."""

    replid: str
    offset: int


@dataclass(slots=True)
class SnapshotProgress:
    """The snapshot being copied."""

    bytes_read: int = 0  # snapshot bytes received
    bytes_total: int | None = None  # announced size; None for a diskless transfer
    bytes_decoded: int = 0
    bytes_made: int = 0  # of commands that came of them
    bytes_settled: int = 0  # of these: answered by the target, or not needed any more
    keys_announced: int = 0  # sum of RESIZEDB hints of the databases seen so far; may be wrong
    keys_total: int | None = (
        None  # in all databases of the source when the snapshot began; None where it may not be asked
    )
    keys_read: int = 0  # keys the decoder has seen; = applied + filtered + expired + failed once all is acknowledged
    keys_applied: int = 0
    keys_filtered: int = 0  # left out on purpose: by rules, --existing skip, names of portd, half-imported slots
    filtered: dict[str, int] = field(default_factory=dict)  # of them, by the rule that left them out
    keys_expired: int = 0  # expiry had passed when it was decoded
    keys_failed: int = 0  # refused by the target or not representable there: dead letters
    keys_own: int = 0  # of those filtered: named like keys of portd
    keys_postponed: int = 0  # sent with a later expiry, until the stream has caught up
    started_at: float = 0.0  # time.time()
    finished_at: float = 0.0

    @property
    def keys_settled(self) -> int:
        """Keys whose fate is known."""
        return self.keys_applied + self.keys_filtered + self.keys_expired + self.keys_failed

    def left_out(self) -> str | None:
        """How many of those filtered each rule has left out, in words; None where none has."""
        return " ".join(f"{why}={count}" for why, count in self.filtered.items() if count) or None

    @property
    def bytes_applied(self) -> int:
        """Bytes of the snapshot whose commands are settled; what waits in queue and lanes is decoded only."""
        if not self.bytes_made:
            return self.bytes_decoded
        return self.bytes_decoded * self.bytes_settled // self.bytes_made


@dataclass(slots=True)
class StreamProgress:
    """The command stream being followed. Offsets are replication offsets of the source."""

    caught_up: bool = False  # the target had caught up since the source was connected last
    following: bool = False  # the target has all up to applied_offset, and what follows is brought to it

    read_offset: int = 0  # last byte received
    decoded_offset: int = 0  # last byte split into commands
    applied_offset: int = 0  # last byte executed by the target
    checkpointed_offset: int = 0  # last byte the target's checkpoint covers
    commands_read: int = 0
    commands_applied: int = 0
    commands_filtered: int = 0  # PING, REPLCONF and the like: dropped on purpose
    commands_failed: int = 0
    commands_left: dict[str, int] = field(  # of those filtered, by what the rule that left them out looks at
        default_factory=lambda: {"key": 0, "db": 0, "command": 0, "copy": 0}
    )
    commands_projected: int = 0  # applied in part: rules take some of their keys only
    keys_owed: int = 0  # whose values the target lacks, until they are copied from the source
    keys_copied: int = 0  # that were
    commands_own: int = 0  # that named keys of portd: filtered, or passed on without these
    expiries_postponed: int = 0  # sent later than the source said, until the stream has caught up
    field_expiries_dropped: int = 0  # of hash fields, for a target without them
    stream_meta_dropped: int = 0  # what streams know of idempotent producers
    transactions: int = 0  # group commits acknowledged
    acknowledged_seconds: float = 0.0  # receipt to acknowledgement of the newest acknowledged byte
    waiting_since: float = 0.0  # time.time() when the oldest byte was received that the target has not acknowledged
    caught_up_at: float = 0.0  # time.time() when the target had first caught up; 0 = never
    checkpointed_at: float = 0.0  # time.time() when the checkpoint was last known to be written; 0 = never

    @property
    def commands_settled(self) -> int:
        """Commands whose fate is known."""
        return self.commands_applied + self.commands_filtered + self.commands_failed

    @property
    def waiting_seconds(self) -> float:
        """Age of the oldest byte that was received and is not acknowledged by the target; 0 when there is none."""
        if not self.waiting_since or self.read_offset <= self.applied_offset:
            return 0.0
        return max(0.0, time.time() - self.waiting_since)


@dataclass(slots=True)
class ConnectionState:
    """A connection as operators see it."""

    connected: bool = False
    connects: int = 0
    last_received_at: float = 0.0  # time.time(); 0 = never
    last_sent_at: float = 0.0
    bytes_received: int = 0
    bytes_sent: int = 0
    losses: Counter[str] = field(default_factory=Counter)  # reason -> times
    local: str = ""  # our end of the last connection, ip:port; empty for others than TCP


@dataclass(slots=True)
class LaneState:
    """One writer's connection to the target."""

    index: int
    connection: ConnectionState = field(default_factory=ConnectionState)
    finished: bool = False  # it has nothing more to send: that it has no connection is no loss
    in_flight_bytes: int = 0
    in_flight_batches: int = 0
    replies: int = 0
    errors: int = 0
    retries: int = 0


LEASE_SECONDS: Final = 15.0  # without renewal, a link is free

# Upper bounds in seconds of what `Durations` counts; what is longer is counted behind the last one.
DURATION_BOUNDS: Final = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


@dataclass(slots=True)
class Durations:
    """How long things took: how many were in which of `DURATION_BOUNDS`, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BOUNDS) + 1))
    seconds: float = 0.0

    def note(self, seconds: float) -> None:
        """Counts one."""
        self.counts[bisect_left(DURATION_BOUNDS, seconds)] += 1
        self.seconds += seconds


@dataclass(slots=True)
class TargetPulse:
    """What the target tells of itself while it is written to; see `portd.target.pulse`."""

    asked_at: float = 0.0  # time.time() of the last answer; 0 = never
    memory_bytes: int | None = None  # that it uses; None where it does not tell, or is away
    memory_limit_bytes: int | None = None  # its maxmemory, 0 = no limit; None as above
    round_trips: Durations = field(default_factory=Durations)  # of the question


@dataclass(slots=True)
class LeaseState:
    """The right to write through a link; see `portd.target.kept.lease`."""

    renewed_at: float = 0.0  # time.time(); 0 = it is not held, or was given back

    @property
    def held(self) -> bool:
        """It has not run out, as far as is known."""
        return self.renewed_at > 0 and time.time() - self.renewed_at <= LEASE_SECONDS


@dataclass(slots=True)
class Standby:
    """What is known of a link by one who waits for it; see `portd.link.standby`."""

    since: float = field(default_factory=time.time)
    holder: str = ""  # who has the link; "" when nobody does
    unfit: str = ""  # why it could not be taken over; "" when it could
    full_sync: str = ""  # why taking over would copy everything; "" when it would not, as far as is known

    @property
    def words(self) -> str:
        """The same for people."""
        words = f"{self.holder or 'nobody'} has the link"
        if self.unfit:
            return f"{words}, and it could not be taken over: {self.unfit}"
        return f"{words}; to take it over would be a full sync: {self.full_sync}" if self.full_sync else words


@dataclass(slots=True)
class TargetLimit:
    """The limits on the load of the target as they are now, and what they cost; see `portd.target.limiter`."""

    bytes_per_second: int = 0  # 0 = no limit
    ops_per_second: int = 0  # 0 = no limit
    temporary: bool = False  # an operator set them with portd ctl: until the next reload or start
    paused_since: float = 0.0  # time.time(); nothing is written to the target since; 0 = it is not paused
    waiting: int = 0  # lanes that wait for their turn
    waiting_since: float = 0.0  # time.monotonic(); counted in waited_seconds up to here; 0 = nobody waits
    waited_seconds: float = 0.0  # in which some lane waited

    @property
    def waited_until_now(self) -> float:
        """`waited_seconds` with what is not over yet."""
        return self.waited_seconds + (time.monotonic() - self.waiting_since if self.waiting_since else 0.0)


@dataclass(slots=True)
class SourceOutlook:
    """What the source queues for us against its limits, as far as it lets us ask; see `portd.source.forecast`."""

    asked_at: float = 0.0  # time.time() of the last answer; 0 = never
    output_bytes: int = 0  # queued for us in the source's memory
    output_growth: float = 0.0  # bytes per second
    output_hard_bytes: int = 0  # our connection is dropped at once above this; 0 = no limit, or not known
    output_soft_bytes: int = 0  # and above this after output_soft_seconds
    output_soft_seconds: int = 0
    seconds_left: float = math.inf  # until our connection would be dropped
    write_rate: float = 0.0  # bytes per second of the source's stream
    backlog_bytes: int = 0  # size of the backlog
    backlog_behind_bytes: int = 0  # of it, what we have not received
    backlog_seconds_left: float = math.inf  # a connection that breaks now can be continued for this long


@dataclass(slots=True)
class LoopState:
    """For how long the event loop was held by one thing; see `portd.watch.loopwatch`."""

    longest_seconds: float = 0.0  # since the start
    longest_at: float = 0.0  # time.time() when it ended; 0 = never
    longest_own_seconds: float = 0.0  # the most of it that was spent computing: without waits for disks and cores
    recent_seconds: float = 0.0  # the longest of the last minute or two


@dataclass(slots=True)
class VerifyProgress:
    """What the verifications that the sync runs by itself found; see `portd.verify.schedule`."""

    running: bool = False
    runs: Counter[str] = field(default_factory=Counter)  # result -> times
    result: str = ""  # of the last run: equal, different, undecided, failed or abandoned; empty before the first
    started_at: float = 0.0  # time.time() of the last one; 0 = never
    finished_at: float = 0.0  # the same
    keys: dict[str, int] = field(default_factory=dict)  # equal, missing, extra, different, undecided, as last compared
    functions: str = ""  # function libraries that differed; empty when none did
    error: str = ""  # why the last one failed

    @property
    def seconds(self) -> float:
        """How long the last one took; 0 while it runs and before the first."""
        return max(0.0, self.finished_at - self.started_at)


@dataclass(slots=True)
class SeenError:
    """An error, and when it was seen."""

    first_at: float  # time.time()
    last_at: float
    count: int = 1


@dataclass(slots=True)
class Errors:
    """The newest errors by their text, the newest last; one that comes again is counted, and no line of its own."""

    found: dict[str, SeenError] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Keeps an error, as it may be shown."""
        text, now = text[:ERROR_LENGTH], time.time()
        seen = self.found.pop(text, None) or SeenError(now, now, 0)
        seen.last_at, seen.count = now, seen.count + 1
        self.found[text] = seen
        if len(self.found) > MOST_ERRORS:
            del self.found[next(iter(self.found))]

    @property
    def last(self) -> str:
        """The newest; "" when there was none."""
        return next(reversed(self.found), "")


@dataclass(slots=True)
class Conflict:
    """Keys that this link and another one of the process put into the same target; see `portd.link.conflicts`."""

    looked: int = 0  # keys of our source that were looked for at the other one's
    found: int = 0  # of them, those that it has, too: a key of every look counts
    keys: tuple[tuple[int, str], ...] = ()  # some of those that were found last, by database and name in the target
    seen_at: float = 0.0  # time.time() of the last look that found some; 0 = none did
    error: str = ""  # why the last look failed


@dataclass(frozen=True, slots=True)
class Held:
    """A full sync waits for an operator; see `portd.hold`."""

    reason: str  # one of `portd.hold.Reason`
    words: str  # the same for people
    since: float  # time.time()


@dataclass(slots=True)
class NodeAway:
    """A node of a target cluster that does not take what is its own, while others do."""

    address: str
    slots: str  # for people
    reason: str  # a word, or what it says
    since: float  # time.time()

    @property
    def words(self) -> str:
        """For people."""
        return f"the target's node {self.address} (slots {self.slots}) is left behind: {self.reason}"


@dataclass(slots=True)
class Progress:
    """All that is known about a link while it runs; one instance for each, owned by who runs it.

    What a sync is said to be in follows from it: `portd.watch.standing.look`.
    """

    introduced: bool = False  # both ends have said who they are
    work: Work = Work.NOTHING  # as `doing` says
    ended: bool = False  # nothing more is done: *failure* tells why, when it was not to end
    stopping: bool = False  # told to stop: what was read is being finished
    preparing: bool = False  # a full sync is agreed on, and nothing of its snapshot was received
    held: Held | None = None  # why nothing is overwritten or removed now
    standby: Standby | None = None  # what is waited for while another process has the link
    takeovers: int = 0  # times the link was taken when another process had had it
    started_at: float = field(default_factory=time.time)
    position: Position | None = None  # last checkpoint known
    full_syncs: Counter[str] = field(default_factory=Counter)  # reason -> times
    partial_syncs: int = 0
    expiries_corrected: int = 0  # postponed ones that a sweep set back
    expiries_to_correct: bool = False  # postponed ones may be in the target
    import_mode_losses: int = 0  # times somebody switched the target's import mode off while we needed it
    keys_pruned: int = 0  # removed from the target, since the source did not have them any more
    snapshot: SnapshotProgress = field(default_factory=SnapshotProgress)
    earlier: Counter[str] = field(
        default_factory=Counter
    )  # counters of snapshots before that one; `portd.model.EARLIER`
    stream: StreamProgress = field(default_factory=StreamProgress)
    verify: VerifyProgress = field(default_factory=VerifyProgress)
    source: ConnectionState = field(default_factory=ConnectionState)
    outlook: SourceOutlook = field(default_factory=SourceOutlook)
    nodes_away: dict[str, NodeAway] = field(default_factory=dict)  # by address, of a target cluster
    lanes: list[LaneState] = field(default_factory=list)  # that are in use
    resting: list[LaneState] = field(default_factory=list)  # that were: their counters go on when they are needed again
    troubles: Troubles = field(default_factory=Troubles)
    limit: TargetLimit = field(default_factory=TargetLimit)
    pulse: TargetPulse = field(default_factory=TargetPulse)
    lease: LeaseState = field(default_factory=LeaseState)
    conflicts: dict[str, Conflict] = field(default_factory=dict)  # by the other link's name, where both can write a key
    commits: Durations = field(default_factory=Durations)  # transactions of the stream, from sending to the reply
    dead_letters: Counter[str] = field(default_factory=Counter)  # error code -> times
    attributes_dropped: Counter[str] = field(
        default_factory=Counter
    )  # idle, freq, ... a target or a big key cannot keep
    errors: Errors = field(default_factory=Errors)
    failure: str = ""  # why nothing is done: it has failed, or is tried again
    read_from: str = ""  # the node of a source cluster's shard that is read, where it is chosen
    source_info: dict[str, str] = field(default_factory=dict)  # server, version, role ... for /status
    target_info: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def doing(self, work: Work) -> Iterator[None]:
        """The target's side does that inside of the block, and nothing behind it."""
        self.work = work
        try:
            yield
        finally:
            self.work = Work.NOTHING

    def begin_snapshot(self) -> None:
        """A full sync begins: what the one before it has counted is put aside, so that no total ever falls."""
        for name in EARLIER:
            self.earlier[name] += getattr(self.snapshot, name)
        self.earlier.update({f"filtered {why}": count for why, count in self.snapshot.filtered.items()})
        begun = SnapshotProgress(started_at=time.time())
        for name in begun.__dataclass_fields__:
            setattr(self.snapshot, name, getattr(begun, name))
        self.stream.following = False

    def snapshots_total(self, name: str) -> int:
        """A counter of `SnapshotProgress` over all snapshots of this process."""
        return int(self.earlier[name] + getattr(self.snapshot, name))

    def filtered_total(self, why: str) -> int:
        """Keys that rules have left out for one reason, over all snapshots of this process."""
        return self.earlier[f"filtered {why}"] + self.snapshot.filtered.get(why, 0)

    def take_lanes(self, count: int) -> list[LaneState]:
        """Puts the first *count* lanes to use, and no others; counters go on where they were."""
        known = {lane.index: lane for lane in (*self.resting, *self.lanes)}
        self.lanes[:] = [known.pop(index) if index in known else LaneState(index) for index in range(count)]
        self.resting[:] = known.values()
        for lane in (*self.lanes, *self.resting):
            lane.connection.connected = lane.finished = False
            lane.in_flight_bytes = lane.in_flight_batches = 0
        return list(self.lanes)

    @property
    def last_error(self) -> str:
        """The newest error; "" when there was none."""
        return self.errors.last

    @property
    def role(self) -> Role:
        """What this process is to the link now."""
        return Role.STANDBY if self.standby is not None else Role.HOLDER if self.lease.held else Role.NONE

    @property
    def source_there(self) -> bool:
        """The source is connected, or none is needed: a file is read."""
        return self.source.connected or not self.source.connects

    @property
    def lag_bytes(self) -> int | None:
        """Bytes received and not acknowledged by the target; None where that says nothing about both ends.

        That is so until the snapshot is applied, and while the source is away: what it writes then is not known.
        """
        stream = self.stream
        known = stream.following and self.source.connected and not self.preparing
        return max(0, stream.read_offset - stream.applied_offset) if known else None

    @property
    def lag_seconds(self) -> float | None:
        """Age of the oldest byte that was received and is not acknowledged by the target, 0 when there is none.

        None where it is not known; see `lag_bytes`.
        """
        return None if self.lag_bytes is None else self.stream.waiting_seconds

    def dropped(self) -> Counter[str]:
        """What was applied without something that the target cannot keep, by kind, snapshot and stream together."""
        stream = {"field-ttl": self.stream.field_expiries_dropped, "stream-meta": self.stream.stream_meta_dropped}
        return self.attributes_dropped + Counter(stream)


EARLIER = ("keys_read", "keys_applied", "keys_filtered", "keys_expired", "keys_failed", "keys_postponed")
