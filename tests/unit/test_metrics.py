"""The series that operators alert on: there from the start, filled at scrape, named by the rules."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from portd.config.load import load_settings
from portd.http.status import describe
from portd.model import LaneState, LoopState, Progress, Work
from portd.source.losses import Reason
from portd.spool.overflow import DISK_ERROR, DISK_FULL, DISK_LIMIT
from portd.watch.metrics import LOSS_REASONS, SPOOL_BLOCKS, LinkSources, MetricsCollector, Sources, build_registry
from portd.watch.readings import CgroupReading, OwnerReading, PipelineReading, SpoolReading
from portd.watch.view import View

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

NOT_KNOWN_YET = {
    *("portd_lag_bytes", "portd_lag_seconds", "portd_snapshot_source_keys"),
    *("portd_target_memory_bytes", "portd_target_memory_limit_bytes", "portd_target_node_away_seconds"),
}
UNITS = re.compile(
    r"_(bytes|ops|seconds|info|phase|connected|waiting|batches|fences|keys|segments|spilling|running|result|ready|paused|blocked|full|held|role|unfit|full_sync)$"
)


def collect(progress: Progress, pipeline: PipelineReading | None = None) -> dict[str, Metric]:
    """All families by name."""
    sources = Sources(
        links=[_link(progress, pipeline)],
        owners=lambda: [OwnerReading("spool", 5, 9, 1.0, 10, "default")],
        cgroup=lambda: CgroupReading(2, 100, 200, 150),
    )
    return {family.name: family for family in MetricsCollector(sources).collect()}


def _link(progress: Progress, pipeline: PipelineReading | None = None, name: str = "default") -> LinkSources:
    reading = pipeline or PipelineReading()
    return LinkSources(
        view=View.of(progress, name), source="redis://one", target="redis://two", pipeline=lambda: reading
    )


def value(families: dict[str, Metric], name: str, *, link: str | None = "default", **labels: str) -> float:
    """One sample; *link* is None for one of the process."""
    wanted = labels if link is None else {"link": link, **labels}
    for family in families.values():
        for sample in family.samples:
            if sample.name == name and sample.labels == wanted:
                return float(sample.value)
    raise AssertionError(f"no sample {name} {labels}")


def test_every_series_is_there_before_anything_happened() -> None:
    """Alerts on rates need zeros: counters exist, with zero, from the first scrape."""
    families = collect(Progress(lanes=[LaneState(0)]))
    assert value(families, "portd_dead_letters_total", code="ERR") == 0
    for outcome in ("applied", "filtered", "expired", "failed"):
        assert value(families, "portd_snapshot_keys_total", outcome=outcome) == 0
    for reason in LOSS_REASONS:
        assert value(families, "portd_source_losses_total", reason=reason) == 0
    assert {name for name, family in families.items() if not family.samples} == NOT_KNOWN_YET


def test_durations_are_cumulative_and_the_last_bucket_has_all() -> None:
    """A quantile of commit and round-trip times can be taken: bounds are inclusive, and nothing is too long to be counted."""
    progress = Progress()
    for seconds in (0.0005, 0.0006, 3.0, 60.0):
        progress.commits.note(seconds)
    families = collect(progress)
    buckets = {
        sample.labels["le"]: sample.value
        for sample in families["portd_commit_seconds"].samples
        if sample.name.endswith("_bucket")
    }
    assert (buckets["0.00025"], buckets["0.0005"], buckets["0.001"], buckets["5.0"], buckets["+Inf"]) == (0, 1, 2, 3, 4)
    assert list(buckets.values()) == sorted(buckets.values())
    assert value(families, "portd_commit_seconds_count") == 4
    assert value(families, "portd_commit_seconds_sum") == pytest.approx(63.0011)


def test_what_the_target_does_not_tell_is_absent() -> None:
    """No limit is 0; not known is no sample, so that nobody divides by what nobody said."""
    progress = Progress()
    assert not collect(progress)["portd_target_memory_limit_bytes"].samples
    progress.pulse.memory_bytes, progress.pulse.memory_limit_bytes = 7, 0
    families = collect(progress)
    assert value(families, "portd_target_memory_bytes") == 7
    assert value(families, "portd_target_memory_limit_bytes") == 0


def test_loss_reasons_are_those_of_the_link() -> None:
    """The zeros cover every word the link counts under."""
    assert set(LOSS_REASONS) == {reason.value for reason in Reason}


def test_the_phase_is_one_hot() -> None:
    """Exactly one phase is 1."""
    families = collect(following())
    assert value(families, "portd_phase", phase="streaming") == 1
    assert sum(sample.value for sample in families["portd_phase"].samples) == 1


def test_the_counters_are_read_at_scrape() -> None:
    """A scrape shows what the parts have counted by then."""
    progress = Progress()
    progress.stream.read_offset, progress.stream.applied_offset = 1500, 1000
    progress.stream.following = progress.source.connected = True
    progress.source.losses["reset"] += 3
    progress.dead_letters["WRONGTYPE"] += 2
    progress.full_syncs["first"] += 1
    pipeline = PipelineReading(budget_used_bytes=7, spool=SpoolReading(disk_bytes=11, spilling=True))
    families = collect(progress, pipeline)
    assert value(families, "portd_lag_bytes") == 500
    assert value(families, "portd_offset_bytes", stage="read") == 1500
    assert value(families, "portd_source_losses_total", reason="reset") == 3
    assert value(families, "portd_dead_letters_total", code="WRONGTYPE") == 2
    assert value(families, "portd_full_syncs_total", reason="first") == 1
    assert value(families, "portd_budget_used_bytes") == 7
    assert value(families, "portd_spool_disk_bytes") == 11
    assert value(families, "portd_spool_spilling") == 1
    assert value(families, "portd_memory_owner_peak_bytes", owner="spool") == 9
    assert value(families, "portd_cgroup_memory_limit_bytes", link=None) == 200


def test_every_series_of_a_link_names_it() -> None:
    """Two links are two samples of each series, told apart by their label alone; what the process has, it has once."""
    slow, quick = Progress(lanes=[LaneState(0)]), Progress(lanes=[LaneState(0)])
    slow.snapshot.keys_read = slow.snapshot.keys_applied = 3
    sources = Sources(links=[_link(slow, name="slow"), _link(quick, name="quick")], owners=list)
    families = {family.name: family for family in MetricsCollector(sources).collect()}
    of_the_process = {name for name, family in families.items() for each in family.samples if "link" not in each.labels}
    assert {name.removeprefix("portd_").split("_")[0] for name in of_the_process} == {
        "loop",
        "cgroup",
        "scraped",
        "memory",
    }
    for name, family in families.items():
        samples = [(each.name, *sorted({**each.labels, "link": ""}.items())) for each in family.samples]
        if name not in of_the_process and samples:
            assert len(samples) == 2 * len(set(samples)), name
    assert value(families, "portd_snapshot_keys_read_total", link="slow") == 3
    assert value(families, "portd_snapshot_keys_read_total", link="quick") == 0
    (info,) = (each for each in families["portd_info"].samples if each.labels["link"] == "slow")
    assert (info.labels["source"], info.labels["target"]) == ("redis://one", "redis://two")


def test_names_follow_the_rules() -> None:
    """Names begin with portd_, gauges end in a unit, and every family has a help text that is a sentence."""
    for name, family in collect(Progress(lanes=[LaneState(0)])).items():
        assert name.startswith("portd_")
        assert family.documentation.endswith("."), name
        if family.type == "gauge":
            assert UNITS.search(name), name


def test_the_exposition_can_be_parsed_and_has_the_process() -> None:
    """What /metrics serves is valid, free of duplicates, and tells RSS and CPU of the process."""
    sources = Sources(links=[_link(Progress(), name=name) for name in ("eu", "us")], owners=list)
    text = generate_latest(build_registry(sources)).decode()
    names = [family.name for family in text_string_to_metric_families(text)]
    assert len(names) == len(set(names))
    assert {"process_resident_memory_bytes", "process_cpu_seconds", "portd_lag_seconds"} <= set(names)


def test_lag_grows_while_nothing_is_acknowledged() -> None:
    """A target that has stopped answering makes the lag grow, whatever the last acknowledgement said."""
    progress = following()

    def lag() -> float:
        return value(collect(progress), "portd_lag_seconds")

    progress.stream.acknowledged_seconds = 0.5
    assert lag() == 0
    progress.stream.read_offset, progress.stream.waiting_since = 10, time.time() - 42
    assert lag() == pytest.approx(42, abs=5)
    progress.stream.applied_offset = 10
    assert lag() == 0


def test_what_is_not_known_is_absent() -> None:
    """No lag is told until the snapshot is applied, nor while the source is away: 0 would be a lie."""
    progress = following()
    assert samples_of(progress, "portd_lag_seconds") == samples_of(progress, "portd_lag_bytes") == [0]
    progress.source.connected = False
    assert samples_of(progress, "portd_lag_seconds") == samples_of(progress, "portd_lag_bytes") == []
    progress.source.connected = True
    progress.begin_snapshot()
    assert samples_of(progress, "portd_lag_seconds") == samples_of(progress, "portd_lag_bytes") == []


def test_lag_is_one_figure() -> None:
    """/status and /metrics mean the same by it."""
    progress = following()
    progress.stream.read_offset, progress.stream.waiting_since = 10, time.time() - 42
    progress.stream.acknowledged_seconds = 7.0
    status = describe(View.of(progress), load_settings({"source": "redis://one", "target": "redis://two"}), LoopState())
    assert samples_of(progress, "portd_lag_seconds") == [pytest.approx(status["stream"]["lag_seconds"], abs=5)]
    progress.stream.applied_offset = 10
    status = describe(View.of(progress), load_settings({"source": "redis://one", "target": "redis://two"}), LoopState())
    assert samples_of(progress, "portd_lag_seconds") == [status["stream"]["lag_seconds"]] == [0]


def test_counters_go_on_over_snapshots_and_lanes() -> None:
    """A second full sync, and lanes that rest and come back, make no counter fall."""
    progress = Progress()
    first, _ = progress.take_lanes(2)
    first.replies, progress.snapshot.keys_read, progress.snapshot.keys_applied = 5, 10, 9
    progress.begin_snapshot()
    progress.take_lanes(1)
    progress.snapshot.keys_read = 1
    families = collect(progress)
    assert value(families, "portd_snapshot_keys_read_total") == 11
    assert value(families, "portd_snapshot_keys_total", outcome="applied") == 9
    assert value(families, "portd_lane_replies_total", lane="0") == 5
    assert value(families, "portd_lane_replies_total", lane="1") == 0


def test_what_blocks_the_spool_is_a_series() -> None:
    """A full disk can be alerted on, by reason."""
    pipeline = PipelineReading(spool=SpoolReading(blocked="disk full", full=True))
    families = collect(Progress(), pipeline)
    assert value(families, "portd_spool_blocked", reason="disk full") == 1
    assert value(families, "portd_spool_blocked", reason="disk limit") == 0
    assert value(families, "portd_spool_full") == 1
    assert set(SPOOL_BLOCKS) == {DISK_FULL, DISK_LIMIT, DISK_ERROR}


def test_codes_of_refusals_are_a_closed_set() -> None:
    """A server that makes codes up makes no new series."""
    progress = Progress()
    before = len(collect(progress)["portd_refusals"].samples)
    for number in range(100):
        progress.troubles.note("target", f"MADEUP{number}", "x")
    families = collect(progress)
    assert len(families["portd_refusals"].samples) == before
    assert value(families, "portd_refusals_total", side="target", code="other") == 100


def following() -> Progress:
    """A sync that follows the stream, with nothing missing in the target."""
    progress = Progress(work=Work.FOLLOWING)
    progress.stream.caught_up = True
    progress.stream.following = progress.source.connected = True
    progress.source.connects = 1
    return progress


def samples_of(progress: Progress, name: str) -> list[float]:
    """All samples of one family."""
    return [sample.value for sample in collect(progress)[name].samples]
