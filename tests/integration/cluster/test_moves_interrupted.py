"""Slots that move while portd is away, in the middle of a copy."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.clusters import Cluster, differences
from tests.commands import run
from tests.integration.cluster.load import LINKS, fill, streaming, until_applied
from tests.integration.cluster.moves import RoamingLoad
from tests.integration.cluster.test_moves import MOVING, into, until_settled, url_of
from tests.process import Portd

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
