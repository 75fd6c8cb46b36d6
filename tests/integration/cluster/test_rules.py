"""Rules and a cluster as target: which keys are taken, under which names they are written, and what a flush is then."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Any

from portd.kernel.slots import key_slot
from tests.clusters import Cluster, dumped
from tests.following import forget_history
from tests.integration.cluster.load import Loads, fill, primaries, streaming, until_applied
from tests.process import Links, Portd
from tests.process import streaming as streams
from tests.wire import Wire
from tests.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers import Server


class Load(Writer):
    """Writes keys of two kinds to a server, and flushes it now and then; a context manager."""

    def __init__(self, source: Server, db: int = 0, *, flushes: bool = True) -> None:
        super().__init__()
        self._source = source
        self._db = db
        self._flushes = 15 * flushes  # left: each is thousands of commands to the target, which may not be outrun
        self._random = random.Random(11)

    def _write(self) -> None:
        with Wire(self._source, self._db) as wire:
            while not self._stop.is_set():
                batch = [self._one() for _ in range(self._random.randint(1, 40))]
                if self._flushes and self._random.random() < 0.005:
                    batch.append(("FLUSHDB",))
                    self._flushes -= 1
                wire.many(batch)
                self.commands += len(batch)
                time.sleep(0.004)

    def _one(self) -> tuple[Any, ...]:
        name = f"{self._random.choice('ab')}:{self._random.randrange(200)}"
        choices: list[tuple[Any, ...]] = [
            ("INCR", f"{name}:n"),
            ("RPUSH", f"{name}:l", self.commands),
            ("MSET", f"a:{self.commands % 90}:s", self.commands, f"b:{self.commands % 90}:s", self.commands),
            ("DEL", f"{name}:s", "a:1:n", "b:1:n"),
            ("APPEND", f"{name}:t", "x"),
        ]
        return self._random.choice(choices)


def there(cluster: Cluster) -> dict[bytes, bytes]:
    """Digest of each key of a cluster that is not ours."""
    return {key: value for node in cluster.owners() for key, value in dumped(node).items()}


def killed_now_and_then(portd: Portd, reached: Callable[[dict[str, Any]], bool], times: int = 2) -> None:
    """SIGKILL at moments of the stream."""
    moments = random.Random(5)
    portd.until(reached)
    for _ in range(times):
        time.sleep(moments.random() * 0.6)
        portd.kill()
        portd.start()
        portd.until(reached)


def test_a_flush_removes_what_rules_take(source: Server, cluster: Cluster) -> None:
    """Of a source whose keys are taken in part: others of the target stay, whatever is flushed and killed; counters are exact."""
    cluster.get("SET", "b:mine", 1)
    with Portd(source, cluster.url, include="a:*") as portd, Load(source) as load:
        killed_now_and_then(portd, streams)
        load.stop()
        status = portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
    assert not status["dead_letters"]
    wanted = {key: value for key, value in dumped(source).items() if key.startswith(b"a:")}
    assert there(cluster).pop(b"b:mine")
    assert {key: value for key, value in there(cluster).items() if key != b"b:mine"} == wanted


def test_names_that_change_their_slot(source: Server, cluster: Cluster) -> None:
    """Prefixes are replaced and put in front: each command is applied once in the slot of the new name, a flush removes it there."""
    with Portd(source, cluster.url, rename_prefix="a:=c:", add_prefix="new-") as portd, Load(source) as load:
        killed_now_and_then(portd, streams)
        load.stop()
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
    found = dumped(source)
    names = {key: b"new-" + (b"c:" + key[2:] if key.startswith(b"a:") else key) for key in found}
    assert there(cluster) == {names[key]: value for key, value in found.items()}


def test_a_database_becomes_the_only_one(source: Server, cluster: Cluster) -> None:
    """map_db puts another one there; what is in the source's own database 0 is left out."""
    with Portd(source, cluster.url, map_db="3=0", exclude_db="0") as portd, Load(source, 3) as load:
        source.client(0).set("left", 1)
        killed_now_and_then(portd, streams)
        load.stop()
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
    assert there(cluster) == dumped(source, 3)


