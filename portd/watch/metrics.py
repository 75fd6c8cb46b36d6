"""Every Prometheus series of portd, filled at scrape from plain counters.

Nothing is counted here and nothing on the hot path knows of Prometheus: the parts bump integers, `MetricsCollector`
reads them when somebody scrapes. Units are bytes and seconds; whatever may appear is there from the start, with zero.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from portd import __version__
from portd.hold import Reason
from portd.model import DURATION_BOUNDS, LoopState, Phase, Role
from portd.watch.readings import PipelineReading
from portd.watch.standing import look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from portd.model import Conflict, Durations, Progress, SourceOutlook, TargetLimit, TargetPulse, VerifyProgress
    from portd.watch.readings import CgroupReading, OwnerReading
    from portd.watch.view import View

LINK = "link"  # the label of every series of a link

# Label values that are shown with zero before they happen; others appear when they do.
HOLD_REASONS = tuple(reason.value for reason in Reason)
FILTERED_REASONS = ("key", "db", "slot", "type", "size", "ttl")
FULL_SYNC_REASONS = ("first", "asked", "interrupted", "backlog", "script", "rules", "source-changed", "source-empty")
LOSS_REASONS = (  # portd.source.losses.Reason
    "eof",
    "reset",
    "timeout",
    "silence",
    "refused",
    "unreachable",
    "name",
    "tls",
    "busy",
    "handshake",
    "closed",
)
DEAD_LETTER_CODES = ("ERR", "WRONGTYPE", "NOPERM", "unsupported", "cross_rule", "not_copied")
SPOOL_BLOCKS = ("disk full", "disk limit", "disk error")  # portd.spool.overflow
VERIFY_RESULTS = ("equal", "different", "undecided", "failed", "abandoned")
VERIFY_OUTCOMES = ("equal", "missing", "extra", "different", "undecided")
DROPPED_ATTRIBUTES = ("idle", "freq", "field-ttl", "stream-meta", "meta")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSources:
    """Where the figures of one link come from; functions are called at each scrape.

    Attributes:
        view: its name and counters.
        source: its address, without credentials.
        target: the same.
        pipeline: how full the parts are.
        decoder: counters of the snapshot decoder by name (`SnapshotDecoder.statistics`), empty outside of a snapshot.
    """

    view: View
    source: str
    target: str
    pipeline: Callable[[], PipelineReading] = PipelineReading
    decoder: Callable[[], Mapping[str, int]] = dict


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the figures come from; functions are called at each scrape.

    Attributes:
        links: all of them.
        owners: who holds which bytes.
        cgroup: None where there is no cgroup.
        loop: for how long the event loop was held.
        ceiling_bytes: RSS that the memory plan lets the process reach.
    """

    links: Sequence[LinkSources]
    owners: Callable[[], Sequence[OwnerReading]]
    cgroup: Callable[[], CgroupReading | None] = lambda: None
    loop: LoopState = field(default_factory=LoopState)
    ceiling_bytes: int = 0


