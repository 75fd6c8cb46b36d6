"""`redis-cli --cluster` on the PATH, or `valkey-cli`: how operators reshape clusters, and mend them."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from tests.servers import PATIENCE_SECONDS, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.clusters import Cluster
    from tests.servers import Server

ALONE: Final = 8  # words in a line of a node without slots
TAKEN: Final = re.compile(r"\[(\d+)-<-(\w+)\]")  # of CLUSTER NODES: a slot that comes, and from whom
OPEN: Final = re.compile(r"\[(\d+)-[<>]-")  # a slot on its way, in such a line
CLI: Final = shutil.which("valkey-cli") or shutil.which("redis-cli")


def tool(cluster: Cluster, verb: str, *words: object, options: Sequence[object] = (), expect: bool = True) -> str:
    """One of the tools, asked at the first node that lives; what it says.

    Args:
        cluster: it is about.
        verb: ``reshard``, ``rebalance``, ``add-node``, ``del-node``, ``fix``, ``check``.
        words: beside the address.
        options: behind all that.
        expect: it has to succeed.
    """
    assert CLI is not None, "there is no redis-cli on the PATH"
    node = next(each for each in cluster.nodes if each.alive)
    address = (f"127.0.0.1:{node.port}",)
    order = (*words, *address) if verb == "add-node" else (*address, *words)
    done = subprocess.run(
        [CLI, "--cluster", verb, *map(str, (*order, *options, "--cluster-yes"))],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    said = f"{done.stdout}{done.stderr}"
    assert done.returncode == 0 or not expect, f"{verb} ended with {done.returncode}\n{said[-2000:]}"
    return said


def reshard(cluster: Cluster, source: Server, into: Server, slots: int) -> None:
    """The lowest slots of a node go to another one."""
    options = ("--cluster-from", cluster.name(source), "--cluster-to", cluster.name(into), "--cluster-slots", slots)
    tool(cluster, "reshard", options=(*options, "--cluster-timeout", 60_000))


def agreed(cluster: Cluster, *, at_rest: bool = True) -> bool:
    """All nodes have one map; and no slot is on its way, where *at_rest* says so."""
    maps = set()
    for node in (*cluster.nodes, *cluster.extra):
        lines = _lines(node)
        if any("handshake" in line or ("[" in line and at_rest) for line in lines):
            return False
        told = [line.split("[")[0].split() for line in lines]
        maps.add(tuple(sorted((words[0], *words[ALONE:]) for words in told if len(words) > ALONE)))
    return len(maps) == 1


def _lines(node: Server) -> list[str]:
    with Wire(node) as wire:
        text: str = wire.call("CLUSTER", "NODES").decode()
    return text.splitlines()


def mend(cluster: Cluster, slots: Iterable[int] = ()) -> None:
    """Ends moves that nobody goes on with, as `fix` does, and brings keys of these and of *slots* to their owners."""
    cluster.until_up()
    todo = set(slots)

    def mended() -> bool:
        if CLI is not None:
            tool(cluster, "fix", expect=False)
        if not agreed(cluster, at_rest=False):
            return False  # who takes an owner of before for one would move keys to it, and they would be lost
        todo.update(int(found[1]) for node in cluster.nodes for found in OPEN.finditer("\n".join(_lines(node))))
        for slot in todo:
            _settle(cluster, slot)
        return agreed(cluster)

    wait_for_sync(mended)


def let_go(cluster: Cluster) -> None:
    """Ends moves from an owner that is dead: while they last, the taker of Redis 7.0 believes nobody else that the slot is his."""
    for node in (*cluster.nodes, *cluster.extra):
        if not node.alive:
            continue
        lines = _lines(node)
        dead = {line.split()[0] for line in lines if "fail" in line.split()[2].split(",")}
        mine = next(line for line in lines if "myself" in line)
        for slot, giver in TAKEN.findall(mine):
            if giver in dead:
                with Wire(node) as wire:
                    wire.many([("CLUSTER", "SETSLOT", slot, "STABLE")], errors=True)


def _settle(cluster: Cluster, slot: int) -> None:
    """Keys of a slot are all at its owner, and no node gives or takes it. Of a key that is at two nodes, the owner's is right."""
    owner = next(node for node, ranges in cluster.owners().items() if any(a <= slot <= b for a, b in ranges))
    name = cluster.name(owner)
    for node in (*cluster.nodes, *cluster.extra):
        if node.info("replication")["role"] == "slave":
            continue
        with Wire(node) as wire:
            if node is not owner and wire.call("CLUSTER", "COUNTKEYSINSLOT", slot):
                wire.many([("CLUSTER", "SETSLOT", slot, "IMPORTING", name)], errors=True)
                for key in wire.call("CLUSTER", "GETKEYSINSLOT", slot, 1_000_000):
                    (told,) = wire.many([("MIGRATE", "127.0.0.1", owner.port, key, 0, 60_000)], errors=True)
                    if "BUSYKEY" in str(told):
                        wire.many([("ASKING",), ("DEL", key)], errors=True)
            wire.many([("CLUSTER", "SETSLOT", slot, "STABLE")], errors=True)