def test_each_database_gets_a_prefix(source: Server, cluster: Cluster) -> None:
    """A link for each, in one process: all databases of a server in one cluster, and a flush of one leaves the other."""
    tables: dict[str, dict[str, object]] = {
        "main": {"source": source, "target": cluster.url, "include_db": [0], "exclude": ["db3:"], "share_image": True},
        "db3": {
            "source": source,
            "target": cluster.url,
            "include_db": [3],
            "map_db": ["3=0"],
            "add_prefix": "db3:",
            "share_image": True,
        },
    }
    with Links(tables) as portd, Load(source) as one, Load(source, 3) as other:
        killed_now_and_then(portd, streaming)
        for load in (one, other):
            load.stop()
        for name in tables:
            portd.until_link_applied(name, source)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == len(tables), portd.log()
    assert there(cluster) == dumped(source) | {b"db3:" + key: value for key, value in dumped(source, 3).items()}


def test_slots_of_a_server(source: Server, cluster: Cluster) -> None:
    """include_slots of a single server: keys and messages of others are left out."""
    with Portd(source, cluster.url, include_slots="0-8000") as portd, Load(source) as load:
        killed_now_and_then(portd, streams, 1)
        with Wire(source) as wire:
            wire.many([("PUBLISH", f"channel:{number}", "x") for number in range(50)])
            wire.many([("SPUBLISH", f"channel:{number}", "x") for number in range(50)])
        load.stop()
        portd.until_applied(source)
        assert portd.terminate() == os.EX_OK, portd.log()
    assert there(cluster) == {key: value for key, value in dumped(source).items() if key_slot(key) <= 8000}


