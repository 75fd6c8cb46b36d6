"""Numbers that clients write into a source cluster and read in the target meanwhile: redis-py, and Valkey GLIDE where it is installed.

Each client appends numbers that grow, to a list, a counter and a stream of one slot in one script, and a number that the source has
it does not take again, however often a client tries. So whatever happens at the source: a list holds each number once and in order, and in the end
every number is where it is in the source. Readers of the target count lists in which that is not so for a moment.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import threading
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import redis
from redis.backoff import ConstantBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry

from portd.kernel.slots import key_slot
from portd.net.topology import ranges_of
from tests.servers import wait_for_sync
from tests.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.clusters import Cluster

MOST: Final = 2000  # numbers that a list keeps
TAIL: Final = 200  # of them that are read
PAUSE_SECONDS: Final = 0.03
APPEND: Final = f"""
local last = redis.call('LINDEX', KEYS[1], -1)
if last and tonumber(last) >= tonumber(ARGV[1]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], -{MOST}, -1)
redis.call('INCR', KEYS[2])
redis.call('XADD', KEYS[3], 'MAXLEN', {MOST}, ARGV[1] .. '-1', 'n', ARGV[1])
return 1
"""


class Caller(Protocol):
    """A client of a cluster."""

    def call(self, *words: str | int) -> Any:
        """One command, where its keys are."""

    def close(self) -> None:
        """Ends its connections."""


class RedisPy:
    """redis-py.

    Args:
        ports: of nodes to begin with.
    """

    failures: tuple[type[Exception], ...] = (redis.RedisError, OSError, AttributeError, KeyError)

    def __init__(self, ports: Iterable[int]) -> None:
        node: Any = ClusterNode
        self._client: Any = RedisCluster(
            startup_nodes=[node("127.0.0.1", port) for port in ports],
            retry=Retry(ConstantBackoff(0.05), 20),
            socket_timeout=10,
        )

    def call(self, *words: str | int) -> Any:
        """One command, where its keys are."""
        return self._client.execute_command(*words)

    def close(self) -> None:
        """Ends its connections."""
        self._client.close()


class Glide:
    """Valkey GLIDE, of the package valkey-glide-sync.

    Args:
        ports: of nodes to begin with.
    """

    failures: tuple[type[Exception], ...] = (Exception,)  # its own have no base that older ones share

    def __init__(self, ports: Iterable[int]) -> None:
        glide = importlib.import_module("glide_sync")
        places = [glide.NodeAddress("127.0.0.1", port) for port in ports]
        config = glide.GlideClusterClientConfiguration(places, request_timeout=5000)
        self._client = glide.GlideClusterClient.create(config)

    def call(self, *words: str | int) -> Any:
        """One command, where its keys are."""
        return self._client.custom_command([str(word) for word in words])

    def close(self) -> None:
        """Ends its connections."""
        self._client.close()


CLIENTS: Final[dict[str, type[RedisPy | Glide]]] = {"redis-py": RedisPy} | (
    {"glide": Glide} if importlib.util.find_spec("glide_sync") is not None else {}
)


class _Calling(Writer):
    """Calls turn by turn until it is stopped, by another client where one has failed, as an application's supervisor has it.

    Args:
        client: of which kind.
        cluster: whom it calls.

    Attributes:
        failures: of clients.
    """

    def __init__(self, client: type[RedisPy | Glide], cluster: Cluster) -> None:
        super().__init__()
        self.failures = 0
        self._client, self._cluster = client, cluster

    def _write(self) -> None:
        caller: Caller | None = None
        while not self._stop.wait(PAUSE_SECONDS):
            try:
                caller = caller or self._client([node.port for node in self._cluster.nodes])
                self._turn(caller)
            except self._client.failures:
                self.failures += 1
                if caller is not None:
                    caller.close()
                caller = None
        if caller is not None:
            caller.close()

    def _turn(self, caller: Caller) -> None:
        """Once."""
        raise NotImplementedError


class _Reading(_Calling):
    """Reads lists in the target; `commands` are those that were read, *twice* those in which a number came again."""

    def __init__(self, client: type[RedisPy | Glide], cluster: Cluster, keys: Sequence[str]) -> None:
        super().__init__(client, cluster)
        self.twice = 0
        self._keys = keys
        self._random = random.Random(len(keys))

    def _turn(self, caller: Caller) -> None:
        key = self._random.choice(self._keys)
        found = [int(each) for each in caller.call("LRANGE", key, -TAIL, -1)]
        if any(one >= other for one, other in pairwise(found)):
            self.twice += 1
        self.commands += bool(found)


class Ledger(_Calling):
    """One client at the source, another one of its kind at the target; a context manager.

    Args:
        name: of the client, see `CLIENTS`.
        source: it writes there.
        target: it reads there.
        slots: of the keys.
        named: what a key is called in the target.

    Attributes:
        turn: held while it writes.
    """

    def __init__(
        self, name: str, source: Cluster, target: Cluster, slots: Iterable[int], named: Callable[[str], str]
    ) -> None:
        super().__init__(CLIENTS[name], source)
        self.name = name
        self.turn = threading.Lock()
        self._source, self._target, self._named = source, target, named
        self._tags = tags_of(slots)
        self._number = 0
        self._random = random.Random(name)
        self._reading = _Reading(self._client, target, [named(self._key(tag, "list")) for tag in self._tags])

    def _key(self, tag: str, what: str) -> str:
        return f"{tag}:ledger:{self.name}:{what}"

    def __enter__(self) -> Self:
        self._reading.__enter__()
        return super().__enter__()

    def stop(self) -> None:
        """Writes and reads no more."""
        super().stop()
        self._reading.stop()

    def run(self) -> None:
        """Returns when another number was written, and a list read."""
        goals = self.commands, self.read
        wait_for_sync(lambda: self.commands > goals[0] and self.read > goals[1])

    @property
    def read(self) -> int:
        """Lists that were read in the target."""
        return self._reading.commands

    def _turn(self, caller: Caller) -> None:
        tag = self._random.choice(self._tags)
        keys = [self._key(tag, what) for what in ("list", "count", "stream")]
        self._number += 1
        with self.turn:
            self.commands += int(caller.call("EVAL", APPEND, 3, *keys, self._number))

    @property
    def twice(self) -> int:
        """Of them, those in which a number came again: a slot had come back, and what it was in between was being applied."""
        return self._reading.twice

    def compare(self) -> tuple[int, int, list[str]]:
        """Numbers that are lost, and that are there twice; and what counters have to say. Nothing may be on its way."""
        lost = doubled = 0
        found: list[str] = []
        for tag in self._tags:
            for what, command, words in ("list", "LRANGE", (0, -1)), ("stream", "XRANGE", ("-", "+")):
                key = self._key(tag, what)
                mine, there = (
                    Counter(_number_of(each) for each in cluster.get(command, name, *words))
                    for cluster, name in ((self._source, key), (self._target, self._named(key)))
                )
                lost += (mine - there).total()
                doubled += (there - mine).total()
                if mine != there:
                    found += [f"{key}: {spans(mine, there)} lacks in the target, {spans(there, mine)} is too much"]
            key = self._key(tag, "count")
            counts = self._source.get("GET", key), self._target.get("GET", self._named(key))
            if counts[0] != counts[1]:
                found.append(f"{key} is {counts[0]} in the source, {counts[1]} in the target")
        return lost, doubled, found


def spans(one: Counter[bytes], other: Counter[bytes]) -> str:
    """Of the numbers of one, in order: stretches of those that the other one has not, by their place."""
    numbers = sorted(one, key=lambda each: int(each.split(b"-")[0]))
    places = [place for place, each in enumerate(numbers) if one[each] > other[each]]
    shown = ", ".join(f"{a}-{b} ({numbers[a].decode()} to {numbers[b].decode()})" for a, b in ranges_of(places)[:10])
    return f"[{shown}] of {len(numbers)}"


def _number_of(entry: Any) -> bytes:
    """Of a list's element, or the id of a stream's entry."""
    number: bytes = entry[0] if isinstance(entry, list) else entry
    return number


def tags_of(slots: Iterable[int]) -> list[str]:
    """For each slot a tag of the form ``{t<number>}``."""
    wanted = dict.fromkeys(slots, "")
    number = 0
    while not all(wanted.values()):
        tag = f"{{t{number}}}"
        slot = key_slot(tag.encode())
        if slot in wanted and not wanted[slot]:
            wanted[slot] = tag
        number += 1
    return list(wanted.values())
