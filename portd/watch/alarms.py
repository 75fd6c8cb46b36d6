"""What is wrong now, by the rules of deploy/alerts.yml: same names, thresholds and patience, so that a page and a pager agree.

Prometheus has the rules as expressions, this module as functions of what is known here; tests hold both together. Looked at
once a second; nothing of it knows of Prometheus.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from portd.model import Phase
from portd.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from portd.model import Progress
    from portd.watch.readings import SpoolReading

HOUR_SECONDS: Final = 3600.0
WINDOW_SECONDS: Final = 300.0  # in which lag must grow, and refusals count

_QUIET: Final = frozenset({Phase.STANDBY, Phase.HELD, Phase.STOPPED, Phase.FAILED})  # wants nothing of either end


class Severity(StrEnum):
    """As Prometheus's label of that name."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the rules of a link look at.

    Attributes:
        at: unix seconds.
        phase: where the sync stands.
        progress: its counters.
        spool: how full the spool is.
        happened: when something was counted last, unix seconds, by counter and label.
        lag_growth: seconds of lag a second, over the last five minutes.
    """

    at: float
    phase: Phase
    progress: Progress
    spool: SpoolReading
    happened: Mapping[tuple[str, str], float]
    lag_growth: Callable[[], float]

    @property
    def paused(self) -> bool:
        """An operator wants nothing written for now."""
        return self.progress.limit.paused_since > 0

    def within(self, counter: str, seconds: float, *, without: str = "") -> str:
        """The labels under which *counter* has counted something in that time; "" when it has not."""
        found = [
            label
            for (name, label), at in self.happened.items()
            if name == counter and label != without and self.at - at <= seconds
        ]
        return ", ".join(sorted(found))


@dataclass(frozen=True, slots=True)
class Named:
    """An alert.

    Attributes:
        alert: its name in deploy/alerts.yml.
        severity: as there.
        patience_seconds: for which it must hold, `for` there.
        limit: the number that the expression has there, a window in seconds among them; 0 for none.
    """

    alert: str
    severity: Severity
    patience_seconds: float
    limit: float


@dataclass(frozen=True, slots=True)
class Rule(Named):
    """An alert of a link.

    Attributes:
        words: what is wrong, of a sight and the limit; "" when nothing is.
    """

    words: Callable[[Sight, float], str]


@dataclass(frozen=True, slots=True)
class Alarm:
    """What is wrong.

    Attributes:
        alert: name of the rule.
        severity: of the rule.
        words: a sentence for people.
        since: unix seconds.
        firing: it has held for as long as the rule wants.
    """

    alert: str
    severity: Severity
    words: str
    since: float
    firing: bool


class Alarms:
    """Which rules hold, and since when.

    Attributes:
        now: what is wrong; what fires first, and the worst of that.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self.now: list[Alarm] = []

    def look(self, at: float, found: Iterable[tuple[Named, str]]) -> None:
        """Takes what each rule says now; "" where it does not hold."""
        self.now = []
        for rule, words in found:
            if not words:
                self._since.pop(rule.alert, None)
                continue
            since = self._since.setdefault(rule.alert, at)
            firing = at - since >= rule.patience_seconds
            self.now.append(Alarm(rule.alert, rule.severity, words, since, firing))
        self.now.sort(key=lambda each: (not each.firing, each.severity is not Severity.CRITICAL))


def _failed(sight: Sight, _: float) -> str:
    return f"the link has failed: {sight.progress.failure}" if sight.phase is Phase.FAILED else ""


def _source_away(sight: Sight, _: float) -> str:
    away = not sight.progress.source.connected and sight.phase not in _QUIET
    return "the source is not connected" if away else ""


def _target_away(sight: Sight, _: float) -> str:
    lanes = (*sight.progress.lanes, *sight.progress.resting)
    quiet = sight.phase in _QUIET or sight.phase in {Phase.STARTING, Phase.WAITING}
    away = lanes and not quiet and not any(lane.connection.connected for lane in lanes)
    return "the target is not connected" if away else ""


def _node_away(sight: Sight, _: float) -> str:
    return "; ".join(node.words for node in sight.progress.nodes_away.values())


def _not_streaming(sight: Sight, _: float) -> str:
    said = {Phase.STREAMING, Phase.PAUSED, *_QUIET}
    return f"not streaming, but {sight.phase}" if sight.phase not in said else ""


def _lag_high(sight: Sight, limit: float) -> str:
    lag = sight.progress.lag_seconds
    high = lag is not None and lag > limit and not sight.paused
    return f"the target is {human_seconds(lag or 0.0)} behind" if high else ""


def _lag_growing(sight: Sight, limit: float) -> str:
    lag = sight.progress.lag_seconds
    growing = lag is not None and lag > limit and not sight.paused and sight.lag_growth() > 0
    return "the target takes less than the source writes" if growing else ""


def _refused(sight: Sight, window: float) -> str:
    codes = sight.within("refusals", window)
    return f"refused for now: {codes}" if codes else ""


def _held(sight: Sight, _: float) -> str:
    held = sight.progress.held
    return f"a full sync waits for an operator: {held.words}" if held else ""


def _paused(sight: Sight, _: float) -> str:
    return "an operator has paused it: nothing is written to the target" if sight.paused else ""


def _dead_letters(sight: Sight, window: float) -> str:
    codes = sight.within("dead_letters", window)
    return f"the target lacks what it refused: {codes}" if codes else ""


