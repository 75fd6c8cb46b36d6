"""Commands over several slots of a cluster: what is not cut by slot is copied from the source, key by key, and each slot is exact."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import pytest

from portd.kernel.slots import key_slot, slot_tag
from tests.clusters import Cluster, differences
from tests.integration.cluster import load as shards
from tests.integration.cluster.test_away import HASTY, SPARSE
from tests.integration.test_filters_copies import away
from tests.integration.test_filters_stream import filled
from tests.process import Portd, streaming
from tests.servers import wait_for_sync
from tests.wire import Wire
from tests.writer import Writer

if TYPE_CHECKING:
    from tests.servers import Server

# What brings values from slot to slot, and what changes them there. {i}, {j}, {o} and {p} are names of keys, {n} is a number.
LOAD: Final = (
    "SET {o}:v {n}; RENAME {o}:v {i}:v; APPEND {i}:v {n}",
    "RENAME {i}:v {j}:v; RENAMENX {j}:v {p}:v; APPEND {p}:v x",
    "INCRBY {o}:c {n}; COPY {o}:c {i}:c REPLACE; INCR {i}:c; INCR {j}:c",
    "SADD {o}:s {n} a{n}; SMOVE {o}:s {i}:s {n}; SADD {i}:s x{n}; SREM {i}:s a{n}",
    "RPUSH {o}:l {n} b c; RPOPLPUSH {o}:l {i}:l; LPUSH {i}:l {n}; LTRIM {i}:l 0 20",
    "RPUSH {o}:l {n}; LMOVE {o}:l {j}:l LEFT RIGHT; RPUSH {j}:l {n}; LTRIM {j}:l 0 20; LTRIM {o}:l 0 20",
    "SADD {j}:s {n}; SUNIONSTORE {i}:u {i}:s {j}:s {o}:s; SADD {i}:u {n}; SUNIONSTORE {j}:u {i}:u {i}:s",
    "DEL {i}:v {j}:u {o}:s {p}:l; MSET {i}:x {n} {j}:x {n} {o}:x {n}; INCRBY {j}:x {n}",
    "MULTI; INCR {i}:n; SET {o}:x {n}; RENAME {o}:x {i}:x; APPEND {i}:x 1; APPEND {j}:x {n}; EXEC",
    "EVAL redis.call('SET',KEYS[1],ARGV[1])redis.call('RENAME',KEYS[1],KEYS[2])return(redis.call('INCR',KEYS[2])) 2 {o}:e {i}:e {n}",
    "ZADD {o}:z {n} a 3 b; ZUNIONSTORE {i}:z 2 {o}:z {i}:z; ZINCRBY {i}:z 1 a",
    "RPUSH {o}:q 3 1 {n}; SORT {o}:q STORE {i}:q; LTRIM {i}:q 0 5; RPUSH {i}:q {n}; LTRIM {o}:q 0 5",
    "PFADD {o}:p {n}; PFMERGE {i}:p {o}:p; PFADD {i}:p a{n}; SET {o}:b {n}; BITOP NOT {i}:b {o}:b; APPEND {i}:b {n}",
    "INCR {i}:n; INCR {j}:n; INCR {o}:n; RPUSH {p}:log {n}; LTRIM {p}:log 0 50",
)
NAMES: Final = 60  # keys of each kind, with as many slots


class Load(Writer):
    """Writes rows of it all the time; a context manager.

    Args:
        source: where.
        seed: of what is written.
        pause: seconds between two of some rows.
    """

    def __init__(self, source: Server, seed: int = 1, pause: float = 0.004) -> None:
        super().__init__()
        self._source, self._chance, self._pause = source, random.Random(seed), pause

    def _write(self) -> None:
        with Wire(self._source) as wire:
            while not self._stop.is_set():
                write(wire, self._chance, 5)
                self.commands += 1
                time.sleep(self._pause)

    def run(self, batches: int = 60) -> None:
        """Until so many more are written."""
        goal = self.commands + batches
        wait_for_sync(lambda: self.commands >= goal)


def write(wire: Wire, chance: random.Random, rows: int) -> None:
    """Some rows of the load. What is refused, for a type is another one, changes nothing."""
    for _ in range(rows):
        row = chance.choice(LOAD).replace("{n}", str(chance.randrange(1000)))
        wire.many([tuple(argv) for argv in filled(row, chance.randrange(NAMES))], errors=True)


def come(portd: Portd, source: Server) -> dict[str, Any]:
    """The status once all that was written is there, and nothing is owed any more."""
    portd.until_applied(source)
    portd.until(lambda status: status["stream"]["keys_owed"] == 0)
    return portd.until_applied(source)


def counts_add_up(status: dict[str, Any]) -> bool:
    """Each command of the source was applied, left out on purpose, or failed."""
    stream = status["stream"]
    return bool(
        stream["commands_read"] == stream["commands_applied"] + stream["commands_filtered"] + stream["commands_failed"]
    )


def test_each_command_over_several_slots(source: Server, cluster: Cluster) -> None:
    """Of each kind one: cut where that is exact, else the keys that it writes are copied; none is a dead letter."""
    with Portd(source, cluster.url) as portd:
        portd.until(streaming)
        with Wire(source) as wire:
            wire.many(
                [
                    ("RPUSH", "l1", 1, 2, 3),
                    ("SADD", "s1", 1, 2),
                    ("SADD", "s2", 3),
                    ("ZADD", "z1", 1, "a"),
                    ("SET", "k1", 1),
                ]
            )
            wire.many(
                [("GEOADD", "g1", 13, 38, "a"), ("PFADD", "p1", 1), ("SET", "e1", 1, "EX", 10_000), ("SET", "k9", 9)]
            )
            commands: list[tuple[Any, ...]] = [
                ("COPY", "k1", "k2"), ("RENAME", "k1", "k3"), ("INCR", "k3"), ("RENAMENX", "k3", "k4"), ("RENAMENX", "k2", "k4"),
                ("SMOVE", "s1", "s3", 1), ("LMOVE", "l1", "l2", "LEFT", "LEFT"), ("RPOPLPUSH", "l1", "l3"), ("RPUSH", "l3", 7),
                ("SUNIONSTORE", "s4", "s1", "s2"), ("SADD", "s4", 9), ("ZUNIONSTORE", "z2", 1, "z1"), ("ZRANGESTORE", "z3", "z1", 0, -1),
                ("BITOP", "NOT", "b1", "k4"), ("PFMERGE", "p2", "p1"), ("SORT", "l1", "STORE", "l4"), ("GEOSEARCHSTORE", "g2", "g1",
                "FROMLONLAT", 13, 38, "BYRADIUS", 10, "km"), ("MSETEX", 3, "m1", 1, "m2", 2, "m3", 3, "NX", "EX", 5000),
                ("RENAME", "e1", "e2"), ("MULTI",), ("INCR", "k9"), ("RENAME", "k9", "k10"), ("INCR", "k10"), ("EXEC",),
                ("PFCOUNT", "p1", "p2"), ("MSETNX", "n1", 1, "n2", 2), ("SET", "gone", 1), ("RENAME", "gone", "gone2"), ("DEL", "gone2"),
            ]  # fmt: skip
            wire.many(commands, errors=True)
        status = come(portd, source)
        assert counts_add_up(status)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not status["dead_letters"], portd.log()
    assert status["stream"]["keys_copied"] >= 15
    assert not differences(source, cluster)


@pytest.mark.parametrize("kills", [3, pytest.param(12, marks=pytest.mark.deep)])
def test_killed_at_random_moments_each_slot_is_exact(source: Server, cluster: Cluster, kills: int) -> None:
    """SIGKILL at any moment under load: records tell what every slot lacks, and it comes once."""
    moments = random.Random(17)
    with Portd(source, cluster.url) as portd, Load(source) as load, Load(source, 2):
        portd.until(streaming)
        for _ in range(kills):
            time.sleep(moments.random() * 0.7)
            portd.kill()
            portd.start()
            portd.until(lambda status: status["stream"]["transactions"] > 0)
        load.stop()
    with Portd(source, cluster.url) as portd:
        status = come(portd, source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not status["dead_letters"], portd.log()
    assert not differences(source, cluster)


@pytest.mark.parametrize("how", [(), ("FORCE",), ("TAKEOVER",)], ids=["orderly", "force", "takeover"])
def test_failovers_of_the_target_bring_no_copy_twice(source: Server, how: tuple[str, ...]) -> None:
    """A replica of each shard is promoted under load: a record goes back with its slot, and names what the slot lacks there."""
    with Cluster(replicas=1) as cluster, Portd(source, cluster.url) as portd, Load(source, 3) as load:
        portd.until(streaming)
        for replica in cluster.replicas:
            cluster.until_up()
            cluster.fail_over(replica, *how)
            time.sleep(0.3)
        load.stop()
        status = come(portd, source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert not status["dead_letters"], portd.log()
        assert not differences(source, cluster)


def owed(portd: Portd, wire: Wire, *commands: tuple[Any, ...]) -> list[str]:
    """Writes commands while nothing can be copied; the keys that are owed, when every slot has what it can have before."""
    wire.many(list(commands))
    end = offset_of(wire)
    status = portd.until(lambda status: status["stream"]["checkpointed_offset"] >= end)
    assert status["stream"]["keys_owed"] > 0
    return [str(each[2]) for each in commands if each[0] in {"RENAME", "COPY"}]


def offset_of(wire: Wire) -> int:
    """How far the source is."""
    lines = wire.call("INFO", "replication").decode().splitlines()
    return int(next(line for line in lines if line.startswith("master_repl_offset")).partition(":")[2])


def record_of(cluster: Cluster, key: str) -> bytes:
    """What the record of a key's slot says."""
    found = cluster.get("GET", f"portd:checkpoint:default:{{{slot_tag(key_slot(key.encode()))}}}")
    assert isinstance(found, bytes)
    return found


