"""What befalls one cluster of two: nodes fail over, die, join and leave, connections are cut, slots move, by hand and by the servers' own tools."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import redis

from portd.kernel.slots import slot_tag
from tests.clusters import Cluster
from tests.clustertools import CLI, agreed, let_go, mend, reshard, tool
from tests.servers import PATIENCE_SECONDS, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.servers import Server

    Struck = Callable[[], str]  # strikes something, and says what; "" for nothing

ELECTION_SECONDS: Final = 60.0  # until nobody is elected any more
ROAMING: Final = (5, 77, 1234, 5400, 6000, 9999, 11000, 16000)  # slots that move one by one
SWING: Final = "a slot to and fro"
ROUNDS: Final = 3  # of a slot that goes to and fro
LESS: Final = 0.01  # of its slots, for a node that is to have less
FAILURES: Final = (redis.RedisError, OSError, StopIteration)  # of a move whose nodes are not what they were


class Side:
    """The faults of one cluster.

    Args:
        name: ``source`` or ``target``, for the table.
        cluster: it.
        chance: what happens.
    """

    def __init__(self, name: str, cluster: Cluster, chance: random.Random) -> None:
        self.name, self.cluster = name, cluster
        self._chance = chance

    def _nodes(self, role: str) -> list[Server]:
        """Those with a partner, ``master`` or ``slave``."""
        self.cluster.until_up()
        return [node for node in self.cluster.nodes if node.info("replication")["role"] == role]

    def _owners(self) -> list[Server]:
        """Primaries with slots, and those that have joined."""
        return list(dict.fromkeys([*self.cluster.owners(), *self.cluster.extra]))

    def _owner(self, slot: int) -> Server:
        return self.cluster.owner(f"{{{slot_tag(slot)}}}")

    # -- nodes

    def fail_over(self, *how: str) -> str:
        """A replica takes its primary's place: in order, or by ``FORCE`` or ``TAKEOVER``."""
        replica = self._chance.choice(self._nodes("slave"))
        self._until_replicated()
        self.cluster.fail_over(replica, *how)
        return f"{self.name}: failover{' ' + how[0].lower() if how else ''}"

    def kill_node(self, role: str) -> str:
        """A node dies; a primary is replaced by its replica. It comes back later, without its data."""
        node = self._chance.choice(self._nodes(role))
        heirs = [each for each in self._nodes("slave") if each.info("replication")["master_port"] == node.port]
        self._until_replicated()
        node.kill()
        if role == "master":
            self._until_promoted(heirs)
        time.sleep(self._chance.uniform(0, 0.5))
        node.start()
        self.cluster.until_up()
        return f"{self.name}: kill -9 of a {'primary' if role == 'master' else 'replica'}"

    def _until_replicated(self) -> None:
        """Replicas of the target have what its primaries had a moment ago.

        Of a slot that has just come, one that is promoted would lack keys that no other node has any more; its record, which came before
        them, says nothing of that. What comes from now on may be lost.
        """
        if self.name != "target":
            return
        primaries = {node.port: int(node.info("replication")["master_repl_offset"]) for node in self._nodes("master")}

        def replicated() -> bool:
            told = [node.info("replication") for node in self._nodes("slave")]
            return all(int(each["slave_repl_offset"]) >= primaries.get(each["master_port"], 0) for each in told)

        wait_for_sync(replicated)

    def _until_promoted(self, heirs: list[Server]) -> None:
        """A replica is elected; where the servers of a busy machine come to no end of that, an operator says who it is."""
        deadline = time.monotonic() + ELECTION_SECONDS

        def promoted() -> bool:
            let_go(self.cluster)
            if not self._promoted() and time.monotonic() > deadline:
                with Wire(heirs[0]) as wire:
                    wire.many([("CLUSTER", "FAILOVER", "TAKEOVER")], errors=True)
            return self._promoted()

        wait_for_sync(promoted, PATIENCE_SECONDS, dump=self.cluster.views)

    def _promoted(self) -> bool:
        """Every slot has an owner that lives, and all know it."""
        alive = [node for node in self.cluster.nodes if node.alive]
        return all(b"cluster_state:ok" in Cluster.call(node, "CLUSTER", "INFO") for node in alive) and all(
            node.alive for node in self.cluster.owners()
        )

    def cut(self) -> str:
        """Our connections to one node are ended by it, or to all of them."""
        nodes = [node for node in self.cluster.owners() if node.alive]
        for node in nodes if self._chance.random() < 0.3 else [self._chance.choice(nodes)]:
            for client in node.client().client_list():
                if client["name"].startswith("portd-") or (self.name == "source" and "S" in client["flags"]):
                    with Wire(node) as wire:  # one that has ended by itself is no error
                        wire.many([("CLIENT", "KILL", "ID", client["id"])], errors=True)
        return f"{self.name}: connections cut"

    def join(self, ready: Callable[[], None], read: Callable[[], None]) -> str:
        """A node joins, and gets slots as soon as *ready* returns; or the one that has joined gives its slots away, and leaves behind *read*."""
        self.cluster.until_up()
        if self.cluster.extra:
            return self._leave(self.cluster.extra[0], read)
        if CLI is not None and self._chance.random() < 0.5:
            fresh = self.cluster.fresh()
            tool(self.cluster, "add-node", f"127.0.0.1:{fresh.port}")
            self.cluster.welcome(fresh)
        else:
            fresh = self.cluster.join()
        ready()
        self._moves([(slot, fresh) for slot in self._chance.sample(ROAMING, 2)])
        if CLI is not None and self._chance.random() < 0.5:
            self._reshard(self._chance.choice(list(self.cluster.owners())), fresh)
        return f"{self.name}: a node joins"

    def _leave(self, node: Server, read: Callable[[], None]) -> str:
        into = self._chance.choice([each for each in self.cluster.owners() if each is not node])
        ranges = self.cluster.owners().get(node, ())
        self._moves([(slot, into) for first, last in ranges for slot in range(first, last + 1)])
        wait_for_sync(lambda: node not in self.cluster.owners(), PATIENCE_SECONDS)
        read()
        time.sleep(self._chance.uniform(0, 3.0))
        if CLI is not None and self._chance.random() < 0.5:
            tool(
                self.cluster, "del-node", self.cluster.name(node), expect=False
            )  # it may be a replica by now, of some version
        self.cluster.leave(node)
        return f"{self.name}: a node leaves"

    # -- slots

    def move(self, middle: Struck) -> str:
        """Slots that are written to go to another shard, key by key; something is struck in the middle."""
        self.cluster.until_up()
        slots = tuple(self._chance.sample(ROAMING, self._chance.randint(1, 4)))
        into, struck = self._chance.choice(self._owners()), list[str]()

        def strike() -> None:
            if not struck:
                struck.append(middle())

        self._moves([(slot, into) for slot in slots], strike)
        return f"{self.name}: slots moved{told(struck)}"

    def _moves(self, moves: list[tuple[int, Server]], middle: Callable[[], object] = lambda: None) -> None:
        """One after the other; what could not be ended, since nodes are not what they were, is mended."""
        try:
            for slot, into in moves:
                self.cluster.move_slot(slot, into, until=middle)
        except FAILURES:
            mend(self.cluster, [slot for slot, _ in moves])

    def swing(self, middle: Struck) -> str:
        """One slot goes to and fro between two shards."""
        self.cluster.until_up()
        slot, struck = self._chance.choice(ROAMING), list[str]()
        one = self._owner(slot)
        other = self._chance.choice([node for node in self._owners() if node is not one])
        when = self._chance.randrange(2 * ROUNDS)
        at_once = self.cluster.binary.at_least(redis=(8, 4)) and self._chance.random() < 0.5
        for number in range(2 * ROUNDS):
            hit = (lambda: struck.append(middle())) if number == when else (lambda: None)
            if at_once:
                self._at_once(slot, one if number % 2 else other, hit)
            else:
                self._moves([(slot, one if number % 2 else other)], hit)
            time.sleep(self._chance.uniform(0, 0.2))
        return f"{self.name}: {SWING}{told(struck)}"

    def _at_once(self, slot: int, into: Server, middle: Callable[[], object]) -> None:
        """One slot in one step, which the servers may give up."""
        with suppress(*FAILURES):
            self.cluster.begin_move(into, (slot, slot))
        middle()
        wait_for_sync(self._at_rest, PATIENCE_SECONDS)

    def migrate(self, middle: Struck) -> str:
        """Some slots go to another shard in one step, where its servers can."""
        if not self.cluster.moves_at_once:
            return self.move(middle)
        self.cluster.until_up()
        slot = self._chance.choice(ROAMING)
        node = self._owner(slot)
        last = next(end for begin, end in self.cluster.owners()[node] if begin <= slot <= end)
        last = min(last, slot + self._chance.choice((0, 0, 30)))
        into = self._chance.choice([each for each in self._owners() if each is not node])
        struck = list[str]()
        with suppress(*FAILURES):  # a node may be a replica by now
            self.cluster.begin_move(into, (slot, last))
        struck.append(middle())
        wait_for_sync(self._at_rest, PATIENCE_SECONDS)
        return f"{self.name}: slots moved in one step{told(struck)}"

    def _at_rest(self) -> bool:
        """No move in one step goes on, and all nodes have one map."""
        return self.cluster.moves_are_over() and self.cluster.is_up() and agreed(self.cluster)

    # -- tools

    def use_tool(self, middle: Struck) -> str:
        """Operators' tools reshape the cluster, or mend it, while something is struck."""
        if CLI is None:
            return self.move(middle)
        self.cluster.until_up()
        uses = {"reshard": self._reshard_any, "rebalance": self._rebalance, "fix": self._fix}
        name = self._chance.choice(list(uses))
        with ThreadPoolExecutor(1) as pool:
            used = pool.submit(uses[name])
            time.sleep(self._chance.uniform(0, 1.0))
            struck = [middle()]
            try:
                used.result()
            except (*FAILURES, AssertionError):  # a node in use is none any more, or not yet what others take it for
                name += ", given up"
        mend(self.cluster)
        return f"{self.name}: --cluster {name}{told(struck)}"

    def _reshard_any(self) -> None:
        node, into = self._chance.sample(list(self.cluster.owners()), 2)
        self._reshard(node, into)

    def _reshard(self, node: Server, into: Server) -> None:
        """Some of its slots; a node that has few keeps half of them."""
        has = sum(last - first + 1 for first, last in self.cluster.owners().get(node, ()))
        if node is not into and has > 1:
            reshard(self.cluster, node, into, min(has // 2, self._chance.randint(5, 40)))

    def _rebalance(self) -> None:
        """As it is, but for one node that is to have a little less."""
        has = {node: sum(b - a + 1 for a, b in ranges) for node, ranges in self.cluster.owners().items()}
        less = self._chance.choice(self.cluster.nodes)
        weights = [
            f"{self.cluster.name(node)}={count * (1 - LESS * (node is less)):.1f}" for node, count in has.items()
        ]
        options = ("--cluster-weight", *weights, "--cluster-threshold", 0.1, "--cluster-timeout", 60_000)
        tool(self.cluster, "rebalance", options=options)

    def _fix(self) -> None:
        """A move that was given up in the middle."""
        slot = self._chance.choice(ROAMING)
        node = self._owner(slot)
        into = self._chance.choice([each for each in self._owners() if each is not node])
        Cluster.call(into, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.cluster.name(node))
        Cluster.call(node, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.cluster.name(into))
        if keys := Cluster.call(node, "CLUSTER", "GETKEYSINSLOT", slot, 5):
            Cluster.call(node, "MIGRATE", "127.0.0.1", into.port, "", 0, 60_000, "KEYS", *keys)
        time.sleep(self._chance.uniform(0, 1.0))
        mend(self.cluster, (slot,))


def told(struck: list[str]) -> str:
    """For the table."""
    return f", {struck[0]}" if struck and struck[0] else ""
