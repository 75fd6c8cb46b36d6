"""Heap profiles: what is recorded, how it is written down, what requests are refused."""

from __future__ import annotations

import asyncio
import gc
import gzip
import shutil
import subprocess
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from portd.http import HttpServer
from portd.memory.collector import GcWatch
from portd.memory.heap import OTHER, HeapBusy, HeapProfile, HeapRecorder, Sample
from portd.memory.heapformat import SAMPLE_TYPES, as_pprof, as_text, varint
from portd.memory.heapnames import FunctionNames
from portd.memory.slices import Slices
from portd.watch.readings import OwnerReading
from tests.servers import PATIENCE_SECONDS
from tests.unit.test_http import Observed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

MIB = 1 << 20


def allocate(size: int) -> bytearray:
    """A block that a profile must show under this function's name."""
    return bytearray(size)


@pytest.fixture
def recorder() -> Iterator[HeapRecorder]:
    """A recorder of a process without owners."""
    found = HeapRecorder(list)
    yield found
    found.close()


# ---------------------------------------------------------------------------------------- a reader of protobuf, for tests


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of every field of a message; bytes stay bytes."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        value: Any
        value, at = read_varint(data, at)
        if key & 7 == 2:
            size, value = value, data[at : at + value]
            assert len(value) == size, "a message is cut"
            at += size
        else:
            assert key & 7 == 0, "a wire type that profiles do not have"
        yield key >> 3, value


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and the place behind it."""
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return value | data[at] << shift, at + 1


def numbers(data: bytes) -> list[int]:
    """A packed list; negative numbers are in two's complement."""
    found, at = [], 0
    while at < len(data):
        value, at = read_varint(data, at)
        found.append(value - (1 << 64) if value >> 63 else value)
    return found


def read_profile(packed: bytes) -> dict[tuple[str, ...], list[int]]:
    """Values of a pprof file by the names of the functions of each stack, innermost first."""
    whole = list(fields(gzip.decompress(packed)))
    strings = [value.decode() for field, value in whole if field == 6]
    assert strings[0] == ""
    kinds = [tuple(strings[place] for _, place in fields(value)) for field, value in whole if field == 1]
    assert tuple(kinds) == SAMPLE_TYPES
    functions = {f[1]: strings[f[2]] for f in (dict(fields(value)) for field, value in whole if field == 5)}
    locations = {}
    for field, value in whole:
        if field == 4:
            parts = dict(fields(value))
            locations[parts[1]] = functions[dict(fields(parts[4]))[1]]
    found: dict[tuple[str, ...], list[int]] = {}
    for field, value in whole:
        if field == 2:
            parts = dict(fields(value))
            found[tuple(locations[place] for place in numbers(parts[1]))] = numbers(parts[2])
    return found


# -------------------------------------------------------------------------------------------------------------- recording


async def test_what_is_allocated_while_recording_is_found_by_function(recorder: HeapRecorder) -> None:
    """Blocks, bytes and the function that allocated them; afterwards nothing is traced any more."""
    task = asyncio.create_task(recorder.take(0.2))
    await asyncio.sleep(0)  # it begins at once, whatever time it takes
    held = [allocate(MIB) for _ in range(3)]
    profile = await task
    found = read_profile(await as_pprof(profile, recorder.names))
    (values,) = [values for stack, values in found.items() if stack[0] == f"{__name__}.allocate"]
    alloc_objects, alloc_bytes, objects, size = values
    assert objects >= len(held)  # a bytearray is an object and its buffer
    assert 3 * MIB <= size < 3 * MIB + 1000
    assert (alloc_objects, alloc_bytes) == (objects, size)
    assert not tracemalloc.is_tracing()


async def test_a_kept_recording_answers_at_once_and_shows_changes(recorder: HeapRecorder) -> None:
    """Without seconds everything since the start; with seconds the difference, which may be negative."""
    recorder.keep()
    held = [allocate(MIB)]
    whole = read_profile(await as_pprof(await recorder.take(), recorder.names))
    assert sum(values[3] for stack, values in whole.items() if stack[0].endswith(".allocate")) >= MIB
    task = asyncio.create_task(recorder.take(0.1))
    await asyncio.sleep(0)  # it begins at once, whatever time it takes
    held.clear()
    change = read_profile(await as_pprof(await task, recorder.names))
    assert sum(values[3] for stack, values in change.items() if stack[0].endswith(".allocate")) <= -MIB
    assert tracemalloc.is_tracing()


