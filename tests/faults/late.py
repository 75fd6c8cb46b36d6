"""Late bytes: what portd sent is kept back, its connection ends or its process stops, and the bytes arrive behind the stream.

Each round strikes once at a full sync of real servers. Then the sync goes on, by a new connection, a restart or a second
process, until the stream is followed; everything the snapshot brought is changed by new writes; and only then the old
bytes are delivered. Both ends must be equal to the last bit, the checkpoint may not go back, and who lost the link ends
with 75.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from portd.model import Position
from portd.target.kept.checkpoint import Checkpoint
from tests.compare import compare
from tests.datasets import fill_big_hash, fill_big_list, fill_mixed
from tests.permissions import least_user
from tests.process import Portd
from tests.relay import Hold, Relay, holding
from tests.servers import PATIENCE_SECONDS, Server, binaries, wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.relay import Wanted
    from tests.servers import Binary

CHECKPOINT = "portd:checkpoint:default"
LEASE = f"{CHECKPOINT}:lease"
EPOCH = f"{CHECKPOINT}:epoch"
KEYS = 2500
GHOSTS = 200
KEPT = 10 * GHOSTS  # keys of the earlier sync that the source still has: what is removed is below a tenth
EXPIRING = 300
COUNTERS = 8
STRIKE_SECONDS = 120.0  # a machine that is busy with other things needs a while to get there
PAUSE_SECONDS = 0.3  # a sweep begins a second behind the snapshot
MORE_STRIKES = 4  # in a sync whose process goes on: a connection each
PERMISSIONS = ("all", "least")
SILENCE_SECONDS = 2.0
RESTARTS = 0.25  # of the rounds end with a restart of the process
ROUNDS_OF_A_PAIR = 8  # on the same servers
DELAYED = 0.1  # of the deliveries, where delays are wanted


@dataclass(frozen=True, slots=True)
class Strike:
    """Which bytes are kept back.

    Attributes:
        name: for the table.
        connection: beginning of its name.
        words: that the bytes contain, one of them; none for any.
        passing: so many may pass before, by chance up to this; a fixed number when negative.
        ghosts: the target has keys that the source has not any more, of an earlier sync.
        expiring: keys whose expiry is postponed.
        cut: bytes of a lane are kept back and cut off before, so that what a new connection does comes up.
        options: of portd.
        restart: portd is killed behind the delivery, and started: a position that went back shows.
        actions: what is done about it; all when empty.
        only: permission set; "" for both.
    """

    name: str
    connection: str
    words: tuple[bytes, ...] = ()
    passing: int = 0
    ghosts: bool = False
    expiring: bool = False
    cut: bool = False
    options: tuple[tuple[str, object], ...] = ()
    restart: bool = False
    actions: tuple[str, ...] = ()
    only: str = ""

    def wanted(self, chance: random.Random) -> Wanted:
        """See `tests.relay.holding`."""
        passing = -self.passing if self.passing < 0 else chance.randint(0, self.passing)
        return holding(*self.words, name=self.connection.encode(), passing=passing)


ACTIONS = {
    "reset": "the connection is reset on portd's side",
    "silence": "the connection carries nothing, until portd gives it up",
    "takeover": "SIGSTOP, a second process takes over, SIGCONT",
    "expiry": "SIGSTOP, the lease expires, a second process starts, SIGCONT",
    "partition": "nothing passes from the first process, a second one takes over, the partition heals",
    "kill": "kill -9 and a start",
    "twice": "the bytes take effect, their answers are lost with the connection, and they come once more",
    "anew": "the connection is reset while the source takes another history: the same process begins again",
}
RESETS = ("reset", "twice", "anew")
TWO = ("takeover", "expiry", "partition")

STRIKES = (
    Strike("lane: any bytes", "portd-lane-", passing=25),
    Strike("lane: MSET", "portd-lane-", (b"\r\nMSET\r\n",), passing=12),
    Strike("lane: RPUSH", "portd-lane-", (b"\r\nRPUSH\r\n",), passing=8),
    Strike("lane: HSET", "portd-lane-", (b"\r\nHSET\r\nbig:", b"\r\nHSET\r\n$5\r\nmixed", b"\r\nHSET\r\n"), passing=8),
    Strike("lane: RESTORE", "portd-lane-", (b"\r\nRESTORE\r\n",), passing=4),
    Strike("lane: EXEC", "portd-lane-", (b"\r\nEXEC\r\n",), passing=8),
    Strike("lane: epoch renewed", "portd-lane-", (EPOCH.encode() + b"\r\n$5\r\nepoch\r\n$",), cut=True),
    Strike("marker", "portd-checkpoint", (b"\r\nHSET\r\n",), restart=True),
    Strike("checkpoint behind the snapshot", "portd-checkpoint", (b"\r\nHSET\r\n",), passing=-1, restart=True),
    Strike("FUNCTION FLUSH", "portd-fenced", (b"\r\nFUNCTION\r\n",), ghosts=True),
    Strike("FLUSHALL", "portd-fenced", (b"\r\nFLUSHALL\r\n",), ghosts=True, options=(("prune", "flush"),)),
    Strike("pruning: UNLINK", "portd-prune", (b"\r\nUNLINK\r\n",), passing=3, ghosts=True),
    Strike("pruning: epoch renewed", "portd-prune", (b"\r\nHSET\r\n",), ghosts=True),
    Strike("sweeper: EVAL", "portd-expiries", (b"\r\nEVAL\r\n",), passing=1, expiring=True, options=(("expiry_gap", "postpone"),)),
    Strike("lease taken", "portd-lease", (b"\r\nHSET\r\n",), actions=("takeover", "kill")),
)  # fmt: skip

LANES = [each for each in STRIKES if each.connection == "portd-lane-" and not each.cut]


class Failure(AssertionError):
    """Something was lost or doubled, or somebody wrote who may not."""


@dataclass(slots=True)
class Outcome:
    """What became of one round.

    Attributes:
        struck: the bytes came up and were kept back.
        more: names of strikes that the same was done with beside it, in the same sync.
        evicted: connections that the target ended before it got the bytes.
        held: bytes that were kept back.
        seconds: that it took.
        trouble: what is wrong; empty when all is well.
    """

    struck: bool = False
    more: list[str] = field(default_factory=list)
    evicted: int = 0
    held: int = 0
    seconds: float = 0.0
    trouble: list[str] = field(default_factory=list)


class Ends:
    """A source and a target that rounds follow one another on; a context manager.

    Args:
        source: its binary.
        target: its binary.
    """

    def __init__(self, source: Binary | None = None, target: Binary | None = None) -> None:
        self.source = Server(source, repl_backlog_size="16mb", repl_ping_replica_period=1)
        self.target = Server(target)

    def __enter__(self) -> Self:
        self.source.start()
        self.target.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()
        self.target.close()

    def prepare(self, strike: Strike) -> None:
        """Makes both hold what a round begins with."""
        for server in (self.source, self.target):
            client: Any = server.client()
            client.flushall()
            if server.binary.at_least(redis=(7, 0), valkey=(0,)):
                client.execute_command("FUNCTION", "FLUSH")
        here = self.source.client()
        fill_mixed(self.source, KEYS, databases=2)
        fill_big_list(self.source, b"big:list", 4000, 40)
        fill_big_hash(self.source, b"big:hash", 3000, 40)
        pipe = here.pipeline(transaction=False)
        for number in range(COUNTERS):
            pipe.incrby(f"counter:{number}", 500)
        for number in range(EXPIRING if strike.expiring else 0):
            pipe.set(f"soon:{number}", "x", px=1_200_000 + number)
        for number in range(KEPT if strike.ghosts else 0):
            pipe.set(f"kept:{number}", "of now")
        pipe.execute()
        if strike.ghosts:
            self._leave_ghosts()

    def _leave_ghosts(self) -> None:
        """What an earlier sync has left whose position the source cannot continue."""
        info = self.source.info()
        left = Checkpoint.following(Position("f" * 40, 1), 0, info["run_id"])
        words = left.fields()
        pipe = self.target.client().pipeline(transaction=False)
        pipe.hset(CHECKPOINT, items=[*words, "sole", 1])
        for number in range(GHOSTS):
            pipe.set(f"ghost:{number}", "of an earlier sync")
        for number in range(KEPT):
            pipe.set(f"kept:{number}", "of an earlier sync")
        pipe.execute()

    def change(self, strike: Strike) -> None:
        """New writes to every key that the snapshot brought, and to those that it removed."""
        for db in (0, 1):
            client = self.source.client(db)
            keys = sorted(client.keys("mixed:*"))
            pipe = client.pipeline(transaction=False)
            for number, key in enumerate(keys):
                if number % 3 != 1:
                    pipe.delete(key)
                if number % 3 == 2:
                    pipe.rpush(key, "new", number)
                if number % 3 == 1:
                    pipe.set(key, f"new {number}")
            pipe.execute()
        pipe = self.source.client().pipeline(transaction=False)
        for number in range(GHOSTS if strike.ghosts else 0):
            pipe.set(f"ghost:{number}", "made anew")
        for number in range(0, EXPIRING if strike.expiring else 0, 2):
            pipe.pexpire(f"soon:{number}", 7_200_000 + number)
        for number in range(40):
            pipe.rpush("big:list", f"new {number}")
            pipe.hset("big:hash", f"f{number:010d}", "new")
            pipe.incr(f"counter:{number % COUNTERS}")
        pipe.execute()

    def count(self, times: int = 5) -> None:
        """A few more writes, none of which may be applied twice."""
        pipe = self.source.client().pipeline(transaction=False)
        for _ in range(times):
            for number in range(COUNTERS):
                pipe.incr(f"counter:{number}")
            pipe.rpush("big:list", time.monotonic_ns())
        pipe.execute()

    def forget_history(self) -> None:
        """The source can continue nobody any more."""
        client: Any = self.source.client()
        client.execute_command("DEBUG", "CHANGE-REPL-ID")
        client.client_kill_filter(_type="replica")

    def position(self) -> dict[bytes, bytes]:
        """The checkpoint in the target."""
        client: Any = self.target.client()
        found: dict[bytes, bytes] = client.hgetall(CHECKPOINT)
        return found


class Round:
    """One strike, and what is done about it.

    Args:
        ends: prepared by this.
        strike: see there.
        action: one of `ACTIONS`.
        permissions: one of `PERMISSIONS`.
        chance: seeded.
        delay_seconds: the delivery is later by this.
        beside: lanes are struck as well, where their process goes on.
    """

    def __init__(
        self,
        ends: Ends,
        strike: Strike,
        action: str,
        permissions: str,
        chance: random.Random,
        *,
        delay_seconds: float = 0.0,
        beside: bool = True,
    ) -> None:
        self._beside = beside
        self.outcome = Outcome()
        self._ends = ends
        self._strike = strike
        self._action = action
        self._least = permissions == "least"
        self._chance = chance
        self._delay = delay_seconds
        self._login = ""

    def run(self) -> Outcome:
        """Never raises what is portd's fault: that is in the outcome."""
        begun = time.monotonic()
        ends = self._ends
        ends.prepare(self._strike)
        login = least_user(ends.target) if self._least else ""
        with contextlib.ExitStack() as stack:
            relay = stack.enter_context(Relay(ends.target.port))
            first = self._portd(f"redis://{login}127.0.0.1:{relay.port}")
            second = self._portd(f"redis://{login}127.0.0.1:{ends.target.port}", takeover=self._action != "expiry")
            for each in (first, second):
                stack.callback(each.__exit__)
            try:
                self._play(relay, first, second)
            except AssertionError as error:
                logs = "\n".join(f"{each.command[5:]}\n{each.log()[-4000:]}" for each in (first, second))
                self.outcome.trouble.append(f"{error}\n{logs}")
        self.outcome.seconds = time.monotonic() - begun
        return self.outcome

    def _portd(self, target: str, *, takeover: bool = False) -> Portd:
        options: dict[str, object] = {
            "progress_seconds": 0,
            "chunk_bytes": 64 * 1024,
            "command_bytes": 4 * 1024,
            "memory_budget": 2600 * 1024,
            "silence_seconds": SILENCE_SECONDS if self._action == "silence" else 60,
            **dict(self._strike.options),
        }
        return Portd(self._ends.source.url, target, **options, **({"takeover": True} if takeover else {}))

    def _play(self, relay: Relay, first: Portd, second: Portd) -> None:
        ends, strike, outcome = self._ends, self._strike, self.outcome
        more: list[tuple[str, Hold]] = []
        if strike.cut:
            cut = relay.hold(holding(b"\r\n", name=b"portd-lane-", passing=4), reset=True)
            more.append((LANES[0].name, cut))
        caught: dict[str, Callable[[], object]] = {
            "kill": lambda: first.signal(signal.SIGKILL),
            "takeover": lambda: first.signal(signal.SIGSTOP),
            "expiry": lambda: first.signal(signal.SIGSTOP),
            "partition": relay.part,
            "anew": ends.forget_history,
        }
        reset, twice = self._action in RESETS, self._action == "twice"
        hold = relay.hold(strike.wanted(self._chance), reset=reset, on_caught=caught.get(self._action), twice=twice)
        if self._beside and self._action not in (*TWO, "kill"):
            chosen = self._chance.sample(LANES, MORE_STRIKES)
            more += [(each.name, relay.hold(each.wanted(self._chance), reset=reset, twice=twice)) for each in chosen]
        first.start()
        outcome.struck = self._came_up(hold, first)
        if not outcome.struck:
            return
        survivor = self._go_on(first, second)
        survivor.until(lambda status: status["phase"] == "streaming")
        survivor.until_applied(ends.source)
        ends.change(strike)
        survivor.until_applied(ends.source)
        time.sleep(self._delay)
        before = ends.position()
        beside = [(name, each) for name, each in more if each.caught.is_set()]
        struck = [hold, *(each for _, each in beside)]
        self._deliver(relay, first, struck)
        outcome.more = [name for name, _ in beside]
        outcome.evicted = sum(each.evicted for each in struck)
        outcome.held = sum(len(each.data) for each in struck)
        self._check_position(before, ends.position())
        if strike.restart or self._chance.random() < RESTARTS:
            survivor.kill()
            ends.count()
            survivor.start()
            status = survivor.until(lambda status: status["phase"] == "streaming")
            if status["full_syncs"]:
                raise Failure(f"the position was lost: {status['full_syncs']}")
        ends.count()
        survivor.until_applied(ends.source)
        code = survivor.terminate()
        if code != os.EX_OK:
            raise Failure(f"portd ended with {code}")
        outcome.trouble += compare(ends.source, ends.target, limit=12)
        if outcome.trouble:
            outcome.trouble.append(survivor.log()[-3000:])

    def _came_up(self, hold: Hold, portd: Portd) -> bool:
        """Whether the bytes were kept back; else the sync is through without."""
        deadline = time.monotonic() + STRIKE_SECONDS
        through = False
        while not hold.caught.wait(PAUSE_SECONDS):
            if not portd.alive and not hold.caught.is_set():
                raise Failure(f"portd ended with {portd.process.returncode}")
            if time.monotonic() > deadline:
                raise Failure("the bytes do not come up")
            if through:
                return False
            found = self._ends.position()
            through = found.get(b"state") == b"stream" and found[b"offset"] != b"1"
            through = through and (not self._strike.expiring or found[b"postponed"] == b"0")
        return True

    def _go_on(self, first: Portd, second: Portd) -> Portd:
        """Does what the action says; the process that follows the stream then."""
        ends = self._ends
        if self._action == "kill":
            first.wait()
            return first.start()
        if self._action not in TWO:
            return first
        if self._action != "partition":  # a source that still sends to a stopped replica begins no other snapshot
            ends.source.client().client_kill_filter(_type="replica")
        if self._action == "expiry":
            ends.target.client().pexpire(LEASE, 1)
            wait_for_sync(lambda: not ends.target.client().exists(LEASE))
        return second.start()

    def _deliver(self, relay: Relay, first: Portd, holds: list[Hold]) -> None:
        """The old bytes arrive, and a process that was stopped or cut off goes on; in either order."""

        def release() -> None:
            for hold in holds:
                hold.release()

        steps: list[Callable[[], object]] = [release]
        if self._action in {"takeover", "expiry"}:
            steps.append(lambda: first.signal(signal.SIGCONT))
        if self._action == "partition":
            steps.append(relay.heal)
        self._chance.shuffle(steps)
        for step in steps:
            step()
            time.sleep(self._chance.choice((0.0, 0.05)))
        if self._action in TWO:
            code = first.wait()
            if code != os.EX_TEMPFAIL:
                raise Failure(f"the first process ended with {code}")
        for hold in holds:
            if not hold.over.wait(PATIENCE_SECONDS):
                raise Failure("the connection whose bytes came late does not end")

    def _check_position(self, before: dict[bytes, bytes], after: dict[bytes, bytes]) -> None:
        for name in (b"state", b"replid", b"epoch"):
            if before.get(name) != after.get(name):
                raise Failure(f"the checkpoint went back: {name!r} was {before.get(name)!r}, is {after.get(name)!r}")
        if int(after[b"offset"]) < int(before[b"offset"]):
            raise Failure(f"the checkpoint went from {before[b'offset']!r} to {after[b'offset']!r}")


