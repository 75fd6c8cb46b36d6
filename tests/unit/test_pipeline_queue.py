"""The batch queue and its fences: what may be sent when, what is counted, how it ends."""

from __future__ import annotations

import asyncio
import random

import pytest

from portd.kernel.batch import CLOSE, OPEN, ORDERED, SPREAD, Batch
from portd.model import SnapshotProgress
from portd.pipeline import BatchQueue, ByteBudget, QueueClosed, Run
from tests.servers import PATIENCE_SECONDS


def _queue(limit: int = 1 << 20) -> tuple[BatchQueue, SnapshotProgress]:
    progress = SnapshotProgress()
    return BatchQueue(ByteBudget(limit), progress), progress


def _whole(size: int = 10, keys: int = 1) -> Batch:
    return Batch(b"x" * size, replies=1, db=0, keys=keys)


def _big(kind: int, *, fence: int = 1, data: bytes = b"data", part: bool = False) -> Batch:
    replies = 1 if data else 0
    keys = 1 if kind == CLOSE else 0
    return Batch(data, replies=replies, db=0, keys=keys, kind=kind, fence=fence, key=b"big", part=part)


async def _get(queue: BatchQueue) -> Batch:
    item = await asyncio.wait_for(queue.get("lane"), 60)
    assert isinstance(item, Batch)
    return item


async def test_whole_batches_pass_and_are_counted() -> None:
    """A batch keeps its bytes in the budget until it is acknowledged, then its keys count."""
    queue, progress = _queue()
    await queue.put(_whole(keys=7))
    assert queue.budget.held("queue") == 10
    batch = await _get(queue)
    assert (queue.budget.held("queue"), queue.budget.held("lane")) == (0, 10)
    queue.acknowledge(batch, "lane", failed=2, filtered=1)
    assert (progress.keys_applied, progress.keys_failed, progress.keys_filtered) == (4, 2, 1)
    assert queue.budget.used == 0
    await queue.join()


async def test_put_waits_for_the_budget() -> None:
    """The decoder waits while the budget is spent, and goes on when a batch is acknowledged."""
    queue, _ = _queue(limit=15)
    await queue.put(_whole())
    second = asyncio.create_task(queue.put(_whole()))
    await asyncio.sleep(0)
    assert not second.done()
    queue.acknowledge(await _get(queue), "lane")
    await second


async def test_chunks_wait_for_open_and_close_waits_for_chunks() -> None:
    """SPREAD chunks are handed out after OPEN is acknowledged, CLOSE after every chunk is."""
    queue, progress = _queue()
    for kind in (OPEN, SPREAD, SPREAD, CLOSE):
        await queue.put(_big(kind))
    await queue.put(_whole(keys=1))
    opening, other = await _get(queue), await _get(queue)
    assert (opening.kind, other.kind) == (OPEN, 0)
    assert queue.statistics().parked == 3
    queue.acknowledge(opening, "lane")
    first, second = await _get(queue), await _get(queue)
    assert [first.kind, second.kind] == [SPREAD, SPREAD]
    queue.acknowledge(second, "lane")
    assert queue.statistics().ready == 0
    queue.acknowledge(first, "lane")
    close = await _get(queue)
    assert close.kind == CLOSE
    assert progress.keys_applied == 0
    queue.acknowledge(close, "lane")
    queue.acknowledge(other, "lane")
    assert progress.keys_applied == 2
    assert queue.statistics().fences == ()
    await queue.join()


