"""A primary of a target cluster that is away, or does not take what it is sent: its slots wait, and no others do."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from portd.kernel.slots import key_slot
from tests.clusters import Cluster, differences
from tests.integration.cluster.test_sync import Load
from tests.process import Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.servers import Server

SPARSE = {"cluster_require_full_coverage": False, "appendonly": True, "appendfsync": "always"}
HASTY = {"connect_seconds": 2}
PAGE = 8000  # bytes of a value that fills windows


@pytest.fixture
def sparse() -> Iterator[Cluster]:
    """Three primaries that go on when one of them is away, and forget nothing when they are killed."""
    with Cluster(**SPARSE) as started:
        yield started


def streaming(status: Mapping[str, Any]) -> bool:
    """It has caught up."""
    return bool(status["phase"] == "streaming")


def key_of(cluster: Cluster, node: Server, name: str = "key") -> str:
    """A key that lies on a node."""
    first, last = next(iter(cluster.owners()[node]))
    return next(f"{name}:{n}" for n in range(1000) if first <= key_slot(f"{name}:{n}".encode()) <= last)


def arrives(node: Server, source: Server, key: str, portd: Portd) -> None:
    """A write of a key comes to its node."""
    value = source.client().incr(key)
    wait_for_sync(lambda: int(Cluster.call(node, "GET", key) or 0) == value, dump=portd.log)


def burst(source: Server, key: str, megabytes: int) -> None:
    """More for one key than a node's window holds."""
    with source.client().pipeline(transaction=False) as pipe:
        for number in range(megabytes * 125):
            pipe.append(key, f"{number:08}" * (PAGE // 8))
            if number % 50 == 49:
                pipe.delete(key)
        pipe.execute()


def is_exact(status: Mapping[str, Any]) -> bool:
    """Every command that was read is counted once, and nothing is on its way."""
    stream = status["stream"]
    counted = stream["commands_applied"] + stream["commands_filtered"] + stream["commands_failed"]
    return bool(stream["commands_read"] == counted)


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_others_go_on(source: Server, sparse: Cluster, how: str, number: int) -> None:
    """What others get arrives while one is away, more than windows hold comes for that one, and it has all of it in the end."""
    away = sparse.primaries[number]
    keys = {node: key_of(sparse, node) for node in sparse.primaries}
    big = key_of(sparse, away, "big")
    others = [node for node in sparse.primaries if node is not away]
    with Portd(source, sparse.url, **HASTY) as portd:
        portd.until(streaming)
        for node, key in keys.items():
            arrives(node, source, key, portd)
        away.signal(signal.SIGSTOP) if how == "stopped" else away.kill()
        with Load(source) as load:
            wait_for_sync(lambda: load.commands > 1000)
            source.client().incr(keys[away])
            burst(source, big, 8)
            for node in others:
                arrives(node, source, keys[node], portd)
            told = portd.until(lambda status: bool(status["target"]["nodes_away"]))
            wait_for_sync(lambda: load.commands > 3000)
        if how == "stopped":
            away.signal(signal.SIGCONT)
        else:
            away.start()
        portd.until_applied(source)
        status = portd.until(streaming)
        assert [each["address"] for each in told["target"]["nodes_away"]] == [f"127.0.0.1:{away.port}"]
        assert status["target"]["nodes_away"] == []
        portd.until(is_exact)
        assert portd.terminate() == os.EX_OK, portd.log()
        assert portd.log().count('event="full sync"') == 1, portd.log()
    assert not differences(source, sparse)
