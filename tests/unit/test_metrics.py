"""The series that operators alert on: there from the start, filled at scrape, named by the rules."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from portd.metrics import LOSS_REASONS, MetricsCollector, Sources, build_registry
from portd.model import LaneState, Phase, Progress
from portd.readings import CgroupReading, OwnerReading, PipelineReading, SpoolReading
from portd.source.losses import Reason

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

UNITS = re.compile(
    r"_(bytes|ops|seconds|info|phase|connected|waiting|batches|fences|keys|segments|spilling|running|result)$"
)


def collect(progress: Progress, pipeline: PipelineReading | None = None) -> dict[str, Metric]:
    """All families by name."""
    sources = Sources(
        progress=progress,
        pipeline=lambda: pipeline or PipelineReading(),
        owners=lambda: [OwnerReading("spool", 5, 9, 1.0, 10)],
        cgroup=lambda: CgroupReading(2, 100, 200, 150),
    )
    return {family.name: family for family in MetricsCollector(sources).collect()}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    """One sample."""
    for family in families.values():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
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
    assert all(family.samples for family in families.values())


def test_loss_reasons_are_those_of_the_link() -> None:
    """The zeros cover every word the link counts under."""
    assert set(LOSS_REASONS) == {reason.value for reason in Reason}


def test_the_phase_is_one_hot() -> None:
    """Exactly one phase is 1."""
    families = collect(Progress(phase=Phase.STREAMING))
    assert value(families, "portd_phase", phase="streaming") == 1
    assert sum(sample.value for sample in families["portd_phase"].samples) == 1


def test_the_counters_are_read_at_scrape() -> None:
    """A scrape shows what the parts have counted by then."""
    progress = Progress()
    progress.stream.read_offset, progress.stream.applied_offset = 1500, 1000
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
    assert value(families, "portd_cgroup_memory_limit_bytes") == 200


def test_names_follow_the_rules() -> None:
    """Names begin with portd_, gauges end in a unit, and every family has a help text that is a sentence."""
    for name, family in collect(Progress(lanes=[LaneState(0)])).items():
        assert name.startswith("portd_")
        assert family.documentation.endswith("."), name
        if family.type == "gauge":
            assert UNITS.search(name), name


def test_the_exposition_can_be_parsed_and_has_the_process() -> None:
    """What /metrics serves is valid, free of duplicates, and tells RSS and CPU of the process."""
    sources = Sources(progress=Progress(), pipeline=PipelineReading, owners=list)
    text = generate_latest(build_registry(sources)).decode()
    names = [family.name for family in text_string_to_metric_families(text)]
    assert len(names) == len(set(names))
    assert {"process_resident_memory_bytes", "process_cpu_seconds", "portd_lag_seconds"} <= set(names)


def test_lag_grows_while_nothing_is_acknowledged() -> None:
    """A target that has stopped answering makes the lag grow, whatever the last acknowledgement said."""
    progress = Progress()

    def lag() -> float:
        return value(collect(progress), "portd_lag_seconds")

    progress.stream.acknowledged_seconds = 0.5
    assert lag() == 0
    progress.stream.read_offset, progress.stream.waiting_since = 10, time.time() - 42
    assert lag() == pytest.approx(42, abs=5)
    assert progress.stream.lag_seconds == pytest.approx(42, abs=5)
    progress.stream.applied_offset = 10
    assert lag() == 0
    assert progress.stream.lag_seconds == 0.5
