"""A short run of every kind of fault, by fixed seeds; `python -m tests.faults` is the long one."""

from __future__ import annotations

import random

from tests.faults.kinds import KINDS
from tests.faults.run import Run
from tests.faults.world import World

STREAM = [kind for kind in KINDS if not kind.full]
SNAPSHOT = [kind for kind in KINDS if kind.full]


async def test_faults_in_the_stream_lose_and_double_nothing() -> None:
    """Whatever breaks while the stream is followed, both ends are equal in the end."""
    world = World(random.Random("stream"), rate=500)
    report = await Run(world, 7, STREAM).run(faults=20, seconds=30, at_least=5)
    assert report.faults >= 5


async def test_faults_in_the_snapshot_lose_and_double_nothing() -> None:
    """Whatever breaks while a snapshot is copied, both ends are equal in the end."""
    world = World(random.Random("snapshot"), rate=500, replica=False)
    report = await Run(world, 8, SNAPSHOT).run(faults=8, seconds=30, at_least=3)
    assert report.faults >= 3