def _owed(sight: Sight, window: float) -> str:
    keys = sight.progress.stream.keys_owed
    stuck = keys and not sight.within("keys_copied", window) and not sight.paused
    return f"keys that have to be copied from the source, and are not: {keys}" if stuck else ""


def _full_sync(sight: Sight, window: float) -> str:
    reasons = sight.within("full_syncs", window, without="first")
    return f"copied anew: {reasons}" if reasons else ""


def _pruned(sight: Sight, window: float) -> str:
    return "a full sync removed keys from the target" if sight.within("keys_pruned", window) else ""


def _different(sight: Sight, _: float) -> str:
    return "the ends are not equal" if sight.progress.verify.result == "different" else ""


def _spool_filling(sight: Sight, share: float) -> str:
    held, most = sight.spool.disk_bytes, sight.spool.disk_limit_bytes
    return f"the spool has {human_bytes(held)} of {human_bytes(most)} on disk" if held > share * most else ""


def _spool_blocked(sight: Sight, _: float) -> str:
    return f"nothing more goes into the spool: {sight.spool.blocked}" if sight.spool.blocked else ""


def _output_buffer(sight: Sight, limit: float) -> str:
    left = sight.progress.outlook.seconds_left
    return f"the source drops the connection in {human_seconds(left)}" if left < limit else ""


def _backlog(sight: Sight, limit: float) -> str:
    left = sight.progress.outlook.backlog_seconds_left
    return f"the source's backlog bridges {human_seconds(left)} only" if left < limit else ""


def _checkpoint(sight: Sight, limit: float) -> str:
    at, lag = sight.progress.stream.checkpointed_at, sight.progress.lag_bytes
    old = at and lag and not sight.paused and sight.at - at > limit
    return f"nothing was committed for {human_seconds(sight.at - at)}" if old else ""


def _target_memory(sight: Sight, share: float) -> str:
    used, most = sight.progress.pulse.memory_bytes, sight.progress.pulse.memory_limit_bytes
    full = used is not None and most and used > share * most
    return f"the target uses {human_bytes(used or 0)} of {human_bytes(most or 0)}" if full else ""


def _lease(sight: Sight, limit: float) -> str:
    at = sight.progress.lease.renewed_at
    return f"the lease was not renewed for {human_seconds(sight.at - at)}" if at and sight.at - at > limit else ""


def _unfit(sight: Sight, _: float) -> str:
    standby = sight.progress.standby
    return f"the link could not be taken over: {standby.unfit}" if standby is not None and standby.unfit else ""


def _import_mode(sight: Sight, window: float) -> str:
    return "somebody switched the target's import mode off" if sight.within("import_mode_losses", window) else ""


_BAD, _WARN = Severity.CRITICAL, Severity.WARNING
RULES: Final = (
    Rule("PortdFailed", _BAD, 0, 0, _failed),
    Rule("PortdSourceAway", _BAD, 120, 0, _source_away),
    Rule("PortdTargetAway", _BAD, 120, 0, _target_away),
    Rule("PortdTargetNodeAway", _BAD, 120, 0, _node_away),
    Rule("PortdNotStreaming", _WARN, 1800, 0, _not_streaming),
    Rule("PortdLagHigh", _WARN, 300, 30, _lag_high),
    Rule("PortdLagGrowing", _BAD, 600, 10, _lag_growing),
    Rule("PortdRefused", _WARN, 120, WINDOW_SECONDS, _refused),
    Rule("PortdHeld", _BAD, 0, 0, _held),
    Rule("PortdPaused", _WARN, 900, 0, _paused),
    Rule("PortdDeadLetters", _BAD, 0, HOUR_SECONDS, _dead_letters),
    Rule("PortdKeysOwed", _WARN, 600, WINDOW_SECONDS, _owed),
    Rule("PortdFullSync", _WARN, 0, HOUR_SECONDS, _full_sync),
    Rule("PortdKeysPruned", _WARN, 0, HOUR_SECONDS, _pruned),
    Rule("PortdVerifyDifferent", _BAD, 0, 0, _different),
    Rule("PortdSpoolFilling", _WARN, 60, 0.7, _spool_filling),
    Rule("PortdSpoolBlocked", _BAD, 60, 0, _spool_blocked),
    Rule("PortdOutputBuffer", _BAD, 30, 300, _output_buffer),
    Rule("PortdBacklog", _WARN, 600, 60, _backlog),
    Rule("PortdCheckpointOld", _BAD, 300, 30, _checkpoint),
    Rule("PortdTargetMemory", _WARN, 300, 0.9, _target_memory),
    Rule("PortdLeaseLost", _BAD, 30, 15, _lease),
    Rule("PortdStandbyUnfit", _WARN, 120, 0, _unfit),
    Rule("PortdImportModeLost", _WARN, 0, HOUR_SECONDS, _import_mode),
)
MEMORY_RULE: Final = Named("PortdMemoryAbovePlan", _WARN, 300, 0)  # of the process: `portd.memory.accounting` looks


def check(sight: Sight) -> Iterable[tuple[Rule, str]]:
    """What each rule says of a link."""
    return ((rule, rule.words(sight, rule.limit)) for rule in RULES)


def growth(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the straight line through points that are best met by it, as `deriv` of Prometheus; 0 for too few."""
    if len(points) < 2:
        return 0.0
    middle = math.fsum(at for at, _ in points) / len(points)
    mean = math.fsum(value for _, value in points) / len(points)
    spread = math.fsum((at - middle) ** 2 for at, _ in points)
    return math.fsum((at - middle) * (value - mean) for at, value in points) / spread if spread else 0.0
