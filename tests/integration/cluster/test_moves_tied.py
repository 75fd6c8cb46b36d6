"""Shards of a source cluster that wait for each other, where nothing that they could wait for comes any more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from portd.kernel.slots import slot_tag
from tests.clusters import Cluster, differences
from tests.integration.cluster.load import LINKS, fill, streaming, until_applied
from tests.integration.cluster.test_moves import drawn, into, until_settled, url_of
from tests.integration.cluster.test_moves_again import SLOT, TAG, begin_move, carry
from tests.process import Portd
from tests.servers import wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.servers import Server

__all__ = ["into"]
MANY = 48  # MiB that a link is behind: more than it has received of its stream, and the sockets on the way
LARGE = f"{{{slot_tag(SLOT + 1)}}}:large"
LIMITS: dict[str, object] = {"max_target_bytes_per_second": "256KiB", "spool_dir": "off"}


@pytest.mark.deep  # the links are given half a minute
def test_a_history_is_lost_for_which_another_link_waits(cluster: Cluster, into: Server | Cluster) -> None:
    """The one waits for the slot to be given up, the other one for what the first will never bring: both are copied again."""
    fill(cluster)
    one, two, _ = cluster.primaries
    first, second = f"{TAG}:first", f"{TAG}:second"
    with Portd(cluster.url, url_of(into), **LIMITS) as portd:
        portd.until(streaming)
        with Wire(one) as wire:
            wire.many([("RPUSH", first, 1), ("RPUSH", second, 1)])
        begin_move(cluster, one, two)
        carry(one, two, first)
        wait_for_sync(lambda: SLOT in drawn(into, LINKS[1]), dump=portd.log)
        with Wire(one) as wire:
            wire.many([("SET", LARGE, b"x" * (1 << 20))] * MANY + [("SET", LARGE, 1)])
        carry(one, two, second)
        wait_for_sync(lambda: "a shard waits for another one" in portd.log(), dump=portd.log)
        cluster.call(one, "CLUSTER", "SETSLOT", SLOT, "STABLE")
        carry(two, one, first, second)
        cluster.call(two, "CLUSTER", "SETSLOT", SLOT, "STABLE")
        cluster.call(one, "RPUSH", second, 2)
        cluster.call(one, "DEBUG", "CHANGE-REPL-ID")
        cluster.call(one, "CLIENT", "KILL", "TYPE", "replica")
        portd.until(lambda status: [each["full_syncs"].get("backlog", 0) for each in status["links"]] == [1, 0, 0])
        portd.until(streaming)
        until_settled(portd, into, cluster)
        status = until_applied(portd, dict(zip(LINKS, cluster.primaries, strict=True)))
        assert not any(each["dead_letters"] for each in status["links"]), portd.log()
        assert "shards are copied again" in portd.log()
        assert not differences(into, cluster), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