def build_registry(sources: Sources) -> CollectorRegistry:
    """A registry of its own with all series of portd and of the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MetricsCollector(sources))
    ProcessCollector(registry=registry)
    return registry


class MetricsCollector(Collector):
    """Reads the sources when it is asked to."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """All series."""
        yield from _of_links(self._sources.links)
        yield from _loop(self._sources.loop)
        text = "What the memory plan lets the process reach: to compare with process_resident_memory_bytes."
        yield _gauge("memory_ceiling_bytes", text, self._sources.ceiling_bytes)
        yield from _memory(self._sources.owners(), self._sources.cgroup())


def _of_links(links: Sequence[LinkSources]) -> Iterable[Metric]:
    """The families of all links; each is there once, and every sample has the label of its link."""
    families: dict[str, Metric] = {}
    for link in links:
        for family in _of_link(link):
            samples, family.samples = family.samples, []
            known = families.setdefault(family.name, family)
            known.samples += [each._replace(labels={LINK: link.view.name, **each.labels}) for each in samples]
    return families.values()


def _of_link(link: LinkSources) -> Iterator[Metric]:
    """What there is of one."""
    progress = link.view.progress
    yield from _info(link)
    yield from _sync(progress)
    yield from _source(progress)
    yield from _outlook(progress.outlook)
    yield from _snapshot(progress, link.decoder())
    yield from _stream(progress)
    yield from _lanes(progress)
    yield from _limit(progress.limit)
    yield from _target(progress.pulse)
    yield from _verify(progress.verify)
    yield from _pipeline(link.pipeline())


def _gauge(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    """One figure; no sample where it is None: not known."""
    return GaugeMetricFamily(f"portd_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"portd_{name}", text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"portd_{name}", text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _counters(
    name: str, text: str, label: str, values: Mapping[str, float], known: tuple[str, ...] = ()
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"portd_{name}", text, labels=[label])
    for value, number in {**dict.fromkeys(known, 0), **values}.items():
        family.add_metric([value], number)
    return family


def _histogram(name: str, text: str, durations: Durations) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"portd_{name}", text)
    counts, total, buckets = durations.counts, 0, []
    for bound, count in zip((*map(str, DURATION_BOUNDS), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric([], buckets, durations.seconds)
    return family


def _info(link: LinkSources) -> Iterator[Metric]:
    text = "Which ends the link has, and versions of portd and of Python; always 1."
    info = GaugeMetricFamily("portd_info", text, labels=["source", "target", "version", "python"])
    info.add_metric([link.source, link.target, __version__, platform.python_version()], 1)
    yield info


def _conflicts(conflicts: Mapping[str, Conflict]) -> Iterator[Metric]:
    yield _counters(
        "conflicts_total",
        "Keys of the source that another link's source has, too, as keys of the same target, among those that were looked at.",
        "other",
        {other: conflict.found for other, conflict in conflicts.items()},
    )
    yield _counters(
        "conflicts_looked_total",
        "Keys of the source that were looked for at the source of another link of the process that may write the same keys.",
        "other",
        {other: conflict.looked for other, conflict in conflicts.items()},
    )


def _sync(progress: Progress) -> Iterator[Metric]:
    yield _gauge("started_timestamp_seconds", "When this sync began, unix time.", progress.started_at)
    standing = look(progress)
    phases = {phase.value: float(phase is standing.phase) for phase in Phase}
    yield _gauges("phase", "1 for the phase the sync is in, 0 for the others.", "phase", phases)
    roles = {role.value: float(role is progress.role) for role in Role}
    yield _gauges("role", "1 for what this process is to the link: it has the lease, or waits for it.", "role", roles)
    standby = progress.standby
    yield _gauge(
        "standby_unfit",
        "1 while the link is waited for and could not be taken over; /status says why.",
        standby is not None and standby.unfit != "",
    )
    yield _gauge(
        "standby_full_sync",
        "1 while the link is waited for and taking it over would be a full sync.",
        standby is not None and standby.full_sync != "",
    )
    yield _counter("takeovers_total", "Times the link was taken when another process had had it.", progress.takeovers)
    yield _gauge("ready", "1 while /readyz says that the target may be read.", standing.ready)
    refusals = CounterMetricFamily(
        "portd_refusals_total", "Refusals that pass by themselves, by side and code.", labels=["side", "code"]
    )
    for (side, code), count in progress.troubles.counts().items():
        refusals.add_metric([side, code], count)
    yield refusals
    held = progress.held.reason if progress.held else ""
    yield _gauges(
        "held",
        "1 while a full sync waits for an operator, before it overwrites or removes anything.",
        "reason",
        {reason: float(reason == held) for reason in HOLD_REASONS},
    )
    yield _gauge(
        "paused",
        "1 while an operator has paused it: nothing is written to the target.",
        progress.limit.paused_since > 0,
    )
    yield _counters(
        "full_syncs_total", "Full syncs begun, by reason.", "reason", progress.full_syncs, FULL_SYNC_REASONS
    )
    yield _counter("partial_syncs_total", "Times the source let us continue the stream.", progress.partial_syncs)
    yield _counter(
        "keys_pruned_total", "Keys removed from the target that the source did not have any more.", progress.keys_pruned
    )
    if progress.conflicts:
        yield from _conflicts(progress.conflicts)
    yield from _expiries(progress)


def _loop(loop: LoopState) -> Iterator[Metric]:
    yield _gauge("loop_block_seconds", "Longest time the event loop was held, of the last minute.", loop.recent_seconds)
    yield _gauge("loop_longest_block_seconds", "The same since the start.", loop.longest_seconds)
    yield _gauge(
        "loop_longest_own_block_seconds",
        "Longest time it was held by computing, without waits for a core or a disk.",
        loop.longest_own_seconds,
    )


def _expiries(progress: Progress) -> Iterator[Metric]:
    postponed = {"snapshot": progress.snapshots_total("keys_postponed"), "stream": progress.stream.expiries_postponed}
    yield _counters(
        "expiries_postponed_total",
        "Expiry times sent later than they are, since they might pass before the target has caught up.",
        "part",
        postponed,
    )
    yield _counter(
        "expiries_corrected_total",
        "Of them, those set back behind the lag; the others were renewed or deleted by the source.",
        progress.expiries_corrected,
    )
    yield _counter(
        "import_mode_losses_total",
        "Times the target's import mode was found switched off while this sync needed it, and was put back.",
        progress.import_mode_losses,
    )
    yield _gauge(
        "expiries_waiting",
        "1 while postponed expiry times in the target wait to be set back.",
        progress.expiries_to_correct,
    )


def _source(progress: Progress) -> Iterator[Metric]:
    source = progress.source
    yield _gauge("source_connected", "1 while the source is connected.", source.connected)
    yield _counter("source_connects_total", "Connections to the source made.", source.connects)
    yield _counters(
        "source_losses_total", "Connections to the source lost, by reason.", "reason", source.losses, LOSS_REASONS
    )
    yield _counter("source_received_bytes_total", "Bytes received from the source.", source.bytes_received)
    yield _counter("source_sent_bytes_total", "Bytes sent to the source.", source.bytes_sent)
    yield _gauge(
        "source_last_received_timestamp_seconds",
        "When the source last sent a byte, unix time; 0 if it never did.",
        source.last_received_at,
    )
    yield _gauge(
        "source_last_sent_timestamp_seconds",
        "When an ACK or another byte was last sent to the source, unix time; 0 for never.",
        source.last_sent_at,
    )


def _outlook(outlook: SourceOutlook) -> Iterator[Metric]:
    yield _gauge(
        "source_output_buffer_bytes", "What the source queues for us; 0 where it does not tell.", outlook.output_bytes
    )
    yield _gauges(
        "source_output_buffer_limit_bytes",
        "The source drops our connection above these: hard at once, soft after a while; 0 without a limit.",
        "kind",
        {"hard": outlook.output_hard_bytes, "soft": outlook.output_soft_bytes},
    )
    yield _gauge(
        "source_output_buffer_soft_limit_seconds", "How long the soft limit may be passed.", outlook.output_soft_seconds
    )
    yield _gauge(
        "source_link_left_seconds",
        "Until the source would drop our connection at the present pace; +Inf when it is in no danger.",
        outlook.seconds_left,
    )
    yield _gauge("source_write_rate_bytes", "What the source adds to its stream in a second.", outlook.write_rate)
    yield _gauge(
        "source_backlog_bytes", "Size of the source's backlog; 0 where it does not tell.", outlook.backlog_bytes
    )
    yield _gauge("source_backlog_behind_bytes", "Of it, what we have not received.", outlook.backlog_behind_bytes)
    yield _gauge(
        "source_backlog_left_seconds",
        "For how long a connection that breaks now could be continued without a full sync; +Inf when nothing is written.",
        outlook.backlog_seconds_left,
    )
    yield _gauge(
        "source_asked_timestamp_seconds",
        "When the source last told these figures, unix time; 0 for never.",
        outlook.asked_at,
    )


def _snapshot(progress: Progress, decoder: Mapping[str, int]) -> Iterator[Metric]:
    snapshot = progress.snapshot
    yield _gauge(
        "snapshot_size_bytes", "Size of the snapshot; 0 while the source has not told.", snapshot.bytes_total or 0
    )
    yield _gauge("snapshot_read_bytes", "Bytes of the snapshot received.", snapshot.bytes_read)
    yield _gauge("snapshot_decoded_bytes", "Bytes of the snapshot decoded.", snapshot.bytes_decoded)
    yield _gauge("snapshot_announced_keys", "Keys the snapshot says it has; a hint.", snapshot.keys_announced)
    yield _gauge(
        "snapshot_source_keys",
        "Keys in all databases of the source when the snapshot began; absent where it does not tell.",
        snapshot.keys_total,
    )
    yield _gauge("snapshot_settled_keys", "Keys of this snapshot whose fate is known.", snapshot.keys_settled)
    yield _counter("snapshot_keys_read_total", "Keys decoded, in all snapshots.", progress.snapshots_total("keys_read"))
    names = ("applied", "filtered", "expired", "failed")
    outcomes = {name: progress.snapshots_total(f"keys_{name}") for name in names}
    yield _counters("snapshot_keys_total", "What became of the keys; adds up to those read.", "outcome", outcomes)
    yield _counters(
        "snapshot_keys_filtered_total",
        "Keys that rules left out, in all snapshots, by what the rule asks for: a part of those filtered.",
        "reason",
        {why: progress.filtered_total(why) for why in FILTERED_REASONS},
    )
    yield _gauge(
        "snapshot_started_timestamp_seconds", "When the snapshot began, unix time; 0 for never.", snapshot.started_at
    )
    yield _gauge(
        "snapshot_finished_timestamp_seconds",
        "When the snapshot was applied, unix time; 0 for not yet.",
        snapshot.finished_at,
    )
    yield _counters(
        "dead_letters_total",
        "Keys and commands that did not reach the target, by the first word of its reply.",
        "code",
        progress.dead_letters,
        DEAD_LETTER_CODES,
    )
    yield _counters(
        "attributes_dropped_total",
        "Things the target cannot keep, such as the idle time of a big key, by kind.",
        "attribute",
        progress.dropped(),
        DROPPED_ATTRIBUTES,
    )
    for name, text in (("elements", "Elements of values decoded one by one."), ("batches", "Batches made.")):
        yield _counter(f"decoder_{name}_total", text, progress.earlier[name] + decoder.get(name, 0))


def _stream(progress: Progress) -> Iterator[Metric]:
    stream = progress.stream
    offsets = {
        "read": stream.read_offset,
        "decoded": stream.decoded_offset,
        "applied": stream.applied_offset,
        "checkpointed": stream.checkpointed_offset,
    }
    yield _gauges("offset_bytes", "Replication offsets, in the order in which they move on.", "stage", offsets)
    outcomes = {
        "applied": stream.commands_applied,
        "filtered": stream.commands_filtered,
        "failed": stream.commands_failed,
    }
    yield _counter("stream_commands_read_total", "Commands of the stream split off.", stream.commands_read)
    yield _counters("stream_commands_total", "What became of them.", "outcome", outcomes)
    yield _counters(
        "stream_commands_filtered_total",
        "Commands that rules left out, by what the rule asks for: a part of those filtered.",
        "reason",
        stream.commands_left,
    )
    yield _counter(
        "stream_commands_projected_total",
        "Commands that were applied in part, for rules take some of their keys only; once each, they are among those applied.",
        stream.commands_projected,
    )
    yield _counter("stream_keys_copied_total", "Keys copied from the source by themselves.", stream.keys_copied)
    yield _gauge("stream_owed_keys", "Keys that are still to be copied from it so.", stream.keys_owed)
    yield _counters(
        "own_names_total",
        "Keys of the snapshot, and commands of the stream, that were left out because they name keys of portd.",
        "phase",
        {"snapshot": progress.snapshot.keys_own, "stream": stream.commands_own},
    )
    yield _counter("stream_transactions_total", "Transactions the target committed for us.", stream.transactions)
    yield _histogram(
        "commit_seconds",
        "What a transaction of the stream took, from sending it to the target's reply; not counted for a cluster.",
        progress.commits,
    )
    yield _gauge(
        "checkpoint_timestamp_seconds",
        "When the checkpoint in the target was last written, unix time; 0 for never.",
        stream.checkpointed_at,
    )
    yield _gauge(
        "lease_renewed_timestamp_seconds",
        "When the lease of the link was last renewed, unix time; 0 while it is not held.",
        progress.lease.renewed_at,
    )
    yield _gauge(
        "lag_bytes",
        "Bytes of the stream received and not yet applied; absent where portd_lag_seconds is.",
        progress.lag_bytes,
    )
    yield _gauge(
        "lag_seconds",
        "Age of the oldest byte received and not yet acknowledged by the target; absent where it is not known: until the "
        "snapshot is applied, and while the source is away.",
        progress.lag_seconds,
    )
    yield _gauge(
        "caught_up_timestamp_seconds",
        "When the target had first caught up, unix time; 0 for not yet.",
        stream.caught_up_at,
    )


def _lanes(progress: Progress) -> Iterator[Metric]:
    lanes = {
        str(lane.index): lane for lane in sorted((*progress.lanes, *progress.resting), key=lambda lane: lane.index)
    }
    columns: list[tuple[str, str, dict[str, float]]] = [
        ("connects_total", "Connections made.", {name: lane.connection.connects for name, lane in lanes.items()}),
        ("losses_total", "Connections lost.", {name: lane.connection.losses.total() for name, lane in lanes.items()}),
        ("sent_bytes_total", "Bytes sent.", {name: lane.connection.bytes_sent for name, lane in lanes.items()}),
        (
            "received_bytes_total",
            "Bytes received.",
            {name: lane.connection.bytes_received for name, lane in lanes.items()},
        ),
        ("replies_total", "Replies received.", {name: lane.replies for name, lane in lanes.items()}),
        ("errors_total", "Error replies received.", {name: lane.errors for name, lane in lanes.items()}),
        ("retries_total", "Times something was sent again.", {name: lane.retries for name, lane in lanes.items()}),
    ]
    for name, text, values in columns:
        yield _counters(f"lane_{name}", f"{text} One lane is one connection to the target.", "lane", values)
    away = {node.address: max(0.0, time.time() - node.since) for node in progress.nodes_away.values()}
    text = (
        "For how long a node of a target cluster is left behind while the others go on; no series of one that is not."
    )
    yield _gauges("target_node_away_seconds", text, "node", away)
    gauges: list[tuple[str, str, dict[str, float]]] = [
        ("connected", "1 while the lane's connection is up.", {name: lane.connection.connected for name, lane in lanes.items()}),
        ("in_flight_bytes", "Bytes sent and not acknowledged.", {name: lane.in_flight_bytes for name, lane in lanes.items()}),
        ("in_flight_batches", "Batches sent and not acknowledged.", {name: lane.in_flight_batches for name, lane in lanes.items()}),
    ]  # fmt: skip
    for name, text, values in gauges:
        yield _gauges(f"lane_{name}", text, "lane", values)


def _verify(verify: VerifyProgress) -> Iterator[Metric]:
    yield _counters(
        "verify_runs_total", "Comparisons of both ends by the sync itself.", "result", verify.runs, VERIFY_RESULTS
    )
    yield _gauge("verify_running", "1 while the ends are compared.", verify.running)
    yield _gauges(
        "verify_last_result",
        "1 for how the last comparison ended, 0 for the others.",
        "result",
        {result: float(result == verify.result) for result in VERIFY_RESULTS},
    )
    yield _gauge("verify_last_finished_timestamp_seconds", "When it ended, unix time; 0 for never.", verify.finished_at)
    yield _gauge("verify_last_duration_seconds", "How long it took; 0 while one runs.", verify.seconds)
    yield _gauges(
        "verify_keys",
        "Keys by what the last comparison that came to its end found.",
        "outcome",
        {**dict.fromkeys(VERIFY_OUTCOMES, 0), **verify.keys},
    )


def _target(pulse: TargetPulse) -> Iterator[Metric]:
    yield _gauge(
        "target_memory_bytes",
        "Memory that the target uses, of a cluster the node that is asked; absent where it does not tell.",
        pulse.memory_bytes,
    )
    yield _gauge(
        "target_memory_limit_bytes",
        "Its maxmemory, 0 for no limit; absent where it does not tell.",
        pulse.memory_limit_bytes,
    )
    yield _histogram(
        "target_round_trip_seconds",
        "What the target took to answer a small question, asked every few seconds over a connection of its own.",
        pulse.round_trips,
    )


def _limit(limit: TargetLimit) -> Iterator[Metric]:
    yield _gauge(
        "target_limit_rate_bytes",
        "Most bytes a second to the target as set now; 0 for no limit.",
        limit.bytes_per_second,
    )
    yield _gauge(
        "target_limit_rate_ops",
        "Most commands a second to the target as set now; 0 for no limit.",
        limit.ops_per_second,
    )
    yield _counter(
        "target_limit_waited_seconds_total", "Time in which a lane waited for these limits.", limit.waited_until_now
    )
    yield _gauge("target_limit_waiting", "Lanes that wait for these limits.", limit.waiting)


def _pipeline(pipeline: PipelineReading) -> Iterator[Metric]:
    spool = pipeline.spool
    yield _gauge("budget_limit_bytes", "What queue and lanes may hold together.", pipeline.budget_bytes)
    yield _gauge("budget_used_bytes", "What they hold.", pipeline.budget_used_bytes)
    yield _gauge("budget_peak_bytes", "The most they held.", pipeline.budget_peak_bytes)
    yield _gauge("budget_waiting", "Producers that wait for room in the budget.", pipeline.budget_waiting)
    yield _gauge("queue_batches", "Batches that no lane has taken yet.", pipeline.queue_batches)
    yield _gauge("queue_bytes", "Bytes of the batches that no lane has taken yet.", pipeline.queue_bytes)
    yield _gauge("open_fences", "Big keys that are not finished.", pipeline.open_fences)
    yield _gauge("spool_memory_bytes", "Bytes received and not yet decoded, in memory.", spool.memory_bytes)
    yield _gauge("spool_memory_peak_bytes", "The most of them.", spool.peak_memory_bytes)
    yield _gauge("spool_disk_bytes", "Bytes received and not yet decoded, on disk.", spool.disk_bytes)
    yield _gauge("spool_disk_peak_bytes", "The most of them.", spool.peak_disk_bytes)
    yield _gauge(
        "spool_disk_limit_bytes", "What they may reach; 0 where nothing may be spilled.", spool.disk_limit_bytes
    )
    yield _gauge("spool_segments", "Files of the spool.", spool.segments)
    yield _gauge("spool_spilling", "1 while received bytes go to disk.", spool.spilling)
    yield _gauges(
        "spool_blocked",
        "1 for why nothing can be spilled now; all are 0 while it can.",
        "reason",
        {reason: float(reason == spool.blocked) for reason in SPOOL_BLOCKS},
    )
    yield _gauge(
        "spool_full", "1 while the source is not read, because there is room neither in memory nor on disk.", spool.full
    )


def _memory(owners: Sequence[OwnerReading], cgroup: CgroupReading | None) -> Iterator[Metric]:
    held = GaugeMetricFamily(
        "portd_memory_owner_bytes", 'Bytes held, by owner; link is "" for those of the process.', labels=[LINK, "owner"]
    )
    peak = GaugeMetricFamily("portd_memory_owner_peak_bytes", "The most bytes held, by owner.", labels=[LINK, "owner"])
    for reading in owners:
        held.add_metric([reading.link, reading.owner], reading.held_bytes)
        peak.add_metric([reading.link, reading.owner], reading.peak_bytes)
    yield held
    yield peak
    current = cgroup.current_bytes if cgroup else None
    limit = cgroup.limit_bytes if cgroup else None
    yield _gauge("cgroup_memory_bytes", "Memory charged to the cgroup, page cache included.", current or 0)
    yield _gauge("cgroup_memory_limit_bytes", "The cgroup's limit; 0 without one.", limit or 0)
    yield _gauge("scraped_timestamp_seconds", "When these figures were read, unix time.", time.time())
