"""Faults from cluster to cluster: any node of either side fails over or dies, portd is killed or stopped, connections are cut.

`python -m tests.faults --cluster N --seed S`: N faults while every shard of the source is written to. Now and then the writes
pause, and both clusters are compared: each key at its node with its digest, so that a lost or doubled INCR, RPUSH or XADD shows.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from tests.clusters import Cluster, differences
from tests.faults.world import Failure
from tests.integration.cluster.load import Loads, fill, primaries
from tests.process import Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers import Binary

CHECK_EVERY = 10  # faults
STOPPED_SECONDS = 2.0  # longest time that portd stands still
PATIENCE_SECONDS = 90.0  # until everything is in the target again


@dataclass(slots=True)
class ClusterReport:
    """What happened.

    Attributes:
        faults: of each kind.
        checks: comparisons, all of them equal.
        commands: pipelines that were written.
        exits: of portd by itself; it was started again.
        full_syncs: of shards behind the first ones, by reason.
        seconds: that the deck took.
    """

    faults: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    commands: int = 0
    exits: int = 0
    full_syncs: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def table(self) -> str:
        """Markdown."""
        lines = [
            "| fault | count |",
            "|---|---|",
            *(f"| {name} | {count} |" for name, count in sorted(self.faults.items())),
        ]
        syncs = ", ".join(f"{count} ({reason})" for reason, count in self.full_syncs.items()) or "none"
        said = f"{self.faults.total()} faults in {self.seconds:.0f} s, {self.checks} comparisons, all equal; portd ended {self.exits} times"
        return "\n".join([*lines, "", f"{said}; shards copied again: {syncs}"])


class ClusterDeck:
    """Two clusters of three shards with a replica each, portd, and those who write; a context manager.

    Args:
        seed: of what happens when.
        source: binary of the source's nodes.
        target: binary of the target's.
    """

    def __init__(self, seed: int, source: Binary | None = None, target: Binary | None = None) -> None:
        self.report = ClusterReport()
        self._chance = random.Random(f"clusters {seed}")
        self._source = Cluster(source, replicas=1, repl_backlog_size="32mb")
        self._target = Cluster(target, replicas=1)
        self._portd = Portd(self._source.url, self._target.url, silence_seconds=3)
        self._loads: Loads
        self._known: dict[str, dict[str, int]] = {}  # full syncs of the process that runs, by link
        self._deck: list[Callable[[], str]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            for each in (self._source, self._target):
                self._stack.enter_context(each)
            fill(self._source)
            self._stack.enter_context(self._portd)
            self._loads = self._stack.enter_context(Loads(self._source))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    # -- the deck

    def run(self, faults: int, *, tell: bool = False) -> ClusterReport:
        """So many faults, with comparisons between them and at the end.

        Raises:
            Failure: something was lost or doubled, or did not recover.
        """
        begun = time.monotonic()
        self._check()
        last: list[str] = []
        for number in range(1, faults + 1):
            if not self._deck:
                self._deck = self._kinds()
                self._chance.shuffle(self._deck)
            fault = self._deck.pop()
            try:
                name = fault()
                last.append(name)
                self.report.faults[name] += 1
                if tell:
                    print(f"{time.monotonic() - begun:8.2f} s  {number:4}  {name}", flush=True)
                self._revive()
                time.sleep(self._chance.uniform(0, 1.0))
                if number % CHECK_EVERY == 0 or number == faults:
                    self._check()
            except (AssertionError, OSError) as error:
                raise Failure(
                    f"after {number} faults, the last of them {last[-8:]}: {error}\n{self._portd.log()[-6000:]}"
                ) from error
        self.report.seconds = time.monotonic() - begun
        return self.report

    def _kinds(self) -> list[Callable[[], str]]:
        """One of each, for either side."""
        kinds: list[Callable[[], str]] = [self._kill_portd, self._kill_portd, self._stop_portd]
        for side, cluster in (("source", self._source), ("target", self._target)):
            kinds += [partial(self._fail_over, side, cluster, how) for how in ((), ("FORCE",), ("TAKEOVER",))]
            kinds += [partial(self._kill_node, side, cluster, primary=primary) for primary in (True, False)]
            kinds += [partial(self._cut, side, cluster)] * 2
        return kinds

    # -- faults

    def _fail_over(self, side: str, cluster: Cluster, how: tuple[str, ...]) -> str:
        wait_for_sync(cluster.is_up, PATIENCE_SECONDS)
        replica = self._chance.choice([node for node in cluster.nodes if node.info("replication")["role"] == "slave"])
        if self._chance.random() < 0.3:
            self._portd.kill()
        cluster.fail_over(replica, *how)
        return f"{side}: failover{' ' + how[0].lower() if how else ''}"

    def _kill_node(self, side: str, cluster: Cluster, *, primary: bool) -> str:
        """A node dies; a primary is replaced by its replica. It comes back later."""
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
        if not self._portd.alive:
            self._note_syncs({})
            self._portd.start()

    def _check(self) -> None:
        """Writes pause until everything is in the target, and both clusters are equal."""
        self._loads.pause()
        try:
            for cluster in (self._source, self._target):
                wait_for_sync(cluster.is_up, PATIENCE_SECONDS)
            ends = {
                link: int(node.client().info("replication")["master_repl_offset"])
                for link, node in primaries(self._source).items()
            }
            wait_for_sync(lambda: self._applied(ends), PATIENCE_SECONDS, dump=lambda: f"{self._portd.status()}")
            if found := differences(self._source, self._target):
                raise Failure("the clusters differ:\n" + "\n".join(found[:20]))
            self.report.checks += 1
            self.report.commands = self._loads.commands
        finally:
            self._loads.go_on()

    def _applied(self, ends: dict[str, int]) -> bool:
        if not self._portd.alive:
            self.report.exits += 1
            self._revive()
        status = self._portd.status()
        if status is None or "links" not in status:
            return False
        self._note_syncs({each["link"]: each["full_syncs"] for each in status["links"]})
        return all(
            each["phase"] == "streaming" and each["stream"]["checkpointed_offset"] >= ends[each["link"]]
            for each in status["links"]
        )

    def _note_syncs(self, now: dict[str, Any]) -> None:
        """Counts full syncs of a process once."""
        for link, syncs in now.items():
            known = self._known.get(link, {})
            for reason, count in syncs.items():
                if reason != "first":
                    self.report.full_syncs[reason] += max(0, count - known.get(reason, 0))
        self._known = now


def _promoted(cluster: Cluster) -> bool:
    """Every slot has an owner that lives."""
    for node in cluster.nodes:
        if node.alive and b"cluster_state:ok" not in cluster.call(node, "CLUSTER", "INFO"):
            return False
    return all(node.alive for node in cluster.owners())


def run_cluster_deck(
    faults: int, seed: int, *, source: Binary | None, target: Binary | None, tell: bool
) -> ClusterReport:
    """See `ClusterDeck.run`."""
    with ClusterDeck(seed, source, target) as deck:
        return deck.run(faults, tell=tell)
