"""What the pages warn of: the rules of deploy/alerts.yml, looked at in the process, with the same thresholds and patience."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from portd.memory.accounting import Accounting
from portd.model import Held, LaneState, NodeAway, Progress, Standby, Work
from portd.watch.alarms import HOUR_SECONDS, MEMORY_RULE, RULES, WINDOW_SECONDS, Severity, growth
from portd.watch.readings import SpoolReading
from portd.watch.track import Track
from tests.prometheus import shipped_rules

if TYPE_CHECKING:
    from collections.abc import Callable

ELSEWHERE = {"PortdDown", "PortdNoHolder", "PortdTwoHolders"}  # what a process cannot tell by itself
UNITS = {"s": 1, "m": 60, "h": 3600}
T = 1_000_000.0


def seconds(text: str) -> float:
    """A duration as Prometheus writes it."""
    return float(text[:-1]) * UNITS[text[-1]] if text else 0.0


def numbers(expression: str) -> set[float]:
    """What an expression compares with, and the windows it looks back; 0 and 1 are yes and no."""
    windows = {seconds(found) for found in re.findall(r"\[(\w+)\]", expression)}
    compared = {float(found) for found in re.findall(r"[<>=] ([0-9.]+)", expression)}
    return (windows | compared) - {0.0, 1.0}


def test_rules_are_those_of_prometheus() -> None:
    """Names, severities, patience and thresholds stand in deploy/alerts.yml and here: a page and a pager agree."""
    here = {each.alert: each for each in (*RULES, MEMORY_RULE)}
    shipped = {rule["alert"]: rule for rule in shipped_rules() if rule["alert"] not in ELSEWHERE}
    assert set(here) == set(shipped)
    for name, rule in shipped.items():
        mine = here[name]
        assert mine.severity == rule["labels"]["severity"], name
        assert mine.patience_seconds == seconds(rule.get("for", "")), name
    windowed = {"PortdLagGrowing": {WINDOW_SECONDS}}
    for name, rule in shipped.items():
        limit = {here[name].limit} - {0.0}
        assert numbers(rule["expr"]) == limit | windowed.get(name, set()), name


def following() -> Progress:
    """A sync that streams."""
    progress = Progress(introduced=True, work=Work.FOLLOWING, lanes=[LaneState(0)])
    progress.source.connected = progress.lanes[0].connection.connected = True
    progress.source.connects = 1
    progress.stream.caught_up = progress.stream.following = True
    return progress


def names(track: Track) -> dict[str, bool]:
    """What is wrong, and whether it fires."""
    return {each.alert: each.firing for each in track.alarms.now}


def test_a_sync_that_streams_has_no_warning() -> None:
    """Nor has one that has just been started, but for what may pass."""
    track = Track(following())
    track.sample(T)
    assert names(track) == {}
    begun = Track(Progress())
    begun.sample(T)
    assert not any(names(begun).values())


def fail(progress: Progress) -> None:
    """It has ended."""
    progress.ended, progress.failure = True, "no more"


def lose_source(progress: Progress) -> None:
    """The source is gone."""
    progress.source.connected = False


def lose_target(progress: Progress) -> None:
    """The target is gone."""
    progress.lanes[0].connection.connected = False


def lose_node(progress: Progress) -> None:
    """A node of the target is gone."""
    progress.nodes_away["a:1"] = NodeAway("a:1", "0-5", "closed", T)


def lag(progress: Progress) -> None:
    """An old byte waits for the target."""
    progress.stream.read_offset, progress.stream.applied_offset = 100, 50
    progress.stream.waiting_since = 1.0  # 1970: that is an old byte


def hold(progress: Progress) -> None:
    """A full sync is held."""
    progress.held = Held("other-source", "another source", T)


def fill_target(progress: Progress) -> None:
    """The target is nearly full."""
    progress.pulse.memory_bytes, progress.pulse.memory_limit_bytes = 91, 100


def stop_committing(progress: Progress) -> None:
    """Nothing reaches the target any more."""
    lag(progress)
    progress.stream.checkpointed_at = T - 31


CASES: list[tuple[str, Callable[[Progress], None]]] = [
    ("PortdFailed", fail),
    ("PortdSourceAway", lose_source),
    ("PortdTargetAway", lose_target),
    ("PortdTargetNodeAway", lose_node),
    ("PortdNotStreaming", lose_target),
    ("PortdLagHigh", lag),
    ("PortdRefused", lambda progress: progress.troubles.note("target", "OOM", "OOM")),
    ("PortdHeld", hold),
    ("PortdPaused", lambda progress: setattr(progress.limit, "paused_since", T)),
    ("PortdDeadLetters", lambda progress: progress.dead_letters.update(["ERR"])),
    ("PortdKeysOwed", lambda progress: setattr(progress.stream, "keys_owed", 2)),
    ("PortdFullSync", lambda progress: progress.full_syncs.update(["backlog"])),
    ("PortdKeysPruned", lambda progress: setattr(progress, "keys_pruned", 1)),
    ("PortdVerifyDifferent", lambda progress: setattr(progress.verify, "result", "different")),
    ("PortdOutputBuffer", lambda progress: setattr(progress.outlook, "seconds_left", 299.0)),
    ("PortdBacklog", lambda progress: setattr(progress.outlook, "backlog_seconds_left", 59.0)),
    ("PortdCheckpointOld", stop_committing),
    ("PortdTargetMemory", fill_target),
    ("PortdLeaseLost", lambda progress: setattr(progress.lease, "renewed_at", T - 16)),
    ("PortdStandbyUnfit", lambda progress: setattr(progress, "standby", Standby(unfit="the source is gone"))),
    ("PortdImportModeLost", lambda progress: setattr(progress, "import_mode_losses", 1)),
]


@pytest.mark.parametrize(("alert", "happens"), CASES, ids=[alert for alert, _ in CASES])
def test_a_rule_waits_as_long_as_prometheus_does(alert: str, happens: Callable[[Progress], None]) -> None:
    """What is wrong is shown at once, and fires when it has lasted; it is gone when it is over."""
    rule = next(each for each in RULES if each.alert == alert)
    progress = following()
    track = Track(progress)
    track.sample(T - 1)
    happens(progress)
    track.sample(T)
    assert names(track)[alert] is (rule.patience_seconds == 0)
    track.sample(T + rule.patience_seconds)
    assert names(track)[alert]
    track.sample(T + rule.patience_seconds + HOUR_SECONDS + 1)
    if rule.limit == HOUR_SECONDS or alert == "PortdRefused":
        assert alert not in names(track)


def test_the_spool_is_looked_at_in_its_own_figures() -> None:
    """Seven tenths of what may be on disk, and that nothing goes there."""
    spool = SpoolReading(disk_bytes=70, disk_limit_bytes=100)
    track = Track(following(), lambda: spool)
    track.sample(T)
    assert names(track) == {}
    spool = SpoolReading(disk_bytes=71, disk_limit_bytes=100, blocked="disk full")
    track.sample(T + 1)
    assert set(names(track)) == {"PortdSpoolFilling", "PortdSpoolBlocked"}


def test_a_lag_grows_or_shrinks() -> None:
    """As a straight line through its values says."""
    assert growth([(0, 10), (1, 12), (2, 11), (3, 14)]) == pytest.approx(1.1)
    assert growth([(0, 10), (1, 8)]) == -2
    assert growth([(0, 10)]) == growth([]) == 0


def test_a_lag_that_grows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """More and more seconds behind: the worst of what may be wrong stands first."""
    progress = following()
    track = Track(progress)
    monkeypatch.setattr(type(progress), "lag_seconds", property(lambda self: float(self.stream.commands_read)))
    for second in range(700):
        progress.stream.commands_read = second
        track.sample(T + second)
    first = track.alarms.now[0]
    assert (first.alert, first.severity, first.firing) == ("PortdLagGrowing", Severity.CRITICAL, True)
    for second in range(700, 1100):
        progress.stream.commands_read -= 1
        track.sample(T + second)
    assert names(track) == {"PortdLagHigh": True, "PortdNotStreaming": False}


def test_a_pause_is_no_lag() -> None:
    """What an operator wants is told as that, and not as a fault."""
    progress = following()
    progress.limit.paused_since = T
    stop_committing(progress)
    track = Track(progress)
    track.sample(T)
    assert names(track) == {"PortdPaused": False}


def test_a_first_full_sync_is_none_to_warn_of() -> None:
    """It was asked for."""
    progress = following()
    progress.full_syncs["first"] += 1
    track = Track(progress)
    track.sample(T)
    assert names(track) == {}
    assert track.happened["full_syncs", "first"] == T


def test_memory_above_the_plan_is_told() -> None:
    """Of the process, in its report."""
    accounting = Accounting()
    accounting.ceiling_bytes = 1
    accounting.sample()
    (alarm,) = accounting.report().alarms
    assert (alarm.alert, alarm.firing) == ("PortdMemoryAbovePlan", False)
    accounting.ceiling_bytes = 1 << 50
    accounting.sample()
    assert accounting.report().alarms == []


def test_what_was_counted_has_a_time() -> None:
    """The time of the sample that saw a counter move; one that stands still keeps its own."""
    progress = following()
    track = Track(progress)
    progress.dead_letters["ERR"] += 1
    track.sample(T)
    progress.dead_letters["WRONGTYPE"] += 2
    track.sample(T + 5)
    assert (track.happened["dead_letters", "ERR"], track.happened["dead_letters", "WRONGTYPE"]) == (T, T + 5)
    progress.dead_letters["ERR"] += 1
    track.sample(T + 9)
    assert track.happened["dead_letters", "ERR"] == T + 9
