"""Faults from cluster to cluster: any node of either side fails over or dies, portd is killed or stopped, connections are cut.

`python -m tests.faults --cluster N --seed S`: N faults while every shard of the source is written to, a third of them while shards are
copied anew. Every ten faults, and at the end, the writes pause, and both clusters are compared: each key at its node with its digest,
so that a lost or doubled INCR, RPUSH or XADD shows.
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
from tests.faults.world import Failure
from tests.integration.cluster.load import LINKS, Loads, fill, primaries
from tests.integration.cluster.moves import RoamingLoad, migrate
from tests.process import Portd
from tests.servers import PATIENCE_SECONDS, wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers import Binary, Server

CHECK_EVERY = 10  # faults
STOPPED_SECONDS = 2.0  # longest time that portd stands still
BULK = 40  # values of each shard that make a full sync last, of BULK_BYTES
BULK_BYTES = 300_000
OPTIONS: dict[str, object] = {
    "silence_seconds": 3,
    "max_target_bytes_per_second": "8MiB",  # a full sync of these values takes 1.5 s
    "prune_limit": 100,  # a shard that was flushed is not held
}
RULES: dict[str, object] = {
    "include": "{t", "exclude": ["*:set", "*:b"], "rename_prefix": "{t={u", "share_image": True, "prune": "prune",
}  # fmt: skip
ROAMING = (5, 77, 1234, 5400, 6000, 9999, 11000, 16000)  # slots that move
MAY_END = {os.EX_UNAVAILABLE, os.EX_TEMPFAIL}  # started while a cluster was not whole


@dataclass(slots=True)
class ClusterReport:
    """What happened.

    Attributes:
        faults: of each kind.
        checks: comparisons, all of them equal.
        pipelines: that were written, of up to 30 commands each.
        exits: of portd by itself, by code; it was started again.
        full_syncs: of shards behind the first ones, by reason.
        seconds: that the deck took.
    """

    faults: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    pipelines: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    full_syncs: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def table(self) -> str:
        """Markdown."""
        lines = ["| fault | count |", "|---|---|", *(f"| {name} | {n} |" for name, n in sorted(self.faults.items()))]
        syncs = ", ".join(f"{count} ({reason})" for reason, count in self.full_syncs.items()) or "none"
        exits = ", ".join(f"{count} with {code}" for code, count in self.exits.items()) or "none"
        said = f"{self.faults.total()} faults in {self.seconds:.0f} s, {self.checks} comparisons, {self.pipelines} pipelines: 0 lost, 0 doubled"
        return "\n".join([*lines, "", f"{said}; shards copied again: {syncs}; portd ended by itself: {exits}"])


class ClusterDeck:
    """Two clusters of three shards with a replica each, portd, and those who write; a context manager.

    Args:
        seed: of what happens when.
        source: binary of the source's nodes.
        target: binary of the target's.
        rules: keys are left out, and the others have names in other slots.
        moves: slots of either side move as well, one by one and in one step.
    """

    def __init__(
        self,
        seed: int,
        source: Binary | None = None,
        target: Binary | None = None,
        *,
        rules: bool = False,
        moves: bool = False,
    ) -> None:
        self.report = ClusterReport()
        self._chance = random.Random(f"clusters {seed}")
        self._source = Cluster(source, replicas=1, repl_backlog_size="32mb", repl_ping_replica_period=1)
        self._target = Cluster(target, replicas=1, repl_ping_replica_period=1)
        self._rules = rules
        self._roaming = RoamingLoad(self._source, ROAMING) if moves else None
        self._portd: Portd
        self._loads: Loads
        self._socket: Path
        self._known: dict[str, dict[str, int]] = {}  # full syncs of the process that runs, by link
        self._deck: list[Callable[[], str]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for each in (self._source, self._target):
                stack.enter_context(each)
            fill(self._source)
            for node in self._source.primaries:
                self._fill_bulk(node)
            self._socket = Path(stack.enter_context(TemporaryDirectory(prefix="portd-deck-"))) / "control"
            options = OPTIONS | (RULES if self._rules else {}) | {"control_socket": self._socket}
            self._portd = stack.enter_context(Portd(self._source.url, self._target.url, **options))
            self._loads = stack.enter_context(Loads(self._source))
            if self._roaming is not None:
                stack.enter_context(self._roaming)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _fill_bulk(self, node: Server) -> None:
        """Values that nobody changes, of one shard."""
        tag = next(f"{{t{n}}}" for n in range(1000) if self._source.owner(f"{{t{n}}}") is node)
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
                self.report.faults[name] += 1
                if tell:
                    print(f"{time.monotonic() - begun:8.2f} s  {number:4}  {name}", flush=True)
                self._revive()
                time.sleep(self._chance.uniform(0, 1.0))
                if number % CHECK_EVERY == 0 or number == faults:
                    self._check()
        except (AssertionError, OSError, Failure) as error:
            told = f"after {len(last)} faults, the last of them {last[-8:]}: {error}"
            raise Failure(f"{told}\n{self._portd.log()[-20_000:]}") from error
        self.report.seconds = time.monotonic() - begun
        return self.report

    def _kinds(self) -> list[Callable[[], str]]:
        """Each of them, for either side."""
        kinds: list[Callable[[], str]] = [
            self._kill_portd,
            self._kill_portd,
            self._stop_portd,
            self._flush,
            self._flush,
        ]
        copying: list[Callable[[], str]] = [self._kill_portd]
        for side, cluster in (("source", self._source), ("target", self._target)):
            failovers = [partial(self._fail_over, side, cluster, how) for how in ((), ("FORCE",), ("TAKEOVER",))]
            kinds += failovers
            kinds += [partial(self._kill_node, side, cluster, primary=primary) for primary in (True, False)]
            kinds += [partial(self._cut, side, cluster)] * 2
            copying += [
                self._chance.choice(failovers),
                partial(self._kill_node, side, cluster, primary=True),
                partial(self._cut, side, cluster),
            ]
        if self._roaming is not None:
            moves = [partial(self._move, *each) for each in (("source", self._source), ("target", self._target))]
            kinds += [moves[0]] * 8 + [moves[1]] * 3 + [self._migrate] * 3
            copying += moves
        return kinds + [partial(self._while_copying, each) for each in copying]

    # -- faults

    def _while_copying(self, fault: Callable[[], str]) -> str:
        """Strikes while one shard or all of them are copied anew."""
        links = LINKS if self._chance.random() < 0.3 else (self._chance.choice(LINKS),)
        self._until(lambda status: all(each["phase"] == "streaming" for each in status["links"]))
        for link in links:
            run(
                "ctl", "full-sync", "--socket", self._socket, "--link", link, "--yes", expect=None
            )  # or one is under way
        self._until(lambda status: any(each["phase"] == "snapshot" for each in status["links"]))
        time.sleep(self._chance.uniform(0, 0.8))
        return f"snapshot, {fault()}"

    def _fail_over(self, side: str, cluster: Cluster, how: tuple[str, ...]) -> str:
        wait_for_sync(cluster.is_up, PATIENCE_SECONDS)
        replica = self._chance.choice([node for node in cluster.nodes if node.info("replication")["role"] == "slave"])
        if killed := self._chance.random() < 0.3:
            self._portd.kill()
        cluster.fail_over(replica, *how)
        return f"{side}: failover{' ' + how[0].lower() if how else ''}{', portd: kill -9' if killed else ''}"

    def _kill_node(self, side: str, cluster: Cluster, *, primary: bool) -> str:
        """A node dies; a primary is replaced by its replica. It comes back later, without its data."""
        wait_for_sync(cluster.is_up, PATIENCE_SECONDS)
        role = "master" if primary else "slave"
        node = self._chance.choice([each for each in cluster.nodes if each.info("replication")["role"] == role])
        node.kill()
        if primary:
            wait_for_sync(lambda: _promoted(cluster), PATIENCE_SECONDS)
        time.sleep(self._chance.uniform(0, 0.5))
        node.start()
        wait_for_sync(cluster.is_up, PATIENCE_SECONDS)
        return f"{side}: kill -9 of a {'primary' if primary else 'replica'}"

    def _cut(self, side: str, cluster: Cluster) -> str:
        """Our connections to one node are ended by it, or to all of them."""
        nodes = [node for node in cluster.owners() if node.alive]
        for node in nodes if self._chance.random() < 0.3 else [self._chance.choice(nodes)]:
            for client in node.client().client_list():
                if client["name"].startswith("portd-") or (side == "source" and "S" in client["flags"]):
                    cluster.call(node, "CLIENT", "KILL", "ID", client["id"])
        return f"{side}: connections cut"

    def _move(self, side: str, cluster: Cluster) -> str:
        """Slots that are written to go to another shard, key by key; a node may be emptied in the middle, and portd may die."""
        wait_for_sync(cluster.is_up, PATIENCE_SECONDS)
        into = self._chance.choice(list(cluster.owners()))
        killed = self._chance.random() < 0.4
        emptied = side == "source" and self._chance.random() < 0.25
        slots = self._chance.sample(ROAMING, self._chance.randint(1, 4))
        ends = [cluster.owner(f"{{{slot_tag(slots[0])}}}"), into]

        def middle() -> None:
            time.sleep(self._chance.uniform(0, 0.5))  # keys are born at the new owner
            if emptied:
                cluster.call(self._chance.choice(ends), "FLUSHALL")
            if killed:
                self._portd.kill()

        for number, slot in enumerate(slots):
            cluster.move_slot(slot, into, until=middle if number == 0 else lambda: None)
        also = [word for word, so in ((", FLUSHALL", emptied), (", portd: kill -9", killed)) if so]
        return f"{side}: slots moved{''.join(also)}"

    def _migrate(self) -> str:
        """Slots of the source go to another shard in one step, where its servers can."""
        wait_for_sync(self._source.is_up, PATIENCE_SECONDS)
        first = self._chance.choice(ROAMING)
        node, into = self._source.owner(f"{{{slot_tag(first)}}}"), self._chance.choice(list(self._source.owners()))
        if node is into or not node.binary.at_least(redis=(99,), valkey=(9, 0)):
            return "source: nothing moved"
        migrate(self._source, node, into, first, first)
        return "source: a slot moved in one step"

    def _flush(self) -> str:
        """A shard of the source is emptied, and written to at once: what comes behind it may not go."""
        wait_for_sync(self._source.is_up, PATIENCE_SECONDS)
        node = self._chance.choice(list(self._source.owners()))
        self._source.call(node, "FLUSHALL")
        if killed := self._chance.random() < 0.5:
            self._portd.kill()
        self._fill_bulk(node)
        return f"source: FLUSHALL of a shard{', portd: kill -9' if killed else ''}"

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
            if code not in MAY_END:
                raise Failure(f"portd ended with {code}")
            self.report.exits[code] += 1
        self._known = {}
        self._portd.start()

    def _until(self, reached: Callable[[dict[str, Any]], bool]) -> None:
        """Until the status says so."""

        def asked() -> bool:
            self._revive()
            status = self._portd.status()
            if status is None or "links" not in status:
                return False
            self._note_syncs({each["link"]: each["full_syncs"] for each in status["links"]})
            return reached(status)

        wait_for_sync(asked, PATIENCE_SECONDS, dump=lambda: f"{self._portd.status()}")

    def _check(self) -> None:
        """Writes pause until everything is in the target, and both clusters are equal."""
        self._loads.run(1)  # whoever writes has not ended
        self._loads.pause()
        if self._roaming is not None:
            self._roaming.turn.acquire()
        try:
            for cluster in (self._source, self._target):
                wait_for_sync(cluster.is_up, PATIENCE_SECONDS)
            self._until(lambda status: self._drawn() or not status)  # what slots came with a flush is copied
            ends = {
                link: int(node.client().info("replication")["master_repl_offset"])
                for link, node in primaries(self._source).items()
            }
            self._until(
                lambda status: all(
                    each["phase"] == "streaming" and each["stream"]["checkpointed_offset"] >= ends[each["link"]]
                    for each in status["links"]
                )
            )
            if letters := [each["dead_letters"] for each in (self._portd.status() or {})["links"]]:
                assert not any(map(any, (each.values() for each in letters))), letters
            if found := differences(self._source, self._target, _renamed if self._rules else _as_it_is):
                raise Failure("the clusters differ:\n" + "\n".join(found[:20]))
            self.report.checks += 1
            self.report.pipelines = self._loads.commands
        finally:
            self._loads.go_on()
            if self._roaming is not None:
                self._roaming.turn.release()

    def _drawn(self) -> bool:
        """Every link has the slots that its node has, by the target's word."""
        told = []
        for link in LINKS:
            key = f"portd:checkpoint:{{{link}}}"
            words = (self._target.get("HGET", key, "slots") or b"").decode().split()
            told.append(set(slots_of(read_written(words))))
        owned = [set(slots_of(tuple(ranges))) for ranges in self._source.owners().values()]
        return all(slots in owned for slots in told)

    def _note_syncs(self, now: dict[str, Any]) -> None:
        """Counts full syncs of a process once."""
        for link, syncs in now.items():
            known = self._known.get(link, {})
            for reason, count in syncs.items():
                if reason != "first":
                    self.report.full_syncs[reason] += max(0, count - known.get(reason, 0))
        self._known = now


def _as_it_is(key: bytes) -> bytes | None:
    return key


def _renamed(key: bytes) -> bytes | None:
    """What `RULES` make of a name."""
    return None if key.endswith((b":set", b":b")) else b"{u" + key[2:]


def _promoted(cluster: Cluster) -> bool:
    """Every slot has an owner that lives, and all know it."""
    alive = [node for node in cluster.nodes if node.alive]
    return all(b"cluster_state:ok" in cluster.call(node, "CLUSTER", "INFO") for node in alive) and all(
        node.alive for node in cluster.owners()
    )


def run_cluster_deck(
    faults: int,
    seed: int,
    *,
    source: Binary | None = None,
    target: Binary | None = None,
    rules: bool = False,
    moves: bool = False,
    tell: bool = False,
) -> ClusterReport:
    """See `ClusterDeck.run`."""
    with ClusterDeck(seed, source, target, rules=rules, moves=moves) as deck:
        return deck.run(faults, tell=tell)
