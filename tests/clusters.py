"""Real clusters on loopback for tests: some primaries, with replicas where they are wanted, up in a second or two."""

from __future__ import annotations

import functools
import socket
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

import redis

from portd.kernel.slots import key_slot
from tests.reading import read_functions
from tests.servers import Server, default_binary, free_port, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.servers import Binary, Setting
    from tests.wire import Argument

SLOTS = 16384
BUS = 10_000  # the bus port of a node is that far above its own
AGAIN_SECONDS = 15.0  # until a failover that was not made is asked for once more
TIMEOUT_MS = 1500  # after which a node that is silent is taken for dead


class Cluster:
    """A cluster of *primaries* nodes with slots, and *replicas* of each of them. A context manager.

    Args:
        binary: the executable, `default_binary()` when None.
        primaries: nodes with slots.
        replicas: of each.
        tls: settings that name certificates: each node has a port for TLS, too, and nodes speak it with each other.
        dealt: slots are dealt out one by one, so that each is a range of its own.
        config: settings of every node.
    """

    def __init__(
        self,
        binary: Binary | None = None,
        primaries: int = 3,
        replicas: int = 0,
        tls: Mapping[str, str] | None = None,
        *,
        dealt: bool = False,
        **config: Setting,
    ) -> None:
        self.binary = binary or default_binary()
        self._dealt = dealt
        settings: dict[str, Any] = {
            "cluster_enabled": True,
            "cluster_node_timeout": TIMEOUT_MS,
            "cluster_replica_validity_factor": 0,
        }
        self._tls = tls is not None
        if tls is not None:
            settings |= {"tls_cluster": True, "tls_replication": True, "tls_auth_clients": "no", **tls}
        self._settings = settings | config
        self.primaries = [Server(self.binary, **settings | config) for _ in range(primaries)]
        self.replicas = [Server(self.binary, **settings | config) for _ in range(primaries * replicas)]
        self.extra: list[Server] = []  # that joined later
        self._stack = ExitStack()

    @property
    def nodes(self) -> list[Server]:
        """All of them."""
        return [*self.primaries, *self.replicas]

    def __enter__(self) -> Self:
        for node in self.nodes:
            node.port = port_with_bus()
            if self._tls:
                node.config["tls-port"] = port_with_bus()
            self._stack.enter_context(node)
        count = len(self.primaries)
        for number, node in enumerate(self.nodes):
            self.call(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < count:
                block = range(number * SLOTS // count, (number + 1) * SLOTS // count)
                self.call(node, "CLUSTER", "ADDSLOTS", *(range(number, SLOTS, count) if self._dealt else block))
            if number:
                self.call(node, "CLUSTER", "MEET", "127.0.0.1", self._met_at(self.nodes[0]))
        wait_for_sync(lambda: all(len(self.known(node)) == len(self.nodes) for node in self.nodes))
        for number, replica in enumerate(self.replicas):
            primary = self.primaries[number % count]
            name = self.name(primary)
            wait_for_sync(functools.partial(self._knows, replica, name))
            self.call(replica, "CLUSTER", "REPLICATE", name)
        self.until_up()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _met_at(self, node: Server) -> int:
        """The port that its bus belongs to, and that of its URL."""
        return int(str(node.config["tls-port"])) if self._tls else node.port

    # -- asking

    @staticmethod
    def call(node: Server, *words: Argument) -> Any:
        """One command to one node."""
        with Wire(node) as wire:
            return wire.call(*words)

    def name(self, node: Server) -> str:
        """The id of a node."""
        return str(self.call(node, "CLUSTER", "MYID").decode())

    def known(self, node: Server) -> list[str]:
        """Ids of the nodes that a node knows and is not meeting still."""
        lines = self.call(node, "CLUSTER", "NODES").decode().splitlines()
        return [line.split()[0] for line in lines if "handshake" not in line.split()[2]]

    def _knows(self, node: Server, name: str) -> bool:
        return name in self.known(node)

    def is_up(self) -> bool:
        """Every node says so, all replicas follow."""
        try:
            return self._is_up()
        except redis.ResponseError:  # LOADING: a replica reads what its primary has sent
            return False

    def _is_up(self) -> bool:
        if not all(b"cluster_state:ok" in self.call(node, "CLUSTER", "INFO") for node in self.nodes):
            return False
        told = [node.info("replication") for node in self.nodes]
        return all(each["role"] == "master" or each["master_link_status"] == "up" for each in told) and (
            sum(each["role"] == "master" for each in told) == len(self.primaries)
        )

    def until_up(self) -> None:
        """Returns when it is; what the nodes think is told where it does not come to that."""
        wait_for_sync(self.is_up, dump=self.views)

    def views(self) -> str:
        """What the nodes that live think of the cluster."""
        asked = ("INFO",), ("NODES",)
        told = (
            (node, *(self.call(node, "CLUSTER", *words).decode() for words in asked))
            for node in self.nodes
            if node.alive
        )
        return "\n".join(
            f"{node.port}: {info.split()[0]} {node.info('replication')}\n{nodes}" for node, info, nodes in told
        )

    @property
    def url(self) -> str:
        """As portd takes it."""
        seeds = ",".join(f"127.0.0.1:{self._met_at(node)}" for node in self.primaries[:2])
        return f"{'rediss' if self._tls else 'redis'}+cluster://{seeds}"

    def fail_over(self, replica: Server, *how: str) -> None:
        """Promotes a replica: in order, or by ``FORCE`` or ``TAKEOVER``; returns when every node says so."""
        name, asked = self.name(replica), 0.0

        def promoted() -> bool:
            nonlocal asked
            if replica.info("replication")["role"] == "master":
                return self._all_see(name)
            if time.monotonic() - asked > AGAIN_SECONDS:  # a server that is too busy gives it up
                asked = time.monotonic()
                self.call(replica, "CLUSTER", "FAILOVER", *how)
            return False

        wait_for_sync(promoted)

    def _all_see(self, name: str) -> bool:
        """Every node that lives takes that one for a primary with slots."""
        for node in self.nodes:
            if node.alive:
                entries = self.call(node, "CLUSTER", "SLOTS")
                if not any(len(entry[2]) > 2 and entry[2][2].decode() == name for entry in entries):
                    return False
        return True

    @contextmanager
    def joining(self) -> Iterator[Server]:
        """A primary without slots that every node knows, for the length of the block."""
        fresh = self.join()
        try:
            yield fresh
        finally:
            self.extra.remove(fresh)
            fresh.close()

    def fresh(self) -> Server:
        """A node of the same kind that runs, and knows nobody."""
        return Server(self.binary, **self._settings).start()

    def join(self) -> Server:
        """A primary without slots joins; returns when every node knows it."""
        fresh = self.fresh()
        self.call(fresh, "CLUSTER", "MEET", "127.0.0.1", self._met_at(self.nodes[0]))
        self.welcome(fresh)
        return fresh

    def welcome(self, fresh: Server) -> None:
        """Returns when every node knows one that is about to join, and it is part of the cluster."""
        name = self.name(fresh)
        wait_for_sync(lambda: b"cluster_state:ok" in self.call(fresh, "CLUSTER", "INFO"))
        wait_for_sync(lambda: all(self._knows(node, name) for node in self.nodes))
        self.extra.append(fresh)

    def leave(self, node: Server) -> None:
        """One that joined goes; no node remembers it."""
        name = self.name(node)
        self.extra.remove(node)
        node.close()
        for each in (*self.nodes, *self.extra):
            with Wire(each) as wire:
                wire.many([("CLUSTER", "FORGET", name)], errors=True)  # a tool may have said so

    def move_slot(self, slot: int, into: Server, *, until: Callable[[], object] = lambda: None) -> None:
        """Moves a slot as redis-cli does, key by key; *until* is called when half of the move is done."""
        source = next(node for node, ranges in self.owners().items() if any(a <= slot <= b for a, b in ranges))
        if source is into:
            return
        self._set_slot(into, slot, "IMPORTING", self.name(source))
        self._set_slot(source, slot, "MIGRATING", self.name(into))
        until()
        while keys := self.call(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
            self.call(source, "MIGRATE", "127.0.0.1", into.port, "", 0, 60_000, "KEYS", *keys)
        name = self.name(into)
        self._set_slot(into, slot, "NODE", name)
        for node in {source, *self.owners()}:
            with Wire(node) as wire:  # one that has given its last slot away may be a replica by now
                wire.many([("CLUSTER", "SETSLOT", slot, "NODE", name)], errors=True)

    @property
    def moves_at_once(self) -> bool:
        """Its servers move slots in one step."""
        return self.binary.at_least(redis=(8, 4), valkey=(9, 0))

    def begin_move(self, into: Server, *ranges: tuple[int, int]) -> None:
        """Slots of one node begin to go to another one, in one step; returns at once."""
        if self.binary.valkey:
            slots = [word for first, last in ranges for word in ("SLOTSRANGE", first, last)]
            source = next(
                node for node, owned in self.owners().items() if any(a <= ranges[0][0] <= b for a, b in owned)
            )
            self.call(source, "CLUSTER", "MIGRATESLOTS", *slots, "NODE", self.name(into))
        else:
            self.call(into, "CLUSTER", "MIGRATION", "IMPORT", *(slot for each in ranges for slot in each))

    def moves(self, node: Server) -> list[dict[str, str]]:
        """What a node tells of moves in one step, the newest first."""
        words = ("GETSLOTMIGRATIONS",) if self.binary.valkey else ("MIGRATION", "STATUS", "ALL")
        told = []
        for each in self.call(node, "CLUSTER", *words):
            read = [word.decode() if isinstance(word, bytes) else str(word) for word in each]
            told.append(dict(zip(read[::2], read[1::2], strict=False)))
        return told

    def moves_are_over(self) -> bool:
        """None of them goes on anywhere."""
        ended = {"success", "failed", "cancelled", "completed", "canceled"}
        ended -= set() if self.binary.valkey else {"failed"}  # it begins once more, where it comes from
        return not any(
            each["state"] not in ended and (each["operation"].upper() == "IMPORT" or each["state"] != "failed")
            for node in (*self.nodes, *self.extra)
            if node.alive
            for each in self.moves(node)
        )

    def _set_slot(self, node: Server, slot: int, state: str, name: str) -> None:
        """Says who has a slot, or is to have it; again and again while a replica of the node is not there."""

        def said() -> bool:
            with Wire(node) as wire:
                (answer,) = wire.many([("CLUSTER", "SETSLOT", slot, state, name)], errors=True)
            if not isinstance(answer, Exception) or "already the owner" in str(answer):  # by a try before
                return True
            if not str(answer).startswith("NOREPLICAS"):
                raise redis.ResponseError(str(answer))
            return False

        wait_for_sync(said)

    def owners(self) -> dict[Server, list[tuple[int, int]]]:
        """Ranges of slots by node, as the first one that lives tells it."""
        ports = {node.port: node for node in (*self.nodes, *self.extra)}
        asked = next(node for node in self.nodes if node.alive)
        found: dict[Server, list[tuple[int, int]]] = {}
        for first, last, primary, *_ in self.call(asked, "CLUSTER", "SLOTS"):
            found.setdefault(ports[primary[1]], []).append((first, last))
        return found

    def owner(self, key: bytes | str) -> Server:
        """The node that has a key."""
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        return next(
            node for node, ranges in self.owners().items() if any(first <= slot <= last for first, last in ranges)
        )

    def get(self, command: str, key: bytes | str, *words: Argument) -> Any:
        """A command about a key, at its node."""
        return self.call(self.owner(key), command, key, *words)

    def contents(self) -> Iterator[tuple[Server, bytes]]:
        """All keys but portd's own, with their nodes."""
        for node in self.owners():
            client: Any = node.client()
            for key in client.scan_iter(count=1000):
                if not key.startswith(b"portd:"):
                    yield node, key


def port_with_bus() -> int:
    """A free port whose bus port is free, too."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + BUS))
            except OSError:
                continue
            return port


def differences(
    source: Server | Cluster,
    cluster: Cluster,
    named: Callable[[bytes], bytes | None] = lambda key: key,
    drift_ms: int = 0,
) -> list[str]:
    """What is not the same in db 0 of a server, or in a cluster, and in another cluster.

    Keys at their nodes, values by digest, expiry times where both can tell them, function libraries of every node.

    Args:
        source: a server or a cluster.
        cluster: another one.
        named: under which name a key of the source is expected; None: under none.
        drift_ms: expiry times may differ by so much: `MIGRATE` sends how long a key lives still, and each move makes that longer.
    """
    found: list[str] = []
    absolute = all(each.binary.at_least(redis=(7, 0), valkey=(0,)) for each in (source, cluster))
    contents = (
        _contents(source, absolute=absolute)
        if isinstance(source, Server)
        else _contents_of(source, found, absolute=absolute)
    )
    mine = {name: facts for key, facts in contents.items() if (name := named(key)) is not None}
    there = _contents_of(cluster, found, absolute=absolute)
    first = source if isinstance(source, Server) else next(iter(source.owners()))
    if absolute:  # functions came with the same version
        for node in cluster.owners():
            with Wire(first) as one, Wire(node) as other:
                if read_functions(one) != read_functions(other):
                    found.append(f"functions differ on node {node.port}")
    return found + [
        f"{key!r}: {mine.get(key)} in the source, {there.get(key)} in the cluster"
        for key in sorted(mine.keys() | there.keys())
        if not _alike(mine.get(key), there.get(key), drift_ms)
    ]


def _alike(one: tuple[bytes, int] | None, other: tuple[bytes, int] | None, drift_ms: int) -> bool:
    """One value, and one expiry time or nearly so; a key that expires is not one that does not."""
    if one == other or one is None or other is None:
        return one == other
    return one[0] == other[0] and min(one[1], other[1]) > 0 and abs(one[1] - other[1]) <= drift_ms


def _contents_of(cluster: Cluster, found: list[str], *, absolute: bool) -> dict[bytes, tuple[bytes, int]]:
    """Of all primaries; keys on one that has not their slot are told in *found*."""
    there: dict[bytes, tuple[bytes, int]] = {}
    for node, ranges in cluster.owners().items():
        slots = {slot for first, last in ranges for slot in range(first, last + 1)}
        for key, facts in _contents(node, absolute=absolute).items():
            if key_slot(key) not in slots:
                found.append(f"{key!r} is on node {node.port}, which has not its slot")
            there[key] = facts
    return there


def _contents(server: Server, *, absolute: bool) -> dict[bytes, tuple[bytes, int]]:
    """Digest of each key of db 0 that is not ours, and when it expires; 0 without *absolute*."""
    found = dumped(server)
    with Wire(server) as wire:
        expiries = wire.many([("PEXPIRETIME", key) for key in found] if absolute else [])
    times = expiries or [0] * len(found)
    return {
        key: (digest, time)
        for (key, digest), time in zip(found.items(), times, strict=True)
        if time != -2  # it expired
    }


def dumped(server: Server, db: int = 0) -> dict[bytes, bytes]:
    """Digest of each key of a database that is not ours."""
    client: Any = server.client(db)
    keys = [key for key in client.scan_iter(count=1000) if not key.startswith(b"portd:")]
    with Wire(server, db) as wire:
        digests = wire.many([("DEBUG", "DIGEST-VALUE", key) for key in keys])
    return {key: digest for key, (digest,) in zip(keys, digests, strict=True)}