async def test_ordered_chunks_form_one_run() -> None:
    """ORDERED chunks come out of one run in order, whoever takes it; the run ends with CLOSE."""
    queue, _ = _queue()
    chunks = [_big(ORDERED, data=b"%d" % i) for i in range(4)]
    await queue.put(_big(OPEN))
    queue.acknowledge(await _get(queue), "lane")
    await queue.put(chunks[0])
    run = await queue.get("lane")
    assert isinstance(run, Run)
    for chunk in chunks[1:]:
        await queue.put(chunk)
    assert queue.statistics().ready == 0
    for chunk in chunks:
        assert chunk is await run.peek()
        taken = queue.take(run, "lane")
        assert chunk is taken
        queue.acknowledge(taken, "lane")
    waiting = asyncio.create_task(run.peek())
    await asyncio.sleep(0)
    assert not waiting.done()
    await queue.put(_big(CLOSE))
    assert await waiting is None
    assert (await _get(queue)).kind == CLOSE


async def test_spread_chunk_ends_a_run() -> None:
    """A hash with one element in parts: the run holds only that element, chunks around it stay free."""
    queue, _ = _queue()
    await queue.put(_big(OPEN))
    queue.acknowledge(await _get(queue), "lane")
    for batch in (_big(SPREAD), _big(ORDERED, part=True), _big(ORDERED), _big(SPREAD), _big(ORDERED)):
        await queue.put(batch)
    items = [await queue.get("lane") for _ in range(4)]
    assert [Batch, Run, Batch, Run] == [type(item) for item in items]
    assert isinstance(items[1], Run)
    assert items[1].ended
    assert len(items[1]) == 2


async def test_existing_key_is_skipped() -> None:
    """When the EXISTS of OPEN said 1, parked and later chunks are dropped and the key counts as filtered."""
    queue, progress = _queue()
    for kind in (OPEN, SPREAD, ORDERED, ORDERED):
        await queue.put(_big(kind))
    queue.acknowledge(await _get(queue), "lane", exists=True)
    assert queue.budget.used == 0
    await queue.put(_big(SPREAD))
    await queue.put(_big(CLOSE))
    assert (progress.keys_applied, progress.keys_filtered, progress.keys_failed) == (0, 1, 0)
    await queue.join()
    assert queue.statistics().fences == ()


async def test_existing_key_is_skipped_when_close_came_first() -> None:
    """A key that was read to its end before the answer to EXISTS came is dropped whole."""
    queue, progress = _queue()
    for kind in (OPEN, SPREAD, CLOSE):
        await queue.put(_big(kind))
    queue.acknowledge(await _get(queue), "lane", exists=True)
    assert progress.keys_filtered == 1
    assert queue.budget.used == 0
    await queue.join()


async def test_chunk_of_a_skipped_key_that_waited_for_room_is_dropped() -> None:
    """A chunk that was waiting for the budget when its key was skipped is dropped when room comes."""
    queue, progress = _queue(limit=8)
    await queue.put(_big(OPEN))
    await queue.put(_big(SPREAD))
    late = asyncio.create_task(queue.put(_big(SPREAD)))
    await asyncio.sleep(0)
    queue.acknowledge(await _get(queue), "lane", exists=True)
    await late
    await queue.put(_big(CLOSE))
    assert (progress.keys_filtered, queue.budget.used) == (1, 0)


async def test_refused_key_counts_as_failed_once() -> None:
    """However many chunks are refused, the key fails once; a refused OPEN drops the chunks."""
    queue, progress = _queue()
    await queue.put(_big(OPEN))
    queue.acknowledge(await _get(queue), "lane")
    for kind in (SPREAD, SPREAD, CLOSE):
        await queue.put(_big(kind))
    for _ in range(3):
        queue.acknowledge(await _get(queue), "lane", failed=1)
    await queue.put(_big(OPEN, fence=2))
    await queue.put(_big(SPREAD, fence=2))
    queue.acknowledge(await _get(queue), "lane", failed=1)
    await queue.put(_big(CLOSE, fence=2))
    assert (progress.keys_applied, progress.keys_failed) == (0, 2)
    await queue.join()


