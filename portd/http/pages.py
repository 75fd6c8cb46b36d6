"""The status page of one link, and that of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from portd.http import cards
from portd.http.markup import (
    Html,
    badge,
    card,
    code,
    coloured,
    entry,
    fill,
    join,
    listed,
    moment,
    page,
    paragraph,
    soft,
    table,
    tile,
    tiles,
)
from portd.http.plot import LAG_PLOT, MEMORY_PLOT, RATE_PLOT, SPOOL_PLOT, plot, spans
from portd.units import human_bytes, human_count, human_seconds
from portd.watch.alarms import MEMORY_RULE

if TYPE_CHECKING:
    from portd.memory.accounting import MemoryReport
    from portd.watch.history import HistoryReading, Span

_LAG_ALERTS = ("PortdLagHigh", "PortdLagGrowing", "PortdCheckpointOld")
_SPOOL_ALERTS = ("PortdSpoolFilling", "PortdSpoolBlocked")


def status_page(status: dict[str, Any], memory: MemoryReport, history: HistoryReading, span: Span) -> str:
    """Where a link stands.

    Args:
        status: as `portd.http.status.describe` makes it.
        memory: of the process.
        history: lag, rates and spool over time.
        span: of both histories.
    """
    found, spool = status["warnings"], memory.pipelines[status["link"]].spool
    lag, spooled = (cards.mood(found, *alerts) for alerts in (_LAG_ALERTS, _SPOOL_ALERTS))
    limits = status["target"]["limit"]
    body = (
        cards.route(status),
        cards.held(status["held"]),
        cards.paused(status["paused"]),
        cards.standby(status),
        cards.warnings([*(("", each) for each in found), *_of_process(memory)]),
        tiles(
            (
                cards.lag_tile(status),
                cards.speed_tile(status),
                tile(human_count(status["snapshot"]["keys_applied"]), "keys of the snapshot applied"),
                cards.spool_tile([spool], spooled),
                memory_tile(memory),
                cards.lost_tile(status),
                cards.pruned_tile(status),
                cards.verify_tile(status),
            )
        ),
        spans(span, f"link={quote(status['link'], safe='')}"),
        plot(LAG_PLOT, history, mood=lag),
        plot(RATE_PLOT, history, limit=limits["bytes_per_second"]),
        plot(SPOOL_PLOT, history, limit=spool.disk_limit_bytes, called="limit on disk", mood=spooled),
        memory_plot(memory),
        cards.snapshot(status["snapshot"]),
        cards.stream(status["stream"]),
        cards.target(status),
        cards.outlook(status),
        cards.errors(status),
        cards.events(status),
        cards.verify(status["verify"]),
    )
    told = f"link {status['link']}, up {human_seconds(status['uptime_seconds'])}"
    state = fill('<span role="status">{}</span> {}', cards.state(status), soft(told))
    return page("./", f"{status['phase']} - portd", state, join(body))


def links_page(status: dict[str, Any], memory: MemoryReport, span: Span) -> str:
    """Where each of several links stands; each leads to its own page.

    Args:
        status: as `portd.http.status.describe_all` makes it.
        memory: of the process.
        span: of its history.
    """
    links = status["links"]
    ready = sum(link["ready"] for link in links)
    told = [(link["link"], each) for link in links for each in link["warnings"]]
    spooled = cards.mood([each for _, each in told], *_SPOOL_ALERTS)
    body = (
        cards.warnings([*told, *_of_process(memory)]),
        tiles(
            (
                tile(f"{ready} of {len(links)}", "links ready"),
                memory_tile(memory),
                cards.spool_tile([each.spool for each in memory.pipelines.values()], spooled),
                tile(human_count(sum(sum(link["dead_letters"].values()) for link in links)), "dead letters"),
            )
        ),
        card("Links", table(_COLUMNS, (_link_row(link, memory) for link in links)), wide=True),
        *(_trouble(link) for link in links),
        spans(span),
        memory_plot(memory, wide=True),
    )
    told_of = fill(
        '<span role="status">{}</span> {}',
        badge(f"{ready} of {len(links)} ready", "good" if ready == len(links) else "wait"),
        soft(f"up {human_seconds(status['uptime_seconds'])}"),
    )
    return page("./", f"{ready} of {len(links)} ready - portd", told_of, join(body))


_COLUMNS = (
    *("link", "state", "#lag", "#received", "#commands", "#spooled", "#keys applied", "#dead letters", "#pruned"),
    *("ends equal", "from, to"),
)


def _link_row(link: dict[str, Any], memory: MemoryReport) -> tuple[object, ...]:
    """A link in the table of all."""
    name, found, stream, snapshot = link["link"], link["warnings"], link["stream"], link["snapshot"]
    verify = link["verify"]
    letters = sum(link["dead_letters"].values())
    copying = link["phase"] == "snapshot"
    return (
        fill('<a href="?link={}">{}</a>', quote(name, safe=""), name),
        cards.state(link),
        coloured(cards.lag(stream)[0], cards.mood(found, *_LAG_ALERTS)),
        f"{human_bytes((snapshot if copying else stream)['bytes_per_second'])}/s",
        f"{human_count(stream['commands_per_second'])}/s",
        coloured(human_bytes(memory.pipelines[name].spool.disk_bytes), cards.mood(found, *_SPOOL_ALERTS)),
        human_count(snapshot["keys_applied"]),
        coloured(human_count(letters), cards.mood(found, "PortdDeadLetters")),
        coloured(human_count(link["keys_pruned"]), cards.mood(found, "PortdKeysPruned")),
        coloured(verify["result"], cards.mood(found, "PortdVerifyDifferent")) if verify["result"] else "?",
        fill("{}<br>{}", code(link["source"]["url"]), code(link["target"]["url"])),
    )


def _trouble(link: dict[str, Any]) -> Html:
    """Why a link is not ready, its newest error, and that it is held; nothing when there is none of it."""
    reason = "" if link["ready"] else paragraph(f"not ready: {link['reason']}")
    newest = next(iter(link["errors"]), None)
    error = listed((entry(newest["text"], f"at {moment(newest['last_at'])}"),)) if newest else ""
    body = join((reason, error))
    about = card(f"Link {link['link']}", body, note=link["phase"], wide=True) if body else Html()
    return join((about, cards.held(link["held"], link["link"]), cards.paused(link["paused"], link["link"])))


def _of_process(memory: MemoryReport) -> list[tuple[str, dict[str, Any]]]:
    """Warnings that belong to no link, as plain data."""
    names = ("alert", "severity", "words", "since", "firing")
    return [("", {name: getattr(each, name) for name in names}) for each in memory.alarms]


def memory_mood(memory: MemoryReport) -> str:
    """Whether the process has more memory than was planned."""
    return cards.mood([each for _, each in _of_process(memory)], MEMORY_RULE.alert)


def memory_tile(memory: MemoryReport) -> Html:
    """What is resident, against the plan."""
    plan = f" of {human_bytes(memory.ceiling_bytes)}" if memory.ceiling_bytes else ""
    return tile(
        human_bytes(memory.rss_bytes),
        f"resident{plan}, {human_bytes(memory.rss_peak_bytes)} at the peak",
        memory_mood(memory),
    )


def memory_plot(memory: MemoryReport, *, wide: bool = False) -> Html:
    """Memory over time, against the plan."""
    limit = memory.ceiling_bytes
    return plot(MEMORY_PLOT, memory.history, limit=limit, called="plan", mood=memory_mood(memory), wide=wide)
