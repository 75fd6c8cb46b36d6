"""deploy/alerts.yml by Prometheus's own tool: each alert fires where it is to, and stays still beside that."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.prometheus import ALERTS, needs_promtool, shipped_rules

if TYPE_CHECKING:
    from pathlib import Path

NONE = "_"
LINK = 'link="eu"'


@dataclass(frozen=True, kw_only=True)
class Case:
    """Series, and whether an alert fires because of them.

    Attributes:
        alert: its name.
        fires: it does.
        at: when that is looked at.
        series: values by series, a minute apart, as promtool reads them.
    """

    alert: str
    fires: bool
    series: dict[str, str] = field(default_factory=dict)
    at: str = "10m"

    def __str__(self) -> str:
        return f"{self.alert}{'' if self.fires else ' not'} {' '.join(self.series.values())}".rstrip()


def yes(alert: str, at: str = "10m", **series: str) -> Case:
    """It fires."""
    return Case(alert=alert, fires=True, at=at, series=_named(series))


def no(alert: str, at: str = "10m", **series: str) -> Case:
    """It does not."""
    return Case(alert=alert, fires=False, at=at, series=_named(series))


def _named(series: dict[str, str]) -> dict[str, str]:
    """Full names: `portd_` in front, and the label of a link; words behind `__` are one more label."""
    found = {}
    for name, values in series.items():
        short, _, label = name.partition("__")
        key, _, word = label.partition("_")
        more = f',{key}="{word.replace("_", "-")}"' if label else ""
        if short == "up":
            found['up{job="portd",instance="one"}'] = values
        elif short.startswith(("process_", "memory_")):
            found[f'{"" if short.startswith("process_") else "portd_"}{short}{{job="portd",instance="one"}}'] = values
        else:
            found[f"portd_{short}{{{LINK}{more}}}"] = values
    return found


def roles(*processes: str) -> dict[str, str]:
    """What processes on one link say that they are to it, and of their ends."""
    found: dict[str, str] = {}
    for number, role in enumerate(processes):
        labels = f'job="portd",instance="{number}",{LINK}'
        found |= {f'portd_role{{{labels},role="{each}"}}': f"{int(each == role)}x30" for each in ("holder", "standby")}
        found[f'portd_info{{{labels},source="redis://a",target="redis://b"}}'] = "1x30"
    return found


def with_roles(alert: str, *processes: str, fires: bool) -> Case:
    """Whether an alert fires where processes on one link are that."""
    return Case(alert=alert, fires=fires, series=roles(*processes))


UP = {"up": "1x30"}
CASES = [
    yes("PortdDown", up="0x30"),
    yes("PortdDown"),  # nobody asks it
    no("PortdDown", **UP),
    no("PortdDown", up="1x9 0 1x9"),
    yes("PortdFailed", phase__phase_failed="1x30"),
    no("PortdFailed", phase__phase_failed="0x30"),
    yes("PortdSourceAway", source_connected="0x30", phase__phase_connecting="1x30"),
    no("PortdSourceAway", source_connected="1 0 1 0 1 0 1 0 1 0 1", phase__phase_connecting="1x30"),
    no("PortdSourceAway", source_connected="0x30", phase__phase_held="1x30"),
    no("PortdSourceAway", source_connected="0x30", phase__phase_stopped="1x30"),
    yes("PortdTargetAway", lane_connected__lane_0="0x30", lane_connected__lane_1="0x30"),
    no("PortdTargetAway", lane_connected__lane_0="1x30", lane_connected__lane_1="0x30"),
    no("PortdTargetAway", lane_connected__lane_0="0x30", phase__phase_waiting="1x30"),
    yes("PortdTargetNodeAway", target_node_away_seconds__node_a="1+60x30"),
    no("PortdTargetNodeAway", at="1m", target_node_away_seconds__node_a="1+60x30"),
    yes("PortdNotStreaming", at="45m", phase__phase_streaming="0x60"),
    no("PortdNotStreaming", at="20m", phase__phase_streaming="0x60"),
    no("PortdNotStreaming", at="45m", phase__phase_streaming="0x60", phase__phase_stopped="1x60"),
    no("PortdNotStreaming", at="45m", phase__phase_streaming="0x60", phase__phase_paused="1x60"),
    no("PortdLagHigh", lag_seconds="31x30", paused="1x30"),
    no("PortdLagGrowing", at="20m", lag_seconds="0+20x30", paused="1x30"),
    no("PortdCheckpointOld", checkpoint_timestamp_seconds="1x30", lag_bytes="5x30", paused="1x30"),
    yes("PortdPaused", at="20m", paused="1x30"),
    no("PortdPaused", at="10m", paused="1x30"),
    no("PortdPaused", at="20m", paused="0x30"),
    yes("PortdLagHigh", lag_seconds="31x30"),
    no("PortdLagHigh", lag_seconds="30x30"),
    yes("PortdLagGrowing", at="20m", lag_seconds="0+20x30", paused="0x30"),
    no("PortdLagGrowing", at="20m", lag_seconds="600-20x30"),
    no("PortdLagGrowing", at="20m", lag_seconds="0+0.1x30"),
    yes("PortdRefused", refusals_total__code_OOM="0+5x30"),
    no("PortdRefused", at="20m", refusals_total__code_OOM="0 5x30"),
    yes("PortdHeld", held__reason_source_empty="1x30"),
    no("PortdHeld", held__reason_source_empty="0x30"),
    yes("PortdDeadLetters", dead_letters_total__code_ERR="0x5 1x30"),
    yes("PortdDeadLetters", dead_letters_total__code_NEW=f"{NONE}x5 1x30"),  # a code that nobody had thought of
    yes("PortdDeadLetters", at="30m", dead_letters_total__code_ERR="3x20 1x30"),  # it was restarted
    no("PortdDeadLetters", dead_letters_total__code_ERR="0x30"),
    no("PortdDeadLetters", at="100m", dead_letters_total__code_ERR="1x200"),
    yes("PortdKeysOwed", at="20m", stream_owed_keys="2x30", stream_keys_copied_total="7x30", paused="0x30"),
    yes("PortdKeysOwed", at="20m", stream_owed_keys="2x30"),
    no("PortdKeysOwed", at="20m", stream_owed_keys="2x30", stream_keys_copied_total="7+1x30"),
    no("PortdKeysOwed", at="20m", stream_owed_keys="0x30", stream_keys_copied_total="7x30"),
    no("PortdKeysOwed", at="20m", stream_owed_keys="2x30", stream_keys_copied_total="7x30", paused="1x30"),
    yes("PortdFullSync", full_syncs_total__reason_backlog="0x5 1x30"),
    no("PortdFullSync", full_syncs_total__reason_first="0x5 1x30"),
    no("PortdFullSync", at="100m", full_syncs_total__reason_backlog="0x5 1x200"),
    yes("PortdKeysPruned", keys_pruned_total="0x5 70x30"),
    no("PortdKeysPruned", keys_pruned_total="0x30"),
    yes("PortdVerifyDifferent", verify_last_result__result_different="1x30"),
    no("PortdVerifyDifferent", verify_last_result__result_different="0x30", verify_last_result__result_equal="1x30"),
    yes("PortdSpoolFilling", spool_disk_bytes="71x30", spool_disk_limit_bytes="100x30"),
    no("PortdSpoolFilling", spool_disk_bytes="70x30", spool_disk_limit_bytes="100x30"),
    no("PortdSpoolFilling", spool_disk_bytes="0x30", spool_disk_limit_bytes="0x30"),
    yes("PortdSpoolBlocked", spool_blocked__reason_disk_full="1x30"),
    no("PortdSpoolBlocked", spool_blocked__reason_disk_full="0x30"),
    yes("PortdOutputBuffer", source_link_left_seconds="299x30"),
    no("PortdOutputBuffer", source_link_left_seconds=" ".join(["+Inf"] * 30)),
    yes("PortdBacklog", at="20m", source_backlog_left_seconds="59x30"),
    no("PortdBacklog", at="20m", source_backlog_left_seconds="60x30"),
    yes("PortdCheckpointOld", checkpoint_timestamp_seconds="1x30", lag_bytes="5x30"),
    no("PortdCheckpointOld", checkpoint_timestamp_seconds="0x30", lag_bytes="5x30"),
    no("PortdCheckpointOld", checkpoint_timestamp_seconds="1x30", lag_bytes="0x30"),
    no("PortdCheckpointOld", checkpoint_timestamp_seconds="0+60x30", lag_bytes="5x30"),
    yes("PortdTargetMemory", target_memory_bytes="91x30", target_memory_limit_bytes="100x30"),
    no("PortdTargetMemory", target_memory_bytes="89x30", target_memory_limit_bytes="100x30"),
    no("PortdTargetMemory", target_memory_bytes="91x30", target_memory_limit_bytes="0x30"),
    no("PortdTargetMemory", target_memory_bytes="91x30"),
    yes("PortdMemoryAbovePlan", process_resident_memory_bytes="101x30", memory_ceiling_bytes="100x30"),
    no("PortdMemoryAbovePlan", process_resident_memory_bytes="100x30", memory_ceiling_bytes="100x30"),
    yes("PortdLeaseLost", lease_renewed_timestamp_seconds="1x30"),
    no("PortdLeaseLost", lease_renewed_timestamp_seconds="0x30"),
    no("PortdLeaseLost", lease_renewed_timestamp_seconds="0+60x30"),
    no("PortdSourceAway", source_connected="0x30", phase__phase_standby="1x30"),
    no("PortdTargetAway", lane_connected__lane_0="0x30", phase__phase_standby="1x30"),
    no("PortdNotStreaming", at="45m", phase__phase_streaming="0x60", phase__phase_standby="1x60"),
    with_roles("PortdNoHolder", "standby", "none", fires=True),
    with_roles("PortdNoHolder", "standby", fires=True),  # the other one is not even there
    with_roles("PortdNoHolder", "standby", "holder", fires=False),
    with_roles("PortdNoHolder", "none", fires=False),  # a process that begins, and has no standby
    with_roles("PortdTwoHolders", "holder", "holder", fires=True),
    with_roles("PortdTwoHolders", "holder", "standby", fires=False),
    yes("PortdStandbyUnfit", standby_unfit="1x30"),
    no("PortdStandbyUnfit", standby_unfit="0x30"),
    yes("PortdImportModeLost", import_mode_losses_total="0x5 1x30"),
    yes("PortdImportModeLost", import_mode_losses_total="_x5 1x30"),  # before the first look
    no("PortdImportModeLost", import_mode_losses_total="0x30"),
]


def test_every_alert_is_tried_both_ways() -> None:
    """Each alert of the file has a case in which it fires, and one beside it in which it does not."""
    names = [rule["alert"] for rule in shipped_rules()]
    assert len(set(names)) == len(names)
    assert {case.alert for case in CASES if case.fires} == set(names)
    assert {case.alert for case in CASES if not case.fires} == set(names)


def test_every_alert_says_what_it_is_and_where_to_read_on() -> None:
    """A severity, a summary that names whose it is, and words for the table, which stand in a chapter of the documents."""
    text = (ALERTS.parents[1] / "docs/operations.md").read_text(encoding="utf-8")
    chapters = {
        re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-")
        for each in re.findall(r"^## (.+)$", text, re.MULTILINE)
    }
    for rule in shipped_rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        summary, description = rule["annotations"]["summary"], rule["annotations"]["description"]
        assert "$labels.link" in summary or "$labels.instance" in summary, rule["alert"]
        assert description.endswith("."), rule["alert"]
        page, _, chapter = rule["annotations"].get("runbook", "docs/operations.md#what-to-watch").partition("#")
        assert (page, chapter in chapters) == ("docs/operations.md", True), rule["alert"]


@needs_promtool
def test_prometheus_takes_the_files(tmp_path: Path) -> None:
    """The tool finds nothing to say about the rules, nor about the settings that name them."""
    settings = str(ALERTS.parent / "prometheus.yml")
    for command in (["check", "rules", str(ALERTS)], ["check", "config", "--syntax-only", settings]):
        shown = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert "error" not in shown.stderr.lower()


@needs_promtool
def test_alerts_fire_where_they_are_to(tmp_path: Path) -> None:
    """All cases in one run of the tool, which tells those that are wrong."""
    tests = [_test(case) for case in CASES]
    path = tmp_path / "cases.yml"
    path.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "15s", "tests": tests}))
    shown = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout + shown.stderr


@needs_promtool
def test_a_wrong_case_is_told(tmp_path: Path) -> None:
    """The way the cases are put to the tool can fail."""
    wrong = [_test(no("PortdHeld", held__reason_source_empty="1x30")), _test(yes("PortdHeld"))]
    for each in wrong:
        path = tmp_path / "cases.yml"
        path.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "15s", "tests": [each]}))
        shown = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
        assert shown.returncode != 0


def _test(case: Case) -> dict[str, Any]:
    """One case as the tool takes it: how many series of that alert fire."""
    fires = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}}) > bool 0'
    samples = [{"labels": "{}", "value": 1}] if case.fires else []
    return {
        "name": str(case),
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [{"expr": fires, "eval_time": case.at, "exp_samples": samples}],
    }
