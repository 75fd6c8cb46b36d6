"""The cards of the status page, each drawn from what `portd.http.status.describe` says of a link."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from portd.http.markup import (
    Html,
    badge,
    bar,
    card,
    code,
    coloured,
    entry,
    fill,
    join,
    listed,
    moment,
    paragraph,
    soft,
    table,
    tile,
)
from portd.units import human_bytes, human_count, human_seconds
from portd.watch.alarms import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from portd.watch.readings import SpoolReading

MOODS: Final = {
    "streaming": "good",
    "failed": "bad",
    "stopped": "soft",
    "held": "bad",
    "paused": "bad",
    "standby": "soft",
}  # of phases; others wait
_QUIET: Final = "PortdNotStreaming"  # said by the phase as well, until it has lasted
_RESULTS: Final = {"equal": "good", "different": "bad", "failed": "bad"}  # of comparisons

Status = dict[str, Any]


def mood(warnings: Iterable[Status], *alerts: str) -> str:
    """The colour of what these alerts are about: bad where one that is critical fires, wait where one holds, else ""."""
    found = [each for each in warnings if each["alert"] in alerts]
    if any(each["firing"] and each["severity"] == Severity.CRITICAL for each in found):
        return "bad"
    return "wait" if found else ""


def state(status: Status) -> Html:
    """Phase, role and refusals as badges."""
    badges = [badge(status["phase"], MOODS.get(status["phase"], "wait"))]
    badges += [badge(status["role"], "soft")] if status["role"] not in {"none", status["phase"]} else []
    badges += [badge(f"{each['side']} refuses: {each['code']}", "bad") for each in status["refusals"]["now"]]
    return join(badges, " ")


def warnings(found: Iterable[tuple[str, Status]]) -> Html:
    """What is wrong; nothing where nothing is.

    Args:
        found: names of links, "" where that goes without saying, and their warnings.
    """
    shown = [(name, each) for name, each in found if each["firing"] or each["alert"] != _QUIET]
    if not shown:
        return Html()
    entries = (
        entry(
            f"{name}: {each['words']}" if name else each["words"],
            f"for {human_seconds(max(0.0, time.time() - each['since']))}, {each['alert']}",
            _severity(each),
        )
        for name, each in shown
    )
    colour = mood([each for _, each in shown], *(each["alert"] for _, each in shown))
    return card("Warnings", listed(entries), note="as deploy/alerts.yml has them", wide=True, mood=colour)


def _severity(warning: Status) -> Html:
    """How bad it is; what does not last yet may pass."""
    if not warning["firing"]:
        return badge("pending", "soft")
    return badge(warning["severity"], "bad" if warning["severity"] == Severity.CRITICAL else "wait")


def held(found: Status | None, link: str = "") -> Html:
    """Why nothing goes on; nothing when it does. *link* is named where there are several."""
    if not found:
        return Html()
    named = f" --link {link}" if link else ""
    way = fill(
        "<p>If it is meant: <code>portd ctl accept{}</code>, or start with <code>--accept-source</code>.</p>", named
    )
    words = paragraph(f"{found['words']}. Nothing is overwritten or removed.")
    return card("Held", join((words, way)), note=found["reason"], wide=True, mood="bad")


def paused(found: Status | None, link: str = "") -> Html:
    """Since when nothing is written; nothing when that is not so. *link* is named where there are several."""
    if not found:
        return Html()
    named = f" --link {link}" if link else ""
    way = fill("<p>It goes on with <code>portd ctl resume{}</code>.</p>", named)
    words = (
        "An operator has paused it: nothing is written to the target, and what the source writes waits in the spool."
    )
    return card("Paused", join((paragraph(words), way)), note=f"since {moment(found['since'])}", wide=True, mood="wait")


def standby(status: Status) -> Html:
    """Who has the link that is waited for, and what taking it over would be; nothing where none is."""
    found, outlook = status["standby"], status["source"]["outlook"]
    if not found:
        return Html()
    rows: list[tuple[str, object]] = [("the link is held by", found["holder"] or "nobody")]
    if found["unfit"]:
        rows.append(("it could not be taken over", coloured(found["unfit"], "bad")))
    else:
        full = found["full_sync"]
        way = f"a full sync: {full}" if full else "a partial sync, as far as is known"
        rows.append(("taking it over would be", way))
    if outlook and outlook["backlog_bytes"]:
        left = max(0, outlook["backlog_bytes"] - outlook["backlog_behind_bytes"])
        seconds = outlook["backlog_seconds_left"]
        lasts = "" if seconds is None else f", {human_seconds(seconds)} at this pace"
        told = f"{human_bytes(left)} of {human_bytes(outlook['backlog_bytes'])}{lasts}"
        rows.append(("left of the source's backlog", told))
    waited = human_seconds(time.time() - found["since"])
    return card("Standby", table(["", ""], rows), note=f"for {waited}", wide=True)


def route(status: Status) -> Html:
    """Both ends."""

    def end(url: str, info: dict[str, str], *, connected: bool) -> Html:
        about = " ".join(str(info[name]) for name in ("server", "family", "version") if name in info)
        mark = ("good", "\N{BLACK CIRCLE}", "connected") if connected else ("bad", "\N{WHITE CIRCLE}", "not connected")
        return fill(
            '<span><span class="{}" role="img" title="{}" aria-label="{}">{}</span> {} {}</span>',
            *(mark[0], mark[2], mark[2], mark[1], code(url), soft(about)),
        )

    source, target = status["source"], status["target"]
    removing = status["phase"] == "snapshot" and not target["lanes"]  # no connection is asked for
    up = removing or any(lane["connected"] for lane in target["lanes"])
    heard = source["last_received_seconds_ago"]
    return fill(
        '<section class="card wide"><div class="route">{} <span>&rarr;</span> {}</div>{}{}{}</section>\n',
        end(source["url"], source["info"], connected=source["connected"]),
        end(target["url"], target["info"], connected=up),
        "" if status["ready"] else paragraph(f"not ready: {status['reason']}", "wait"),
        paragraph(f"read: {source['read_from']}", "soft") if source["read_from"] else "",
        "" if heard is None else paragraph(f"the source was last heard {human_seconds(heard)} ago", "soft"),
    )


def lag(stream: Status) -> tuple[str, str]:
    """The lag and what is said to it."""
    if stream["lag_seconds"] is None:
        return "?", "lag, not known now"
    return human_seconds(stream["lag_seconds"]), f"lag, {human_bytes(stream['lag_bytes'])}"


def lag_tile(status: Status) -> Html:
    """The lag."""
    found = mood(status["warnings"], "PortdLagHigh", "PortdLagGrowing", "PortdCheckpointOld")
    return tile(*lag(status["stream"]), found)


def speed_tile(status: Status) -> Html:
    """How fast it goes."""
    snapshot, stream = status["snapshot"], status["stream"]
    if status["phase"] in {"streaming", "catching-up", "paused", "draining"}:
        return tile(human_count(stream["commands_per_second"]), "commands a second")
    rate = human_bytes(snapshot["bytes_per_second"])
    return tile(human_count(snapshot["keys_per_second"]), f"keys a second, {rate}/s")


def spool_tile(spools: Sequence[SpoolReading], colour: str) -> Html:
    """What the spools have on disk; they share one limit."""
    reasons = ", ".join(sorted({spool.blocked for spool in spools if spool.blocked}))
    limit = max((spool.disk_limit_bytes for spool in spools), default=0)
    words = f"spooled, of {human_bytes(limit)}" if limit else "spooled to disk"
    held_bytes = sum(spool.disk_bytes for spool in spools)
    return tile(human_bytes(held_bytes), f"{words}, blocked: {reasons}" if reasons else words, colour)


def lost_tile(status: Status) -> Html:
    """What the target lacks."""
    letters = sum(status["dead_letters"].values())
    colour = mood(status["warnings"], "PortdDeadLetters") or ("wait" if letters else "")
    return tile(human_count(letters), "dead letters", colour)


def pruned_tile(status: Status) -> Html:
    """What full syncs have removed."""
    return tile(
        human_count(status["keys_pruned"]), "keys pruned from the target", mood(status["warnings"], "PortdKeysPruned")
    )


def verify_tile(status: Status) -> Html:
    """What the last comparison found."""
    verify = status["verify"]
    when = moment(verify["finished_at"])
    words = f"both ends, {when}" if when else "no comparison yet" if verify["running"] else "not compared: verify_every"
    colour = _RESULTS.get(verify["result"], "wait") if verify["result"] else ""
    return tile(verify["result"] or "?", words, colour)


def snapshot(found: Status) -> Html:
    """How far the snapshot is."""
    share = 0.0 if not found["started_at"] else found["done"]
    whole = f" of {human_bytes(found['bytes_total'])}" if found["bytes_total"] else ""
    percent = f"{share:.0%}, " if share is not None else ""
    rows = [("read", found["keys_read"])]
    rows += [("in the source", found["keys_total"])] if found["keys_total"] is not None else []
    rows += [(name, found[f"keys_{name}"]) for name in ("applied", "filtered", "expired", "failed")]
    body = (
        bar(share, "snapshot applied"),
        paragraph(f"{percent}{human_bytes(found['bytes_decoded'])}{whole} decoded"),
        table(["keys", "#count"], ((name, human_count(count)) for name, count in rows)),
    )
    return card("Snapshot", join(body), note=_snapshot_note(found))


def _snapshot_note(found: Status) -> str:
    if found["finished_at"]:
        took = human_seconds(found["finished_at"] - found["started_at"])
        return f"done in {took}, at {moment(found['finished_at'])}"
    if not found["started_at"]:
        return "not begun"
    return f"{human_seconds(found['eta_seconds'])} left" if found["eta_seconds"] is not None else "running"


def stream(found: Status) -> Html:
    """How far the stream is."""
    rows = []
    for name in ("read", "decoded", "applied", "checkpointed"):
        offset = found[f"{name}_offset"]
        behind = human_bytes(max(0, found["read_offset"] - offset)) if found["lag_bytes"] is not None else "?"
        rows.append((name, human_count(offset), behind))
    counts = ", ".join(f"{human_count(found[f'commands_{name}'])} {name}" for name in ("applied", "filtered", "failed"))
    told = f"commands: {counts}; {human_count(found['transactions'])} transactions"
    body = join((table(["stage", "#offset", "#behind"], rows), paragraph(told, "soft")))
    return card("Stream", body, note="replication offsets")


def outlook(status: Status) -> Html:
    """What the source keeps for us against its limits, and for how long that lasts."""
    found = status["source"]["outlook"]
    if found is None:
        body = paragraph("the source has told nothing yet, or lets us ask for nothing", "soft")
        return card("Forecast", body, note="the source's buffers")
    buffer, backlog = (mood(status["warnings"], alert) for alert in ("PortdOutputBuffer", "PortdBacklog"))
    limits = [size for size in (found["output_soft_bytes"], found["output_hard_bytes"]) if size]
    rows = [
        (
            "output buffer for us",
            human_bytes(found["output_bytes"]),
            coloured(_left(found["seconds_left"]), buffer),
            " / ".join(map(human_bytes, limits)) or "no limit",
            f"{human_bytes(found['output_growth'])}/s",
        ),
        (
            "backlog not received",
            human_bytes(found["backlog_behind_bytes"]),
            coloured(_left(found["backlog_seconds_left"]), backlog),
            human_bytes(found["backlog_bytes"]) if found["backlog_bytes"] else "?",
            f"{human_bytes(found['write_rate'])}/s",
        ),
    ]
    note = "how long until the source drops the connection, and how long an outage may last without a full sync"
    body = join((table(["at the source", "#now", "#left", "#limit", "#grows"], rows), paragraph(note, "soft")))
    return card("Forecast", body, note="the source's buffers", mood=worst(buffer, backlog))


def worst(*moods: str) -> str:
    """The worst of some moods."""
    return "bad" if "bad" in moods else "wait" if "wait" in moods else ""


def _left(seconds: float | None) -> str:
    return "no end" if seconds is None else human_seconds(seconds)


def target(status: Status) -> Html:
    """Connections to the target, limits on its load, its memory."""
    found = status["target"]
    full = mood(status["warnings"], "PortdTargetMemory")
    parts = [_lanes(found["lanes"])]
    if (used := found["memory_bytes"]) is not None:
        limit = found["memory_limit_bytes"]
        words = f"the target uses {human_bytes(used)} of {human_bytes(limit)}" if limit else (
            f"the target uses {human_bytes(used)}, and has no limit"
        )  # fmt: skip
        parts += [bar(used / limit, "memory of the target", full)] if limit else []
        parts.append(paragraph(words, full or "soft"))
    parts.append(_limit(found["limit"]))
    return card("Lanes", join(parts), note="connections to the target", mood=full)


def _lanes(lanes: list[Status]) -> Html:
    if not lanes:
        return paragraph("none now", "soft")
    rows = (
        (
            fill("{}{}", lane["lane"], "" if lane["connected"] else fill(" {}", coloured("down", "bad"))),
            human_bytes(lane["in_flight_bytes"]),
            human_bytes(lane["bytes_sent"]),
            human_count(lane["replies"]),
            human_count(lane["errors"]),
            human_count(lane["retries"]),
        )
        for lane in lanes
    )
    return table(["lane", "#in flight", "#sent", "#replies", "#errors", "#retries"], rows)


def _limit(limit: Status) -> Html:
    """The limits on the load of the target; nothing where there was none."""
    limits = []
    if limit["bytes_per_second"]:
        limits.append(f"{human_bytes(limit['bytes_per_second'])}/s")
    if limit["ops_per_second"]:
        limits.append(f"{human_count(limit['ops_per_second'])} commands a second")
    if not limits and not limit["waited_seconds"] and not limit["temporary"]:
        return Html()
    now = f", {limit['waiting']} waiting now" if limit["waiting"] else ""
    waited = human_seconds(limit["waited_seconds"])
    set_by = " (set with portd ctl, until the next reload or start)" if limit["temporary"] else ""
    return paragraph(f"limit: {' and '.join(limits) or 'none'}{set_by}; waited for it {waited}{now}", "soft")


def verify(found: Status) -> Html:
    """What the sync found when it compared the ends by itself; nothing before the first time."""
    if not found["started_at"]:
        return Html()
    parts = []
    if found["result"]:
        took = f" after {human_seconds(found['seconds'])}" if not found["running"] else ""
        result = badge(found["result"], _RESULTS.get(found["result"], "wait"))
        parts.append(fill("<p>{} {}</p>", result, soft(f"{moment(found['finished_at'])}{took}")))
    parts += [paragraph(found["error"], "bad")] if found["error"] else []
    if found["functions"]:
        parts.append(paragraph(f"function libraries differ: {found['functions']}", "bad"))
    parts.append(table(["keys", "#count"], ((name, human_count(count)) for name, count in found["keys"].items())))
    note = "running" if found["running"] else "the last one"
    return card("Comparison of both ends", join(parts), note=note)


_EVENTS: Final = (  # name in `happened`, what is shown
    ("losses", "source lost: "),
    ("full_syncs", "full sync: "),
    ("refusals", "refused for now: "),
    ("dead_letters", "dead letters: "),
    ("attributes_dropped", "attribute dropped: "),
)


def events(status: Status) -> Html:
    """What was counted, and when last."""
    happened = status["happened"]
    counts = {
        "losses": status["source"]["losses"],
        "full_syncs": status["full_syncs"],
        "refusals": status["refusals"]["total"],
        "dead_letters": status["dead_letters"],
        "attributes_dropped": status["attributes_dropped"],
    }

    def row(words: str, count: int, name: str, label: str) -> tuple[str, str, str]:
        return words, human_count(count), moment(happened.get(name, {}).get(label, 0.0))

    rows = [
        row("connections to the source made", status["source"]["connects"], "connects", ""),
        row("partial syncs", status["partial_syncs"], "partial_syncs", ""),
    ]
    for name, words in _EVENTS:
        rows += [row(f"{words}{label}", count, name, label) for label, count in sorted(counts[name].items())]
    if status["keys_pruned"]:
        rows.append(row("keys pruned", status["keys_pruned"], "keys_pruned", "keys"))
    return card("Events", table(["event", "#times", "#last"], rows))


def errors(status: Status) -> Html:
    """The newest errors; nothing where there were none."""
    entries = [entry(each["text"], _seen(each)) for each in status["errors"]]
    return card("Errors", listed(entries), note="the newest first; the log has all", wide=True) if entries else Html()


def _seen(error: Status) -> str:
    """How often and when."""
    last = moment(error["last_at"])
    if error["count"] == 1:
        return f"at {last}"
    return f"{human_count(error['count'])} times, last at {last}, first at {moment(error['first_at'])}"
