"""The status page and the memory page, drawn from plain data."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from portd.http.markup import CONTENT_POLICY, badge, bar, card, esc, page, table, tiles
from portd.http.plot import memory_plot
from portd.units import human_bytes, human_count, human_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from portd.memory.accounting import MemoryReport
    from portd.watch.readings import FenceReading, KeyReading, OwnerReading, PipelineReading, SpoolReading

__all__ = ["CONTENT_POLICY", "links_page", "memory_page", "status_page"]

_MOODS = {"streaming": "good", "failed": "bad", "stopped": "soft", "held": "bad", "paused": "bad", "standby": "soft"}
_PROFILE = (
    "<form method='post'><button formaction='memory/heap?seconds=3&amp;format=flame'>flame graph of 3 s</button> "
    "<button formaction='memory/heap?seconds=3&amp;debug=1'>as text</button>, or in a terminal</form>"
    "<p><code>curl -X POST -o heap.pb.gz HOST:PORT/debug/memory/heap &amp;&amp; go tool pprof -inuse_space heap.pb.gz</code></p>"
)
_UNEXPLAINED_BYTES = 10 << 20  # more than this of RSS that nobody accounts for is shown in red


def status_page(status: dict[str, Any], memory: MemoryReport) -> str:
    """Where the sync stands.

    Args:
        status: as `portd.http.status.describe` makes it.
        memory: for the figures and the plot.
    """
    phase, snapshot, stream = status["phase"], status["snapshot"], status["stream"]
    state = f"{badge(phase, _MOODS.get(phase, 'wait'))}{_refusals(status['refusals']['now'])}"
    state += f" <span class='soft'>{_unready(status)}link {esc(status['link'])}, up {_for(status)}</span>"
    body = _route(status) + _held(status.get("held")) + _paused(status.get("paused")) + _standby(status)
    body += tiles(
        [
            (human_count(snapshot["keys_applied"]), "keys applied"),
            _speed(phase, snapshot, stream),
            _lag(stream),
            (human_bytes(memory.rss_bytes), f"resident, {human_bytes(memory.rss_peak_bytes)} at the peak"),
            _spooled([memory.pipelines[status["link"]].spool]),
            (human_count(sum(status["dead_letters"].values())), "dead letters"),
        ]
    )
    body += card("Snapshot", _snapshot(snapshot), note=_snapshot_note(snapshot))
    body += card("Stream", _stream(stream), note="replication offsets")
    target = status["target"]
    body += card("Lanes", _lanes(target["lanes"]) + _limit(target["limit"]), note="connections to the target")
    body += card("Events", _events(status))
    if (verify := status["verify"])["started_at"]:
        body += card(
            "Comparison of both ends", _verify(verify), note="running" if verify["running"] else "the last one"
        )
    limit = memory.ceiling_bytes
    body += card("Memory", memory_plot(memory.history, limit), note="the last minutes", wide=True)
    return page("./", f"{phase} - portd", state, body)


def links_page(status: dict[str, Any], memory: MemoryReport) -> str:
    """Where each of several links stands; each leads to its own page.

    Args:
        status: as `portd.http.status.describe_all` makes it.
        memory: for the figures and the plot.
    """
    links = status["links"]
    ready = sum(link["ready"] for link in links)
    state = badge(f"{ready} of {len(links)} ready", "good" if ready == len(links) else "wait")
    state += f" <span class='soft'>up {_for(status)}</span>"
    body = tiles(
        [
            (human_count(len(links)), "links"),
            (human_bytes(memory.rss_bytes), f"resident, {human_bytes(memory.rss_peak_bytes)} at the peak"),
            _spooled([each.spool for each in memory.pipelines.values()]),
        ]
    )
    rows = [
        (
            f"<a href='?link={esc(link['link'])}'>{esc(link['link'])}</a>",
            badge(link["phase"], _MOODS.get(link["phase"], "wait")) + _refusals(link["refusals"]["now"]),
            f"<code>{esc(link['source']['url'])}</code> &rarr; <code>{esc(link['target']['url'])}</code>",
            _lag(link["stream"])[0],
            human_count(link["snapshot"]["keys_applied"]),
            human_count(sum(link["dead_letters"].values())),
        )
        for link in links
    ]
    body += card("Links", table(["link", "phase", "ends", "#lag", "#keys applied", "#dead letters"], rows), wide=True)
    for link in links:
        body += _trouble(link) + _held(link["held"], link["link"]) + _paused(link["paused"], link["link"])
    body += card("Memory", memory_plot(memory.history, memory.ceiling_bytes), note="the last minutes", wide=True)
    return page("./", f"{ready} of {len(links)} ready - portd", state, body)


def _trouble(link: dict[str, Any]) -> str:
    """Why a link is not ready, and its last error; nothing when there is neither."""
    reason = "" if link["ready"] else f"<p>not ready: {esc(link['reason'])}</p>"
    error = f"<p class='bad'>{esc(link['last_error'])}</p>" if link["last_error"] else ""
    return card(f"Link {link['link']}", reason + error, note=link["phase"], wide=True) if reason or error else ""


def _held(held: dict[str, Any] | None, link: str = "") -> str:
    """Why nothing goes on; nothing when it does. *link* is named where there are several."""
    if not held:
        return ""
    words = f"{held['words']}. Nothing is overwritten or removed."
    named = f" --link {esc(link)}" if link else ""
    way = f"<p>If it is meant: <code>portd ctl accept{named}</code>, or start with <code>--accept-source</code>.</p>"
    return card("Held", f"<p>{esc(words)}</p>{way}", note=held["reason"], wide=True)


def _standby(status: dict[str, Any]) -> str:
    """Who has the link that is waited for, and what taking it over would be; nothing where none is."""
    standby, outlook = status["standby"], status["source"]["outlook"]
    if not standby:
        return ""
    rows = [("the link is held by", esc(standby["holder"] or "nobody"))]
    if standby["unfit"]:
        rows.append(("it could not be taken over", f"<span class='bad'>{esc(standby['unfit'])}</span>"))
    else:
        full = standby["full_sync"]
        rows.append(
            ("taking it over would be", f"a full sync: {esc(full)}" if full else "a partial sync, as far as is known")
        )
    if outlook and outlook["backlog_bytes"]:
        left = max(0, outlook["backlog_bytes"] - outlook["backlog_behind_bytes"])
        seconds = outlook["backlog_seconds_left"]
        lasts = "" if seconds is None else f", {human_seconds(seconds)} at this pace"
        rows.append(
            ("left of the source's backlog", f"{human_bytes(left)} of {human_bytes(outlook['backlog_bytes'])}{lasts}")
        )
    return card(
        "Standby", table(["", ""], rows), note=f"for {human_seconds(time.time() - standby['since'])}", wide=True
    )


def _paused(paused: dict[str, Any] | None, link: str = "") -> str:
    """Since when nothing is written; nothing when that is not so. *link* is named where there are several."""
    if not paused:
        return ""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(paused["since"]))
    named = f" --link {esc(link)}" if link else ""
    words = (
        "An operator has paused it: nothing is written to the target, and what the source writes waits in the spool."
    )
    return card(
        "Paused",
        f"<p>{words}</p><p>It goes on with <code>portd ctl resume{named}</code>.</p>",
        note=f"since {since}",
        wide=True,
    )


def memory_page(report: MemoryReport) -> str:
    """Who holds which bytes."""
    state = f"<span class='soft'>memory at {time.strftime('%H:%M:%S', time.localtime(report.at))}</span>"
    pipelines = report.pipelines
    used, limit = (
        sum(getattr(each, f"budget_{name}") for each in pipelines.values()) for name in ("used_bytes", "bytes")
    )
    body = tiles(
        [
            (human_bytes(report.rss_bytes), f"resident, {human_bytes(report.rss_peak_bytes)} at the peak"),
            (human_bytes(report.pss_bytes) if report.pss_bytes is not None else "?", "proportional (PSS)"),
            _cgroup(report),
            (human_bytes(used), f"of a budget of {human_bytes(limit)}"),
            _spooled([each.spool for each in pipelines.values()]),
        ]
    )
    body += card("The last minutes", memory_plot(report.history, report.ceiling_bytes), wide=True)
    several = len(pipelines) > 1
    for name, pipeline in pipelines.items():
        body += card(f"Key being decoded{_of(name, several=several)}", _key(pipeline.current_key), wide=True)
    body += card("Who holds what", _owners(report, several=several), note="adds up to resident")
    for name, pipeline in pipelines.items():
        body += _pipeline_cards(pipeline, _of(name, several=several))
    body += card("By allocator", _allocators(report), note="the same bytes, another cut")
    body += card("Heap profile", _PROFILE, note="which lines hold the bytes", wide=True)
    return page("../", "memory - portd", state, body)


def _of(name: str, *, several: bool) -> str:
    """Which link a card is about, where there are several."""
    return f" of {name}" if several else ""


def _pipeline_cards(pipeline: PipelineReading, of: str) -> str:
    """How full the parts of a link are."""
    body = card(f"Pipeline{of}", _pipeline(pipeline))
    if pipeline.fences:
        body += card(f"Big keys on their way{of}", _fences(pipeline.fences), note="fences, oldest first", wide=True)
    if pipeline.lanes:
        body += card(f"In flight{of}", _in_flight(pipeline), note="sent to the target, not acknowledged")
    if pipeline.largest_keys:
        body += card(f"Largest keys{of}", _largest(pipeline.largest_keys), note="so far", wide=True)
    return body


def _refusals(now: list[dict[str, Any]]) -> str:
    """A badge for each refusal that has not passed."""
    return "".join(" " + badge(f"{each['side']} refuses: {each['code']}", "bad") for each in now)


def _unready(status: dict[str, Any]) -> str:
    return "" if status["ready"] else f"not ready: {esc(status['reason'])}; "


def _lag(stream: dict[str, Any]) -> tuple[str, str]:
    if stream["lag_seconds"] is None:
        return "?", "lag, not known now"
    return human_seconds(stream["lag_seconds"]), f"lag, {human_bytes(stream['lag_bytes'])}"


def _spooled(spools: Sequence[SpoolReading]) -> tuple[str, str]:
    reasons = ", ".join(sorted({spool.blocked for spool in spools if spool.blocked}))
    blocked = f", blocked: {reasons}" if reasons else ""
    return human_bytes(sum(spool.disk_bytes for spool in spools)), f"spooled to disk{blocked}"


def _for(status: dict[str, Any]) -> str:
    return esc(human_seconds(status["uptime_seconds"]))


def _speed(phase: str, snapshot: dict[str, Any], stream: dict[str, Any]) -> tuple[str, str]:
    if phase in {"streaming", "catching-up", "paused", "draining"}:
        return human_count(stream["commands_per_second"]), "commands a second"
    return human_count(snapshot["keys_per_second"]), f"keys a second, {human_bytes(snapshot['bytes_per_second'])}/s"


def _route(status: dict[str, Any]) -> str:
    def end(url: str, info: dict[str, str], *, connected: bool) -> str:
        about = " ".join(str(info[name]) for name in ("server", "family", "version") if name in info)
        mark = '<span class="good">&#9679;</span>' if connected else '<span class="bad">&#9675;</span>'
        return f"<span>{mark} <code>{esc(url)}</code> <span class='soft'>{esc(about)}</span></span>"

    source, target = status["source"], status["target"]
    removing = status["phase"] == "snapshot" and not target["lanes"]  # no connection is asked for
    up = removing or any(lane["connected"] for lane in target["lanes"])
    ends = f"{end(source['url'], source['info'], connected=source['connected'])} <span>&rarr;</span> "
    ends += end(target["url"], target["info"], connected=up)
    heard = source["last_received_seconds_ago"]
    note = "" if heard is None else f"<p class='soft'>the source was last heard {human_seconds(heard)} ago</p>"
    return f'<section class="card wide"><div class="route">{ends}</div>{note}</section>\n'


def _snapshot_note(snapshot: dict[str, Any]) -> str:
    if snapshot["finished_at"]:
        return f"done in {human_seconds(snapshot['finished_at'] - snapshot['started_at'])}"
    if not snapshot["started_at"]:
        return "not begun"
    return f"{human_seconds(snapshot['eta_seconds'])} left" if snapshot["eta_seconds"] is not None else "running"


def _snapshot(snapshot: dict[str, Any]) -> str:
    share = 0.0 if not snapshot["started_at"] else snapshot["done"]
    whole = f" of {human_bytes(snapshot['bytes_total'])}" if snapshot["bytes_total"] else ""
    percent = f"{share:.0%}, " if share is not None else ""
    line = f"<p>{percent}{human_bytes(snapshot['bytes_decoded'])}{whole} decoded</p>"
    rows = [("read", snapshot["keys_read"])]
    rows += [("in the source", snapshot["keys_total"])] if snapshot["keys_total"] is not None else []
    rows += [(name, snapshot[f"keys_{name}"]) for name in ("applied", "filtered", "expired", "failed")]
    return (
        bar(share, "snapshot applied") + line + table(["keys", "#count"], ((esc(n), human_count(c)) for n, c in rows))
    )


def _stream(stream: dict[str, Any]) -> str:
    rows = []
    for name in ("read", "decoded", "applied", "checkpointed"):
        offset = stream[f"{name}_offset"]
        behind = human_bytes(max(0, stream["read_offset"] - offset)) if stream["lag_bytes"] is not None else "?"
        rows.append((esc(name), human_count(offset), behind))
    counts = ", ".join(
        f"{human_count(stream[f'commands_{name}'])} {name}" for name in ("applied", "filtered", "failed")
    )
    return (
        table(["stage", "#offset", "#behind"], rows)
        + f"<p class='soft'>commands: {counts}; {human_count(stream['transactions'])} transactions</p>"
    )


def _lanes(lanes: list[dict[str, Any]]) -> str:
    if not lanes:
        return '<p class="soft">none now</p>'
    rows = (
        (
            str(lane["lane"]) + ("" if lane["connected"] else ' <span class="bad">down</span>'),
            human_bytes(lane["in_flight_bytes"]),
            human_bytes(lane["bytes_sent"]),
            human_count(lane["replies"]),
            human_count(lane["errors"]),
            human_count(lane["retries"]),
        )
        for lane in lanes
    )
    return table(["lane", "#in flight", "#sent", "#replies", "#errors", "#retries"], rows)


def _verify(verify: dict[str, Any]) -> str:
    """What the sync found when it compared the ends by itself."""
    moods = {"equal": "good", "different": "bad", "failed": "bad"}
    state = ""
    if verify["result"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(verify["finished_at"]))
        took = f" after {human_seconds(verify['seconds'])}" if not verify["running"] else ""
        state = f"<p>{badge(verify['result'], moods.get(verify['result'], 'wait'))} <span class='soft'>{when}{took}</span></p>"
    state += f"<p class='bad'>{esc(verify['error'])}</p>" if verify["error"] else ""
    if verify["functions"]:
        state += f"<p class='bad'>function libraries differ: {esc(verify['functions'])}</p>"
    return state + table(
        ["keys", "#count"], ((esc(name), human_count(count)) for name, count in verify["keys"].items())
    )


def _limit(limit: dict[str, Any]) -> str:
    """The limits on the load of the target; nothing where there was none."""
    limits = []
    if limit["bytes_per_second"]:
        limits.append(f"{human_bytes(limit['bytes_per_second'])}/s")
    if limit["ops_per_second"]:
        limits.append(f"{human_count(limit['ops_per_second'])} commands a second")
    if not limits and not limit["waited_seconds"] and not limit["temporary"]:
        return ""
    now = f", {limit['waiting']} waiting now" if limit["waiting"] else ""
    set_by = " (set with portd ctl, until the next reload or start)" if limit["temporary"] else ""
    return f"<p class='soft'>limit: {' and '.join(limits) or 'none'}{set_by}; waited for it {human_seconds(limit['waited_seconds'])}{now}</p>"


def _events(status: dict[str, Any]) -> str:
    rows = [("connections to the source made", human_count(status["source"]["connects"]))]
    rows += [
        (f"source lost: {esc(why)}", human_count(count)) for why, count in sorted(status["source"]["losses"].items())
    ]
    rows += [(f"full sync: {esc(why)}", human_count(count)) for why, count in sorted(status["full_syncs"].items())]
    rows.append(("partial syncs", human_count(status["partial_syncs"])))
    rows += [
        (f"refused for now: {esc(where)}", human_count(count))
        for where, count in sorted(status["refusals"]["total"].items())
    ]
    rows += [
        (f"dead letters: {esc(code)}", human_count(count)) for code, count in sorted(status["dead_letters"].items())
    ]
    rows += [
        (f"attribute dropped: {esc(name)}", human_count(count))
        for name, count in sorted(status["attributes_dropped"].items())
    ]
    error = f"<p class='bad'>{esc(status['last_error'])}</p>" if status["last_error"] else ""
    return error + table(["event", "#times"], rows)


def _cgroup(report: MemoryReport) -> tuple[str, str]:
    group = report.cgroup
    if group is None or group.current_bytes is None:
        return "none", "cgroup"
    limit = f"of {human_bytes(group.limit_bytes)}" if group.limit_bytes is not None else "without a limit"
    return human_bytes(group.current_bytes), f"in the cgroup, {limit}"


def _key(key: KeyReading | None) -> str:
    if key is None:
        return '<p class="soft">none at this moment</p>'
    share = key.elements_done / key.elements_total if key.elements_total else None
    whole = f" of {human_count(key.elements_total)}" if key.elements_total else ""
    return (
        f"<p class='route'><code>{esc(key.key)}</code><span class='soft'>{esc(key.type)} in db {key.db}</span></p>"
        f"{bar(share, 'elements of the key')}"
        f"<p>{human_count(key.elements_done)}{whole} elements, {human_bytes(key.bytes_done)}</p>"
    )


def _owners(report: MemoryReport, *, several: bool) -> str:
    def row(reading: OwnerReading) -> tuple[str, ...]:
        when = time.strftime("%H:%M:%S", time.localtime(reading.peak_at)) if reading.peak_at else ""
        limit = human_bytes(reading.limit_bytes) if reading.limit_bytes else ""
        name = f"{reading.link}: {reading.owner}" if several and reading.link else reading.owner
        return esc(name), human_bytes(reading.held_bytes), human_bytes(reading.peak_bytes), when, limit

    mood = "bad" if report.unexplained_bytes > _UNEXPLAINED_BYTES else "soft"
    rows: list[tuple[str, ...]] = [("interpreter and code", human_bytes(report.interpreter_bytes), "", "", "")]
    rows += [row(reading) for reading in report.owners]
    rows += [
        ("free, kept by malloc", human_bytes(report.free_bytes), "", "", ""),
        ("unexplained", f"<span class='{mood}'>{human_bytes(report.unexplained_bytes)}</span>", "", "", ""),
        ("resident", human_bytes(report.rss_bytes), human_bytes(report.rss_peak_bytes), "", ""),
    ]
    return table(["owner", "#now", "#peak", "#peak at", "#limit"], rows, sums=1)


def _pipeline(pipeline: PipelineReading) -> str:
    spool = pipeline.spool
    used = pipeline.budget_used_bytes / pipeline.budget_bytes if pipeline.budget_bytes else 0.0
    rows = [
        ("budget used", human_bytes(pipeline.budget_used_bytes), human_bytes(pipeline.budget_peak_bytes)),
        ("waiting for room", human_count(pipeline.budget_waiting), ""),
        ("queue", human_bytes(pipeline.queue_bytes), ""),
        ("batches in the queue", human_count(pipeline.queue_batches), ""),
        ("big keys open", human_count(pipeline.open_fences), ""),
        ("spool in memory", human_bytes(spool.memory_bytes), human_bytes(spool.peak_memory_bytes)),
        (
            f"spool on disk{_spool_mood(spool)}",
            human_bytes(spool.disk_bytes),
            human_bytes(spool.peak_disk_bytes),
        ),
        ("files of the spool", human_count(spool.segments), ""),
    ]
    return bar(used, "budget used") + table(["part", "#now", "#peak"], rows)


def _spool_mood(spool: SpoolReading) -> str:
    if spool.blocked:
        full = ", the source is not read" if spool.full else ""
        return f" <span class='bad'>{esc(spool.blocked)}{full}</span>"
    return " <span class='wait'>spilling</span>" if spool.spilling else ""


def _fences(fences: list[FenceReading]) -> str:
    rows = (
        (
            f"<code>{esc(fence.key)}</code>",
            str(fence.db),
            "closing" if fence.closing else esc(fence.gate),
            human_count(fence.chunks),
            human_count(fence.chunks_done),
        )
        for fence in fences
    )
    return table(["key", "#db", "state", "#chunks on their way", "#acknowledged"], rows)


def _in_flight(pipeline: PipelineReading) -> str:
    rows = (
        (
            str(lane.lane) + ("" if lane.connected else ' <span class="bad">down</span>'),
            human_bytes(lane.in_flight_bytes),
            human_count(lane.in_flight_batches),
        )
        for lane in pipeline.lanes
    )
    return table(["lane", "#bytes", "#batches"], rows)


def _allocators(report: MemoryReport) -> str:
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
        f"<p class='soft'>{human_count(found.python_blocks)} small objects; {human_count(pauses.runs)} garbage collections "
        f"took {human_seconds(pauses.pause_seconds)}, the longest {human_seconds(pauses.longest_seconds)}"
    )
    return (
        table(["allocator", "#now"], rows, sums=1)
        + note
        + (f", {human_bytes(report.swap_bytes)} swapped out</p>" if report.swap_bytes else "</p>")
    )


def _largest(keys: list[KeyReading]) -> str:
    rows = (
        (
            f"<code>{esc(key.key)}</code>",
            str(key.db),
            esc(key.type),
            human_count(key.elements_done),
            human_bytes(key.bytes_done),
        )
        for key in keys
    )
    return table(["key", "#db", "type", "#elements", "#bytes"], rows)
