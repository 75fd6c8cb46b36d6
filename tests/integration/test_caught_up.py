"""What "caught up" means: nothing that the source had written a moment ago is missing in the target."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from typing import TYPE_CHECKING, cast

import pytest

from portd.link.catchup import CatchUp
from portd.model import Position, Progress
from portd.net.endpoint import Endpoint
from portd.spool import Spool
from portd.target.deadletter import DeadLetters
from portd.target.kept.checkpoint import Checkpoint
from portd.target.stream.account import Account
from portd.target.stream.strand import Strand
from tests.compare import assert_equal
from tests.datasets import fill_strings
from tests.integration.applier.kit import Stream
from tests.process import Portd
from tests.proxy import Proxy
from tests.servers import PATIENCE_SECONDS, wait_for, wait_for_sync
from tests.wire import Wire

if TYPE_CHECKING:
    from portd.target.stream.applier import Applier
    from tests.servers import Server

VALUE = b"x" * 10_000
BEHIND = 12 << 20  # written to the source while the snapshot is on its way
SMALL = {"memory_budget": "9MiB", "max_target_bytes_per_second": "8MiB"}


def write_behind(source: Server, size: int = BEHIND) -> int:
    """Writes a stream of *size* bytes; returns the source's offset behind it."""
    pipe = source.client().pipeline(transaction=False)
    for number in range(size // len(VALUE)):
        pipe.set(f"behind:{number}", VALUE)
        if number % 100 == 99:
            pipe.execute()
    pipe.execute()
    return int(source.info("replication")["master_repl_offset"])


def caught_up_offsets(log: str) -> list[int]:
    """The offsets at which the log says so, in order."""
    return [int(found) for found in re.findall(r'event="caught up" offset=(\d+)', log)]


@pytest.mark.parametrize("options", [{}, {"spool_dir": "off"}], ids=["disk", "memory"])
def test_it_is_said_when_everything_is_applied(options: dict[str, object], source: Server, target: Server) -> None:
    """What the source wrote during the snapshot waits on disk, or in the source: with all of that applied it is said."""
    fill_strings(source, 40_000, 1000)
    with Portd(source, target, stop_after="caught-up", **SMALL, **options) as portd:
        portd.until(lambda status: status["phase"] == "snapshot")
        end = write_behind(source)
        assert portd.wait() == os.EX_OK, portd.log()
        (said,) = caught_up_offsets(portd.log())
        assert said >= end, portd.log()
    assert_equal(source, target)


async def test_what_the_source_has_not_sent_is_asked_for(source: Server, target: Server) -> None:
    """All that came over a narrow network is applied at once, and megabytes wait in the source: not caught up."""
    fill_strings(source, 20_000, 1000)
    async with Proxy(source.port) as proxy:
        proxy.to_client.bytes_per_second = 4 << 20
        with Portd(proxy.url, target, stop_after="caught-up") as portd:
            await wait_for(lambda: proxy.to_client.forwarded > 1 << 20)
            proxy.to_client.stall()  # inside of the snapshot: what is written now comes behind it
            end = await asyncio.to_thread(write_behind, source)
            proxy.to_client.flow()
            proxy.to_client.bytes_per_second = 4 << 20
            assert await asyncio.to_thread(portd.wait) == os.EX_OK, portd.log()
            (said,) = caught_up_offsets(portd.log())
            assert said >= end, portd.log()
    assert_equal(source, target)


async def test_it_is_said_again_when_the_source_comes_back(source: Server, target: Server) -> None:
    """A sync whose link broke streams again only when it has what the source wrote meanwhile."""
    async with Proxy(source.port) as proxy:
        with Portd(proxy.url, target) as portd:
            await asyncio.to_thread(portd.until, lambda status: status["phase"] == "streaming")
            proxy.refuse()
            proxy.cut()
            end = await asyncio.to_thread(write_behind, source, 3 << 20)
            proxy.to_client.bytes_per_second = 1 << 20
            await proxy.start()
            status = await asyncio.to_thread(portd.until, lambda status: status["phase"] == "streaming")
            assert status["stream"]["applied_offset"] >= end
            first, second = caught_up_offsets(portd.log())
            assert first < end <= second
            assert await asyncio.to_thread(portd.terminate) == os.EX_OK, portd.log()
    assert_equal(source, target)


async def test_a_source_that_does_not_answer_has_not_told(source: Server, target: Server) -> None:
    """Silence is no refusal to tell: a source that hangs may hold megabytes, and is asked until it answers."""
    fill_strings(source, 5000, 1000)
    async with Proxy(source.port) as proxy:
        proxy.to_client.bytes_per_second = 256 << 10
        with Portd(proxy.url, target, stop_after="caught-up", connect_seconds=1) as portd:
            # By now nothing more is asked of the target, which would have to answer within a second.
            await asyncio.to_thread(portd.until, lambda status: status["snapshot"]["keys_applied"] > 0)
            target.signal(signal.SIGSTOP)  # the stream is not applied before the network is gone
            proxy.to_client.flow()
            await wait_for(lambda: source.info("replication").get("slave0", {}).get("state") == "online")
            await asyncio.to_thread(write_behind, source, len(VALUE))  # behind it the whole snapshot is in the spool
            await asyncio.to_thread(
                portd.until,
                lambda status: status["source"]["bytes_received"] >= status["snapshot"]["bytes_read"] + len(VALUE),
            )
            proxy.half_open()
            end = await asyncio.to_thread(write_behind, source, 1 << 20)
            target.signal(signal.SIGCONT)
            asked = "whether the target has caught up is not known"
            await wait_for(lambda: asked in portd.log() or not portd.alive, dump=portd.log)
            assert caught_up_offsets(portd.log()) == []
            proxy.heal()
            proxy.cut()
            assert await asyncio.to_thread(portd.wait) == os.EX_OK, portd.log()
            (said,) = caught_up_offsets(portd.log())
            assert said >= end, portd.log()
    assert_equal(source, target)


async def test_an_offset_of_a_source_that_was_left_is_not_waited_for(source: Server) -> None:
    """Behind a failover the new source may never come to what the old one had told: it is asked itself then."""
    client = source.client()
    with Wire(source) as replica:
        replica.post("PSYNC", "?", "-1")
        wait_for_sync(lambda: client.info("replication")["connected_slaves"] == 1)
        client.set("never sent", "1")
        progress, linked, relinked = Progress(), asyncio.Event(), asyncio.Event()
        linked.set()
        strand = Strand("key", Checkpoint(position=Position("a" * 40, 0)), Stream())
        account = Account(strand, progress, DeadLetters(progress), 1.0)
        account.caught_up.set()
        spool = Spool(memory_bytes=1 << 20, directory=None, max_disk_bytes=0)
        endpoint = Endpoint.parse(source.url)
        catching_up = CatchUp(endpoint, spool, progress.stream, cast("Applier", account), linked, relinked)
        waiting = asyncio.create_task(catching_up.wait(), name="caught up")
        done, _ = await asyncio.wait({waiting}, timeout=0.5)  # it has asked by now, or asks later: either will do
        assert not done
        relinked.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await waiting is None
        spool.close()


def test_a_source_that_tells_nothing(source: Server, target: Server) -> None:
    """Where the source may not be asked, what was received counts, on disk too; the log says what is not known."""
    fill_strings(source, 20_000, 1000)
    with Wire(source) as wire:
        wire.call("ACL", "SETUSER", "reader", "on", ">secret", "+ping", "+replconf", "+psync")
    url = f"redis://reader:secret@127.0.0.1:{source.port}"
    with Portd(url, target, stop_after="caught-up", **SMALL) as portd:
        portd.until(lambda status: status["phase"] == "snapshot")
        target.signal(signal.SIGSTOP)  # the snapshot does not end before all of the stream has come
        end = write_behind(source)
        status = portd.until(lambda status: status["source"]["bytes_received"] > 20_000 * 1000 + end)
        received_at = time.time() - status["source"]["last_received_seconds_ago"]
        wait_for_sync(lambda: time.time() > received_at + 1.5)  # by then it is not what came a moment ago
        target.signal(signal.SIGCONT)
        assert portd.wait() == os.EX_OK, portd.log()
        (said,) = caught_up_offsets(portd.log())
        assert said >= end, portd.log()
        assert "source_offset=unknown" in portd.log()
    assert_equal(source, target)