async def test_empty_close_is_not_sent() -> None:
    """A CLOSE with nothing to say finishes the key when its last chunk is acknowledged."""
    queue, progress = _queue()
    for batch in (_big(OPEN), _big(SPREAD), _big(CLOSE, data=b"")):
        await queue.put(batch)
    queue.acknowledge(await _get(queue), "lane")
    assert progress.keys_applied == 0
    queue.acknowledge(await _get(queue), "lane")
    assert progress.keys_applied == 1
    await queue.join()


async def test_close_lets_the_rest_out_and_wakes_getters() -> None:
    """After close what is ready can be taken; then every getter, waiting or new, learns of the end."""
    queue, _ = _queue()
    await queue.put(_whole())
    queue.close()
    queue.close()
    await _get(queue)
    getters = [asyncio.create_task(queue.get("lane")) for _ in range(3)]
    results = await asyncio.gather(*getters, return_exceptions=True)
    assert [QueueClosed] * 3 == [type(result) for result in results]
    with pytest.raises(QueueClosed):
        await queue.put(_whole())


async def test_close_wakes_a_waiting_put() -> None:
    """A decoder that waits for room learns of the close when room comes, and holds nothing."""
    queue, _ = _queue(limit=10)
    await queue.put(_whole())
    waiting = asyncio.create_task(queue.put(_whole()))
    await asyncio.sleep(0)
    queue.close()
    queue.acknowledge(await _get(queue), "lane")
    with pytest.raises(QueueClosed):
        await waiting
    assert queue.budget.used == 0


async def test_cancelled_get_loses_nothing() -> None:
    """A getter that is cancelled in the turn an item arrives leaves the item to the next one."""
    queue, _ = _queue()
    getter = asyncio.create_task(queue.get("lane"))
    await asyncio.sleep(0)
    await queue.put(_whole())
    getter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await getter
    await _get(queue)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("seed", range(4))
async def test_any_mix_of_keys_completes_in_order(seed: int, lanes: int) -> None:
    """Random big and small keys, a tight budget, lanes that answer late: nothing locks up, order holds per key."""
    rng = random.Random(seed)
    queue, progress = _queue(limit=64)
    batches: list[Batch] = []
    keys = 30
    for fence in range(1, keys + 1):
        kind = rng.choice([SPREAD, ORDERED])
        chunks = [_big(kind, fence=fence, data=b"c" * rng.randint(1, 30)) for _ in range(rng.randint(0, 6))]
        batches += [_big(OPEN, fence=fence), *chunks, _big(CLOSE, fence=fence, data=rng.choice([b"", b"close"]))]
        batches += [_whole(rng.randint(1, 100)) for _ in range(rng.randint(0, 2))]
    done: list[Batch] = []

    async def serve(batch: Batch, owner: str) -> None:
        for _ in range(rng.randint(0, 4)):
            await asyncio.sleep(0)
        done.append(batch)
        queue.acknowledge(batch, owner)

    async def lane(owner: str) -> None:
        while True:
            try:
                item = await queue.get(owner)
            except QueueClosed:
                return
            if isinstance(item, Batch):
                await serve(item, owner)
                continue
            while await item.peek() is not None:
                await serve(queue.take(item, owner), owner)

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        for index in range(lanes):
            group.create_task(lane(f"lane-{index}"), name=f"lane-{index}")
        for batch in batches:
            await queue.put(batch)
        await queue.join()
        queue.close()
    assert progress.keys_applied == keys + sum(batch.kind == 0 for batch in batches)
    for fence in range(1, keys + 1):
        sent = [batch for batch in done if batch.fence == fence]
        wanted = [batch for batch in batches if batch.fence == fence and len(batch)]
        if wanted[1:2] and wanted[1].kind == ORDERED:
            assert wanted == sent
        assert wanted[0] is sent[0]
        assert set(map(id, wanted)) == set(map(id, sent))
        assert all(batch.kind != CLOSE for batch in sent[:-1])
    assert queue.budget.used == 0
    assert queue.budget.statistics().peak <= 100