async def test_one_recording_at_a_time(recorder: HeapRecorder) -> None:
    """A second one is refused with the time to wait, and the first goes on."""
    first = asyncio.create_task(recorder.take(1.0))
    await asyncio.sleep(0)  # it begins at once, whatever time it takes
    with pytest.raises(HeapBusy) as caught:
        await recorder.take(0.1)
    assert 0 < caught.value.seconds <= 1.0
    assert (await first).samples
    assert (await recorder.take(0.05)).seconds < 1


async def test_a_cancelled_recording_leaves_nothing_behind(recorder: HeapRecorder) -> None:
    """Tracing stops, and the next recording is not refused."""
    task = asyncio.create_task(recorder.take(30))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not tracemalloc.is_tracing()
    assert await recorder.take(0.05)


async def test_owners_stand_for_what_is_older_than_the_recording() -> None:
    """Buffers from before are in the profile by owner, so that nothing large is missing."""
    owners = [
        OwnerReading("spool", 7 * MIB, 7 * MIB, 0.0, 0),
        OwnerReading("decoder", 3 * MIB, 3 * MIB, 0.0, 0),
        OwnerReading("queue and lanes", 0, 0, 0.0, 0),
    ]
    profile = await HeapRecorder(lambda: owners).take(0.05)
    older = {stack[0][0]: sample.inuse_bytes for stack, sample in profile.samples.items() if stack[0][0][0] == "("}
    assert older == {
        "(spool, from before the recording)": 7 * MIB,
        "(decoder, from before the recording)": 3 * MIB,
    }


async def test_a_recording_gives_way(recorder: HeapRecorder) -> None:
    """While a profile of many blocks is made, the loop is held only for moments."""
    held: list[object] = []
    longest, ends = 0.0, asyncio.Event()

    async def tick() -> None:
        nonlocal longest
        before = time.process_time()  # not the clock on the wall: others use this machine too
        while not ends.is_set():
            await asyncio.sleep(0)
            longest, before = max(longest, time.process_time() - before), time.process_time()

    gc.freeze()  # what other tests left behind is not looked through by the collector here
    task = asyncio.create_task(recorder.take(0.5))
    await asyncio.sleep(0.05)
    held += [bytearray(100) for _ in range(20_000)]
    ticker = asyncio.create_task(tick())
    data = await as_pprof(await task, recorder.names)
    ends.set()
    await ticker
    gc.unfreeze()
    assert data
    assert longest < 0.15


def test_pauses_of_the_collector_are_timed() -> None:
    """Runs, their time and what they freed, only while it watches."""
    watch = GcWatch()
    watch.start()
    cycle: list[object] = []
    cycle.append(cycle)
    del cycle
    gc.collect()
    watch.close()
    found = watch.read()
    gc.collect()
    assert watch.read() == found
    assert found.runs >= 1
    assert found.collected >= 1
    assert 0 < found.longest_seconds <= found.pause_seconds
    assert found.longest_at > 0


# ----------------------------------------------------------------------------------------------------------- writing down


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 1 << 20, (1 << 63) - 1, -1, -(1 << 40)])
def test_numbers_are_written_as_protobuf_has_them(value: int) -> None:
    """Base 128, lowest group first; negative numbers take ten bytes."""
    assert numbers(varint(value)) == [value]
    assert len(varint(value)) <= 10


async def test_names_come_from_loaded_modules() -> None:
    """Methods, inner functions and decorated ones are named; a line of no function is named by its module."""
    names, slices = FunctionNames(), Slices()

    def inner() -> None:
        pass

    here = inner.__code__.co_firstlineno + 1
    own = f"{__name__}.test_names_come_from_loaded_modules"
    assert (await names.find((__file__, here), slices)).name == f"{own}.inner"
    assert (await names.find((__file__, here - 3), slices)).name == own
    assert (await names.find((__file__, 3), slices)).name == f"{__name__}:3"
    assert (await names.find(("<unknown>", 0), slices)).name == "<unknown>:0"
    method = Slices.rest.__code__
    found = await names.find((method.co_filename, method.co_firstlineno + 2), slices)
    assert (found.name, found.line) == ("portd.memory.slices.Slices.rest", method.co_firstlineno)


