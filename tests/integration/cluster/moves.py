"""Writes to a cluster while its slots move, as clients do that follow MOVED and ASK."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import ConstantBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry

from portd.kernel.slots import slot_tag
from tests.servers import PATIENCE_SECONDS, Server, wait_for_sync
from tests.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.clusters import Cluster


TRANSACTIONS = 0.1  # of what is written
SCRIPT = "redis.call('INCR', KEYS[1]) return redis.call('RPUSH', KEYS[2], ARGV[1])"


class RoamingLoad(Writer):
    """Writes to keys of some slots, wherever these are; a context manager.

    Args:
        cluster: has them.
        slots: of the keys that are written.
        seed: of what is written.
    """

    def __init__(self, cluster: Cluster, slots: Sequence[int], seed: int = 1) -> None:
        super().__init__()
        self._cluster = cluster
        self._tags = [f"{{{slot_tag(slot)}}}" for slot in slots]
        self._random = random.Random(seed)
        self.turn = threading.Lock()

    def run(self, commands: int = 100) -> None:
        """Returns when so many more were written."""
        goal = self.commands + commands
        wait_for_sync(lambda: self.commands >= goal)

    def _write(self) -> None:
        retry = Retry(ConstantBackoff(0.05), 100)
        node: Any = ClusterNode
        client: Any = RedisCluster(
            startup_nodes=[node("127.0.0.1", each.port) for each in self._cluster.primaries],
            retry=retry,
            socket_timeout=PATIENCE_SECONDS,
        )
        while not self._stop.is_set():
            try:
                with self.turn:
                    for _ in range(self._random.randint(1, 10)):
                        if self._random.random() < TRANSACTIONS:
                            self._transact(client)
                        else:
                            client.execute_command(*self._one())
                        self.commands += 1
            except (
                redis.RedisError,
                OSError,
                AttributeError,
            ):  # a node that is gone, or one that redis-py has not heard of
                pass
            time.sleep(0.002)
        client.close()

    def _transact(self, client: Any) -> None:
        """Several keys of a slot at once, as a transaction."""
        tag = self._random.choice(self._tags)
        with client.pipeline(transaction=True) as pipe:
            pipe.incr(f"{tag}:counter0")
            pipe.rpush(f"{tag}:both0", self.commands)
            pipe.rpush(f"{tag}:both1", self.commands)
            pipe.execute()

    def _one(self) -> tuple[Any, ...]:
        tag, which = self._random.choice(self._tags), self._random.randrange(6)
        choices: list[tuple[Any, ...]] = [
            ("INCR", f"{tag}:counter{which}"),
            ("RPUSH", f"{tag}:list{which}", self.commands),
            ("XADD", f"{tag}:stream{which}", "MAXLEN", "1000", "*", "n", self.commands),
            ("HINCRBY", f"{tag}:hash{which}", "n", 1),
            ("DEL", f"{tag}:list{which}"),
            ("SET", f"{tag}:string{which}", self.commands),
            ("UNLINK", f"{tag}:string{which}"),
            ("SADD", f"{tag}:set{which}", self._random.randrange(50)),
            ("ZINCRBY", f"{tag}:zset{which}", 1, self._random.randrange(50)),
            ("SET", f"{tag}:passing{self.commands}", "x" * 50),
            ("MSET", f"{tag}:string{which}", self.commands, f"{tag}:other{which}", self.commands),
            ("LMOVE", f"{tag}:list{which}", f"{tag}:moved{which}", "LEFT", "RIGHT"),
            ("SMOVE", f"{tag}:set{which}", f"{tag}:members{which}", self._random.randrange(50)),
            ("COPY", f"{tag}:hash{which}", f"{tag}:copy{which}", "REPLACE"),
            ("ZUNIONSTORE", f"{tag}:union", 2, f"{tag}:zset{which}", f"{tag}:set{which}"),
            ("EVAL", SCRIPT, 2, f"{tag}:counter{which}", f"{tag}:script{which}", self.commands),
        ]
        return self._random.choice(choices)


def migrate(cluster: Cluster, into: Server, *ranges: tuple[int, int]) -> None:
    """Moves slots of one node as one step of the servers; returns when all know who has them."""
    cluster.begin_move(into, *ranges)
    until_moved(cluster, into, *ranges)


def until_moved(cluster: Cluster, into: Server, *ranges: tuple[int, int]) -> None:
    """Returns when all nodes know that a node has slots, and no move goes on."""
    name = cluster.name(into)

    def has(node: Server) -> bool:
        owned = [entry for entry in cluster.call(node, "CLUSTER", "SLOTS") if entry[2][2].decode() == name]
        return all(any(entry[0] <= first <= last <= entry[1] for entry in owned) for first, last in ranges)

    wait_for_sync(lambda: cluster.moves_are_over() and all(has(node) for node in cluster.nodes if node.alive))
