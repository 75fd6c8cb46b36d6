"""The page of `/debug/memory`: who holds which bytes, and how full the path of a byte is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portd.http.cards import spool_tile
from portd.http.markup import (
    Html,
    bar,
    card,
    code,
    coloured,
    fill,
    join,
    moment,
    page,
    paragraph,
    soft,
    table,
    tile,
    tiles,
)  # fmt: skip
from portd.http.pages import memory_plot, memory_tile
from portd.http.plot import spans
from portd.units import human_bytes, human_count, human_seconds

if TYPE_CHECKING:
    from portd.memory.accounting import MemoryReport
    from portd.watch.history import Span
    from portd.watch.readings import FenceReading, KeyReading, OwnerReading, PipelineReading, SpoolReading

_PROFILE = Html(
    '<form method="post"><button formaction="memory/heap?seconds=3&amp;format=flame">flame graph of 3 s</button> '
    '<button formaction="memory/heap?seconds=3&amp;debug=1">as text</button>, or in a terminal</form>'
    "<p><code>curl -X POST -o heap.pb.gz HOST:PORT/debug/memory/heap &amp;&amp; go tool pprof -inuse_space heap.pb.gz</code></p>"
)
_UNEXPLAINED_BYTES = 10 << 20  # more than this of RSS that nobody accounts for is shown in red


def memory_page(report: MemoryReport, span: Span) -> str:
    """Who holds which bytes.

    Args:
        report: all of it.
        span: of its history.
    """
    pipelines = report.pipelines
    several = len(pipelines) > 1
    body = [
        _tiles(report),
        spans(span),
        memory_plot(report, wide=True),
        *(
            card(f"Key being decoded{_of(name, several=several)}", _key(each.current_key), wide=True)
            for name, each in pipelines.items()
        ),
        card("Who holds what", _owners(report, several=several), note="adds up to resident"),
        *(_pipeline_cards(each, _of(name, several=several)) for name, each in pipelines.items()),
        card("By allocator", _allocators(report), note="the same bytes, another cut"),
        card("Heap profile", _PROFILE, note="which lines hold the bytes", wide=True),
    ]
    return page("../", "memory - portd", soft(f"memory at {moment(report.at)}"), join(body))


def _tiles(report: MemoryReport) -> Html:
    used, limit = (
        sum(getattr(each, f"budget_{name}") for each in report.pipelines.values()) for name in ("used_bytes", "bytes")
    )
    return tiles(
        (
            memory_tile(report),
            tile(human_bytes(report.pss_bytes) if report.pss_bytes is not None else "?", "proportional (PSS)"),
            _cgroup(report),
            tile(human_bytes(used), f"of a budget of {human_bytes(limit)}"),
            spool_tile([each.spool for each in report.pipelines.values()], ""),
        )
    )


def _of(name: str, *, several: bool) -> str:
    """Which link a card is about, where there are several."""
    return f" of {name}" if several else ""


def _pipeline_cards(pipeline: PipelineReading, of: str) -> Html:
    """How full the parts of a link are."""
    body = [card(f"Pipeline{of}", _pipeline(pipeline))]
    if pipeline.fences:
        body.append(
            card(f"Big keys on their way{of}", _fences(pipeline.fences), note="fences, oldest first", wide=True)
        )
    if pipeline.lanes:
        body.append(card(f"In flight{of}", _in_flight(pipeline), note="sent to the target, not acknowledged"))
    if pipeline.largest_keys:
        body.append(card(f"Largest keys{of}", _largest(pipeline.largest_keys), note="so far", wide=True))
    return join(body)


def _cgroup(report: MemoryReport) -> Html:
    group = report.cgroup
    if group is None or group.current_bytes is None:
        return tile("none", "cgroup")
    limit = f"of {human_bytes(group.limit_bytes)}" if group.limit_bytes is not None else "without a limit"
    return tile(human_bytes(group.current_bytes), f"in the cgroup, {limit}")


def _key(key: KeyReading | None) -> Html:
    if key is None:
        return paragraph("none at this moment", "soft")
    share = key.elements_done / key.elements_total if key.elements_total else None
    whole = f" of {human_count(key.elements_total)}" if key.elements_total else ""
    return join(
        (
            fill('<p class="route">{}{}</p>', code(key.key), soft(f"{key.type} in db {key.db}")),
            bar(share, "elements of the key"),
            paragraph(f"{human_count(key.elements_done)}{whole} elements, {human_bytes(key.bytes_done)}"),
        )
    )


def _owners(report: MemoryReport, *, several: bool) -> Html:
    def row(reading: OwnerReading) -> tuple[str, ...]:
        limit = human_bytes(reading.limit_bytes) if reading.limit_bytes else ""
        name = f"{reading.link}: {reading.owner}" if several and reading.link else reading.owner
        return name, human_bytes(reading.held_bytes), human_bytes(reading.peak_bytes), moment(reading.peak_at), limit

    mood = "bad" if report.unexplained_bytes > _UNEXPLAINED_BYTES else "soft"
    rows: list[tuple[str, ...]] = [("interpreter and code", human_bytes(report.interpreter_bytes), "", "", "")]
    rows += [row(reading) for reading in report.owners]
    rows += [
        ("free, kept by malloc", human_bytes(report.free_bytes), "", "", ""),
        ("unexplained", coloured(human_bytes(report.unexplained_bytes), mood), "", "", ""),
        ("resident", human_bytes(report.rss_bytes), human_bytes(report.rss_peak_bytes), "", ""),
    ]
    return table(["owner", "#now", "#peak", "#peak at", "#limit"], rows, sums=1)


def _pipeline(pipeline: PipelineReading) -> Html:
    spool = pipeline.spool
    used = pipeline.budget_used_bytes / pipeline.budget_bytes if pipeline.budget_bytes else 0.0
    rows = [
        ("budget used", *_sizes(pipeline.budget_used_bytes, pipeline.budget_peak_bytes, pipeline.budget_bytes)),
        ("waiting for room", human_count(pipeline.budget_waiting), "", ""),
        ("queue", human_bytes(pipeline.queue_bytes), "", ""),
        ("batches in the queue", human_count(pipeline.queue_batches), "", ""),
        ("big keys open", human_count(pipeline.open_fences), "", ""),
        ("spool in memory", *_sizes(spool.memory_bytes, spool.peak_memory_bytes, spool.memory_limit_bytes)),
        (_spool_on_disk(spool), *_sizes(spool.disk_bytes, spool.peak_disk_bytes, spool.disk_limit_bytes)),
        ("files of the spool", human_count(spool.segments), "", ""),
    ]
    return join((bar(used, "budget used"), table(["part", "#now", "#peak", "#limit"], rows)))


def _sizes(now: int, peak: int, limit: int) -> tuple[str, str, str]:
    return human_bytes(now), human_bytes(peak), human_bytes(limit) if limit else ""


def _spool_on_disk(spool: SpoolReading) -> Html:
    if spool.blocked:
        state = coloured(f"{spool.blocked}{', the source is not read' if spool.full else ''}", "bad")
    else:
        state = coloured("spilling" if spool.spilling else "", "wait")
    return fill("spool on disk {}", state)


def _fences(fences: list[FenceReading]) -> Html:
    rows = (
        (
            code(fence.key),
            str(fence.db),
            "closing" if fence.closing else fence.gate,
            human_count(fence.chunks),
            human_count(fence.chunks_done),
        )
        for fence in fences
    )
    return table(["key", "#db", "state", "#chunks on their way", "#acknowledged"], rows)


def _in_flight(pipeline: PipelineReading) -> Html:
    rows = (
        (
            fill("{} {}", lane.lane, "" if lane.connected else coloured("down", "bad")),
            human_bytes(lane.in_flight_bytes),
            human_count(lane.in_flight_batches),
        )
        for lane in pipeline.lanes
    )
    return table(["lane", "#bytes", "#batches"], rows)


def _allocators(report: MemoryReport) -> Html:
    found = report.heaps
    rows = [
        ("code and libraries", human_bytes(report.file_bytes)),
        ("C heap in use", human_bytes(found.c_used_bytes)),
        ("C heap free", human_bytes(found.c_free_bytes)),
        ("Python objects, data, stacks", human_bytes(found.python_bytes)),
        ("resident", human_bytes(report.rss_bytes)),
    ]
    pauses = report.gc
    note = (
        f"{human_count(found.python_blocks)} small objects; {human_count(pauses.runs)} garbage collections "
        f"took {human_seconds(pauses.pause_seconds)}, the longest {human_seconds(pauses.longest_seconds)}"
    )
    swapped = f", {human_bytes(report.swap_bytes)} swapped out" if report.swap_bytes else ""
    return join((table(["allocator", "#now"], rows, sums=1), paragraph(note + swapped, "soft")))


def _largest(keys: list[KeyReading]) -> Html:
    rows = (
        (
            code(key.key),
            str(key.db),
            key.type,
            human_count(key.elements_done),
            human_bytes(key.bytes_done),
        )
        for key in keys
    )
    return table(["key", "#db", "type", "#elements", "#bytes"], rows)
