"""Messages that Redis 8.2 and newer delete by who still refers to them: older targets get there by scripts."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.compare import LOSSES, compare
from tests.process import Portd
from tests.servers import Binary, Server, binaries, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from tests.wire import Argument

OLDER = [binary for binary in binaries() if binary.at_least(redis=(5, 0), valkey=(0,))]


class Queue:
    """A stream with up to two groups, and what its producers and consumers do by chance."""

    def __init__(self, rng: random.Random, key: str, groups: str) -> None:
        self._rng = rng
        self._key = key
        self._groups = groups
        self._number = 0

    def begins(self) -> list[tuple[Argument, ...]]:
        """Makes the groups."""
        return [("XGROUP", "CREATE", self._key, group, "0", "MKSTREAM") for group in self._groups]

    def next(self) -> tuple[Argument, ...]:
        """One command."""
        rng, key = self._rng, self._key
        ids = [f"{max(self._number - rng.randrange(30), 1)}-0" for _ in range(rng.randrange(1, 7))]
        how = rng.choice(("KEEPREF", "DELREF", "ACKED"))
        group = rng.choice(self._groups or "g")
        which = rng.randrange(10)
        if which < 3:
            return "XADD", key, self._next_id(), "field", "value"
        if which < 5:
            trim = (*self._trim(how), how)
            return ("XADD", key, *trim, self._next_id(), "field", "value") if which == 3 else ("XTRIM", key, *trim)
        if which < 7:
            return "XREADGROUP", "GROUP", group, rng.choice("ab"), "COUNT", rng.randrange(1, 9), "STREAMS", key, ">"
        if which == 7:
            return "XACK", key, group, *ids
        command: tuple[Argument, ...] = ("XACKDEL", key, group) if which == 8 else ("XDELEX", key)
        return *command, how, "IDS", len(ids), *ids

    def _next_id(self) -> str:
        self._number += 1
        return f"{self._number}-0"

    def _trim(self, how: str) -> tuple[Argument, ...]:
        """With ACKED by length only ``~``: how far ``=`` goes depends on the nodes of the source."""
        if self._rng.randrange(2):
            exactly = self._rng.choice("=~") if how != "ACKED" else "~"
            return "MAXLEN", exactly, self._rng.randrange(25)
        return "MINID", self._rng.choice("=~"), f"{max(self._number - self._rng.randrange(60), 1)}-0"


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("older", OLDER, ids=lambda binary: binary.name)
def test_what_is_deleted_by_reference_is_deleted_in_older_servers(older: Binary, seed: int) -> None:
    """The target has what a replica of the source has, with groups, pending entries and counters; nothing is refused."""
    newest = next((each for each in binaries() if each.at_least(redis=(8, 2))), None)
    if newest is None:
        pytest.skip("takes Redis 8.2 as the source")
    rng = random.Random(seed)
    queues = [Queue(rng, f"queue{number}", groups) for number, groups in enumerate(("", "g", "gh", "gh"))]
    size = rng.choice((4, 100))
    source, replica = (Server(newest, stream_node_max_entries=size) for _ in range(2))
    with source, replica, Server(older) as target:
        replica.replicate(source)
        with Portd(source, target) as portd, Wire(source) as wire:
            portd.until(lambda status: status["phase"] == "streaming")
            wire.many([command for queue in queues for command in queue.begins()])
            wire.many([rng.choice(queues).next() for _ in range(2000)], errors=True)
            status = portd.until_applied(source)
            assert status["dead_letters"] == {}, portd.log()
        end = source.info("replication")["master_repl_offset"]
        wait_for_sync(lambda: replica.info("replication")["slave_repl_offset"] >= end)
        full = older.at_least(redis=(7, 0), valkey=(0,))
        assert [line for line in compare(replica, target) if full or not LOSSES.search(line)] == []
