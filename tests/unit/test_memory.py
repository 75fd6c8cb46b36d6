"""Accounting: owners, peaks, cgroups, the budget's split, the process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from portd.config.load import load_settings
from portd.errors import ConfigError
from portd.memory import process
from portd.memory.accounting import Accounting
from portd.memory.cgroup import find_cgroup
from portd.memory.ledger import Ledger
from portd.memory.plan import (
    LINK_BUDGET_BYTES,
    LINK_BYTES,
    PROCESS_BYTES,
    RESERVE_BYTES,
    RESERVE_LINK_BYTES,
    plan_memory,
)
from portd.units import GIB, KIB, MIB
from portd.watch.history import History
from portd.watch.readings import KeyReading, PipelineReading

if TYPE_CHECKING:
    from pathlib import Path

    from portd.config.settings import Settings


def settings(**flags: object) -> Settings:
    """Settings with two ends."""
    return load_settings({"source": "redis://one", "target": "redis://two", **flags})


# ---------------------------------------------------------------- ledger and history


def test_peaks_are_kept_with_their_time() -> None:
    """The highest sample of an owner stays when it gives its bytes back."""
    held = [5]
    ledger = Ledger()
    ledger.register("queue", lambda: held[0], limit=10)
    ledger.readings()
    held[0] = 9
    (high,) = ledger.readings()
    held[0] = 2
    (low,) = ledger.readings()
    assert (high.held_bytes, high.peak_bytes, high.limit_bytes) == (9, 9, 10)
    assert (2, 9, high.peak_at) == (low.held_bytes, low.peak_bytes, low.peak_at)


def test_an_owner_may_count_its_own_peak() -> None:
    """A peak between two samples is not lost where the owner knows it."""
    ledger = Ledger()
    ledger.register("spool", lambda: 1, peak=lambda: (100, 7.0))
    assert ledger.readings()[0].peak_bytes == 100


def test_an_owner_keeps_its_peak_when_it_is_built_anew() -> None:
    """A reconnected part is the same owner."""
    ledger = Ledger()
    ledger.register("lane 0", lambda: 7)
    ledger.readings()
    ledger.register("lane 0", lambda: 1)
    assert [(reading.held_bytes, reading.peak_bytes) for reading in ledger.readings()] == [(1, 7)]
    ledger.forget("lane 0")
    ledger.forget("lane 0")
    assert ledger.readings() == []


def test_history_forgets_the_oldest_and_keeps_highs() -> None:
    """The ring is bounded, and merging rows for a plot never hides a peak."""
    history = History(("rss", "owned"), rows=10)
    for second in range(25):
        history.append(float(second), (second, 1000 if second == 17 else 0))
    every = history.read(points=100)
    assert list(range(15, 25)) == every.columns["rss"]
    merged = history.read(points=4)
    assert len(merged.at) <= 4
    assert merged.at[-1] == 24.0
    assert max(merged.columns["owned"]) == 1000


def test_an_empty_history_reads_empty() -> None:
    """Nothing was sampled yet: nothing is shown."""
    assert History(("rss",)).read().at == []


# ---------------------------------------------------------------- cgroup


def write_v2(root: Path, limits: dict[str, str]) -> Path:
    """A version 2 hierarchy with the group /a/b; returns the directory that stands for /proc/self."""
    proc, mount = root / "proc", root / "cg"
    (mount / "a/b").mkdir(parents=True)
    proc.mkdir()
    (proc / "cgroup").write_text("0::/a/b\n")
    (proc / "mountinfo").write_text(f"30 23 0:26 / {mount} rw,nosuid - cgroup2 cgroup2 rw\n")
    (mount / "a/b/memory.current").write_text("1000\n")
    (mount / "a/b/memory.peak").write_text("3000\n")
    for path, text in limits.items():
        (mount / path).write_text(text + "\n")
    return proc


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"a/b/memory.max": "max"}, None),
        ({"a/b/memory.max": "5000"}, 5000),
        ({"a/b/memory.max": "max", "a/memory.max": "4000"}, 4000),
        ({"a/b/memory.max": "5000", "a/b/memory.high": "4500", "a/memory.max": "9000"}, 4500),
    ],
)
def test_the_tightest_limit_counts(tmp_path: Path, limits: dict[str, str], expected: int | None) -> None:
    """Version 2: a parent's limit, or memory.high, holds as well as the group's own."""
    group = find_cgroup(write_v2(tmp_path, limits))
    assert group is not None
    reading = group.read()
    assert (2, 1000, expected, 3000) == (
        reading.version,
        reading.current_bytes,
        reading.limit_bytes,
        reading.peak_bytes,
    )


def test_version_one_is_read(tmp_path: Path) -> None:
    """Version 1, mounted beside version 2, from inside of a container that sees only its own group."""
    proc, mount = tmp_path / "proc", tmp_path / "memory"
    proc.mkdir()
    mount.mkdir()
    (proc / "cgroup").write_text("9:cpu:/docker/x\n4:memory:/docker/x\n0::/\n")
    (proc / "mountinfo").write_text(
        f"31 23 0:27 / {tmp_path} rw - cgroup2 none rw\n30 23 0:26 /docker/x {mount} rw - cgroup cgroup rw,memory\n"
    )
    (mount / "memory.usage_in_bytes").write_text("77\n")
    (mount / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    group = find_cgroup(proc)
    assert group is not None
    assert (group.version, group.current(), group.limit()) == (1, 77, None)
    (mount / "memory.limit_in_bytes").write_text("134217728\n")
    assert group.limit() == 128 * MIB


def test_no_proc_is_no_cgroup(tmp_path: Path) -> None:
    """Without /proc nothing is known and nothing fails."""
    assert find_cgroup(tmp_path) is None


# ---------------------------------------------------------------- plan


def test_the_parts_add_up_to_the_budget() -> None:
    """No byte of the budget is given twice or forgotten."""
    for flags in ({}, {"writers": 16}, {"chunk_bytes": "4MiB"}, {"memory_budget": "9MiB"}, {"memory_budget": "1GiB"}):
        plan = plan_memory(settings(**flags), None)
        assert plan.budget_bytes == plan.spool_bytes + plan.decoder_bytes + plan.queue_bytes
        assert plan.queue_bytes >= 2 * settings(**flags).chunk_bytes
        assert plan.batch_bytes >= settings(**flags).command_bytes
        assert plan.ceiling_bytes == PROCESS_BYTES + plan.budget_bytes


def test_the_default_budget_stays_below_100_mb() -> None:
    """With default settings and no limit the process may reach 100 MB and not more."""
    plan = plan_memory(settings(), None)
    assert plan.budget_bytes == 32 * MIB
    assert plan.ceiling_bytes <= 100_000_000


def test_a_cgroup_limit_lowers_the_budget() -> None:
    """What a limit leaves beside the interpreter is the budget, 32 MiB at most."""
    assert plan_memory(settings(), 4 * GIB).budget_bytes == 32 * MIB
    limit = PROCESS_BYTES + RESERVE_BYTES + 20 * MIB
    plan = plan_memory(settings(), limit)
    assert (20 * MIB, limit) == (plan.budget_bytes, plan.limit_bytes)
    assert "cgroup" in plan.reason


@pytest.mark.parametrize(
    ("flags", "limit", "numbers"),
    [
        ({"memory_budget": "2MiB"}, None, ("2.00 MiB", "6.00 MiB", "9.00 MiB")),
        ({"chunk_bytes": "64MiB"}, None, ("32.0 MiB", "321 MiB")),
        ({"writers": 64, "command_bytes": "1MiB"}, None, ("128 MiB", "writers=64")),
        ({}, 64 * MIB, ("0 B", "64.0 MiB")),
        ({"memory_budget": "64MiB"}, 128 * MIB, ("64MiB", "128 MiB", "56.0 MiB")),
    ],
)
def test_a_budget_that_cannot_work_is_refused(
    flags: dict[str, object], limit: int | None, numbers: tuple[str, ...]
) -> None:
    """The refusal has the numbers that do not fit, and says what to change."""
    with pytest.raises(ConfigError) as caught:
        plan_memory(settings(**flags), limit)
    for number in numbers:
        assert number in str(caught.value)
    assert caught.value.hint


def test_links_share_one_budget() -> None:
    """Each has an equal part, three fit into what one has and 100 MB, and one too many is told with what fits."""
    one = plan_memory(settings(), None)
    for links in (2, 3):
        plan = plan_memory(settings(), None, links)
        assert plan.budget_bytes == one.budget_bytes // links
        assert plan.budget_bytes == plan.spool_bytes + plan.decoder_bytes + plan.queue_bytes
        assert plan.chunk_bytes == MIB
        assert plan.ceiling_bytes == one.ceiling_bytes + (links - 1) * LINK_BYTES <= 100_000_000
    asked = {"memory_budget": "32MiB", "chunk_bytes": "2MiB"}
    with pytest.raises(ConfigError, match=r"32.0 MiB .* for 4 links .* 2 such links would fit") as caught:
        plan_memory(settings(link="eu", **asked), None, 4)
    assert "link eu" in str(caught.value)
    assert caught.value.hint is not None
    assert "64.0 MiB" in caught.value.hint
    with pytest.raises(ConfigError, match="1 such link would fit"):
        plan_memory(settings(memory_budget="5MiB"), None, 2)
    limit = PROCESS_BYTES + LINK_BYTES + RESERVE_BYTES + RESERVE_LINK_BYTES + 20 * MIB
    assert plan_memory(settings(), limit, 2).budget_bytes == 10 * MIB


def test_many_links_have_a_stated_growth_each() -> None:
    """Behind the third, a link adds 3 MiB of buffers and what it takes beside them; a hundred stay below 512 MB."""
    grows = LINK_BUDGET_BYTES + LINK_BYTES
    ceilings = [plan_memory(settings(), None, links).ceiling_bytes for links in (3, 4, 12, 100)]
    assert [each - ceilings[0] for each in ceilings] == [0, grows, 9 * grows, 97 * grows]
    assert ceilings[-1] < 512_000_000
    plan = plan_memory(settings(), None, 100)
    assert plan.budget_bytes == plan.spool_bytes + plan.decoder_bytes + plan.queue_bytes


def test_a_chunk_that_nobody_set_gets_smaller_until_links_fit() -> None:
    """One that was set stays, and so does what rules about sizes need."""
    assert plan_memory(settings(memory_budget="9MiB"), None, 2).chunk_bytes == 320 * KIB
    assert plan_memory(settings(), None, 100).chunk_bytes == 128 * KIB
    with pytest.raises(ConfigError, match="chunk_bytes=512KiB"):
        plan_memory(settings(memory_budget="9MiB", chunk_bytes="512KiB"), None, 2)
    large = {"min_bytes": "512KiB", "stop_after": "snapshot", "memory_budget": "9MiB"}
    with pytest.raises(ConfigError, match="chunk_bytes=512KiB"):
        plan_memory(settings(**large), None, 2)


# ---------------------------------------------------------------- process and report


def test_resident_adds_up() -> None:
    """RSS is its anonymous part and its file part, and the heaps fit into the anonymous part."""
    now = process.resident()
    assert now.rss_bytes == now.anon_bytes + now.file_bytes > MIB
    assert process.peak_rss() >= now.anon_bytes
    found = process.heaps(now)
    assert found.python_blocks > 1000
    assert 0 <= found.python_bytes <= now.anon_bytes


async def test_a_held_buffer_is_explained() -> None:
    """Bytes that an owner holds are in its line and not in the unexplained rest."""
    accounting = Accounting()
    accounting.settle()
    before = accounting.report()
    buffer = bytearray(b"x") * (24 * MIB)
    accounting.ledger.register("buffer", lambda: len(buffer), limit=64 * MIB)
    after = accounting.report()
    assert after.owned_bytes == 24 * MIB
    assert after.rss_bytes - before.rss_bytes >= 23 * MIB
    assert abs(after.unexplained_bytes - before.unexplained_bytes) < 2 * MIB
    parts = (after.interpreter_bytes, after.owned_bytes, after.free_bytes, after.unexplained_bytes)
    assert after.rss_bytes == sum(parts)


async def test_free_heap_goes_back_to_the_kernel() -> None:
    """What a snapshot took and gave back does not stay in RSS while the stream is followed."""
    blocks = [bytearray(b"x") * 60_000 for _ in range(400)]
    del blocks[::2]  # holes that malloc keeps
    before = process.resident()
    free_before = process.heaps(before).c_free_bytes
    assert free_before > 8 * MIB
    accounting = Accounting()
    accounting.start()
    accounting.close()
    after = process.resident()
    assert before.rss_bytes - after.rss_bytes > 8 * MIB
    assert free_before - process.heaps(after).c_free_bytes > 8 * MIB
    assert len(blocks) == 200


async def test_a_report_is_json_and_holds_the_pipeline() -> None:
    """Everything the page shows can be had as JSON."""
    accounting = Accounting()
    accounting.pipelines = lambda: {
        "default": PipelineReading(budget_bytes=5, current_key=KeyReading(0, "k", "hash", 1, 2, 3), queue_batches=2)
    }
    accounting.ledger.register("queue", lambda: 3 * KIB)
    accounting.sample()
    accounting.sample()
    data = json.loads(json.dumps(accounting.report().as_dict()))
    assert data["pipeline"]["budget_bytes"] == 5
    assert data["pipeline"]["current_key"]["type"] == "hash"
    assert data["history"]["columns"]["owned"] == [3 * KIB, 3 * KIB + 32]  # the first row of the history, too
    assert [each["owner"] for each in data["owners"]] == ["history", "queue"]


async def test_sampling_starts_and_stops() -> None:
    """A sample is taken at once; close may be called again and leaves no timer behind."""
    accounting = Accounting()
    accounting.start()
    accounting.start()
    assert len(accounting.report().history.at) == 1
    accounting.close()
    accounting.close()
    assert [handle for handle in getattr(asyncio.get_running_loop(), "_scheduled", []) if not handle.cancelled()] == []


FAULTS = """
import resource
from portd.memory.process import tune_malloc

def batches():
    held = [bytes(256 << 10) for _ in range(12)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

tune_malloc()
before = batches()
for turn in range(100):
    after = batches()
print(after - before)
"""


def test_a_batch_takes_the_memory_of_the_one_before() -> None:
    """Batches come and go by the thousand: mapped and cleared anew, each would cost 64 page faults."""
    shown = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(shown.stdout) < 100 * 64  # of 1200 batches
