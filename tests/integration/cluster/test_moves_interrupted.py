"""Slots that move while portd is away, in the middle of a copy."""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.clusters import Cluster, differences
from tests.commands import run
from tests.integration.cluster.load import LINKS, fill, streaming, until_applied
from tests.integration.cluster.moves import RoamingLoad
from tests.integration.cluster.test_moves import MOVING, drawn, into, until_settled, url_of
from tests.integration.cluster.test_moves_again import SLOT, TAG, come_unseen
from tests.process import Portd
from tests.relay import Relay
from tests.servers import PATIENCE_SECONDS, wait_for_sync

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

__all__ = ["into"]


@pytest.mark.sampled(1)
def test_slots_leave_a_shard_whose_copy_was_interrupted(
    cluster: Cluster, into: Server | Cluster, tmp_path: Path
) -> None:
    """The next start copies it without them; whoever has them now brings them whole, behind what that copy removes."""
    fill(cluster)
    _, two, three = cluster.primaries
    chance = random.Random(1)
    tag = next(f"{{t{n}}}" for n in range(10_000) if cluster.owner(f"{{t{n}}}") is two)
    for number in range(40):
        cluster.call(two, "SET", f"{tag}:bulk:{number}", chance.randbytes(300_000))
    path = tmp_path / "control"
    options: dict[str, object] = {"max_target_bytes_per_second": "8MiB", "prune_limit": 100, "control_socket": path}
    with Portd(cluster.url, url_of(into), **options) as portd, RoamingLoad(cluster, MOVING) as load:
        portd.until(streaming)
        for slots in ((5400, 6000, 9999), (77, 6000)):
            load.run(200)
            run("ctl", "full-sync", "--socket", path, "--link", LINKS[1], "--yes")
            portd.until(lambda status: any(each["phase"] == "snapshot" for each in status["links"]))
            portd.kill()
            for slot in slots:
                cluster.move_slot(slot, three if slots[0] == 5400 else two)
                load.run(20)
            portd.start()
            portd.until(streaming)
            until_settled(portd, into, cluster)
            with load.turn:
                until_applied(portd, dict(zip(LINKS, cluster.primaries, strict=True)))
                found = differences(into, cluster)
                assert not found, f"{found[:10]}\n{portd.log()}"
        assert portd.terminate() == os.EX_OK, portd.log()


@pytest.mark.parametrize("new", [False, True], ids=["another shard", "a new one"])
def test_killed_when_nobody_has_a_slot_any_more(cluster: Cluster, target: Server, *, new: bool) -> None:
    """A shard is to be copied with a slot, and others have given it up: the next starts copy it, whenever they are killed themselves."""
    fill(cluster)
    one = cluster.primaries[0]
    keys = [f"{TAG}:{number}" for number in range(40)]
    for key in keys:
        cluster.call(one, "RPUSH", key, key, "before")

    def marks(_: bytes, data: bytes) -> bool:
        """That all of the shard is copied with the slot from now on."""
        return b"\r\nsnapshot\r\n" in data and (b"\r\n5\r\n" if new else b"\r\n5 5461-10921\r\n") in data

    with ExitStack() as stack:
        relay = stack.enter_context(Relay(target.port))
        two = stack.enter_context(cluster.joining()) if new else cluster.primaries[1]
        options: dict[str, object] = {"memory_budget": "48MiB"} if new else {}
        portd = stack.enter_context(Portd(cluster.url, f"redis://127.0.0.1:{relay.port}", **options))
        portd.until(lambda status: len(status["links"]) == 3 + new and streaming(status))
        come_unseen(portd, cluster, one, two, keys[:20])
        hold = relay.hold(marks)
        cluster.move_slot(SLOT, two)
        cluster.call(two, "RPUSH", keys[0], "again")
        for _ in range(2):
            assert hold.caught.wait(PATIENCE_SECONDS), portd.log()
            wait_for_sync(lambda: not any(SLOT in drawn(target, link) for link in LINKS))
            portd.kill()
            hold = relay.hold(marks)
            portd.start()
        assert hold.caught.wait(PATIENCE_SECONDS), portd.log()
        hold.release()
        portd.until(streaming)
        until_settled(portd, target, cluster)
        links = sorted(each["link"] for each in portd.until(streaming)["links"] if each["link"] not in LINKS)
        nodes = dict(zip(LINKS, cluster.primaries, strict=True)) | dict.fromkeys(links, two)
        assert len(links) == new
        until_applied(portd, nodes)
        assert not differences(target, cluster), portd.log()
        assert portd.terminate() == os.EX_OK, portd.log()
