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


class RoamingLoad(Writer):
    """Writes to keys of some slots, wherever these are; a context manager.

    Args:
        cluster: has them.
        slots: of the keys that are written.
        seed: of what is written.
    """

    def __init__(self, cluster: Cluster, slots: Sequence[int], seed: int = 1) -> None:
        super().__init__()
        self._nodes = cluster.primaries  # their ports are known when they are started
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
            startup_nodes=[node("127.0.0.1", each.port) for each in self._nodes],
            retry=retry,
            socket_timeout=PATIENCE_SECONDS,
        )
        while not self._stop.is_set():
            try:
                with self.turn:
                    for _ in range(self._random.randint(1, 10)):
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
        ]
        return self._random.choice(choices)


def migrate(cluster: Cluster, source: Server, into: Server, first: int, last: int) -> None:
    """Moves a range of slots as one step of the servers."""
    name = cluster.name(into)
    cluster.call(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", name)
    wait_for_sync(
        lambda: any(
            (entry[0], entry[1], entry[2][2].decode()) == (first, last, name) or entry[0] <= first <= last <= entry[1]
            for entry in cluster.call(into, "CLUSTER", "SLOTS")
            if entry[2][2].decode() == name
        )
    )
