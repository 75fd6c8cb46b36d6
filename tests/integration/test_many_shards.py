"""Many shards in one process: what grows with their number, and what must not. The clusters are pretended (`tests.pretend`)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.benchmarks.shards import peak_of, questions
from tests.pretend import BLOCK, Pretended, commands_of
from tests.process import Portd
from tests.servers import wait_for_sync

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARDS = 12
KEYS = 60_000
BLOCKS = 20  # of each shard's stream


@pytest.fixture(scope="module")
def commands() -> bytes:
    """What a real server answers to COMMAND."""
    return commands_of()


def said(portd: Portd, event: str) -> list[dict[str, Any]]:
    """Lines of the log about an event."""
    lines = (json.loads(line) for line in portd.log().splitlines() if line.startswith("{"))
    return [each for each in lines if each["event"] == event]


def follow(portd: Portd, both: Pretended, links: int, sets: int) -> dict[str, Any]:
    """Waits until all links have caught up and so many keys were written in all; what there is then."""

    def asked() -> dict[str, Any] | None:
        assert portd.alive, portd.log()
        told = both.order("TELL")
        return told if told["sets"] >= sets and len(said(portd, "caught up")) >= links else None

    found = wait_for_sync(asked, dump=portd.log)
    assert found is not None
    return found


def syncs(both: Pretended) -> Portd:
    """A process between the two."""
    source, target = both.urls()
    return Portd(source, target, http="off", log_format="json")


def copy_and_follow(shards: int, keys: int, commands: bytes) -> Iterator[tuple[Pretended, dict[str, Any]]]:
    """Copies, follows and is started again; both ends after each of the three."""
    with Pretended(shards, shards, keys, commands) as both:
        with syncs(both) as portd:
            yield both, follow(portd, both, shards, both.keys)
            both.order("GO", BLOCK * BLOCKS)
            told = follow(portd, both, shards, both.keys + shards * BLOCK * BLOCKS)
            (plan, *_) = said(portd, "memory plan")
            assert peak_of(portd.process.pid) < plan["ceiling_bytes"]
            assert portd.terminate() == os.EX_OK
            yield both, told
        with syncs(both) as portd:
            both.order("GO", 2 * BLOCK * BLOCKS)
            told = follow(portd, both, shards, both.keys + shards * 2 * BLOCK * BLOCKS)
            assert len(said(portd, "partial sync")) == shards, portd.log()
            assert portd.terminate() == os.EX_OK
            yield both, told


def test_many_shards_stay_within_the_plan_and_ask_no_more_each(commands: bytes) -> None:
    """Every key and command comes once, also behind a restart, in no more memory than the log says at the start; a shard
    among twelve asks the target no more than a shard among three.
    """  # noqa: D205
    asked = {}
    for shards in (3, SHARDS):
        runs = copy_and_follow(shards, KEYS, commands)
        for (both, told), streamed in zip(runs, (0, 1, 2), strict=True):
            assert told["sets"] == both.keys + streamed * shards * BLOCK * BLOCKS
            if not streamed:
                asked[shards] = questions(told) / shards
    assert asked[SHARDS] < 1.5 * asked[3], asked


@pytest.mark.deep
def test_a_hundred_shards_take_less_than_512_mb(commands: bytes) -> None:
    """A hundred primaries into a hundred, with default settings."""
    for both, told in copy_and_follow(100, 5 * KEYS, commands):
        assert told["sets"] >= both.keys
