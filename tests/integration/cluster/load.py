"""Writes to the shards of a cluster what shows a command that is missing or comes twice."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, Self

import redis

from portd.kernel.slots import key_slot, slot_tag
from tests.servers import Server, wait_for_sync
from tests.wire import Wire
from tests.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.clusters import Cluster
    from tests.process import Portd

LINKS = ("default.0", "default.5461", "default.10922")


class Load(Writer):
    """Writes to one shard of a cluster what shows a command that is missing or comes twice; a context manager.

    Args:
        cluster: has the shard.
        node: its primary. Its slots are written to at whoever has them, also when they are several; what is refused is left out.

    Attributes:
        PAUSE: seconds between two pipelines.
        turn: held while it writes.
    """

    PAUSE: ClassVar = 0.005

    def __init__(self, cluster: Cluster, node: Server) -> None:
        super().__init__()
        ranges = cluster.owners()[node]
        tags = (f"{{t{number}}}" for number in range(10_000))
        mine = (tag for tag in tags if any(a <= key_slot(tag.encode()) <= b for a, b in ranges))
        self._tags = [next(mine) for _ in range(20)]
        self._there = self._tags  # those at the node that is written to
        self.turn = threading.Lock()
        self._cluster = cluster
        self._random = random.Random(node.port)

    def _write(self) -> None:
        while not self._stop.is_set():
            try:
                with Wire(self._meet()) as wire:
                    while not self._stop.is_set():
                        with self.turn:
                            told = wire.many([self._one() for _ in range(self._random.randint(1, 30))], errors=True)
                        if any(str(each).startswith(("MOVED", "CLUSTERDOWN")) for each in told):
                            break
                        self.commands += 1
                        time.sleep(self.PAUSE)
            except (OSError, StopIteration, redis.ResponseError):  # a node is gone, or no primary yet
                pass
            time.sleep(0.05)

    def _meet(self) -> Server:
        """The node of one of its tags, and which others it has."""
        owners = self._cluster.owners()
        wanted = key_slot(self._random.choice(self._tags).encode())
        node, ranges = next((node, each) for node, each in owners.items() if _within(wanted, each))
        self._there = [tag for tag in self._tags if _within(key_slot(tag.encode()), ranges)]
        return node

    def _one(self) -> tuple[Any, ...]:
        tag = self._random.choice(self._there)
        choices: list[tuple[Any, ...]] = [
            ("INCR", f"{tag}:counter"),
            ("RPUSH", f"{tag}:list", self.commands),
            ("XADD", f"{tag}:stream", "MAXLEN", "1000", "*", "n", self.commands),
            ("MSET", f"{tag}:a", self.commands, f"{tag}:b", self.commands),
            ("HINCRBY", f"{tag}:hash", "n", 1),
            ("LMOVE", f"{tag}:list", f"{tag}:other", "LEFT", "RIGHT"),
            ("DEL", f"{tag}:a", f"{tag}:other"),
            ("SADD", f"{tag}:set", self._random.randrange(50)),
            ("ZINCRBY", f"{tag}:zset", 1, self._random.randrange(50)),
        ]
        return self._random.choice(choices)


def _within(slot: int, ranges: list[tuple[int, int]]) -> bool:
    return any(first <= slot <= last for first, last in ranges)


class Loads:
    """A `Load` for each primary, or another *kind* of that; a context manager."""

    def __init__(self, cluster: Cluster, kind: type[Load] = Load) -> None:
        self._loads = [kind(cluster, node) for node in cluster.primaries]

    def __enter__(self) -> Self:
        for each in self._loads:
            each.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Writes no more."""
        for each in self._loads:
            each.stop()

    def pause(self) -> None:
        """Writes nothing until `go_on`; returns when that is so."""
        for each in self._loads:
            each.turn.acquire()

    def go_on(self) -> None:
        """Ends a pause."""
        for each in self._loads:
            each.turn.release()

    @property
    def commands(self) -> int:
        """Pipelines that were written."""
        return sum(each.commands for each in self._loads)

    def run(self, commands: int = 60) -> None:
        """Until each has written so much more."""
        goals = [each.commands + commands for each in self._loads]
        wait_for_sync(lambda: all(each.commands >= goal for each, goal in zip(self._loads, goals, strict=True)))


def fill(cluster: Cluster) -> None:
    """Keys of all types on every node."""
    for number in range(60):
        tag = f"{{t{number}}}"
        with Wire(cluster.owner(tag)) as wire:
            wire.many(
                [
                    ("SET", f"{tag}:text", "x" * number),
                    ("SET", f"{tag}:expires", number, "PX", 10_000_000 + number),
                    ("RPUSH", f"{tag}:l", *range(number + 1)),
                    ("SADD", f"{tag}:s", *range(number + 1)),
                    ("HSET", f"{tag}:h", "field", number, "other", "y"),
                    ("ZADD", f"{tag}:z", number, "member"),
                    ("XADD", f"{tag}:x", "*", "n", number),
                    ("XGROUP", "CREATE", f"{tag}:x", "group", "0"),
                ]
            )


def streaming(status: Mapping[str, Any]) -> bool:
    """Every link has caught up that has not ended, as those of shards without slots do."""
    return all(each["phase"] in {"streaming", "stopped"} for each in status["links"])


def primaries(cluster: Cluster) -> dict[str, Server]:
    """The node that each link reads now."""
    return {link: cluster.owner(f"{{{slot_tag(int(link.rpartition('.')[2]))}}}") for link in LINKS}


def until_applied(portd: Portd, nodes: Mapping[str, Server]) -> dict[str, Any]:
    """Waits until everything is in the target that the primaries have written."""
    ends = {name: int(node.client().info("replication")["master_repl_offset"]) for name, node in nodes.items()}
    return portd.until(
        lambda status: all(
            each["stream"]["checkpointed_offset"] >= ends[each["link"]]
            for each in status["links"]
            if each["link"] in ends
        )
    )