COMMANDS: Final[tuple[tuple[Any, ...], ...]] = (
    ("RENAME", "a", "k1"), ("APPEND", "k1", "x"), ("COPY", "b", "k2"), ("RENAME", "k2", "k3"), ("INCR", "k2"), ("SET", "k3", "new"),
    ("SADD", "{k3}s", 1), ("SUNIONSTORE", "{k3}t", "{k3}s", "s"), ("SUNIONSTORE", "{k3}u", "{k3}t"), ("RENAME", "c", "k4"), ("DEL", "k4"),
)  # fmt: skip


@pytest.mark.parametrize("between", ["nothing", "a flush", "a move"])
@pytest.mark.sampled(1)
def test_a_kill_between_a_command_and_its_copy(source: Server, cluster: Cluster, between: str) -> None:
    """Names stand in the records of their slots, wherever these go, also when the floor is behind the command."""
    with Portd(source, cluster.url) as portd, Wire(source) as wire:
        portd.until(streaming)
        wire.many([("MSET", "a", 1, "b", 2, "c", 3), ("SADD", "s", 1, 2)])
        portd.until_applied(source)
        with away(source):
            names = owed(portd, wire, *COMMANDS)
            if between == "a flush":
                wire.many([("FLUSHALL",), ("SET", "k1", "later"), ("RPUSH", "k3", 1)])
                owed(portd, wire, ("SET", "behind", 1))
            if between == "a move":
                slot = key_slot(b"k3")
                cluster.move_slot(slot, next(each for each in cluster.primaries if each is not cluster.owner("k3")))
                wire.many([("APPEND", "k3", "!")])
                owed(portd, wire, ("SET", "behind", 1))
            assert all(name.encode().hex().encode() in record_of(cluster, name) for name in names)
            portd.kill()
        portd.start()
        portd.until(lambda status: status["stream"]["following"])
        status = come(portd, source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
        assert not any(b":" in record_of(cluster, name).partition(b":")[2] for name in names), (
            "nothing is owed any more"
        )
    assert not status["dead_letters"], portd.log()
    assert not differences(source, cluster)


def test_a_node_that_goes_back_owes_again(source: Server, cluster: Cluster) -> None:
    """A node is restored from before copies that it had had, and from behind the commands that made them: its records tell."""
    with Portd(source, cluster.url) as portd, Wire(source) as wire:
        portd.until(streaming)
        wire.many([("MSET", "a", 1, "b", 2, "c", 3), ("SADD", "s", 1, 2)])
        portd.until_applied(source)
        node = cluster.owner("k3")
        with away(source):
            owed(portd, wire, *COMMANDS)
            Cluster.call(node, "SAVE")
        come(portd, source)
        wire.many([("APPEND", "k3", "x"), ("SADD", "{k3}u", "x"), ("APPEND", "k1", "y"), ("INCR", "other")])
        come(portd, source)
        node.restart(crash=True)
        cluster.until_up()
        wait_for_sync(lambda: "went back" in portd.log(), dump=portd.log)
        wire.call("INCR", "other")
        status = come(portd, source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
    assert not status["dead_letters"], portd.log()
    assert not differences(source, cluster)


def test_slots_of_the_target_move_with_what_is_owed(source: Server, cluster: Cluster) -> None:
    """Slots go from node to node under load: their records go with them, and name keys that wait for their copies."""
    with Portd(source, cluster.url) as portd, Load(source, 4) as load:
        portd.until(streaming)
        for number in range(6):
            key = f"o:{number}:v"
            owner = cluster.owner(key)
            into = next(each for each in cluster.primaries if each is not owner)
            cluster.move_slot(key_slot(key.encode()), into)
        load.stop()
        status = come(portd, source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not status["dead_letters"], portd.log()
    assert not differences(source, cluster)


def test_a_node_that_is_away_gets_its_copies_later(source: Server) -> None:
    """Others go on meanwhile; what is owed to slots of the node is copied when it is back, and portd may be killed in between."""
    with Cluster(**SPARSE) as cluster, Portd(source, cluster.url, **HASTY) as portd, Load(source, 5) as load:
        home = cluster.owner("portd:checkpoint:{default}")
        away = next(each for each in cluster.primaries if each is not home)
        portd.until(streaming)
        for kill in (False, True):
            away.signal(signal.SIGSTOP)
            load.run()
            portd.until(lambda status: bool(status["target"]["nodes_away"]))
            load.run()
            if kill:
                portd.kill()
            away.signal(signal.SIGCONT)
            if kill:
                portd.start()
            portd.until(lambda status: streaming(status) and not status["target"]["nodes_away"])
            load.run()
        load.stop()
        status = come(portd, source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert not status["dead_letters"], portd.log()
        assert not differences(source, cluster)


def test_flushes_between_commands_and_their_copies(source: Server, cluster: Cluster) -> None:
    """FLUSHALL passes every node once; what is owed then is copied from behind it, also by a process that was killed."""
    moments = random.Random(6)
    with Portd(source, cluster.url) as portd, Load(source, 6) as load:
        portd.until(streaming)
        for number in range(6):
            time.sleep(moments.random() * 0.4)
            source.client().flushall()
            time.sleep(moments.random() * 0.05)
            if number % 2:
                portd.kill()
                portd.start()
                portd.until(lambda status: status["stream"]["transactions"] > 0)
        load.stop()
        status = come(portd, source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not status["dead_letters"], portd.log()
    assert not differences(source, cluster)


def test_a_copy_that_is_large_is_one_transaction(source: Server, cluster: Cluster) -> None:
    """Its bytes come in pieces, and its slot has it whole or not; one that is larger than may be held is a dead letter."""
    with Portd(source, cluster.url) as portd:
        portd.until(streaming)
        with Wire(source) as wire:
            for number in range(6):
                wire.call("RPUSH", f"big:{number}", *(os.urandom(1000).hex() for _ in range(1200)))
            wire.call("SET", "huge", os.urandom(12_000_000))
            portd.until_applied(source)
            for number in range(6):
                wire.many([("RENAME", f"big:{number}", f"large:{number}"), ("RPUSH", f"large:{number}", "last")])
            portd.kill()
            portd.start()
            wire.call("RENAME", "huge", "hugest")
            portd.until(lambda status: status["stream"]["following"])
            status = come(portd, source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert status["dead_letters"] == {"not_copied": 1}, portd.log()
    different = differences(source, cluster)
    assert len(different) == 1
    assert different[0].startswith("b'hugest'")


RULES: Final[dict[str, object]] = {"include": "in:", "rename_prefix": ["in:=to:", "in:1=one:"]}


def place(key: bytes) -> bytes | None:
    """What RULES call a key."""
    if not key.startswith(b"in:"):
        return None
    return b"one:" + key[4:] if key.startswith(b"in:1") else b"to:" + key[3:]


def test_values_from_outside_of_rules_come_into_a_cluster(source: Server, cluster: Cluster) -> None:
    """What rules leave out, and what another slot has, come as copies, by whatever kills."""
    moments = random.Random(23)
    with Portd(source, cluster.url, **RULES) as portd, Load(source, 7) as load:
        portd.until(streaming)
        for _ in range(5):
            time.sleep(moments.random() * 0.6)
            portd.kill()
            portd.start()
            portd.until(lambda status: status["stream"]["transactions"] > 0)
        load.run()
        load.stop()
        status = come(portd, source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
    assert not status["dead_letters"], portd.log()
    assert status["stream"]["keys_copied"] > 0
    assert not differences(source, cluster, place)


class Parting(shards.Load):
    """Commands of a shard whose keys part under their new names, and some that rules leave out."""

    PAUSE = 0.3  # nearly all of them make copies, and the same keys again and again

    def _one(self) -> tuple[Any, ...]:
        tag = self._random.choice(self._tags)
        one, other = (f"{tag}:{name}" for name in self._random.sample(["a", "b", "c", "left"], 2))
        choices: list[tuple[Any, ...]] = [
            ("RPUSH", f"{one}:l", self.commands), ("LMOVE", f"{one}:l", f"{other}:l", "LEFT", "RIGHT"), ("LTRIM", f"{other}:l", 0, 30),
            ("INCR", f"{one}:n"), ("RENAME", f"{one}:n", f"{other}:n"), ("COPY", f"{one}:n", f"{other}:n", "REPLACE"),
            ("SADD", f"{one}:s", self._random.randrange(50)), ("SMOVE", f"{one}:s", f"{other}:s", self._random.randrange(50)),
            ("SUNIONSTORE", f"{one}:u", f"{one}:s", f"{other}:s"), ("SADD", f"{one}:u", self.commands % 50),
            ("DEL", f"{one}:n", f"{other}:l"), ("MSET", f"{one}:t", self.commands, f"{other}:t", self.commands),
            ("APPEND", f"{one}:t", "x"), ("INCR", f"{tag}:counter"),
        ]  # fmt: skip
        return self._random.choice(choices)


def parted(key: bytes) -> bytes | None:
    """What the rules of the test below call a key: without a tag, so that each has a slot of its own."""
    return None if b":left:" in key else b"t" + key[2:]


@pytest.mark.parametrize("kills", [True, False], ids=["killed", "failovers"])
@pytest.mark.sampled(1)
def test_keys_of_shards_that_part_are_copied(cluster: Cluster, *, kills: bool) -> None:
    """Each shard's link copies from its own primary, whoever that is by then."""
    rules: dict[str, object] = {"include": "{t", "rename_prefix": "{t=t", "exclude": "*:left:*", "share_image": True}
    with ExitStack() as stack:
        origin = cluster if kills else stack.enter_context(Cluster(replicas=1))
        into = stack.enter_context(Cluster(primaries=2, replicas=0 if kills else 1))
        portd = stack.enter_context(Portd(origin.url, into.url, **rules))
        portd.until(shards.streaming)
        loads = stack.enter_context(shards.Loads(origin, Parting))
        for number in range(3):
            loads.run(20)
            if kills:
                portd.kill()
                portd.start()
            else:
                for end in (origin, into):
                    end.until_up()
                    if number < len(end.replicas):
                        end.fail_over(end.replicas[number])
            portd.until(lambda status: all(each["stream"]["transactions"] > 0 for each in status["links"]))
        loads.run(20)
        loads.stop()
        shards.until_applied(portd, shards.primaries(origin))
        portd.until(lambda status: all(each["stream"]["keys_owed"] == 0 for each in status["links"]))
        status = shards.until_applied(portd, shards.primaries(origin))
        assert portd.terminate() == os.EX_OK, portd.log()
        assert not any(each["dead_letters"] for each in status["links"]), portd.log()
        assert all(each["stream"]["keys_copied"] > 0 for each in status["links"])
        assert not differences(origin, into, parted)