@dataclass(slots=True)
class Report:
    """What a deck found.

    Attributes:
        struck: how often, by strike, action and permissions; several may be in one sync.
        syncs: that were struck.
        through: syncs whose strike did not come up.
        evicted: the target had ended the connection before it got the bytes.
        failures: what is wrong, with the round's name.
    """

    struck: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    through: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    syncs: int = 0
    evicted: int = 0
    failures: list[str] = field(default_factory=list)
    failed: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    @property
    def strikes(self) -> int:
        """All of them."""
        return sum(self.struck.values())

    def table(self) -> str:
        """Markdown: strikes by action and permission set, as struck and, behind a slash, failed."""
        lines = [
            "| bytes that came late | permissions | " + " | ".join(ACTIONS) + " | all |",
            "|---|---|" + "---|" * (len(ACTIONS) + 1),
        ]
        for strike in STRIKES:
            for permissions in PERMISSIONS:
                cells = [(strike.name, action, permissions) for action in ACTIONS]
                if total := sum(self.struck[cell] for cell in cells):
                    told = " | ".join(self._told(cell) for cell in cells)
                    lines.append(f"| {strike.name} | {permissions} | {told} | {total} |")
        lines.append(
            f"{self.strikes} strikes in {self.syncs} syncs, {len(self.failures)} failures; {self.evicted} connections "
            f"were ended by the target before the delivery; {sum(self.through.values())} syncs were through before"
        )
        return "\n".join(lines)

    def _told(self, cell: tuple[str, str, str]) -> str:
        if not self.struck[cell]:
            return ""
        return f"{self.struck[cell]}" + (f" / **{self.failed[cell]}**" if self.failed[cell] else "")


