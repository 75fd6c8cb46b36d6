"""Slots of a source cluster that move while the target is owed a key of theirs, which is to be copied from the node that gives them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.clusters import Cluster, differences
from tests.integration.cluster.load import LINKS, streaming, until_applied
from tests.integration.cluster.test_moves import drawn, into, until_settled, url_of
from tests.integration.cluster.test_moves_again import SLOT, TAG, begin_move, carry
from tests.process import Portd
from tests.relay import Relay, holding
from tests.servers import PATIENCE_SECONDS, Server, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["into"]
TRIES = 50  # of copies that are held
KEY, OTHER, OUTSIDE = f"in:{TAG}:key", f"in:{TAG}:other", f"out:{TAG}:key"


class Owing:
    """A sync of three shards, which may not copy keys from the first.

    Args:
        source: has them.
        into: the target.
        stack: ends it.
    """

    def __init__(self, source: Cluster, into: Server | Cluster, stack: ExitStack) -> None:
        self.source, self.into = source, into
        self.one, self.two, _ = source.primaries
        relay = stack.enter_context(Relay(self.one.port))
        pairs = f"127.0.0.1:{self.one.port}=127.0.0.1:{relay.port}"
        self._holds = [relay.hold(holding(b"\r\nMEMORY\r\n")) for _ in range(TRIES)]
        self.portd = stack.enter_context(Portd(source.url, url_of(into), include="in:", source_address_map=pairs))
        self.portd.until(streaming)
        with Wire(self.one) as wire:  # what is not there, a slot on its way does not get
            wire.many([("RPUSH", OUTSIDE, 1, 2, 3), ("SET", KEY, 1), ("SET", OTHER, 1)])

    def owe(self) -> None:
        """A key comes from outside of the rules, and its copy is not made."""
        with Wire(self.one) as wire:
            wire.many([("RENAME", OUTSIDE, KEY), ("RPUSH", KEY, 4)])
        assert self._holds[0].caught.wait(PATIENCE_SECONDS), self.portd.log()
        end = int(self.one.info("replication")["master_repl_offset"])
        self.portd.until(
            lambda status: (
                status["links"][0]["stream"]["checkpointed_offset"] >= end
                and status["links"][0]["stream"]["keys_owed"] == 1
            )
        )

    def release(self) -> None:
        """It may be made."""
        for each in self._holds:
            each.release()

    def finish(self) -> None:
        """All is as in the source in the end."""
        until_settled(self.portd, self.into, self.source)
        self.portd.until(
            lambda status: streaming(status) and not any(each["stream"]["keys_owed"] for each in status["links"])
        )
        status = until_applied(self.portd, dict(zip(LINKS, self.source.primaries, strict=True)))
        assert not any(each["dead_letters"] for each in status["links"]), self.portd.log()
        assert not differences(self.into, self.source), self.portd.log()
        assert self.portd.terminate() == os.EX_OK, self.portd.log()


@pytest.fixture
def owing(cluster: Cluster, into: Server | Cluster) -> Iterator[Owing]:
    """The sync."""
    with ExitStack() as stack:
        yield Owing(cluster, into, stack)


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "held"])
def test_a_slot_goes_with_a_key_that_is_owed(owing: Owing, *, killed: bool) -> None:
    """Its new owner brings it, and what is owed is settled by nobody else."""
    owing.owe()
    owing.source.move_slot(SLOT, owing.two)
    owing.source.call(owing.two, "RPUSH", KEY, 5)
    if killed:
        owing.portd.kill()
    owing.release()
    if killed:
        owing.portd.start()
    owing.finish()


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "alone"])
@pytest.mark.parametrize("how", ["killed", "held", "waiting"])
def test_a_key_that_is_owed_goes_and_comes_back(owing: Owing, how: str, *, shared: bool) -> None:
    """It is copied from behind that, and the stream of the other node does not wait for it for ever."""
    source, one, two = owing.source, owing.one, owing.two
    begin_move(source, one, two)
    if shared:
        carry(one, two, OTHER)
        wait_for_sync(lambda: SLOT in drawn(owing.into, LINKS[1]))
    owing.owe()
    if how == "killed":
        owing.portd.kill()
    carry(one, two, KEY)
    with Wire(two) as wire:
        wire.many([("ASKING",), ("RPUSH", KEY, 5)])
    if how == "waiting":
        wait_for_sync(lambda: "a shard waits for another one" in owing.portd.log(), dump=owing.portd.log)
    source.call(one, "CLUSTER", "SETSLOT", SLOT, "STABLE")
    carry(two, one, *([KEY, OTHER] if shared else [KEY]))
    source.call(one, "RPUSH", KEY, 6)
    source.call(two, "CLUSTER", "SETSLOT", SLOT, "STABLE")
    owing.release()
    if how == "killed":
        owing.portd.start()
    owing.finish()