def test_links_that_share_a_cluster(source: Server, cluster: Cluster) -> None:
    """Two links that can write the same keys are refused; others leave each other's keys alone, also when they are copied again."""
    with Wire(source) as wire:
        wire.many([("MSET", f"a:{n}", n, f"b:{n}", n) for n in range(300)])
    with Portd(source, cluster.url, link="one", include="a:*", stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    with Portd(source, cluster.url, link="two", include="a:1*", existing="replace") as portd:
        assert portd.wait() == os.EX_CONFIG, portd.log()
        assert "the link one writes into" in portd.log()
    with Portd(source, cluster.url, link="three", existing="replace") as portd:
        assert portd.wait() == os.EX_CONFIG, portd.log()
        assert "the link one writes into" in portd.log()
    with Portd(source, cluster.url, link="two", include="b:*", stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    source.client().delete(*(f"a:{n}" for n in range(50)), *(f"b:{n}" for n in range(50)))
    again: dict[str, object] = {"full_sync": True, "prune_limit": 100, "stop_after": "caught-up"}
    with Portd(source, cluster.url, link="two", include="b:*", **again) as portd:
        assert portd.wait() == os.EX_OK, portd.log()
        assert "removed=50" in portd.log(), portd.log()
    assert {int(key[2:]) for key in there(cluster) if key.startswith(b"a:")} == set(range(300))
    assert {int(key[2:]) for key in there(cluster) if key.startswith(b"b:")} == set(range(50, 300))


def renamed(found: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What the rules of `SHARDS` make of what a cluster holds."""
    return {b"{u" + key[2:]: value for key, value in found.items() if not key.endswith((b":set", b":b"))}


SHARDS: dict[str, object] = {
    "include": "{t", "exclude": ["*:set", "*:b"], "rename_prefix": "{t={u", "share_image": True, "prune": "prune", "prune_limit": 100,
}  # fmt: skip


def test_names_of_shards_that_change_their_slot(cluster: Cluster) -> None:
    """The keys of each shard go to slots of others: every link has a record in each of them, and each command comes once.

    A flush of one shard, and its full sync, remove no key that came from another.
    """
    fill(cluster)
    with Cluster(primaries=2) as into, Portd(cluster.url, into.url, **SHARDS) as portd, Loads(cluster) as loads:
        portd.until(streaming)
        for _ in range(3):
            loads.run(10)
            portd.kill()
            Cluster.call(cluster.primaries[2], "FLUSHALL")
            portd.start()
            portd.until(streaming)
        loads.run(10)
        forget_history(cluster.primaries[1])
        cluster.primaries[1].client().client_kill_filter(_type="replica")
        portd.until(lambda status: bool(status["links"][1]["full_syncs"]) and streaming(status))
        loads.run(10)
        loads.stop()
        status = until_applied(portd, primaries(cluster))
        assert not any(each["dead_letters"] for each in status["links"])
        assert portd.terminate() == os.EX_OK, portd.log()
        assert there(into) == renamed(there(cluster))


def test_shards_that_are_renamed_into_a_server(cluster: Cluster, target: Server) -> None:
    """The same into a single server, where all keys lie among each other."""
    fill(cluster)
    with Portd(cluster.url, target, **SHARDS) as portd, Loads(cluster) as loads:
        portd.until(streaming)
        loads.run(10)
        Cluster.call(cluster.primaries[0], "FLUSHALL")
        loads.run(10)
        loads.stop()
        until_applied(portd, primaries(cluster))
        assert portd.terminate() == os.EX_OK, portd.log()
        assert dumped(target) == renamed(there(cluster))


def test_keys_of_one_command_that_part(cluster: Cluster) -> None:
    """Names that have one slot in the source and several in the target: what can be cut is, a transaction as well; the rest is copied."""
    rules: dict[str, object] = {"include": "{x}:", "rename_prefix": "{x}:b=q:b", "share_image": True}
    with Cluster(primaries=2) as into, Portd(cluster.url, into.url, **rules) as portd:
        portd.until(streaming)
        with Wire(cluster.owner("{x}")) as wire:
            wire.many(
                [
                    ("MSET", "{x}:a", 1, "{x}:b", 2, "{x}:b2", 3, "{x}:c", 4),
                    ("DEL", "{x}:c", "{x}:b2"),
                    ("MULTI",), ("INCR", "{x}:a"), ("INCR", "{x}:b"), ("RPUSH", "{x}:bl", "x"), ("EXEC",),
                    ("RENAME", "{x}:a", "{x}:a2"),
                    ("LMOVE", "{x}:bl", "{x}:al", "LEFT", "LEFT"),
                    ("INCR", "{x}:b"),
                    ("SET", "{x}out", 1), ("RENAME", "{x}out", "{x}:z"),  # a value that the rules leave out
                ]
            )  # fmt: skip
        (link,) = (name for name, node in primaries(cluster).items() if node is cluster.owner("{x}"))
        until_applied(portd, primaries(cluster))
        portd.until(lambda status: all(each["stream"]["keys_owed"] == 0 for each in status["links"]))
        status = until_applied(portd, primaries(cluster))
        assert portd.terminate() == os.EX_OK, portd.log()
        assert not any(each["dead_letters"] for each in status["links"]), portd.log()
        (copied,) = (each["stream"]["keys_copied"] for each in status["links"] if each["link"] == link)
        assert copied == 2
        assert [into.get("GET", key) for key in ("{x}:a2", "q:b", "{x}:z")] == [b"2", b"4", b"1"]
        assert into.get("LRANGE", "{x}:al", 0, -1) == [b"x"]
        assert len(list(into.contents())) == 4


def test_a_link_without_rules_spares_what_others_have(source: Server, cluster: Cluster, servers: Any) -> None:
    """Another link's keys lie on all nodes, its checkpoint on one: a full sync that compares keys removes none of them anywhere."""
    other = servers()
    source.client().mset({f"a:{n}": n for n in range(100)})
    other.client().mset({f"b:{n}": n for n in range(100)})
    shared: dict[str, object] = {"share_image": True, "stop_after": "caught-up"}
    with Portd(source, cluster.url, **shared) as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    with Portd(other, cluster.url, link="other", include="b:*", **shared) as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    with Portd(source, cluster.url, full_sync=True, **shared) as portd:
        assert portd.wait() == os.EX_OK, portd.log()
        assert "another link has a checkpoint in this target" in portd.log()
    assert len(there(cluster)) == 200