async def test_the_text_form_lists_stacks_by_size() -> None:
    """As Go writes it: objects: bytes [allocated objects: bytes], then the stack."""
    samples = {
        (("a.py", 1),): Sample(1, 10, 2, 20),
        (("b.py", 2), ("a.py", 1)): Sample(3, 3000, 4, 4000),
        OTHER: Sample(),
    }
    text = await as_text(HeapProfile(1.0, 1.0, samples, 0), FunctionNames(), ["a comment"])
    assert text.startswith(
        "heap profile: 4: 3010 [6: 4020] @ portd\n# a comment\n\n3: 3000 [4: 4000]\n#\tb:2\tb.py:2\n"
    )


@pytest.mark.skipif(shutil.which("go") is None, reason="no go here")
async def test_go_reads_it(recorder: HeapRecorder, tmp_path: Path) -> None:
    """`go tool pprof` itself: top, list with the source, the raw form, and a difference."""
    held = []
    for name in ("one", "two"):
        task = asyncio.create_task(recorder.take(0.1))
        await asyncio.sleep(0.02)
        held.append(allocate(MIB if name == "one" else 3 * MIB))
        (tmp_path / name).write_bytes(await as_pprof(await task, recorder.names, ["first line"]))

    def pprof(*words: str) -> str:
        done = subprocess.run(
            ["go", "tool", "pprof", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        return done.stdout

    for kind, _ in SAMPLE_TYPES:
        assert f"Type: {kind}" in pprof(f"-{kind}", "-top", "one")
    top = pprof("-inuse_space", "-top", "one")
    assert "first line" in pprof("-comments", "one")
    assert f"{__name__}.allocate" in top
    assert "return bytearray(size)" in pprof("-list", r"\.allocate$", "one")
    assert "2048kB" in next(line for line in pprof("-base", "one", "-top", "two").splitlines() if ".allocate" in line)


# ---------------------------------------------------------------------------------------------------------------- the page


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Where the profile of a listening server is."""
    service = Observed()
    registry = service.registry()
    server = HttpServer(service, registry, ("127.0.0.1", 0))
    await server.start()
    yield f"{server.url}debug/memory/heap"
    server.close()
    service.recorder.close()


@pytest.mark.parametrize(
    "query",
    [
        "seconds=0",
        "seconds=-1",
        "seconds=nan",
        "seconds=inf",
        "seconds=301",
        "seconds=x",
        "seconds=",
        "seconds=1&seconds=2",
        "debug=2",
        "format=svg",
        "debug=1&format=flame",
        "second=1",
    ],
)
async def test_nonsense_is_refused(url: str, query: str) -> None:
    """A parameter that means nothing is answered with 400 at once, and nothing is recorded."""
    async with aiohttp.ClientSession() as session, session.post(f"{url}?{query}") as reply:
        assert reply.status == 400
        assert not tracemalloc.is_tracing()


async def test_a_second_request_is_told_to_wait(url: str) -> None:
    """Parallel requests: one profile, one 429 with the time to wait."""

    async def ask(session: aiohttp.ClientSession) -> tuple[int, str | None]:
        async with session.post(f"{url}?seconds=0.3") as reply:
            await reply.read()
            return reply.status, reply.headers.get("Retry-After")

    async with aiohttp.ClientSession() as session:
        answers = await asyncio.gather(ask(session), ask(session), ask(session))
    assert sorted(answers, key=str) == [(200, None), (429, "2"), (429, "2")]


async def test_all_forms(url: str) -> None:
    """A pprof file to download, text, and a page that needs nothing from elsewhere."""
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}?seconds=0.05") as reply:
            assert reply.headers["Content-Disposition"].startswith("attachment")
            read_profile(await reply.read())
        async with session.post(f"{url}?seconds=0.05&debug=1") as reply:
            assert (await reply.text()).startswith("heap profile: ")
        async with session.post(f"{url}?seconds=0.05&format=flame") as reply:
            page = await reply.text()
            assert "<svg" in page
            assert "http://" not in page
            assert "https://" not in page
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