def deck(chance: random.Random) -> Iterator[tuple[Strike, str, str]]:
    """Every strike with every action and permission set, in a random order, for ever."""
    while True:
        cards = [
            (strike, action, permissions)
            for strike in STRIKES
            for action in (strike.actions or ACTIONS)
            for permissions in PERMISSIONS
            if strike.only in {"", permissions}
        ]
        chance.shuffle(cards)
        yield from cards


def run_deck(strikes: int, seed: int, *, only: str = "", delay_seconds: float = 0.0, tell: bool = True) -> Report:
    """Rounds until there were *strikes*; servers of every pair of kinds in turn.

    Args:
        strikes: how many.
        seed: of everything.
        only: strikes whose name contains this, and no others beside them.
        delay_seconds: every tenth delivery is later by up to this.
        tell: print every round.
    """
    chance = random.Random(f"late {seed}")
    report = Report()
    pairs = [(source, target) for source in sources() for target in sources()]
    cards = (card for card in deck(chance) if only in card[0].name)
    rounds = 0
    while report.strikes < strikes and rounds < 2 * strikes + ROUNDS_OF_A_PAIR:
        with Ends(*pairs[rounds % len(pairs)]) as ends:
            for _ in range(ROUNDS_OF_A_PAIR):
                rounds += 1
                if report.strikes >= strikes:
                    break
                card, dice = next(cards), random.Random(f"{seed} {rounds}")
                _one(ends, card, dice, report, delay_seconds, beside=not only, tell=tell)
    return report


