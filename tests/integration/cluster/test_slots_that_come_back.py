"""A slot of the target goes to another node and comes back while all keys of a node are looked at: what is to be removed is removed."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from portd.kernel.slots import key_slot
from tests.clusters import Cluster, differences
from tests.process import Portd
from tests.relay import Relay, holding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

TAG = "{x}"
BEHIND = {b"portd-prune": [b"\r\nNODES\r\n", b"\r\nUNLINK\r\n"], b"portd-shard": [b"\r\nNODES\r\n"]}  # that look


class Excursion:
    """A slot leaves its node when all keys of that begin to be looked at, and is back when they have been.

    Args:
        cluster: the target.
        name: what names of the connections begin with that look at them.
    """

    def __init__(self, cluster: Cluster, name: bytes) -> None:
        self.back = False
        self._cluster, self._name = cluster, name
        self._slot = key_slot(TAG.encode())
        self._home = cluster.owner(TAG)
        self._abroad = next(each for each in cluster.primaries if each is not self._home)
        self._relay = Relay(self._home.port)

    def __enter__(self) -> str:
        self._relay.__enter__()
        return f"127.0.0.1:{self._home.port}=127.0.0.1:{self._relay.port}"

    def __exit__(self, *exc: object) -> None:
        self._relay.__exit__(*exc)

    def arm(self) -> None:
        """From now on."""
        self._armed = self._relay.hold(holding(b"\r\nSCAN\r\n", name=self._name), on_caught=self._leave)

    def _leave(self) -> None:
        self._cluster.move_slot(self._slot, self._abroad)
        self._hold = self._relay.hold(holding(*BEHIND[self._name], name=self._name), on_caught=self._return)
        self._armed.release()

    def _return(self) -> None:
        self._cluster.move_slot(self._slot, self._home)
        self.back = True
        self._hold.release()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """The target."""
    with Cluster() as started:
        yield started


def fill(source: Server, cluster: Cluster) -> None:
    """Keys of the slot that goes, and of another one at the same node that stays."""
    home = cluster.owner(TAG)
    tags = [f"{{{number}}}" for number in range(100)]
    stays = next(tag for tag in tags if cluster.owner(tag) is home)
    for number in range(50):
        source.client().mset({f"a:{TAG}{number}": 1, f"a:{stays}{number}": 1, f"b:{TAG}{number}": 1})


def test_keys_that_a_snapshot_lacks(source: Server, cluster: Cluster) -> None:
    """They go."""
    fill(source, cluster)
    with Portd(source, cluster.url, stop_after="caught-up") as portd:
        assert portd.wait() == os.EX_OK, portd.log()
    for key in source.client().keys("a:*1"):
        source.client().delete(key)
    with ExitStack() as stack:
        excursion = Excursion(cluster, b"portd-prune")
        mapped = stack.enter_context(excursion)
        excursion.arm()
        options: dict[str, object] = {"full_sync": True, "target_address_map": mapped}
        portd = stack.enter_context(Portd(source, cluster.url, prune_limit=100, **options))
        portd.until(lambda status: excursion.back and status["phase"] == "streaming")
        assert portd.terminate() == os.EX_OK, portd.log()
    assert not differences(source, cluster)


def test_keys_that_a_flush_covers(source: Server, cluster: Cluster) -> None:
    """They go, and others stay."""
    fill(source, cluster)
    with ExitStack() as stack:
        excursion = Excursion(cluster, b"portd-shard")
        mapped = stack.enter_context(excursion)
        portd = stack.enter_context(Portd(source, cluster.url, include="a:", target_address_map=mapped))
        portd.until(lambda status: status["phase"] == "streaming")
        cluster.get("SET", f"b:{TAG}", 1)
        excursion.arm()
        source.client().flushall()
        source.client().set(f"a:{TAG}0", 2)
        portd.until_applied(source)
        assert excursion.back, portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
    assert cluster.get("GET", f"a:{TAG}0") == b"2"
    assert cluster.get("GET", f"b:{TAG}") == b"1"
    assert sum(name.startswith(b"a:") for _, name in cluster.contents()) == 1
