"""Faults from cluster to cluster: any node of either side fails over or dies, portd is killed or stopped, connections are cut.

`python -m tests.faults --cluster N --seed S`: N faults while every shard of the source is written to, a third of them while shards are
copied anew. With `--moves` slots of both sides move meanwhile, nodes join and leave, and what portd sends comes late. Every ten faults, and at
the end, the writes pause, and both clusters are compared: each key at its node with its digest, so that a lost or doubled INCR, RPUSH or XADD
shows, and the numbers of `tests.faults.ledgers`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

from portd.kernel.slots import slot_tag
from portd.net.topology import read_written, slots_of
from tests.clusters import Cluster, differences
from tests.commands import run
from tests.faults.ledgers import CLIENTS, Ledger, tags_of
from tests.faults.sides import ROAMING, SWING, Side
from tests.faults.world import Failure
from tests.integration.cluster.load import Loads, fill
from tests.integration.cluster.moves import RoamingLoad
from tests.process import Portd
from tests.relay import Relay, holding
from tests.servers import PATIENCE_SECONDS, wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.relay import Hold
    from tests.servers import Binary, Server

    Fault = Callable[[], str]  # strikes, and says what

CHECK_EVERY = 10  # faults
STOPPED_SECONDS = 2.0  # longest time that portd stands still
BULK = 40  # values of each shard that make a full sync last, of BULK_BYTES
BULK_BYTES = 300_000
CAUGHT_SECONDS = 5.0  # until bytes that are wanted have come by, or are not waited for any more
DRIFT_MS = 1000  # of expiry times of keys that move within a cluster
LATE_FAULTS = 4  # behind which bytes come at the latest
OPTIONS: dict[str, object] = {
    "silence_seconds": 3,
    "max_target_bytes_per_second": "8MiB",  # a full sync of these values takes 1.5 s
    "prune_limit": 100,  # a shard that was flushed is not held
}
RULES: dict[str, object] = {
    "include": "{t", "exclude": ["*:set", "*:b"], "rename_prefix": "{t={u", "share_image": True, "prune": "prune",
}  # fmt: skip
MAY_END = {os.EX_UNAVAILABLE, os.EX_TEMPFAIL}  # started while a cluster was not whole


@dataclass(slots=True)
class ClusterReport:
    """What happened.

    Attributes:
        faults: of each kind.
        checks: comparisons, all of them equal.
        pipelines: that were written, of up to 30 commands each.
        roaming: commands and transactions in slots that move.
        numbers: that clients have written, by client; lists that they have read in the target, and those of them with a number twice.
        lost: numbers that the source has and the target has not.
        doubled: numbers that the target has and the source has not, or has less often.
        exits: of portd by itself, by code and what it said; it was started again.
        full_syncs: of shards behind the first ones, by reason.
        refused: entries of slots that had come back before they were followed.
        held: full syncs that an operator let go on.
        seconds: that the deck took.
    """

    faults: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    pipelines: int = 0
    roaming: int = 0
    numbers: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    lost: int = 0
    doubled: int = 0
    exits: Counter[str] = field(default_factory=Counter)
    full_syncs: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    held: int = 0
    seconds: float = 0.0

    def table(self) -> str:
        """Markdown."""
        lines = ["| fault | count |", "|---|---|", *(f"| {name} | {n} |" for name, n in sorted(self.faults.items()))]
        return "\n".join([*lines, "", self.summary()])

    def summary(self) -> str:
        """In some words."""
        syncs = ", ".join(f"{count} ({reason})" for reason, count in self.full_syncs.items()) or "none"
        exits = "".join(f"\n{count} times {said}" for said, count in self.exits.items()) or "never"
        numbers = ", ".join(
            f"{name} {written} (lists read in the target: {read}, {twice} of them with a number twice for a moment)"
            for name, (written, read, twice) in self.numbers.items()
        )
        return (
            f"{self.faults.total()} faults in {self.seconds:.0f} s, {self.checks} comparisons, {self.pipelines} pipelines, "
            f"{self.roaming} commands in slots that move, numbers: {numbers}; "
            f"{self.lost} lost, {self.doubled} doubled; shards copied again: {syncs}; {self.held} times held; {self.refused} entries refused; portd ended by itself: {exits}"
        )


class ClusterDeck:
    """Two clusters of three shards with a replica each, portd, and those who write; a context manager.

    Args:
        seed: of what happens when.
        source: binary of the source's nodes.
        target: binary of the target's.
        rules: keys are left out, and the others have names in other slots.
        moves: slots of either side move as well, nodes join and leave, bytes come late.
        options: of portd.
    """

    def __init__(
        self,
        seed: int,
        source: Binary | None = None,
        target: Binary | None = None,
        *,
        rules: bool = False,
        moves: bool = False,
        options: dict[str, object] | None = None,
    ) -> None:
        self.report = ClusterReport()
        self._chance = random.Random(f"clusters {seed}")
        self._source = Cluster(source, replicas=1, repl_backlog_size="32mb", repl_ping_replica_period=1)
        self._target = Cluster(target, replicas=1, repl_ping_replica_period=1)
        self._sides = [Side("source", self._source, self._chance), Side("target", self._target, self._chance)]
        self._rules, self._moves = rules, moves
        self._letters: Counter[tuple[str, str]] = Counter()  # of the process that runs, by link and code
        self._swung = False  # a slot has gone to and fro since the last comparison
        self._flushes_slots = self._source.binary.at_least(valkey=(9,))
        self._options = OPTIONS | (RULES if rules else {}) | (options or {})
        self._roaming: RoamingLoad | None = None
        self._ledgers: list[Ledger] = []
        self._relays: list[Relay] = []
        self._late: list[tuple[int, Hold]] = []  # bytes that are kept back, and for how many faults still
        self._portd: Portd
        self._loads: Loads
        self._socket: Path
        self._known: dict[str, dict[str, int]] = {}  # full syncs of the process that runs, by link
        self._deck: list[Fault] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for each in (self._source, self._target):
                stack.enter_context(each)
            fill(self._source)
            for node in self._source.primaries:
                self._fill_bulk(node)
            self._socket = Path(stack.enter_context(TemporaryDirectory(prefix="portd-deck-"))) / "control"
            options = self._options | {"control_socket": self._socket}
            if self._moves:
                nodes = self._target.nodes
                self._relays = [stack.enter_context(Relay(node.port)) for node in nodes]
                pairs = (f"127.0.0.1:{relay.upstream}=127.0.0.1:{relay.port}" for relay in self._relays)
                options["target_address_map"] = ",".join(pairs)
            self._portd = stack.enter_context(Portd(self._source.url, self._target.url, **options))
            self._loads = stack.enter_context(Loads(self._source))
            named = (lambda key: (_renamed(key.encode()) or b"").decode()) if self._rules else str
            self._ledgers = [
                stack.enter_context(Ledger(name, self._source, self._target, ROAMING, named)) for name in CLIENTS
            ]
            if self._moves:
                self._roaming = stack.enter_context(RoamingLoad(self._source, ROAMING))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._release(all_of_them=True)
        for cluster in (self._source, self._target):
            for node in [*cluster.extra]:
                node.close()
        self._stack.close()

    def _fill_bulk(self, node: Server) -> None:
        """Values that nobody changes, of one shard."""
        (tag,) = tags_of([self._source.owners()[node][0][0]])
        for number in range(BULK):
            self._source.call(node, "SET", f"{tag}:bulk:{number}", self._chance.randbytes(BULK_BYTES))

    # -- the deck

    def run(self, faults: int, *, tell: bool = False) -> ClusterReport:
        """So many faults, with comparisons between them and at the end.

        Raises:
            Failure: something was lost or doubled, or did not recover.
        """
        begun = time.monotonic()
        last: list[str] = []
        try:
            self._check()
            for number in range(1, faults + 1):
                if not self._deck:
                    self._deck = self._kinds()
                    self._chance.shuffle(self._deck)
                name = self._deck.pop()()
                last.append(name)
                self._swung |= SWING in name
                self.report.faults[name] += 1
                if tell:
                    print(f"{time.monotonic() - begun:8.2f} s  {number:4}  {name}", flush=True)
                self._revive()
                self._release()
                time.sleep(self._chance.uniform(0, 1.0))
                if number % CHECK_EVERY == 0 or number == faults:
                    self._check()
        except (AssertionError, OSError, Failure) as error:
            self.report.seconds = time.monotonic() - begun
            words = f"after {len(last)} faults, the last of them {last[-8:]}: {error}\n{self.report.summary()}"
            raise Failure(words, self._portd.log()) from error
        self.report.seconds = time.monotonic() - begun
        return self.report

    def _kinds(self) -> list[Fault]:
        """Each of them, for either side."""
        kinds: list[Fault] = [self._kill_portd, self._kill_portd, self._stop_portd, self._flush, self._flush]
        copying: list[Fault] = [self._kill_portd]
        for side in self._sides:
            failovers = [partial(self._fail_over, side, *how) for how in ((), ("FORCE",), ("TAKEOVER",))]
            kinds += failovers
            kinds += [partial(side.kill_node, role) for role in ("master", "slave")]
            kinds += [side.cut] * 2
            copying += [self._chance.choice(failovers), partial(side.kill_node, "master"), side.cut]
            if self._moves:
                strike = partial(self._strike, side)
                moves = [partial(each, strike) for each in (side.move, side.swing, side.migrate, side.use_tool)]
                kinds += [*moves, moves[0], moves[0], partial(self._join, side), partial(self._join, side)]
                copying += moves
        if self._moves:
            if self._flushes_slots:
                kinds += [self._flush_slot]
                copying += [self._flush_slot]
            kinds += [self._hold_back] * 3
            copying += [self._hold_back]
        return kinds + [partial(self._while_copying, each) for each in copying]

    # -- faults

    def _strike(self, moved: Side) -> str:
        """What comes in the middle of a move; often nothing.

        Where slots of the target move, none of its nodes is lost: a replica that is promoted lacks what has just come, and the old owner has it no more.
        """
        if self._chance.random() < 0.5:
            return ""
        side = self._sides[0] if moved.name == "target" else self._chance.choice(self._sides)
        failover = partial(side.fail_over, *self._chance.choice(((), ("FORCE",), ("TAKEOVER",))))
        orderly = self._sides[1].fail_over
        kill = partial(side.kill_node, "master")
        strikes: list[Fault] = [self._kill_portd, self._kill_portd, side.cut, failover, orderly, kill]
        return self._chance.choice(strikes if moved.name == "target" else [*strikes, self._empty])()

    def _empty(self) -> str:
        """A node, or a slot that may be the one on its way, is emptied in the middle of a move."""
        if self._flushes_slots and self._chance.random() < 0.5:
            return self._flush_slot()
        self._source.call(self._chance.choice(list(self._source.owners())), "FLUSHALL")
        return "source: FLUSHALL"

    def _flush_slot(self) -> str:
        """A slot that is written to is emptied at its owner."""
        slot = self._chance.choice(ROAMING)
        self._source.call(self._source.owner(f"{{{slot_tag(slot)}}}"), "CLUSTER", "FLUSHSLOT", slot)
        if killed := self._chance.random() < 0.3:
            self._portd.kill()
        return f"source: FLUSHSLOT{', portd: kill -9' if killed else ''}"

    def _while_copying(self, fault: Fault) -> str:
        """Strikes while one shard or all of them are copied anew."""
        links: list[str] = []

        def streaming(status: dict[str, Any]) -> bool:
            links[:] = [each["link"] for each in _running(status)]
            return bool(links) and all(each["phase"] in {"streaming", "catching-up"} for each in _running(status))

        self._until(streaming)
        for link in links if self._chance.random() < 0.3 else (self._chance.choice(links),):
            run(
                "ctl", "full-sync", "--socket", self._socket, "--link", link, "--yes", expect=None
            )  # or one is under way
        self._until(lambda status: any(each["phase"] == "snapshot" for each in status["links"]))
        time.sleep(self._chance.uniform(0, 0.8))
        return f"snapshot, {fault()}"

    def _fail_over(self, side: Side, *how: str) -> str:
        if killed := self._chance.random() < 0.3:
            self._portd.kill()
        return f"{side.fail_over(*how)}{', portd: kill -9' if killed else ''}"

    def _join(self, side: Side) -> str:
        """What joins the source is read before it has slots; sometimes nobody waits for that. What leaves it has been read."""
        if side.name == "target":
            return side.join(lambda: None, lambda: None)
        patient = self._chance.random() < 0.8
        return side.join(
            lambda: self._until(self._reads_all) if patient else None, lambda: self._until(self._is_settled)
        )

    def _is_settled(self, status: dict[str, Any]) -> bool:
        return is_settled(self._source, status)

    def _reads_all(self, status: dict[str, Any]) -> bool:
        """There is a link for each primary."""
        return len(_running(status)) > len(self._source.primaries)

    def _flush(self) -> str:
        """A shard of the source is emptied, and written to at once: what comes behind it may not go."""
        self._source.until_up()
        node = self._chance.choice(list(self._source.owners()))
        self._source.call(node, "FLUSHALL")
        if killed := self._chance.random() < 0.5:
            self._portd.kill()
        self._fill_bulk(node)
        return f"source: FLUSHALL of a shard{', portd: kill -9' if killed else ''}"

    def _hold_back(self) -> str:
        """What portd sends to a node is kept back, and comes faults later; its connection is reset, or silent, or it is killed."""
        relay = self._chance.choice(self._relays)
        words = self._chance.choice(((), (b"\r\nEXEC\r\n",), (b"\r\nHSET\r\n",)))
        way = self._chance.choice(("reset", "silence"))
        hold = relay.hold(holding(*words, name=b"portd-"), reset=way == "reset")
        if not hold.caught.wait(CAUGHT_SECONDS):  # a replica's, or one that nothing is written to: it passes
            hold.release()
            return "target: bytes would be late"
        self._late.append((self._chance.randint(0, LATE_FAULTS), hold))
        if killed := self._chance.random() < 0.3:
            self._portd.kill()
        return f"target: late bytes, {way}{', portd: kill -9' if killed else ''}"

    def _release(self, *, all_of_them: bool = False) -> None:
        """Late bytes come whose time it is."""
        left = []
        for faults, hold in self._late:
            if faults <= 0 or all_of_them:
                hold.release()
                hold.sent.wait(PATIENCE_SECONDS)
            else:
                left.append((faults - 1, hold))
        self._late = left

    def _kill_portd(self) -> str:
        self._portd.kill()
        return "portd: kill -9"

    def _stop_portd(self) -> str:
        """It stands still, for less than its lease lasts."""
        self._portd.signal(signal.SIGSTOP)
        time.sleep(self._chance.uniform(0.2, STOPPED_SECONDS))
        self._portd.signal(signal.SIGCONT)
        return "portd: SIGSTOP"

    # -- behind them

    def _revive(self) -> None:
        """What a supervisor does."""
        if self._portd.alive:
            return
        code = self._portd.wait()
        if code != -signal.SIGKILL:
            said = next((line for line in reversed(self._portd.log().splitlines()) if line.strip()), "")
            if code not in MAY_END:
                raise Failure(f"portd ended with {code}: {said}")
            self.report.exits[f"{code}: {said[-200:]}"] += 1
        self._known = {}
        self._letters.clear()
        self._portd.start()

    def _until(self, reached: Callable[[dict[str, Any]], bool]) -> None:
        """Until the status says so."""

        def asked() -> bool:
            self._revive()
            status = self._portd.status()
            if status is None or "links" not in status:
                return False
            self._note_syncs({each["link"]: each["full_syncs"] for each in status["links"]})
            for each in status["links"]:
                if each["phase"] == "held":  # it would remove every key of a shard that had few: an operator lets it
                    run("ctl", "accept", "--socket", self._socket, "--link", each["link"], expect=None)
                    self.report.held += 1
            return reached(status)

        wait_for_sync(asked, PATIENCE_SECONDS, dump=lambda: f"{self._portd.status()}")

    def _check(self) -> None:
        """Writes pause until everything is in the target, and both clusters are equal."""
        self._loads.run(1)  # whoever writes has not ended
        for each in self._ledgers:
            each.run()
        if self._roaming is not None:
            self._roaming.run(1)
        self._release(all_of_them=True)
        with ExitStack() as paused:
            self._loads.pause()
            paused.callback(self._loads.go_on)
            for turn in [each.turn for each in self._ledgers] + ([self._roaming.turn] if self._roaming else []):
                paused.enter_context(turn)
            for cluster in (self._source, self._target):
                cluster.until_up()
            # asked each time: a primary that has just joined begins a new history for its first reader
            self._until(lambda status: self._is_settled(status) and has_all(ends_of(self._source), status))
            self._compare()
            self._look_at_letters()

    def _look_at_letters(self) -> None:
        """There are no dead letters that the last comparison had not.

        Where a slot comes back before it was followed, an entry may be refused that its key brings then: docs/clusters.md.
        """
        links = (self._portd.status() or {})["links"]
        letters = Counter({(each["link"], code): n for each in links for code, n in each["dead_letters"].items()})
        new = {key: count for key, count in (letters - self._letters).items() if not (self._swung and key[1] == "ERR")}
        assert not new, new
        self.report.refused += (letters - self._letters).total()
        self._letters, self._swung = letters, False

    def _compare(self) -> None:
        drift = DRIFT_MS if self._moves else 0
        found = differences(self._source, self._target, _renamed if self._rules else _as_it_is, drift)
        for ledger in self._ledgers:
            lost, doubled, trouble = ledger.compare()
            self.report.lost += lost
            self.report.doubled += doubled
            self.report.numbers[ledger.name] = ledger.commands, ledger.read, ledger.twice
            found += trouble
            if lost or doubled:
                found.append(f"numbers of {ledger.name}: {lost} lost, {doubled} doubled")
        if found:
            raise Failure("the clusters differ:\n" + "\n".join(found[:20]) + f"\n{self._views()}")
        self.report.checks += 1
        self.report.pipelines = self._loads.commands
        self.report.roaming = self._roaming.commands if self._roaming else 0

    def _views(self) -> str:
        """What both ends think of themselves, and the source of its moves."""
        told = [each.views() for each in (self._source, self._target)]
        if self._source.moves_at_once:
            told += [f"{node.port}: {self._source.moves(node)}" for node in self._source.owners()]
        return "\n".join(told)

    def _note_syncs(self, now: dict[str, Any]) -> None:
        """Counts full syncs of a process once."""
        for link, syncs in now.items():
            known = self._known.get(link, {})
            for reason, count in syncs.items():
                if reason != "first":
                    self.report.full_syncs[reason] += max(0, count - known.get(reason, 0))
        self._known = now


def is_settled(source: Cluster, status: dict[str, Any]) -> bool:
    """Each link has the slots of its primary, and whoever has none is not read any more."""
    owned = {tuple(sorted(slots_of(tuple(ranges)))) for ranges in source.owners().values()}
    running = (each["settings"]["include_slots"] for each in _running(status))  # one that has ended keeps what it had
    return {tuple(sorted(slots_of(read_written(slots)))) for slots in running} - {()} == owned


def ends_of(source: Cluster) -> dict[str, int]:
    """How far the primaries are, by replication id."""
    told = [node.info("replication") for node in source.owners()]
    return {each["master_replid"]: int(each["master_repl_offset"]) for each in told}


def _running(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Links that have not ended, as those of shards without slots do."""
    return [each for each in status["links"] if each["phase"] != "stopped"]


def has_all(ends: dict[str, int], status: dict[str, Any]) -> bool:
    """Every link follows its stream, and each of these histories is followed by one that has brought all of it."""
    links = _running(status)
    there = {each["position"]["replid"]: each["stream"]["applied_offset"] for each in links if each["position"]}
    return all(each["phase"] == "streaming" for each in links) and all(
        there.get(replid, -1) >= offset for replid, offset in ends.items()
    )


def _as_it_is(key: bytes) -> bytes | None:
    return key


def _renamed(key: bytes) -> bytes | None:
    """What `RULES` make of a name."""
    return None if key.endswith((b":set", b":b")) else b"{u" + key[2:]


def run_cluster_deck(
    faults: int,
    seed: int,
    *,
    source: Binary | None = None,
    target: Binary | None = None,
    rules: bool = False,
    moves: bool = False,
    options: dict[str, object] | None = None,
    tell: bool = False,
) -> ClusterReport:
    """See `ClusterDeck.run`."""
    with ClusterDeck(seed, source, target, rules=rules, moves=moves, options=options) as deck:
        return deck.run(faults, tell=tell)