def _one(
    ends: Ends,
    card: tuple[Strike, str, str],
    chance: random.Random,
    report: Report,
    delay_seconds: float,
    *,
    beside: bool,
    tell: bool,
) -> None:
    strike, action, permissions = card
    delay = chance.uniform(1, delay_seconds) if delay_seconds and chance.random() < DELAYED else 0.0
    outcome = Round(ends, strike, action, permissions, chance, delay_seconds=delay, beside=beside).run()
    name = strike.name, action, permissions
    (report.struck if outcome.struck else report.through)[name] += 1
    report.syncs += outcome.struck
    report.struck.update((each, action, permissions) for each in outcome.more)
    report.evicted += outcome.evicted
    said = "ok" if outcome.struck else "did not come up"
    if outcome.trouble:
        said = "FAILED"
        report.failed[name] += 1
        where = f"{strike.name}, {action}, {permissions}, {ends.source.binary.name} to {ends.target.binary.name}"
        report.failures.append("\n".join([where, *outcome.trouble]))
    if tell:
        print(
            f"{report.strikes:4} {said:8} {strike.name}, {action}, {permissions}: {outcome.held} bytes late, "
            f"{outcome.seconds:.1f} s"
            + (f", {delay:.0f} s later" if delay else "")
            + (f", {outcome.evicted} evicted" if outcome.evicted else ""),
            flush=True,
        )
        if outcome.trouble:
            print(report.failures[-1], flush=True)


def sources() -> list[Binary]:
    """The newest server of each family, and Redis 7.0 where it is there."""
    newest: dict[str, Binary] = {}
    for binary in binaries():
        if binary.family not in newest or binary.version > newest[binary.family].version:
            newest[binary.family] = binary
    return list(newest.values())
