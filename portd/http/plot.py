"""Plots of figures over time: an SVG without text, its axes and legend in HTML, so that they stay readable when narrow.

Each point's figures are in the page as words, so that the script that shows those under the pointer knows of no units.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portd.http.markup import Html, card, fill, join
from portd.units import MIB, human_bytes, human_seconds
from portd.watch.history import Span
from portd.watch.track import LAG, RECEIVED, SENT, SPOOL_DISK, SPOOL_MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from portd.watch.history import HistoryReading

_WIDTH, _HEIGHT = 600, 100  # of the drawing's own grid; CSS stretches it
_NEAR: Final = 0.25  # of a limit: it is drawn where the figures come as near
SPANS: Final = {Span.MINUTES: "10 minutes", Span.DAY: "24 hours"}
_SECONDS: Final = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of plot.

    Attributes:
        title: of its card.
        lines: what each column is called.
        words: of a figure.
        top: the end of the axis for a highest figure.
    """

    title: str
    lines: Mapping[str, str]
    words: Callable[[float], str]
    top: Callable[[float], float]


def _bytes_top(least: int) -> Callable[[float], float]:
    """The next size that reads well: 1, 1.5 or 2 times a power of two."""

    def top(size: float) -> float:
        found = float(least)
        while found < size * 1.05:
            found *= (
                1.5 if (found / least).is_integer() and int(found / least) & (int(found / least) - 1) == 0 else 4 / 3
            )
        return found

    return top


def _seconds_top(seconds: float) -> float:
    return next((each for each in _SECONDS if each >= seconds * 1.05), seconds * 1.05)


def _rate(size: float) -> str:
    return f"{human_bytes(size)}/s"


LAG_PLOT: Final = Kind("Lag", {LAG: "behind the source"}, human_seconds, _seconds_top)
RATE_PLOT: Final = Kind("Throughput", {RECEIVED: "from the source", SENT: "to the target"}, _rate, _bytes_top(1024))
SPOOL_PLOT: Final = Kind("Spool", {SPOOL_DISK: "on disk", SPOOL_MEMORY: "in memory"}, human_bytes, _bytes_top(MIB))
MEMORY_PLOT: Final = Kind("Memory", {"rss": "resident", "owned": "held by owners"}, human_bytes, _bytes_top(8 * MIB))


def plot(
    kind: Kind, history: HistoryReading, *, limit: float = 0, called: str = "limit", mood: str = "", wide: bool = False
) -> Html:
    """A card with the figures over time.

    Args:
        kind: what is plotted.
        history: has a column for each of its lines.
        limit: of the figures; 0 for none.
        called: what the limit is.
        mood: of the card.
        wide: over the whole page.
    """
    if len(history.at) < 2:
        body = Html('<p class="soft">The plot begins with the second sample, in a moment.</p>')
    else:
        body = _figure(kind, history, limit, called)
    return card(kind.title, body, mood=mood, wide=wide)


def _figure(kind: Kind, history: HistoryReading, limit: float, called: str) -> Html:
    columns = [history.columns[name] for name in kind.lines]
    highest = max(map(max, columns))
    near = limit > 0 and highest > _NEAR * limit
    top = kind.top(max(highest, limit if near else 0, 0))
    first, last = history.at[0], history.at[-1]
    places = [(at - first) / max(last - first, 1e-3) for at in history.at]
    long = last - first > 2 * 3600
    clock = [time.strftime("%H:%M" if long else "%H:%M:%S", time.localtime(at)) for at in history.at]
    words = [["?" if value < 0 else kind.words(value) for value in column] for column in columns]
    height = _HEIGHT * (1 - limit / top)
    return fill(
        '<figure class="plot" data-points="{}"><figcaption class="legend">{}{}<time>{}</time></figcaption>'
        '<div class="y"><span>{}</span><span>{}</span><span>0</span></div>'
        '<div class="area"><svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}{}{}</svg><i></i>'
        '<input type="range" min="0" max="{}" value="{}" aria-label="{}: point in time"></div>'
        '<div class="x"><span>{}</span><span>{}</span><span>{}</span></div></figure>',
        ";".join("|".join(row) for row in zip((f"{place:.4f}" for place in places), clock, *words, strict=True)),
        join(
            fill('<span class="line{}">{} <b>{}</b></span>', number, name, told[-1])
            for number, (name, told) in enumerate(zip(kind.lines.values(), words, strict=True))
        ),
        fill('<span class="limit">{} {}</span>', called, kind.words(limit)) if limit else "",
        clock[-1],
        *(kind.words(top), kind.words(top / 2)),
        *(_WIDTH, _HEIGHT),
        _summary(kind, columns, clock),
        join(fill('<line class="grid" x1="0" x2="{}" y1="{}" y2="{}"/>', _WIDTH, y, y) for y in (0, 25, 50, 75)),
        fill('<line class="limit" x1="0" x2="{}" y1="{}" y2="{}"/>', _WIDTH, *(f"{height:.1f}",) * 2) if near else "",
        join(
            fill('<path class="line{}" d="{}"/>', number, _line(places, column, top))
            for number, column in enumerate(columns)
        ),
        *(len(clock) - 1, len(clock) - 1, kind.title),
        *(clock[0], clock[len(clock) // 2], clock[-1]),
    )


def _summary(kind: Kind, columns: Sequence[Sequence[float]], clock: Sequence[str]) -> str:
    """What a plot shows, for those who hear it."""
    found = []
    for name, column in zip(kind.lines.values(), columns, strict=True):
        highest = max(column)
        now = kind.words(column[-1]) if column[-1] >= 0 else "not known"
        most = f", at the most {kind.words(highest)} at {clock[column.index(highest)]}" if highest >= 0 else ""
        found.append(f"{name} now {now}{most}")
    return f"{kind.title} from {clock[0]} to {clock[-1]}: {'; '.join(found)}"


def _line(places: Sequence[float], values: Sequence[float], top: float) -> str:
    """A path through what is known; a gap where it is not, and a dot for what is known alone."""
    path, run = "", 0
    for place, value in zip(places, values, strict=True):
        if value < 0:
            path += "h0" if run == 1 else ""
            run = 0
            continue
        path += f"{'L' if run else 'M'}{_WIDTH * place:.1f},{_HEIGHT * (1 - value / top):.1f}"
        run += 1
    return path + ("h0" if run == 1 else "")


def spans(chosen: Span, link: str = "") -> Html:
    """Where to choose how far plots go back.

    Args:
        chosen: what is shown.
        link: part of the query, already quoted; "" for none.
    """
    here = Html(' aria-current="true"')
    return fill(
        '<p class="spans wide">The last {}</p>\n',
        join(
            fill(
                '<a href="?{}span={}"{}>{}</a>', f"{link}&" if link else "", span, here if span is chosen else "", words
            )
            for span, words in SPANS.items()
        ),
    )
